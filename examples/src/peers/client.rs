//! HTTP with nothing of the mesh in it, to speak to peers with.

use std::error::Error;
use std::net::SocketAddr;

use http::{Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

type BoxError = Box<dyn Error + Send + Sync>;

/// Asks `address` for `path`, by HTTP/1.1 over a connection of its own.
///
/// # Errors
/// If there is no answer. One that reports a failure is an answer.
pub async fn get(address: SocketAddr, path: &str) -> Result<Response<Bytes>, BoxError> {
    send(address, Request::get(path).body(Full::default())?).await
}

/// Sends `body` to `path` at `address`, by HTTP/1.1 over a connection of its own.
///
/// # Errors
/// If there is no answer. One that reports a failure is an answer.
pub async fn post(
    address: SocketAddr,
    path: &str,
    content_type: &str,
    body: impl Into<Bytes>,
) -> Result<Response<Bytes>, BoxError> {
    send(address, Request::post(path).header(header::CONTENT_TYPE, content_type).body(Full::new(body.into()))?).await
}

async fn send(address: SocketAddr, mut request: Request<Full<Bytes>>) -> Result<Response<Bytes>, BoxError> {
    request.headers_mut().insert(header::HOST, address.to_string().parse()?);
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the sender. Why it failed, if it did, the answer says.
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await?.into_parts();
    Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
}

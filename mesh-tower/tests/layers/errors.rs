//! What the default classifier says about errors of real clients over real sockets.

use std::net::SocketAddr;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_tower::core::classify::Failure;
use mesh_tower::core::grpc::Code;
use mesh_tower::layer::{ClassifyFailure, KnownErrors};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn client(http2: bool) -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).http2_only(http2).retry_canceled_requests(false).build_http()
}

async fn failure(http2: bool, address: impl std::fmt::Display) -> Failure {
    let request = Request::post(format!("http://{address}/")).body(Full::from("apple")).unwrap();
    let error = client(http2).request(request).await.unwrap_err();
    KnownErrors.classify(&error)
}

async fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn nobody_listens() {
    for http2 in [false, true] {
        assert_eq!(failure(http2, closed_port().await).await, Failure::Connect);
        assert_eq!(failure(http2, "nowhere.invalid:80").await, Failure::Connect, "no such name");
    }
}

/// Reads a request's first bytes, writes `answer` and closes.
async fn server(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 1024];
        assert!(stream.read(&mut buffer).await.unwrap() > 0);
        stream.write_all(answer).await.unwrap();
    });
    address
}

#[tokio::test]
async fn the_connection_breaks_before_the_response() {
    for answer in [&b""[..], b"HTTP/1.1 200 OK\r\ncontent-", b"it is no HTTP\r\n\r\n"] {
        assert_eq!(failure(false, server(answer).await).await, Failure::Reset(None), "{answer:?}");
    }
}

/// A peer that ends each stream with `reason`, or the connection if there is none.
async fn h2_server(reason: Option<h2::Reason>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_request, mut respond))) = connection.accept().await {
            match reason {
                Some(reason) => respond.send_reset(reason),
                None => return,
            }
        }
    });
    address
}

#[tokio::test]
async fn the_peer_resets_the_stream() {
    use h2::Reason;
    for (reason, expected) in [
        (Some(Reason::REFUSED_STREAM), Failure::Refused),
        (Some(Reason::ENHANCE_YOUR_CALM), Failure::Reset(Some(Code::ResourceExhausted))),
        (Some(Reason::INTERNAL_ERROR), Failure::Reset(Some(Code::Internal))),
        (Some(Reason::CANCEL), Failure::Reset(Some(Code::Cancelled))),
        (None, Failure::Reset(None)),
    ] {
        assert_eq!(failure(true, h2_server(reason).await).await, expected, "{reason:?}");
    }
}

/// hyper says of a request that is still in its queue that it was canceled.
#[tokio::test]
async fn the_connection_is_gone_before_the_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut send, connection) =
        hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await.unwrap();
    drop(connection);
    let error = send.send_request(Request::new(Full::from("apple"))).await.unwrap_err();
    assert_eq!(KnownErrors.classify(&error), Failure::NotSent, "{error:?}");
}

#[tokio::test]
async fn the_request_is_at_fault() {
    let address = server(b"").await;
    let client = Client::builder(TokioExecutor::new()).build_http();
    let error = client.request(Request::post(format!("http://{address}/")).body(Broken).unwrap()).await.unwrap_err();
    assert_eq!(KnownErrors.classify(&error), Failure::Local, "{error:?}");
}

/// A body that fails.
struct Broken;

impl http_body::Body for Broken {
    type Data = Bytes;
    type Error = std::fmt::Error;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, std::fmt::Error>>> {
        std::task::Poll::Ready(Some(Err(std::fmt::Error)))
    }
}

//! hyper's connections and nothing else: no pool that grows, no reconnect, no balancing but taking turns.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use examples::greeter::{HelloReply, HelloRequest};
use http::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue, TE};
use http::uri::Parts;
use http::{Method, Request, Response, Uri, Version};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;
use tonic::body::Body as TonicBody;

use super::{Call, Greeter, METHOD_PREFIX, NAME, Turn, read_to_end};
use crate::{Error, Result};

/// One h2 connection to each endpoint.
#[derive(Debug)]
struct Connections<B>(Turn<(Uri, http2::SendRequest<B>)>);

impl<B> Clone for Connections<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B> Connections<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Error>,
{
    async fn connect(endpoints: &[SocketAddr], path: &str) -> Result<Self> {
        let mut connections = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            let io = TokioIo::new(open(*endpoint).await?);
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            connections.push((format!("http://{endpoint}{path}").parse()?, sender));
        }
        Ok(Self(Turn::new(connections)))
    }

    fn next(&self) -> (Uri, http2::SendRequest<B>) {
        self.0.next().clone()
    }
}

async fn open(endpoint: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(endpoint).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// gRPC by hand over bare h2: one frame out, one frame and the trailers in.
#[derive(Debug, Clone)]
pub struct RawGrpc(Connections<Full<Bytes>>);

/// Connects to every endpoint for gRPC calls by hand.
///
/// # Errors
/// If a connection cannot be made.
pub async fn raw_grpc(endpoints: &[SocketAddr]) -> Result<RawGrpc> {
    Ok(RawGrpc(Connections::connect(endpoints, &format!("{METHOD_PREFIX}SayHello")).await?))
}

impl Call for RawGrpc {
    async fn call(&self) -> Result<()> {
        let (uri, mut sender) = self.0.next();
        let mut request = Request::new(Full::new(frame(&HelloRequest { name: NAME.to_owned(), count: 0 })?));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_2;
        request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let reply: HelloReply = read_grpc(sender.send_request(request).await?).await?;
        if reply.message == NAME { Ok(()) } else { Err("another greeting than asked for".into()) }
    }
}

fn frame(message: &impl Message) -> Result<Bytes> {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(5 + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length)?);
    message.encode(&mut frame)?;
    Ok(frame.freeze())
}

async fn read_grpc<M: Message + Default>(response: Response<Incoming>) -> Result<M> {
    let mut body = response.into_body();
    let mut message = None;
    let mut trailers = HeaderMap::new();
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            // The messages here are far smaller than a frame of h2 and arrive in one.
            Ok(mut data) if data.len() >= 5 => {
                data.advance(5);
                message = Some(M::decode(data)?);
            }
            Ok(_) => {}
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    match (trailers.get("grpc-status"), message) {
        (Some(status), Some(message)) if status == "0" => Ok(message),
        (status, _) => Err(format!("the call ended with status {status:?}").into()),
    }
}

/// The generated client over bare h2; hyper's future has no name, so each call boxes it.
#[derive(Debug, Clone)]
pub struct Channel(Connections<TonicBody>);

/// Connects to every endpoint and puts the generated client over it.
///
/// # Errors
/// If a connection cannot be made.
pub async fn generated(endpoints: &[SocketAddr]) -> Result<Greeter<Channel>> {
    Ok(Greeter::new(Channel(Connections::connect(endpoints, "").await?)))
}

impl tower::Service<Request<TonicBody>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<TonicBody>) -> Self::Future {
        let (target, mut sender) = self.0.next();
        let mut parts: Parts = target.into_parts();
        parts.path_and_query = request.uri().path_and_query().cloned();
        *request.uri_mut() = Uri::from_parts(parts).expect("scheme, authority and path are all there");
        Box::pin(sender.send_request(request))
    }
}

/// `GET` over bare h2.
#[derive(Debug, Clone)]
pub struct Http2(Connections<Empty<Bytes>>);

/// Connects to every endpoint for `GET` over h2.
///
/// # Errors
/// If a connection cannot be made.
pub async fn http2(endpoints: &[SocketAddr]) -> Result<Http2> {
    Ok(Http2(Connections::connect(endpoints, "/hello").await?))
}

impl Call for Http2 {
    async fn call(&self) -> Result<()> {
        let (uri, mut sender) = self.0.next();
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_2;
        read_to_end(sender.send_request(request).await?).await
    }
}

/// `GET` over bare h1: per endpoint a stack of idle connections under a lock, the least a pool can be.
#[derive(Debug, Clone)]
pub struct Http1(Turn<Http1Endpoint>);

#[derive(Debug)]
struct Http1Endpoint {
    address: SocketAddr,
    host: HeaderValue,
    idle: Arc<Mutex<Vec<http1::SendRequest<Empty<Bytes>>>>>,
}

/// An h1 client that connects when it has no idle connection.
///
/// # Errors
/// If an address is no host.
pub fn http1(endpoints: &[SocketAddr]) -> Result<Http1> {
    let endpoint = |address: &SocketAddr| {
        Ok(Http1Endpoint { address: *address, host: address.to_string().parse()?, idle: Arc::default() })
    };
    Ok(Http1(Turn::new(endpoints.iter().map(endpoint).collect::<Result<_>>()?)))
}

impl Http1Endpoint {
    async fn take(&self) -> Result<http1::SendRequest<Empty<Bytes>>> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(sender) = idle {
            return Ok(sender);
        }
        let (sender, connection) = http1::handshake(TokioIo::new(open(self.address).await?)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    fn put_back(&self, sender: http1::SendRequest<Empty<Bytes>>) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
    }
}

impl Call for Http1 {
    async fn call(&self) -> Result<()> {
        let endpoint = self.0.next();
        let mut sender = endpoint.take().await?;
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = Uri::from_static("/hello");
        request.headers_mut().insert(HOST, endpoint.host.clone());
        sender.ready().await?;
        read_to_end(sender.send_request(request).await?).await?;
        endpoint.put_back(sender);
        Ok(())
    }
}

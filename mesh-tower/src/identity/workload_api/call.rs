//! The one call: a connection, a request, and messages until the end.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{self, SendRequest};
use h2::{Ping, PingPong, RecvStream};
use http::header::{CONTENT_TYPE, HeaderValue, TE, USER_AGENT};
use http::{HeaderMap, Method, Request, Version};
use mesh_core::grpc::messages::{MessageError, Messages, framed};
use mesh_core::grpc::{self, Code, GRPC_MESSAGE};
use mesh_core::identity::X509SvidResponse;
use percent_encoding::percent_decode;
use tokio::time::{sleep, timeout};

use super::endpoint::Endpoint;

/// How long connecting, and then the way to the first message, may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_MESSAGE: Duration = Duration::from_secs(30);
/// How often a silent agent is asked whether it is there; servers of gRPC resent more than one such question in 5 min.
const PING_INTERVAL: Duration = Duration::from_secs(600);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// The longest message, in bytes, which is gRPC's default.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// The largest header block, in bytes.
const MAX_HEADER_LIST: u32 = 16 * 1024;
/// How much of the peer's words an error shows, in characters.
const MAX_SHOWN: usize = 200;
const AGENT: HeaderValue = HeaderValue::from_static(concat!("mesh-tower/", env!("CARGO_PKG_VERSION")));

/// Why there are no more messages.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("cannot be connected: {0}; is the agent running, and its socket mounted here?")]
    Connect(io::Error),
    #[error("{0}")]
    Silent(&'static str),
    #[error("the connection broke: {0}")]
    Http2(#[from] h2::Error),
    #[error("no identity is issued to this process so far ({0}); register the workload")]
    NotRegistered(String),
    /// The request is not understood: not worth another soon.
    #[error("the request was refused as malformed: {0}")]
    Refused(String),
    #[error("the call ended: {0}")]
    Status(String),
    #[error("{0}")]
    Message(#[from] MessageError),
    #[error("a message that is no answer of the Workload API")]
    Malformed,
    #[error("no gRPC is spoken there")]
    NotGrpc,
}

/// Makes the call and shows each message to `each`, until it ends or a message is malformed (`None`).
pub(super) async fn follow(endpoint: &Endpoint, each: impl FnMut(&[u8]) -> Option<()>) -> Ended {
    match call(endpoint, each).await {
        Ok(never) => match never {},
        Err(ended) => ended,
    }
}

/// What does not end well.
enum Never {}

async fn call(endpoint: &Endpoint, each: impl FnMut(&[u8]) -> Option<()>) -> Result<Never, Ended> {
    let late = |_| Ended::Connect(io::ErrorKind::TimedOut.into());
    let stream = timeout(CONNECT_TIMEOUT, endpoint.connect()).await.map_err(late)?.map_err(Ended::Connect)?;
    let mut builder = client::Builder::new();
    builder.enable_push(false).max_header_list_size(MAX_HEADER_LIST).max_concurrent_reset_streams(1);
    let (send, mut connection) = builder.handshake::<_, Bytes>(stream).await?;
    let pings = connection.ping_pong();
    let driving = async {
        let closed = connection.await;
        // The stream knows it, too, and what came before; should it not, this is the end.
        sleep(PING_TIMEOUT).await;
        Err(closed.err().map_or(Ended::Silent("the connection was closed"), Ended::from))
    };
    let (driving, exchange) = (pin!(driving), pin!(exchange(send, each)));
    tokio::select! {
        biased;
        ended = exchange => ended,
        ended = driving => ended,
        ended = watch(pings) => ended,
    }
}

async fn exchange(send: SendRequest<Bytes>, mut each: impl FnMut(&[u8]) -> Option<()>) -> Result<Never, Ended> {
    let silent = |_| Ended::Silent("no answer came within 30 s");
    let first = async {
        let mut body = open(send).await?;
        let message = body.next().await?;
        Ok::<_, Ended>((body, message))
    };
    let (mut body, mut message) = timeout(FIRST_MESSAGE, first).await.map_err(silent)??;
    loop {
        each(&message).ok_or(Ended::Malformed)?;
        message = body.next().await?;
    }
}

/// Sends the request and reads the head of the answer.
async fn open(send: SendRequest<Bytes>) -> Result<Body, Ended> {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    let uri = http::Uri::builder().scheme("http").authority("localhost").path_and_query(X509SvidResponse::METHOD);
    *request.uri_mut() = uri.build().expect("a constant that is one");
    let headers = request.headers_mut();
    headers.insert(X509SvidResponse::HEADER, HeaderValue::from_static("true"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(USER_AGENT, AGENT);
    let (response, mut stream) = send.ready().await?.send_request(request, false)?;
    stream.send_data(framed(&[]).unwrap_or_default(), true)?;
    let response = response.await?;
    let (head, stream) = response.into_parts();
    match grpc::code_of_head(head.status, &head.headers, stream.is_end_stream()) {
        Some(code) => Err(ended(code, &head.headers)),
        None if !grpc::is_grpc(&head.headers) => Err(Ended::NotGrpc),
        None => Ok(Body { stream, messages: Messages::new(MAX_MESSAGE) }),
    }
}

struct Body {
    stream: RecvStream,
    messages: Messages,
}

impl Body {
    /// The next message.
    async fn next(&mut self) -> Result<Bytes, Ended> {
        loop {
            if let Some(message) = self.messages.take()? {
                return Ok(message);
            }
            let Some(piece) = poll_fn(|cx| self.stream.poll_data(cx)).await else { break };
            let piece = piece?;
            self.messages.push(&piece);
            // An error means that the stream has ended meanwhile, which the next piece tells.
            let _ = self.stream.flow_control().release_capacity(piece.len());
        }
        self.messages.end()?;
        let trailers = poll_fn(|cx| self.stream.poll_trailers(cx)).await?.unwrap_or_default();
        Err(ended(grpc::status(&trailers).unwrap_or(Code::Unknown), &trailers))
    }
}

/// What `code` means here (SPIFFE Workload API, appendix A).
fn ended(code: Code, headers: &HeaderMap) -> Ended {
    let message = headers.get(GRPC_MESSAGE).map(|message| percent_decode(message.as_bytes()).decode_utf8_lossy());
    let message: String =
        message.unwrap_or_default().chars().filter(|char| !char.is_control()).take(MAX_SHOWN).collect();
    let text = if message.is_empty() { code.name().to_owned() } else { format!("{}: {message}", code.name()) };
    match code {
        Code::PermissionDenied => Ended::NotRegistered(text),
        Code::InvalidArgument => Ended::Refused(text),
        _ => Ended::Status(text),
    }
}

/// Ends when the peer does not answer any more.
async fn watch(pings: Option<PingPong>) -> Result<Never, Ended> {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        sleep(PING_INTERVAL).await;
        match timeout(PING_TIMEOUT, pings.ping(Ping::opaque())).await {
            Ok(pong) => _ = pong?,
            Err(_) => return Err(Ended::Silent("the agent does not answer any more")),
        }
    }
}

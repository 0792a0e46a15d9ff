//! A plain hyper client: what it sees, anybody does.

use std::error::Error;

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_tower::Io;
use mesh_tower::testing::{BackendBuilder, MemoryNetwork, Payload, TestBackend, empty, full};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

pub(crate) const BOTH: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

/// Where a backend is.
pub(crate) struct Place {
    pub(crate) backend: TestBackend,
    network: Option<MemoryNetwork>,
}

impl Place {
    /// In memory, and on a loopback port.
    pub(crate) fn each(backend: impl Fn() -> BackendBuilder) -> [Self; 2] {
        [Self::in_memory(backend()), Self { backend: backend().start(), network: None }]
    }

    pub(crate) fn in_memory(backend: BackendBuilder) -> Self {
        let network = MemoryNetwork::new();
        Self { backend: backend.start_in(&network), network: Some(network) }
    }

    pub(crate) async fn stream(&self) -> std::io::Result<Box<dyn Io>> {
        let address = self.backend.address();
        Ok(match &self.network {
            Some(network) => Box::new(network.connect(address)?),
            None => Box::new(TcpStream::connect(address).await?),
        })
    }

    pub(crate) async fn client(&self, version: Version) -> Client {
        Client::new(version, self.stream().await.unwrap()).await
    }
}

enum Sender {
    H1(http1::SendRequest<Payload>),
    H2(http2::SendRequest<Payload>),
}

/// One connection.
pub(crate) struct Client {
    sender: Sender,
    connection: JoinHandle<Result<(), hyper::Error>>,
}

impl Client {
    async fn new(version: Version, io: impl Io) -> Self {
        let io = TokioIo::new(io);
        if version == Version::HTTP_2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
            Self { sender: Sender::H2(sender), connection: tokio::spawn(connection) }
        } else {
            let (sender, connection) = http1::handshake(io).await.unwrap();
            Self { sender: Sender::H1(sender), connection: tokio::spawn(connection) }
        }
    }

    pub(crate) async fn send(&mut self, request: Request<Payload>) -> Result<Response<Incoming>, hyper::Error> {
        match &mut self.sender {
            Sender::H1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::H2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }

    pub(crate) async fn get(&mut self) -> Result<Response<Incoming>, hyper::Error> {
        self.send(Request::get("http://test/").header("host", "test").body(empty()).unwrap()).await
    }

    pub(crate) async fn post(&mut self, body: &'static str) -> Result<Response<Incoming>, hyper::Error> {
        self.send(Request::post("http://test/").header("host", "test").body(full(body)).unwrap()).await
    }

    /// How many requests may be sent at once over HTTP/2; the sender can be cloned.
    pub(crate) fn another(&self) -> http2::SendRequest<Payload> {
        match &self.sender {
            Sender::H2(sender) => sender.clone(),
            Sender::H1(_) => panic!("one request at once"),
        }
    }

    /// Resolves when the connection is gone.
    pub(crate) async fn closed(self) -> Result<(), hyper::Error> {
        // hyper keeps a connection as long as somebody may use it.
        drop(self.sender);
        self.connection.await.unwrap()
    }
}

pub(crate) async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().into()).unwrap()
}

/// What came of a body before it broke, and why it did.
pub(crate) async fn broken(response: Response<Incoming>) -> (Bytes, hyper::Error) {
    let mut body = response.into_body();
    let mut all = Vec::new();
    loop {
        match body.frame().await.expect("the body should break, and ends") {
            Ok(frame) => all.extend(frame.into_data().unwrap()),
            Err(error) => return (all.into(), error),
        }
    }
}

/// The error of h2 in the chain of causes.
pub(crate) fn h2_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a h2::Error> {
    error.downcast_ref().or_else(|| h2_error(error.source()?))
}

/// The reason of a RST_STREAM in the chain of causes.
pub(crate) fn reset_reason(error: &(dyn Error + 'static)) -> Option<h2::Reason> {
    h2_error(error).filter(|error| error.is_reset() && error.is_remote())?.reason()
}

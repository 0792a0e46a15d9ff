//! Servers to be called.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, Weak};

use http::Request;
use http_body_util::BodyExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::fault::Fault;
use super::network::{self, Listen, MemoryNetwork, MemoryStream};
use super::port::Port;
use super::reply::Reply;
use super::request::{Log, ReceivedRequest, RequestBody};
use super::script::Script;
use super::server::{Handler, Server};
use super::watched_for;
use crate::net::Io;

/// How many streams a client may have on a connection at once, where the test says nothing.
const MAX_CONCURRENT_STREAMS: u32 = 200;

/// A server inside the test's process that speaks HTTP/1.1 and HTTP/2 (by prior knowledge) in plaintext, records what
/// it sees, and fails when and as it is told.
///
/// It answers 200 with its [name](Self::named), or as a [handler](Self::handling) says, over a [`MemoryNetwork`] or a
/// loopback port. What goes wrong is scripted by [`set`](Self::set) and [`fail_next`](Self::fail_next), while it runs,
/// or by the handler for single requests ([`Reply`]). It ends, with its connections, when it is dropped.
///
/// ```
/// use mesh_tower::testing::{Fault, MemoryNetwork, ServiceConfig, TestBackend};
/// use mesh_tower::ErrorKind;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), mesh_tower::Error> {
/// let network = MemoryNetwork::new();
/// let backend = TestBackend::named("v1").start_in(&network);
/// let mesh = ServiceConfig::new("catalog", [backend.address()]).mesh_over(&network).await;
///
/// let response = mesh.http_client().get("http://catalog/items").await?;
/// assert_eq!(response.into_body().string().await?, "v1");
/// assert_eq!(backend.requests()[0].head.uri, "/items");
///
/// backend.set(Fault::Refused);
/// let error = mesh.http_client().get("http://catalog/items").await.unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::NoHealthyEndpoint);
///
/// mesh.end().await;
/// # Ok(())
/// # }
/// ```
pub struct TestBackend {
    address: SocketAddr,
    server: Arc<Server>,
    /// `None`: it listens in memory.
    port: Option<Arc<Port>>,
}

impl TestBackend {
    /// One that reads requests to their end and answers 200 with `name`.
    pub fn named(name: impl Into<String>) -> BackendBuilder {
        let name = name.into();
        Self::handling(move |request| {
            let name = name.clone();
            async move {
                // Who breaks off gets no answer anyway.
                let _ = request.into_body().collect().await;
                name
            }
        })
    }

    /// One that answers as `handler` says: anything that is a [`Reply`]. A handler runs until it ends or the client
    /// gives up.
    ///
    /// ```
    /// use http::{Request, StatusCode};
    /// use mesh_tower::testing::{Reply, RequestBody, TestBackend};
    ///
    /// let backend = TestBackend::handling(|request: Request<RequestBody>| async move {
    ///     match request.uri().path() {
    ///         "/items" => Reply::from("[]"),
    ///         _ => StatusCode::NOT_FOUND.into(),
    ///     }
    /// });
    /// ```
    pub fn handling<F, Fut>(handler: F) -> BackendBuilder
    where
        F: Fn(Request<RequestBody>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: Into<Reply>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let handler: Handler = Arc::new(move |request| {
            let answer = handler(request);
            Box::pin(async move { answer.await.into() })
        });
        BackendBuilder { handler, address: None, max_concurrent_streams: MAX_CONCURRENT_STREAMS }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Does `fault` from now on, with every connection or request, until [`recover`](Self::recover) or another `set`.
    pub fn set(&self, fault: Fault) {
        self.server.script.set(Some(fault));
        self.apply(fault);
    }

    /// Does `fault` with the next `count` requests, or, if it is a fault of connections, with the next `count`
    /// connections. Calls add up, first come, first served, and go before what was [set](Self::set).
    ///
    /// # Panics
    /// If it is [`Fault::Refused`] and a loopback port: the kernel refuses connections without telling, so nobody can
    /// count them.
    pub fn fail_next(&self, count: usize, fault: Fault) {
        assert!(
            self.port.is_none() || fault != Fault::Refused,
            "a loopback port cannot count what it refuses; use a MemoryNetwork, or `set(Fault::Refused)`"
        );
        self.server.script.add(count, fault);
        self.apply(fault);
    }

    fn apply(&self, fault: Fault) {
        if let Some(port) = &self.port {
            port.open_if(!self.server.script.is_down());
        }
        if fault.is_of_connections() {
            self.server.disconnect();
        }
    }

    /// Forgets every fault, listens again where it was [down](Fault::Refused), and [releases](Self::release) what is
    /// held.
    ///
    /// # Panics
    /// If somebody else has taken its loopback port, which it keeps bound while it is down.
    pub fn recover(&self) {
        self.server.script.clear();
        if let Some(port) = &self.port {
            port.open_if(true);
        }
        self.release();
    }

    /// Lets go whatever is held now: [stalled](Fault::Stall) requests are answered, [slow bodies](Fault::SlowBody) end
    /// at once. What comes later is held again. Await [`arrived`](Self::arrived) before: a request that is still on its
    /// way is not held yet.
    pub fn release(&self) {
        self.server.script.release();
    }

    /// Lets one more chunk of every [slow body](Fault::SlowBody) go; those that are ahead of a body's reader are kept
    /// for it.
    pub fn release_chunk(&self) {
        self.server.script.release_chunk();
    }

    /// Closes the connections that are open, whatever is on them, at once. Further ones are accepted.
    pub fn disconnect(&self) {
        self.server.disconnect();
    }

    /// Serves `stream`, a connection that was made elsewhere: through TLS, for example.
    pub fn serve(&self, stream: impl Io) {
        let fault = self.server.script.for_connection();
        self.server.spawn(stream, fault);
    }

    /// All requests so far, in the order in which their heads arrived.
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.server.log.all()
    }

    /// The only request.
    ///
    /// # Panics
    /// If there is none, or more than one; the text lists them.
    #[track_caller]
    pub fn only_request(&self) -> ReceivedRequest {
        let mut all = self.requests();
        assert_eq!(all.len(), 1, "one request should have arrived; these did:{}", listed(&all));
        all.remove(0)
    }

    /// How many requests have arrived so far.
    pub fn request_count(&self) -> usize {
        *self.server.log.count().borrow()
    }

    /// Resolves when `count` requests have arrived: their heads were read. Returns the last of them as it is then.
    ///
    /// # Panics
    /// If that takes for ever (see [`watched`](super::watched)); the text lists what has arrived.
    pub async fn arrived(&self, count: usize) -> ReceivedRequest {
        let mut arrived = self.server.log.count();
        let text = || format!("request {count} has not arrived; these have:{}", listed(&self.requests()));
        reach(&mut arrived, |now| now >= count, text).await;
        self.requests().remove(count.saturating_sub(1))
    }

    /// How many connections it has accepted so far.
    pub fn connections(&self) -> usize {
        *self.server.accepted.borrow()
    }

    /// How many of them are open.
    pub fn open_connections(&self) -> usize {
        *self.server.open.borrow()
    }

    /// Resolves when it has accepted `count` connections.
    ///
    /// # Panics
    /// If that takes for ever (see [`watched`](super::watched)).
    pub async fn connected(&self, count: usize) {
        let mut accepted = self.server.accepted.subscribe();
        let text = || format!("{count} connections were awaited, {} were made", self.connections());
        reach(&mut accepted, |now| now >= count, text).await;
    }

    /// Resolves when no connection is open.
    ///
    /// # Panics
    /// If that takes for ever (see [`watched`](super::watched)).
    pub async fn deserted(&self) {
        let mut open = self.server.open.subscribe();
        let text = || format!("{} connections are still open", self.open_connections());
        reach(&mut open, |now| now == 0, text).await;
    }
}

async fn reach(value: &mut watch::Receiver<usize>, enough: impl Fn(usize) -> bool, text: impl FnOnce() -> String) {
    let reached = watched_for(value.wait_for(|now| enough(*now)), text).await;
    reached.expect("the backend holds the sender");
}

fn listed(requests: &[ReceivedRequest]) -> String {
    if requests.is_empty() {
        return " none".to_owned();
    }
    let line = |request: &ReceivedRequest| format!("\n  {} {}", request.head.method, request.head.uri);
    requests.iter().map(line).collect()
}

impl Drop for TestBackend {
    fn drop(&mut self) {
        self.server.ended.cancel();
        if let Some(port) = &self.port {
            port.close();
        }
    }
}

impl fmt::Debug for TestBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestBackend")
            .field("address", &self.address)
            .field("connections", &self.connections())
            .field("requests", &self.request_count())
            .finish_non_exhaustive()
    }
}

/// A [`TestBackend`] that does not listen yet.
#[must_use = "it listens once it is started"]
pub struct BackendBuilder {
    handler: Handler,
    address: Option<SocketAddr>,
    max_concurrent_streams: u32,
}

impl BackendBuilder {
    /// Listens at `address`. Default: one that is free.
    pub fn at(mut self, address: SocketAddr) -> Self {
        self.address = Some(address);
        self
    }

    /// Allows `streams` at once on an HTTP/2 connection. Default 200.
    pub fn max_concurrent_streams(mut self, streams: u32) -> Self {
        self.max_concurrent_streams = streams;
        self
    }

    /// Listens in `network`.
    ///
    /// # Panics
    /// If somebody listens at the address already.
    pub fn start_in(self, network: &MemoryNetwork) -> TestBackend {
        let address = self.address.unwrap_or_else(|| network.unused_address());
        let server = self.server();
        network.register(address, Arc::downgrade(&server));
        TestBackend { address, server, port: None }
    }

    /// Listens on a port of 127.0.0.1.
    ///
    /// # Panics
    /// Outside of a tokio runtime, or if the port cannot be bound.
    pub fn start(self) -> TestBackend {
        let address = self.address.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, 0).into());
        let server = self.server();
        let port = Arc::new(Port::open(address));
        tokio::spawn(accept(Arc::clone(&port), Arc::clone(&server)));
        TestBackend { address: port.address, server, port: Some(port) }
    }

    fn server(self) -> Arc<Server> {
        let ended = CancellationToken::new();
        Arc::new(Server {
            handler: self.handler,
            max_concurrent_streams: self.max_concurrent_streams,
            script: Script::default(),
            log: Log::default(),
            accepted: watch::Sender::new(0),
            open: watch::Sender::new(0),
            connections: Mutex::new(ended.child_token()),
            ended,
        })
    }
}

impl fmt::Debug for BackendBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendBuilder").field("address", &self.address).finish_non_exhaustive()
    }
}

/// In memory, a connection is served, or refused, where it is made.
impl Listen for Weak<Server> {
    fn connect(&self) -> io::Result<MemoryStream> {
        let server = self.upgrade().filter(|server| !server.ended.is_cancelled()).ok_or_else(network::refused)?;
        let fault = server.script.for_connection();
        if fault == Some(Fault::Refused) {
            return Err(network::refused());
        }
        let (near, far) = network::pair();
        server.spawn(far, fault);
        Ok(near)
    }

    fn is_open(&self) -> bool {
        self.upgrade().is_some_and(|server| !server.ended.is_cancelled())
    }
}

async fn accept(port: Arc<Port>, server: Arc<Server>) {
    let accepting = async {
        loop {
            let stream = port.accept().await;
            // Without it small answers wait for the peer's delayed acknowledgements.
            let _ = stream.set_nodelay(true);
            let fault = server.script.for_connection();
            server.spawn(stream, fault);
        }
    };
    server.ended.run_until_cancelled(accepting).await;
}

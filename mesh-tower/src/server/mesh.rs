//! What a mesh has for servers.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use mesh_core::model::Listen;
use tokio::net::TcpListener;
use tower_layer::Layer;
use tower_service::Service;

use super::acceptor::Acceptor;
use super::incoming::Incoming;
use super::layer::{RequestBody, ServerLayer};
use super::listener::{Accept, ListenError, Listener};
use super::readiness::{Readiness, ReadinessWatch};
use super::serve::{self, Drained};
use super::state::{DEFAULT, Phase, ServerState};
use crate::error::BoxError;
use crate::mesh::Mesh;
use crate::observe::TARGET;

/// Servers.
impl Mesh {
    /// Listens where the server `name` of the configuration does.
    ///
    /// # Errors
    /// If the configuration has no such server, it has no address, or one of its addresses cannot be listened on.
    pub async fn listener(&self, name: &str) -> Result<Listener, ListenError> {
        Listener::bind(self.server(name)?).await
    }

    /// Listens on `address` as the server `default` of the configuration, or by the defaults if there is none of that
    /// name: strict where this process has an identity, else in plaintext.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub async fn bind(&self, address: SocketAddr) -> Result<Listener, ListenError> {
        Listener::bind_to(self.server(DEFAULT)?, &[Listen::Socket(address)]).await
    }

    /// The servers that the configuration has.
    pub fn server_names(&self) -> Vec<Arc<str>> {
        self.handle.core.snapshot.load().servers().keys().cloned().collect()
    }

    /// Has `listener` served as the server `name` of the configuration, whatever addresses that has.
    ///
    /// # Errors
    /// If the configuration has no such server.
    pub fn adopt(&self, name: &str, listener: TcpListener) -> Result<Listener, ListenError> {
        Ok(Listener::tcp(self.server(name)?, listener))
    }

    /// As [`adopt`](Self::adopt), for connections that are neither TCP nor Unix sockets of this process.
    ///
    /// # Errors
    /// If the configuration has no such server.
    pub fn adopt_accept(&self, name: &str, accept: impl Accept) -> Result<Listener, ListenError> {
        Ok(Listener::custom(self.server(name)?, accept))
    }

    /// Lets connections in as the server `name` of the configuration does, for an accept loop of your own.
    ///
    /// # Errors
    /// If the configuration has no such server.
    pub fn acceptor(&self, name: &str) -> Result<Acceptor, ListenError> {
        Ok(Acceptor::lent(self.server(name)?))
    }

    /// Serves HTTP/1.1 and HTTP/2 on all that `listener` accepts: an axum `Router`, tonic `Routes`, or any other
    /// service. Ends once the mesh has [drained](Self::drain).
    ///
    /// An error of the service ends its connection, over HTTP/2 its stream. Dropping the future ends all connections.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::convert::Infallible;
    ///
    /// use http::{Request, Response};
    /// use mesh_tower::Mesh;
    /// use tower::service_fn;
    ///
    /// let mesh = Mesh::from_env().await?;
    /// mesh.drain_on_signals();
    /// let hello = service_fn(async |_: Request<_>| Ok::<_, Infallible>(Response::new("hello".to_owned())));
    /// mesh.serve(mesh.listener("public").await?, hello).await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn serve<S, B>(&self, listener: Listener, service: S) -> impl Future<Output = Drained> + Send + use<S, B>
    where
        S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let layer = ServerLayer::new(Arc::clone(&listener.state));
        serve::serve(self.clone(), listener, layer.layer(service))
    }

    /// The connections of `listener`, let in as its server does, for `axum::serve`, tonic's `serve_with_incoming` or a loop
    /// of your own. Put [`server_layer`](Self::server_layer) around the service: it enforces what concerns requests.
    pub fn incoming(&self, listener: Listener) -> Incoming {
        Incoming::new(listener)
    }

    /// What concerns requests of the server `name`, as a layer: for frameworks that bring their own accept loop.
    /// [`serve`](Self::serve) has it in it.
    ///
    /// # Errors
    /// If the configuration has no such server.
    pub fn server_layer(&self, name: &str) -> Result<ServerLayer, ListenError> {
        Ok(ServerLayer::new(self.server(name)?))
    }

    /// Resolves once the servers of this mesh begin to drain.
    pub fn draining(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut phase = self.handle.core.servers.phases();
        async move {
            // An error means that the mesh is gone.
            let _ = phase.wait_for(|phase| *phase >= Phase::Draining).await;
        }
    }

    /// Ends the servers of this mesh without losing a request, and waits until they have ended.
    ///
    /// 1. The mesh is [not ready](Self::is_ready) any more, and the servers go on to accept for their `delay`: until then
    ///    others have not heard of it.
    /// 2. They stop to accept. HTTP/2 connections get a `GOAWAY`, HTTP/1.1 connections are closed behind their next
    ///    response, which says so; requests under way go on for the `grace` of their server.
    /// 3. What is left is cut.
    ///
    /// A connection that a handler upgraded to another protocol counts as a request under way: the handler may
    /// wait for [`draining`](Self::draining) to end it in time.
    ///
    /// The clients of the mesh go on: requests under way may need them.
    pub async fn drain(&self) {
        self.start_drain();
        self.handle.core.servers.ended().await;
    }

    /// Begins to [drain](Self::drain), without waiting for the end.
    pub fn start_drain(&self) {
        self.handle.core.servers.advance(Phase::Draining);
    }

    /// Cuts all connections of the servers of this mesh, whatever is under way.
    pub fn force_drain(&self) {
        self.handle.core.servers.advance(Phase::Forced);
    }

    /// Whether this process is ready for requests: nothing keeps it from being [ready](Self::readiness).
    pub fn is_ready(&self) -> bool {
        self.readiness().is_ready()
    }

    /// Whether this process is ready for requests, and if not, why: what a readiness probe asks for.
    ///
    /// It is ready while a configuration is in force, the certificate that it asks for is there and has not expired,
    /// every server with an address in the configuration is [served](Self::serve), and the mesh does not
    /// [drain](Self::drain). A newer configuration that is refused does not count, nor do the services that are called.
    pub fn readiness(&self) -> Readiness {
        self.handle.core.readiness()
    }

    /// Follows [`readiness`](Self::readiness). It does not keep the mesh alive.
    pub fn watch_readiness(&self) -> ReadinessWatch {
        ReadinessWatch::new(&self.handle.core)
    }

    /// Drains at SIGTERM or SIGINT (where there are none: Ctrl-C), and ends at once at a second one.
    ///
    /// The signals no longer end the process: it ends when `main` returns, such as behind [`serve`](Self::serve). What
    /// cannot be listened to is told to the log.
    pub fn drain_on_signals(&self) {
        let mut signals = match Signals::listen() {
            Ok(signals) => signals,
            Err(error) => {
                tracing::error!(target: TARGET, %error, "signals cannot be listened to: the servers will not drain");
                return;
            }
        };
        let handle = Arc::downgrade(&self.handle);
        self.handle.core.shared.tasks.spawn_until_stop(async move {
            for phase in [Phase::Draining, Phase::Forced] {
                signals.next().await;
                let Some(handle) = handle.upgrade() else { return };
                handle.core.servers.advance(phase);
            }
        });
    }

    pub(crate) fn server(&self, name: &str) -> Result<Arc<ServerState>, ListenError> {
        let core = &self.handle.core;
        let snapshot = core.snapshot.load();
        core.servers.get(name, &snapshot).ok_or_else(|| ListenError::UnknownServer {
            name: name.into(),
            known: snapshot.servers().keys().cloned().collect(),
        })
    }
}

#[cfg(unix)]
struct Signals(tokio::signal::unix::Signal, tokio::signal::unix::Signal);

#[cfg(unix)]
impl Signals {
    fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self(signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        // An error means that there never will be one.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

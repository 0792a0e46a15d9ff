//! The accept loop, and the way out.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service;

use super::acceptor::Acceptor;
use super::connection::{self, Leaving};
use super::listener::{Arrival, BACKLOG, Listener};
use super::state::{Phase, ServerState};
use crate::error::BoxError;
use crate::mesh::Mesh;
use crate::net::after;
use crate::observe::TARGET;

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// Connections that still had requests, or did not leave, when the grace was over or a second signal came.
    pub cut: usize,
}

/// Serves `service` to whoever `listener` accepts, until the mesh drains.
pub(crate) async fn serve<S, B>(mesh: Mesh, listener: Listener, service: S) -> Drained
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let _running = listener.state.running.token();
    let _served = listener.state.serve();
    let drained = run(listener, service).await;
    drop(mesh);
    drained
}

/// As [`serve`], until the server of `listener` drains, whatever the mesh does.
pub(crate) async fn run<S, B>(mut listener: Listener, service: S) -> Drained
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let state = Arc::clone(&listener.state);
    let serving = Serving::new(Arc::clone(&state), listener.is_grpc);
    let (arrivals, taking, served) = (&mut listener, &serving, service.clone());
    let accepting = async move {
        loop {
            let arrival = arrivals.accept().await;
            taking.take(arrival, served.clone());
        }
    };
    tokio::select! {
        () = accepting => {}
        () = no_longer_accepting(&state) => {}
    }
    // Who is connected already would be reset with the socket. Whoever connects from now on goes elsewhere.
    for _ in 0..BACKLOG {
        let Some(arrival) = listener.accept_now().await else { break };
        serving.take(arrival, service.clone());
    }
    drop(listener);
    serving.end().await
}

/// Resolves once the server is to accept no more connections, and tells the log of it beforehand.
pub(super) async fn no_longer_accepting(state: &ServerState) {
    let mut phase = state.phase.clone();
    // An error means that the mesh is gone.
    let _ = phase.wait_for(|phase| *phase >= Phase::Draining).await;
    let delay = state.settings().server.drain.delay;
    tracing::info!(target: TARGET, server = &*state.name, ?delay, "the server drains");
    draining(state).await;
}

/// Resolves once the server is to accept no more connections: when it drains, and its delay is over.
pub(super) async fn draining(state: &ServerState) {
    let mut phase = state.phase.clone();
    let _ = phase.wait_for(|phase| *phase >= Phase::Draining).await;
    let delay = state.settings().server.drain.delay;
    tokio::select! {
        () = sleep(delay) => {}
        () = forced(state) => {}
    }
}

/// Resolves once everything is to end.
pub(super) async fn forced(state: &ServerState) {
    let mut phase = state.phase.clone();
    let _ = phase.wait_for(|phase| *phase == Phase::Forced).await;
}

/// The connections of an accept loop.
struct Serving {
    acceptor: Acceptor,
    leaving: Leaving,
    connections: TaskTracker,
}

impl Serving {
    fn new(state: Arc<ServerState>, is_grpc: bool) -> Self {
        let leaving = Leaving { gracefully: CancellationToken::new(), now: CancellationToken::new() };
        Self { acceptor: Acceptor::new(state, is_grpc), leaving, connections: TaskTracker::new() }
    }

    /// Serves a connection, on a task of its own.
    fn take<S, B>(&self, arrival: Arrival, service: S)
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let Some(place) = self.acceptor.admit(&arrival) else { return };
        let (acceptor, leaving, counted) = (self.acceptor.clone(), self.leaving.clone(), self.connections.token());
        self.acceptor.state().shared.tasks.spawn(async move {
            let _counted = counted;
            let began = Instant::now();
            // In a box of its own: it is over long before the connection is.
            let accepted = tokio::select! {
                accepted = Box::pin(acceptor.let_in(arrival, place, began, &leaving.gracefully)) => accepted,
                () = leaving.now.cancelled() => None,
            };
            if let Some(stream) = accepted {
                connection::serve(stream, acceptor.state(), service, began, &leaving).await;
            }
        });
    }

    /// Lets the connections end, then ends them.
    async fn end(self) -> Drained {
        let state = self.acceptor.state();
        self.connections.close();
        self.leaving.gracefully.cancel();
        let grace = state.settings().server.drain.grace;
        let until = after(Instant::now(), grace);
        tokio::select! {
            () = self.connections.wait() => {}
            () = sleep_until(until) => {}
            () = forced(state) => {}
        }
        let cut = self.connections.len();
        if cut > 0 {
            tracing::warn!(target: TARGET, server = &*state.name, connections = cut, "the server cuts what did not end");
        }
        self.leaving.now.cancel();
        self.connections.wait().await;
        Drained { cut }
    }
}

impl Drop for Serving {
    /// Whoever drops the future of a server wants it to end.
    fn drop(&mut self) {
        self.leaving.now.cancel();
    }
}

//! Connections that were let in, for servers that bring their own HTTP.

use std::fmt;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::acceptor::{Acceptor, PARTING};
use super::listener::{Arrival, BACKLOG, Listener};
use super::serve::{forced, no_longer_accepting};
use super::state::ServerState;
use super::stream::ServerStream;

/// How many connections may wait, let in, until they are asked for.
const WAITING: usize = 128;

/// Connections that were let in as a server of the mesh lets them in, one after the other: for `axum::serve`, for tonic's
/// `serve_with_incoming`, or for an accept loop of your own. Made by [`Mesh::incoming`](crate::Mesh::incoming).
///
/// TLS handshakes run beside one another, never inside of [`accept`](Self::accept). It ends when the mesh
/// [drains](crate::Mesh::drain), the server's delay is over, and all that had connected by then is handed over: tell the
/// framework to shut down gracefully once [`draining`](Self::draining) resolves.
pub struct Incoming {
    state: Arc<ServerState>,
    connections: mpsc::Receiver<ServerStream>,
    local: Option<SocketAddr>,
    /// Until all of them are served; `None`: they are.
    end: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
    /// It accepts no more.
    closed: CancellationToken,
    /// Connections that nobody has read from so far, but for us.
    fresh: TaskTracker,
    dropped: CancellationToken,
}

/// What lets connections in, and hands them over.
struct Hall {
    acceptor: Acceptor,
    sender: mpsc::Sender<ServerStream>,
    closed: CancellationToken,
    fresh: TaskTracker,
    dropped: CancellationToken,
}

impl Hall {
    /// Lets a connection in, on a task of its own.
    fn take(&self, arrival: Arrival) {
        let Some(place) = self.acceptor.admit(&arrival) else { return };
        let (acceptor, sender) = (self.acceptor.clone(), self.sender.clone());
        let (closed, dropped) = (self.closed.clone(), self.dropped.clone());
        let (running, fresh) = (acceptor.state().running.token(), self.fresh.token());
        self.acceptor.state().shared.tasks.spawn(async move {
            let _running = running;
            let hand_over = async {
                if let Some(stream) = acceptor.let_in(arrival, place, Instant::now(), &closed).await {
                    let mut stream = stream.watched(acceptor.state());
                    stream.fresh = Some(fresh);
                    // Nobody takes it any more.
                    let _ = sender.send(stream).await;
                }
            };
            dropped.run_until_cancelled(hand_over).await;
        });
    }
}

impl Incoming {
    pub(crate) fn new(mut listener: Listener) -> Self {
        let (sender, connections) = mpsc::channel(WAITING);
        let local = listener.local_address();
        let (closed, dropped, fresh) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        fresh.close();
        let state = Arc::clone(&listener.state);
        let acceptor = Acceptor::new(Arc::clone(&state), listener.is_grpc);
        let (running, served) = (state.running.token(), state.serve());
        let (gone, serving) = (dropped.clone(), Arc::clone(&state));
        let hall = Hall { acceptor, sender, closed: closed.clone(), fresh: fresh.clone(), dropped: dropped.clone() };
        state.shared.tasks.clone().spawn(async move {
            let closing = hall.closed.clone().drop_guard();
            let accepting = async {
                loop {
                    let arrival = listener.accept().await;
                    hall.take(arrival);
                }
            };
            tokio::select! {
                () = accepting => {}
                () = no_longer_accepting(&serving) => {}
                () = gone.cancelled() => {}
            }
            // Who is connected already would be reset with the socket.
            for _ in 0..BACKLOG {
                let Some(arrival) = listener.accept_now().await else { break };
                hall.take(arrival);
            }
            drop((listener, running, served, closing));
        });
        let mut incoming = Self { state, connections, local, end: None, closed, fresh, dropped };
        incoming.end = Some(Box::pin(incoming.draining()));
        incoming
    }

    /// The next connection; `None` once the mesh drains and [`draining`](Self::draining) has resolved.
    pub async fn accept(&mut self) -> Option<ServerStream> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// As [`accept`](Self::accept), for whoever polls.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<ServerStream>> {
        let connection = std::task::ready!(self.connections.poll_recv(cx));
        // A framework may take the end of the connections for the sign to shut down.
        if let (None, Some(end)) = (&connection, &mut self.end) {
            std::task::ready!(end.as_mut().poll(cx));
            self.end = None;
        }
        Poll::Ready(connection)
    }

    /// Resolves once it accepts no more, because the mesh drains, and whoever had connected is served: the framework reads
    /// from all of their connections. For its graceful shutdown, which would close them unread. Those that take longer
    /// than 5 s to be let in, or to be asked something, are not waited for.
    ///
    /// ```no_run
    /// # #[cfg(feature = "axum")]
    /// # async fn run(mesh: mesh_tower::Mesh, router: axum::Router) -> Result<(), Box<dyn std::error::Error>> {
    /// let incoming = mesh.incoming(mesh.listener("public").await?);
    /// let draining = incoming.draining();
    /// let router = router.layer(mesh.server_layer("public")?);
    /// let service = router.into_make_service_with_connect_info::<mesh_tower::server::Caller>();
    /// axum::serve(incoming, service).with_graceful_shutdown(draining).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn draining(&self) -> impl Future<Output = ()> + Send + Sync + use<> {
        let (state, fresh) = (Arc::clone(&self.state), self.fresh.clone());
        let (closed, dropped) = (self.closed.clone(), self.dropped.clone());
        async move {
            let served = async {
                closed.cancelled().await;
                tokio::select! {
                    () = fresh.wait() => {}
                    () = sleep(PARTING) => {}
                    () = forced(&state) => {}
                }
            };
            dropped.run_until_cancelled(served).await;
        }
    }

    /// The first TCP address it listens on.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.local
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("server", &self.state.name)
            .field("address", &self.local)
            .finish_non_exhaustive()
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.dropped.cancel();
    }
}

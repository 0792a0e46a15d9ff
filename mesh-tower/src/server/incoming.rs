//! Connections that were let in, for servers that bring their own HTTP.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::acceptor::Acceptor;
use super::listener::Listener;
use super::serve::{draining, no_longer_accepting};
use super::state::ServerState;
use super::stream::ServerStream;

/// How many connections may wait, let in, until they are asked for.
const WAITING: usize = 128;

/// Connections that were let in as a server of the mesh lets them in, one after the other: for `axum::serve`, for tonic's
/// `serve_with_incoming`, or for an accept loop of your own. Made by [`Mesh::incoming`](crate::Mesh::incoming).
///
/// TLS handshakes run beside one another, never inside of [`accept`](Self::accept). It ends when the mesh
/// [drains](crate::Mesh::drain) and the server's delay is over: then tell the framework to shut down gracefully.
#[derive(Debug)]
pub struct Incoming {
    state: Arc<ServerState>,
    connections: mpsc::Receiver<ServerStream>,
    local: Option<SocketAddr>,
    dropped: CancellationToken,
}

impl Incoming {
    pub(crate) fn new(mut listener: Listener) -> Self {
        let (sender, connections) = mpsc::channel(WAITING);
        let local = listener.local_address();
        let dropped = CancellationToken::new();
        let state = Arc::clone(&listener.state);
        let (running, served) = (state.running.token(), state.serve());
        let acceptor = Acceptor::new(Arc::clone(&state), listener.is_grpc);
        let tasks = state.shared.tasks.clone();
        let gone = dropped.clone();
        let (spawner, serving) = (tasks.clone(), Arc::clone(&state));
        spawner.spawn(async move {
            let accepting = async {
                loop {
                    let arrival = listener.accept().await;
                    let Some(place) = acceptor.admit(&arrival) else { continue };
                    let (acceptor, sender, gone) = (acceptor.clone(), sender.clone(), gone.clone());
                    let running = running.clone();
                    tasks.spawn(async move {
                        let _running = running;
                        let hand_over = async {
                            if let Some(stream) = acceptor.let_in(arrival, place, Instant::now()).await {
                                let stream = stream.watched(acceptor.state());
                                // Nobody takes it any more.
                                let _ = sender.send(stream).await;
                            }
                        };
                        gone.run_until_cancelled(hand_over).await;
                    });
                }
            };
            tokio::select! {
                () = accepting => {}
                () = no_longer_accepting(&serving) => {}
                () = gone.cancelled() => {}
            }
            drop((listener, running, served));
        });
        Self { state, connections, local, dropped }
    }

    /// The next connection; `None` once the mesh drains.
    pub async fn accept(&mut self) -> Option<ServerStream> {
        self.connections.recv().await
    }

    /// As [`accept`](Self::accept), for whoever polls.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<ServerStream>> {
        self.connections.poll_recv(cx)
    }

    /// Resolves once it accepts no more, because the mesh drains: for the graceful shutdown of the framework.
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
    pub fn draining(&self) -> impl Future<Output = ()> + Send + use<> {
        let state = Arc::clone(&self.state);
        async move { draining(&state).await }
    }

    /// The first TCP address it listens on.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.local
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.dropped.cancel();
    }
}

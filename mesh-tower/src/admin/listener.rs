//! The listener of the admin pages, which follows the configuration.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::model::{Server, ServerTls, Settings};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::check::AdminError;
use super::router::router;
use crate::mesh::{ConfigStatus, Core};
use crate::net::Io;
use crate::observe::TARGET;
use crate::server::{self, Accepted, Listener, Phase, ServerState};

/// When an address that could not be listened on is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// A socket that listens, and which address of the configuration that is.
pub(crate) struct Bound {
    configured: SocketAddr,
    listener: TcpListener,
}

/// Listens where `settings` say, if they do.
///
/// # Errors
/// If the operating system refuses.
pub(crate) fn bind(settings: &Settings) -> Result<Option<Bound>, AdminError> {
    settings.admin.as_ref().map(|admin| listen(admin.address)).transpose()
}

fn listen(address: SocketAddr) -> Result<Bound, AdminError> {
    let listener = server::bind_tcp(address).map_err(|error| AdminError::Bind { address, error })?;
    Ok(Bound { configured: address, listener })
}

/// Serves the admin pages where the configuration in force says, until the mesh stops. `first`: where that is at first.
pub(crate) fn start(core: &Arc<Core>, first: Option<Bound>) {
    let changes = core.subscribe();
    let serving = first.map(|bound| Serving::start(core, bound));
    core.shared.tasks.spawn_until_stop(follow(Arc::clone(core), changes, serving));
}

async fn follow(core: Arc<Core>, mut changes: watch::Receiver<ConfigStatus>, mut serving: Option<Serving>) {
    let mut refused: Option<(SocketAddr, Instant)> = None;
    loop {
        let again = async {
            match refused {
                Some((_, at)) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = again => {}
        }
        let wanted = core.snapshot.load().settings().admin.as_ref().map(|admin| admin.address);
        if wanted == serving.as_ref().map(|serving| serving.configured) {
            refused = None;
            continue;
        }
        let Some(address) = wanted else {
            serving = None;
            core.set_admin_address(None);
            refused = None;
            continue;
        };
        match move_to(address, &mut serving).await {
            Ok(bound) => {
                serving = Some(Serving::start(&core, bound));
                refused = None;
            }
            Err((error, kept)) => {
                if let Some(kept) = kept {
                    serving = Some(Serving::start(&core, kept));
                }
                if refused.is_none_or(|(last, _)| last != address) {
                    tracing::error!(
                        target: TARGET,
                        %error,
                        served = serving.as_ref().map(|serving| tracing::field::display(serving.configured)),
                        "the admin pages stay where they are; it is tried again"
                    );
                }
                refused = Some((address, Instant::now() + AGAIN));
            }
        }
    }
}

/// Listens on `address`. What is served goes on, unless it stands in the way; if it had to go in vain, it is listened on
/// again.
async fn move_to(address: SocketAddr, serving: &mut Option<Serving>) -> Result<Bound, (AdminError, Option<Bound>)> {
    let error = match listen(address) {
        Ok(bound) => return Ok(bound),
        Err(error) => error,
    };
    let in_the_way = matches!(&error, AdminError::Bind { error, .. } if error.kind() == io::ErrorKind::AddrInUse)
        && serving.as_ref().is_some_and(|serving| serving.configured.port() == address.port());
    let Some(old) = serving.take_if(|_| in_the_way) else { return Err((error, None)) };
    let before = old.configured;
    old.end().await;
    listen(address).map_err(|error| (error, listen(before).ok()))
}

/// The pages on one address. They end, gently, when it is dropped.
struct Serving {
    configured: SocketAddr,
    phase: Arc<watch::Sender<Phase>>,
    /// Cancelled once it listens no more.
    closed: CancellationToken,
}

impl Serving {
    fn start(core: &Arc<Core>, bound: Bound) -> Self {
        let Bound { configured, listener } = bound;
        let local = listener.local_addr().unwrap_or(configured);
        let (phase, _) = watch::channel(Phase::Serving);
        let phase = Arc::new(phase);
        let closed = CancellationToken::new();
        let state = ServerState::apart(settings(), Arc::clone(&core.shared), phase.subscribe());
        let listener = Listener::custom(state, accept(listener, closed.clone().drop_guard()));
        let pages = router(Arc::clone(core));
        let kept = Arc::clone(&phase);
        core.shared.tasks.spawn_until_stop(async move {
            // Without the sender there would be no grace.
            let _kept = kept;
            server::run(listener, pages).await;
        });
        core.set_admin_address(Some(local));
        tracing::info!(target: TARGET, address = %local, "the admin pages are served");
        Self { configured, phase, closed }
    }

    /// Resolves once it listens no more.
    async fn end(self) {
        let closed = self.closed.clone();
        drop(self);
        closed.cancelled().await;
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.phase.send_replace(Phase::Draining);
    }
}

/// What the listener goes by: few callers, who are quick.
fn settings() -> Server {
    let mut server = Server::new("admin");
    server.tls = Some(ServerTls::Disabled);
    server.limits.max_connections = Some(256);
    server.limits.max_concurrent_streams = 16;
    server.limits.idle_timeout = Some(Duration::from_secs(300));
    server.drain.delay = Duration::ZERO;
    server.drain.grace = Duration::from_secs(5);
    server
}

fn accept(listener: TcpListener, closed: DropGuard) -> impl server::Accept {
    move |cx: &mut std::task::Context<'_>| {
        let _open = &closed;
        listener.poll_accept(cx).map_ok(|(stream, remote)| {
            // Only slower if this fails.
            let _ = stream.set_nodelay(true);
            let local = stream.local_addr().ok();
            Accepted { stream: Box::new(stream) as Box<dyn Io>, remote: Some(remote), local }
        })
    }
}

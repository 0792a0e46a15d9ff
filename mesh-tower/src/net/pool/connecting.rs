//! The background loop that connects an endpoint.

use std::sync::{Arc, Weak};

use mesh_core::balance::State;
use mesh_core::resilience::backoff::ConnectBackoffState;
use rustls::AlertDescription;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::driving::drive_h1;
use super::leasing::give_back;
use super::leaving::{Loss, give_up, leave, remove_h2};
use super::{Inner, MAX_H2_CONNECTIONS, announce, answer_all, closed, set_state};
use crate::identity::Identity;
use crate::net::account::Claim;
use crate::net::{ConnectError, Endpoint, Wanted, after, connect, h1, h2};
use crate::observe;
use crate::telemetry::metrics::BackendSeries;

/// What comes before the first attempt of a connect loop.
pub(super) enum Pause {
    No,
    Yes,
    /// A pause if this connection, which was just lost, never served anything: a peer that closes what it just accepted
    /// is not asked again at once.
    UnlessServed(Arc<h2::Conn>),
}

impl Pause {
    async fn decide(self) -> bool {
        match self {
            Self::No => false,
            Self::Yes => true,
            Self::UnlessServed(conn) => {
                // Those whom its last frames answered are awake, but have not run yet.
                tokio::task::yield_now().await;
                !conn.has_served()
            }
        }
    }
}

pub(super) fn run(endpoint: &Arc<Endpoint>, wanted: Wanted, pause: Pause) {
    let pool = endpoint.transport();
    let tasks = &pool.cluster.shared.tasks;
    let token = CancellationToken::new();
    {
        let mut inner = pool.lock();
        let full = pool.h2().load().len() >= MAX_H2_CONNECTIONS;
        if inner.connecting.is_some() || inner.closed || full || tasks.is_stopping() {
            return;
        }
        inner.connecting = Some(token.clone());
    }
    let running = Running { endpoint: Arc::clone(endpoint), wanted, token: token.clone() };
    let connect = connect_loop(Arc::clone(endpoint), wanted, pause, token.clone());
    tasks.spawn_until_stop(async move {
        let _running = running;
        token.run_until_cancelled(connect).await.unwrap_or_default();
    });
}

/// A connect loop, however it ends: an endpoint that took one for running that is gone would never connect again.
struct Running {
    endpoint: Arc<Endpoint>,
    wanted: Wanted,
    token: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        let broken = self.endpoint.transport().lock().end_loop(&self.token);
        // Code of the application may panic in it, such as its connector.
        if broken && std::thread::panicking() {
            run(&self.endpoint, self.wanted, Pause::Yes);
        }
    }
}

impl Inner {
    /// Ends the connect loop of `token`; returns false if it was cancelled, and what it brings is not wanted any more.
    fn end_loop(&mut self, token: &CancellationToken) -> bool {
        let counts = !token.is_cancelled();
        if counts {
            self.connecting = None;
            // It has ended, and another one may begin.
            token.cancel();
        }
        counts
    }
}

async fn connect_loop(endpoint: Arc<Endpoint>, wanted: Wanted, pause: Pause, token: CancellationToken) {
    let pool = endpoint.transport();
    let mut backoff = ConnectBackoffState::new();
    let mut delay = || backoff.next_delay(&pool.cluster.connect_backoff, &mut rand::rng());
    let mut identities = pool.tls().filter(|tls| tls.is_mutual()).map(|_| pool.cluster.shared.identities.subscribe());
    let mut pause = pause.decide().await;
    loop {
        if pause {
            tokio::select! {
                () = tokio::time::sleep(delay()) => {}
                () = changed(identities.as_mut()) => {}
                () = pool.used().closed.notified() => {}
            }
        }
        if pool.lock().closed {
            break;
        }
        let freed = pool.cluster.account.freed.notified();
        tokio::pin!(freed);
        freed.as_mut().enable();
        let Some(claim) = pool.claim_h2() else {
            {
                let mut inner = pool.lock();
                if !pool.lacks_h2() {
                    inner.end_loop(&token);
                    return;
                }
            }
            // Those of it that drain hold what there is for it.
            Claim::is_refused(&pool.cluster);
            tokio::select! {
                () = freed => {}
                () = pool.used().closed.notified() => {}
            }
            pause = false;
            continue;
        };
        let error = match open(&endpoint, wanted, claim).await {
            Ok(connection) => return install(&endpoint, connection, Some(&token)),
            Err(error) => error,
        };
        {
            // Whoever loses the last connection asks under the same lock whether this loop still runs.
            let mut inner = pool.lock();
            if !pool.h2().load().is_empty() {
                // It was to be one more; those that are there go on.
                inner.grow_after = Some(Instant::now() + delay());
                inner.end_loop(&token);
                return;
            }
        }
        if pool.cluster.speaks_both() && lacks_http2(&error) {
            fail_http2(&endpoint, error, &token);
        } else {
            fail(&endpoint, error, Some(&token));
        }
        pause = true;
    }
    pool.lock().end_loop(&token);
}

/// Resolves when this process is somebody else: whoever was refused until now may be let in, or trusted.
async fn changed(identities: Option<&mut watch::Receiver<Option<Arc<Identity>>>>) {
    if let Some(identities) = identities
        && identities.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Whether the peer is there, and does not speak HTTP/2.
fn lacks_http2(error: &ConnectError) -> bool {
    match error {
        ConnectError::Http2 { .. } => true,
        ConnectError::Tls { error, .. } => matches!(
            error.get_ref().and_then(|error| error.downcast_ref()),
            Some(
                rustls::Error::NoApplicationProtocol
                    | rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)
            )
        ),
        _ => false,
    }
}

/// The peer is there, and does not speak HTTP/2: that is a failure for those who need it, and for nobody else.
fn fail_http2(endpoint: &Endpoint, error: ConnectError, token: &CancellationToken) {
    let pool = endpoint.transport();
    let state = if pool.cluster.serves_http1() { State::Ready } else { State::Failing };
    let changed = {
        let mut inner = pool.lock();
        if token.is_cancelled() {
            return;
        }
        inner.error = None;
        inner.http2_error = Some(error);
        endpoint.set_state(state, Instant::now().into_std()) != state
    };
    if changed {
        announce(endpoint, state);
    }
    pool.cluster.queue.wake_all();
}

/// Whether requests that need HTTP/2 have nothing to wait for at this endpoint.
pub(crate) fn refuses_http2(endpoint: &Endpoint) -> bool {
    let pool = endpoint.transport();
    endpoint.state() == State::Failing || pool.looked_at().is_some_and(|inner| inner.http2_error.is_some())
}

/// Whether the endpoint is no longer part of the configuration.
pub(crate) fn has_left(endpoint: &Endpoint) -> bool {
    endpoint.transport().looked_at().is_some_and(|inner| inner.closed)
}

/// Gives endpoints that fail only by their lack of HTTP/2 to those who want HTTP/1.1; returns whether there are any.
pub(crate) fn allow_http1(endpoints: &[Arc<Endpoint>]) -> bool {
    let lacks =
        |endpoint: &&Arc<Endpoint>| endpoint.transport().looked_at().is_some_and(|inner| inner.http2_error.is_some());
    let lacking = endpoints.iter().filter(lacks);
    lacking.map(|endpoint| set_state(endpoint, State::Ready)).count() > 0
}

/// `looped`: the connect loop failed, and says so only if it still counts.
pub(super) fn fail(endpoint: &Endpoint, error: ConnectError, looped: Option<&CancellationToken>) {
    let pool = endpoint.transport();
    let (waiting, changed) = {
        let mut inner = pool.lock();
        if looped.is_some_and(CancellationToken::is_cancelled) {
            return;
        }
        inner.error = Some(error.clone());
        inner.http2_error = None;
        (
            std::mem::take(&mut inner.waiting),
            endpoint.set_state(State::Failing, Instant::now().into_std()) != State::Failing,
        )
    };
    if changed {
        announce(endpoint, State::Failing);
    }
    answer_all(waiting, &error);
}

pub(super) enum Opened {
    H2(h2::Conn, Box<h2::Driver>, Claim),
    H1(h1::Conn, Box<h1::Driver>, Claim),
}

/// One connection attempt, TCP to HTTP, within the connect timeout.
pub(super) async fn open(endpoint: &Endpoint, wanted: Wanted, claim: Claim) -> Result<Opened, ConnectError> {
    let cluster = &endpoint.transport().cluster;
    let (complaints, room) = (endpoint.transport().lock().complaints, super::room(endpoint));
    let address = endpoint.address();
    let began = Instant::now();
    let deadline = after(began, cluster.connect_timeout);
    let attempt = async {
        let tls = endpoint.transport().tls();
        let tls = tls.map(|tls| (tls, cluster.offer(tls, wanted)));
        let mut connected = connect::connect(cluster, address, tls, deadline).await?;
        if cluster.takes_h2(wanted, connected.alpn_h2) {
            let (conn, driver) = h2::handshake(connected, cluster, address, deadline, complaints, room).await?;
            Ok(Opened::H2(conn, Box::new(driver), claim))
        } else {
            connected.hear(address, deadline).await?;
            let (conn, driver) = h1::handshake(connected, cluster, address).await?;
            Ok(Opened::H1(conn, Box::new(driver), claim))
        }
    };
    let result = attempt.await;
    let error = result.as_ref().err().map(|error| error as observe::DynError<'_>);
    cluster.shared.observers.connect(&cluster.id, address, error, began.elapsed());
    if let Some(series) = &cluster.series {
        series.connect_ended(error.is_none());
    }
    result
}

/// Puts a new connection to use. `looped`: the connect loop made it, and ends with that.
pub(super) fn install(endpoint: &Arc<Endpoint>, opened: Opened, looped: Option<&CancellationToken>) {
    let pool = endpoint.transport();
    let tasks = &pool.cluster.shared.tasks;
    match opened {
        Opened::H2(conn, driver, claim) => {
            let conn = Arc::new(conn);
            let (waiting, changed) = {
                let mut inner = pool.lock();
                if looped.is_some_and(|token| !inner.end_loop(token)) || inner.closed {
                    return;
                }
                inner.error = None;
                inner.http2_error = None;
                inner.grow_after = None;
                inner.negotiated_h2 = Some(true);
                pool.h2().rcu(|connections| {
                    let mut all = Vec::with_capacity(connections.len() + 1);
                    all.extend(connections.iter().cloned());
                    all.push(Arc::clone(&conn));
                    all
                });
                (
                    std::mem::take(&mut inner.waiting),
                    endpoint.set_state(State::Ready, Instant::now().into_std()) != State::Ready,
                )
            };
            // They wait for HTTP/1.1, which the peer spoke until now, and must look anew.
            answer_all(waiting, &closed(endpoint));
            let aged: Vec<_> = pool.h2().load().iter().filter(|conn| conn.is_aged()).cloned().collect();
            aged.iter().for_each(|old| give_up(endpoint, old, Loss::Ours));
            let (weak, at) = (Arc::downgrade(&conn), Arc::downgrade(endpoint));
            let open = pool.cluster.series.as_ref().map(BackendSeries::opened);
            tasks.spawn(async move {
                let (_open, _claim) = (open, claim);
                let leaving = |conn: &Arc<h2::Conn>, why: h2::Leaving| {
                    if let Some(endpoint) = at.upgrade() {
                        leave(&endpoint, conn, why);
                    }
                };
                let result = driver.run(Weak::clone(&weak), leaving).await;
                if let (Some(conn), Some(endpoint)) = (weak.upgrade(), at.upgrade()) {
                    if let Err(error) = result {
                        tracing::debug!(endpoint = %endpoint.address(), %error, "HTTP/2 connection ended");
                    }
                    conn.drain();
                    remove_h2(&endpoint, &conn, Loss::Theirs);
                }
            });
            if changed {
                announce(endpoint, State::Ready);
            } else {
                // Who waits for HTTP/2 at this endpoint alone.
                pool.cluster.changed.notify_waiters();
            }
            pool.cluster.queue.wake_all();
        }
        Opened::H1(conn, driver, claim) => {
            if looped.is_some_and(|token| !pool.lock().end_loop(token)) {
                return;
            }
            let conn = drive_h1(endpoint, conn, *driver, claim);
            give_back(endpoint, conn);
        }
    }
}

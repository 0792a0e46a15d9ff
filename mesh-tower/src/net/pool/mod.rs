//! The connections of one endpoint, and with them its state.
//!
//! ```text
//!  connect     ───> connect loop ── ok ──> install ──> Ready
//!                     ^     │                            │ last HTTP/2 connection lost:
//!                     │     └─ error ─> Failing, backoff │ connect again at once, after a pause if it
//!                     └────────────────<──────────────<──┘ never served anything
//! ```
//!
//! HTTP/2 connections are few and shared: the list is replaced whole, and picking one takes no lock. HTTP/1.1
//! connections serve one request at a time: idle ones wait under a mutex, newest first.

mod connecting;
mod driving;
mod in_order;
mod leasing;
mod leaving;
mod streams;

use std::collections::VecDeque;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use mesh_core::balance::State;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::connecting::{Pause, run};
pub(crate) use self::connecting::{allow_http1, has_left, refuses_http2};
pub(crate) use self::in_order::{Order, connect};
pub(super) use self::leasing::give_back;
pub(crate) use self::leasing::{NoLease, lease, lease_aside};
pub(crate) use self::leaving::retire;
use self::leaving::{Loss, give_up};
pub(crate) use self::streams::{OpenStream, open_stream};
use super::account::Claim;
use super::{Cluster, ConnectError, Endpoint, Room, Wanted, h1, h2, tls};

/// The most HTTP/2 connections to one endpoint.
const MAX_H2_CONNECTIONS: usize = 8;

/// See the [module](self).
///
/// A backend may have thousands of endpoints, of which most are never picked: what connections need is allocated when
/// the endpoint is first used.
pub(crate) struct Pool {
    pub(super) cluster: Arc<Cluster>,
    /// Whether it is spoken to by TLS.
    secure: bool,
    used: OnceLock<Box<Used>>,
}

/// The pool of an endpoint that was picked.
#[derive(Default)]
struct Used {
    h2: ArcSwap<Vec<Arc<h2::Conn>>>,
    inner: Mutex<Inner>,
    closed: Notify,
    room: Arc<Room>,
    /// Its connections above the limit of the backend.
    beyond: Arc<AtomicU32>,
}

#[derive(Default)]
struct Inner {
    /// No longer in use: nothing is connected any more.
    closed: bool,
    /// Ends the connect loop, which runs.
    connecting: Option<CancellationToken>,
    /// The last failure, for error texts; none after a success.
    error: Option<ConnectError>,
    /// Why there is no HTTP/2 although the peer is there; HTTP/1.1 may go on.
    http2_error: Option<ConnectError>,
    /// What was wrong with its answer to a health check, while it is unhealthy.
    ill: Option<Arc<str>>,
    /// When one more HTTP/2 connection may be tried after an attempt to grow failed.
    grow_after: Option<Instant>,
    /// In the order they became idle.
    idle: VecDeque<h1::Conn>,
    waiting: Waiting,
    /// HTTP/1.1 connections on their way.
    opening: usize,
    /// HTTP/1.1 connections that live, idle or not.
    live_h1: usize,
    /// How many HTTP/1.1 connections there were: their numbers.
    made_h1: u64,
    /// How often the peer left because of too many pings.
    complaints: u32,
    /// What ALPN agreed on last, where it decides.
    negotiated_h2: Option<bool>,
}

/// Requests that wait for an HTTP/1.1 connection, in the order they came.
type Waiting = VecDeque<oneshot::Sender<Result<h1::Conn, ConnectError>>>;

/// Tells all of `waiting` that there is no connection for them.
fn answer_all(waiting: Waiting, error: &ConnectError) {
    for waiter in waiting {
        // A waiter that is gone needs no answer.
        let _ = waiter.send(Err(error.clone()));
    }
}

fn closed(endpoint: &Endpoint) -> ConnectError {
    ConnectError::Closed { address: endpoint.address().clone() }
}

/// A way to send one request.
pub(crate) enum Slot {
    H2(h2::Permit),
    H1(h1::Lease),
}

/// What an endpoint offers right now.
pub(crate) enum Offer {
    H2(h2::Permit),
    /// HTTP/1.1: ask [`lease`].
    H1,
    /// Nothing at the moment; the cluster's queue is woken when that changes.
    Busy,
}

impl Pool {
    pub(super) fn new(cluster: Arc<Cluster>, secure: bool) -> Self {
        Self { cluster, secure, used: OnceLock::new() }
    }

    /// Whether it is spoken to by TLS.
    pub(crate) fn is_secure(&self) -> bool {
        self.secure
    }

    /// How it is spoken to by TLS, if it is.
    pub(super) fn tls(&self) -> Option<&tls::Client> {
        self.cluster.tls.as_ref().filter(|_| self.secure)
    }

    /// Something changed that requests of the backend may wait for.
    pub(crate) fn wake_all(&self) {
        self.cluster.queue.wake_all();
    }

    /// Why the last connection attempt failed.
    pub(crate) fn last_error(&self) -> Option<ConnectError> {
        let inner = self.looked_at()?;
        inner.error.as_ref().or(inner.http2_error.as_ref()).cloned()
    }

    /// What made the endpoint unhealthy; `None` once it is healthy.
    pub(crate) fn set_illness(&self, reason: Option<Arc<str>>) {
        self.lock().ill = reason;
    }

    /// What was wrong with the answer to a health check by which the endpoint is unhealthy.
    pub(crate) fn illness(&self) -> Option<Arc<str>> {
        self.looked_at()?.ill.clone()
    }

    fn used(&self) -> &Used {
        self.used.get_or_init(Box::default)
    }

    fn h2(&self) -> &ArcSwap<Vec<Arc<h2::Conn>>> {
        &self.used().h2
    }

    /// Whether there is no HTTP/2 connection but such as are to be replaced.
    fn lacks_h2(&self) -> bool {
        self.h2().load().iter().all(|conn| conn.is_aged())
    }

    /// A place for one more connection. Above the limit there may be `most` of the endpoint.
    fn claim(&self, most: u32) -> Option<Claim> {
        Claim::new(&self.cluster, &self.used().beyond, most)
    }

    /// A place for one more HTTP/2 connection: above the limit one for an endpoint that has none, and another one where
    /// that is to be replaced.
    fn claim_h2(&self) -> Option<Claim> {
        let connections = self.h2().load();
        self.claim(match connections.as_slice() {
            [] => 1,
            connections if connections.iter().all(|conn| conn.is_aged()) => 2,
            _ => 0,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.used().lock()
    }

    /// As [`lock`](Self::lock), for whoever looks at all endpoints: one that was never picked has nothing to tell.
    fn looked_at(&self) -> Option<MutexGuard<'_, Inner>> {
        self.used.get().map(|used| used.lock())
    }
}

impl Used {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What `endpoint` offers for a request that needs `wanted`.
pub(crate) fn offer(endpoint: &Arc<Endpoint>, wanted: Wanted) -> Offer {
    let pool = endpoint.transport();
    if wanted == Wanted::Http1 {
        return Offer::H1;
    }
    let connections = pool.h2().load();
    let permit = match connections.as_slice() {
        [] => {
            drop(connections);
            if wanted == Wanted::Negotiated && pool.lock().negotiated_h2 == Some(false) {
                return Offer::H1;
            }
            start(endpoint, wanted);
            return Offer::Busy;
        }
        [only] => only.admit(),
        many => {
            // The emptiest one that admits; there are few.
            let mut order: [Option<&Arc<h2::Conn>>; MAX_H2_CONNECTIONS] = [None; MAX_H2_CONNECTIONS];
            for (place, conn) in order.iter_mut().zip(many) {
                *place = Some(conn);
            }
            order.sort_unstable_by_key(|conn| conn.map_or(u32::MAX, |conn| conn.in_flight()));
            order.into_iter().flatten().find_map(h2::Conn::admit)
        }
    };
    if let Some(permit) = &permit
        && permit.conn().is_spent()
    {
        give_up(endpoint, permit.conn(), Loss::Ours);
    }
    if connections.len() < MAX_H2_CONNECTIONS && connections.iter().all(|conn| conn.is_nearly_full()) {
        drop(connections);
        grow(endpoint, wanted);
    }
    permit.map_or(Offer::Busy, Offer::H2)
}

/// Where requests wait for a stream of `endpoint`, and of no other.
pub(crate) fn room(endpoint: &Endpoint) -> &Arc<Room> {
    &endpoint.transport().used().room
}

/// What `endpoint` offers for a request of our own, beside those of callers: see [`h2::Conn::admit_aside`] and
/// [`lease_aside`]. It is no reason to open one more connection where there is one.
pub(crate) fn offer_aside(endpoint: &Arc<Endpoint>, wanted: Wanted) -> Offer {
    let pool = endpoint.transport();
    if wanted == Wanted::Http1 {
        return Offer::H1;
    }
    let connections = pool.h2().load();
    if !connections.is_empty() {
        return connections.iter().find_map(h2::Conn::admit_aside).map_or(Offer::Busy, Offer::H2);
    }
    if wanted == Wanted::Negotiated && pool.lock().negotiated_h2 == Some(false) {
        return Offer::H1;
    }
    start(endpoint, wanted);
    Offer::Busy
}

/// Connects one endpoint, unless it is connected or on its way.
pub(crate) fn wake(endpoint: &Arc<Endpoint>, wanted: Wanted) {
    if endpoint.state() == State::Idle {
        start(endpoint, wanted);
    }
}

/// Takes the endpoint out of use: idle connections close, busy ones after their last request.
pub(crate) fn close(endpoint: &Endpoint) {
    let pool = endpoint.transport();
    let mut inner = pool.lock();
    inner.closed = true;
    let_go(endpoint, inner);
    pool.used().closed.notify_one();
    pool.cluster.changed.notify_waiters();
    pool.cluster.queue.wake_all();
}

/// Ends connections, and attempts to make one, of an endpoint that is not needed while another one is there.
fn stand_by(endpoint: &Endpoint) {
    let Some(mut inner) = endpoint.transport().looked_at() else { return };
    if inner.closed {
        return;
    }
    // Cancelled under the lock: the loop asks under the same lock whether it still counts.
    if let Some(connecting) = inner.connecting.take() {
        connecting.cancel();
    }
    if let_go(endpoint, inner) != State::Idle {
        announce(endpoint, State::Idle);
    }
}

/// Makes the endpoint idle and returns the state before.
fn let_go(endpoint: &Endpoint, mut inner: MutexGuard<'_, Inner>) -> State {
    let pool = endpoint.transport();
    let (idle, waiting) = (std::mem::take(&mut inner.idle), std::mem::take(&mut inner.waiting));
    let connections = pool.h2().swap(Arc::default());
    let before = endpoint.set_state(State::Idle, Instant::now().into_std());
    drop(inner);
    connections.iter().for_each(|conn| {
        conn.drain();
    });
    drop(idle);
    answer_all(waiting, &closed(endpoint));
    before
}

fn set_state(endpoint: &Endpoint, state: State) {
    if endpoint.set_state(state, Instant::now().into_std()) != state {
        announce(endpoint, state);
    }
}

/// Tells that the state changed.
fn announce(endpoint: &Endpoint, state: State) {
    let cluster = &endpoint.transport().cluster;
    cluster.shared.observers.endpoint(&cluster.id, endpoint.address(), state);
    cluster.changed.notify_waiters();
    cluster.queue.wake_all();
}

/// Starts the connect loop unless it runs.
fn start(endpoint: &Arc<Endpoint>, wanted: Wanted) {
    if endpoint.state() == State::Idle {
        set_state(endpoint, State::Connecting);
    }
    run(endpoint, wanted, Pause::No);
}

/// One more HTTP/2 connection, in the background.
fn grow(endpoint: &Arc<Endpoint>, wanted: Wanted) {
    let pool = endpoint.transport();
    let too_early = pool.lock().grow_after.is_some_and(|after| Instant::now() < after);
    if !too_early && !Claim::is_refused(&pool.cluster) {
        run(endpoint, wanted, Pause::No);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_that_was_never_picked_costs_little() {
        assert!(size_of::<Pool>() <= 32, "{} bytes", size_of::<Pool>());
    }
}

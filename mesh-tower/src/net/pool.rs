//! The connections of one endpoint, and with them its state.
//!
//! ```text
//!  connect_idle ──> connect loop ── ok ──> install ──> Ready
//!                     ^     │                            │ last HTTP/2 connection lost:
//!                     │     └─ error ─> Failing, backoff │ connect again at once, after a pause if it
//!                     └────────────────<──────────────<──┘ never served anything
//! ```
//!
//! HTTP/2 connections are few and shared: the list is replaced whole, and picking one takes no lock. HTTP/1.1
//! connections serve one request at a time: idle ones wait under a mutex, newest first.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use mesh_core::balance::State;
use mesh_core::resilience::backoff::ConnectBackoffState;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::{Cluster, ConnectError, Endpoint, Queue, Wanted, connect, h1, h2};
use crate::observe;

/// The most HTTP/2 connections to one endpoint.
const MAX_H2_CONNECTIONS: usize = 8;
/// The most idle HTTP/1.1 connections kept for one endpoint.
const MAX_H1_IDLE: usize = 64;
/// The most HTTP/1.1 connections on their way to one endpoint at once; who comes later gets those that are given back.
const MAX_H1_OPENING: usize = 256;
/// The most requests that wait for an HTTP/1.1 connection of one endpoint.
const MAX_H1_WAITING: usize = Queue::CAPACITY as usize;
/// How long an HTTP/1.1 connection may idle and still be used: below the 60 s at which common servers and load
/// balancers close.
const H1_IDLE_TIMEOUT: Duration = Duration::from_secs(50);
/// How long a connection that was just given back may take to become ready.
const H1_SETTLE: Duration = Duration::from_millis(5);

/// See the [module](self).
pub(crate) struct Pool {
    cluster: Arc<Cluster>,
    h2: ArcSwap<Vec<Arc<h2::Conn>>>,
    inner: Mutex<Inner>,
    closed: Notify,
}

#[derive(Default)]
struct Inner {
    /// No longer in use: nothing is connected any more.
    closed: bool,
    /// The connect loop runs.
    connecting: bool,
    /// The last failure, for error texts; none after a success.
    error: Option<ConnectError>,
    /// Why there is no HTTP/2 although the peer is there; HTTP/1.1 may go on.
    http2_error: Option<ConnectError>,
    /// When one more HTTP/2 connection may be tried after an attempt to grow failed.
    grow_after: Option<Instant>,
    /// In the order they became idle.
    idle: VecDeque<h1::Conn>,
    waiting: VecDeque<oneshot::Sender<Result<h1::Conn, ConnectError>>>,
    /// HTTP/1.1 connections on their way.
    opening: usize,
    /// What ALPN agreed on last, where it decides.
    negotiated_h2: Option<bool>,
}

impl Inner {
    /// Counts one more connection on its way, if a request waits for it.
    fn claim_opening(&mut self) -> bool {
        let claimed = !self.closed && self.opening < self.waiting.len().min(MAX_H1_OPENING);
        self.opening += usize::from(claimed);
        claimed
    }
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
    pub(super) fn new(cluster: Arc<Cluster>) -> Self {
        Self { cluster, h2: ArcSwap::default(), inner: Mutex::default(), closed: Notify::new() }
    }

    /// Why the last connection attempt failed.
    pub(crate) fn last_error(&self) -> Option<ConnectError> {
        let inner = self.lock();
        inner.error.as_ref().or(inner.http2_error.as_ref()).cloned()
    }

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
    let connections = pool.h2.load();
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
    if connections.len() < MAX_H2_CONNECTIONS && connections.iter().all(|conn| conn.is_nearly_full()) {
        drop(connections);
        grow(endpoint, wanted);
    }
    permit.map_or(Offer::Busy, Offer::H2)
}

/// Connects `endpoint` if nobody does and it is not connected.
pub(crate) fn connect_idle(endpoint: &Arc<Endpoint>, wanted: Wanted) {
    if endpoint.state() == State::Idle {
        start(endpoint, wanted);
    }
}

/// Connects every idle endpoint of `endpoints`.
pub(crate) fn connect_all<'a>(endpoints: impl IntoIterator<Item = &'a Arc<Endpoint>>, wanted: Wanted) {
    for endpoint in endpoints {
        connect_idle(endpoint, wanted);
    }
}

/// Takes the endpoint out of use: idle connections close, busy ones after their last request.
pub(crate) fn close(endpoint: &Endpoint) {
    let pool = endpoint.transport();
    let (idle, waiting) = {
        let mut inner = pool.lock();
        inner.closed = true;
        (std::mem::take(&mut inner.idle), std::mem::take(&mut inner.waiting))
    };
    for conn in pool.h2.swap(Arc::default()).iter() {
        conn.drain();
    }
    drop(idle);
    for waiter in waiting {
        // A waiter that is gone needs no answer.
        let _ = waiter.send(Err(ConnectError::Closed { address: endpoint.address().clone() }));
    }
    endpoint.set_state(State::Idle);
    pool.closed.notify_one();
    pool.cluster.queue.wake();
}

/// A connection of the endpoint said that it takes no more requests.
pub(crate) fn retire(endpoint: &Arc<Endpoint>, conn: &Arc<h2::Conn>) {
    if conn.drain() {
        remove_h2(endpoint, conn);
    }
}

fn remove_h2(endpoint: &Arc<Endpoint>, conn: &Arc<h2::Conn>) {
    let pool = endpoint.transport();
    let mut removed = false;
    pool.h2.rcu(|connections| {
        let rest: Vec<_> = connections.iter().filter(|other| !Arc::ptr_eq(other, conn)).cloned().collect();
        removed = rest.len() < connections.len();
        rest
    });
    if removed && pool.h2.load().is_empty() && !pool.lock().closed {
        set_state(endpoint, State::Connecting);
        let wanted = if pool.cluster.tls.is_some() { Wanted::Negotiated } else { Wanted::Http2 };
        let young = conn.since.elapsed() < pool.cluster.connect_backoff.base;
        let pause = if young { Pause::UnlessServed(Arc::clone(conn)) } else { Pause::No };
        run(endpoint, pool.cluster.used().unwrap_or(wanted), pause);
    }
    pool.cluster.queue.wake();
}

fn set_state(endpoint: &Endpoint, state: State) {
    if endpoint.set_state(state) != state {
        let cluster = &endpoint.transport().cluster;
        cluster.shared.observers.endpoint(&cluster.id, endpoint.address(), state);
        cluster.changed.notify_waiters();
        cluster.queue.wake();
    }
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
    let too_early = endpoint.transport().lock().grow_after.is_some_and(|after| Instant::now() < after);
    if !too_early {
        run(endpoint, wanted, Pause::No);
    }
}

/// What comes before the first attempt of a connect loop.
enum Pause {
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

fn run(endpoint: &Arc<Endpoint>, wanted: Wanted, pause: Pause) {
    let pool = endpoint.transport();
    let tasks = &pool.cluster.shared.tasks;
    {
        let mut inner = pool.lock();
        let full = pool.h2.load().len() >= MAX_H2_CONNECTIONS;
        if inner.connecting || inner.closed || full || tasks.is_stopping() {
            return;
        }
        inner.connecting = true;
    }
    tasks.spawn_until_stop(connect_loop(Arc::clone(endpoint), wanted, pause));
}

async fn connect_loop(endpoint: Arc<Endpoint>, wanted: Wanted, pause: Pause) {
    let pool = endpoint.transport();
    let mut backoff = ConnectBackoffState::new();
    let mut delay = || backoff.next_delay(&pool.cluster.connect_backoff, &mut rand::rng());
    let mut pause = pause.decide().await;
    loop {
        if pause {
            tokio::select! {
                () = tokio::time::sleep(delay()) => {}
                () = pool.closed.notified() => {}
            }
        }
        if pool.lock().closed {
            break;
        }
        let error = match open(&endpoint, wanted).await {
            Ok(connection) => return install(&endpoint, connection, true),
            Err(error) => error,
        };
        {
            // Whoever loses the last connection asks under the same lock whether this loop still runs.
            let mut inner = pool.lock();
            if !pool.h2.load().is_empty() {
                // It was to be one more; those that are there go on.
                inner.grow_after = Some(Instant::now() + delay());
                inner.connecting = false;
                return;
            }
        }
        match error {
            ConnectError::Http2 { .. } if pool.cluster.speaks_both() => fail_http2(&endpoint, error),
            error => fail(&endpoint, error),
        }
        pause = true;
    }
    pool.lock().connecting = false;
}

/// The peer is there, and does not speak HTTP/2: that is a failure for those who need it, and for nobody else.
fn fail_http2(endpoint: &Endpoint, error: ConnectError) {
    let pool = endpoint.transport();
    {
        let mut inner = pool.lock();
        inner.error = None;
        inner.http2_error = Some(error);
    }
    set_state(endpoint, if pool.cluster.uses(Wanted::Http1) { State::Ready } else { State::Failing });
    pool.cluster.queue.wake();
}

/// Whether requests that need HTTP/2 have nothing to wait for at this endpoint.
pub(crate) fn refuses_http2(endpoint: &Endpoint) -> bool {
    let pool = endpoint.transport();
    endpoint.state() == State::Failing || pool.lock().http2_error.is_some()
}

/// Gives endpoints that fail only by their lack of HTTP/2 to those who want HTTP/1.1; returns whether there are any.
pub(crate) fn allow_http1(endpoints: &[Arc<Endpoint>]) -> bool {
    let lacking = endpoints.iter().filter(|endpoint| endpoint.transport().lock().http2_error.is_some());
    lacking.map(|endpoint| set_state(endpoint, State::Ready)).count() > 0
}

fn fail(endpoint: &Endpoint, error: ConnectError) {
    let pool = endpoint.transport();
    let waiting = {
        let mut inner = pool.lock();
        inner.error = Some(error.clone());
        inner.http2_error = None;
        std::mem::take(&mut inner.waiting)
    };
    set_state(endpoint, State::Failing);
    for waiter in waiting {
        let _ = waiter.send(Err(error.clone()));
    }
}

enum Opened {
    H2(h2::Conn, Box<h2::Driver>),
    H1(h1::Conn, Box<h1::Driver>),
}

/// One connection attempt, TCP to HTTP, within the connect timeout.
async fn open(endpoint: &Endpoint, wanted: Wanted) -> Result<Opened, ConnectError> {
    let cluster = &endpoint.transport().cluster;
    let address = endpoint.address();
    let began = Instant::now();
    let deadline = began + cluster.connect_timeout;
    let attempt = async {
        let connected = connect::connect(cluster, address, deadline).await?;
        let h2 = match (wanted, connected.alpn_h2) {
            (Wanted::Http1, _) => false,
            (Wanted::Http2, _) => true,
            (Wanted::Negotiated, alpn) => alpn.unwrap_or(false),
        };
        if h2 {
            let (conn, driver) = h2::handshake(connected.stream, cluster, address, deadline).await?;
            Ok(Opened::H2(conn, Box::new(driver)))
        } else {
            let (conn, driver) = h1::handshake(connected.stream, address).await?;
            Ok(Opened::H1(conn, Box::new(driver)))
        }
    };
    let result = attempt.await;
    let error = result.as_ref().err().map(|error| error as observe::DynError<'_>);
    cluster.shared.observers.connect(&cluster.id, address, error, began.elapsed());
    result
}

/// Puts a new connection to use. `looped`: the connect loop made it, and ends with that.
fn install(endpoint: &Arc<Endpoint>, opened: Opened, looped: bool) {
    let pool = endpoint.transport();
    let tasks = &pool.cluster.shared.tasks;
    match opened {
        Opened::H2(conn, driver) => {
            let conn = Arc::new(conn);
            let waiting = {
                let mut inner = pool.lock();
                inner.connecting &= !looped;
                if inner.closed {
                    return;
                }
                inner.error = None;
                inner.http2_error = None;
                inner.grow_after = None;
                inner.negotiated_h2 = Some(true);
                pool.h2.rcu(|connections| {
                    let mut all = Vec::with_capacity(connections.len() + 1);
                    all.extend(connections.iter().cloned());
                    all.push(Arc::clone(&conn));
                    all
                });
                std::mem::take(&mut inner.waiting)
            };
            for waiter in waiting {
                // They wait for HTTP/1.1, which the peer spoke until now, and must look anew.
                let _ = waiter.send(Err(ConnectError::Closed { address: endpoint.address().clone() }));
            }
            let (weak, at) = (Arc::downgrade(&conn), Arc::downgrade(endpoint));
            tasks.spawn(async move {
                let leaving = |conn: &Arc<h2::Conn>| {
                    if let Some(endpoint) = at.upgrade() {
                        retire(&endpoint, conn);
                    }
                };
                let result = driver.run(Weak::clone(&weak), leaving).await;
                if let (Some(conn), Some(endpoint)) = (weak.upgrade(), at.upgrade()) {
                    if let Err(error) = result {
                        tracing::debug!(endpoint = %endpoint.address(), %error, "HTTP/2 connection ended");
                    }
                    conn.drain();
                    remove_h2(&endpoint, &conn);
                }
            });
            set_state(endpoint, State::Ready);
            pool.cluster.queue.wake();
        }
        Opened::H1(conn, driver) => {
            {
                let mut inner = pool.lock();
                inner.connecting &= !looped;
                inner.error = None;
                inner.negotiated_h2 = Some(false);
            }
            let address = endpoint.address().clone();
            tasks.spawn(async move {
                if let Err(error) = driver.await {
                    tracing::debug!(endpoint = %address, %error, "HTTP/1.1 connection ended");
                }
            });
            set_state(endpoint, State::Ready);
            give_back(endpoint, conn);
        }
    }
}

/// Puts a connection where the next request finds it.
pub(super) fn give_back(endpoint: &Endpoint, mut conn: h1::Conn) {
    let pool = endpoint.transport();
    let mut inner = pool.lock();
    if inner.closed || conn.send.is_closed() {
        return;
    }
    while let Some(waiter) = inner.waiting.pop_front() {
        match waiter.send(Ok(conn)) {
            Ok(()) => return,
            Err(Ok(unclaimed)) => conn = unclaimed,
            Err(Err(_)) => return,
        }
    }
    if inner.idle.len() < MAX_H1_IDLE {
        conn.since = Instant::now();
        inner.idle.push_back(conn);
    }
}

/// An HTTP/1.1 connection of `endpoint`: an idle one, or the first that becomes available.
///
/// A wait is bounded by the connection attempts that serve it: each one ends in a connection or in an error for all who
/// wait.
pub(crate) async fn lease(endpoint: &Arc<Endpoint>) -> Result<h1::Lease, NoLease> {
    let pool = endpoint.transport();
    while let Some(mut conn) = newest_idle(pool) {
        // It may still be finishing the response that gave it back.
        let ready =
            conn.send.is_ready() || matches!(tokio::time::timeout(H1_SETTLE, conn.send.ready()).await, Ok(Ok(())));
        if ready {
            return Ok(h1::Lease::new(conn, Arc::clone(endpoint)));
        }
    }
    let receiver = {
        let mut inner = pool.lock();
        if inner.closed {
            return Err(NoLease::Lost(ConnectError::Closed { address: endpoint.address().clone() }));
        }
        while inner.waiting.front().is_some_and(oneshot::Sender::is_closed) {
            inner.waiting.pop_front();
        }
        if inner.waiting.len() >= MAX_H1_WAITING {
            return Err(NoLease::Full);
        }
        let (sender, receiver) = oneshot::channel();
        inner.waiting.push_back(sender);
        if inner.claim_opening() {
            let tasks = &pool.cluster.shared.tasks;
            tasks.spawn_until_stop(open_for_waiters(Arc::clone(endpoint)));
        }
        receiver
    };
    match receiver.await {
        Ok(Ok(conn)) => Ok(h1::Lease::new(conn, Arc::clone(endpoint))),
        Ok(Err(error)) => Err(NoLease::Lost(error)),
        Err(_) => Err(NoLease::Lost(ConnectError::Closed { address: endpoint.address().clone() })),
    }
}

/// Why there is no HTTP/1.1 connection for a request.
pub(crate) enum NoLease {
    /// None could be made.
    Lost(ConnectError),
    /// Too many wait already.
    Full,
}

/// The idle connection that was used last, which is the least likely to be closed by the peer; one that still settles
/// only if there is no other.
fn newest_idle(pool: &Pool) -> Option<h1::Conn> {
    let now = Instant::now();
    let mut inner = pool.lock();
    // Oldest first: those behind a young one are younger.
    while inner.idle.front().is_some_and(|conn| conn.send.is_closed() || now - conn.since >= H1_IDLE_TIMEOUT) {
        inner.idle.pop_front();
    }
    match inner.idle.iter().rposition(|conn| conn.send.is_ready()) {
        Some(index) => inner.idle.remove(index),
        None => inner.idle.pop_back(),
    }
}

/// Opens connections while more requests wait than connections are on their way.
async fn open_for_waiters(endpoint: Arc<Endpoint>) {
    let wanted = endpoint.transport().cluster.used().filter(|used| *used == Wanted::Negotiated);
    let wanted = wanted.unwrap_or(Wanted::Http1);
    let pool = endpoint.transport();
    loop {
        let result = open(&endpoint, wanted).await;
        pool.lock().opening -= 1;
        match result {
            Ok(opened) => install(&endpoint, opened, false),
            Err(error) => {
                fail(&endpoint, error);
                return run(&endpoint, wanted, Pause::Yes);
            }
        }
        if !pool.lock().claim_opening() {
            return;
        }
    }
}

//! HTTP/1.1 connections: each serves one request at a time, and idles in between.

use std::sync::Arc;
use std::time::Duration;

use mesh_core::balance::State;
use mesh_core::resilience::backoff::ConnectBackoffState;
use mesh_core::resilience::limits::Limit;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::connecting::{Opened, Pause, fail, install, open, run};
use super::driving::drive_h1;
use super::{Inner, Pool, closed, in_order};
use crate::net::account::Claim;
use crate::net::{ConnectError, Endpoint, MAX_WAIT, Queue, Wanted, after, h1};

/// The most idle HTTP/1.1 connections kept for one endpoint.
const MAX_H1_IDLE: usize = 64;
/// The most HTTP/1.1 connections on their way to one endpoint at once; who comes later gets those that are given back.
const MAX_H1_OPENING: usize = 256;
/// The most requests that wait for an HTTP/1.1 connection of one endpoint.
const MAX_H1_WAITING: usize = Queue::CAPACITY as usize;
/// How long a connection that was just given back may take to become ready.
const H1_SETTLE: Duration = Duration::from_millis(5);

impl Inner {
    /// Whether a request waits for a connection that is not on its way.
    fn wants_opening(&mut self) -> bool {
        self.forget_gone();
        !self.closed && self.opening < self.waiting.len().min(MAX_H1_OPENING)
    }

    /// Forgets those who have given up, as far as they are first.
    fn forget_gone(&mut self) {
        while self.waiting.front().is_some_and(oneshot::Sender::is_closed) {
            self.waiting.pop_front();
        }
    }

    /// Counts one more connection on its way, if a request waits for it and there may be one more.
    fn claim_opening(&mut self, pool: &Pool) -> Option<Claim> {
        if !self.wants_opening() {
            return None;
        }
        let claim = pool.claim(u32::from(self.live_h1 + self.opening == 0))?;
        self.opening += 1;
        Some(claim)
    }
}

/// Opens a connection if a request waits for one that is not on its way.
pub(super) fn open_more(endpoint: &Arc<Endpoint>) {
    let pool = endpoint.transport();
    let (claim, wants) = {
        let mut inner = pool.lock();
        let claim = inner.claim_opening(pool);
        (claim, inner.wants_opening())
    };
    match claim {
        Some(claim) => {
            let opening = open_for_waiters(Arc::clone(endpoint), claim);
            pool.cluster.shared.tasks.spawn_until_stop(opening);
        }
        None if wants => {
            Claim::is_refused(&pool.cluster);
        }
        None => {}
    }
}

/// Puts a connection where the next request finds it.
pub(in crate::net) fn give_back(endpoint: &Endpoint, mut conn: h1::Conn) {
    let pool = endpoint.transport();
    // What we asked on our own account is no use of it.
    let aside = std::mem::take(&mut conn.aside);
    let mut inner = pool.lock();
    // Idle: it stands by while another endpoint serves.
    let now = Instant::now();
    if inner.closed || conn.send.is_closed() || conn.is_spent(now) || endpoint.state() == State::Idle {
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
        if !aside {
            conn.since = now;
        }
        let place = inner.idle.partition_point(|other| other.since <= conn.since);
        inner.idle.insert(place, conn);
    }
}

/// An HTTP/1.1 connection of `endpoint`: an idle one, or the first that becomes available. `fresh`: a new one, because
/// the last one turned out to be stale.
///
/// `max_pending` is how many requests of the backend may wait at once, if its configuration says.
pub(crate) async fn lease(
    endpoint: &Arc<Endpoint>,
    fresh: bool,
    max_pending: Option<u32>,
) -> Result<h1::Lease, NoLease> {
    let pool = endpoint.transport();
    if fresh {
        return receive(endpoint, open_fresh(endpoint)).await;
    }
    if let Some(lease) = lease_idle(endpoint).await {
        return Ok(lease);
    }
    let _waiting = pool.cluster.queue.step_aside(max_pending).map_err(NoLease::Full)?;
    wait(endpoint).await
}

/// A connection for a request of our own, which is not among those that wait, and no use of the connection: it counts
/// neither against `max_requests` nor the idle timeout. Otherwise as [`lease`].
pub(crate) async fn lease_aside(endpoint: &Arc<Endpoint>, fresh: bool) -> Result<h1::Lease, NoLease> {
    if fresh {
        return Ok(receive(endpoint, open_fresh(endpoint)).await?.aside());
    }
    let lease = match lease_idle(endpoint).await {
        Some(lease) => lease,
        None => wait(endpoint).await?,
    };
    Ok(lease.aside())
}

async fn lease_idle(endpoint: &Arc<Endpoint>) -> Option<h1::Lease> {
    let pool = endpoint.transport();
    while let Some(mut conn) = newest_idle(pool) {
        if conn.is_spent(Instant::now()) {
            continue;
        }
        // It may still be finishing the response that gave it back.
        let ready =
            conn.send.is_ready() || matches!(tokio::time::timeout(H1_SETTLE, conn.send.ready()).await, Ok(Ok(())));
        if ready {
            return Some(h1::Lease::new(conn, Arc::clone(endpoint)));
        }
    }
    None
}

/// The first connection that becomes available.
async fn wait(endpoint: &Arc<Endpoint>) -> Result<h1::Lease, NoLease> {
    let pool = endpoint.transport();
    let receiver = {
        let mut inner = pool.lock();
        if inner.closed {
            return Err(NoLease::Lost(closed(endpoint)));
        }
        inner.forget_gone();
        if inner.waiting.len() >= MAX_H1_WAITING {
            return Err(NoLease::Full(Limit::PendingRequests));
        }
        let (sender, receiver) = oneshot::channel();
        inner.waiting.push_back(sender);
        receiver
    };
    receive(endpoint, receiver).await
}

async fn receive(
    endpoint: &Arc<Endpoint>,
    mut receiver: oneshot::Receiver<Result<h1::Conn, ConnectError>>,
) -> Result<h1::Lease, NoLease> {
    let received = async {
        loop {
            let freed = endpoint.transport().cluster.account.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            open_more(endpoint);
            tokio::select! {
                biased;
                result = &mut receiver => return result,
                () = freed => {}
            }
        }
    };
    match tokio::time::timeout(MAX_WAIT, received).await {
        Ok(Ok(Ok(conn))) => Ok(h1::Lease::new(conn, Arc::clone(endpoint))),
        Ok(Ok(Err(error))) => Err(NoLease::Lost(error)),
        Ok(Err(_)) => Err(NoLease::Lost(closed(endpoint))),
        Err(_) => Err(NoLease::Stuck),
    }
}

/// Why there is no HTTP/1.1 connection for a request.
pub(crate) enum NoLease {
    /// None could be made.
    Lost(ConnectError),
    /// Too many wait already.
    Full(Limit),
    /// None came back within [`MAX_WAIT`], and no more could be made.
    Stuck,
}

/// The idle connection that was used last, which is the least likely to be closed by the peer; one that still settles
/// only if there is no other.
fn newest_idle(pool: &Pool) -> Option<h1::Conn> {
    let (now, timeout) = (Instant::now(), pool.h1_idle_timeout());
    let mut inner = pool.lock();
    // Oldest first: those behind a young one are younger.
    while inner.idle.front().is_some_and(|conn| conn.send.is_closed() || now >= after(conn.since, timeout)) {
        inner.idle.pop_front();
    }
    match inner.idle.iter().rposition(|conn| conn.send.is_ready()) {
        Some(index) => inner.idle.remove(index),
        None => inner.idle.pop_back(),
    }
}

/// What is asked of a connection for HTTP/1.1: whoever leaves it to ALPN may get HTTP/2.
fn wanted(pool: &Pool) -> Wanted {
    pool.cluster.wanted(false).filter(|wanted| *wanted == Wanted::Negotiated).unwrap_or(Wanted::Http1)
}

/// Opens connections while more requests wait than connections are on their way.
async fn open_for_waiters(endpoint: Arc<Endpoint>, mut claim: Claim) {
    let pool = endpoint.transport();
    let wanted = wanted(pool);
    let mut backoff = ConnectBackoffState::new();
    loop {
        match open(&endpoint, wanted, claim).await {
            Ok(opened) => {
                pool.lock().opening -= 1;
                install(&endpoint, opened, None);
            }
            Err(error) if pool.lock().live_h1 == 0 => {
                pool.lock().opening -= 1;
                return lose(&endpoint, error, wanted);
            }
            Err(_) => {
                // It was to be one more; those that are there go on, and serve who waits.
                let delay = backoff.next_delay(&pool.cluster.connect_backoff, &mut rand::rng());
                tokio::time::sleep(delay).await;
                pool.lock().opening -= 1;
            }
        }
        let Some(next) = pool.lock().claim_opening(pool) else { return };
        claim = next;
    }
}

/// There is no connection any more, and none can be made.
fn lose(endpoint: &Arc<Endpoint>, error: ConnectError, wanted: Wanted) {
    fail(endpoint, error, None);
    run(endpoint, wanted, Pause::Yes);
    in_order::resume(&endpoint.transport().cluster, wanted);
}

/// Opens a connection for one request alone. It goes on if the request is cancelled, and the next one finds it.
fn open_fresh(endpoint: &Arc<Endpoint>) -> oneshot::Receiver<Result<h1::Conn, ConnectError>> {
    let (sender, receiver) = oneshot::channel();
    let at = Arc::clone(endpoint);
    endpoint.transport().cluster.shared.tasks.spawn_until_stop(async move {
        let wanted = wanted(at.transport());
        // Above the limit if need be: the one that was stale counts until it has ended.
        let claim = at.transport().claim(u32::MAX);
        let opened = match claim {
            Some(claim) => open(&at, wanted, claim).await,
            None => Err(closed(&at)),
        };
        let result = match opened {
            Ok(Opened::H1(conn, driver, claim)) => Ok(drive_h1(&at, conn, *driver, claim)),
            Ok(opened) => {
                install(&at, opened, None);
                Err(closed(&at))
            }
            Err(error) => {
                if at.transport().lock().live_h1 == 0 {
                    lose(&at, error.clone(), wanted);
                }
                Err(error)
            }
        };
        if let Err(Ok(conn)) = sender.send(result) {
            give_back(&at, conn);
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_opened_for_those_who_gave_up() {
        let mut inner = Inner::default();
        let (sender, receiver) = oneshot::channel();
        inner.waiting.push_back(sender);
        assert!(inner.wants_opening());
        drop(receiver);
        assert!(!inner.wants_opening());
    }
}

//! Running HTTP/1.1 connections, and closing those that idle for too long.

use std::sync::Arc;
use std::time::Duration;

use mesh_core::balance::State;
use tokio::time::Instant;

use super::leasing::open_more;
use super::{Pool, set_state};
use crate::net::account::Claim;
use crate::net::{Endpoint, after, h1};
use crate::telemetry::metrics::BackendSeries;

/// How long an HTTP/1.1 connection may idle and still be used: below the 60 s at which common servers and load
/// balancers close.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);

impl Pool {
    /// How long an HTTP/1.1 connection may idle.
    pub(super) fn h1_idle_timeout(&self) -> Duration {
        let configured = self.cluster.account.policy().kept.idle_timeout;
        configured.map_or(IDLE_TIMEOUT, |timeout| timeout.min(IDLE_TIMEOUT))
    }
}

/// Runs a new HTTP/1.1 connection.
pub(super) fn drive_h1(endpoint: &Arc<Endpoint>, mut conn: h1::Conn, driver: h1::Driver, claim: Claim) -> h1::Conn {
    let pool = endpoint.transport();
    {
        let mut inner = pool.lock();
        inner.error = None;
        inner.negotiated_h2 = Some(false);
        inner.live_h1 += 1;
        inner.made_h1 += 1;
        conn.number = inner.made_h1;
    }
    let (at, number) = (Arc::clone(endpoint), conn.number);
    let open = pool.cluster.series.as_ref().map(BackendSeries::opened);
    pool.cluster.shared.tasks.spawn(async move {
        let _open = open;
        if let Err(error) = run(&at, number, driver).await {
            tracing::debug!(endpoint = %at.address(), %error, "HTTP/1.1 connection ended");
        }
        at.transport().lock().live_h1 -= 1;
        drop(claim);
        // Whoever waited for it may have nobody else to wait for.
        open_more(&at);
    });
    set_state(endpoint, State::Ready);
    conn
}

async fn run(endpoint: &Endpoint, number: u64, mut driver: h1::Driver) -> Result<(), hyper::Error> {
    let first = after(Instant::now(), endpoint.transport().h1_idle_timeout());
    let mut timer = std::pin::pin!(tokio::time::sleep_until(first));
    loop {
        tokio::select! {
            result = &mut driver => return result,
            () = timer.as_mut() => timer.as_mut().reset(close_idle(endpoint.transport(), number)),
        }
    }
}

/// Closes the connections that have idled for too long, and returns when to look again on behalf of connection `number`.
fn close_idle(pool: &Pool, number: u64) -> Instant {
    let (now, timeout) = (Instant::now(), pool.h1_idle_timeout());
    let mut closed = Vec::new();
    let mut inner = pool.lock();
    // Oldest first: those behind a young one are younger.
    while inner.idle.front().is_some_and(|conn| now >= after(conn.since, timeout)) {
        closed.extend(inner.idle.pop_front());
    }
    let own = inner.idle.iter().find(|conn| conn.number == number);
    let next = own.map_or(now, |conn| conn.since);
    drop(inner);
    drop(closed);
    after(next, timeout).max(now + Duration::from_millis(1))
}

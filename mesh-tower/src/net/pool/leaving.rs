//! How HTTP/2 connections leave their pool, and what follows: another one, or rest.

use std::sync::Arc;

use mesh_core::balance::State;
use tokio::time::Instant;

use super::connecting::{Pause, run};
use super::{MAX_H2_CONNECTIONS, announce, in_order, set_state};
use crate::net::{Endpoint, h2};

/// Who ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// The peer, or the network.
    Theirs,
    /// We did, and go on with another one.
    Ours,
    /// We did, because nobody needs it.
    Idle,
}

/// A connection of the endpoint said that it takes no more requests.
pub(crate) fn retire(endpoint: &Arc<Endpoint>, conn: &Arc<h2::Conn>) {
    give_up(endpoint, conn, Loss::Theirs);
}

pub(super) fn give_up(endpoint: &Arc<Endpoint>, conn: &Arc<h2::Conn>, loss: Loss) {
    if conn.drain() {
        remove_h2(endpoint, conn, loss);
    }
}

/// The driver of a connection wants it to leave.
pub(super) fn leave(endpoint: &Arc<Endpoint>, conn: &Arc<h2::Conn>, leaving: h2::Leaving) {
    match leaving {
        h2::Leaving::Refused { pings } => {
            if pings {
                let mut inner = endpoint.transport().lock();
                inner.complaints = inner.complaints.saturating_add(1);
            }
            give_up(endpoint, conn, Loss::Theirs);
        }
        h2::Leaving::Idle => give_up(endpoint, conn, Loss::Idle),
        h2::Leaving::Aged => renew(endpoint, conn),
    }
}

/// Replaces an old connection: it goes once another one is there. Where none can be made it is asked for again later.
fn renew(endpoint: &Arc<Endpoint>, conn: &Arc<h2::Conn>) {
    conn.age();
    let pool = endpoint.transport();
    let connections = pool.h2().load();
    if connections.len() >= MAX_H2_CONNECTIONS || connections.iter().any(|conn| !conn.is_aged()) {
        drop(connections);
        give_up(endpoint, conn, Loss::Ours);
    } else {
        run(endpoint, pool.cluster.reconnects_by(), Pause::No);
    }
}

pub(super) fn remove_h2(endpoint: &Arc<Endpoint>, conn: &Arc<h2::Conn>, loss: Loss) {
    let pool = endpoint.transport();
    let mut removed = false;
    pool.h2().rcu(|connections| {
        let rest: Vec<_> = connections.iter().filter(|other| !Arc::ptr_eq(other, conn)).cloned().collect();
        removed = rest.len() < connections.len();
        rest
    });
    if removed && pool.h2().load().is_empty() {
        match loss {
            Loss::Idle => rest(endpoint),
            Loss::Theirs | Loss::Ours if !pool.lock().closed => {
                set_state(endpoint, State::Connecting);
                let wanted = pool.cluster.reconnects_by();
                let young = loss == Loss::Theirs && conn.since.elapsed() < pool.cluster.connect_backoff.base;
                run(endpoint, wanted, if young { Pause::UnlessServed(Arc::clone(conn)) } else { Pause::No });
                in_order::resume(&pool.cluster, wanted);
            }
            Loss::Theirs | Loss::Ours => {}
        }
    }
    pool.cluster.queue.wake_all();
}

/// The last HTTP/2 connection is gone, and nobody misses it: the endpoint waits for the next request.
fn rest(endpoint: &Endpoint) {
    let pool = endpoint.transport();
    let changed = {
        let inner = pool.lock();
        // A newcomer may be here already, or on its way; and HTTP/1.1 needs no connection to be ready.
        let needed = inner.connecting.is_some() || inner.live_h1 > 0 || pool.cluster.serves_http1();
        !inner.closed
            && !needed
            && pool.h2().load().is_empty()
            && endpoint.set_state(State::Idle, Instant::now().into_std()) != State::Idle
    };
    if changed {
        announce(endpoint, State::Idle);
    }
}

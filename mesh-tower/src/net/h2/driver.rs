//! The task side of an HTTP/2 connection.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::Poll;

use ::h2::Reason;
use ::h2::client::Connection;
use bytes::Bytes;

use super::life::{Life, Verdict};
use super::{Conn, Status};
use crate::net::Cluster;
use crate::net::pulse::Watched;

/// The task side of a connection: must be polled for the connection to live.
pub(crate) struct Driver {
    pub(super) connection: Connection<Watched, Bytes>,
    pub(super) status: Arc<Status>,
    pub(super) cluster: Arc<Cluster>,
    pub(super) life: Life,
}

/// Why a connection leaves its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::net) enum Leaving {
    /// It broke, or its peer wants no more requests.
    Refused {
        /// Because of too many pings (gRFC A8).
        pings: bool,
    },
    /// Nobody uses it.
    Idle,
    /// It is old: once there is another one.
    Aged,
}

pub(super) fn limit_of(connection: &Connection<Watched, Bytes>) -> u32 {
    connection.max_concurrent_send_streams().try_into().unwrap_or(u32::MAX)
}

impl Driver {
    /// Drives the connection to its end. Calls `leave` once the peer takes no more requests: streams may go on for
    /// long after a GOAWAY, and a connection that is full of them is asked by no request that could find out; and when
    /// it is idle or old.
    ///
    /// Under load it lets the tasks that are ready go first, once each time it is woken: what they put on the connection
    /// then leaves in one write, where each would have cost a system call, here and at the peer.
    pub(in crate::net) async fn run(
        mut self,
        conn: Weak<Conn>,
        leave: impl Fn(&Arc<Conn>, Leaving),
    ) -> Result<(), ::h2::Error> {
        let mut let_others_go = true;
        let result = poll_fn(|cx| {
            if std::mem::take(&mut let_others_go) && self.status.in_flight.load(Ordering::Relaxed) > 1 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let_others_go = true;
            let mut result = Pin::new(&mut self.connection).poll(cx);
            let verdict = if result.is_pending() { self.life.poll(cx, &self.status) } else { None };
            if verdict == Some(Verdict::Dead) {
                // Its stream fails now, and tells all requests on it why.
                result = Pin::new(&mut self.connection).poll(cx);
                if result.is_pending() {
                    result = Poll::Ready(Ok(()));
                }
            }
            if !self.status.draining.load(Ordering::Acquire)
                && let Some(conn) = conn.upgrade()
            {
                let refusal = conn.refusal(cx);
                let leaving = match (&refusal, verdict) {
                    (Some(error), _) => Some(Leaving::Refused { pings: complains_of_pings(error) }),
                    (None, Some(Verdict::Idle)) => Some(Leaving::Idle),
                    (None, Some(Verdict::Aged)) => Some(Leaving::Aged),
                    (None, Some(Verdict::Dead) | None) => None,
                };
                if let Some(leaving) = leaving {
                    leave(&conn, leaving);
                }
            }
            let limit = limit_of(&self.connection);
            if self.status.limit.swap(limit, Ordering::AcqRel) < limit {
                self.cluster.queue.wake_all();
            }
            result
        })
        .await;
        self.status.draining.store(true, Ordering::Release);
        result
    }
}

/// Whether the peer left because it was asked too often whether it lives (gRFC A8). `h2` gives the debug data of a
/// GOAWAY in the text alone.
fn complains_of_pings(error: &::h2::Error) -> bool {
    error.is_go_away()
        && error.reason() == Some(Reason::ENHANCE_YOUR_CALM)
        && error.to_string().contains("too_many_pings")
}

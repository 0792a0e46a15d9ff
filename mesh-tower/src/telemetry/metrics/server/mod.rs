//! The counters of a server.

mod methods;
mod peers;
mod requests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;

use super::instruments::Histograms;

pub(crate) use self::methods::MethodSeries;
pub(crate) use self::peers::Served;
pub(crate) use self::requests::{HttpKind, Requests};
use super::lock;
use crate::telemetry::server::ConnectionRefusal;

/// What happened to one server of this mesh. Connections are counted whether anybody asks or not.
#[derive(Debug)]
pub(crate) struct ServerSeries {
    pub(super) name: Arc<str>,
    pub(super) accepted: AtomicU64,
    /// By [`ConnectionRefusal`].
    pub(super) turned_away: [AtomicU64; ConnectionRefusal::ALL.len()],
    opened: AtomicU64,
    closed: AtomicU64,
    pub(super) handshakes: AtomicU64,
    /// By reason.
    failed_handshakes: Mutex<BTreeMap<&'static str, u64>>,
    /// What is counted of requests, if anybody asks.
    pub(crate) requests: Option<Requests>,
}

impl ServerSeries {
    /// Of connections alone.
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            accepted: AtomicU64::new(0),
            turned_away: Default::default(),
            opened: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            handshakes: AtomicU64::new(0),
            failed_handshakes: Mutex::default(),
            requests: None,
        }
    }

    pub(super) fn with_requests(mut self, histograms: &Arc<Histograms>) -> Self {
        self.requests = Some(Requests::new(&self.name, histograms));
        self
    }

    /// The listener has a new connection.
    pub(crate) fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection was closed before it served anything.
    pub(crate) fn refused(&self, why: ConnectionRefusal) {
        self.turned_away[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A connection is open until the guard is dropped.
    pub(crate) fn opened(self: &Arc<Self>) -> OpenServed {
        self.opened.fetch_add(1, Ordering::Relaxed);
        OpenServed(Arc::clone(self))
    }

    /// The connections that are open.
    pub(crate) fn open(&self) -> u64 {
        // Read in this order, so that one which opens and closes meanwhile makes it too large and never negative.
        let closed = self.closed.load(Ordering::Acquire);
        self.opened.load(Ordering::Acquire).saturating_sub(closed)
    }

    /// A TLS handshake ended: it took so long, or failed for this reason.
    pub(crate) fn handshake(&self, result: Result<Duration, &'static str>) {
        match result {
            Ok(took) => {
                self.handshakes.fetch_add(1, Ordering::Relaxed);
                if let Some(requests) = &self.requests {
                    requests.shook_hands(took);
                }
            }
            Err(reason) => *lock(&self.failed_handshakes).entry(reason).or_default() += 1,
        }
    }

    pub(super) fn failed_handshakes(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.failed_handshakes).clone()
    }

    pub(super) fn attribute(&self) -> KeyValue {
        KeyValue::new("mesh.server", Arc::clone(&self.name))
    }

    /// Lets go of callers that were not heard of for [`KEEP`].
    pub(super) fn sweep(&self, now: Instant) {
        if let Some(requests) = &self.requests {
            requests.sweep(now);
        }
    }
}

/// An open connection of a server.
#[derive(Debug)]
pub(crate) struct OpenServed(Arc<ServerSeries>);

impl Drop for OpenServed {
    fn drop(&mut self) {
        self.0.closed.fetch_add(1, Ordering::Release);
    }
}

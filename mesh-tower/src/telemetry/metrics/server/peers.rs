//! The callers of a server.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use arc_swap::ArcSwap;
use http::StatusCode;
use mesh_core::grpc::Code;

use super::super::index::Index;
use super::super::table::OTHER;
use super::super::{KEEP, lock};
use super::methods::hash;

/// The most callers of a server that are told apart (TL-05).
const MAX_PEERS: usize = 200;
/// What a caller is called that has not proved who it is.
const NOBODY: &str = "none";

/// How a request ended, as far as its caller is concerned: what is counted of each caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Served {
    Ok,
    /// HTTP 4xx, and the codes of gRPC that blame the call.
    ClientError,
    /// HTTP 5xx, and the codes of gRPC that blame the server (OpenTelemetry's conventions for gRPC servers).
    ServerError,
    /// The server did not serve it.
    Refused,
    /// Its caller went away.
    Cancelled,
}

impl Served {
    pub(in super::super) const ALL: [Self; 5] =
        [Self::Ok, Self::ClientError, Self::ServerError, Self::Refused, Self::Cancelled];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ClientError => "client_error",
            Self::ServerError => "server_error",
            Self::Refused => "refused",
            Self::Cancelled => "cancelled",
        }
    }

    pub(crate) fn of_status(status: StatusCode) -> Self {
        match status.as_u16() {
            500.. => Self::ServerError,
            400.. => Self::ClientError,
            _ => Self::Ok,
        }
    }

    pub(crate) fn of_code(code: Code) -> Self {
        match code {
            Code::Ok => Self::Ok,
            Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => Self::ServerError,
            _ => Self::ClientError,
        }
    }
}

/// The requests of one caller.
#[derive(Debug)]
pub(super) struct PeerSeries {
    pub(super) name: Arc<str>,
    /// By [`Served`].
    pub(super) counts: [AtomicU64; Served::ALL.len()],
    /// The sum of them when it was last looked at, and since when it is that.
    seen: Mutex<Option<(u64, Instant)>>,
}

impl PeerSeries {
    fn new(name: &str) -> Arc<Self> {
        Arc::new(Self { name: name.into(), counts: Default::default(), seen: Mutex::default() })
    }

    fn is_idle(&self, now: Instant) -> bool {
        let activity = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).fold(0, u64::wrapping_add);
        let mut seen = lock(&self.seen);
        let (last, since) = seen.get_or_insert((activity, now));
        if *last != activity {
            (*last, *since) = (activity, now);
        }
        now.saturating_duration_since(*since) >= KEEP
    }
}

/// The callers that proved who they are, those that did not, and those that there is no more room for.
#[derive(Debug)]
pub(super) struct Peers {
    known: ArcSwap<Index<Arc<PeerSeries>>>,
    writer: Mutex<()>,
    nobody: Arc<PeerSeries>,
    other: Arc<PeerSeries>,
}

impl Default for Peers {
    fn default() -> Self {
        let (nobody, other) = (PeerSeries::new(NOBODY), PeerSeries::new(OTHER));
        Self { known: ArcSwap::default(), writer: Mutex::default(), nobody, other }
    }
}

impl Peers {
    pub(super) fn count(&self, peer: Option<&str>, served: Served) {
        let count = |series: &PeerSeries| series.counts[served as usize].fetch_add(1, Ordering::Relaxed);
        let Some(name) = peer else {
            count(&self.nobody);
            return;
        };
        let known = self.known.load();
        match known.find(hash(name), |series| *series.name == *name) {
            Some(series) => count(series),
            None if known.len() >= MAX_PEERS => count(&self.other),
            None => count(&self.enter(name)),
        };
    }

    #[cold]
    fn enter(&self, name: &str) -> Arc<PeerSeries> {
        let _writer = lock(&self.writer);
        let known = self.known.load();
        if let Some(series) = known.find(hash(name), |series| *series.name == *name) {
            return Arc::clone(series);
        }
        if known.len() >= MAX_PEERS {
            return Arc::clone(&self.other);
        }
        let series = PeerSeries::new(name);
        self.known.store(Arc::new(known.with(hash(name), Arc::clone(&series))));
        series
    }

    pub(super) fn sweep(&self, now: Instant) {
        // Each of them is looked at, so that it is known since when it is idle.
        let idle = self.known.load().iter().filter(|(_, peer)| peer.is_idle(now)).count();
        if idle == 0 {
            return;
        }
        let _writer = lock(&self.writer);
        let stay = self.known.load().iter().filter(|(_, peer)| !peer.is_idle(now)).cloned().collect();
        self.known.store(Arc::new(Index::new(stay)));
    }

    pub(super) fn all(&self) -> Vec<Arc<PeerSeries>> {
        let known = self.known.load();
        known.iter().map(|(_, peer)| peer).chain([&self.nobody, &self.other]).cloned().collect()
    }
}

//! The counters of backends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use mesh_core::model::BackendId;
use mesh_core::resilience::limits::Limit;
use mesh_core::resilience::outlier::{Cause, EjectionChange, Unenforced};
use opentelemetry::KeyValue;

use super::{KEEP, target};

/// What happened to one backend, in this mesh.
#[derive(Debug)]
pub(crate) struct BackendSeries {
    pub(super) id: BackendId,
    pub(super) picks: [AtomicU64; Picked::ALL.len()],
    pub(super) connected: AtomicU64,
    pub(super) not_connected: AtomicU64,
    pub(super) disconnected: AtomicU64,
    opened: AtomicU64,
    /// By [`Limit`].
    pub(super) overflows: [AtomicU64; Limit::ALL.len()],
    /// By [`Cause`].
    pub(super) ejections: [AtomicU64; Cause::ALL.len()],
    /// By [`Unenforced`].
    pub(super) spared: [[AtomicU64; Unenforced::ALL.len()]; Cause::ALL.len()],
    /// Answers to health checks: bad ones, good ones.
    pub(super) health_checks: [AtomicU64; 2],
    /// Whether gRPC calls asked for it.
    grpc: AtomicBool,
}

/// How a request came to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Picked {
    /// There was one.
    AtOnce = 0,
    /// It had to wait for one.
    Waited = 1,
    /// There was none for it.
    Failed = 2,
}

impl Picked {
    pub(super) const ALL: [Self; 3] = [Self::AtOnce, Self::Waited, Self::Failed];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::AtOnce => "immediate",
            Self::Waited => "waited",
            Self::Failed => "failed",
        }
    }
}

impl BackendSeries {
    fn new(id: BackendId) -> Self {
        Self {
            id,
            picks: Default::default(),
            connected: AtomicU64::new(0),
            not_connected: AtomicU64::new(0),
            disconnected: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            overflows: Default::default(),
            ejections: Default::default(),
            spared: Default::default(),
            health_checks: Default::default(),
            grpc: AtomicBool::new(false),
        }
    }

    /// A request asked for an endpoint.
    pub(crate) fn picked(&self, result: Picked, grpc: bool) {
        self.picks[result as usize].fetch_add(1, Ordering::Relaxed);
        if grpc && !self.grpc.load(Ordering::Relaxed) {
            self.grpc.store(true, Ordering::Relaxed);
        }
    }

    /// Whether gRPC calls asked for it.
    pub(super) fn serves_grpc(&self) -> bool {
        self.grpc.load(Ordering::Relaxed)
    }

    /// Whether anybody asked for it, or it was connected all the same.
    pub(super) fn was_used(&self) -> bool {
        self.activity() > 0 || self.opened.load(Ordering::Relaxed) > 0
    }

    /// A request was refused by a limit.
    pub(crate) fn overflowed(&self, limit: Limit) {
        self.overflows[limit as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// An endpoint was taken out, or might have been.
    pub(crate) fn ejection(&self, change: EjectionChange) {
        match change {
            EjectionChange::Ejected { cause, .. } => &self.ejections[cause as usize],
            EjectionChange::Spared { cause, reason } => &self.spared[cause as usize][reason as usize],
            _ => return,
        }
        .fetch_add(1, Ordering::Relaxed);
    }

    /// An endpoint answered a health check, or did not.
    pub(crate) fn health_checked(&self, good: bool) {
        self.health_checks[usize::from(good)].fetch_add(1, Ordering::Relaxed);
    }

    /// A connection attempt ended.
    pub(crate) fn connect_ended(&self, succeeded: bool) {
        let count = if succeeded { &self.connected } else { &self.not_connected };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection is open until the guard is dropped.
    pub(crate) fn opened(self: &Arc<Self>) -> OpenConnection {
        self.opened.fetch_add(1, Ordering::Relaxed);
        OpenConnection(Arc::clone(self))
    }

    /// The connections that are open.
    pub(super) fn open(&self) -> u64 {
        // Read in this order, so that one which opens and closes meanwhile makes it too large and never negative.
        let closed = self.disconnected.load(Ordering::Acquire);
        self.opened.load(Ordering::Acquire).saturating_sub(closed)
    }

    fn activity(&self) -> u64 {
        let counts = self.picks.iter().chain([&self.connected, &self.not_connected, &self.disconnected]);
        counts.fold(0, |sum, count| sum.wrapping_add(count.load(Ordering::Relaxed)))
    }

    /// What our own metrics of backends are told apart by.
    pub(super) fn attributes(&self) -> Vec<KeyValue> {
        vec![
            KeyValue::new("mesh.service", Arc::clone(&self.id.service)),
            KeyValue::new("mesh.backend", Arc::clone(&self.id.name)),
        ]
    }

    /// What gRPC's metrics of subchannels are told apart by (gRFC A94).
    pub(super) fn grpc_attributes(&self) -> [KeyValue; 2] {
        [
            KeyValue::new("grpc.lb.backend_service", Arc::clone(&self.id.name)),
            KeyValue::new("grpc.target", target::grpc(&self.id.service)),
        ]
    }
}

/// An open connection. Dropping it counts a disconnection.
#[derive(Debug)]
pub(crate) struct OpenConnection(Arc<BackendSeries>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.disconnected.fetch_add(1, Ordering::Release);
    }
}

/// Every backend that is shown. As many as the configuration has and had in the last [`KEEP`].
#[derive(Debug, Default)]
pub(super) struct Backends(BTreeMap<BackendId, Entry>);

#[derive(Debug)]
struct Entry {
    series: Arc<BackendSeries>,
    /// If it left: its activity when it was looked at, and since when it is that.
    left: Option<(u64, Instant)>,
}

impl Backends {
    pub(super) fn series(&mut self, id: &BackendId) -> Arc<BackendSeries> {
        let new = || Entry { series: Arc::new(BackendSeries::new(id.clone())), left: None };
        Arc::clone(&self.0.entry(id.clone()).or_insert_with(new).series)
    }

    /// Takes note of which are part of the configuration.
    pub(super) fn mark(&mut self, is_in: impl Fn(&BackendId) -> bool, now: Instant) {
        for (id, entry) in &mut self.0 {
            if is_in(id) {
                entry.left = None;
            } else {
                entry.left.get_or_insert_with(|| (entry.series.activity(), now));
            }
        }
    }

    /// Lets go of those that left and were not used for [`KEEP`].
    pub(super) fn sweep(&mut self, now: Instant) {
        self.0.retain(|_, entry| {
            let Some((seen, since)) = &mut entry.left else { return true };
            let activity = entry.series.activity();
            if *seen != activity {
                (*seen, *since) = (activity, now);
            }
            now.saturating_duration_since(*since) < KEEP || entry.series.open() > 0
        });
    }

    pub(super) fn all(&self) -> Vec<Arc<BackendSeries>> {
        self.0.values().map(|entry| Arc::clone(&entry.series)).collect()
    }
}

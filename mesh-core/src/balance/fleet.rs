use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::resilience::limits::Limits;
use crate::resilience::outlier::Detector;

/// What the endpoints of a backend have in common, through all updates: their clock, what is under way, their outlier
/// detector, and the count of their changes, by which a picker sees that it has to look at them again.
#[derive(Debug)]
pub struct Fleet {
    changes: AtomicU64,
    epoch: Instant,
    detector: Detector,
    limits: Apart<Limits>,
}

impl Fleet {
    /// No endpoint has changed so far. `now` is where their time begins.
    pub fn new(now: Instant) -> Self {
        Self { changes: AtomicU64::new(0), epoch: now, detector: Detector::new(now), limits: Apart(Limits::new()) }
    }

    /// Something changed that pickers go by.
    pub fn bump(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Who takes endpoints out.
    pub fn detector(&self) -> &Detector {
        &self.detector
    }

    /// What is under way.
    pub fn limits(&self) -> &Limits {
        &self.limits.0
    }

    /// How often that was.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Milliseconds from the beginning to `at`.
    pub(super) fn millis(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.epoch).as_millis().try_into().unwrap_or(u64::MAX)
    }

    /// Nanoseconds from the beginning to `at`.
    pub(super) fn nanos(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.epoch).as_nanos().try_into().unwrap_or(u64::MAX)
    }

    /// The instant of `millis`.
    pub(super) fn at(&self, millis: u64) -> Instant {
        self.epoch + Duration::from_millis(millis)
    }

    /// The instant of `nanos`.
    pub(super) fn at_nanos(&self, nanos: u64) -> Instant {
        self.epoch + Duration::from_nanos(nanos)
    }
}

/// Keeps what is written by each request off the cache line of what each pick reads.
#[derive(Debug)]
#[repr(align(64))]
struct Apart<T>(T);

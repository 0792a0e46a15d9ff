//! What became of configurations.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The configurations of a mesh.
#[derive(Debug)]
pub(super) struct ConfigSeries {
    /// What instants are told from.
    began: Instant,
    version: AtomicU64,
    successful: AtomicBool,
    /// When the last one was applied: milliseconds since `began`, and since 1970.
    applied_at: AtomicU64,
    applied_on: AtomicU64,
    applied: AtomicU64,
    refused: AtomicU64,
}

impl ConfigSeries {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            began: now,
            version: AtomicU64::new(0),
            successful: AtomicBool::new(false),
            applied_at: AtomicU64::new(0),
            applied_on: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// A snapshot is in force.
    pub(super) fn published(&self, version: u64) {
        self.version.store(version, Ordering::Relaxed);
    }

    /// A configuration was applied at `now`; `refused`: a newer one is not.
    pub(super) fn applied(&self, refused: bool, now: Instant) {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.applied_at.store(millis(now.saturating_duration_since(self.began)), Ordering::Relaxed);
        self.applied_on.store(millis(since_1970), Ordering::Relaxed);
        self.applied.fetch_add(1, Ordering::Relaxed);
        self.successful.store(!refused, Ordering::Relaxed);
    }

    pub(super) fn refused(&self) {
        self.successful.store(false, Ordering::Relaxed);
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    pub(super) fn is_successful(&self) -> bool {
        self.successful.load(Ordering::Relaxed)
    }

    /// How long the one in force has been.
    pub(super) fn age(&self, now: Instant) -> Duration {
        let applied = Duration::from_millis(self.applied_at.load(Ordering::Relaxed));
        now.saturating_duration_since(self.began).saturating_sub(applied)
    }

    /// When the one in force was applied, since 1970.
    pub(super) fn applied_on(&self) -> Duration {
        Duration::from_millis(self.applied_on.load(Ordering::Relaxed))
    }

    /// How many were applied, and how many refused.
    pub(super) fn counts(&self) -> [(&'static str, u64); 2] {
        [("applied", self.applied.load(Ordering::Relaxed)), ("refused", self.refused.load(Ordering::Relaxed))]
    }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

//! What holds for the connections of a backend: how they are kept, and how many there may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use mesh_core::model::{self, ConnectionPolicy};
use mesh_core::resilience::limits::Limit;
use rand::{Rng, RngExt};
use tokio::sync::Notify;

use super::{Cluster, FAR};

/// The least age at which a connection is replaced: less is an endless row of connections that serve nothing.
const MIN_AGE: Duration = Duration::from_secs(1);

/// How connections are kept. A change holds for those made from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) kept: ConnectionPolicy,
    /// The most of them, over all endpoints.
    pub(crate) max: Option<u32>,
}

impl Policy {
    fn of(config: &model::Backend) -> Self {
        let mut kept = config.connections;
        kept.max_age = kept.max_age.map(|age| age.max(MIN_AGE));
        kept.max_requests = kept.max_requests.map(|max| max.max(1));
        Self { kept, max: config.circuit_breaker.max_connections }
    }
}

/// The connections of a backend. It outlives the [`Cluster`]: those of the former settings count as long as they live.
pub(crate) struct Account {
    policy: ArcSwap<Policy>,
    open: AtomicU32,
    /// Whether it was told that the limit is reached, since a connection ended last.
    told: AtomicBool,
    /// One connection less, or another limit: for those who wait for one over HTTP/1.1.
    pub(super) freed: Notify,
}

impl Account {
    pub(super) fn new(config: &model::Backend) -> Self {
        Self {
            policy: ArcSwap::from_pointee(Policy::of(config)),
            open: AtomicU32::new(0),
            told: AtomicBool::new(false),
            freed: Notify::new(),
        }
    }

    pub(super) fn policy(&self) -> Policy {
        **self.policy.load()
    }

    pub(super) fn update(&self, config: &model::Backend) {
        self.policy.store(Arc::new(Policy::of(config)));
        self.told.store(false, Ordering::Relaxed);
        self.freed.notify_waiters();
    }

    fn max(&self) -> u32 {
        self.policy.load().max.unwrap_or(u32::MAX)
    }
}

/// One connection that counts, from the attempt to make it to its end.
pub(crate) struct Claim {
    cluster: Arc<Cluster>,
    /// Where it counts if it is above the limit.
    beyond: Option<Arc<AtomicU32>>,
}

impl Claim {
    /// A place for one more connection. Above the limit there is one only while its endpoint has fewer than `most` of
    /// that kind, those that drain included; `beyond` counts them.
    pub(super) fn new(cluster: &Arc<Cluster>, beyond: &Arc<AtomicU32>, most: u32) -> Option<Self> {
        let open = &cluster.account.open;
        let cluster = Arc::clone(cluster);
        if count_below(open, cluster.account.max()) {
            return Some(Self { cluster, beyond: None });
        }
        if !count_below(beyond, most) {
            return None;
        }
        cluster.account.open.fetch_add(1, Ordering::AcqRel);
        Some(Self { cluster, beyond: Some(Arc::clone(beyond)) })
    }

    /// Whether only an endpoint without a connection may make one. Whoever asks would have made one.
    pub(super) fn is_refused(cluster: &Cluster) -> bool {
        let account = &cluster.account;
        let refused = account.open.load(Ordering::Acquire) >= account.max();
        if refused && !account.told.swap(true, Ordering::Relaxed) {
            cluster.overflow(Limit::Connections);
        }
        refused
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let account = &self.cluster.account;
        if let Some(beyond) = &self.beyond {
            beyond.fetch_sub(1, Ordering::AcqRel);
        }
        account.open.fetch_sub(1, Ordering::AcqRel);
        account.told.store(false, Ordering::Relaxed);
        if account.max() < u32::MAX {
            // All of them look: one whose endpoint has a connection on its way has no use for the place.
            account.freed.notify_waiters();
            self.cluster.queue.wake();
        }
    }
}

/// Counts one more, if that is below `limit`. Whoever is refused has taken nothing from others, not even for a moment:
/// they would be refused in turn, and nobody would wake them.
pub(super) fn count_below(count: &AtomicU32, limit: u32) -> bool {
    let more = |count: u32| (count < limit).then(|| count + 1);
    count.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
}

/// `age`, up to a tenth shorter or longer: connections that were made at once do not end at once (gRFC A9).
pub(crate) fn jittered(age: Duration, rng: &mut impl Rng) -> Duration {
    let age = age.min(FAR);
    let tenth = age / 10;
    age - tenth + (tenth * 2).mul_f64(rng.random_range(0.0..=1.0))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn any_age_can_be_jittered() {
        let mut rng = StdRng::seed_from_u64(2);
        assert!(jittered(Duration::MAX, &mut rng) >= FAR / 2);
        assert_eq!(jittered(Duration::ZERO, &mut rng), Duration::ZERO);
    }

    #[test]
    fn what_would_leave_no_connection_to_use_counts_as_the_least() {
        let mut config = model::Backend::new(model::BackendId::new("s", "b"), Vec::new());
        config.connections.max_age = Some(Duration::ZERO);
        config.connections.max_requests = Some(0);
        let kept = Policy::of(&config).kept;
        assert_eq!((kept.max_age, kept.max_requests), (Some(Duration::from_secs(1)), Some(1)));
    }

    #[test]
    fn the_age_is_jittered_by_a_tenth() {
        let mut rng = StdRng::seed_from_u64(1);
        let ages: Vec<_> = (0..1000).map(|_| jittered(Duration::from_secs(1000), &mut rng).as_secs()).collect();
        assert!(ages.iter().all(|age| (900..=1100).contains(age)), "{ages:?}");
        let tenths = |range: std::ops::Range<u64>| ages.iter().filter(|age| range.contains(age)).count();
        // Five sigma of 1000 draws at one tenth.
        assert!((53..=147).contains(&tenths(900..920)) && (53..=147).contains(&tenths(1080..1100)), "{ages:?}");
    }
}

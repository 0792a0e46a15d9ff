//! What may be under way at once towards one backend (Envoy's circuit breakers, gRFC A32).

use std::fmt;
use std::ops::Deref;

use crate::sync::atomic::{AtomicU64, Ordering};

/// A limit of ours that a request can run into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Limit {
    /// [`CircuitBreaker::max_requests`](crate::model::CircuitBreaker::max_requests).
    Requests,
    /// [`CircuitBreaker::max_pending_requests`](crate::model::CircuitBreaker::max_pending_requests).
    PendingRequests,
    /// [`CircuitBreaker::max_connections`](crate::model::CircuitBreaker::max_connections).
    Connections,
    /// [`CircuitBreaker::max_retries`](crate::model::CircuitBreaker::max_retries).
    Retries,
    /// [`AdmissionControl`](crate::model::AdmissionControl).
    Admission,
}

impl Limit {
    /// Every limit, in order.
    pub const ALL: [Self; 5] =
        [Self::Requests, Self::PendingRequests, Self::Connections, Self::Retries, Self::Admission];

    /// A stable word, such as `max_requests`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "max_requests",
            Self::PendingRequests => "max_pending_requests",
            Self::Connections => "max_connections",
            Self::Retries => "max_retries",
            Self::Admission => "admission_control",
        }
    }
}

/// What is counted and can be limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resource {
    /// Attempts on an endpoint, from their pick to the end of their responses.
    Requests,
    /// Requests that wait for an endpoint or a connection.
    PendingRequests,
    /// Connections of all endpoints together.
    Connections,
    /// Retries, beside the [budget](crate::resilience::budget).
    Retries,
}

impl Resource {
    /// The limit that a request runs into if there is no more of it.
    pub fn limit(self) -> Limit {
        match self {
            Self::Requests => Limit::Requests,
            Self::PendingRequests => Limit::PendingRequests,
            Self::Connections => Limit::Connections,
            Self::Retries => Limit::Retries,
        }
    }
}

/// What is under way towards one backend, for all that use it. Survives updates of the configuration: a limit is given
/// anew each time, and one that falls below what is under way holds back only what is new.
///
/// The counts publish nothing but themselves, hence `Relaxed` throughout.
///
/// ```
/// use std::sync::Arc;
///
/// use mesh_core::resilience::limits::{Limits, Permit, Resource};
///
/// let limits = Arc::new(Limits::new());
/// let permit = Permit::acquire(&limits, Resource::Requests, Some(1)).unwrap();
/// assert!(Permit::acquire(&limits, Resource::Requests, Some(1)).is_none());
/// drop(permit);
/// assert_eq!(limits.used(Resource::Requests), 0);
/// ```
#[derive(Debug, Default)]
pub struct Limits {
    /// 64 bits: what is counted one by one never overflows them.
    requests: AtomicU64,
    pending_requests: AtomicU64,
    connections: AtomicU64,
    retries: AtomicU64,
}

impl Limits {
    /// Nothing under way.
    pub fn new() -> Self {
        Self::default()
    }

    /// How much of `resource` is in use.
    pub fn used(&self, resource: Resource) -> u64 {
        self.of(resource).load(Ordering::Relaxed)
    }

    fn of(&self, resource: Resource) -> &AtomicU64 {
        match resource {
            Resource::Requests => &self.requests,
            Resource::PendingRequests => &self.pending_requests,
            Resource::Connections => &self.connections,
            Resource::Retries => &self.retries,
        }
    }

    pub(crate) fn take(&self, resource: Resource, max: Option<u32>) -> bool {
        let used = self.of(resource);
        let Some(max) = max else {
            used.fetch_add(1, Ordering::Relaxed);
            return true;
        };
        let one_more = |used| (used < u64::from(max)).then_some(used + 1);
        used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    /// Gives back what was taken.
    pub(crate) fn give(&self, resource: Resource) {
        let before = self.of(resource).fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "given back more often than taken");
    }
}

impl AsRef<Limits> for Limits {
    fn as_ref(&self) -> &Limits {
        self
    }
}

/// One of a [`Resource`], given back when it is dropped. It holds on to whatever owns the [`Limits`]: `Arc<Limits>`, or an
/// `Arc` of something that they are a part of and that is [`AsRef<Limits>`].
#[must_use = "a permit that is dropped is given back"]
pub struct Permit<O: Deref<Target: AsRef<Limits>>> {
    owner: O,
    resource: Resource,
}

impl<O: Deref<Target: AsRef<Limits>>> Permit<O> {
    /// One more of `resource`, unless `max` are in use; `None` is no limit. Does not allocate.
    pub fn acquire(owner: &O, resource: Resource, max: Option<u32>) -> Option<Self>
    where
        O: Clone,
    {
        let limits: &Limits = (**owner).as_ref();
        limits.take(resource, max).then(|| Self { owner: owner.clone(), resource })
    }

    /// What it is of.
    pub fn resource(&self) -> Resource {
        self.resource
    }

    /// Whose [`Limits`] it counts in.
    pub fn owner(&self) -> &O {
        &self.owner
    }
}

impl<O: Deref<Target: AsRef<Limits>>> Drop for Permit<O> {
    fn drop(&mut self) {
        (*self.owner).as_ref().give(self.resource);
    }
}

impl<O: Deref<Target: AsRef<Limits>>> fmt::Debug for Permit<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("resource", &self.resource).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use super::*;

    const ALL: [Resource; 4] =
        [Resource::Requests, Resource::PendingRequests, Resource::Connections, Resource::Retries];

    /// CB-01, CB-03, CB-06: each resource has a limit of its own, which is reached exactly.
    #[test]
    fn cb_01_no_more_than_the_limit_is_under_way() {
        let limits = Arc::new(Limits::new());
        for resource in ALL {
            let permits: Vec<_> = (0..3).map_while(|_| Permit::acquire(&limits, resource, Some(3))).collect();
            assert_eq!((permits.len(), limits.used(resource)), (3, 3), "{resource:?}");
            assert!(Permit::acquire(&limits, resource, Some(3)).is_none(), "{resource:?}");
            assert!(Permit::acquire(&limits, resource, Some(0)).is_none(), "{resource:?}");
            for other in ALL.into_iter().filter(|other| *other != resource) {
                assert_eq!(limits.used(other), 0, "{other:?}");
            }
            drop(permits);
            assert_eq!(limits.used(resource), 0);
        }
        assert!(Permit::acquire(&limits, Resource::Requests, Some(0)).is_none());
    }

    /// CB-01: what is under way stays when the limit falls below it, and counts without a limit too.
    #[test]
    fn cb_01_a_limit_that_changes_holds_for_what_is_new() {
        let limits = Arc::new(Limits::new());
        let acquire = |max| Permit::acquire(&limits, Resource::Requests, max);
        let mut permits: Vec<_> = (0..5).filter_map(|_| acquire(None)).collect();
        assert_eq!(permits.len(), 5);
        assert!(acquire(Some(2)).is_none());
        permits.truncate(2);
        assert!(acquire(Some(2)).is_none(), "2 are under way");
        permits.truncate(1);
        let again = acquire(Some(2));
        assert!(again.is_some());
        assert!(acquire(Some(2)).is_none());
        assert!(acquire(Some(3)).is_some(), "raised");
    }

    /// CB-04: whoever holds a permit is dropped 10,000 times.
    #[test]
    fn cb_04_every_permit_comes_back() {
        let limits = Arc::new(Limits::new());
        for _ in 0..10_000 {
            let permit = Permit::acquire(&limits, Resource::Requests, Some(1)).expect("the one before came back");
            let future = async move {
                let _permit = permit;
                std::future::pending::<()>().await;
            };
            drop(future);
        }
        assert_eq!(limits.used(Resource::Requests), 0);
        assert_eq!(Arc::strong_count(&limits), 1);
    }

    /// CB-04: the count is exact, and the limit never exceeded, with many threads.
    #[test]
    fn cb_04_the_limit_holds_under_concurrency() {
        let limits = Arc::new(Limits::new());
        let granted = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        if let Some(_permit) = Permit::acquire(&limits, Resource::Connections, Some(2)) {
                            assert!(limits.used(Resource::Connections) <= 2);
                            granted.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert!(granted.load(Ordering::Relaxed) > 0);
        assert_eq!(limits.used(Resource::Connections), 0);
    }

    #[test]
    fn a_permit_holds_on_to_whatever_the_limits_are_a_part_of() {
        struct Backend(Limits);
        impl AsRef<Limits> for Backend {
            fn as_ref(&self) -> &Limits {
                &self.0
            }
        }
        let backend = Arc::new(Backend(Limits::new()));
        let permit = Permit::acquire(&backend, Resource::Retries, None).expect("there is no limit");
        assert_eq!((permit.resource().limit(), backend.0.used(Resource::Retries)), (Limit::Retries, 1));
        assert_eq!(permit.owner().0.used(Resource::Retries), 1);
        assert!(size_of_val(&permit) <= 2 * size_of::<usize>());
    }
}

/// RL-15: every interleaving.
#[cfg(all(test, loom))]
mod models {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    /// Two who want the only place never have it both, and it comes back.
    #[test]
    fn loom_cb_04_no_place_is_given_twice_or_lost() {
        loom::model(|| {
            let limits = Arc::new(Limits::new());
            let once = |limits: &Arc<Limits>| {
                if let Some(_permit) = Permit::acquire(limits, Resource::Requests, Some(1)) {
                    assert_eq!(limits.used(Resource::Requests), 1);
                }
            };
            let shared = Arc::clone(&limits);
            let other = thread::spawn(move || once(&shared));
            once(&limits);
            other.join().unwrap();
            assert_eq!(limits.used(Resource::Requests), 0);
            assert!(Permit::acquire(&limits, Resource::Requests, Some(1)).is_some());
        });
    }
}

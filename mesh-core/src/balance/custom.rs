use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use rand::Rng;

use crate::model::{self, Address};

/// A balancing policy of the application.
///
/// One instance serves one backend, through all updates of its endpoints; it is made by a [`MakeBalance`]. It is asked
/// on the request path, by many tasks at once: it must be quick and must not block.
///
/// ```
/// use mesh_core::balance::{Balance, Candidates, PickRequest};
/// use mesh_core::rand::Rng;
///
/// /// The ready endpoint with the fewest requests in flight, whatever their number.
/// struct Least;
///
/// impl Balance for Least {
///     fn pick(&self, endpoints: &dyn Candidates, _: &PickRequest, _: &mut dyn Rng) -> Option<usize> {
///         (0..endpoints.len()).filter(|i| endpoints.is_usable(*i)).min_by_key(|i| endpoints.in_flight(*i))
///     }
/// }
/// ```
pub trait Balance: Send + Sync + 'static {
    /// Chooses one of `endpoints` by its index.
    ///
    /// `None`, an index out of range and one that is not [usable](Candidates::is_usable) leave the choice to chance; a
    /// request never fails for it.
    fn pick(&self, endpoints: &dyn Candidates, request: &PickRequest, rng: &mut dyn Rng) -> Option<usize>;
}

/// Makes a policy for a backend; any function from a backend to a policy does.
pub trait MakeBalance: Send + Sync + 'static {
    /// The policy of `backend`.
    fn make(&self, backend: &model::Backend) -> Arc<dyn Balance>;
}

impl<F: Fn(&model::Backend) -> Arc<dyn Balance> + Send + Sync + 'static> MakeBalance for F {
    fn make(&self, backend: &model::Backend) -> Arc<dyn Balance> {
        self(backend)
    }
}

/// The endpoints a policy chooses among, in the order of the configuration.
///
/// What it tells holds for the moment: endpoints change their states while a policy looks.
pub trait Candidates {
    /// How many there are, usable or not. Never 0.
    fn len(&self) -> usize;

    /// Never.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the endpoint at `index` listens.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len); so do the others.
    fn address(&self, index: usize) -> &Address;

    /// Its share among the endpoints of its locality, as configured.
    fn weight(&self, index: usize) -> u32;

    /// How many requests it is serving for this mesh.
    fn in_flight(&self, index: usize) -> u32;

    /// Whether it is of a priority that gets requests, is ready and neither ejected nor unhealthy (but for a panic, in which
    /// that does not count) and, unless all of those were, has not been tried by this request.
    fn is_usable(&self, index: usize) -> bool;
}

/// What a policy may know of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PickRequest {
    /// The request's hash: of its options or, without one there, of the route's hash policies. The same for all of its
    /// attempts.
    pub hash: Option<u64>,
    /// The time, or a little before.
    pub now: Instant,
}

impl PickRequest {
    /// A request with this hash at `now`.
    pub fn new(hash: Option<u64>, now: Instant) -> Self {
        Self { hash, now }
    }
}

/// A policy of the application and the name it is known by.
pub(super) struct Custom {
    pub(super) name: Arc<str>,
    pub(super) policy: Arc<dyn Balance>,
    /// The locality of each endpoint, if it has one.
    pub(super) groups: Box<[u32]>,
}

impl fmt::Debug for Custom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Custom").field(&self.name).finish()
    }
}

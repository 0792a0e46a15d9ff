//! The place of a retry in the budget of its backend.

use std::sync::Arc;
use std::time::Duration;

use mesh_core::resilience::limits::{Limit, Permit, Resource};
use mesh_core::snapshot::BackendState;
use tokio::time::Instant;

use super::context::Context;
use crate::net::{Backend, after};

/// Whoever is to pause for longer than this does not ask for a place twice.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// One retry under way, counted against the budget of its backend.
pub(super) struct RetryPermit {
    backend: Arc<Backend>,
    _retry: Permit<Arc<BackendState>>,
}

impl RetryPermit {
    /// Takes a place in the budget. If there is none, asks once more after a pause of `delay`: when an endpoint dies
    /// under load, its requests fail all at once, and few of them need to be given up for that.
    pub(super) async fn claim(context: &Context, delay: Duration) -> Option<Self> {
        let backend = &context.backend;
        let in_time = |pauses| {
            context.deadline.is_none_or(|deadline| after(Instant::now(), delay.saturating_mul(pauses)) < deadline)
        };
        let mut place = Self::take(backend);
        // What was answered is kept meanwhile, with its place on a connection.
        if place.is_err() && delay <= MAX_PAUSE && in_time(2) {
            // Who waits here is no load, and must not make room for more retries by being counted as one.
            let outside = Outside::step(backend);
            tokio::time::sleep(delay).await;
            drop(outside);
            place = Self::take(backend);
        }
        Self::told(backend, place)
    }

    /// Takes a place in the budget if there is one now.
    pub(super) fn try_claim(context: &Context) -> Option<Self> {
        Self::told(&context.backend, Self::take(&context.backend))
    }

    fn take(backend: &Arc<Backend>) -> Result<Self, Full> {
        let max = backend.config().circuit_breaker.max_retries;
        let retry = Permit::acquire(backend.state(), Resource::Retries, max).ok_or(Full::Limit)?;
        let free = backend.budget().try_acquire(&backend.config().retry_budget);
        free.then(|| Self { backend: Arc::clone(backend), _retry: retry }).ok_or(Full::Budget)
    }

    /// Tells of the limit once it is clear that there is no place.
    fn told(backend: &Backend, place: Result<Self, Full>) -> Option<Self> {
        if matches!(place, Err(Full::Limit)) {
            backend.transport().overflow(Limit::Retries);
        }
        place.ok()
    }
}

/// Why there is no place.
enum Full {
    /// The circuit breaker's limit is reached.
    Limit,
    /// The budget is used up.
    Budget,
}

/// A request that is not counted as in flight for a while.
struct Outside<'a>(&'a Backend);

impl<'a> Outside<'a> {
    fn step(backend: &'a Backend) -> Self {
        backend.budget().exit();
        Self(backend)
    }
}

impl Drop for Outside<'_> {
    fn drop(&mut self) {
        self.0.budget().enter();
    }
}

impl Drop for RetryPermit {
    fn drop(&mut self) {
        self.backend.budget().release();
    }
}

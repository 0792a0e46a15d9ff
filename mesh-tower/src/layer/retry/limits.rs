//! What bounds the retries of many requests together.

use std::sync::Arc;

use mesh_core::model::{RetryBudget, RetryThrottling};
use mesh_core::resilience::budget::RetryBudgetState;
use mesh_core::resilience::throttle::Throttle;

use crate::layer::Routed;

/// A budget, and gRPC's token bucket if there is one.
#[derive(Clone)]
pub(super) struct Limits {
    budget: RetryBudget,
    state: Arc<RetryBudgetState>,
    pub(super) throttle: Option<Arc<Throttle>>,
}

impl Limits {
    pub(super) fn new(budget: RetryBudget, throttling: Option<&RetryThrottling>) -> Self {
        let throttle = throttling.map(|throttling| Arc::new(Throttle::new(throttling)));
        Self { budget, state: Arc::default(), throttle }
    }

    /// Those of the backend and the service that the request was routed to.
    pub(super) fn of(routed: &Routed) -> Self {
        let (virtual_host, backend) = routed.snapshot();
        Self {
            budget: backend.config().retry_budget,
            state: Arc::clone(backend.budget()),
            throttle: virtual_host.throttle().cloned(),
        }
    }

    /// A place for one retry, if there is one.
    pub(super) fn permit(&self) -> Option<Permit> {
        self.state.try_acquire(&self.budget).then(|| Permit(Arc::clone(&self.state)))
    }

    /// Counts a request for as long as the result lives.
    pub(super) fn enter(&self) -> InFlight {
        self.state.enter();
        InFlight(Arc::clone(&self.state))
    }
}

/// A request under way.
pub(super) struct InFlight(Arc<RetryBudgetState>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.exit();
    }
}

/// A retry under way, from the beginning of its pause.
pub(super) struct Permit(Arc<RetryBudgetState>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.release();
    }
}

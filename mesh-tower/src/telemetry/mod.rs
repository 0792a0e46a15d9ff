//! Spans and metrics of the client.
//!
//! [`Spans`](spans) ask the sampler first: of a request that is not sampled nothing is kept but the two ids that travel
//! on. [`Metrics`](metrics::Metrics) count in atomics of their own, found once per request. What is not installed costs
//! a branch.

pub(crate) mod metrics;
pub(crate) mod propagate;
pub(crate) mod spans;

use std::sync::Arc;

use self::metrics::Metrics;
use self::spans::Spans;

/// What is installed.
#[derive(Default)]
pub(crate) struct Telemetry {
    pub(crate) spans: Option<Spans>,
    pub(crate) metrics: Option<Arc<Metrics>>,
}

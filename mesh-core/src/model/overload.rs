//! What protects a backend, and its callers, on a bad day.

use std::time::Duration;

/// What may be under way at once towards a backend, for a whole mesh with all its clients (Envoy's circuit breakers,
/// gRFC A32). What would exceed a limit is refused at once: it is not retried, and counts against no endpoint.
///
/// Every limit is `None`, which is unlimited, until a source sets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CircuitBreaker {
    /// Attempts on an endpoint, from their pick to the end of their responses.
    pub max_requests: Option<u32>,
    /// Requests that wait for an endpoint or a connection; 10,000 are the most even without it.
    pub max_pending_requests: Option<u32>,
    /// Connections, of all endpoints together, on their way and draining ones included. An endpoint that has none may make
    /// one all the same, and so may one whose only connection is to be replaced. It refuses no request: those that would
    /// have had a further connection wait for room on those that are there.
    pub max_connections: Option<u32>,
    /// Retries. It holds beside the retry budget.
    pub max_retries: Option<u32>,
}

/// When an endpoint is taken out for what it answers (Envoy's outlier detection, gRFC A50).
///
/// The `n`th ejection lasts `min(base_ejection_time x n, max_ejection_time)`; every interval without one lowers `n`
/// by one.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct OutlierDetection {
    /// How often success rates are compared and endpoints come back. Default 10 s.
    pub interval: Duration,
    /// How long the first ejection lasts. Default 30 s.
    pub base_ejection_time: Duration,
    /// The longest ejection, at least `base_ejection_time`. Default 300 s.
    pub max_ejection_time: Duration,
    /// While this share of the endpoints or more is ejected, no other one is. In percent, 0..=100: with any value but 0
    /// one can be. Default 10.
    pub max_ejection_percent: u32,
    /// Ejects after so many answers in a row that are server errors, or no answer where `split_local_origin` is off.
    pub consecutive_5xx: Option<Consecutive>,
    /// Ejects after so many answers 502, 503 and 504 in a row, or no answer where `split_local_origin` is off.
    pub consecutive_gateway_errors: Option<Consecutive>,
    /// Ejects after so many requests in a row without an answer (resets, timeouts); an endpoint that cannot be
    /// connected is not asked anyway. Only where
    /// `split_local_origin` is on.
    pub consecutive_local_origin_failures: Option<Consecutive>,
    /// Whether missing answers are counted apart from answers that are errors. Default no.
    pub split_local_origin: bool,
    /// Compares the success rates of the endpoints.
    pub success_rate: Option<SuccessRate>,
    /// Ejects endpoints with too many failures.
    pub failure_percentage: Option<FailurePercentage>,
    /// Which gRPC codes are failures. Default server errors.
    pub grpc_failures: GrpcFailures,
    /// What an endpoint comes back by. Default time.
    pub recovery: Recovery,
}

impl Default for OutlierDetection {
    /// Five server errors in a row, and nothing else.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_percent: 10,
            consecutive_5xx: Some(Consecutive::default()),
            consecutive_gateway_errors: None,
            consecutive_local_origin_failures: None,
            split_local_origin: false,
            success_rate: None,
            failure_percentage: None,
            grpc_failures: GrpcFailures::default(),
            recovery: Recovery::default(),
        }
    }
}

/// So many in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Consecutive {
    /// How many. At least 1. Default 5.
    pub count: u32,
    /// The share of the ejections that is carried out, in percent, 0..=100. Default 100.
    pub enforcement: u32,
}

impl Consecutive {
    /// After `count`, always.
    pub fn new(count: u32) -> Self {
        Self { count, ..Self::default() }
    }
}

impl Default for Consecutive {
    fn default() -> Self {
        Self { count: 5, enforcement: 100 }
    }
}

/// Ejects an endpoint whose success rate is below `mean - stdev x stdev_factor / 1000` of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SuccessRate {
    /// In thousandths. Default 1900.
    pub stdev_factor: u32,
    /// The share of the ejections that is carried out, in percent, 0..=100. Default 100.
    pub enforcement: u32,
    /// How many endpoints must have the volume. Default 5.
    pub minimum_hosts: u32,
    /// How many requests of an endpoint in one interval make it count. Default 100.
    pub request_volume: u32,
}

impl Default for SuccessRate {
    fn default() -> Self {
        Self { stdev_factor: 1900, enforcement: 100, minimum_hosts: 5, request_volume: 100 }
    }
}

/// Ejects an endpoint whose share of failures is above `threshold`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct FailurePercentage {
    /// In percent, 0..=100. Default 85.
    pub threshold: u32,
    /// Whether exactly `threshold` is too many (Envoy's words) or not (gRFC A50). Default not.
    pub inclusive: bool,
    /// The share of the ejections that is carried out, in percent, 0..=100. Default 100.
    pub enforcement: u32,
    /// How many endpoints must have the volume. Default 5.
    pub minimum_hosts: u32,
    /// How many requests of an endpoint in one interval make it count. Default 50.
    pub request_volume: u32,
}

impl Default for FailurePercentage {
    fn default() -> Self {
        Self { threshold: 85, inclusive: false, enforcement: 100, minimum_hosts: 5, request_volume: 50 }
    }
}

/// Which gRPC codes count against the endpoint that answered them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[non_exhaustive]
pub enum GrpcFailures {
    /// UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS: those that stand for an HTTP status
    /// of 500 and above (Envoy's).
    #[default]
    ServerErrors,
    /// Every code but OK (gRFC A50).
    AllButOk,
}

/// What an ejected endpoint comes back by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[non_exhaustive]
pub enum Recovery {
    /// Its time is up (Envoy's, gRFC A50).
    #[default]
    Time,
    /// One request succeeds that is sent to it once its time is up; if that fails, the time doubles (Linkerd's).
    Probe,
}

/// When requests are refused for the failures of others: with `n` requests and `s` successes within the window, a
/// request is refused with probability `((n - s / threshold) / (n + 1))^(1 / aggression)` (Envoy's admission control).
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct AdmissionControl {
    /// The success rate below which requests are refused, in percent, more than 0 and at most 100. Default 95.
    pub success_threshold: f64,
    /// How long an outcome counts. Default 120 s, at least 1 s.
    pub window: Duration,
    /// How steeply it refuses; 1.0 is a straight line. More than 0. Default 1.0.
    pub aggression: f64,
    /// Below so many requests a second none is refused. Default 5.
    pub min_requests_per_second: u32,
    /// The largest share of requests that is refused, in percent, 0..=100. Default 80.
    pub max_rejection_percent: f64,
}

impl Default for AdmissionControl {
    fn default() -> Self {
        Self {
            success_threshold: 95.0,
            window: Duration::from_secs(120),
            aggression: 1.0,
            min_requests_per_second: 5,
            max_rejection_percent: 80.0,
        }
    }
}

//! What may be under way at once towards one backend.

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

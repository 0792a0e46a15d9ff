//! What the mesh itself refuses.

use mesh_core::model::GrpcFailures;
use mesh_core::observe::Outcome;
use mesh_core::resilience::limits::Limit;
use mesh_core::resilience::outlier;

use super::Context;
use crate::error::{Error, ErrorKind};
use crate::net::Queue;

impl Context {
    /// A limit of ours is reached.
    pub(in crate::client) fn overflow(&self, limit: Limit) -> Error {
        let breaker = &self.backend.config().circuit_breaker;
        let (kind, place) = (ErrorKind::Overflow, self.place());
        let text = match limit {
            Limit::Requests => {
                let max = breaker.max_requests.unwrap_or_default();
                format!("{place} serves as many requests as its `max_requests` of {max} allows")
            }
            Limit::PendingRequests => {
                let max = breaker.max_pending_requests.unwrap_or(Queue::CAPACITY).min(Queue::CAPACITY);
                format!("{max} requests already wait for {place}, which is as many as may")
            }
            _ => format!("{place} is at its limit: {}", limit.as_str()),
        };
        self.backend.transport().overflow(limit);
        Error::new(kind, text)
    }

    /// Asks admission control.
    pub(in crate::client) fn admit(&self) -> Result<(), Error> {
        let Some(policy) = &self.backend.config().admission_control else { return Ok(()) };
        if self.backend.state().admission().admit(policy, self.started.into_std(), &mut rand::rng()) {
            return Ok(());
        }
        self.backend.transport().overflow(Limit::Admission);
        let text = format!("{} is not asked: too many requests to it failed lately", self.place());
        Err(Error::new(ErrorKind::AdmissionRejected, text))
    }
}

/// What `outcome` says about the backend; nothing if it is not the backend's.
pub(super) fn is_success(outcome: &Outcome) -> Option<bool> {
    match outcome {
        Outcome::Response { grpc: Some(code), .. } => {
            Some(outlier::Outcome::of_code(GrpcFailures::ServerErrors, *code) == outlier::Outcome::Success)
        }
        Outcome::Response { status, .. } => Some(!status.is_server_error()),
        Outcome::Failed(
            ErrorKind::NoHealthyEndpoint
            | ErrorKind::DeadlineExceeded
            | ErrorKind::PerTryTimeout
            | ErrorKind::Refused
            | ErrorKind::Reset
            | ErrorKind::Protocol,
        ) => Some(false),
        _ => None,
    }
}

//! One request that is served.

use opentelemetry::Context;
use tokio::time::Instant;

use super::claim::Claim;
use super::scope::Scope;
use crate::contain::contained;
use crate::telemetry::server::Received;

/// What goes with a request until its answer is whole.
pub(super) struct Serving {
    pub(super) received: Received,
    pub(super) scope: Scope,
    /// Of a gRPC call whose handler may be one for HTTP.
    pub(super) claim: Option<Claim>,
}

/// What is asked of a request's answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) is_grpc: bool,
    /// Whether the answer has no body, whatever it says.
    pub(super) is_head: bool,
    /// The caller's.
    pub(super) deadline: Option<Instant>,
}

impl Serving {
    /// Runs code of the handler. `None`: it panicked, which is in the log.
    pub(super) fn poll<R>(&mut self, code: impl FnOnce() -> R) -> Option<R> {
        let _attached = self.received.context().cloned().map(Context::attach);
        let result = self.scope.enter(|| contained("the handler", code)).ok();
        let received = std::mem::take(&mut self.scope.received);
        if received > 0 {
            self.received.received(received);
        }
        if self.scope.is_grpc {
            self.confirm();
        }
        result
    }

    /// The handler speaks gRPC.
    pub(super) fn confirm(&mut self) {
        if let Some(claim) = self.claim.take() {
            claim.confirm();
        }
    }
}

//! What one request says about whoever served it.

use std::error::Error as StdError;

use http::{HeaderMap, Response, StatusCode};
use http_body::Body;
use mesh_core::classify::{Attempt, Failure};
use mesh_core::model::GrpcFailures;
use mesh_core::resilience::outlier::{Outcome, outcome};

use super::watch::{Watch, Watched};
use super::{ClassifyFailure, find_error};
use crate::error::{BoxError, ErrorKind};

/// Who wants to know how a request went.
pub(super) trait Verdict {
    /// It went like this. [`Outcome::Ignored`] if nobody can say.
    fn reach(self, outcome: Outcome);
}

/// Follows a request to its verdict, which is reached once: by an error, by a head that is a failure, or by the end of
/// the response.
#[derive(Debug)]
pub(super) struct Judge<V: Verdict> {
    /// `None` once it is reached.
    verdict: Option<V>,
    failures: GrpcFailures,
    grpc: bool,
    /// Of a head that has come.
    status: Option<StatusCode>,
}

impl<V: Verdict> Judge<V> {
    pub(super) fn new(verdict: V, failures: GrpcFailures, grpc: bool) -> Self {
        Self { verdict: Some(verdict), failures, grpc, status: None }
    }

    /// The result of the inner service, as the caller gets it.
    pub(super) fn judge<B, E>(
        mut self,
        result: Result<Response<B>, E>,
        classifier: &impl ClassifyFailure,
    ) -> Result<Response<Watched<B, Self>>, BoxError>
    where
        B: Body,
        E: Into<BoxError>,
    {
        let response = match result {
            Ok(response) => response,
            Err(error) => {
                let error = error.into();
                match classifier.classify(&*error) {
                    // For a retry the request is over; but whoever served it had its time.
                    Failure::Local if is_late(&*error) => self.broken(&*error),
                    failure => self.reach(&Attempt::Failed(failure)),
                }
                return Err(error);
            }
        };
        let (status, headers) = (response.status(), response.headers());
        self.status = Some(status);
        let attempt = Attempt::Response { status, headers, end_of_stream: response.body().is_end_stream() };
        let failed = matches!(outcome(self.failures, self.grpc, &attempt), Outcome::ServerError { .. });
        if failed {
            self.reach(&attempt);
        }
        Ok(Watched::response(response, (!failed).then_some(self)))
    }

    fn reach(&mut self, attempt: &Attempt<'_>) {
        if let Some(verdict) = self.verdict.take() {
            verdict.reach(outcome(self.failures, self.grpc, attempt));
        }
    }
}

/// Whether a deadline inside passed.
fn is_late(error: &(dyn StdError + 'static)) -> bool {
    find_error(error).is_some_and(|error| error.kind() == ErrorKind::DeadlineExceeded)
}

impl<V: Verdict> Watch for Judge<V> {
    fn complete(mut self, trailers: Option<&HeaderMap>) {
        let none = HeaderMap::new();
        let headers = trailers.unwrap_or(&none);
        if let Some(status) = self.status {
            self.reach(&Attempt::Response { status, headers, end_of_stream: true });
        }
    }

    fn broken(mut self, _: &(dyn StdError + 'static)) {
        if let Some(verdict) = self.verdict.take() {
            verdict.reach(Outcome::NoAnswer);
        }
    }
}

impl<V: Verdict> Drop for Judge<V> {
    fn drop(&mut self) {
        let Some(verdict) = self.verdict.take() else { return };
        // Only a head of HTTP says all there is to know.
        verdict.reach(if self.status.is_some() && !self.grpc { Outcome::Success } else { Outcome::Ignored });
    }
}

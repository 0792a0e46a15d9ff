//! One request through all its attempts, without the inner service: what is sent, and what follows.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Request, Response};
use http_body::Body as HttpBody;
use mesh_core::classify::{Attempt, Failure};
use mesh_core::grpc;
use mesh_core::model::RetryPolicy;
use mesh_core::resilience::replay::Replay;
use mesh_core::resilience::retry::{Decision, Retry};
use tokio::time::Instant;

use super::Shared;
use super::body::{Guard, ReplayBody, RetryBody};
use super::limits::{InFlight, Limits, Permit};
use crate::error::{BoxError, Error, ErrorKind};
use crate::layer::{ClassifyFailure, DeadlineAt, Routed};
use crate::net::after;
use crate::net::h1::SharedBody;
use crate::options::RequestOptions;

/// A response, or why there is none.
pub(super) type Outcome<RB> = Result<Response<RB>, BoxError>;

/// What follows an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Return,
    Resend,
    /// The retry has its place in the budget.
    Retry(Duration),
    /// There is no place in the budget; to be asked for once more.
    PutOff(Duration),
}

pub(super) struct Call<B, C> {
    shared: Arc<Shared<C>>,
    head: Parts,
    /// `None` if there is not a byte to send.
    body: Option<SharedBody<B>>,
    grpc: bool,
    retry: Retry,
    attempts: u32,
    routed: Option<Routed>,
    policy: Option<Arc<RetryPolicy>>,
    options: RequestOptions,
    limits: Limits,
    in_flight: Option<InFlight>,
    permit: Option<Permit>,
    started: Instant,
}

impl<B, C> Call<B, C>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
    C: ClassifyFailure,
{
    pub(super) fn new(request: Request<B>, shared: Arc<Shared<C>>) -> Self {
        let (mut head, body) = request.into_parts();
        let routed: Option<Routed> = head.extensions.get().cloned();
        let of_route = routed.as_ref().and_then(|routed| Some((routed.policy().retry.clone()?, Limits::of(routed))));
        let (policy, limits) = match of_route {
            Some((policy, limits)) => (Some(policy), limits),
            None => (shared.policy.clone(), shared.limits.clone()),
        };
        let options = head.extensions.get().copied().unwrap_or_default();
        let grpc = grpc::is_grpc(&head.headers);
        if grpc {
            head.headers.remove(grpc::GRPC_PREVIOUS_RPC_ATTEMPTS);
        }
        let max_body = policy.as_ref().map_or(RetryPolicy::DEFAULT_MAX_BODY_BYTES, |policy| policy.max_body_bytes);
        let body = (!body.is_end_stream()).then(|| SharedBody::new(Replay::new(body, max_body)));
        Self {
            in_flight: Some(limits.enter()),
            shared,
            head,
            body,
            grpc,
            retry: Retry::new(grpc),
            attempts: 0,
            routed,
            policy,
            options,
            limits,
            permit: None,
            started: Instant::now(),
        }
    }

    pub(super) fn per_try_timeout(&self) -> Option<Duration> {
        self.policy.as_ref()?.per_try_timeout
    }

    /// The next attempt.
    pub(super) fn request(&mut self) -> Request<ReplayBody<B>> {
        self.attempts += 1;
        let mut head = self.head.clone();
        if self.grpc {
            let previous = self.retry.previous_attempts();
            if previous > 0 {
                head.headers.insert(grpc::GRPC_PREVIOUS_RPC_ATTEMPTS, HeaderValue::from(previous));
            }
            // The first attempt's is what it is; parsing it would tell no more.
            let per_try = self.per_try_timeout();
            if self.attempts > 1 || per_try.is_some() {
                let times = [self.remaining(), per_try];
                if let Some(timeout) = times.into_iter().flatten().min() {
                    head.headers.insert(grpc::GRPC_TIMEOUT, grpc::encode_timeout(timeout));
                }
            }
        }
        Request::from_parts(head, ReplayBody::new(self.body.as_ref().map(SharedBody::reader)))
    }

    /// What follows an attempt that ended with `outcome`.
    pub(super) fn next<RB: HttpBody>(&mut self, outcome: &Outcome<RB>) -> Next {
        self.permit = None;
        let attempt = match outcome {
            Ok(response) => Attempt::Response {
                status: response.status(),
                headers: response.headers(),
                end_of_stream: response.body().is_end_stream(),
            },
            Err(error) => Attempt::Failed(self.shared.classifier.classify(&**error)),
        };
        // Nearly all end here; nothing else needs to be known of them.
        let succeeded = matches!(outcome, Ok(response) if response.status().is_success() && !self.grpc);
        let remaining = if succeeded { None } else { self.remaining() };
        let replayable = self.body.as_ref().is_none_or(|body| body.with(|body| body.is_replayable()));
        let decision = self.retry.decide(
            self.policy.as_deref().filter(|_| !self.options.no_retry),
            &self.head.method,
            &attempt,
            replayable,
            remaining,
            self.limits.throttle.as_deref(),
            &mut rand::rng(),
        );
        match decision {
            Decision::Return => Next::Return,
            Decision::Resend if self.rewind() => Next::Resend,
            Decision::RetryAfter(delay) => self.claim(delay, remaining),
            Decision::Resend => Next::Return,
        }
    }

    fn claim(&mut self, delay: Duration, remaining: Option<Duration>) -> Next {
        if self.take_place() {
            return Next::Retry(delay);
        }
        if remaining.is_some_and(|remaining| delay.saturating_mul(2) >= remaining) {
            return Next::Return;
        }
        // Who waits here is no load, and must not make room for more retries by being counted as one.
        self.in_flight = None;
        Next::PutOff(delay)
    }

    /// Asks once more for the place of a retry that was put off.
    pub(super) fn claim_again(&mut self) -> bool {
        self.in_flight = Some(self.limits.enter());
        self.take_place()
    }

    fn take_place(&mut self) -> bool {
        self.permit = self.limits.permit();
        self.permit.is_some() && self.rewind()
    }

    fn rewind(&self) -> bool {
        self.body.as_ref().is_none_or(SharedBody::rewind)
    }

    /// The time to the deadline, if one is known.
    fn remaining(&self) -> Option<Duration> {
        let caller = self.head.headers.get(grpc::GRPC_TIMEOUT).filter(|_| self.grpc);
        // What is no timeout is the business of whoever enforces it.
        let caller = caller.and_then(|value| grpc::parse_timeout(value.as_bytes()).ok());
        let announced = self.head.extensions.get::<DeadlineAt>().map(|at| at.0);
        let route = self.routed.as_ref().and_then(|routed| Some((routed.started(), routed.policy().timeout?)));
        let route = route.filter(|(_, timeout)| !timeout.is_zero()).map(|(started, timeout)| after(started, timeout));
        let caller = caller.map(|timeout| after(self.started, timeout));
        let option = self.options.timeout.map(|timeout| after(self.started, timeout));
        let at = [caller, option, announced, route].into_iter().flatten().min()?;
        Some(at.saturating_duration_since(Instant::now()))
    }

    /// The error of an attempt that took too long; `source` is what the inner service had to say by then.
    pub(super) fn late(&self, source: Option<BoxError>) -> BoxError {
        let place = crate::layer::from_place(self.routed.as_ref());
        let limit = self.per_try_timeout().unwrap_or_default();
        let text = format!("no response{place} within the per-try timeout of {limit:?}");
        let error = Error::new(ErrorKind::PerTryTimeout, text).with_attempts(self.attempts);
        match source {
            Some(source) => error.with_source(source).into(),
            None => error.into(),
        }
    }

    /// The last attempt's outcome, as the caller gets it.
    pub(super) fn finish<RB: HttpBody>(&mut self, outcome: Outcome<RB>) -> Result<Response<RetryBody<RB>>, BoxError> {
        if let Some(body) = &self.body {
            body.with(Replay::commit);
        }
        let in_flight = self.in_flight.take();
        let response = outcome.map_err(|error| self.describe(error))?;
        let throttle = self.limits.throttle.take();
        let guard = Guard { in_flight, throttle, status: response.status(), grpc: self.grpc };
        Ok(RetryBody::response(response, guard))
    }

    /// A per-try timeout that left no time for a whole further attempt is the deadline's (RE-11).
    fn describe(&self, error: BoxError) -> BoxError {
        let (Some(per_try), Some(remaining)) = (self.per_try_timeout(), self.remaining()) else { return error };
        if remaining >= per_try || self.shared.classifier.classify(&*error) != Failure::PerTryTimeout {
            return error;
        }
        let text = format!("{error}, and the deadline leaves no time for another attempt");
        Error::new(ErrorKind::DeadlineExceeded, text).with_attempts(self.attempts).with_source(error).into()
    }
}

//! Whether a failed attempt is followed by another, and when.

mod classifier;
pub(super) mod condition;
mod resend;
mod retry_after;

use std::time::Duration;

use http::Method;
use rand::Rng;

pub use self::classifier::{Attempted, RetryClassifier, Verdict};
pub(super) use self::resend::Resends;
use super::backoff::retry_delay;
use super::throttle::Throttle;
use crate::classify::Attempt;
use crate::grpc::{self, Code, Pushback};
use crate::model::RetryPolicy;

/// What to do after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Hand its result to the caller.
    Return,
    /// Send the request again at once: no peer has processed it. Not a retry in the sense of policy, budget or
    /// `grpc-previous-rpc-attempts`.
    Resend,
    /// Wait, then retry, on another endpoint if there is one, provided that the backend's
    /// [budget](super::budget::RetryBudgetState) has a place for the retry.
    RetryAfter(Duration),
}

/// The retries of one request: how many there were, and where its pauses stand.
///
/// ```text
///                        NotSent (at most 8 in a row), Refused (once)
///   attempt ──────────────────────────────────────────────────────────> Resend
///      │ success, committed, Local, not among the policy's conditions
///      ├────────────────────────────────────────────────────────────> Return
///      │ retriable: takes a token
///      ├─ pushback stop, no attempts left, throttled, body not replayable,
///      │  pause not shorter than what is left of the deadline ───────> Return
///      └─────────────────────────────────────────────────────────────> RetryAfter
/// ```
///
/// Resends need no policy and no idempotent method, only a body that can be sent again (gRFC A6, RFC 9113 8.7).
///
/// ```
/// use http::{HeaderMap, Method, StatusCode};
/// use mesh_core::classify::Attempt;
/// use mesh_core::model::{RetryOn, RetryPolicy};
/// use mesh_core::resilience::retry::{Decision, Retry};
///
/// let policy = RetryPolicy::new(RetryOn::GATEWAY_ERROR);
/// let headers = HeaderMap::new();
/// let attempt = Attempt::Response { status: StatusCode::BAD_GATEWAY, headers: &headers, end_of_stream: true };
///
/// let mut retry = Retry::new(false);
/// let decision = retry.decide(Some(&policy), &Method::GET, &attempt, true, None, None, &mut rand::rng());
/// assert!(matches!(decision, Decision::RetryAfter(_)));
/// ```
#[derive(Debug, Clone)]
pub struct Retry {
    grpc: bool,
    /// Retries decided so far.
    retries: u32,
    /// Pauses since the sequence of pauses began.
    step: u32,
    resends: Resends,
    /// What the application says of the attempt that is decided next.
    verdict: Verdict,
}

impl Retry {
    /// How often in a row a request that never left the client is sent again at once before that counts as a failed
    /// connection. gRFC A6 sets no bound; an endpoint whose connections all die at birth asks for one.
    pub const MAX_UNSENT_IN_A_ROW: u32 = 8;

    /// The longest `Retry-After`, and the longest pushback of gRPC, that is waited for; a response that asks for more is
    /// handed to the caller. gRFC A6 sets no bound, and without a deadline a server could keep a caller for ever.
    pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);

    /// A request of which nothing has been sent; `grpc` if it is a gRPC call.
    pub fn new(grpc: bool) -> Self {
        Self { grpc, retries: 0, step: 0, resends: Resends::default(), verdict: Verdict::Policy }
    }

    /// The value of `grpc-previous-rpc-attempts` for the next attempt; 0 stands for no header. Resends do not count.
    pub fn previous_attempts(&self) -> u32 {
        self.retries
    }

    /// Takes the application's word on the attempt that is decided next.
    pub fn overrule(&mut self, verdict: Verdict) {
        self.verdict = verdict;
    }

    /// Decides after `attempt`.
    ///
    /// - `policy`: the route's; without one only resends are possible.
    /// - `replayable`: whether the body can be sent again from its first byte.
    /// - `remaining`: the time to the deadline, if there is one.
    /// - `throttle`: the target's token bucket, if it has one; a failure that counts takes its token here. A success is
    ///   reported to the [`Throttle`] by the caller, once it is known.
    #[expect(clippy::too_many_arguments, reason = "each is a different thing the decision depends on")]
    pub fn decide(
        &mut self,
        policy: Option<&RetryPolicy>,
        method: &Method,
        attempt: &Attempt<'_>,
        replayable: bool,
        remaining: Option<Duration>,
        throttle: Option<&Throttle>,
        rng: &mut impl Rng,
    ) -> Decision {
        let verdict = std::mem::take(&mut self.verdict);
        if self.resends.allow(attempt) && replayable {
            return if remaining.is_some_and(|time| time.is_zero()) { Decision::Return } else { Decision::Resend };
        }

        let pushback = pushback(self.grpc, attempt);
        let retriable = policy.filter(|policy| match verdict {
            Verdict::Policy => condition::holds(self.grpc, policy, method, attempt),
            Verdict::Retry => condition::allows(self.grpc, policy, method, attempt),
            Verdict::Return => false,
        });
        if let Some(throttle) = throttle
            && (retriable.is_some() || pushback == Pushback::Stop)
        {
            throttle.failed();
        }
        let Some(policy) = retriable else { return Decision::Return };
        let stopped = pushback == Pushback::Stop || throttle.is_some_and(|throttle| !throttle.allows());
        if stopped || !replayable || self.retries >= self.max_retries(policy) {
            return Decision::Return;
        }

        let asked = match pushback {
            Pushback::After(delay) => Some(delay),
            Pushback::Absent | Pushback::Stop => self.retry_after(attempt),
        };
        let restarts = matches!(pushback, Pushback::After(_));
        let delay = asked.unwrap_or_else(|| retry_delay(&policy.backoff, self.step, rng));
        let too_long = asked.is_some() && delay > Self::MAX_RETRY_AFTER;
        if too_long || remaining.is_some_and(|time| delay >= time) {
            return Decision::Return;
        }
        self.step = if restarts { 0 } else { self.step.saturating_add(1) };
        self.retries += 1;
        Decision::RetryAfter(delay)
    }

    fn max_retries(&self, policy: &RetryPolicy) -> u32 {
        if self.grpc { policy.num_retries.min(RetryPolicy::MAX_GRPC_ATTEMPTS - 1) } else { policy.num_retries }
    }

    /// The `Retry-After` of an HTTP answer: any on an HTTP request, and on a gRPC call what something between the two
    /// ends said in plain HTTP.
    fn retry_after(&self, attempt: &Attempt<'_>) -> Option<Duration> {
        match *attempt {
            Attempt::Response { status, headers, .. } if !self.grpc || status != http::StatusCode::OK => {
                retry_after::parse(headers)
            }
            _ => None,
        }
    }
}

/// The pushback of a gRPC call that failed.
pub(super) fn pushback(grpc: bool, attempt: &Attempt<'_>) -> Pushback {
    match *attempt {
        Attempt::Response { status, headers, end_of_stream } if grpc => {
            match grpc::code_of_head(status, headers, end_of_stream) {
                None | Some(Code::Ok) => Pushback::Absent,
                Some(_) => grpc::pushback(headers),
            }
        }
        _ => Pushback::Absent,
    }
}

#[cfg(test)]
mod tests;

//! When a request is sent once more beside an attempt that has no answer yet (gRFC A6, hedging).

use std::time::{Duration, Instant};

use http::Method;

use super::retry::{Resends, condition, pushback};
use super::throttle::Throttle;
use crate::classify::{Attempt, Failure};
use crate::grpc::Pushback;
use crate::model::{HedgePolicy, RetryPolicy};

/// What the end of an attempt means for its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Its result goes to the caller, at once; what else is under way is cancelled.
    Return,
    /// It is sent again at once: no peer has processed it. Not a hedge in the sense of policy, budget or
    /// `grpc-previous-rpc-attempts`.
    Resend,
    /// The request goes on: with the attempts that are under way, or with the next one, which
    /// [`next_at`](Hedge::next_at) announces.
    GoOn,
    /// Nothing is under way and nothing is due: the best of the failures is the caller's.
    GiveUp,
}

/// The attempts of one hedged request: how many there were, and when the next one is due.
///
/// ```text
///  started ──> due after `delay`, or at once after a non-fatal end, or when a server's pushback says
///     │
///     │ ended: success, a fatal answer ──────────────> Return
///     │        NotSent, Refused, as for retries ─────> Resend
///     └─────── non-fatal, or processed by no peer ──> GoOn; GiveUp if nothing is under way nor due
/// ```
///
/// No attempt is due once the policy's are used up, a server said so, or [`stop`](Self::stop) was called. Instants are
/// arguments; they need not be in order.
///
/// ```
/// use std::time::{Duration, Instant};
///
/// use http::Method;
/// use mesh_core::model::HedgePolicy;
/// use mesh_core::resilience::hedge::Hedge;
///
/// let policy = HedgePolicy::new(3, Duration::from_millis(100));
/// assert!(Hedge::new(&policy, false, &Method::POST).is_none(), "a POST over HTTP may do harm twice");
///
/// let now = Instant::now();
/// let mut hedge = Hedge::new(&policy, false, &Method::GET).unwrap();
/// hedge.started(&policy, now);
/// assert_eq!(hedge.next_at(), Some(now + policy.delay));
/// ```
#[derive(Debug, Clone)]
pub struct Hedge {
    grpc: bool,
    max_attempts: u32,
    /// Attempts so far, resends not counted.
    attempts: u32,
    /// Those that have not ended.
    running: u32,
    next: Option<Instant>,
    /// What a server asked for: no attempt before that.
    not_before: Option<Instant>,
    stopped: bool,
    resends: Resends,
    /// Whether the next attempt was put off before.
    is_put_off: bool,
}

impl Hedge {
    /// A request of which nothing has been sent; `grpc` if it is a gRPC call. `None` if the policy does not allow this
    /// method to be sent twice: it is sent once, and only what no peer processed again. gRPC calls are not bound by
    /// their method.
    pub fn new(policy: &HedgePolicy, grpc: bool, method: &Method) -> Option<Self> {
        let max_attempts = policy.max_attempts.min(RetryPolicy::MAX_GRPC_ATTEMPTS);
        let allowed = max_attempts > 1 && (grpc || policy.methods.allows(method));
        allowed.then(|| Self {
            grpc,
            max_attempts,
            attempts: 0,
            running: 0,
            next: None,
            not_before: None,
            stopped: false,
            is_put_off: false,
            resends: Resends::default(),
        })
    }

    /// The value of `grpc-previous-rpc-attempts` for the next attempt; 0 stands for no header. Resends do not count, and
    /// keep what the attempt they repeat had.
    pub fn previous_attempts(&self) -> u32 {
        self.attempts
    }

    /// When the next attempt is due; `None`: there is none to come, unless an end brings it forward.
    ///
    /// A hedge (any attempt but the first) is due provided that the target's [`Throttle`] and the backend's
    /// [budget](super::budget::RetryBudgetState) allow it then; if they do not, call [`stop`](Self::stop).
    pub fn next_at(&self) -> Option<Instant> {
        self.next.filter(|_| !self.stopped && self.attempts < self.max_attempts)
    }

    /// An attempt begins at `now`: the first, or the one that was due.
    pub fn started(&mut self, policy: &HedgePolicy, now: Instant) {
        self.attempts += 1;
        self.running += 1;
        self.not_before = None;
        self.next = now.checked_add(policy.delay);
    }

    /// Nothing is under way and the budget has no place: the next attempt is due at `until` instead. Once only; returns
    /// whether it is.
    pub fn put_off(&mut self, until: Instant) -> bool {
        let first = !std::mem::replace(&mut self.is_put_off, true);
        if first {
            self.next = Some(until);
        }
        first
    }

    /// No further attempt is due: throttle or budget do not allow it, the body cannot be sent from its beginning any
    /// more, or there is no place for another attempt. Those that are under way go on.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// Decides after an attempt that ended at `now`.
    ///
    /// - `replayable`: whether the body can be sent again from its first byte.
    /// - `remaining`: the time to the deadline, if there is one.
    /// - `throttle`: the target's token bucket, if it has one; a failure that counts takes its token here. A success is
    ///   reported to the [`Throttle`] by the caller, once it is known.
    ///
    /// A failure in which no peer processed anything (no connection, no room, refused) does not end attempts that are
    /// under way, whatever the policy says: a hedge must not make a request fail that would succeed without.
    pub fn ended(
        &mut self,
        policy: &HedgePolicy,
        attempt: &Attempt<'_>,
        now: Instant,
        replayable: bool,
        remaining: Option<Duration>,
        throttle: Option<&Throttle>,
    ) -> Decision {
        if self.resends.allow(attempt) && replayable && !remaining.is_some_and(|time| time.is_zero()) {
            return Decision::Resend;
        }
        self.running = self.running.saturating_sub(1);
        let pushback = pushback(self.grpc, attempt);
        let non_fatal = condition::is_non_fatal(self.grpc, policy, attempt);
        if let Some(throttle) = throttle
            && (non_fatal || pushback == Pushback::Stop)
        {
            throttle.failed();
        }
        if !non_fatal {
            return match (is_unprocessed(attempt), self.running) {
                (false, _) => Decision::Return,
                (true, 0) => Decision::GiveUp,
                (true, _) => Decision::GoOn,
            };
        }
        self.stopped |= !replayable;
        match pushback {
            Pushback::Stop => self.stopped = true,
            Pushback::After(pause) => {
                self.next = now.checked_add(pause);
                self.not_before = self.next;
                // Nobody would be left to see it.
                self.stopped |= self.next.is_none() || remaining.is_some_and(|time| pause >= time);
            }
            Pushback::Absent => self.next = Some(self.not_before.map_or(now, |until| until.max(now))),
        }
        if self.running > 0 || self.next_at().is_some() { Decision::GoOn } else { Decision::GiveUp }
    }
}

fn is_unprocessed(attempt: &Attempt<'_>) -> bool {
    matches!(attempt, Attempt::Failed(Failure::Connect | Failure::NotSent | Failure::Refused | Failure::Local))
}

#[cfg(test)]
mod tests;

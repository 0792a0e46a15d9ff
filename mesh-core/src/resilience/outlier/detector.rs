use std::time::{Duration, Instant};

use rand::{Rng, RngExt};

use super::record::{State, Word, interrupt};
use super::{Cause, EjectionChange, Outcome, Record, Unenforced};
use crate::model::{Consecutive, OutlierDetection};
use crate::resilience::backoff::jittered;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Set while nothing may be ejected.
const STOPPED: u64 = 1 << 63;

/// Takes endpoints of one backend out and brings them back. Survives updates of the configuration, as the
/// [`Record`]s of its endpoints do: whatever happens takes the policy of the moment.
///
/// - At the end of each attempt: [`record`](Self::record), without a lock and without an allocation; of a probe:
///   [`conclude_probe`](Self::conclude_probe).
/// - Once an interval: [`sweep`](Self::sweep), when [`next_due`](Self::next_due) says.
/// - The policy is removed: [`reset`](Self::reset). It comes back: [`start`](Self::start).
/// - An endpoint leaves the backend: [`forget`](Self::forget).
///
/// The number of ejected endpoints is taken before an endpoint is ejected and given back after its return, so that it is
/// never below the number of those that are out.
#[derive(Debug)]
pub struct Detector {
    epoch: Instant,
    /// When the interval under way began, in milliseconds since the epoch.
    pub(super) swept: AtomicU64,
    /// The number of ejected endpoints, and [`STOPPED`].
    places: AtomicU64,
}

impl Detector {
    /// Nothing is ejected, and the first interval begins `now`.
    pub fn new(now: Instant) -> Self {
        Self { epoch: now, swept: AtomicU64::new(0), places: AtomicU64::new(0) }
    }

    /// How many endpoints are out, those that wait for a probe included.
    pub fn ejected(&self) -> usize {
        usize::try_from(self.places.load(Ordering::Relaxed) & !STOPPED).unwrap_or(usize::MAX)
    }

    /// Counts what an attempt on the endpoint of `record` says, and ejects it at once if it is the last of a row that is
    /// too long. `total` is how many endpoints the backend has now.
    ///
    /// For everything but probes: what comes in of an endpoint that is out says nothing about its return.
    pub fn record<R: Rng + ?Sized>(
        &self,
        policy: &OutlierDetection,
        record: &Record,
        total: usize,
        outcome: Outcome,
        now: Instant,
        rng: &mut R,
    ) -> Option<EjectionChange> {
        if outcome == Outcome::Ignored || record.word().state != State::In {
            return None;
        }
        if policy.success_rate.is_some() || policy.failure_percentage.is_some() {
            let count = match outcome {
                Outcome::Success => &record.counts.successes,
                Outcome::ServerError { .. } => &record.counts.server_errors,
                Outcome::NoAnswer | Outcome::Ignored => &record.counts.no_answers,
            };
            count.fetch_add(1, Ordering::Relaxed);
        }
        let row = &record.consecutive;
        let mut eject =
            |cause, Consecutive { enforcement, .. }| self.eject(policy, record, total, (cause, enforcement), now, rng);
        let mut lengthen = |count: &AtomicU32, limit: Option<Consecutive>, cause| {
            let limit = limit?;
            one_more(count, limit.count).then(|| eject(cause, limit)).flatten()
        };
        match outcome {
            Outcome::NoAnswer if policy.split_local_origin => {
                let limit = policy.consecutive_local_origin_failures;
                lengthen(&row.no_answers, limit, Cause::ConsecutiveLocalOriginFailures)
            }
            Outcome::ServerError { gateway } => {
                interrupt(&row.no_answers);
                let errors = lengthen(&row.server_errors, policy.consecutive_5xx, Cause::Consecutive5xx);
                if !gateway {
                    interrupt(&row.gateway_errors);
                    return errors;
                }
                graver(errors, || {
                    let limit = policy.consecutive_gateway_errors;
                    lengthen(&row.gateway_errors, limit, Cause::ConsecutiveGatewayErrors)
                })
            }
            // Not split: an answer that does not come counts as a gateway's 503.
            Outcome::NoAnswer => {
                let errors = lengthen(&row.server_errors, policy.consecutive_5xx, Cause::Consecutive5xx);
                graver(errors, || {
                    let limit = policy.consecutive_gateway_errors;
                    lengthen(&row.gateway_errors, limit, Cause::ConsecutiveGatewayErrors)
                })
            }
            Outcome::Success | Outcome::Ignored => {
                row.clear();
                None
            }
        }
    }

    /// The verdict of a probe that [`Record::try_probe`] gave out: a success brings the endpoint back, a failure doubles
    /// its time, ±20 %, up to `max_ejection_time`. [`Outcome::Ignored`] is no verdict.
    pub fn conclude_probe<R: Rng + ?Sized>(
        &self,
        policy: &OutlierDetection,
        record: &Record,
        outcome: Outcome,
        now: Instant,
        rng: &mut R,
    ) -> Option<EjectionChange> {
        match outcome {
            Outcome::Ignored => {
                record.release_probe();
                None
            }
            Outcome::Success => {
                self.bring_back(record, |word| word.state == State::Probing).then_some(EjectionChange::Returned)
            }
            Outcome::ServerError { .. } | Outcome::NoAnswer => {
                let longest = longest(policy);
                let mut lasts = Duration::ZERO;
                let changed = record.change(|word| {
                    // Once it is as long as may be, doubling would only lengthen the decay.
                    let grows = base(policy).saturating_mul(word.multiplier) < longest;
                    let multiplier = if grows { (2 * word.multiplier).max(1) } else { word.multiplier };
                    lasts = jittered(base(policy).saturating_mul(multiplier), rng).min(longest);
                    let until = self.millis(now).saturating_add(millis(lasts));
                    (word.state == State::Probing).then_some(Word { state: State::Ejected, multiplier, until })
                });
                changed.map(|_| EjectionChange::Ejected { cause: Cause::Probe, duration: lasts })
            }
        }
    }

    /// An interval begins `now`, and endpoints may be ejected: the backend has a policy again. Without effect where they
    /// may be already.
    pub fn start(&self, now: Instant) {
        if self.places.load(Ordering::Acquire) & STOPPED != 0 {
            self.swept.store(self.millis(now), Ordering::Relaxed);
            self.places.fetch_and(!STOPPED, Ordering::AcqRel);
        }
    }

    /// The backend has no policy any more: all of its endpoints are back, with nothing against them, and stay so whatever
    /// requests of an older configuration report. Calls `on_change` for each that was out, by its place in `records`.
    pub fn reset<'a>(
        &self,
        records: impl IntoIterator<Item = &'a Record>,
        mut on_change: impl FnMut(usize, EjectionChange),
    ) {
        self.places.fetch_or(STOPPED, Ordering::AcqRel);
        for (index, record) in records.into_iter().enumerate() {
            let before = record.change(|word| (word.state != State::Left).then_some(Word::IN));
            record.clear();
            if before.is_some_and(|word| word.state.is_out()) {
                self.give_place();
                on_change(index, EjectionChange::Returned);
            }
        }
    }

    /// The endpoint of `record` left the backend for good; another one may take its place among the ejected.
    pub fn forget(&self, record: &Record) {
        let before = record.change(|word| (word.state != State::Left).then_some(Word::LEFT));
        if before.is_some_and(|word| word.state.is_out()) {
            self.give_place();
        }
    }

    /// Ejects the endpoint of `record` unless as many are out as may be, or the share that is enforced says no. `None` if
    /// there is nothing to tell: somebody else was quicker, or the policy is gone.
    pub(super) fn eject<R: Rng + ?Sized>(
        &self,
        policy: &OutlierDetection,
        record: &Record,
        total: usize,
        (cause, enforcement): (Cause, u32),
        now: Instant,
        rng: &mut R,
    ) -> Option<EjectionChange> {
        let spared = |reason| Some(EjectionChange::Spared { cause, reason });
        let places = self.places.load(Ordering::Relaxed);
        if places & STOPPED != 0 {
            return None;
        }
        if !has_room(policy, places, total) {
            return spared(Unenforced::MaxEjectionOverflow);
        }
        if rng.random_range(0..100) >= enforcement {
            return spared(Unenforced::EnforcementPercentage);
        }
        let take = |places| (places & STOPPED == 0 && has_room(policy, places, total)).then_some(places + 1);
        match self.places.fetch_update(Ordering::AcqRel, Ordering::Relaxed, take) {
            Ok(_) => {}
            Err(places) if places & STOPPED != 0 => return None,
            Err(_) => return spared(Unenforced::MaxEjectionOverflow),
        }
        let mut lasts = Duration::ZERO;
        let ejected = record.change(|word| {
            let multiplier = (word.multiplier + 1).min(Word::MAX_MULTIPLIER);
            lasts = base(policy).saturating_mul(multiplier).min(longest(policy));
            let until = self.millis(now).saturating_add(millis(lasts));
            (word.state == State::In).then_some(Word { state: State::Ejected, multiplier, until })
        });
        if ejected.is_none() {
            self.give_place();
            return None;
        }
        record.consecutive.clear();
        // A reset that this ejection does not see here comes after it, and so sees the ejection.
        if self.places.fetch_or(0, Ordering::AcqRel) & STOPPED != 0 {
            self.bring_back(record, |word| word.state == State::Ejected);
            return None;
        }
        Some(EjectionChange::Ejected { cause, duration: lasts })
    }

    /// Brings the endpoint of `record` back if `when` says so; whether it did.
    pub(super) fn bring_back(&self, record: &Record, when: impl Fn(Word) -> bool) -> bool {
        let back = record.change(|word| when(word).then_some(Word { state: State::In, until: 0, ..word })).is_some();
        if back {
            self.give_place();
        }
        back
    }

    fn give_place(&self) {
        let before = self.places.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before & !STOPPED > 0, "more endpoints came back than were out");
    }

    /// Milliseconds since the epoch.
    pub(super) fn millis(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.epoch))
    }

    /// The instant of so many milliseconds since the epoch.
    pub(super) fn instant(&self, millis: u64) -> Instant {
        self.epoch + Duration::from_millis(millis)
    }
}

/// gRFC A50 and Envoy: asked before each ejection, so that with any share but 0 one endpoint can be ejected.
fn has_room(policy: &OutlierDetection, places: u64, total: usize) -> bool {
    let ejected = u128::from(places & !STOPPED);
    ejected * 100 < u128::from(policy.max_ejection_percent) * total as u128
}

/// Whether the row of `count`, one longer now, is of `limit` or more. It is for one of those who lengthen it at once, and
/// begins anew then: for an endpoint that is spared, the next `limit` count again.
fn one_more(count: &AtomicU32, limit: u32) -> bool {
    let row = count.fetch_add(1, Ordering::Relaxed).saturating_add(1);
    row >= limit && count.compare_exchange(row, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

/// Of two detections that an outcome sets off, the one to tell of.
fn graver(first: Option<EjectionChange>, second: impl FnOnce() -> Option<EjectionChange>) -> Option<EjectionChange> {
    match first {
        Some(EjectionChange::Ejected { .. }) => first,
        _ => second().or(first),
    }
}

fn base(policy: &OutlierDetection) -> Duration {
    policy.base_ejection_time
}

fn longest(policy: &OutlierDetection) -> Duration {
    policy.max_ejection_time.max(policy.base_ejection_time)
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

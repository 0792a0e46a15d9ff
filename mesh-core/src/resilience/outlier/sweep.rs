use std::time::Instant;

use rand::Rng;

use super::detector::{Detector, millis};
use super::record::{State, Tally, Word};
use super::{Cause, EjectionChange, Record};
use crate::model::{FailurePercentage, OutlierDetection, Recovery, SuccessRate};
use crate::sync::atomic::Ordering;

/// What rounding may add to a success rate.
const ROUNDING: f64 = 1e-12;

/// An endpoint that is in, and how many of its requests succeeded and failed in the interval.
struct Candidate<'a> {
    index: usize,
    record: &'a Record,
    tally: Tally,
}

/// Successes and failures.
type Counted = (u32, u32);

impl Detector {
    /// When the interval under way is over. A policy of another interval holds from the last sweep on (gRFC A50).
    pub fn next_due(&self, policy: &OutlierDetection) -> Instant {
        self.instant(self.swept.load(Ordering::Relaxed) + interval(policy))
    }

    /// Ends the interval if its time has come, and says whether it did: ejects by success rate and failure percentage,
    /// brings endpoints back whose time is up, and lets the multipliers of the others decay. Before
    /// [`next_due`](Self::next_due) it does nothing, and of those who ask at once only one does it.
    ///
    /// `total` is how many endpoints the backend has; `records` are those of them that ever served. `on_change` is called
    /// for each change, with the place of the record.
    pub fn sweep<'a, R: Rng + ?Sized>(
        &self,
        policy: &OutlierDetection,
        total: usize,
        records: impl Iterator<Item = &'a Record> + Clone,
        now: Instant,
        rng: &mut R,
        mut on_change: impl FnMut(usize, EjectionChange),
    ) -> bool {
        if !self.claim_sweep(policy, now) {
            return false;
        }
        if policy.success_rate.is_some() || policy.failure_percentage.is_some() {
            let candidates: Vec<_> = candidates(records.clone()).collect();
            let mut eject = |candidate: &Candidate<'_>, cause, enforcement| {
                let change = self.eject(policy, candidate.record, total, (cause, enforcement), now, rng);
                if let Some(change) = change {
                    on_change(candidate.index, change);
                }
            };
            for counted in counted(policy) {
                if let Some(rule) = &policy.success_rate {
                    below_the_others(rule, &candidates, counted)
                        .for_each(|outlier| eject(outlier, Cause::SuccessRate, rule.enforcement));
                }
                if let Some(rule) = &policy.failure_percentage {
                    above_the_threshold(rule, &candidates, counted)
                        .for_each(|outlier| eject(outlier, Cause::FailurePercentage, rule.enforcement));
                }
            }
        }
        let now = self.millis(now);
        for (index, record) in records.enumerate() {
            if let Some(change) = self.settle(policy, record, now) {
                on_change(index, change);
            }
        }
        true
    }

    fn claim_sweep(&self, policy: &OutlierDetection, now: Instant) -> bool {
        let now = self.millis(now);
        let due = |swept: u64| (now >= swept + interval(policy)).then_some(now);
        self.swept.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due).is_ok()
    }

    /// Brings an endpoint back whose time is up, or has it probed; otherwise an interval without an ejection has passed.
    fn settle(&self, policy: &OutlierDetection, record: &Record, now: u64) -> Option<EjectionChange> {
        let word = record.word();
        match (word.state, policy.recovery) {
            (State::In, _) if word.multiplier > 0 => {
                record.change(|now| (now == word).then_some(Word { multiplier: word.multiplier - 1, ..word }));
                None
            }
            (State::Ejected, Recovery::Probe) if now >= word.until => {
                let half_open = Word { state: State::HalfOpen, ..word };
                record.change(|now| (now == word).then_some(half_open)).map(|_| EjectionChange::Probing)
            }
            (State::Ejected, Recovery::Time) if now >= word.until => {
                self.bring_back(record, |now| now == word).then_some(EjectionChange::Returned)
            }
            // It waits for a probe that a policy before this one asked for.
            (State::HalfOpen, Recovery::Time) => {
                self.bring_back(record, |now| now == word).then_some(EjectionChange::Returned)
            }
            // A probe that takes longer than an ejection is no verdict: another request may be one.
            (State::Probing, _) if word.until == 0 => {
                let until = now.saturating_add(millis(policy.base_ejection_time));
                record.change(|now| (now == word).then_some(Word { until, ..word }));
                None
            }
            (State::Probing, _) if now >= word.until => {
                let half_open = Word { state: State::HalfOpen, ..word };
                record.change(|now| (now == word).then_some(half_open)).map(|_| EjectionChange::Probing)
            }
            _ => None,
        }
    }
}

/// At least a millisecond, which is what the clock of a detector counts, and at most the 34 years that any clock holds.
fn interval(policy: &OutlierDetection) -> u64 {
    millis(policy.interval).clamp(1, 1 << 40)
}

/// The endpoints that are in and had requests. What was counted of the others is gone as well.
fn candidates<'a>(records: impl Iterator<Item = &'a Record>) -> impl Iterator<Item = Candidate<'a>> {
    records.enumerate().filter_map(|(index, record)| {
        let tally = record.counts.take();
        let counts = record.word().state == State::In && tally != Tally::default();
        counts.then_some(Candidate { index, record, tally })
    })
}

/// What is a success and what a failure, once for each kind of failure that is looked at by itself.
fn counted(policy: &OutlierDetection) -> impl Iterator<Item = fn(&Tally) -> Counted> {
    let all: fn(&Tally) -> Counted = |tally| (tally.successes, tally.server_errors.saturating_add(tally.no_answers));
    let answers: fn(&Tally) -> Counted = |tally| (tally.successes, tally.server_errors);
    let answered: fn(&Tally) -> Counted =
        |tally| (tally.successes.saturating_add(tally.server_errors), tally.no_answers);
    let [first, second] = if policy.split_local_origin { [answers, answered].map(Some) } else { [Some(all), None] };
    first.into_iter().chain(second)
}

/// The endpoints of `volume` requests and more, if there are `minimum_hosts` of them.
fn of_volume<'c, 'r>(
    candidates: &'c [Candidate<'r>],
    counted: fn(&Tally) -> Counted,
    volume: u32,
    minimum_hosts: u32,
) -> Option<impl Iterator<Item = (&'c Candidate<'r>, f64)> + Clone> {
    let rated = candidates.iter().filter_map(move |candidate| {
        let (successes, failures) = counted(&candidate.tally);
        let requests = u64::from(successes) + u64::from(failures);
        let enough = requests >= u64::from(volume.max(1));
        enough.then(|| (candidate, f64::from(successes) / requests as f64))
    });
    (rated.clone().count() >= minimum_hosts as usize).then_some(rated)
}

/// Those whose success rate is below `mean - stdev x factor / 1000`, of the population (gRFC A50).
fn below_the_others<'c, 'r>(
    rule: &SuccessRate,
    candidates: &'c [Candidate<'r>],
    counted: fn(&Tally) -> Counted,
) -> impl Iterator<Item = &'c Candidate<'r>> {
    let factor = f64::from(rule.stdev_factor) / 1000.0;
    let rated = of_volume(candidates, counted, rule.request_volume, rule.minimum_hosts);
    rated.into_iter().flat_map(move |rated| {
        let hosts = rated.clone().count() as f64;
        let mean = rated.clone().map(|(_, rate)| rate).sum::<f64>() / hosts;
        let variance = rated.clone().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / hosts;
        // Endpoints that do equally well must not be told apart by how their mean was rounded.
        let threshold = mean - variance.sqrt() * factor - ROUNDING;
        rated.filter(move |(_, rate)| *rate < threshold).map(|(candidate, _)| candidate)
    })
}

/// Those with too large a share of failures, counted exactly.
fn above_the_threshold<'c, 'r>(
    rule: &FailurePercentage,
    candidates: &'c [Candidate<'r>],
    counted: fn(&Tally) -> Counted,
) -> impl Iterator<Item = &'c Candidate<'r>> {
    let (threshold, inclusive) = (u64::from(rule.threshold), rule.inclusive);
    let rated = of_volume(candidates, counted, rule.request_volume, rule.minimum_hosts);
    rated.into_iter().flatten().map(|(candidate, _)| candidate).filter(move |candidate| {
        let (successes, failures) = counted(&candidate.tally);
        let (failed, allowed) = (100 * u64::from(failures), threshold * (u64::from(successes) + u64::from(failures)));
        failed > allowed || inclusive && failed == allowed
    })
}

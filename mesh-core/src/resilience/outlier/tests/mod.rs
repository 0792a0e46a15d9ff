use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::model::{Consecutive, FailurePercentage, OutlierDetection, Recovery, SuccessRate};

mod consecutive;
mod probe;
mod random;
mod statistics;
mod updates;

const ERROR: Outcome = Outcome::ServerError { gateway: false };
const GATEWAY: Outcome = Outcome::ServerError { gateway: true };
const INTERVAL: Duration = Duration::from_secs(10);
const ENFORCED: Consecutive = Consecutive { count: 5, enforcement: 100 };

/// A backend under a policy, and the clock.
struct Backend {
    detector: Detector,
    records: Vec<Record>,
    policy: OutlierDetection,
    now: Instant,
    rng: StdRng,
}

impl Backend {
    /// `change`: of a policy that detects nothing, and lets all be ejected.
    fn new(endpoints: usize, change: impl FnOnce(&mut OutlierDetection)) -> Self {
        let mut policy = nothing();
        change(&mut policy);
        let now = Instant::now();
        let records = std::iter::repeat_with(Record::new).take(endpoints).collect();
        Self { detector: Detector::new(now), records, policy, now, rng: StdRng::seed_from_u64(5) }
    }

    fn record(&mut self, endpoint: usize, outcome: Outcome) -> Option<EjectionChange> {
        let Self { detector, records, policy, now, rng } = self;
        detector.record(policy, &records[endpoint], records.len(), outcome, *now, rng)
    }

    /// Of `requests` the first `successes` succeed.
    fn serve(&mut self, endpoint: usize, requests: u32, successes: u32) {
        for n in 0..requests {
            let outcome = if n < successes { Outcome::Success } else { ERROR };
            assert_eq!(self.record(endpoint, outcome), None);
        }
    }

    fn conclude(&mut self, endpoint: usize, outcome: Outcome) -> Option<EjectionChange> {
        let Self { detector, records, policy, now, rng } = self;
        detector.conclude_probe(policy, &records[endpoint], outcome, *now, rng)
    }

    /// Lets an interval pass, and sweeps.
    fn sweep(&mut self) -> Vec<(usize, EjectionChange)> {
        self.now += INTERVAL;
        let mut changes = Vec::new();
        let Self { detector, records, policy, now, rng } = self;
        assert!(
            detector
                .sweep(policy, records.len(), records.iter(), *now, rng, |index, change| changes.push((index, change)))
        );
        changes
    }

    fn standing(&self, endpoint: usize) -> Standing {
        self.records[endpoint].standing()
    }

    fn out(&self) -> Vec<usize> {
        (0..self.records.len()).filter(|endpoint| self.standing(*endpoint) != Standing::Active).collect()
    }
}

fn nothing() -> OutlierDetection {
    OutlierDetection {
        interval: INTERVAL,
        max_ejection_percent: 100,
        consecutive_5xx: None,
        ..OutlierDetection::default()
    }
}

fn ejected(cause: Cause, seconds: u64) -> Option<EjectionChange> {
    Some(EjectionChange::Ejected { cause, duration: Duration::from_secs(seconds) })
}

fn indices(changes: &[(usize, EjectionChange)]) -> Vec<usize> {
    changes.iter().map(|(index, _)| *index).collect()
}

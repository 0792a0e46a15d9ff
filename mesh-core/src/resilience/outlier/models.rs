//! RL-15: every interleaving of what may happen to a record at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use loom::thread;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::model::{Consecutive, FailurePercentage, OutlierDetection, Recovery};
use crate::sync::atomic::{AtomicU32, Ordering};

const ERROR: Outcome = Outcome::ServerError { gateway: false };

struct Backend {
    detector: Detector,
    records: [Record; 2],
    policy: OutlierDetection,
    begin: Instant,
}

impl Backend {
    fn new(count: u32, change: impl FnOnce(&mut OutlierDetection)) -> Arc<Self> {
        let mut policy = OutlierDetection {
            max_ejection_percent: 100,
            consecutive_5xx: Some(Consecutive::new(count)),
            ..OutlierDetection::default()
        };
        change(&mut policy);
        let begin = Instant::now();
        Arc::new(Self { detector: Detector::new(begin), records: [Record::new(), Record::new()], policy, begin })
    }

    fn record(&self, endpoint: usize, outcome: Outcome) -> Option<EjectionChange> {
        let mut rng = StdRng::seed_from_u64(0);
        self.detector.record(&self.policy, &self.records[endpoint], 2, outcome, self.begin, &mut rng)
    }

    fn sweep(&self, after: Duration) -> Vec<(usize, EjectionChange)> {
        let mut told = Vec::new();
        let mut rng = StdRng::seed_from_u64(0);
        let tell = |index, change| told.push((index, change));
        self.detector.sweep(&self.policy, self.records.len(), self.records.iter(), self.begin + after, &mut rng, tell);
        told
    }

    fn out(&self) -> usize {
        self.records.iter().filter(|record| record.standing() != Standing::Active).count()
    }

    /// Calls `one` and `other` at once.
    fn both<T: 'static>(
        self: &Arc<Self>,
        one: impl FnOnce(&Self) -> T + 'static,
        other: impl FnOnce(&Self) -> T,
    ) -> (T, T) {
        let backend = Arc::clone(self);
        let thread = thread::spawn(move || one(&backend));
        let other = other(self);
        (thread.join().expect("it does not panic"), other)
    }
}

fn is_ejected(change: Option<EjectionChange>) -> bool {
    matches!(change, Some(EjectionChange::Ejected { .. }))
}

/// Two failures at once are a row of two, and eject once.
#[test]
fn loom_od_07_a_row_ejects_once() {
    loom::model(|| {
        let backend = Backend::new(2, |_| ());
        let (one, other) = backend.both(|backend| backend.record(0, ERROR), |backend| backend.record(0, ERROR));
        assert!(is_ejected(one) != is_ejected(other), "{one:?}, {other:?}");
        assert_eq!((backend.out(), backend.detector.ejected()), (1, 1));
    });
}

/// Two endpoints of two fail at once, and half may be out.
#[test]
fn loom_od_04_never_above_the_maximum() {
    loom::model(|| {
        let backend = Backend::new(1, |policy| policy.max_ejection_percent = 50);
        let (one, other) = backend.both(|backend| backend.record(0, ERROR), |backend| backend.record(1, ERROR));
        assert!(is_ejected(one) != is_ejected(other), "{one:?}, {other:?}");
        assert_eq!((backend.out(), backend.detector.ejected()), (1, 1));
    });
}

/// An outcome that comes while an interval ends counts in that interval or in the next.
#[test]
fn loom_od_03_no_outcome_is_lost_between_intervals() {
    loom::model(|| {
        let backend = Backend::new(9, |policy| {
            policy.failure_percentage =
                Some(FailurePercentage { minimum_hosts: 1, request_volume: 2, ..FailurePercentage::default() });
        });
        backend.record(0, ERROR);
        let counts = |backend: &Backend| backend.records[0].counts.take().server_errors;
        let (taken, _) = backend.both(counts, |backend| {
            backend.record(0, ERROR);
            0
        });
        assert_eq!(taken + counts(&backend), 2);
    });
}

/// A probe is given to one of two requests, and its verdict ends it whatever a sweep does meanwhile.
#[test]
fn loom_od_09_one_request_probes() {
    loom::model(|| {
        let backend = Backend::new(1, |policy| policy.recovery = Recovery::Probe);
        backend.record(0, ERROR);
        assert_eq!(backend.sweep(Duration::from_secs(30)), [(0, EjectionChange::Probing)]);
        let probe = |backend: &Backend| {
            let claimed = backend.records[0].try_probe();
            if claimed {
                let mut rng = StdRng::seed_from_u64(0);
                let Backend { detector, records, policy, begin } = backend;
                let change = detector.conclude_probe(policy, &records[0], Outcome::Success, *begin, &mut rng);
                assert_eq!(change, Some(EjectionChange::Returned));
            }
            claimed
        };
        let (one, other) = backend.both(probe, probe);
        assert!(one != other);
        assert_eq!((backend.out(), backend.detector.ejected()), (0, 0));
    });
}

/// Of two sweeps at once one happens, and an endpoint returns once.
#[test]
fn loom_od_05_an_endpoint_returns_once() {
    loom::model(|| {
        let backend = Backend::new(1, |_| ());
        backend.record(0, ERROR);
        let sweep = |backend: &Backend| backend.sweep(Duration::from_secs(30)).len();
        let (one, other) = backend.both(sweep, sweep);
        assert_eq!((one + other, backend.out(), backend.detector.ejected()), (1, 0, 0));
    });
}

/// A failure that comes while the policy is removed ejects nothing for good.
#[test]
fn loom_a_reset_leaves_nobody_out() {
    loom::model(|| {
        let backend = Backend::new(1, |_| ());
        let reset = |backend: &Backend| backend.detector.reset(&backend.records, |_, _| ());
        let fail = |backend: &Backend| _ = backend.record(0, ERROR);
        backend.both(reset, fail);
        assert_eq!((backend.out(), backend.detector.ejected()), (0, 0));
    });
}

/// Neither does one that comes while the endpoint leaves.
#[test]
fn loom_an_endpoint_that_leaves_gives_its_place_back() {
    loom::model(|| {
        let backend = Backend::new(1, |_| ());
        let fail = |backend: &Backend| _ = backend.record(0, ERROR);
        backend.both(|backend| backend.detector.forget(&backend.records[0]), fail);
        assert_eq!((backend.out(), backend.detector.ejected()), (0, 0));
    });
}

/// Two failures and a success, two of them at once: the row is of one or of two, and what it leads to happens once.
#[test]
fn loom_a_row_is_never_longer_than_its_failures() {
    loom::model(|| {
        let backend = Backend::new(2, |_| ());
        let ejections = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&ejections);
        let fail = move |backend: &Backend| {
            if is_ejected(backend.record(0, ERROR)) {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        };
        let (fails, succeeds) = (fail.clone(), |backend: &Backend| _ = backend.record(0, Outcome::Success));
        backend.both(fails, succeeds);
        fail(&backend);
        assert!(ejections.load(Ordering::Relaxed) <= 1);
        assert_eq!(backend.out() as u32, ejections.load(Ordering::Relaxed));
    });
}

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Record(usize, Outcome),
    Probe(usize),
    Conclude(usize, Outcome),
    Release(usize),
    Sweep(u64),
    Reset,
    Start,
    Forget(usize),
    Join,
    Policy(u32, bool, bool),
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        2 => Just(Outcome::Success),
        3 => Just(ERROR),
        2 => Just(GATEWAY),
        2 => Just(Outcome::NoAnswer),
        1 => Just(Outcome::Ignored),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    let endpoint = 0..12usize;
    prop_oneof![
        12 => (endpoint.clone(), outcomes()).prop_map(|(endpoint, outcome)| Step::Record(endpoint, outcome)),
        4 => endpoint.clone().prop_map(Step::Probe),
        4 => (endpoint.clone(), outcomes()).prop_map(|(endpoint, outcome)| Step::Conclude(endpoint, outcome)),
        1 => endpoint.clone().prop_map(Step::Release),
        6 => (0..40u64).prop_map(Step::Sweep),
        1 => Just(Step::Reset),
        1 => Just(Step::Start),
        1 => endpoint.prop_map(Step::Forget),
        1 => Just(Step::Join),
        1 => (0..=100u32, any::<bool>(), any::<bool>()).prop_map(|(max, probe, split)| Step::Policy(max, probe, split)),
    ]
}

fn policy(max: u32, probe: bool, split: bool) -> OutlierDetection {
    OutlierDetection {
        max_ejection_percent: max,
        consecutive_5xx: Some(Consecutive::new(2)),
        consecutive_gateway_errors: Some(Consecutive { count: 1, enforcement: 50 }),
        consecutive_local_origin_failures: Some(Consecutive::new(1)),
        split_local_origin: split,
        success_rate: Some(SuccessRate {
            stdev_factor: 500,
            minimum_hosts: 2,
            request_volume: 1,
            ..SuccessRate::default()
        }),
        failure_percentage: Some(FailurePercentage {
            threshold: 40,
            minimum_hosts: 1,
            request_volume: 1,
            ..FailurePercentage::default()
        }),
        recovery: if probe { Recovery::Probe } else { Recovery::Time },
        ..nothing()
    }
}

proptest! {
    /// OD-04: whatever happens, the count is the number of those that are out, an ejection never takes it above the
    /// maximum, and the changes that are told are those that happen.
    #[test]
    fn od_04_never_above_the_maximum(
        max in 0..=100u32,
        seed in any::<u64>(),
        steps in proptest::collection::vec(steps(), 1..200),
    ) {
        let mut backend = Backend::new(6, |nothing| *nothing = policy(max, false, false));
        backend.rng = StdRng::seed_from_u64(seed);
        let mut stopped = false;
        for step in steps {
            let before: Vec<_> = backend.records.iter().map(Record::standing).collect();
            let count = backend.records.len();
            let mut told: Vec<(usize, EjectionChange)> = Vec::new();
            match step {
                Step::Record(endpoint, outcome) if endpoint < count => {
                    told.extend(backend.record(endpoint, outcome).map(|change| (endpoint, change)));
                }
                Step::Probe(endpoint) if endpoint < count => {
                    prop_assert_eq!(backend.records[endpoint].try_probe(), before[endpoint] == Standing::HalfOpen);
                }
                Step::Conclude(endpoint, outcome) if endpoint < count => {
                    told.extend(backend.conclude(endpoint, outcome).map(|change| (endpoint, change)));
                }
                Step::Release(endpoint) if endpoint < count => backend.records[endpoint].release_probe(),
                Step::Sweep(seconds) => {
                    let Backend { detector, records, policy, now, rng } = &mut backend;
                    *now += Duration::from_secs(seconds);
                    detector.sweep(policy, records.len(), records.iter(), *now, rng, |index, change| told.push((index, change)));
                }
                Step::Reset => {
                    stopped = true;
                    backend.detector.reset(&backend.records, |index, change| told.push((index, change)));
                    prop_assert_eq!(backend.detector.ejected(), 0);
                }
                Step::Start => {
                    stopped = false;
                    backend.detector.start(backend.now);
                }
                Step::Forget(endpoint) if endpoint < count => {
                    backend.detector.forget(&backend.records.remove(endpoint));
                }
                Step::Join if count < 12 => backend.records.push(Record::new()),
                Step::Policy(max, probe, split) => backend.policy = policy(max, probe, split),
                _ => {}
            }
            let ejected = told.iter().any(|(_, change)| {
                matches!(change, EjectionChange::Ejected { cause, .. } if *cause != Cause::Probe)
            });
            let out = backend.out().len();
            prop_assert_eq!(backend.detector.ejected(), out);
            let most = (backend.policy.max_ejection_percent as usize * backend.records.len()).div_ceil(100);
            prop_assert!(!ejected || out <= most, "{} of {} are out, {} may be", out, backend.records.len(), most);
            prop_assert!(!stopped || out == 0);
            if backend.records.len() == before.len() {
                for (index, (before, record)) in before.into_iter().zip(&backend.records).enumerate() {
                    let after = record.standing();
                    // A sweep may eject and, in a later step, return; a step does at most one of them to an endpoint.
                    for (_, change) in told.iter().filter(|(told, _)| *told == index) {
                        match change {
                            EjectionChange::Ejected { .. } => prop_assert_eq!(after, Standing::Ejected),
                            EjectionChange::Returned => {
                                prop_assert!(before != Standing::Active && after == Standing::Active);
                            }
                            EjectionChange::Probing => {
                                prop_assert!(matches!(before, Standing::Ejected | Standing::Probing));
                                prop_assert_eq!(after, Standing::HalfOpen);
                            }
                            EjectionChange::Spared { .. } => {}
                        }
                    }
                    let moved = (before == Standing::Active) != (after == Standing::Active);
                    prop_assert!(!moved || told.iter().any(|(told, _)| *told == index), "{} was not told of", index);
                }
            }
        }
    }
}

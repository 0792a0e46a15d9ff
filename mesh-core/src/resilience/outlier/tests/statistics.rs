use super::*;

fn success_rate(policy: &mut OutlierDetection) {
    policy.success_rate = Some(SuccessRate::default());
}

fn failure_percentage(policy: &mut OutlierDetection) {
    policy.failure_percentage = Some(FailurePercentage::default());
}

fn changes(cause: Cause, seconds: u64, endpoints: &[usize]) -> Vec<(usize, EjectionChange)> {
    endpoints.iter().filter_map(|index| Some((*index, ejected(cause, seconds)?))).collect()
}

/// OD-01: mean 90 %, deviation 20 %, so that the threshold is 52 %.
#[test]
fn od_01_only_the_endpoint_below_the_others_is_ejected() {
    for (successes, factor, expected) in [
        ([100, 100, 100, 100, 50], 1900, &[4][..]),
        ([100, 100, 100, 100, 50], 2000, &[]),
        ([100, 100, 100, 100, 100], 1900, &[]),
        ([90, 90, 90, 90, 90], 0, &[]),
        ([0, 0, 0, 0, 0], 1900, &[]),
        ([100, 80, 60, 40, 20], 1000, &[4]),
        ([100, 80, 60, 40, 20], 500, &[3, 4]),
        // Their mean, rounded, is above each of them.
        ([11, 11, 11, 11, 11], 1, &[]),
    ] {
        let mut backend = Backend::new(5, |policy| {
            policy.success_rate = Some(SuccessRate { stdev_factor: factor, ..SuccessRate::default() });
        });
        for (endpoint, successes) in successes.into_iter().enumerate() {
            backend.serve(endpoint, 100, successes);
        }
        assert_eq!(backend.sweep(), changes(Cause::SuccessRate, 30, expected), "{successes:?}, factor {factor}");
        assert_eq!(backend.out(), expected);
        assert_eq!(backend.sweep(), [], "what was counted is gone");
    }
}

/// OD-02: four endpoints are too few, and so are five if one of them has one request too few.
#[test]
fn od_02_too_few_endpoints_or_requests_decide_nothing() {
    for (change, requests, of_each) in
        [(success_rate as fn(&mut OutlierDetection), 100, 0), (failure_percentage as fn(&mut OutlierDetection), 50, 0)]
    {
        for (endpoints, least, runs) in [(5, requests, true), (4, requests, false), (5, requests - 1, false)] {
            let mut backend = Backend::new(endpoints, change);
            for endpoint in 0..endpoints {
                match endpoint {
                    0 => backend.serve(0, requests, of_each),
                    1 => backend.serve(1, least, least),
                    _ => backend.serve(endpoint, requests, requests),
                }
            }
            assert_eq!(indices(&backend.sweep()), if runs { &[0][..] } else { &[] }, "{endpoints}, {least}");
        }
    }
    // An endpoint without requests has no rate, whatever the policy says.
    let mut backend = Backend::new(3, |policy| {
        policy.success_rate =
            Some(SuccessRate { minimum_hosts: 0, request_volume: 0, stdev_factor: 0, ..SuccessRate::default() });
    });
    assert_eq!(backend.sweep(), []);
    backend.serve(0, 1, 1);
    backend.serve(1, 1, 0);
    assert_eq!(indices(&backend.sweep()), [1]);
}

/// OD-03: more than 85 % (gRFC A50), or 85 % and more (Envoy).
#[test]
fn od_03_the_threshold_itself_is_a_failure_only_if_told() {
    for (failures, inclusive, expected) in [
        (84, false, false),
        (85, false, false),
        (86, false, true),
        (84, true, false),
        (85, true, true),
        (86, true, true),
    ] {
        let mut backend = Backend::new(5, |policy| {
            policy.failure_percentage = Some(FailurePercentage { inclusive, ..FailurePercentage::default() });
        });
        backend.serve(0, 100, 100 - failures);
        (1..5).for_each(|endpoint| backend.serve(endpoint, 100, 100));
        let expected = if expected { changes(Cause::FailurePercentage, 30, &[0]) } else { vec![] };
        assert_eq!(backend.sweep(), expected, "{failures} %, inclusive: {inclusive}");
    }
}

/// OD-04: all are bad, and 10 % of them may be ejected.
#[test]
fn od_04_a_sweep_stops_at_the_maximum() {
    for (endpoints, expected) in [(20, 2), (5, 1), (100, 10)] {
        let mut backend = Backend::new(endpoints, |policy| {
            failure_percentage(policy);
            policy.max_ejection_percent = 10;
        });
        (0..endpoints).for_each(|endpoint| backend.serve(endpoint, 50, 0));
        let told = backend.sweep();
        let overflow =
            EjectionChange::Spared { cause: Cause::FailurePercentage, reason: Unenforced::MaxEjectionOverflow };
        assert_eq!(told.iter().filter(|(_, change)| *change == overflow).count(), endpoints - expected);
        assert_eq!((told.len(), backend.out().len(), backend.detector.ejected()), (endpoints, expected, expected));
    }
}

/// OD-05: `min(30 s x n, 300 s)`, and one interval without an ejection takes one off, down to none.
#[test]
fn od_05_ejections_grow_and_decay() {
    let mut backend = Backend::new(1, |policy| policy.consecutive_5xx = Some(Consecutive::new(1)));
    for n in 1..=12 {
        let seconds = (30 * n).min(300);
        assert_eq!(backend.record(0, ERROR), ejected(Cause::Consecutive5xx, seconds), "ejection {n}");
        for sweep in 1..=seconds / 10 {
            let back = if sweep == seconds / 10 { vec![(0, EjectionChange::Returned)] } else { vec![] };
            assert_eq!(backend.sweep(), back, "ejection {n}, sweep {sweep}");
        }
        assert_eq!((backend.standing(0), u64::from(backend.records[0].multiplier())), (Standing::Active, n));
    }
    for left in (0..12).rev().chain([0, 0]) {
        assert_eq!(backend.sweep(), []);
        assert_eq!(backend.records[0].multiplier(), left, "an interval without an ejection");
    }
    assert_eq!(backend.record(0, ERROR), ejected(Cause::Consecutive5xx, 30));
}

/// OD-05: a base above the maximum is the maximum.
#[test]
fn od_05_the_maximum_is_never_below_the_base() {
    let mut backend = Backend::new(1, |policy| {
        policy.consecutive_5xx = Some(Consecutive::new(1));
        policy.base_ejection_time = Duration::from_secs(400);
    });
    assert_eq!(backend.record(0, ERROR), ejected(Cause::Consecutive5xx, 400));
}

/// gRFC A50, OD-05: the sweep in which an endpoint returns does not lower its multiplier as well.
#[test]
fn od_05_returning_is_no_clean_interval() {
    let mut backend = Backend::new(1, |policy| policy.consecutive_5xx = Some(Consecutive::new(1)));
    backend.record(0, ERROR);
    while backend.sweep().is_empty() {}
    assert_eq!(backend.records[0].multiplier(), 1);
}

/// OD-07: answers and missing answers are compared apart, where they are split.
#[test]
fn od_07_missing_answers_have_a_rate_of_their_own() {
    for (split, outcome, expected) in [
        (false, Outcome::NoAnswer, &[0][..]),
        (false, ERROR, &[0]),
        (true, Outcome::NoAnswer, &[0]),
        (true, ERROR, &[0]),
    ] {
        for change in [success_rate, failure_percentage] {
            let mut backend = Backend::new(5, |policy| {
                change(policy);
                policy.split_local_origin = split;
            });
            (1..5).for_each(|endpoint| backend.serve(endpoint, 100, 100));
            for _ in 0..100 {
                backend.record(0, outcome);
            }
            assert_eq!(indices(&backend.sweep()), expected, "split: {split}, {outcome:?}");
        }
    }
    // Half and half: each by itself is no outlier among others that are as bad.
    let mut backend = Backend::new(5, |policy| {
        failure_percentage(policy);
        policy.failure_percentage = Some(FailurePercentage { threshold: 70, ..FailurePercentage::default() });
    });
    let mixed = |backend: &mut Backend| {
        for endpoint in 0..5 {
            (0..40).for_each(|_| assert_eq!(backend.record(endpoint, ERROR), None));
            (0..40).for_each(|_| assert_eq!(backend.record(endpoint, Outcome::NoAnswer), None));
            backend.serve(endpoint, 30, 30);
        }
    };
    backend.policy.split_local_origin = true;
    mixed(&mut backend);
    assert_eq!(backend.sweep(), [], "40 of 70 answers are errors, 40 of 110 requests have none");
    backend.policy.split_local_origin = false;
    mixed(&mut backend);
    assert_eq!(backend.sweep().len(), 5, "80 of 110 failed");
}

/// OD-01: endpoints that are out are not compared with the others. Of the five that are in the last is below 80.8 %; a
/// sixth without any success would take the threshold down to 10 %.
#[test]
fn od_01_only_endpoints_that_are_in_are_compared() {
    let mut backend = Backend::new(6, |policy| {
        success_rate(policy);
        policy.consecutive_5xx = Some(Consecutive::new(100));
    });
    (0..4).for_each(|endpoint| backend.serve(endpoint, 100, 100));
    backend.serve(4, 100, 80);
    backend.serve(5, 99, 0);
    assert_eq!(backend.record(5, ERROR), ejected(Cause::Consecutive5xx, 30));
    assert_eq!(backend.sweep(), changes(Cause::SuccessRate, 30, &[4]));
}

/// A sweep happens once an interval, whoever asks.
#[test]
fn a_sweep_before_its_time_does_nothing() {
    let mut backend = Backend::new(5, failure_percentage);
    backend.serve(0, 50, 0);
    (1..5).for_each(|endpoint| backend.serve(endpoint, 50, 50));
    let Backend { detector, records, policy, now, rng } = &mut backend;
    let due = detector.next_due(policy);
    assert_eq!(due, *now + INTERVAL);
    let mut told = 0;
    for (when, sweeps) in [(*now, false), (due - Duration::from_millis(1), false), (due, true), (due, false)] {
        assert_eq!(detector.sweep(policy, records.len(), records.iter(), when, rng, |_, _| told += 1), sweeps);
    }
    assert_eq!(told, 1);
    // gRFC A50: another interval holds from the last sweep on.
    policy.interval = 3 * INTERVAL;
    assert_eq!(detector.next_due(policy), due + 3 * INTERVAL);
    policy.interval = Duration::ZERO;
    assert_eq!(detector.next_due(policy), due + Duration::from_millis(1));
    policy.interval = Duration::MAX;
    assert!(detector.next_due(policy) > due + 1_000_000 * INTERVAL);
}

use super::*;

/// An endpoint of two that is out until a probe succeeds, and whose time is up.
fn half_open() -> Backend {
    let mut backend = Backend::new(2, |policy| {
        policy.recovery = Recovery::Probe;
        policy.consecutive_5xx = Some(Consecutive::new(1));
    });
    assert_eq!(backend.record(0, ERROR), ejected(Cause::Consecutive5xx, 30));
    assert!(!backend.records[0].try_probe(), "its time is not up");
    for expected in [&[][..], &[], &[(0, EjectionChange::Probing)]] {
        assert_eq!(backend.sweep(), expected);
    }
    assert_eq!((backend.standing(0), backend.detector.ejected()), (Standing::HalfOpen, 1));
    backend
}

/// OD-09: one request gets through; it succeeds, and the endpoint is back.
#[test]
fn od_09_a_probe_that_succeeds_brings_the_endpoint_back() {
    let mut backend = half_open();
    assert!(!backend.records[1].try_probe(), "it is in");
    assert!(backend.records[0].try_probe());
    assert!(!backend.records[0].try_probe(), "one is enough");
    assert_eq!(backend.standing(0), Standing::Probing);
    // Requests from before its ejection end now; they are no verdict.
    assert_eq!((backend.record(0, Outcome::Success), backend.record(0, ERROR)), (None, None));
    assert_eq!(backend.sweep(), []);
    assert_eq!(backend.standing(0), Standing::Probing);
    assert_eq!(backend.conclude(0, Outcome::Success), Some(EjectionChange::Returned));
    assert_eq!((backend.standing(0), backend.detector.ejected()), (Standing::Active, 0));
    assert_eq!(backend.conclude(0, Outcome::Success), None, "there is no probe");
    assert_eq!(backend.conclude(0, ERROR), None);
    assert_eq!((backend.standing(0), backend.detector.ejected()), (Standing::Active, 0));
}

/// OD-09: the penalty doubles with each failure, ±20 %, up to the maximum.
#[test]
fn od_09_a_probe_that_fails_doubles_the_penalty() {
    let mut backend = half_open();
    let mut jittered = false;
    for nominal in [60, 120, 240, 300, 300, 300] {
        assert!(backend.records[0].try_probe());
        let outcome = if nominal % 120 == 0 { ERROR } else { Outcome::NoAnswer };
        let Some(EjectionChange::Ejected { cause: Cause::Probe, duration }) = backend.conclude(0, outcome) else {
            panic!("it failed")
        };
        let nominal = Duration::from_secs(nominal);
        let most = nominal.mul_f64(1.200_001).min(Duration::from_secs(300));
        assert!(duration >= nominal.mul_f64(0.799_999) && duration <= most, "{duration:?} of {nominal:?}");
        jittered |= duration != nominal;
        assert_eq!(backend.standing(0), Standing::Ejected);
        let until = backend.now + duration;
        while backend.sweep().is_empty() {
            assert!(backend.now < until + INTERVAL);
        }
        assert_eq!(backend.standing(0), Standing::HalfOpen);
        assert!(backend.now >= until);
    }
    assert!(jittered);
    assert!(backend.records[0].try_probe());
    assert_eq!(backend.conclude(0, Outcome::Success), Some(EjectionChange::Returned));
    assert_eq!(backend.records[0].multiplier(), 16, "30 s x 16 are more than 300 s, and so it stopped growing");
}

/// OD-09: a probe that says nothing is given to the next request.
#[test]
fn od_09_a_probe_without_a_verdict_is_handed_on() {
    let mut backend = half_open();
    assert!(backend.records[0].try_probe());
    backend.records[0].release_probe();
    assert_eq!(backend.standing(0), Standing::HalfOpen);
    assert!(backend.records[0].try_probe());
    assert_eq!(backend.conclude(0, Outcome::Ignored), None);
    assert_eq!((backend.standing(0), backend.detector.ejected()), (Standing::HalfOpen, 1));
    backend.records[1].release_probe();
    assert_eq!(backend.standing(1), Standing::Active);
}

/// A policy that no longer probes lets those return that wait for one.
#[test]
fn od_09_whoever_waits_for_a_probe_returns_by_time_if_the_policy_says_so() {
    let mut backend = half_open();
    backend.policy.recovery = Recovery::Time;
    assert_eq!(backend.sweep(), [(0, EjectionChange::Returned)]);
    let mut backend = half_open();
    assert!(backend.records[0].try_probe());
    backend.policy.recovery = Recovery::Time;
    assert_eq!(backend.sweep(), [], "it is being probed");
    assert_eq!(backend.conclude(0, Outcome::Success), Some(EjectionChange::Returned));
}

/// OD-09: a probe that goes on for longer than an ejection is no verdict; another request may be one.
#[test]
fn od_09_a_probe_that_takes_too_long_is_handed_on() {
    let mut backend = half_open();
    assert!(backend.records[0].try_probe());
    let begun = backend.now;
    let changes = loop {
        let changes = backend.sweep();
        if !changes.is_empty() {
            break changes;
        }
        assert!(backend.now < begun + 3 * backend.policy.base_ejection_time, "it is handed on some time");
        assert_eq!(backend.standing(0), Standing::Probing);
    };
    assert!(backend.now >= begun + backend.policy.base_ejection_time);
    assert_eq!(changes, [(0, EjectionChange::Probing)]);
    assert_eq!(backend.conclude(0, Outcome::Success), None, "it comes too late");
    assert!(backend.records[0].try_probe());
}

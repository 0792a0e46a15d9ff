use super::*;

/// OD-07: five in a row eject at once, inside the interval; one success in between and the row begins anew.
#[test]
fn od_07_a_row_of_errors_ejects_at_once() {
    let mut backend = Backend::new(2, |policy| policy.consecutive_5xx = Some(ENFORCED));
    for outcome in [ERROR, GATEWAY, Outcome::NoAnswer, ERROR] {
        assert_eq!(backend.record(0, outcome), None);
    }
    assert_eq!(backend.record(0, Outcome::Success), None);
    for outcome in [ERROR, GATEWAY, Outcome::Ignored, Outcome::NoAnswer, ERROR] {
        assert_eq!(backend.record(0, outcome), None, "another endpoint's do not count");
        assert_eq!(backend.record(1, Outcome::Success), None);
    }
    assert_eq!(backend.standing(0), Standing::Active);
    assert_eq!(backend.record(0, ERROR), ejected(Cause::Consecutive5xx, 30));
    assert_eq!((backend.standing(0), backend.standing(1)), (Standing::Ejected, Standing::Active));
    assert_eq!(backend.detector.ejected(), 1);
    // What is still under way neither ejects it again nor brings it back.
    for outcome in [ERROR, ERROR, ERROR, ERROR, ERROR, ERROR, Outcome::Success] {
        assert_eq!(backend.record(0, outcome), None);
    }
    assert_eq!((backend.standing(0), backend.detector.ejected()), (Standing::Ejected, 1));
}

/// OD-07: which outcomes lengthen, leave alone and end which row, split or not.
#[test]
fn od_07_each_row_counts_its_own_failures() {
    let causes = [Cause::Consecutive5xx, Cause::ConsecutiveGatewayErrors, Cause::ConsecutiveLocalOriginFailures];
    for (split, cause, count, between, expected) in [
        // Whatever comes between two gateway errors.
        (false, causes[0], 3, Some(ERROR), true),
        (false, causes[0], 3, Some(Outcome::NoAnswer), true),
        (false, causes[0], 2, Some(Outcome::Success), false),
        (true, causes[0], 3, Some(Outcome::NoAnswer), false),
        (true, causes[0], 2, Some(Outcome::NoAnswer), true),
        (false, causes[1], 2, None, true),
        (false, causes[1], 2, Some(ERROR), false),
        (false, causes[1], 2, Some(Outcome::Success), false),
        (false, causes[1], 3, Some(Outcome::NoAnswer), true),
        (true, causes[1], 3, Some(Outcome::NoAnswer), false),
        (true, causes[1], 2, Some(Outcome::Ignored), true),
    ] {
        let mut backend = Backend::new(1, |policy| {
            let row = Some(Consecutive::new(count));
            policy.split_local_origin = split;
            match cause {
                Cause::Consecutive5xx => policy.consecutive_5xx = row,
                _ => policy.consecutive_gateway_errors = row,
            }
        });
        let mut last = backend.record(0, GATEWAY);
        for outcome in between.into_iter().chain([GATEWAY]) {
            assert_eq!(last, None);
            last = backend.record(0, outcome);
        }
        let expected = expected.then(|| ejected(cause, 30)).flatten();
        assert_eq!(last, expected, "split: {split}, {cause:?} of {count}, {between:?}");
    }
    // Answers missing: a row of their own, which an answer ends, be it an error.
    let local = |policy: &mut OutlierDetection| {
        policy.split_local_origin = true;
        policy.consecutive_local_origin_failures = Some(Consecutive::new(2));
    };
    for (between, expected) in
        [(None, true), (Some(Outcome::Ignored), true), (Some(ERROR), false), (Some(Outcome::Success), false)]
    {
        let mut backend = Backend::new(1, local);
        assert_eq!(backend.record(0, Outcome::NoAnswer), None);
        if let Some(between) = between {
            assert_eq!(backend.record(0, between), None);
        }
        let last = backend.record(0, Outcome::NoAnswer);
        assert_eq!(last, expected.then(|| ejected(causes[2], 30)).flatten(), "{between:?}");
    }
    let mut backend = Backend::new(1, local);
    backend.policy.split_local_origin = false;
    for _ in 0..10 {
        assert_eq!(backend.record(0, Outcome::NoAnswer), None, "only where it is split");
    }
}

/// OD-06, OD-07: of two rows that are too long at once the one that ejects is told of.
#[test]
fn od_07_gateway_errors_that_are_not_enforced_hide_nothing() {
    let enforced = Some(Consecutive { count: 2, enforcement: 100 });
    let shadow = Some(Consecutive { count: 2, enforcement: 0 });
    let reason = Unenforced::EnforcementPercentage;
    for (errors, gateway, expected) in [
        (enforced, shadow, ejected(Cause::Consecutive5xx, 30)),
        (shadow, enforced, ejected(Cause::ConsecutiveGatewayErrors, 30)),
        (shadow, None, Some(EjectionChange::Spared { cause: Cause::Consecutive5xx, reason })),
        (None, shadow, Some(EjectionChange::Spared { cause: Cause::ConsecutiveGatewayErrors, reason })),
    ] {
        let mut backend = Backend::new(1, |policy| {
            (policy.consecutive_5xx, policy.consecutive_gateway_errors) = (errors, gateway);
        });
        assert_eq!(backend.record(0, GATEWAY), None);
        assert_eq!(backend.record(0, GATEWAY), expected);
    }
}

/// OD-06: none, half, or all of the ejections are carried out; five sigma.
#[test]
fn od_06_the_share_that_is_enforced() {
    const DECISIONS: u32 = 2_500;
    for enforcement in [0, 50, 100] {
        let mut done = 0u32;
        let mut backend =
            Backend::new(1, |policy| policy.consecutive_5xx = Some(Consecutive { count: 1, enforcement }));
        for _ in 0..DECISIONS {
            match backend.record(0, ERROR) {
                Some(EjectionChange::Ejected { .. }) => {
                    done += 1;
                    backend.detector.reset(&backend.records, |_, _| ());
                    backend.detector.start(backend.now);
                }
                change => {
                    let reason = Unenforced::EnforcementPercentage;
                    assert_eq!(change, Some(EjectionChange::Spared { cause: Cause::Consecutive5xx, reason }));
                }
            }
        }
        let (share, draws) = (f64::from(enforcement) / 100.0, f64::from(DECISIONS));
        let sigma = (draws * share * (1.0 - share)).sqrt();
        assert!((f64::from(done) - share * draws).abs() <= 5.0 * sigma, "{enforcement} %: {done}");
    }
}

/// OD-04: with 20 endpoints of which 10 % may be out, two are; the others are spared until one returns.
#[test]
fn od_04_no_more_than_the_maximum_is_ejected() {
    for (endpoints, percent, expected) in
        [(20, 10, 2), (5, 10, 1), (1, 1, 1), (3, 0, 0), (3, 100, 3), (10, 50, 5), (10, 51, 6), (21, 10, 3)]
    {
        let mut backend = Backend::new(endpoints, |policy| {
            policy.consecutive_5xx = Some(Consecutive::new(1));
            policy.max_ejection_percent = percent;
        });
        for endpoint in 0..endpoints {
            let change = backend.record(endpoint, ERROR);
            let reason = Unenforced::MaxEjectionOverflow;
            let spared = Some(EjectionChange::Spared { cause: Cause::Consecutive5xx, reason });
            let expected = if endpoint < expected { ejected(Cause::Consecutive5xx, 30) } else { spared };
            assert_eq!(change, expected, "{endpoints} endpoints, {percent} %: {endpoint}");
        }
        assert_eq!(backend.detector.ejected(), expected);
    }
}

/// An endpoint that was spared is ejected by its next failures, not by each single one.
#[test]
fn od_07_a_row_begins_anew_after_its_decision() {
    let mut backend = Backend::new(1, |policy| policy.consecutive_5xx = Some(Consecutive { count: 3, enforcement: 0 }));
    let told = (0..9).filter(|_| backend.record(0, ERROR).is_some()).count();
    assert_eq!(told, 3);
    // A limit that falls below the row counts with the next failure.
    backend.record(0, ERROR);
    backend.record(0, ERROR);
    backend.policy.consecutive_5xx = Some(Consecutive::new(1));
    assert_eq!(backend.record(0, ERROR), ejected(Cause::Consecutive5xx, 30));
}

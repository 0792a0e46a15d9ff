use super::*;

fn all_out(endpoints: usize) -> Backend {
    let mut backend = Backend::new(endpoints, |policy| policy.consecutive_5xx = Some(Consecutive::new(1)));
    for endpoint in 0..endpoints {
        assert_eq!(backend.record(endpoint, ERROR), ejected(Cause::Consecutive5xx, 30));
    }
    backend
}

#[test]
fn what_is_out_stays_out_when_the_policy_changes() {
    let mut backend = all_out(3);
    backend.policy = OutlierDetection { interval: INTERVAL, ..OutlierDetection::default() };
    assert_eq!(backend.sweep(), []);
    assert_eq!((backend.out().len(), backend.detector.ejected()), (3, 3), "above the new maximum");
    backend.detector.start(backend.now + INTERVAL);
    assert_eq!(backend.detector.next_due(&backend.policy), backend.now + INTERVAL, "it has begun already");
    assert_eq!((backend.sweep(), backend.sweep().len()), (vec![], 3));
}

/// gRFC A50: without a policy all are back, and nothing is held against them.
#[test]
fn a_policy_that_is_removed_brings_all_back() {
    let mut backend = all_out(3);
    backend.policy.recovery = Recovery::Probe;
    (0..2).for_each(|_| assert_eq!(backend.sweep(), []));
    assert_eq!(backend.sweep().len(), 3);
    assert!(backend.records[1].try_probe());
    let mut told = Vec::new();
    backend.detector.reset(&backend.records, |index, change| told.push((index, change)));
    assert_eq!(told, [0, 1, 2].map(|index| (index, EjectionChange::Returned)));
    assert_eq!((backend.out(), backend.detector.ejected()), (vec![], 0));
    // Requests that began before go by the policy of then.
    assert_eq!(backend.record(0, ERROR), None);
    assert_eq!(backend.conclude(1, ERROR), None);
    assert_eq!((backend.out(), backend.detector.ejected()), (vec![], 0));
    backend.now += INTERVAL;
    backend.detector.start(backend.now);
    assert_eq!(backend.detector.next_due(&backend.policy), backend.now + INTERVAL);
    assert_eq!(backend.record(0, ERROR), ejected(Cause::Consecutive5xx, 30), "its first");
}

#[test]
fn an_endpoint_that_leaves_makes_room() {
    let mut backend = all_out(2);
    backend.detector.forget(&backend.records[0]);
    backend.detector.forget(&backend.records[0]);
    assert_eq!((backend.standing(0), backend.detector.ejected()), (Standing::Active, 1));
    // Its last requests have no say.
    assert_eq!((backend.record(0, ERROR), backend.detector.ejected()), (None, 1));
    backend.detector.reset(&backend.records, |index, _| assert_eq!(index, 1));
    assert_eq!(backend.detector.ejected(), 0);
    backend.detector.start(backend.now);
    assert_eq!((backend.record(0, ERROR), backend.detector.ejected()), (None, 0));
}

/// With fewer endpoints fewer may be out; those that are stay.
#[test]
fn the_total_may_shrink() {
    let mut backend = Backend::new(10, |policy| {
        policy.consecutive_5xx = Some(Consecutive::new(1));
        policy.max_ejection_percent = 50;
    });
    (0..4).for_each(|endpoint| assert!(backend.record(endpoint, ERROR).is_some()));
    for gone in backend.records.split_off(6) {
        backend.detector.forget(&gone);
    }
    let reason = Unenforced::MaxEjectionOverflow;
    let spared = Some(EjectionChange::Spared { cause: Cause::Consecutive5xx, reason });
    assert_eq!((backend.record(4, ERROR), backend.detector.ejected()), (spared, 4));
}

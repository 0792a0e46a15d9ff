//! Which idle endpoints are connected, and when a view of many is made anew.

use super::*;
use State::{Connecting, Failing, Idle, Ready};

#[test]
fn a_small_backend_connects_all_of_the_priorities_in_use() {
    let zones = |index: usize| if index < 3 { ("a", 0, 1) } else { ("b", 1, 1) };
    let mut kit = Kit::new(LoadBalancer::RoundRobin, &[Idle; 6]).zoned(zones);
    let picker = kit.picker();
    let indices = |kit: &mut Kit| {
        let chosen = picker.to_connect(kit.now, &mut kit.rng);
        let mut indices: Vec<_> = chosen.into_iter().map(|endpoint| kit.index(endpoint)).collect();
        indices.sort_unstable();
        indices
    };
    assert_eq!(indices(&mut kit), [0, 1, 2]);
    kit.set(&[Failing, Failing, Failing]);
    assert_eq!(indices(&mut kit), [3, 4, 5]);
    // P0 connects for too long: P1 is wanted, and what is idle of P0 still is.
    kit.set(&[Connecting, Failing, Idle]);
    let _ = kit.pick(&picker);
    kit.pass(Duration::from_secs(10));
    assert_eq!(indices(&mut kit), [2, 3, 4, 5]);
}

#[test]
fn a_large_backend_connects_a_few_at_once() {
    let mut kit = Kit::new(LoadBalancer::RoundRobin, &[Idle; 200]);
    let picker = kit.picker();
    let mut connected = std::collections::HashSet::new();
    for _ in 0..50 {
        let chosen = picker.to_connect(kit.now, &mut kit.rng);
        assert_eq!(chosen.len(), AT_ONCE as usize);
        let mut indices: Vec<_> = chosen.into_iter().map(|endpoint| kit.index(endpoint)).collect();
        connected.extend(indices.iter().copied());
        indices.sort_unstable();
        indices.dedup();
        assert_eq!(indices.len(), AT_ONCE as usize, "each once");
    }
    assert!(connected.len() > 150, "not always the same: {}", connected.len());
    (0..10).for_each(|index| kit.set_one(index, Connecting));
    assert_eq!(picker.to_connect(kit.now, &mut kit.rng).len(), 6);
    // Those that changed since are left out.
    (10..200).for_each(|index| kit.set_one(index, Failing));
    assert_eq!(picker.to_connect(kit.now, &mut kit.rng).len(), 0);
}

#[test]
fn requests_wake_those_that_sleep_one_by_one() {
    let mut states = vec![Idle; 150];
    states[0] = Ready;
    for policy in policies() {
        let mut kit = Kit::new(policy.clone(), &states);
        let picker = kit.picker();
        let mut woken = 0;
        for _ in 0..200 {
            let Pick::Ready(chosen) = kit.pick(&picker) else { panic!("one is ready") };
            if let Some(sleeper) = chosen.sleeper {
                assert_eq!(sleeper.state(), Idle);
                sleeper.set_state(Connecting, kit.now);
                woken += 1;
            }
        }
        // gRFC A76: without a hash, one at a time.
        assert_eq!(woken, if picker.uses_hash() { 1 } else { AT_ONCE }, "{policy:?}");
    }
}

/// A view of many is kept for a moment, but not by a request that it fails.
#[test]
fn a_large_backend_settles_before_it_is_looked_at_again() {
    for policy in policies() {
        let mut kit = Kit::new(policy.clone(), &vec![Ready; LARGE + 1]);
        let picker = kit.picker();
        let built = |picker: &Picker<()>| picker.view.load().built;
        let before = built(&picker);
        kit.set_one(0, Connecting);
        let _ = kit.next(&picker);
        assert_eq!(built(&picker), before, "{policy:?}");
        kit.pass(SETTLE);
        let _ = kit.next(&picker);
        assert_ne!(built(&picker), before, "{policy:?}");
        // All but one that the view does not know of are gone.
        kit.set(&vec![Failing; LARGE + 1]);
        kit.pass(SETTLE);
        assert_eq!(kit.answer(&picker), "failing");
        kit.set_one(5, Ready);
        assert_eq!(kit.next(&picker), 5, "{policy:?}");
        kit.set(&vec![Failing; LARGE + 1]);
        kit.set_one(9, Ready);
        assert_eq!(kit.next(&picker), 9, "{policy:?}: at once, not after a moment");
    }
}

/// Somebody looks just now: whoever is served by the old view takes it, and nobody is turned away by it.
#[test]
fn a_request_that_the_old_view_fails_waits_for_the_look() {
    let mut kit = Kit::new(LoadBalancer::RoundRobin, &[Ready, Failing]);
    let picker = kit.picker();
    let looking = picker.looking.lock().unwrap();
    kit.fleet.bump();
    assert_eq!(kit.next(&picker), 0, "the old view serves");
    kit.set(&[Failing, Ready]);
    let (picker, now) = (&picker, kit.now);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || {
            let mut rng = StdRng::seed_from_u64(1);
            word(&picker.pick(&PickRequest::new(None, now), &[], &mut rng))
        });
        drop(looking);
        assert_eq!(waiting.join().unwrap(), "ready");
    });
}

/// A view of very many endpoints may be older than their last change: whoever finds no room by it is told when to ask
/// again.
#[test]
fn a_stale_view_of_many_endpoints_is_asked_again() {
    let mut states = vec![State::Idle; 1_001];
    states[0] = State::Ready;
    let mut kit = Kit::new(LoadBalancer::RoundRobin, &states);
    let picker = kit.picker();
    let busy = Arc::clone(&kit.endpoints[0]);
    assert!(Arc::ptr_eq(ready(picker.pick(&kit.request(), &[], &mut kit.rng)), &busy));
    assert_eq!(picker.ask_again(), None);
    kit.set_one(1, State::Ready);
    let tried = [Arc::clone(&busy)];
    assert!(Arc::ptr_eq(ready(picker.pick(&kit.request(), &tried, &mut kit.rng)), &busy), "by the old view");
    let at = picker.ask_again().expect("the view is old");
    kit.pass(at.saturating_duration_since(kit.now));
    assert!(Arc::ptr_eq(ready(picker.pick(&kit.request(), &tried, &mut kit.rng)), &kit.endpoints[1]));
}

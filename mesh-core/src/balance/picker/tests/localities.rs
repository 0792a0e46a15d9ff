//! Priorities, localities, and what is near.

use super::*;
use crate::model::Proximity;
use State::{Connecting, Failing, Idle, Ready};

/// Two endpoints of priority 0, then two of priority 1.
fn two_priorities(policy: LoadBalancer, states: &[State; 4]) -> Kit {
    Kit::new(policy, states).zoned(|index| if index < 2 { ("a", 0, 1) } else { ("b", 1, 1) })
}

#[test]
fn lb_02_localities_share_by_weight() {
    for policy in policies() {
        let mut kit =
            Kit::new(policy.clone(), &[Ready; 4]).zoned(|index| if index == 0 { ("a", 0, 1) } else { ("b", 0, 3) });
        let picker = kit.picker();
        let counts = kit.count(&picker, 10_000);
        match policy {
            LoadBalancer::RingHash(_) => assert!((2_000..=3_000).contains(&counts[0]), "{counts:?}"),
            _ => assert_share(counts[0], 10_000, 0.25),
        }
    }
}

/// Half of zone b is left, which carries 70 % of its share: 1 to 2.1.
#[test]
fn lb_02_a_locality_shares_as_far_as_it_is_available() {
    let zones = |index: usize| if index < 4 { ("a", 0, 1) } else { ("b", 0, 3) };
    let states = [Ready, Ready, Ready, Ready, Ready, Ready, Failing, Ready];
    let mut kit = Kit::new(LoadBalancer::Random, &states).zoned(zones).with(|index, endpoint| {
        if index == 7 {
            endpoint.health = Health::Unhealthy;
        }
    });
    kit.config.localities.overprovisioning_factor = Some(140);
    let picker = kit.picker();
    let counts = kit.count(&picker, 20_000);
    assert_share(counts[..4].iter().sum(), 20_000, 1.0 / 3.1);
    // gRPC's: a locality that has anything gets its share.
    kit.config.localities.overprovisioning_factor = None;
    let picker = kit.picker();
    let counts = kit.count(&picker, 20_000);
    assert_share(counts[..4].iter().sum(), 20_000, 0.25);
}

#[test]
fn lb_02_the_share_of_a_locality_that_cannot_serve_goes_to_the_others() {
    let zones = |index: usize| (["a", "b", "c"][index], 0, [1, 1, 98][index]);
    for (state, policy) in [(Failing, LoadBalancer::RoundRobin), (Connecting, LoadBalancer::Random)] {
        let mut kit = Kit::new(policy, &[Ready, Ready, state]).zoned(zones);
        let picker = kit.picker();
        let counts = kit.count(&picker, 1_000);
        assert_eq!(counts[2], 0);
        assert!(counts[0] > 0);
    }
}

#[test]
fn a_weight_of_a_locality_may_be_as_great_as_it_likes() {
    let mut kit = Kit::new(LoadBalancer::Random, &[Ready; 3])
        .zoned(|index| (["a", "b", "c"][index], 0, [u32::MAX, u32::MAX, 1][index]));
    let picker = kit.picker();
    let counts = kit.count(&picker, 1_000);
    assert_share(counts[0], 1_000, 0.5);
}

#[test]
fn lb_03_the_next_priority_takes_over_at_once_when_all_fail() {
    for policy in policies() {
        let mut kit = two_priorities(policy.clone(), &[Ready; 4]);
        let picker = kit.picker();
        let counts = kit.count(&picker, 100);
        assert_eq!(counts[2..], [0, 0], "{policy:?}");
        kit.set(&[Failing, Failing, Ready, Ready]);
        let counts = kit.count(&picker, 100);
        assert_eq!(counts[..2], [0, 0], "{policy:?}");
        // And back, as soon as it is ready.
        kit.set(&[Failing, Ready, Ready, Ready]);
        kit.config.localities.overprovisioning_factor = None;
        let picker = kit.picker();
        assert_eq!(kit.count(&picker, 100), [0, 100, 0, 0], "{policy:?}");
    }
}

/// Half of P0 carries 70 %.
#[test]
fn lb_03_what_a_priority_cannot_carry_spills_over() {
    for policy in policies() {
        let mut kit = two_priorities(policy.clone(), &[Ready, Failing, Ready, Ready]);
        let picker = kit.picker();
        let counts = kit.count(&picker, 10_000);
        assert_share(counts[0], 10_000, 0.7);
    }
}

/// A priority that connects has its time; then the next one serves, and once it is ready after all it is back.
#[test]
fn lb_03_a_priority_that_connects_has_until_the_timeout() {
    for policy in policies() {
        let mut kit = two_priorities(policy.clone(), &[Connecting, Connecting, Ready, Ready]);
        let picker = kit.picker();
        kit.pass(Duration::from_millis(9_999));
        let waits = if picker.uses_hash() { "await" } else { "wait" };
        let hashed = picker.pick(&kit.hashed(7), &[], &mut kit.rng);
        assert_eq!(word(&hashed), waits, "{policy:?}");
        assert_eq!(picker.ask_again(), Some(kit.start + Duration::from_secs(10)));
        kit.pass(Duration::from_millis(1));
        let counts = kit.count(&picker, 100);
        assert_eq!(counts[2] + counts[3], 100, "{policy:?}");
        assert_eq!(picker.outlook(kit.now), Outlook::Ready);
        kit.set_one(0, Ready);
        let counts = kit.count(&picker, 100);
        assert_eq!(counts[0], 100, "{policy:?}: what else is there of P0 connects");
    }
}

/// What a priority cannot carry goes to the next one, and takes with it what the rest of it could not serve yet.
#[test]
fn lb_03_nobody_waits_for_what_connects_while_another_priority_in_use_is_ready() {
    for policy in policies() {
        let mut kit = two_priorities(policy, &[Failing, Connecting, Ready, Ready]);
        let picker = kit.picker();
        let counts = kit.count(&picker, 100);
        assert_eq!(counts[2] + counts[3], 100);
    }
}

/// That attempts fail does not give a priority more time, nor does an update.
#[test]
fn lb_03_the_time_to_connect_begins_once() {
    let mut kit = two_priorities(LoadBalancer::RoundRobin, &[Connecting, Idle, Ready, Ready]);
    kit.config.localities.overprovisioning_factor = None;
    let picker = kit.picker();
    assert_eq!(kit.answer(&picker), "wait");
    kit.pass(Duration::from_secs(6));
    kit.set(&[Failing, Connecting]);
    assert_eq!(kit.answer(&picker), "wait");
    let later = kit.picker().following(&picker, kit.now);
    assert_eq!(kit.answer(&later), "wait");
    kit.pass(Duration::from_secs(4));
    assert_eq!(kit.answer(&later), "ready");
    assert_eq!(kit.answer(&picker), "ready");
    // Only once it was ready it has as much time again.
    kit.set_one(0, Ready);
    assert_eq!(kit.next(&later), 0);
    kit.set_one(0, Connecting);
    assert_eq!(kit.answer(&later), "wait");
    assert_eq!(later.ask_again(), Some(kit.now + Duration::from_secs(10)));
}

/// gRFC A56: where no priority is any better, the first that connects is waited for.
#[test]
fn lb_03_nobody_ready_anywhere_waits_for_the_first() {
    let mut kit = two_priorities(LoadBalancer::RoundRobin, &[Connecting, Failing, Connecting, Idle]);
    let picker = kit.picker();
    let _ = kit.answer(&picker);
    kit.pass(Duration::from_secs(10));
    assert_eq!(kit.answer(&picker), "wait");
    kit.pass(Duration::from_secs(10));
    assert_eq!(kit.answer(&picker), "wait");
    assert_eq!(picker.outlook(kit.now), Outlook::Open);
    assert_eq!(picker.take_news(), None, "it is still the first priority that is to serve");
    kit.set(&[Failing, Failing, Failing, Failing]);
    assert_eq!(kit.answer(&picker), "failing");
}

/// A large backend of which nobody answers: a few are tried at a time, and the rest is no reason to wait.
#[test]
fn lb_03_a_large_priority_fails_over_in_time_too() {
    let mut states = vec![Idle; 2_000];
    states[1_990..].fill(Ready);
    let mut kit = Kit::new(LoadBalancer::RoundRobin, &states)
        .zoned(|index| if index < 1_990 { ("a", 0, 1) } else { ("b", 1, 1) });
    let picker = kit.picker();
    assert_eq!(kit.answer(&picker), "wait");
    for endpoint in picker.to_connect(kit.now, &mut kit.rng) {
        endpoint.set_state(Connecting, kit.now);
    }
    assert_eq!(kit.answer(&picker), "wait");
    for _ in 0..5 {
        // Each is given up after two seconds, and the next ones are tried.
        kit.pass(Duration::from_secs(2));
        let failed: Vec<_> = kit.endpoints.iter().filter(|endpoint| endpoint.state() == Connecting).cloned().collect();
        assert_eq!(failed.len(), AT_ONCE as usize);
        failed.iter().for_each(|endpoint| {
            endpoint.set_state(Failing, kit.now);
        });
        for endpoint in picker.to_connect(kit.now, &mut kit.rng) {
            endpoint.set_state(Connecting, kit.now);
        }
    }
    assert!(kit.next(&picker) >= 1_990);
    kit.pass(SETTLE);
    // It goes on to be connected, and is back with its first endpoint.
    let Pick::Ready(chosen) = kit.pick(&picker) else { panic!("P1 is ready") };
    assert!(chosen.sleeper.is_none(), "16 are being connected");
    kit.endpoints.iter().filter(|endpoint| endpoint.state() == Connecting).for_each(|endpoint| {
        endpoint.set_state(Failing, kit.now);
    });
    kit.pass(SETTLE);
    let Pick::Ready(chosen) = kit.pick(&picker) else { panic!("P1 is ready") };
    let sleeper = chosen.sleeper.expect("one of P0 should be there");
    assert!(kit.index(sleeper) < 1_990);
    sleeper.set_state(Ready, kit.now);
    kit.pass(SETTLE);
    let sleeper = kit.index(sleeper);
    assert_eq!(kit.next(&picker), sleeper);
}

#[test]
fn zones_nearby_come_first_and_the_others_stand_by() {
    let zones = |index: usize| (["a", "b", "a", "b"][index], 0, 1);
    for policy in policies() {
        let mut kit = Kit::new(policy.clone(), &[Ready; 4]).zoned(zones);
        kit.config.localities.prefer = Some(Proximity::Zone);
        kit.here = Place::new("eu", "a", "");
        let picker = kit.picker();
        let counts = kit.count(&picker, 100);
        assert_eq!(counts[0] + counts[2], 100, "{policy:?}");
        kit.set(&[Failing, Ready, Failing, Ready]);
        let counts = kit.count(&picker, 100);
        assert_eq!(counts[1] + counts[3], 100, "{policy:?}");
        kit.here = Place::new("eu", "b", "");
        kit.set(&[Ready; 4]);
        let picker = kit.picker();
        let counts = kit.count(&picker, 100);
        assert_eq!(counts[1] + counts[3], 100, "{policy:?}");
    }
}

/// Each step away from here is told, although the configured priority stays the same.
#[test]
fn steps_away_from_here_are_news() {
    let mut kit = Kit::new(LoadBalancer::RoundRobin, &[State::Ready; 2]);
    for (endpoint, zone) in kit.config.endpoints.iter_mut().zip(["a", "b"]) {
        endpoint.locality = Some(Arc::new(model::Locality::new(Place::new("eu", zone, ""))));
    }
    kit.config.localities.prefer = Some(model::Proximity::Zone);
    kit.here = Place::new("eu", "a", "");
    let picker = kit.picker();
    for (state, distance) in [(State::Failing, 1), (State::Ready, 0)] {
        kit.set_one(0, state);
        let _ = kit.pick(&picker);
        assert_eq!(picker.take_news(), Some(News { priority: Some(0), distance, panics: false }));
    }
}

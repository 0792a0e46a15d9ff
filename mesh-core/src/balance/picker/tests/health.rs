//! Endpoints that are not well: by their source, by health checks, by outlier detection. Panic.

use super::*;
use State::{Failing, Idle, Ready};

#[test]
fn who_drains_is_unhealthy_or_has_no_weight_gets_nothing() {
    for policy in policies() {
        let mut kit = Kit::new(policy.clone(), &[Ready; 6]).with(|index, endpoint| match index {
            0 => endpoint.health = Health::Draining,
            1 => endpoint.health = Health::Unhealthy,
            2 => endpoint.weight = 0,
            _ => {}
        });
        kit.endpoints[3].set_healthy(false);
        kit.eject(4);
        let picker = kit.picker();
        assert_eq!(kit.count(&picker, 100), [0, 0, 0, 0, 0, 100], "{policy:?}");
        assert_eq!(picker.census().to_string(), "1 ejected, 2 unhealthy, 1 ready, 2 out of use");
        kit.endpoints[3].set_healthy(true);
        let counts = kit.count(&picker, 400);
        assert!(counts[3] > 50, "{policy:?}: the same picker sees that it is back");
    }
}

#[test]
fn a_census_tells_what_there_is() {
    use State::Connecting;
    let mut kit = Kit::new(LoadBalancer::Random, &[Failing, Failing, Idle, Connecting, Ready, Ready]);
    kit.eject(5);
    let text = kit.picker().census().to_string();
    assert_eq!(text, "2 failing, 1 ejected, 1 connecting, 1 idle, 1 ready");
    assert_eq!(Kit::new(LoadBalancer::Random, &[]).picker().census().to_string(), "none");
    // One that fails does not come back by waiting out its ejection.
    kit.set_one(5, Failing);
    assert_eq!((kit.picker().census().failing, kit.picker().census().ejected), (3, 0));
}

#[test]
fn where_all_are_out_of_use_there_is_none() {
    let mut kit = Kit::new(LoadBalancer::Random, &[Ready; 2]).with(|_, endpoint| endpoint.health = Health::Draining);
    let picker = kit.picker();
    assert_eq!((kit.answer(&picker), picker.outlook(kit.now)), ("empty", Outlook::Empty));
    let mut kit = kit.with(|_, endpoint| endpoint.health = Health::Unhealthy);
    let picker = kit.picker();
    assert_eq!((kit.answer(&picker), picker.outlook(kit.now)), ("failing", Outlook::Failing));
}

/// Some are ejected, one is unhealthy by a health check, one by its source.
fn ill(policy: LoadBalancer, panic_threshold: u32) -> Kit {
    let mut kit = Kit::new(policy, &[Ready; 4]).with(|index, endpoint| {
        if index == 3 {
            endpoint.health = Health::Unhealthy;
        }
    });
    kit.config.localities.panic_threshold = panic_threshold;
    kit.eject(0);
    kit.eject(1);
    kit.endpoints[2].set_healthy(false);
    kit
}

/// The documented switch is `panic_threshold`: 0 is gRPC's way, 50 is Envoy's.
#[test]
fn lb_09_grpc_mode_uses_only_the_healthy() {
    for policy in policies() {
        let mut kit = ill(policy.clone(), 0);
        let picker = kit.picker();
        assert_eq!(kit.answer(&picker), "failing", "{policy:?}");
        kit.endpoints[2].set_healthy(true);
        assert_eq!(kit.count(&picker, 50), [0, 0, 50, 0], "{policy:?}");
    }
}

#[test]
fn lb_09_envoy_mode_balances_over_all_in_a_panic() {
    for policy in policies() {
        let mut kit = ill(policy.clone(), 50);
        let picker = kit.picker();
        let counts = kit.count(&picker, 4_000);
        assert!(counts.iter().all(|count| *count > 500), "{policy:?}: {counts:?}");
        assert_eq!(picker.take_news(), news(Some(0), true));
        // 25 % are well: still a panic.
        kit.endpoints[2].set_healthy(true);
        let counts = kit.count(&picker, 4_000);
        assert!(counts.iter().all(|count| *count > 500), "{policy:?}: {counts:?}");
        // 50 % are not below 50 %.
        kit.sweep();
        let Pick::Ready(chosen) = kit.pick(&picker) else { panic!("it is ready to be probed") };
        assert!(chosen.probes);
        let probed = kit.index(chosen.endpoint);
        kit.endpoints[probed].judge(&outliers(), Outcome::Success, 4, true, kit.now, &mut kit.rng);
        let Pick::Ready(chosen) = kit.pick(&picker) else { panic!("the other one is ready to be probed") };
        chosen.endpoint.judge(&outliers(), Outcome::ServerError { gateway: false }, 4, true, kit.now, &mut kit.rng);
        let counts = kit.count(&picker, 1_000);
        assert_eq!(counts[2] + counts[probed], 1_000, "{policy:?}: {counts:?}");
        assert_eq!(picker.take_news(), news(Some(0), false));
    }
}

/// A panic is for where nobody else can take the place.
#[test]
fn lb_09_no_panic_while_another_priority_can_carry_all() {
    let zones = |index: usize| if index < 2 { ("a", 0, 1) } else { ("b", 1, 1) };
    let mut kit = Kit::new(LoadBalancer::Random, &[Ready; 4]).zoned(zones);
    kit.config.localities.panic_threshold = 50;
    kit.eject(0);
    kit.eject(1);
    let picker = kit.picker();
    let counts = kit.count(&picker, 100);
    assert_eq!(counts[..2], [0, 0]);
    assert_eq!(picker.take_news(), news(Some(1), false));
}

/// An unlikely success is better than a sure failure: those that are connected serve, of whatever priority.
#[test]
fn lb_09_a_panic_goes_where_somebody_is_connected() {
    let zones = |index: usize| if index < 2 { ("a", 0, 1) } else { ("b", 1, 1) };
    for policy in policies() {
        let mut kit = Kit::new(policy.clone(), &[Failing, Failing, Ready, Idle]).zoned(zones);
        kit.config.localities.panic_threshold = 50;
        kit.eject(2);
        kit.eject(3);
        let picker = kit.picker();
        assert_eq!(kit.count(&picker, 10), [0, 0, 10, 0], "{policy:?}");
        let connected = picker.to_connect(kit.now, &mut kit.rng);
        assert!(connected.iter().any(|endpoint| Arc::ptr_eq(endpoint, &kit.endpoints[3])), "{policy:?}");
    }
}

#[test]
fn a_half_open_endpoint_gets_one_request() {
    for policy in policies() {
        let mut kit = Kit::new(policy.clone(), &[Ready; 3]);
        kit.eject(1);
        let picker = kit.picker();
        assert_eq!(kit.count(&picker, 30)[1], 0);
        kit.sweep();
        let probes = |kit: &mut Kit, tried: &[Arc<Endpoint<()>>]| {
            let chosen = (0..50).map(|_| picker.pick(&kit.request(), tried, &mut kit.rng));
            let probes = chosen.filter(|pick| matches!(pick, Pick::Ready(chosen) if chosen.probes));
            let probed: Vec<_> = probes.map(ready).collect();
            probed.into_iter().map(|endpoint| kit.index(endpoint)).collect::<Vec<_>>()
        };
        let itself = [Arc::clone(&kit.endpoints[1])];
        assert_eq!(probes(&mut kit, &itself), [0; 0], "{policy:?}: not for who has just been there");
        assert_eq!(probes(&mut kit, &[]), [1], "{policy:?}");
        // No verdict: the next request probes.
        kit.endpoints[1].release_probe();
        assert_eq!(probes(&mut kit, &[]), [1], "{policy:?}");
        kit.endpoints[1].judge(&outliers(), Outcome::ServerError { gateway: false }, 3, true, kit.now, &mut kit.rng);
        assert_eq!(probes(&mut kit, &[]), [0; 0], "{policy:?}");
        kit.sweep();
        assert_eq!(probes(&mut kit, &[]), [1], "{policy:?}");
        kit.endpoints[1].judge(&outliers(), Outcome::Success, 3, true, kit.now, &mut kit.rng);
        // Of its latency nothing is known yet, and what is assumed has to be forgotten first.
        let _ = kit.count(&picker, 10);
        kit.pass(Duration::from_secs(1_000));
        let counts = kit.count(&picker, 300);
        assert!(counts[1] > 30, "{policy:?}: {counts:?}");
    }
}

/// One whose connection went while it was ejected has to be connected before it can be probed.
#[test]
fn a_half_open_endpoint_is_connected_to_be_probed() {
    let mut kit = Kit::new(LoadBalancer::RoundRobin, &[Ready; 2]);
    kit.eject(0);
    kit.set_one(0, Idle);
    let picker = kit.picker();
    assert!(matches!(kit.pick(&picker), Pick::Ready(chosen) if chosen.sleeper.is_none()), "it is out");
    kit.sweep();
    let Pick::Ready(chosen) = kit.pick(&picker) else { panic!("the other one is ready") };
    assert!(chosen.sleeper.is_some_and(|sleeper| Arc::ptr_eq(sleeper, &kit.endpoints[0])));
    // Without another one, requests wait for it.
    kit.set_one(1, Failing);
    assert_eq!(kit.answer(&picker), "wait");
    assert_eq!(picker.to_connect(kit.now, &mut kit.rng).len(), 1);
    kit.set_one(0, Ready);
    assert!(matches!(kit.pick(&picker), Pick::Ready(chosen) if chosen.probes));
    assert_eq!(kit.answer(&picker), "failing", "the probe is under way, and nobody else is there");
}

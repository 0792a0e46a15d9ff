//! What each policy does with endpoints that are alike.

use super::*;

#[test]
fn lb_01_round_robin_differs_by_at_most_one() {
    for start in [0, 1, 7, u32::MAX - 50] {
        let mut kit = Kit::new(LoadBalancer::RoundRobin, &[State::Ready; 3]);
        let counts = kit.count(&kit.picker_from(start), 100);
        assert_eq!(counts.iter().sum::<usize>(), 100);
        // Where the counter of turns begins anew, one turn may come twice.
        let slack = usize::from(start > 7);
        assert!(counts.iter().all(|n| (33 - slack..=34 + slack).contains(n)), "{start}: {counts:?}");
    }
}

#[test]
fn lb_01_round_robin_divides_the_share_of_an_endpoint_that_is_down() {
    let states = [State::Ready, State::Failing, State::Ready, State::Ready];
    let mut kit = Kit::new(LoadBalancer::RoundRobin, &states);
    let counts = kit.count(&kit.picker(), 99);
    assert_eq!(counts, [33, 0, 33, 33]);
}

#[test]
fn random_policies_spread_evenly_over_ready_endpoints() {
    let mut states = vec![State::Failing; 40];
    for index in [3, 4, 20, 39] {
        states[index] = State::Ready;
    }
    for policy in policies().into_iter().filter(|policy| !matches!(policy, LoadBalancer::RingHash(_))) {
        let mut kit = Kit::new(policy.clone(), &states);
        let counts = kit.count(&kit.picker(), 7500);
        assert_eq!(counts.iter().sum::<usize>(), 7500);
        for index in [3, 4, 20, 39] {
            match policy {
                // The entries that follow a gap are not of equal number.
                LoadBalancer::Maglev(_) => assert!(counts[index] > 1_000, "{counts:?}"),
                _ => assert_share(counts[index], 7500, 0.25),
            }
        }
    }
}

/// Ties go to the one that was drawn first, so none is preferred.
#[test]
fn lb_06_a_slow_endpoint_gets_less_than_half_of_its_fair_share() {
    // Requests end in the order they began, except on endpoint 0, which never ends one.
    let mut kit = Kit::new(LoadBalancer::LeastRequest { choice_count: 2 }, &[State::Ready; 4]);
    let picker = kit.picker();
    let mut stuck = Vec::new();
    let mut running = std::collections::VecDeque::new();
    let picks = 4000;
    for _ in 0..picks {
        let index = kit.next(&picker);
        let guard = kit.endpoints[index].enter(None).unwrap();
        match index {
            0 => stuck.push(guard),
            _ => running.push_back(guard),
        }
        if running.len() > 12 {
            running.pop_front();
        }
    }
    assert!(stuck.len() < picks / 4 / 2, "{} of {picks}", stuck.len());
    drop((stuck, running));
    assert!(kit.endpoints.iter().all(|endpoint| endpoint.in_flight() == 0));
}

/// The more are compared, the more often one of the two that are idle is among them. Where all cost the same, it is one
/// more than `choice_count`.
#[test]
fn lb_06_more_choices_find_the_least() {
    let missed =
        |drawn: u32| (0..drawn).map(|n| f64::from(8_u32.saturating_sub(n)) / f64::from(10 - n)).product::<f64>();
    for (choice_count, drawn) in [(2, 3), (3, 4), (5, 6), (10, 10)] {
        let mut kit = Kit::new(LoadBalancer::LeastRequest { choice_count }, &[State::Ready; 10]);
        let _busy: Vec<_> = kit.endpoints[2..].iter().map(|endpoint| endpoint.enter(None).unwrap()).collect();
        let counts = kit.count(&kit.picker(), 20_000);
        assert_share(counts[2..].iter().sum(), 20_000, missed(drawn));
        assert_share(counts[0], 20_000, (1.0 - missed(drawn)) / 2.0);
    }
}

/// However few are compared, none is compared only with itself.
#[test]
fn lb_06_the_one_with_the_most_is_passed_over() {
    for choice_count in [2, 3, 10] {
        let mut kit = Kit::new(LoadBalancer::LeastRequest { choice_count }, &[State::Ready; 4]);
        let _busy = kit.endpoints[0].enter(None).unwrap();
        let picker = kit.picker();
        let counts = kit.count(&picker, 20_000);
        assert_eq!(counts[0], 0);
        (1..4).for_each(|index| assert_share(counts[index], 20_000, 1.0 / 3.0));
    }
}

#[test]
fn peak_ewma_leaves_the_slow_one_and_comes_back() {
    let policy = PeakEwma::default();
    let mut kit = Kit::new(LoadBalancer::PeakEwma(policy), &[State::Ready; 3]);
    let picker = kit.picker();
    for (endpoint, millis) in kit.endpoints.iter().zip([5, 5, 100]) {
        endpoint.observe_latency(Duration::from_millis(millis), kit.now, &policy);
    }
    assert_eq!(kit.count(&picker, 9_000)[2], 0);
    // Its 100 ms are forgotten, those of the others are confirmed.
    kit.pass(Duration::from_secs(60));
    for endpoint in &kit.endpoints[..2] {
        endpoint.observe_latency(Duration::from_millis(5), kit.now, &policy);
    }
    let counts = kit.count(&picker, 9_000);
    assert!(counts[2] > 4_000, "{counts:?}");
}

/// Nobody asked them yet, and those that were asked are much faster than the latency that is assumed.
#[test]
fn peak_ewma_gets_round_to_endpoints_that_nobody_asked() {
    let policy = PeakEwma::default();
    let mut kit = Kit::new(LoadBalancer::PeakEwma(policy), &[State::Ready; 50]);
    let picker = kit.picker();
    let mut asked = [false; 50];
    for _ in 0..20_000 {
        kit.pass(Duration::from_millis(5));
        let index = kit.next(&picker);
        asked[index] = true;
        kit.endpoints[index].observe_latency(Duration::from_micros(200), kit.now, &policy);
    }
    assert!(asked.iter().all(|asked| *asked), "{asked:?}");
}

#[test]
fn the_answer_follows_the_states() {
    use State::{Connecting, Failing, Idle, Ready};
    let table: [(&[State], &str); 7] = [
        (&[], "empty"),
        (&[Failing, Failing], "failing"),
        (&[Failing, Idle], "wait"),
        (&[Failing, Connecting], "wait"),
        (&[Idle, Idle], "wait"),
        (&[Failing, Ready], "ready"),
        (&[Idle, Connecting, Ready], "ready"),
    ];
    for policy in policies().into_iter().chain([LoadBalancer::PickFirst { shuffle: false }]) {
        for (states, expected) in table {
            let mut kit = Kit::new(policy.clone(), states);
            let picker = kit.picker();
            let expected = if picker.uses_hash() && expected == "wait" { "await" } else { expected };
            assert_eq!(kit.answer(&picker), expected, "{policy:?} {states:?}");
        }
    }
}

#[test]
fn a_retry_goes_elsewhere_while_there_is_an_elsewhere() {
    for policy in policies() {
        let mut kit = Kit::new(policy, &[State::Ready; 3]);
        let picker = kit.picker();
        for hash in 0..100 {
            for request in [kit.request(), kit.hashed(hash << 56)] {
                let endpoint = ready(picker.pick(&request, &kit.endpoints[..2], &mut kit.rng));
                assert!(Arc::ptr_eq(endpoint, &kit.endpoints[2]));
                let any = picker.pick(&request, &kit.endpoints, &mut kit.rng);
                assert_eq!(word(&any), "ready", "all tried: any ready one serves");
            }
        }
    }
}

#[test]
fn pick_first_takes_the_first_that_is_ready() {
    use State::{Failing, Idle, Ready};
    let mut kit = Kit::new(LoadBalancer::PickFirst { shuffle: false }, &[Failing, Idle, Ready, Ready]);
    let picker = kit.picker();
    assert_eq!(kit.count(&picker, 10), [0, 0, 10, 0]);
    assert!(matches!(kit.pick(&picker), Pick::Ready(chosen) if chosen.sleeper.is_none()), "in order, not on the side");
}

/// Chooses an index, whatever it is.
struct Fixed(usize);

impl Balance for Fixed {
    fn pick(&self, endpoints: &dyn crate::balance::Candidates, _: &PickRequest, _: &mut dyn Rng) -> Option<usize> {
        assert!(!endpoints.is_empty());
        Some(self.0)
    }
}

#[test]
fn a_policy_of_the_application_cannot_choose_who_may_not_serve() {
    let zones = |index: usize| if index == 4 { ("b", 1, 1) } else { ("a", 0, 1) };
    let mut kit = Kit::new(LoadBalancer::Custom("own".into()), &[State::Ready; 6]).zoned(zones).with(
        |index, endpoint| match index {
            1 => endpoint.health = Health::Draining,
            2 => endpoint.weight = 0,
            3 => endpoint.health = Health::Unhealthy,
            _ => {}
        },
    );
    kit.config.localities.overprovisioning_factor = None;
    kit.eject(5);
    for (choice, what) in
        [(1, "draining"), (2, "no weight"), (3, "unhealthy"), (4, "another priority"), (5, "ejected"), (6, "nobody")]
    {
        let picker = kit.picker().with_balance("own".into(), Arc::new(Fixed(choice)));
        assert_eq!(kit.next(&picker), 0, "{what}");
    }
    kit.set_one(0, State::Failing);
    let picker = kit.picker().with_balance("own".into(), Arc::new(Fixed(4)));
    assert_eq!(kit.next(&picker), 4, "the second priority is in use now");
}

#[test]
fn an_endpoint_is_found_by_its_address() {
    let kit = Kit::new(LoadBalancer::Random, &[State::Idle; 300]).with(|_, endpoint| endpoint.weight = 0);
    let picker = kit.picker();
    for endpoint in &kit.endpoints {
        assert!(Arc::ptr_eq(picker.find(endpoint.address()).unwrap(), endpoint), "it need not be one that is picked");
    }
    let stranger = Address::from(std::net::SocketAddr::from(([10, 0, 0, 1], 1)));
    assert!(picker.find(&stranger).is_none());
    assert!(Kit::new(LoadBalancer::Random, &[]).picker().find(&stranger).is_none());
}

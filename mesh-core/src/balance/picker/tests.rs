use std::collections::HashMap;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::model::{Address, BackendId};

/// A backend of endpoints at ports from 1000 on.
struct Kit {
    fleet: Arc<Fleet>,
    config: model::Backend,
    endpoints: Vec<Arc<Endpoint<()>>>,
    now: Instant,
}

impl Kit {
    fn new(policy: LoadBalancer, states: &[State]) -> Self {
        let now = Instant::now();
        let address = |index: usize| Address::from(std::net::SocketAddr::from(([127, 0, 0, 1], 1000 + index as u16)));
        let addresses = (0..states.len()).map(address);
        let mut config =
            model::Backend::new(BackendId::new("s", "b"), addresses.clone().map(model::Endpoint::new).collect());
        config.load_balancer = policy;
        let fleet = Arc::new(Fleet::new(now));
        let endpoints: Vec<_> = addresses.map(|address| Arc::new(Endpoint::new(address, &fleet, ()))).collect();
        let kit = Self { fleet, config, endpoints, now };
        kit.set(states);
        kit
    }

    fn set(&self, states: &[State]) {
        for (endpoint, state) in self.endpoints.iter().zip(states) {
            endpoint.set_state(*state, self.now);
        }
    }

    fn picker(&self) -> Picker<()> {
        self.picker_from(0)
    }

    fn picker_from(&self, start: u32) -> Picker<()> {
        let endpoints = self.config.endpoints.iter().zip(self.endpoints.iter().cloned()).collect();
        Picker::new(&self.config, endpoints, &Place::default(), &self.fleet, start, self.now)
    }

    fn request(&self) -> PickRequest {
        PickRequest::new(None, self.now)
    }

    fn count(&self, picker: &Picker<()>, picks: usize) -> HashMap<Address, usize> {
        let mut rng = StdRng::seed_from_u64(7);
        let mut counts = HashMap::new();
        for _ in 0..picks {
            *counts.entry(ready(picker.pick(&self.request(), &[], &mut rng)).address().clone()).or_default() += 1;
        }
        counts
    }
}

fn ready<T>(pick: Pick<'_, T>) -> &Arc<Endpoint<T>> {
    match pick {
        Pick::Ready(chosen) => chosen.endpoint,
        _ => panic!("an endpoint is ready"),
    }
}

fn policies() -> [LoadBalancer; 3] {
    [LoadBalancer::RoundRobin, LoadBalancer::Random, LoadBalancer::LeastRequest { choice_count: 2 }]
}

#[test]
fn lb_01_round_robin_differs_by_at_most_one() {
    for start in [0, 1, 7] {
        let kit = Kit::new(LoadBalancer::RoundRobin, &[State::Ready; 3]);
        let counts = kit.count(&kit.picker_from(start), 100);
        assert_eq!(counts.len(), 3);
        assert!(counts.values().all(|n| (33..=34).contains(n)), "{counts:?}");
    }
}

#[test]
fn lb_01_round_robin_divides_the_share_of_an_endpoint_that_is_down() {
    let states = [State::Ready, State::Failing, State::Ready, State::Ready];
    let kit = Kit::new(LoadBalancer::RoundRobin, &states);
    let counts = kit.count(&kit.picker(), 99);
    assert_eq!(counts.len(), 3);
    assert!(counts.values().all(|n| *n == 33), "{counts:?}");
}

#[test]
fn random_policies_spread_evenly_over_ready_endpoints() {
    // p = 1/4 of 7500 picks: five sigma are 187.5.
    let mut states = vec![State::Failing; 40];
    for index in [3, 4, 20, 39] {
        states[index] = State::Ready;
    }
    for policy in [LoadBalancer::Random, LoadBalancer::LeastRequest { choice_count: 2 }] {
        let kit = Kit::new(policy.clone(), &states);
        let counts = kit.count(&kit.picker(), 7500);
        assert_eq!(counts.len(), 4);
        assert!(counts.values().all(|n| n.abs_diff(1875) < 188), "{policy:?}: {counts:?}");
    }
}

#[test]
fn lb_06_a_slow_endpoint_gets_less_than_half_of_its_fair_share() {
    // Requests end in the order they began, except on endpoint 0, which never ends one.
    let kit = Kit::new(LoadBalancer::LeastRequest { choice_count: 2 }, &[State::Ready; 4]);
    let (all, picker) = (&kit.endpoints, kit.picker());
    let mut rng = StdRng::seed_from_u64(11);
    let mut stuck = Vec::new();
    let mut running = std::collections::VecDeque::new();
    let picks = 4000;
    for _ in 0..picks {
        let endpoint = ready(picker.pick(&kit.request(), &[], &mut rng));
        let guard = endpoint.enter(None).unwrap();
        if Arc::ptr_eq(endpoint, &all[0]) {
            stuck.push(guard)
        } else {
            running.push_back(guard)
        }
        if running.len() > 12 {
            running.pop_front();
        }
    }
    assert!(stuck.len() < picks / 4 / 2, "{} of {picks}", stuck.len());
    drop((stuck, running));
    assert!(all.iter().all(|endpoint| endpoint.in_flight() == 0));
}

/// LB-06, with few endpoints: none is compared only with itself.
#[test]
fn lb_06_a_worse_endpoint_is_never_chosen_over_an_idle_one() {
    let least_request = |choice_count| LoadBalancer::LeastRequest { choice_count };
    for policy in [least_request(2), least_request(10), LoadBalancer::PeakEwma(Default::default())] {
        for count in [2, 3, 4] {
            let kit = Kit::new(policy.clone(), &vec![State::Ready; count]);
            let peak_ewma = Default::default();
            for (endpoint, millis) in kit.endpoints.iter().zip([40, 2, 2, 2]) {
                endpoint.observe_latency(Duration::from_millis(millis), kit.now, &peak_ewma);
            }
            let busy = kit.endpoints[0].enter(None).unwrap();
            let counts = kit.count(&kit.picker(), 6000);
            assert!(!counts.contains_key(busy.endpoint().address()), "{policy:?} of {count}: {counts:?}");
            assert_eq!(counts.len(), count - 1);
        }
    }
}

#[test]
fn lb_06_equally_busy_endpoints_let_a_third_one_try() {
    let kit = Kit::new(LoadBalancer::LeastRequest { choice_count: 2 }, &[State::Ready; 3]);
    let _busy: Vec<_> = kit.endpoints[..2].iter().map(|endpoint| endpoint.enter(None).unwrap()).collect();
    assert_eq!(kit.count(&kit.picker(), 6000).len(), 1);
}

/// Who is drawn by weight may be drawn twice: a small weight is a small share although it is idle.
#[test]
fn an_idle_endpoint_of_small_weight_is_not_asked_by_everybody() {
    let mut kit = Kit::new(LoadBalancer::LeastRequest { choice_count: 2 }, &[State::Ready; 2]);
    kit.config.endpoints[0].weight = 9;
    let _busy = kit.endpoints[0].enter(None).unwrap();
    let counts = kit.count(&kit.picker(), 10_000);
    // Drawn at least once of two times: 1 - 0.9^2 = 19 %; five sigma are 196.
    let small = counts[kit.endpoints[1].address()];
    assert!(small.abs_diff(1900) < 197, "{counts:?}");
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
    let mut rng = StdRng::seed_from_u64(1);
    for policy in policies() {
        for (states, expected) in table {
            let kit = Kit::new(policy.clone(), states);
            let answer = match kit.picker().pick(&kit.request(), &[], &mut rng) {
                Pick::Ready(_) => "ready",
                Pick::Await(_) => "await",
                Pick::Wait => "wait",
                Pick::Failing => "failing",
                Pick::Empty => "empty",
            };
            assert_eq!(answer, expected, "{policy:?} {states:?}");
        }
    }
}

#[test]
fn a_retry_goes_elsewhere_while_there_is_an_elsewhere() {
    let mut rng = StdRng::seed_from_u64(5);
    for policy in policies() {
        let kit = Kit::new(policy, &[State::Ready; 3]);
        let (all, picker) = (&kit.endpoints, kit.picker());
        for _ in 0..100 {
            let endpoint = ready(picker.pick(&kit.request(), &all[..2], &mut rng));
            assert!(Arc::ptr_eq(endpoint, &all[2]));
            assert!(
                matches!(picker.pick(&kit.request(), all, &mut rng), Pick::Ready(_)),
                "all tried: any ready one serves"
            );
        }
    }
}

/// gRFC A55, A75
#[test]
fn a_session_keeps_its_endpoint_as_long_as_that_can_serve() {
    use State::{Connecting, Failing, Idle, Ready};
    let said = |pick: Option<Pick<'_, ()>>| match pick {
        Some(Pick::Ready(chosen)) => format!("ready {}", chosen.endpoint.address()),
        Some(Pick::Await(endpoint)) => format!("await {}", endpoint.address()),
        None => "-".to_owned(),
        Some(other) => format!("{other:?}"),
    };
    let mut kit = Kit::new(LoadBalancer::RoundRobin, &[Ready, Idle, Connecting, Failing, Ready, Ready, Ready, Ready]);
    kit.config.endpoints[4].health = model::Health::Draining;
    kit.config.endpoints[5].health = model::Health::Unhealthy;
    kit.config.endpoints[6].weight = 0;
    kit.endpoints[7].set_healthy(false);
    let wanted = [
        "ready 127.0.0.1:1000",
        "await 127.0.0.1:1001",
        "await 127.0.0.1:1002",
        "-",
        "ready 127.0.0.1:1004",
        "-",
        "-",
        "-",
    ];
    let picker = kit.picker();
    for (endpoint, wanted) in kit.endpoints.iter().zip(wanted) {
        assert_eq!(said(picker.pick_bound(endpoint.address(), &[])), wanted, "{}", endpoint.address());
        assert_eq!(said(picker.pick_bound(endpoint.address(), &kit.endpoints)), "-", "it was tried");
    }
    assert_eq!(said(picker.pick_bound(&std::net::SocketAddr::from(([127, 0, 0, 1], 999)).into(), &[])), "-");
    // What drains, is unhealthy or weighs nothing is not chosen for anybody else.
    assert_eq!(kit.count(&picker, 100).len(), 1);

    // Pick first connects one after the other.
    kit.config.load_balancer = LoadBalancer::PickFirst { shuffle: false };
    let picker = kit.picker();
    assert_eq!(said(picker.pick_bound(kit.endpoints[0].address(), &[])), "ready 127.0.0.1:1000");
    assert_eq!(said(picker.pick_bound(kit.endpoints[1].address(), &[])), "-");
}

use std::collections::HashMap;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::model::Address;

fn endpoints(states: &[State]) -> Vec<Arc<Endpoint<()>>> {
    let endpoint = |(index, state): (usize, &State)| {
        let address: std::net::SocketAddr = ([127, 0, 0, 1], 1000 + index as u16).into();
        let endpoint = Endpoint::new(Address::from(address), ());
        endpoint.set_state(*state);
        Arc::new(endpoint)
    };
    states.iter().enumerate().map(endpoint).collect()
}

fn policies() -> [LoadBalancer; 3] {
    [LoadBalancer::RoundRobin, LoadBalancer::Random, LoadBalancer::LeastRequest { choice_count: 2 }]
}

fn count(picker: &Picker<()>, picks: usize) -> HashMap<Address, usize> {
    let mut rng = StdRng::seed_from_u64(7);
    let mut counts = HashMap::new();
    for _ in 0..picks {
        let Pick::Ready(endpoint) = picker.pick(&PickRequest::default(), &[], &mut rng) else {
            panic!("an endpoint is ready")
        };
        *counts.entry(endpoint.address().clone()).or_default() += 1;
    }
    counts
}

#[test]
fn lb_01_round_robin_differs_by_at_most_one() {
    for start in [0, 1, 7] {
        let picker = Picker::new(&LoadBalancer::RoundRobin, endpoints(&[State::Ready; 3]), start);
        let counts = count(&picker, 100);
        assert_eq!(counts.len(), 3);
        assert!(counts.values().all(|n| (33..=34).contains(n)), "{counts:?}");
    }
}

#[test]
fn lb_01_round_robin_divides_the_share_of_an_endpoint_that_is_down() {
    let states = [State::Ready, State::Failing, State::Ready, State::Ready];
    let picker = Picker::new(&LoadBalancer::RoundRobin, endpoints(&states), 0);
    let counts = count(&picker, 99);
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
        let counts = count(&Picker::new(&policy, endpoints(&states), 0), 7500);
        assert_eq!(counts.len(), 4);
        assert!(counts.values().all(|n| n.abs_diff(1875) < 188), "{policy:?}: {counts:?}");
    }
}

#[test]
fn lb_06_a_slow_endpoint_gets_less_than_half_of_its_fair_share() {
    // Requests end in the order they began, except on endpoint 0, which never ends one.
    let all = endpoints(&[State::Ready; 4]);
    let picker = Picker::new(&LoadBalancer::LeastRequest { choice_count: 2 }, all.clone(), 0);
    let mut rng = StdRng::seed_from_u64(11);
    let mut stuck = Vec::new();
    let mut running = std::collections::VecDeque::new();
    let picks = 4000;
    for _ in 0..picks {
        let Pick::Ready(endpoint) = picker.pick(&PickRequest::default(), &[], &mut rng) else {
            panic!("an endpoint is ready")
        };
        let guard = endpoint.enter();
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
            let picker = Picker::new(&policy, endpoints(states), 0);
            let answer = match picker.pick(&PickRequest::default(), &[], &mut rng) {
                Pick::Ready(_) => "ready",
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
    let all = endpoints(&[State::Ready; 3]);
    let mut rng = StdRng::seed_from_u64(5);
    for policy in policies() {
        let picker = Picker::new(&policy, all.clone(), 0);
        for _ in 0..100 {
            let Pick::Ready(endpoint) = picker.pick(&PickRequest::default(), &all[..2], &mut rng) else {
                panic!("one is left")
            };
            assert!(Arc::ptr_eq(endpoint, &all[2]));
            assert!(
                matches!(picker.pick(&PickRequest::default(), &all, &mut rng), Pick::Ready(_)),
                "all tried: any ready one serves"
            );
        }
    }
}

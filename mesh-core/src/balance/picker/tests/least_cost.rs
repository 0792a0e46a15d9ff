//! Policies that compare costs: least request and peak EWMA.

use super::*;

/// LB-06, with few endpoints: none is compared only with itself.
#[test]
fn lb_06_a_worse_endpoint_is_never_chosen_over_an_idle_one() {
    let least_request = |choice_count| LoadBalancer::LeastRequest { choice_count };
    for policy in [least_request(2), least_request(10), LoadBalancer::PeakEwma(Default::default())] {
        for count in [2, 3, 4] {
            let mut kit = Kit::new(policy.clone(), &vec![State::Ready; count]);
            let peak_ewma = Default::default();
            for (endpoint, millis) in kit.endpoints.iter().zip([40, 2, 2, 2]) {
                endpoint.observe_latency(Duration::from_millis(millis), kit.now, &peak_ewma);
            }
            let _busy = kit.endpoints[0].enter(None).unwrap();
            let picker = kit.picker();
            let counts = kit.count(&picker, 6000);
            assert_eq!(counts[0], 0, "{policy:?} of {count}: {counts:?}");
            assert!(counts[1..].iter().all(|count| *count > 0), "{policy:?}: {counts:?}");
        }
    }
}

#[test]
fn lb_06_equally_busy_endpoints_let_a_third_one_try() {
    let mut kit = Kit::new(LoadBalancer::LeastRequest { choice_count: 2 }, &[State::Ready; 3]);
    let _busy: Vec<_> = kit.endpoints[..2].iter().map(|endpoint| endpoint.enter(None).unwrap()).collect();
    let picker = kit.picker();
    assert_eq!(kit.count(&picker, 6000)[..2], [0, 0]);
}

/// Who is drawn by weight may be drawn twice: a small weight is a small share although it is idle.
#[test]
fn an_idle_endpoint_of_small_weight_is_not_asked_by_everybody() {
    let mut kit = Kit::new(LoadBalancer::LeastRequest { choice_count: 2 }, &[State::Ready; 2]);
    kit.config.endpoints[0].weight = 9;
    let _busy = kit.endpoints[0].enter(None).unwrap();
    let picker = kit.picker();
    let counts = kit.count(&picker, 10_000);
    // Drawn at least once of two times: 1 - 0.9^2 = 19 %; five sigma are 196.
    let small = counts[1];
    assert!(small.abs_diff(1900) < 197, "{counts:?}");
}

//! Endpoints that are not alike: weights, slow start, load reports.

use super::*;
use crate::model::SlowStart;

fn weighted(policy: LoadBalancer, weights: &'static [u32]) -> Kit {
    Kit::new(policy, &vec![State::Ready; weights.len()]).with(|index, endpoint| endpoint.weight = weights[index])
}

/// The shares of idle endpoints are those of their weights, whatever the policy.
#[test]
fn every_policy_gives_shares_by_weight() {
    for policy in policies() {
        if matches!(policy, LoadBalancer::WeightedRoundRobin(_)) {
            continue;
        }
        let mut kit = weighted(policy.clone(), &[10, 20, 0, 70]);
        let picker = kit.picker();
        let counts = kit.count(&picker, 10_000);
        for (count, p) in counts.iter().zip([0.1, 0.2, 0.0, 0.7]) {
            match policy {
                // How hosts spread over a ring is chance.
                LoadBalancer::RingHash(_) => {
                    assert!((*count as f64 / 10_000.0 - p).abs() <= 0.05, "{policy:?} {counts:?}")
                }
                LoadBalancer::RoundRobin => assert!((*count as f64 - 10_000.0 * p).abs() <= 2.0, "{counts:?}"),
                _ => assert_share(*count, 10_000, p),
            }
        }
        assert_eq!(picker.census().out_of_use, 1);
    }
}

/// Under load, too: who is twice as big serves twice as many at once.
#[test]
fn least_request_fills_endpoints_by_weight() {
    let mut kit = weighted(LoadBalancer::LeastRequest { choice_count: 2 }, &[1, 2, 3]);
    let picker = kit.picker();
    let mut running = std::collections::VecDeque::new();
    for _ in 0..20_000 {
        let index = kit.next(&picker);
        running.push_back(kit.endpoints[index].enter(None).unwrap());
        if running.len() > 600 {
            running.pop_front();
        }
    }
    for (endpoint, wanted) in kit.endpoints.iter().zip([100, 200, 300]) {
        assert!(endpoint.in_flight().abs_diff(wanted) <= 15, "{} of {wanted}", endpoint.in_flight());
    }
}

#[test]
fn equal_weights_other_than_one_are_told() {
    let kit = weighted(LoadBalancer::Random, &[5, 5]);
    assert_eq!(kit.picker().weight(0), 5);
    let mut none = weighted(LoadBalancer::Random, &[0, 0]);
    let picker = none.picker();
    assert_eq!(none.answer(&picker), "empty");
}

/// gRFC A113: a host's share of the ring is that of its locality times that in its locality.
#[test]
fn hash_tables_weigh_localities_and_endpoints() {
    let maglev = LoadBalancer::Maglev(model::Maglev { table_size: 65_537 });
    // Zone a: 1 of 4, of which 1 and 3; zone b: 3 of 4, of which 2 and 2.
    let weights = [1, 3, 2, 2];
    let mut kit = Kit::new(maglev, &[State::Ready; 4])
        .zoned(|index| if index < 2 { ("a", 0, 1) } else { ("b", 0, 3) })
        .with(|index, endpoint| endpoint.weight = weights[index]);
    let picker = kit.picker();
    let counts = kit.count(&picker, 20_000);
    for (count, p) in counts.iter().zip([1.0 / 16.0, 3.0 / 16.0, 6.0 / 16.0, 6.0 / 16.0]) {
        assert_share(*count, 20_000, p);
    }
}

/// 20 s of a window of 100 s: a share of 20 % of the others'.
#[test]
fn slow_start_gives_a_new_endpoint_its_share_little_by_little() {
    for policy in [LoadBalancer::RoundRobin, LoadBalancer::Random, LoadBalancer::LeastRequest { choice_count: 2 }] {
        let mut kit = Kit::new(policy.clone(), &[State::Ready, State::Ready, State::Idle])
            .configured(|backend| backend.slow_start = Some(SlowStart::new(Duration::from_secs(100))));
        let picker = kit.picker();
        kit.pass(Duration::from_secs(1_000));
        kit.set_one(2, State::Ready);
        for (secs, scale) in [(0, 0.1), (20, 0.2), (50, 0.5), (99, 0.99), (100, 1.0), (300, 1.0)] {
            let before = kit.now;
            kit.pass(Duration::from_secs(secs));
            let counts = kit.count(&picker, 10_000);
            kit.now = before;
            // It grows in steps of a twentieth of the full weight.
            let share = |scale: f64| 10_000.0 * scale / (2.0 + scale);
            let sigma = (10_000.0_f64 * 0.25).sqrt();
            let (low, high) = (share(scale - 0.06) - 5.0 * sigma, share(scale) + 5.0 * sigma);
            assert!((low..=high).contains(&(counts[2] as f64)), "{policy:?} {secs} s: {counts:?}");
        }
    }
}

/// However many endpoints start at different times, views are made for it a hundred times a window at most.
#[test]
fn slow_starts_share_their_looks() {
    let mut kit = Kit::new(LoadBalancer::RoundRobin, &[State::Idle; 500])
        .configured(|backend| backend.slow_start = Some(SlowStart::new(Duration::from_secs(100))));
    let picker = kit.picker();
    for index in 0..500 {
        kit.set_one(index, State::Ready);
        kit.pass(Duration::from_millis(7));
    }
    let mut looks = 0;
    let mut last = None;
    for _ in 0..100_000 {
        kit.pass(Duration::from_millis(1));
        let _ = kit.pick(&picker);
        let built = picker.view.load().built;
        looks += usize::from(last.replace(built) != Some(built));
    }
    assert!((10..=102).contains(&looks), "{looks}");
}

fn by_report() -> Kit {
    Kit::new(LoadBalancer::WeightedRoundRobin(WeightedRoundRobin::default()), &[State::Ready; 3])
}

fn report(kit: &Kit, weights: [f64; 3]) {
    for (endpoint, weight) in kit.endpoints.iter().zip(weights) {
        endpoint.report_weight(weight, kit.now);
    }
}

/// Before the blackout is over it is round robin, and once reports have ceased for three minutes again.
#[test]
fn lb_05_reported_weights_count_after_the_blackout_and_expire() {
    let mut kit = by_report();
    let picker = kit.picker();
    report(&kit, [1.0, 2.0, 4.0]);
    assert_eq!(kit.count(&picker, 300), [100; 3]);
    kit.pass(Duration::from_secs(9));
    report(&kit, [1.0, 2.0, 4.0]);
    assert_eq!(kit.count(&picker, 300), [100; 3]);
    kit.pass(Duration::from_secs(1));
    let counts = kit.count(&picker, 7_000);
    for (count, p) in counts.iter().zip([1.0 / 7.0, 2.0 / 7.0, 4.0 / 7.0]) {
        assert!((*count as f64 - 7_000.0 * p).abs() <= 5.0, "{counts:?}");
    }
    kit.pass(Duration::from_secs(180));
    assert_eq!(kit.count(&picker, 300), [100; 3]);
}

#[test]
fn lb_05_fewer_than_two_weights_are_round_robin_and_one_that_lacks_is_the_mean() {
    let mut kit = by_report();
    let picker = kit.picker();
    kit.endpoints[0].report_weight(9.0, kit.now);
    kit.pass(Duration::from_secs(10));
    assert_eq!(kit.count(&picker, 300), [100; 3]);
    kit.endpoints[0].report_weight(1.0, kit.now);
    kit.endpoints[1].report_weight(3.0, kit.now);
    kit.pass(Duration::from_secs(10));
    let counts = kit.count(&picker, 6_000);
    for (count, wanted) in counts.iter().zip([1_000, 3_000, 2_000]) {
        assert!(count.abs_diff(wanted) <= 5, "{counts:?}");
    }
}

/// Reports and slow start together.
#[test]
fn an_endpoint_without_reports_starts_slowly_too() {
    let mut kit = by_report().configured(|backend| backend.slow_start = Some(SlowStart::new(Duration::from_secs(100))));
    let picker = kit.picker();
    kit.pass(Duration::from_secs(1_000));
    kit.set_one(2, State::Failing);
    kit.set_one(2, State::Ready);
    let counts = kit.count(&picker, 2_100);
    for (count, wanted) in counts.iter().zip([1_000, 1_000, 100]) {
        assert!(count.abs_diff(wanted) <= 5, "{counts:?}");
    }
}

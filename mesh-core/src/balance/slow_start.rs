use std::time::Duration;

use crate::model::SlowStart;

/// No clock gets further; a policy made in code may say more.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// By how much a scale must grow to be worth new tables, of 1.
const STEP: f64 = 0.05;

/// What part of its weight an endpoint has that has been ready for `ready_for`: more than 0, and 1 at the end of the
/// window (Envoy's slow start; gRFC A100).
pub(crate) fn scale(policy: &SlowStart, ready_for: Duration) -> f64 {
    if ready_for >= policy.window {
        return 1.0;
    }
    // As in Envoy at least a millisecond, so that an endpoint without a minimum has a share from the beginning.
    let elapsed = ready_for.max(Duration::from_millis(1)).as_secs_f64() / policy.window.as_secs_f64();
    elapsed.powf(1.0 / policy.aggression).max(policy.min_weight_percent / 100.0).min(1.0)
}

/// When the scale of an endpoint that has been ready for `ready_for` will have grown by a twentieth: how long it is
/// ready then, which is at least a hundredth of the window later. `None` once it has its full weight.
pub(crate) fn next_change(policy: &SlowStart, ready_for: Duration) -> Option<Duration> {
    let now = scale(policy, ready_for);
    if ready_for >= policy.window || now >= 1.0 {
        return None;
    }
    let window = policy.window.min(LONGEST);
    let next = window.mul_f64((now + STEP).min(1.0).powf(policy.aggression).min(1.0));
    Some(next.max(ready_for + window / 100).min(window))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(aggression: f64, min_weight_percent: f64) -> SlowStart {
        SlowStart { aggression, min_weight_percent, ..SlowStart::new(Duration::from_secs(100)) }
    }

    #[test]
    fn the_scale_follows_the_formula() {
        let cases = [
            (1.0, 10.0, 0, 0.1),
            (1.0, 10.0, 10_000, 0.1),
            (1.0, 10.0, 50_000, 0.5),
            (1.0, 10.0, 99_999, 0.99999),
            (1.0, 10.0, 100_000, 1.0),
            (1.0, 10.0, 1_000_000, 1.0),
            (2.0, 10.0, 25_000, 0.5),
            (0.5, 10.0, 50_000, 0.25),
            (1.0, 0.0, 0, 0.00001),
            (1.0, 100.0, 0, 1.0),
        ];
        for (aggression, min, millis, wanted) in cases {
            let scale = scale(&policy(aggression, min), Duration::from_millis(millis));
            assert!((scale - wanted).abs() < 1e-9, "{aggression} {min} {millis}: {scale}");
        }
    }

    #[test]
    fn a_change_is_expected_when_the_scale_has_grown() {
        for (aggression, min, secs, wanted) in [(1.0, 10.0, 0, 15.0), (1.0, 10.0, 50, 55.0), (2.0, 50.0, 25, 30.25)] {
            let next = next_change(&policy(aggression, min), Duration::from_secs(secs)).unwrap();
            assert!((next.as_secs_f64() - wanted).abs() < 1e-6, "{aggression} {min} {secs}: {next:?}");
        }
        assert_eq!(next_change(&policy(1.0, 10.0), Duration::from_secs(98)), Some(Duration::from_secs(100)));
        assert_eq!(next_change(&policy(1.0, 10.0), Duration::from_secs(100)), None);
        assert_eq!(next_change(&policy(1.0, 100.0), Duration::ZERO), None);
    }

    proptest! {
        /// However steep it is, no more than a hundred tables are built for it.
        #[test]
        fn a_window_ends_after_a_bounded_number_of_changes(
            millis in 1..10_000_000_u64, aggression in 0.01..100.0_f64, min_weight_percent in 0.0..=100.0_f64,
        ) {
            let policy = SlowStart { aggression, min_weight_percent, window: Duration::from_millis(millis) };
            let (mut ready_for, mut last) = (Duration::ZERO, scale(&policy, Duration::ZERO));
            for changes in 0.. {
                prop_assert!(changes <= 101);
                prop_assert!(last > 0.0 && last <= 1.0, "{}", last);
                let Some(next) = next_change(&policy, ready_for) else { break };
                prop_assert!(next > ready_for && next <= policy.window);
                let scale = scale(&policy, next);
                prop_assert!(scale >= last);
                (ready_for, last) = (next, scale);
            }
            prop_assert_eq!(last, 1.0);
        }
    }
}

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::model::WeightedRoundRobin;

/// The weight that an endpoint's load reports make, and whether it counts yet and still (gRFC A58).
///
/// Time is in nanoseconds since any epoch that all calls share. Reports and look-ups may come from many threads at once:
/// one of them may be taken a little late, but none is taken for another.
#[derive(Debug, Default)]
pub(crate) struct Reported {
    /// When the reports began that have not ceased since, one later than it was; 0: there is none.
    non_empty_since: AtomicU64,
    /// When the last one came, one later than it was; 0: never.
    last_updated: AtomicU64,
    weight: AtomicU32,
}

impl Reported {
    /// A report that came at `now` makes this weight. One that is not a positive number is not a report.
    pub(crate) fn report(&self, weight: f64, now: u64) {
        let weight = weight as f32;
        if weight.is_nan() || weight <= 0.0 {
            return;
        }
        let now = now.saturating_add(1);
        self.weight.store(weight.min(f32::MAX).to_bits(), Ordering::Relaxed);
        let _ = self.non_empty_since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        // The weight is there before what says so.
        self.last_updated.fetch_max(now, Ordering::Release);
    }

    /// The weight to use at `now`. `None` before an endpoint has reported for the blackout period, and once it has not
    /// for the expiration period; then the blackout period begins again with its next report.
    pub(crate) fn usable(&self, now: u64, policy: &WeightedRoundRobin) -> Option<f32> {
        let now = now.saturating_add(1);
        let last_updated = self.last_updated.load(Ordering::Acquire);
        let age = u128::from(now.saturating_sub(last_updated));
        if last_updated == 0 || age >= policy.weight_expiration_period.as_nanos() {
            self.restart();
            return None;
        }
        let since = self.non_empty_since.load(Ordering::Relaxed);
        let reporting = u128::from(now.saturating_sub(since));
        let blackout = policy.blackout_period.as_nanos();
        if blackout > 0 && (since == 0 || reporting < blackout) {
            return None;
        }
        Some(f32::from_bits(self.weight.load(Ordering::Relaxed)))
    }

    /// The endpoint became ready again: the blackout period begins with its next report.
    pub(crate) fn restart(&self) {
        self.non_empty_since.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn policy() -> WeightedRoundRobin {
        WeightedRoundRobin::default()
    }

    #[test]
    fn lb_05_a_weight_counts_after_the_blackout_period() {
        let reported = Reported::default();
        assert_eq!(reported.usable(0, &policy()), None);
        reported.report(2.0, 0);
        assert_eq!(reported.usable(0, &policy()), None);
        reported.report(3.0, 9 * SECOND);
        assert_eq!(reported.usable(10 * SECOND - 1, &policy()), None);
        assert_eq!(reported.usable(10 * SECOND, &policy()), Some(3.0));
        let at_once = WeightedRoundRobin { blackout_period: Duration::ZERO, ..policy() };
        let reported = Reported::default();
        assert_eq!(reported.usable(5, &at_once), None);
        reported.report(2.0, 5);
        assert_eq!(reported.usable(5, &at_once), Some(2.0));
    }

    #[test]
    fn lb_05_a_weight_expires_and_is_blacked_out_anew() {
        let reported = Reported::default();
        reported.report(2.0, 0);
        assert_eq!(reported.usable(180 * SECOND - 1, &policy()), Some(2.0));
        assert_eq!(reported.usable(180 * SECOND, &policy()), None);
        reported.report(4.0, 200 * SECOND);
        assert_eq!(reported.usable(200 * SECOND, &policy()), None);
        assert_eq!(reported.usable(210 * SECOND - 1, &policy()), None);
        assert_eq!(reported.usable(210 * SECOND, &policy()), Some(4.0));
    }

    #[test]
    fn lb_05_an_endpoint_that_is_ready_again_is_blacked_out_anew() {
        let reported = Reported::default();
        reported.report(2.0, 0);
        assert_eq!(reported.usable(20 * SECOND, &policy()), Some(2.0));
        reported.restart();
        assert_eq!(reported.usable(20 * SECOND, &policy()), None);
        reported.report(2.0, 21 * SECOND);
        assert_eq!(reported.usable(30 * SECOND, &policy()), None);
        assert_eq!(reported.usable(31 * SECOND, &policy()), Some(2.0));
        let at_once = WeightedRoundRobin { blackout_period: Duration::ZERO, ..policy() };
        reported.restart();
        assert_eq!(reported.usable(31 * SECOND, &at_once), Some(2.0));
    }

    #[test]
    fn what_is_no_weight_is_no_report() {
        let reported = Reported::default();
        let at_once = WeightedRoundRobin { blackout_period: Duration::ZERO, ..policy() };
        for weight in [0.0, -1.0, f64::NAN, f64::NEG_INFINITY, 1e-300] {
            reported.report(weight, 0);
            assert_eq!(reported.usable(0, &at_once), None, "{weight}");
        }
        reported.report(1e300, 0);
        assert_eq!(reported.usable(0, &at_once), Some(f32::MAX));
        reported.report(7.0, u64::MAX);
        assert_eq!(reported.usable(u64::MAX, &at_once), Some(7.0));
    }
}

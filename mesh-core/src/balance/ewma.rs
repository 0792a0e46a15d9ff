use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::model::PeakEwma;

/// How much longer than a nanosecond a tick of the clock is, in bits: 1.05 ms.
const TICK_BITS: u32 = 20;

/// An observation that is this many ticks (about a minute) or less ahead of `now` is another thread's, which read the
/// clock later.
const AHEAD: u32 = 1 << 16;

/// The latency of one endpoint as peak EWMA has it (Finagle's; Linkerd's and tower's `PeakEwma`): a slower answer
/// counts at once, a faster one little by little, and what is not confirmed by new answers is forgotten, so that a slow
/// endpoint is asked again.
///
/// Only the latencies of answers that were good belong here: an endpoint that fails fast would be the best of all.
///
/// One word, so that a reader never sees the latency of one answer and the time of another. Time is in nanoseconds since
/// any epoch that all calls share.
#[derive(Debug, Default)]
pub(crate) struct Ewma(AtomicU64);

/// What the word says. The word 0 says nothing yet.
#[derive(Debug, Clone, Copy)]
struct Estimate {
    /// In nanoseconds, at least 1. The upper half of the word; its sign says that it was assumed.
    latency: f32,
    /// Whether it is the default latency, as there was no answer yet.
    assumed: bool,
    /// The tick of which it holds: the lower half. It begins anew after 52 days; an endpoint that was not asked for
    /// exactly so long looks as it did before, until it is.
    at: u32,
}

impl Ewma {
    /// An answer took `rtt`, and came at `now`.
    pub(crate) fn observe(&self, rtt: Duration, now: u64, policy: &PeakEwma) {
        let rtt = nanos(rtt);
        let now = tick(now);
        let next = |word| {
            let (latency, at) = match Estimate::unpack(word) {
                Some(before) if !before.assumed => {
                    let elapsed = before.elapsed(now);
                    let excess = (before.latency - rtt).max(0.0);
                    (rtt + excess * kept(elapsed, policy) as f32, before.at.wrapping_add(elapsed))
                }
                _ => (rtt, now),
            };
            Some(Estimate { latency, assumed: false, at }.pack())
        };
        // Never refused, as there is always a next word.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    /// The latency expected of a request that joins `in_flight` others, in nanoseconds; only good for comparing. An
    /// endpoint that carries twice as much as others has half as many in flight as it counts.
    ///
    /// An endpoint without an answer costs nothing as long as nobody asks it, so that the next request finds out; while that
    /// is under way it has the default latency, which is forgotten like any other.
    pub(crate) fn load(&self, in_flight: f64, now: u64, policy: &PeakEwma) -> f64 {
        let now = tick(now);
        let estimate = Estimate::unpack(self.0.load(Ordering::Relaxed)).unwrap_or_else(|| {
            let assumed = Estimate { latency: nanos(policy.default_latency), assumed: true, at: now };
            // Whoever came first has said as much or more.
            let _ = self.0.compare_exchange(0, assumed.pack(), Ordering::Relaxed, Ordering::Relaxed);
            assumed
        });
        if estimate.assumed && in_flight < 1.0 {
            return 0.0;
        }
        let latency = f64::from(estimate.latency) * kept(estimate.elapsed(now), policy);
        // Of endpoints that are all forgotten the one with fewer requests is still the better one.
        latency.max(1.0) * (in_flight + 1.0)
    }
}

impl Estimate {
    fn unpack(word: u64) -> Option<Self> {
        let latency = f32::from_bits((word >> 32) as u32);
        (word != 0).then(|| Self { latency: latency.abs(), assumed: latency.is_sign_negative(), at: word as u32 })
    }

    fn pack(self) -> u64 {
        let latency = if self.assumed { -self.latency } else { self.latency };
        u64::from(latency.to_bits()) << 32 | u64::from(self.at)
    }

    fn elapsed(self, now: u32) -> u32 {
        let elapsed = now.wrapping_sub(self.at);
        if elapsed.wrapping_neg() <= AHEAD { 0 } else { elapsed }
    }
}

fn tick(now: u64) -> u32 {
    (now >> TICK_BITS) as u32
}

fn nanos(duration: Duration) -> f32 {
    (duration.as_nanos() as f32).max(1.0)
}

/// What part of an estimate is left after so many ticks.
fn kept(ticks: u32, policy: &PeakEwma) -> f64 {
    let elapsed = (u64::from(ticks) << TICK_BITS) as f64;
    (-elapsed / policy.decay.as_nanos().max(1) as f64).exp()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn policy() -> PeakEwma {
        PeakEwma::default()
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// The load of an idle endpoint in milliseconds.
    fn idle(ewma: &Ewma, now: u64) -> f64 {
        ewma.load(0.0, now, &policy()) / 1e6
    }

    fn assert_near(value: f64, wanted: f64) {
        assert!((value - wanted).abs() <= wanted * 0.001, "{value}, wanted {wanted}");
    }

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_slowly() {
        let ewma = Ewma::default();
        ewma.observe(millis(10), 0, &policy());
        assert_near(idle(&ewma, 0), 10.0);
        ewma.observe(millis(500), SECOND, &policy());
        assert_near(idle(&ewma, SECOND), 500.0);
        ewma.observe(millis(10), SECOND, &policy());
        assert_near(idle(&ewma, SECOND), 500.0);
        ewma.observe(millis(10), 11 * SECOND, &policy());
        assert_near(idle(&ewma, 11 * SECOND), 10.0 + 490.0 / std::f64::consts::E);
        assert_near(idle(&ewma, 21 * SECOND), (10.0 + 490.0 / std::f64::consts::E) / std::f64::consts::E);
    }

    #[test]
    fn many_answers_forget_a_peak_no_faster_than_few() {
        let (many, few) = (Ewma::default(), Ewma::default());
        for ewma in [&many, &few] {
            ewma.observe(millis(1_000), 0, &policy());
        }
        (0..=100_000).for_each(|n| many.observe(millis(1), n * SECOND / 10_000, &policy()));
        few.observe(millis(1), 10 * SECOND, &policy());
        let (many, few) = (idle(&many, 10 * SECOND), idle(&few, 10 * SECOND));
        assert!((many - few).abs() < few * 0.01, "{many} {few}");
    }

    #[test]
    fn load_grows_with_requests_in_flight() {
        let ewma = Ewma::default();
        ewma.observe(millis(10), 0, &policy());
        assert_near(ewma.load(4.0, 0, &policy()), 5.0 * 10e6);
        let forgotten = 86_400 * SECOND;
        assert!(ewma.load(1.0, forgotten, &policy()) > ewma.load(0.0, forgotten, &policy()));
        assert!(ewma.load(f64::from(u32::MAX), 0, &policy()).is_finite());
    }

    #[test]
    fn an_endpoint_nobody_asked_is_tried_and_has_the_default_latency_meanwhile() {
        let ewma = Ewma::default();
        let start = 1_000 * SECOND;
        let asked = |at| ewma.load(1.0, at, &policy()) / 2.0 / 1e6;
        assert_near(idle(&ewma, start), 0.0);
        assert_near(asked(start), 30.0);
        assert_near(asked(start + 10 * SECOND), 30.0 / std::f64::consts::E);
        ewma.observe(millis(2), start + SECOND, &policy());
        assert_near(idle(&ewma, start + SECOND), 2.0);
    }

    #[test]
    fn a_clock_read_out_of_order_forgets_nothing() {
        let ewma = Ewma::default();
        ewma.observe(millis(100), 10 * SECOND, &policy());
        ewma.observe(millis(1), 9 * SECOND, &policy());
        assert_near(idle(&ewma, 8 * SECOND), 100.0);
        assert_near(idle(&ewma, 20 * SECOND), 100.0 / std::f64::consts::E);
    }

    #[test]
    fn the_clock_may_begin_anew() {
        let (ewma, around) = (Ewma::default(), 1 << (32 + TICK_BITS));
        ewma.observe(millis(100), around - 5 * SECOND, &policy());
        assert_near(idle(&ewma, around + 5 * SECOND), 100.0 / std::f64::consts::E);
    }

    #[test]
    fn every_thread_counts() {
        let ewma = Ewma::default();
        std::thread::scope(|scope| {
            for thread in 1..=4 {
                let ewma = &ewma;
                scope.spawn(move || (0..1_000).for_each(|n| ewma.observe(millis(thread * 1_000 + n), 0, &policy())));
            }
        });
        assert_near(idle(&ewma, 0), 4_999.0);
    }

    proptest! {
        #[test]
        fn an_estimate_stays_among_what_was_observed(
            answers in prop::collection::vec((1..100_000_000_000_u64, 0..100_000_000_000_u64), 1..50), decay in 0..100_000_000_000_u64,
        ) {
            let (ewma, mut now) = (Ewma::default(), 0);
            let policy = PeakEwma { decay: Duration::from_nanos(decay), ..PeakEwma::default() };
            let mut greatest = 0_u64;
            for (rtt, pause) in answers {
                now += pause;
                ewma.observe(Duration::from_nanos(rtt), now, &policy);
                greatest = greatest.max(rtt);
                let load = ewma.load(0.0, now, &policy);
                prop_assert!(load >= rtt as f64 * 0.999 && load <= greatest as f64 * 1.001, "{} {} {}", load, rtt, greatest);
            }
        }

        #[test]
        fn no_duration_breaks_it(rtt: u64, nanos in 0..1_000_000_000_u32, now: u64, later: u64, decay: u64, in_flight: u32) {
            let policy = PeakEwma { decay: Duration::from_nanos(decay), default_latency: Duration::MAX };
            let ewma = Ewma::default();
            for _ in 0..2 {
                let load = ewma.load(f64::from(in_flight), now, &policy);
                prop_assert!(load.is_finite() && load >= 1.0, "{}", load);
                ewma.observe(Duration::new(rtt, nanos), later, &policy);
            }
        }
    }
}

//! Refusing requests for the failures of others, before they are sent (Envoy's admission control).

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};

use crate::model::AdmissionControl;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// The longest window, in seconds; a short one for loom, which looks at each of its atomics.
const SECONDS: usize = if cfg!(all(loom, test)) { 4 } else { 600 };

/// The outcomes of the requests to one backend, by the second, for all that use it. Survives updates of the
/// configuration: the policy is given anew each time.
///
/// It takes 5 kB once the first outcome is [recorded](Self::record), and next to nothing before.
///
/// Whoever asks or records first in a new second adds up the seconds of the window that are over; the others go on with
/// the sums of the second before meanwhile. Nobody waits, so that an outcome may count for a second more or less than the
/// window.
#[derive(Debug)]
pub struct Admission {
    epoch: Instant,
    window: OnceLock<Box<Window>>,
}

#[derive(Debug)]
struct Window {
    /// A ring.
    seconds: [Second; SECONDS],
    /// The second that is counted in, since the epoch.
    current: AtomicU64,
    /// The seconds of the window that are over.
    past: Second,
    /// How many they are, at most.
    length: AtomicU64,
    /// Whether somebody is moving on to the next second.
    moving: AtomicBool,
}

/// What was counted in one second, or in several.
#[derive(Debug, Default)]
struct Second {
    requests: AtomicU32,
    successes: AtomicU32,
}

impl Admission {
    /// The longest window there is: a longer one of a policy counts as this.
    pub const MAX_WINDOW: Duration = Duration::from_secs(SECONDS as u64);

    /// Nothing has happened yet.
    pub fn new(now: Instant) -> Self {
        Self { epoch: now, window: OnceLock::new() }
    }

    /// Whether a request may be sent. One that may not is not to be recorded.
    ///
    /// With `n` requests and `s` successes within the window it is refused with probability
    /// `((n - s / threshold) / (n + 1)) ^ (1 / aggression)`, at most `max_rejection_percent`, and never where `n` is below
    /// `min_requests_per_second` on the average of the window.
    pub fn admit<R: Rng + ?Sized>(&self, policy: &AdmissionControl, now: Instant, rng: &mut R) -> bool {
        let rejection = self.rejection(policy, now);
        rejection <= 0.0 || rng.random::<f64>() >= rejection
    }

    /// The share of requests that is refused now: 0.0 to 1.0.
    pub fn rejection(&self, policy: &AdmissionControl, now: Instant) -> f64 {
        let Some(window) = self.window.get() else { return 0.0 };
        let length = length(policy);
        window.move_on(self.second(now), length);
        let (requests, successes) = window.counted();
        if u64::from(requests) < u64::from(policy.min_requests_per_second) * length {
            return 0.0;
        }
        let (requests, successes) = (f64::from(requests), f64::from(successes));
        // A policy made in code may hold anything; what is no number is no reason to refuse.
        let threshold = policy.success_threshold.min(100.0);
        let excess = (requests - successes * 100.0 / threshold) / (requests + 1.0);
        let aggression = if policy.aggression > 0.0 { policy.aggression } else { 1.0 };
        let share = if excess > 0.0 { excess.powf(1.0 / aggression) } else { 0.0 };
        let most = policy.max_rejection_percent / 100.0;
        if most > 0.0 { share.min(most.min(1.0)) } else { 0.0 }
    }

    /// Counts a request that was sent, once it is known whether it succeeded.
    pub fn record(&self, policy: &AdmissionControl, success: bool, now: Instant) {
        let window = self.window.get_or_init(Window::new);
        window.move_on(self.second(now), length(policy));
        let second = window.at(window.current.load(Ordering::Acquire));
        second.requests.fetch_add(1, Ordering::Relaxed);
        if success {
            second.successes.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_secs()
    }
}

/// The seconds of the window.
fn length(policy: &AdmissionControl) -> u64 {
    policy.window.as_secs().clamp(1, SECONDS as u64)
}

impl Window {
    fn new() -> Box<Self> {
        Box::new(Self {
            seconds: std::array::from_fn(|_| Second::default()),
            current: AtomicU64::new(0),
            past: Second::default(),
            length: AtomicU64::new(0),
            moving: AtomicBool::new(false),
        })
    }

    fn at(&self, second: u64) -> &Second {
        &self.seconds[(second % SECONDS as u64) as usize]
    }

    /// Requests and successes of the window. Successes first: whoever records counts them last, so that there are never
    /// more of them than requests.
    fn counted(&self) -> (u32, u32) {
        let current = self.at(self.current.load(Ordering::Acquire));
        let sum = |count: fn(&Second) -> &AtomicU32| {
            count(&self.past).load(Ordering::Relaxed).saturating_add(count(current).load(Ordering::Relaxed))
        };
        let successes = sum(|second| &second.successes);
        let requests = sum(|second| &second.requests);
        (requests, successes.min(requests))
    }

    /// Begins the second `to`, if it is not begun yet, or the window has become another.
    fn move_on(&self, to: u64, length: u64) {
        let from = self.current.load(Ordering::Acquire);
        if to <= from && self.length.load(Ordering::Relaxed) == length {
            return;
        }
        if self.moving.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return;
        }
        // Whoever was here in between did all of it.
        let from = self.current.load(Ordering::Acquire);
        let to = to.max(from);
        for second in (from + 1..=to).rev().take(SECONDS) {
            self.at(second).clear();
        }
        let past = (to.saturating_sub(length - 1)..to).map(|second| self.at(second));
        let (requests, successes) = past.fold((0u32, 0u32), |(requests, successes), second| {
            (
                requests.saturating_add(second.requests.load(Ordering::Relaxed)),
                successes.saturating_add(second.successes.load(Ordering::Relaxed)),
            )
        });
        self.past.requests.store(requests, Ordering::Relaxed);
        self.past.successes.store(successes, Ordering::Relaxed);
        self.length.store(length, Ordering::Relaxed);
        // Whoever counts in the new second finds it cleared.
        self.current.store(to, Ordering::Release);
        self.moving.store(false, Ordering::Release);
    }
}

impl Second {
    fn clear(&self) {
        self.requests.store(0, Ordering::Relaxed);
        self.successes.store(0, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn record(admission: &Admission, policy: &AdmissionControl, requests: u32, percent: u32, now: Instant) {
        (0..requests).for_each(|n| admission.record(policy, n % 100 < percent, now));
    }

    /// OD-11: 5000 requests, of which half succeed; and others. The share that is refused is the formula's within five
    /// sigma.
    #[test]
    fn od_11_the_share_of_refusals_follows_the_success_rate() {
        let mut rng = StdRng::seed_from_u64(11);
        let formula = |n: f64, s: f64, threshold: f64, a: f64| ((n - s / threshold) / (n + 1.0)).powf(1.0 / a);
        for (requests, percent, threshold, aggression, expected) in [
            (5000, 50, 95.0, 1.0, formula(5000.0, 2500.0, 0.95, 1.0)),
            (5000, 80, 95.0, 1.0, formula(5000.0, 4000.0, 0.95, 1.0)),
            (5000, 50, 95.0, 2.0, formula(5000.0, 2500.0, 0.95, 2.0)),
            (5000, 50, 60.0, 1.0, formula(5000.0, 2500.0, 0.60, 1.0)),
            (5000, 95, 95.0, 1.0, 0.0),
            (5000, 100, 95.0, 1.0, 0.0),
            // The cap.
            (5000, 0, 95.0, 1.0, 0.8),
            (5000, 10, 95.0, 3.0, 0.8),
            // 5 a second in 120 seconds are 600.
            (599, 0, 95.0, 1.0, 0.0),
            (600, 0, 95.0, 1.0, 0.8),
        ] {
            let policy = AdmissionControl { success_threshold: threshold, aggression, ..AdmissionControl::default() };
            let begin = Instant::now();
            let admission = Admission::new(begin);
            record(&admission, &policy, requests, percent, begin + Duration::from_secs(3));
            let now = begin + Duration::from_secs(60);
            let case = format!("{requests} requests, {percent} %, {threshold} %, aggression {aggression}");
            assert!((admission.rejection(&policy, now) - expected).abs() < 1e-9, "{case}");
            const DRAWS: u32 = 2_500;
            let refused = (0..DRAWS).filter(|_| !admission.admit(&policy, now, &mut rng)).count() as f64;
            let sigma = (f64::from(DRAWS) * expected * (1.0 - expected)).sqrt();
            assert!((refused - f64::from(DRAWS) * expected).abs() <= 5.0 * sigma, "{case}: {refused}");
        }
    }

    /// OD-11: an outcome counts for the window, whichever way time passes, and however long nobody asked.
    #[test]
    fn od_11_the_window_slides() {
        let policy = AdmissionControl {
            window: Duration::from_secs(10),
            min_requests_per_second: 1,
            ..AdmissionControl::default()
        };
        for step in [1, 3, 5, 20, 599, 600, 601, 10_000] {
            let begin = Instant::now();
            let admission = Admission::new(begin);
            let at = |second| begin + Duration::from_secs(second);
            record(&admission, &policy, 100, 0, at(7));
            let mut second = 7;
            while second < 7 + 10 {
                assert_eq!(admission.rejection(&policy, at(second)), 0.8, "step {step}, second {second}");
                second += step;
            }
            for _ in 0..SECONDS {
                assert_eq!(admission.rejection(&policy, at(second)), 0.0, "step {step}, second {second}");
                second += step;
            }
            record(&admission, &policy, 100, 0, at(second));
            assert_eq!(admission.rejection(&policy, at(second)), 0.8, "step {step}: once more");
        }
    }

    /// A policy may become another while its outcomes are kept.
    #[test]
    fn od_11_a_window_that_changes_keeps_its_outcomes() {
        let begin = Instant::now();
        let admission = Admission::new(begin);
        let of = |seconds| AdmissionControl {
            window: Duration::from_secs(seconds),
            min_requests_per_second: 1,
            ..AdmissionControl::default()
        };
        assert_eq!(admission.rejection(&of(100), begin), 0.0, "nothing was recorded");
        record(&admission, &of(100), 1_000, 0, begin);
        let now = begin + Duration::from_secs(50);
        record(&admission, &of(100), 1_000, 100, now);
        let half = admission.rejection(&of(100), now);
        assert!((0.4..0.5).contains(&half), "{half}");
        assert_eq!(admission.rejection(&of(20), now), 0.0, "the successes only");
        assert_eq!(admission.rejection(&of(100), now), half);
        assert_eq!(admission.rejection(&of(u64::MAX), now), half, "2000 requests in 600 s");
        assert_eq!(admission.rejection(&of(0), now), 0.0);
    }

    /// A clock that goes back, and values that no reader lets through, do no harm.
    #[test]
    fn od_11_nothing_odd_refuses_everything() {
        let begin = Instant::now();
        let admission = Admission::new(begin + Duration::from_secs(100));
        let policy = AdmissionControl { min_requests_per_second: 0, ..AdmissionControl::default() };
        record(&admission, &policy, 100, 100, begin);
        assert_eq!(admission.rejection(&policy, begin), 0.0);
        for threshold in [0.0, f64::NAN, -1.0] {
            let odd = AdmissionControl { success_threshold: threshold, ..policy };
            let rejection = admission.rejection(&odd, begin);
            assert!((0.0..=0.8).contains(&rejection), "{threshold}: {rejection}");
        }
    }

    #[test]
    fn od_11_counts_are_exact_under_concurrency() {
        let begin = Instant::now();
        let admission = Admission::new(begin);
        let policy = AdmissionControl::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..5_000).for_each(|n| admission.record(&policy, n % 2 == 0, begin)));
            }
        });
        let window = admission.window.get().expect("it was used");
        assert_eq!(window.counted(), (20_000, 10_000));
    }
}

/// RL-15: every interleaving.
#[cfg(all(test, loom))]
mod models {
    use std::sync::Arc;

    use loom::thread;

    use super::*;

    /// What is recorded while the window moves on is counted in the end, by whomever it is moved.
    #[test]
    fn loom_od_11_no_outcome_is_lost_between_seconds() {
        loom::model(|| {
            let begin = Instant::now();
            let admission = Arc::new(Admission::new(begin));
            let policy = AdmissionControl { window: Duration::from_secs(4), ..AdmissionControl::default() };
            let record = move |admission: &Admission, second| {
                admission.record(&policy, true, begin + Duration::from_secs(second));
            };
            record(&admission, 0);
            let shared = Arc::clone(&admission);
            let other = thread::spawn(move || record(&shared, 1));
            record(&admission, 2);
            other.join().unwrap();
            // The last to move on may have found somebody at it.
            record(&admission, 3);
            let window = admission.window.get().unwrap();
            assert_eq!(window.counted(), (4, 4));
            assert_eq!(window.current.load(Ordering::Relaxed), 3);
        });
    }
}

//! How many retries of a backend may be under way at once (Envoy's retry budget).

use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::RetryBudget;

/// The retries and requests of one backend that are under way. Survives updates of the configuration.
///
/// The counts publish nothing but themselves, hence `Relaxed` throughout.
#[derive(Debug, Default)]
pub struct RetryBudgetState {
    in_flight: AtomicU64,
    retries: AtomicU64,
}

impl RetryBudgetState {
    /// Nothing under way.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts a request that begins on the backend: once for the request, however many attempts it takes.
    pub fn enter(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that ended. Every [`enter`](Self::enter) needs one; more than that are without effect.
    pub fn exit(&self) {
        decrement(&self.in_flight);
    }

    /// Takes a place for one retry if that leaves no more of them than `min_concurrent` or than `percent` of the other
    /// requests in flight, whichever is more. A place taken must be given back by [`release`](Self::release).
    ///
    /// The share is of the *other* requests so that 20 % add no more than 20 % of load: were a request that is being
    /// retried counted too, each retry would make room for more (Envoy's limit, by which 20 % come to 25 %).
    ///
    /// Best taken before the pause of the retry and held until its attempt ends, as Envoy does: against a backend that
    /// fails at once, places held only while sending come free so soon that they bound next to nothing.
    pub fn try_acquire(&self, budget: &RetryBudget) -> bool {
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        let claim = |retries: u64| {
            let wanted = retries + 1;
            let share = budget.percent * in_flight.saturating_sub(wanted) as f64 / 100.0;
            (wanted <= u64::from(budget.min_concurrent) || wanted as f64 <= share).then_some(wanted)
        };
        self.retries.fetch_update(Ordering::Relaxed, Ordering::Relaxed, claim).is_ok()
    }

    /// Gives back the place of a retry that ended. More of them than places taken are without effect.
    pub fn release(&self) {
        decrement(&self.retries);
    }

    /// How many retries `budget` allows at once with the requests in flight now.
    pub fn limit(&self, budget: &RetryBudget) -> u64 {
        // Of `r` retries among `n` requests the share is of `n - r`: the largest `r` is n * p / (1 + p).
        let percent = budget.percent.max(0.0);
        let share = percent * self.in_flight() as f64 / (100.0 + percent);
        // A float that is no number becomes 0.
        (share as u64).max(budget.min_concurrent.into())
    }

    /// The requests in flight.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The retries under way.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }
}

fn decrement(count: &AtomicU64) {
    let result = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    debug_assert!(result.is_ok(), "given back more often than taken");
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn acquired(state: &RetryBudgetState, budget: &RetryBudget) -> u64 {
        std::iter::repeat_with(|| state.try_acquire(budget)).take(10_000).take_while(|granted| *granted).count() as u64
    }

    /// RE-05: the larger of the minimum and the share of the requests that are not being retried.
    #[test]
    fn re_05_the_limit_is_the_larger_of_minimum_and_share() {
        for (percent, min_concurrent, in_flight, expected) in [
            (20.0, 3, 0, 3),
            (20.0, 3, 18, 3),
            (20.0, 3, 23, 3),
            (20.0, 3, 24, 4),
            (20.0, 3, 1_200, 200),
            (20.0, 0, 5, 0),
            (20.0, 0, 6, 1),
            (0.0, 0, 1_000, 0),
            (0.0, 2, 1_000, 2),
            (100.0, 0, 14, 7),
            (100.0, 0, 1, 0),
            (70.0, 0, 17, 7),
            (0.1, 0, 1_001, 1),
            (f64::NAN, 2, 1_000, 2),
            (-5.0, 2, 1_000, 2),
        ] {
            let state = RetryBudgetState::new();
            (0..in_flight).for_each(|_| state.enter());
            let budget = RetryBudget { percent, min_concurrent };
            assert_eq!(state.limit(&budget), expected, "{percent} % of {in_flight}, at least {min_concurrent}");
            assert_eq!(acquired(&state, &budget), expected, "{percent} % of {in_flight}, at least {min_concurrent}");
            assert_eq!(state.retries(), expected);
        }
    }

    #[test]
    fn a_place_given_back_can_be_taken_again() {
        let state = RetryBudgetState::new();
        let budget = RetryBudget { percent: 0.0, min_concurrent: 1 };
        assert!(state.try_acquire(&budget));
        assert!(!state.try_acquire(&budget));
        state.release();
        assert!(state.try_acquire(&budget));
    }

    /// RE-05: retries beyond a limit that shrank are let run, and no new ones begin.
    #[test]
    fn re_05_a_shrinking_limit_only_stops_new_retries() {
        let state = RetryBudgetState::new();
        let budget = RetryBudget { percent: 50.0, min_concurrent: 0 };
        (0..15).for_each(|_| state.enter());
        assert_eq!(acquired(&state, &budget), 5);
        (0..12).for_each(|_| state.exit());
        assert!(!state.try_acquire(&budget));
        assert_eq!((state.in_flight(), state.retries()), (3, 5));
        (0..4).for_each(|_| state.release());
        assert!(!state.try_acquire(&budget));
        state.release();
        assert!(state.try_acquire(&budget));
    }

    /// One tick is a millisecond; in each arrives a request whose attempts all fail after `attempt` ticks and which
    /// would retry four times, `pause` ticks after each failure. Returns the attempts for each request.
    fn load_on_a_dead_backend(budget: &RetryBudget, attempt: usize, pause: usize) -> f64 {
        const TICKS: usize = 10_000;
        let state = RetryBudgetState::new();
        // By tick: how many retries the requests have had whose attempt ends then.
        let mut ends: Vec<Vec<u32>> = vec![Vec::new(); TICKS + attempt + pause + 1];
        let mut attempts = 0u32;
        for tick in 0..TICKS {
            for retries in std::mem::take(&mut ends[tick]) {
                if retries > 0 {
                    state.release();
                }
                if retries < 4 && state.try_acquire(budget) {
                    assert!(state.retries() <= (state.in_flight() / 5).max(3));
                    attempts += 1;
                    ends[tick + pause + attempt].push(retries + 1);
                } else {
                    state.exit();
                }
            }
            state.enter();
            attempts += 1;
            ends[tick + attempt].push(0);
        }
        f64::from(attempts) / TICKS as f64
    }

    /// RE-05: 1000 requests a second against a backend that only fails, slowly or at once: the load stays below 1.2
    /// times the requests plus what the minimum allows. Without a budget it would be five times.
    #[test]
    fn re_05_a_dead_backend_gets_no_retry_storm() {
        for (attempt, pause) in [(100, 25), (1, 25), (10, 250), (500, 25), (25, 25)] {
            let by_minimum = 3.0 / (attempt + pause) as f64;
            let load = load_on_a_dead_backend(&RetryBudget::default(), attempt, pause);
            assert!(load > 1.0 && load <= 1.2 + by_minimum, "{attempt} ms attempts, {pause} ms pauses: {load}");
        }
    }

    /// RE-05: never beyond the limit and never below zero, whatever the interleaving.
    #[test]
    fn re_05_the_limit_holds_under_concurrency() {
        let state = RetryBudgetState::new();
        let budget = RetryBudget { percent: 0.0, min_concurrent: 3 };
        let (active, exceeded) = (AtomicU64::new(0), AtomicBool::new(false));
        let granted = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        state.enter();
                        if state.try_acquire(&budget) {
                            granted.fetch_add(1, Ordering::SeqCst);
                            if active.fetch_add(1, Ordering::SeqCst) >= 3 {
                                exceeded.store(true, Ordering::SeqCst);
                            }
                            active.fetch_sub(1, Ordering::SeqCst);
                            state.release();
                        }
                        state.exit();
                    }
                });
            }
        });
        assert!(!exceeded.load(Ordering::SeqCst));
        assert!(granted.load(Ordering::SeqCst) > 0);
        assert_eq!((state.in_flight(), state.retries()), (0, 0));
    }
}

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

    /// Takes a place for one retry if fewer are under way than `max(min_concurrent, percent of the requests in flight)`,
    /// the share rounded down. A place taken must be given back by [`release`](Self::release).
    pub fn try_acquire(&self, budget: &RetryBudget) -> bool {
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        let share = budget.percent * in_flight as f64 / 100.0;
        let limit = (share as u64).max(u64::from(budget.min_concurrent));
        let claim = |retries: u64| (retries < limit).then(|| retries + 1);
        self.retries.fetch_update(Ordering::Relaxed, Ordering::Relaxed, claim).is_ok()
    }

    /// Gives back the place of a retry that ended. More of them than places taken are without effect.
    pub fn release(&self) {
        decrement(&self.retries);
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

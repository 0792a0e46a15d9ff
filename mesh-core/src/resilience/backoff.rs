//! Pauses that grow and are jittered: between the attempts of a request and between attempts to connect.

use std::time::Duration;

use rand::{Rng, RngExt};

use crate::model::{Backoff, ConnectBackoff};

/// No pause is built on less than this (gRFC A44).
const FLOOR: Duration = Duration::from_millis(1);

/// How far a pause strays from its nominal length, as a share of it.
const JITTER: f64 = 0.2;

/// What a failed attempt to connect multiplies the pause by (gRPC connection backoff).
const CONNECT_MULTIPLIER: f64 = 1.6;

/// The pause after `step` pauses of the same sequence: `min(base * 2^step, max)`, times a number drawn uniformly from
/// 0.8 to 1.2 (gRFC A6). A base below 1 ms counts as 1 ms, a maximum below the base as the base (gRFC A44).
pub fn retry_delay(backoff: &Backoff, step: u32, rng: &mut impl Rng) -> Duration {
    let base = backoff.base.max(FLOOR);
    let nominal = base.saturating_mul(2u32.saturating_pow(step)).min(backoff.max.max(base));
    jittered(nominal, rng)
}

/// Where the connect attempts of one endpoint stand: 1 s, 1.6 s, 2.56 s .. 120 s by default, each ±20 %.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnectBackoffState {
    failures: u32,
}

impl ConnectBackoffState {
    /// No failure so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts a failed attempt and says how long to wait before the next, from the failure on. A base below 1 ms counts
    /// as 1 ms, a maximum below the base as the base.
    pub fn next_delay(&mut self, backoff: &ConnectBackoff, rng: &mut impl Rng) -> Duration {
        let base = backoff.base.max(FLOOR);
        let growth = CONNECT_MULTIPLIER.powf(f64::from(self.failures));
        let nominal = seconds(base.as_secs_f64() * growth).min(backoff.max.max(base));
        self.failures = self.failures.saturating_add(1);
        jittered(nominal, rng)
    }

    /// Begins again: a connection was completed.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

fn jittered(nominal: Duration, rng: &mut impl Rng) -> Duration {
    seconds(nominal.as_secs_f64() * rng.random_range(1.0 - JITTER..=1.0 + JITTER))
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

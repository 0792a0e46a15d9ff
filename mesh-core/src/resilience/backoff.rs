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

/// `nominal`, ±20 %.
pub(super) fn jittered(nominal: Duration, rng: &mut (impl Rng + ?Sized)) -> Duration {
    seconds(nominal.as_secs_f64() * rng.random_range(1.0 - JITTER..=1.0 + JITTER))
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// RE-03: uniform in [0.8, 1.2] of the nominal pause. 2500 draws each: all within the bounds, every tenth of the
    /// range as often as the others within five sigma, the mean within five sigma of the nominal pause.
    #[test]
    fn re_03_pauses_are_uniform_around_a_doubling_length() {
        const DRAWS: u32 = 2_500;
        let backoff = Backoff { base: millis(25), max: millis(250) };
        let mut rng = StdRng::seed_from_u64(3);
        for (step, nominal) in [(0, 25.0), (1, 50.0), (2, 100.0), (3, 200.0), (4, 250.0), (5, 250.0), (u32::MAX, 250.0)]
        {
            let mut tenths = [0u32; 10];
            let mut sum = 0.0;
            for _ in 0..DRAWS {
                let share = retry_delay(&backoff, step, &mut rng).as_secs_f64() * 1_000.0 / nominal;
                assert!((0.799_999..=1.200_001).contains(&share), "step {step}: {share}");
                tenths[(((share - 0.8) / 0.04) as usize).min(9)] += 1;
                sum += share;
            }
            let draws = f64::from(DRAWS);
            let five_sigma = 5.0 * (draws * 0.1 * 0.9).sqrt();
            for count in tenths {
                assert!((f64::from(count) - draws * 0.1).abs() < five_sigma, "step {step}: {tenths:?}");
            }
            // A uniform distribution of width 0.4 has the deviation 0.4 / sqrt(12).
            let five_sigma = 5.0 * 0.4 / 12f64.sqrt() / draws.sqrt();
            assert!((sum / draws - 1.0).abs() < five_sigma, "step {step}: mean {}", sum / draws);
        }
    }

    /// RE-03: intervals below 1 ms count as 1 ms, a maximum below the base as the base; nothing overflows.
    #[test]
    fn re_03_pauses_stay_within_sane_bounds() {
        let mut rng = StdRng::seed_from_u64(4);
        for (base, max, step, nominal) in [
            (Duration::ZERO, Duration::ZERO, 0, millis(1)),
            (Duration::ZERO, Duration::ZERO, 7, millis(1)),
            (Duration::from_micros(10), millis(250), 0, millis(1)),
            (Duration::from_micros(10), millis(250), 3, millis(8)),
            (millis(25), millis(10), 2, millis(25)),
            (millis(25), Duration::from_secs(3_600), u32::MAX, Duration::from_secs(3_600)),
        ] {
            let delay = retry_delay(&Backoff { base, max }, step, &mut rng);
            assert!(
                delay >= nominal.mul_f64(0.799_999) && delay <= nominal.mul_f64(1.200_001),
                "{delay:?} {nominal:?}"
            );
        }
        let forever = Backoff { base: Duration::MAX, max: Duration::MAX };
        assert!(retry_delay(&forever, u32::MAX, &mut rng) >= Duration::MAX / 2);
    }

    /// CL-04: 1, 1.6, 2.56 .. 120 s, each ±20 %; a completed connection begins anew. The jitter does not feed back
    /// into the sequence.
    #[test]
    fn cl_04_connect_pauses_grow_to_the_maximum_and_reset() {
        let backoff = ConnectBackoff::default();
        let nominals = [1.0, 1.6, 2.56, 4.096, 6.553_6, 10.485_76, 16.777_216, 26.843_546, 42.949_673, 68.719_477];
        let nominals: Vec<f64> = nominals.into_iter().chain([109.951_163, 120.0, 120.0, 120.0]).collect();
        let mut rng = StdRng::seed_from_u64(5);
        let mut state = ConnectBackoffState::new();
        let (mut low, mut high) = (f64::MAX, f64::MIN);
        for _ in 0..500 {
            for nominal in &nominals {
                let share = state.next_delay(&backoff, &mut rng).as_secs_f64() / nominal;
                assert!((0.799_99..=1.200_01).contains(&share), "{nominal} s: {share}");
                (low, high) = (low.min(share), high.max(share));
            }
            state.reset();
            assert_eq!(state, ConnectBackoffState::new());
        }
        assert!(low < 0.81 && high > 1.19, "the whole range is used: {low}..{high}");
    }

    #[test]
    fn cl_04_connect_pauses_never_overflow_nor_vanish() {
        let mut rng = StdRng::seed_from_u64(6);
        let mut state = ConnectBackoffState { failures: u32::MAX };
        let delay = state.next_delay(&ConnectBackoff::default(), &mut rng);
        assert!(delay <= Duration::from_secs(145), "{delay:?}");
        assert_eq!(state.failures, u32::MAX);
        let nothing = ConnectBackoff { base: Duration::ZERO, max: Duration::ZERO };
        assert!(state.next_delay(&nothing, &mut rng) >= Duration::from_micros(799));
    }
}

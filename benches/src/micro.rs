//! Timing of short functions: batches long enough to be timed, several samples of them.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::measure::median;

/// How many samples are taken.
pub const SAMPLES: usize = 15;

/// How long a sample lasts at least.
const SAMPLE: Duration = Duration::from_millis(20);

/// What one call of a function takes, in nanoseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Timing {
    /// The fastest sample.
    pub min_ns: f64,
    /// The median of the samples.
    pub median_ns: f64,
    /// Calls of a sample.
    pub calls: u64,
}

/// Times `function`, short and without state that a call uses up.
///
/// The first batches, which grow until one lasts long enough, warm the caches and do not count.
pub fn time<T>(mut function: impl FnMut() -> T) -> Timing {
    let mut batch = |calls: u64| {
        let started = Instant::now();
        for _ in 0..calls {
            std::hint::black_box(function());
        }
        started.elapsed()
    };
    let mut calls = 1;
    while batch(calls) < SAMPLE {
        calls *= 2;
    }
    let samples: Vec<f64> = (0..SAMPLES).map(|_| batch(calls).as_nanos() as f64 / calls as f64).collect();
    summary(&samples, calls)
}

/// Times `function`, long and using up what `setup` makes; neither `setup` nor the drop of the result counts.
pub fn time_with_setup<S, T>(mut setup: impl FnMut() -> S, mut function: impl FnMut(S) -> T) -> Timing {
    let mut sample = || {
        let input = setup();
        let started = Instant::now();
        let result = std::hint::black_box(function(input));
        let elapsed = started.elapsed();
        drop(result);
        elapsed.as_nanos() as f64
    };
    sample();
    let samples: Vec<f64> = (0..SAMPLES).map(|_| sample()).collect();
    summary(&samples, 1)
}

/// So many nanoseconds, as a table says it.
pub fn unit(ns: f64) -> String {
    match ns {
        ..1e4 => format!("{ns:.1} ns"),
        1e4..1e6 => format!("{:.1} us", ns / 1e3),
        _ => format!("{:.2} ms", ns / 1e6),
    }
}

fn summary(samples: &[f64], calls: u64) -> Timing {
    Timing {
        min_ns: samples.iter().copied().fold(f64::INFINITY, f64::min),
        median_ns: median(samples.iter().copied()),
        calls,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_work_takes_longer() {
        let work = |rounds: u64| move || (0..rounds).fold(0, |sum, n| std::hint::black_box(n ^ sum));
        let (short, long) = (time(work(100)), time(work(10_000)));
        assert!(short.min_ns <= short.median_ns);
        assert!(short.calls > long.calls);
        assert!(long.min_ns > 10.0 * short.min_ns, "{short:?} {long:?}");
    }

    #[test]
    fn setup_is_not_timed() {
        let slow = || (0..2_000_000_u64).fold(0, |sum, n| std::hint::black_box(n ^ sum));
        let started = Instant::now();
        let timing = time_with_setup(slow, |value| value);
        let per_sample = started.elapsed().as_nanos() as f64 / (SAMPLES + 1) as f64;
        assert!(timing.median_ns < per_sample / 10.0, "{timing:?}");
    }
}

//! gRPC's token bucket, which stops the retries to a target that mostly fails (gRFC A6).

use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::RetryThrottling;

const TOKEN: u64 = 1_000;

/// The tokens of one target, shared by all its requests. Begins full; a failure takes a token, a success returns the
/// configured share of one, and retries are allowed while more than half of the tokens are there.
///
/// All figures are thousandths of a token. `max` and `ratio` change only with the configuration; a request that runs
/// into such a change may act on either, which the next [`succeeded`](Self::succeeded) puts right.
#[derive(Debug)]
pub struct Throttle {
    tokens: AtomicU64,
    max: AtomicU64,
    ratio: AtomicU64,
}

impl Throttle {
    /// A full bucket.
    pub fn new(config: &RetryThrottling) -> Self {
        let max = max_of(config);
        Self {
            tokens: AtomicU64::new(max),
            max: AtomicU64::new(max),
            ratio: AtomicU64::new(u64::from(config.token_ratio_millis)),
        }
    }

    /// Counts an attempt that failed with a retriable status, or whose server asked for no retry.
    pub fn failed(&self) {
        self.change(|tokens| tokens.saturating_sub(TOKEN));
    }

    /// Counts a call that succeeded.
    pub fn succeeded(&self) {
        let (max, ratio) = (self.max.load(Ordering::Relaxed), self.ratio.load(Ordering::Relaxed));
        if self.tokens.load(Ordering::Relaxed) != max {
            self.change(|tokens| (tokens + ratio).min(max));
        }
    }

    /// Whether a retry may be sent now.
    pub fn allows(&self) -> bool {
        2 * self.tokens.load(Ordering::Relaxed) > self.max.load(Ordering::Relaxed)
    }

    /// Takes a new configuration; the bucket stays as full, in proportion, as it was. gRFC A6 leaves this open.
    pub fn update(&self, config: &RetryThrottling) {
        let max = max_of(config);
        let old = self.max.swap(max, Ordering::Relaxed);
        self.ratio.store(u64::from(config.token_ratio_millis), Ordering::Relaxed);
        if old != max {
            self.change(|tokens| tokens.min(old) * max / old);
        }
    }

    /// The tokens there are, in thousandths.
    pub fn tokens_millis(&self) -> u64 {
        self.tokens.load(Ordering::Relaxed)
    }

    fn change(&self, change: impl Fn(u64) -> u64) {
        let result = self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tokens| Some(change(tokens)));
        debug_assert!(result.is_ok(), "the change never declines");
    }
}

/// At least one token, so that a bucket is never without room whatever a source lets through.
fn max_of(config: &RetryThrottling) -> u64 {
    u64::from(config.max_tokens.max(1)) * TOKEN
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(max_tokens: u32, token_ratio_millis: u32) -> RetryThrottling {
        RetryThrottling { max_tokens, token_ratio_millis }
    }

    /// RE-04: more than half of 10 tokens; a failure takes 1, a success returns 0.1; never below 0 nor above 10.
    #[test]
    fn re_04_retries_stop_at_half_of_the_tokens() {
        let throttle = Throttle::new(&config(10, 100));
        for left in [9, 8, 7, 6] {
            throttle.failed();
            assert_eq!(throttle.tokens_millis(), left * TOKEN);
            assert!(throttle.allows(), "{left} tokens");
        }
        throttle.failed();
        assert_eq!(throttle.tokens_millis(), 5_000);
        assert!(!throttle.allows(), "half is not more than half");
        throttle.succeeded();
        assert_eq!(throttle.tokens_millis(), 5_100);
        assert!(throttle.allows());
        for _ in 0..20 {
            throttle.failed();
        }
        assert_eq!(throttle.tokens_millis(), 0);
        for _ in 0..50 {
            throttle.succeeded();
        }
        assert!(!throttle.allows());
        for _ in 0..100 {
            throttle.succeeded();
        }
        assert_eq!(throttle.tokens_millis(), 10_000);
    }

    /// RE-04: the ratio counts in thousandths, and one larger than the bucket fills it.
    #[test]
    fn re_04_the_ratio_has_three_decimals() {
        let throttle = Throttle::new(&config(3, 1));
        throttle.failed();
        throttle.succeeded();
        assert_eq!(throttle.tokens_millis(), 2_001);
        let throttle = Throttle::new(&config(1, u32::MAX));
        throttle.failed();
        assert!(!throttle.allows());
        throttle.succeeded();
        assert_eq!(throttle.tokens_millis(), 1_000);
    }

    /// RE-04: a new configuration scales what is there.
    #[test]
    fn re_04_an_update_keeps_the_proportion() {
        let throttle = Throttle::new(&config(10, 100));
        for _ in 0..4 {
            throttle.failed();
        }
        throttle.update(&config(100, 500));
        assert_eq!(throttle.tokens_millis(), 60_000);
        assert!(throttle.allows());
        throttle.succeeded();
        assert_eq!(throttle.tokens_millis(), 60_500);
        throttle.update(&config(10, 500));
        assert_eq!(throttle.tokens_millis(), 6_050);
        throttle.update(&config(10, 1));
        throttle.succeeded();
        assert_eq!(throttle.tokens_millis(), 6_051);
    }

    #[test]
    fn counts_are_exact_under_concurrency() {
        let throttle = Throttle::new(&config(1_000, 1));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        throttle.failed();
                        throttle.succeeded();
                    }
                });
            }
        });
        assert_eq!(throttle.tokens_millis(), 1_000_000 - 400 * 999);
    }
}

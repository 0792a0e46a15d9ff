//! Calls that begin when they are due, whether or not the ones before have ended.
//!
//! A latency counts from when its call was due, so that a client that falls behind is charged for it (what is called
//! coordinated omission is counted, not left out).

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Result;
use crate::client::Call;

/// A call.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// When it was due, since the beginning.
    pub due: Duration,
    /// From then until its end.
    pub latency: Duration,
    /// Whether it was answered as it should be.
    pub ok: bool,
}

/// When calls are due that arrive independently of each other, `rate` a second, for so long: the same for each `seed`.
pub fn arrivals(rate: f64, length: Duration, seed: u64) -> Vec<Duration> {
    let mut rng = StdRng::seed_from_u64(seed);
    let gap = || Some(Duration::from_secs_f64(-(1.0 - rng.random::<f64>()).ln() / rate));
    let sum = |at: &mut Duration, gap| {
        *at += gap;
        Some(*at)
    };
    std::iter::from_fn(gap).scan(Duration::ZERO, sum).take_while(|at| *at < length).collect()
}

/// Makes a call at each of `arrivals`, counted from `start`, and gives it up `patience` after it began.
///
/// # Errors
/// If a call panicked.
pub async fn run(client: impl Call, arrivals: &[Duration], start: Instant, patience: Duration) -> Result<Vec<Sample>> {
    let mut calls = JoinSet::new();
    for due in arrivals.iter().copied() {
        tokio::time::sleep_until(start + due).await;
        let client = client.clone();
        calls.spawn(async move {
            let ok = matches!(tokio::time::timeout(patience, client.call()).await, Ok(Ok(())));
            Sample { due, latency: (start + due).elapsed(), ok }
        });
    }
    let mut samples = Vec::with_capacity(arrivals.len());
    while let Some(sample) = calls.join_next().await {
        samples.push(sample?);
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;

    #[test]
    fn arrivals_are_as_many_as_the_rate_says() {
        let arrivals = arrivals(1_000.0, Duration::from_secs(10), 1);
        // Poisson: five sigma of 10,000 are 500.
        assert!(arrivals.len().abs_diff(10_000) < 500, "{}", arrivals.len());
        assert!(arrivals.is_sorted());
        assert!(arrivals.iter().all(|at| *at < Duration::from_secs(10)));
    }

    /// Answers as soon as it is let.
    #[derive(Clone)]
    struct Gate(Arc<Semaphore>);

    impl Call for Gate {
        async fn call(&self) -> Result<()> {
            self.0.acquire().await?.forget();
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_does_not_wait_for_the_one_before() {
        let gate = Arc::new(Semaphore::new(0));
        let [early, late, patience] = [1, 3, 4].map(Duration::from_secs);
        let calls = tokio::spawn({
            let gate = Gate(Arc::clone(&gate));
            async move { run(gate, &[early, late], Instant::now(), patience).await }
        });
        tokio::time::sleep(late + Duration::from_millis(500)).await;
        gate.add_permits(1);
        let mut samples = calls.await.unwrap().unwrap();
        samples.sort_by_key(|sample| sample.due);
        assert!(samples[0].ok && !samples[1].ok);
        assert_eq!(samples[0].latency, Duration::from_millis(2_500));
        assert_eq!(samples[1].latency, patience);
    }
}

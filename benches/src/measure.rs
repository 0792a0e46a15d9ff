//! Runs: a number of calls by a number of callers, what they cost the process, and how long they took.

use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde::Serialize;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::Result;
use crate::client::Call;

/// How many calls a run that only prepares has.
const WARM_UP: u64 = 20_000;

/// A multi-thread runtime with two workers, as the benchmarks of CPU and latency use.
///
/// # Errors
/// If threads cannot be started.
pub fn two_workers() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

/// A runtime that runs everything, connections too, on the thread that blocks on it: what that thread allocates is
/// what the client allocates.
///
/// # Errors
/// If the runtime cannot have its timer and its poll.
pub fn one_thread() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// A client under test with its name, without its type.
pub trait Candidate {
    /// What it is called in reports.
    fn name(&self) -> &str;

    /// Makes `rpcs` calls by `callers` callers at once.
    ///
    /// # Errors
    /// If a call failed.
    fn run(&self, runtime: &Runtime, callers: u64, rpcs: u64) -> Result<Run>;

    /// Makes `rpcs` calls, one after the other, on the thread that calls this.
    ///
    /// # Errors
    /// If a call failed.
    fn calls(&self, runtime: &Runtime, rpcs: u64) -> Result<()>;

    /// Makes `rpcs` calls, one after the other, and says how long each took.
    ///
    /// # Errors
    /// If a call failed.
    fn latencies(&self, runtime: &Runtime, rpcs: u64) -> Result<Vec<Duration>>;
}

/// `client` under `name`; a run costs what this process spends.
pub fn candidate(name: &'static str, client: impl Call) -> Box<dyn Candidate> {
    metered(name, client, process_cpu)
}

/// `client` under `name`; a run costs what `meter` has more behind it than before.
pub fn metered(
    name: &'static str,
    client: impl Call,
    meter: impl Fn() -> Result<Duration> + 'static,
) -> Box<dyn Candidate> {
    Box::new(Named { name, client, meter })
}

struct Named<C, M> {
    name: &'static str,
    client: C,
    meter: M,
}

impl<C: Call, M: Fn() -> Result<Duration>> Candidate for Named<C, M> {
    fn name(&self) -> &str {
        self.name
    }

    fn run(&self, runtime: &Runtime, callers: u64, rpcs: u64) -> Result<Run> {
        let each = rpcs.div_ceil(callers);
        let (cpu, started) = ((self.meter)()?, Instant::now());
        runtime.block_on(concurrent_calls(&self.client, callers, each))?;
        let wall = started.elapsed();
        Ok(Run { rpcs: each * callers, wall, cpu: (self.meter)()?.saturating_sub(cpu) })
    }

    fn calls(&self, runtime: &Runtime, rpcs: u64) -> Result<()> {
        runtime.block_on(calls(&self.client, rpcs))
    }

    fn latencies(&self, runtime: &Runtime, rpcs: u64) -> Result<Vec<Duration>> {
        let client = self.client.clone();
        // On a worker, as a caller in a server would be.
        let calls = runtime.spawn(async move {
            let mut latencies = Vec::with_capacity(usize::try_from(rpcs)?);
            for _ in 0..rpcs {
                let started = Instant::now();
                client.call().await?;
                latencies.push(started.elapsed());
            }
            Ok(latencies)
        });
        runtime.block_on(calls)?
    }
}

async fn concurrent_calls(client: &impl Call, callers: u64, each: u64) -> Result<()> {
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        let client = client.clone();
        tasks.spawn(async move { calls(&client, each).await });
    }
    while let Some(result) = tasks.join_next().await {
        result??;
    }
    Ok(())
}

async fn calls(client: &impl Call, count: u64) -> Result<()> {
    for _ in 0..count {
        client.call().await?;
    }
    Ok(())
}

/// What a run cost.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// How many calls were made.
    pub rpcs: u64,
    /// CPU time of the processes that are measured, user and system, all threads: of this one, if nothing else is said.
    pub cpu: Duration,
    /// Time that passed.
    pub wall: Duration,
}

impl Run {
    /// CPU time per call, in microseconds.
    pub fn cpu_us(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.rpcs as f64
    }

    /// Calls per second of time that passed.
    pub fn rate(&self) -> f64 {
        self.rpcs as f64 / self.wall.as_secs_f64()
    }
}

/// One run of the baseline and, right behind it, one of the candidate.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Pair {
    /// CPU per call of the baseline, in microseconds.
    pub baseline_cpu_us: f64,
    /// CPU per call of the candidate, in microseconds.
    pub candidate_cpu_us: f64,
    /// Calls per second of the baseline.
    pub baseline_rate: f64,
    /// Calls per second of the candidate.
    pub candidate_rate: f64,
    /// CPU per call, candidate by baseline.
    pub ratio: f64,
}

/// Runs baseline and candidate by turns: one pair that does not count, then `pairs`.
///
/// # Errors
/// If a call failed.
pub fn interleave(
    runtime: &Runtime,
    baseline: &dyn Candidate,
    candidate: &dyn Candidate,
    callers: u64,
    rpcs: u64,
    pairs: usize,
) -> Result<Vec<Pair>> {
    let mut counted = Vec::with_capacity(pairs);
    for round in 0..=pairs {
        let (a, b) = (baseline.run(runtime, callers, rpcs)?, candidate.run(runtime, callers, rpcs)?);
        if round > 0 {
            counted.push(Pair {
                baseline_cpu_us: a.cpu_us(),
                candidate_cpu_us: b.cpu_us(),
                baseline_rate: a.rate(),
                candidate_rate: b.rate(),
                ratio: b.cpu_us() / a.cpu_us(),
            });
        }
    }
    Ok(counted)
}

/// Opens the candidate's connections.
///
/// # Errors
/// If a call failed.
pub fn warm_up(runtime: &Runtime, candidate: &dyn Candidate, callers: u64) -> Result<Run> {
    candidate.run(runtime, callers, WARM_UP)
}

/// The number of calls that `candidate`, already warm, makes in about 1.5 s.
///
/// # Errors
/// If a call failed.
pub fn calls_per_run(runtime: &Runtime, candidate: &dyn Candidate, callers: u64) -> Result<u64> {
    let rate = warm_up(runtime, candidate, callers)?.rate();
    Ok(((rate * 1.5) as u64).max(callers))
}

/// CPU time that this process has spent, user and system, all threads.
///
/// # Errors
/// If the operating system does not tell.
pub fn process_cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    Ok(duration(usage.user_time())? + duration(usage.system_time())?)
}

fn duration(time: TimeVal) -> Result<Duration> {
    Ok(Duration::from_secs(time.tv_sec().try_into()?) + Duration::from_micros(time.tv_usec().try_into()?))
}

/// The median; the mean of the middle two of an even number; NaN of nothing.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// The value that the share `q` (0..=1) of `sorted` does not exceed; zero of nothing.
pub fn quantile(sorted: &[Duration], q: f64) -> Duration {
    let rank = (sorted.len() as f64 * q).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle() {
        for (values, expected) in [(&[3.0, 1.0, 2.0][..], 2.0), (&[4.0, 1.0, 2.0, 3.0], 2.5), (&[7.0], 7.0)] {
            assert_eq!(median(values.iter().copied()), expected);
        }
        assert!(median([]).is_nan());
    }

    #[test]
    fn quantiles_are_values_that_occurred() {
        let sorted: Vec<Duration> = (1..=100).map(Duration::from_micros).collect();
        for (q, expected) in [(0.0, 1), (0.5, 50), (0.99, 99), (1.0, 100)] {
            assert_eq!(quantile(&sorted, q), Duration::from_micros(expected), "{q}");
        }
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }

    #[test]
    fn work_costs_cpu() {
        let before = process_cpu().unwrap();
        // At least some 10 ms; the kernel's resolution is a few.
        let sum = (0..20_000_000_u64).fold(0, |sum, n| std::hint::black_box(n ^ sum));
        assert!(process_cpu().unwrap() > before, "{sum}");
    }
}

//! What a client adds to the latency of a call: one caller, by turns with the bare channel.

use std::io::Write;
use std::time::Duration;

use benches::Result;
use benches::args::Args;
use benches::contender::Contender;
use benches::measure::{Candidate, median, quantile, two_workers};
use benches::report;
use benches::server::Server;
use serde::Serialize;
use tokio::runtime::Runtime;

const WARM_UP: u64 = 1_000;
const RPCS: u64 = 10_000;
const ROUNDS: usize = 7;

/// All against [`Contender::Channel`]; to one endpoint, as that one.
const CANDIDATES: &[Contender] = &[
    Contender::Channel,
    Contender::Mesh,
    Contender::BalanceList,
    Contender::Hyper,
    Contender::HyperRaw,
    #[cfg(feature = "peers")]
    Contender::TonicXds,
];

/// A candidate against the bare channel, in microseconds; each value is the median of the rounds'.
#[derive(Serialize)]
struct Row {
    client: &'static str,
    rounds: usize,
    rpcs: u64,
    baseline_p50_us: f64,
    baseline_p99_us: f64,
    p50_us: f64,
    p99_us: f64,
    added_p50_us: f64,
    added_p99_us: f64,
}

fn main() -> Result<()> {
    let args = Args::from_env()?;
    let rounds = args.pairs_or(ROUNDS);
    let rpcs = args.rpcs.unwrap_or(RPCS);
    let runtime = two_workers()?;
    let server = Server::spawn(env!("CARGO_BIN_EXE_greeter-server"), 1)?;
    let title = format!("latency at one caller, in us: {rounds} rounds of {rpcs} RPCs by turns with a tonic Channel");
    let mut out = report::table(&args, &title)?;
    writeln!(
        out,
        "{:>32} {:>8} {:>8} {:>10} {:>10} {:>10} {:>10}",
        "client", "p50", "p99", "Channel p50", "p99", "added p50", "p99"
    )?;
    let mut rows = Vec::new();
    for candidate in CANDIDATES.iter().filter(|candidate| args.wants(candidate.name())) {
        let row = compare(*candidate, &runtime, &server, rounds, rpcs)?;
        writeln!(
            out,
            "{:>32} {:>8.1} {:>8.1} {:>11.1} {:>10.1} {:>+10.1} {:>+10.1}",
            row.client,
            row.p50_us,
            row.p99_us,
            row.baseline_p50_us,
            row.baseline_p99_us,
            row.added_p50_us,
            row.added_p99_us
        )?;
        rows.push(row);
    }
    report::json(&args, &title, &rows)
}

fn compare(contender: Contender, runtime: &Runtime, server: &Server, rounds: usize, rpcs: u64) -> Result<Row> {
    let baseline = Contender::Channel.build(runtime, server)?;
    let candidate = contender.build(runtime, server)?;
    baseline.latencies(runtime, WARM_UP)?;
    candidate.latencies(runtime, WARM_UP)?;
    let mut quantiles = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        quantiles.push((p50_p99(&*baseline, runtime, rpcs)?, p50_p99(&*candidate, runtime, rpcs)?));
    }
    let us = |value: fn(&(Quantiles, Quantiles)) -> f64| median(quantiles.iter().map(value));
    Ok(Row {
        client: contender.name(),
        rounds,
        rpcs,
        baseline_p50_us: us(|(baseline, _)| baseline.p50),
        baseline_p99_us: us(|(baseline, _)| baseline.p99),
        p50_us: us(|(_, candidate)| candidate.p50),
        p99_us: us(|(_, candidate)| candidate.p99),
        added_p50_us: us(|(baseline, candidate)| candidate.p50 - baseline.p50),
        added_p99_us: us(|(baseline, candidate)| candidate.p99 - baseline.p99),
    })
}

/// Of one round, in microseconds.
struct Quantiles {
    p50: f64,
    p99: f64,
}

fn p50_p99(candidate: &dyn Candidate, runtime: &Runtime, rpcs: u64) -> Result<Quantiles> {
    let mut latencies = candidate.latencies(runtime, rpcs)?;
    latencies.sort_unstable();
    let us = |duration: Duration| duration.as_secs_f64() * 1e6;
    Ok(Quantiles { p50: us(quantile(&latencies, 0.5)), p99: us(quantile(&latencies, 0.99)) })
}

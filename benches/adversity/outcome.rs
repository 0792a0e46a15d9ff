//! What a scenario came to: rows of a table, and lines of a plot.

use std::io::Write;
use std::time::Duration;

use benches::Result;
use benches::measure::{median, quantile};
use benches::open_loop::Sample;
use benches::plot::{Chart, Line};
use serde::Serialize;

use crate::clients::Client;
use crate::scenario::{Scenario, View};

/// From then on what is to be learnt of the bad endpoint should be learnt.
const LEARNT: Duration = Duration::from_millis(500);
/// How long a point of a plot lasts.
const POINT: Duration = Duration::from_millis(100);

/// A client while the endpoint was bad; medians of the rounds.
#[derive(Serialize)]
pub(crate) struct Row {
    client: String,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    /// The p99 by that of `balance_list` in the same round.
    by_balance_list: Option<f64>,
    /// And by that of tonic-xds.
    by_xds: Option<f64>,
    calls: f64,
    failed: f64,
    /// The share of the calls that were answered, in percent.
    success: f64,
    /// The share from [`LEARNT`] on.
    success_then: f64,
}

/// The samples of all rounds: of each round those of each client.
pub(crate) type Rounds = Vec<Vec<Vec<Sample>>>;

pub(crate) fn rows(scenario: &Scenario, rounds: &Rounds) -> Vec<Row> {
    let position = |is: fn(&Client) -> bool| scenario.clients.iter().position(is);
    let balance_list = position(|client| client.is_balance_list());
    let xds = position(|client| client.is_xds());
    let bad = |samples: &[Sample], from: Duration| -> Vec<Sample> {
        let range = scenario.before + from..scenario.before + scenario.length;
        samples.iter().filter(|sample| range.contains(&sample.due)).copied().collect()
    };
    let row = |(at, client): (usize, &Client)| {
        let median = |value: &dyn Fn(&[Vec<Sample>]) -> f64| median(rounds.iter().map(|round| value(round)));
        let latency = |q| median(&|round| percentile(&bad(&round[at], Duration::ZERO), q));
        let by = |peer: usize| {
            let p99 = |round: &[Vec<Sample>], at: usize| percentile(&bad(&round[at], Duration::ZERO), 0.99);
            median(&|round| p99(round, at) / p99(round, peer))
        };
        Row {
            client: client.name(),
            p50_ms: latency(0.5),
            p90_ms: latency(0.9),
            p99_ms: latency(0.99),
            p999_ms: latency(0.999),
            by_balance_list: balance_list.map(by),
            by_xds: xds.map(by),
            calls: median(&|round| bad(&round[at], Duration::ZERO).len() as f64),
            failed: median(&|round| bad(&round[at], Duration::ZERO).iter().filter(|call| !call.ok).count() as f64),
            success: median(&|round| success(&bad(&round[at], Duration::ZERO))),
            success_then: median(&|round| success(&bad(&round[at], LEARNT))),
        }
    };
    scenario.clients.iter().enumerate().map(row).collect()
}

fn percentile(samples: &[Sample], q: f64) -> f64 {
    let mut latencies: Vec<Duration> = samples.iter().map(|sample| sample.latency).collect();
    latencies.sort_unstable();
    quantile(&latencies, q).as_secs_f64() * 1e3
}

fn success(samples: &[Sample]) -> f64 {
    100.0 * samples.iter().filter(|sample| sample.ok).count() as f64 / samples.len() as f64
}

/// Writes the table as Markdown.
pub(crate) fn write(out: &mut dyn Write, scenario: &Scenario, rows: &[Row]) -> Result<()> {
    writeln!(out, "\n{}; medians of {} rounds\n", scenario.title, scenario.rounds)?;
    let ratio = |ratio: Option<f64>| ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}"));
    match scenario.view {
        View::P99 => {
            writeln!(out, "| client | p50 | p90 | p99 | p99.9 | p99 by `balance_list` | p99 by tonic-xds |")?;
            writeln!(out, "| --- | --- | --- | --- | --- | --- | --- |")?;
            for row in rows {
                let Row { client, p50_ms, p90_ms, p99_ms, p999_ms, .. } = row;
                let (list, xds) = (ratio(row.by_balance_list), ratio(row.by_xds));
                writeln!(
                    out,
                    "| {client} | {p50_ms:.1} ms | {p90_ms:.1} ms | {p99_ms:.1} ms | {p999_ms:.1} ms | {list} | {xds} |"
                )?;
            }
        }
        View::Success => {
            writeln!(out, "| client | success | after the first 0.5 s | failed, of calls | p50 | p99 |")?;
            writeln!(out, "| --- | --- | --- | --- | --- | --- |")?;
            for row in rows {
                let Row { client, p50_ms, p99_ms, success, success_then, failed, calls, .. } = row;
                writeln!(
                    out,
                    "| {client} | {success:.2} % | {success_then:.2} % | {failed:.0} of {calls:.0} | {p50_ms:.1} ms | \
                     {p99_ms:.1} ms |"
                )?;
            }
        }
    }
    Ok(())
}

/// Percentile or success of the calls that were due within each [`POINT`], of all rounds together.
pub(crate) fn chart<'a>(scenario: &'a Scenario, rounds: &Rounds) -> Chart<'a> {
    let points = (scenario.whole().as_millis() / POINT.as_millis()) as u32;
    let line = |(at, client): (usize, &Client)| {
        let samples: Vec<Sample> = rounds.iter().flat_map(|round| &round[at]).copied().collect();
        let point = |nth: u32| {
            let range = POINT * nth..POINT * (nth + 1);
            let within: Vec<Sample> = samples.iter().filter(|sample| range.contains(&sample.due)).copied().collect();
            let value = match scenario.view {
                View::P99 => percentile(&within, 0.99),
                View::Success => success(&within),
            };
            ((range.start + POINT / 2).as_secs_f64(), value)
        };
        Line {
            name: client.name().replace('`', ""),
            colour: client.colour(),
            dashed: !client.is_mesh(),
            points: (0..points).map(point).collect(),
        }
    };
    let lines = scenario.clients.iter().enumerate().filter(|(_, client)| !client.retries_failures()).map(line);
    let (unit, ticks, log): (_, &[f64], _) = match scenario.view {
        View::P99 => ("p99, ms", &[1.0, 10.0, 100.0, 1_000.0, 10_000.0], true),
        View::Success => ("success, %", &[0.0, 20.0, 40.0, 60.0, 80.0, 100.0], false),
    };
    let bad = (scenario.before, scenario.before + scenario.length);
    Chart {
        title: scenario.title,
        seconds: scenario.whole().as_secs_f64(),
        band: (bad.0.as_secs_f64(), bad.1.as_secs_f64(), "one endpoint is bad"),
        unit,
        ticks,
        log,
        lines: lines.collect(),
    }
}

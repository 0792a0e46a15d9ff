//! What the benchmarks print: tables for people, or one JSON object.

use std::io::Write;

use serde::Serialize;

use crate::Result;
use crate::args::Args;
use crate::measure::{Pair, median};

/// The connections of a comparison.
#[derive(Debug, Clone, Serialize)]
pub struct Connections {
    /// How many the candidate opened.
    pub candidate_connections: u64,
    /// How many the baseline opened.
    pub baseline_connections: u64,
    /// How many of both were opened only while the runs went on.
    pub late_connections: u64,
}

/// A candidate against its baseline.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// What the ratio is taken of.
    pub candidate: String,
    /// What the ratio is taken by.
    pub baseline: String,
    /// Where the server counts them.
    #[serde(flatten)]
    pub connections: Option<Connections>,
    /// Calls of a run.
    pub rpcs: u64,
    /// Every pair that counted, in the order of the runs.
    pub pairs: Vec<Pair>,
    /// The median of the pairs' ratios.
    pub median_ratio: f64,
}

impl Comparison {
    /// Writes every pair and the medians.
    ///
    /// # Errors
    /// If `out` does.
    pub fn write(&self, out: &mut dyn Write) -> Result<()> {
        writeln!(out, "\n{} (B) against {} (A), {} RPCs a run", self.candidate, self.baseline, self.rpcs)?;
        if let Some(Connections { candidate_connections, baseline_connections, late_connections }) = &self.connections {
            writeln!(
                out,
                "connections: A {baseline_connections}, B {candidate_connections}, opened during the runs \
                 {late_connections}"
            )?;
        }
        writeln!(out, "   pair   A us/RPC   B us/RPC      B/A    A RPC/s    B RPC/s")?;
        for (index, pair) in self.pairs.iter().enumerate() {
            write_pair(out, &(index + 1).to_string(), pair)?;
        }
        let medians = |value: fn(&Pair) -> f64| median(self.pairs.iter().map(value));
        let medians = Pair {
            baseline_cpu_us: medians(|pair| pair.baseline_cpu_us),
            candidate_cpu_us: medians(|pair| pair.candidate_cpu_us),
            baseline_rate: medians(|pair| pair.baseline_rate),
            candidate_rate: medians(|pair| pair.candidate_rate),
            ratio: self.median_ratio,
        };
        write_pair(out, "median", &medians)
    }
}

fn write_pair(out: &mut dyn Write, name: &str, pair: &Pair) -> Result<()> {
    writeln!(
        out,
        " {name:>6} {:>10.2} {:>10.2} {:>8.3} {:>10.0} {:>10.0}",
        pair.baseline_cpu_us, pair.candidate_cpu_us, pair.ratio, pair.baseline_rate, pair.candidate_rate
    )?;
    Ok(())
}

/// Where tables go: standard output, or nowhere if JSON was asked for. Its first lines say what was measured and where.
///
/// # Errors
/// If standard output is closed.
pub fn table(args: &Args, title: &str) -> Result<Box<dyn Write>> {
    let mut out: Box<dyn Write> = if args.json { Box::new(std::io::sink()) } else { Box::new(std::io::stdout()) };
    writeln!(out, "{title}\nmachine: {}", machine())?;
    Ok(out)
}

/// Prints one JSON object, if that was asked for: `title`, `machine` and `results`.
///
/// # Errors
/// If standard output is closed.
pub fn json(args: &Args, title: &str, results: &impl Serialize) -> Result<()> {
    if args.json {
        let report = serde_json::json!({ "title": title, "machine": machine(), "results": results });
        writeln!(std::io::stdout(), "{report}")?;
    }
    Ok(())
}

/// The processor, how many of its threads this process may use, and the operating system.
fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let processor = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned());
    let threads = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{processor}, {threads} threads, {} {}", std::env::consts::OS, kernel.trim())
}

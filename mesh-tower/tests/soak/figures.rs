//! What is measured, and what of it is asserted.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mesh_tower::ErrorKind;
use tokio::time::Instant;

use crate::Told;

/// Times by size, in steps of 1/16 of a doubling: what is measured must not grow with the measurement.
struct Times {
    counts: [u64; 512],
    max: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self { counts: [0; 512], max: Duration::ZERO }
    }
}

impl Times {
    fn add(&mut self, time: Duration) {
        let step = (time.as_secs_f64() * 1e6).max(1.0).log2() * 16.0;
        self.counts[(step as usize).min(511)] += 1;
        self.max = self.max.max(time);
    }

    fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// In milliseconds; the upper end of its step.
    fn quantile(&self, share: f64) -> f64 {
        let mut left = (self.count() as f64 * share) as u64;
        let step = self.counts.iter().position(|count| {
            let here = *count > left;
            left = left.saturating_sub(*count);
            here
        });
        ((step.unwrap_or(0) + 1) as f64 / 16.0).exp2() / 1e3
    }
}

/// How one kind of request went.
#[derive(Default)]
struct Row {
    times: Times,
    cancelled: u64,
    refused: u64,
    failed: u64,
}

#[derive(Default)]
pub(crate) struct Figures {
    rows: BTreeMap<&'static str, Row>,
    /// What must not happen, the first of it with the time.
    unexpected: Vec<String>,
}

impl Figures {
    /// `ended`: `None` if its caller gave up. `low_until`: until when the limit that is configured may refuse.
    pub(crate) fn ended(
        &mut self,
        what: &'static str,
        sent: Instant,
        ended: Option<Result<(), (Option<ErrorKind>, String)>>,
        low_until: Option<Instant>,
    ) {
        let row = self.rows.entry(what).or_default();
        match ended {
            None => row.cancelled += 1,
            Some(Ok(())) => row.times.add(sent.elapsed()),
            // Of a hedged request the answer counts that it has, where the limit refuses it another attempt.
            Some(Err((Some(ErrorKind::Overflow) | None, _))) if low_until.is_some_and(|until| sent < until) => {
                row.refused += 1;
            }
            Some(Err((kind, text))) => {
                row.failed += 1;
                if self.unexpected.len() < 50 {
                    self.unexpected.push(format!("{what}, {:?} after it was sent: {kind:?}: {text}", sent.elapsed()));
                }
            }
        }
    }

    pub(crate) fn table(&self, told: &Told, samples: &Samples, sent: u64, served: u64) -> String {
        let mut text = String::new();
        let columns = ["succeeded", "p50 ms", "p99 ms", "max ms", "cancelled", "refused", "failed"];
        let _ = writeln!(text, "\n{:<16}{}", "", columns.map(|column| format!("{column:>11}")).concat());
        for (what, row) in &self.rows {
            let (p50, p99) = (row.times.quantile(0.5), row.times.quantile(0.99));
            let (max, succeeded) = (row.times.max.as_secs_f64() * 1e3, row.times.count());
            let Row { cancelled, refused, failed, .. } = row;
            let _ = writeln!(
                text,
                "{what:<16}{succeeded:>11}{p50:>11.1}{p99:>11.1}{max:>11.1}{cancelled:>11}{refused:>11}{failed:>11}"
            );
        }
        let load = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        let _ = writeln!(
            text,
            "\n{sent} requests, {served} arrived at peers; {} ejections, {} returns, {} overflows, {} configurations\n",
            load(&told.ejected),
            load(&told.returned),
            load(&told.overflows),
            load(&told.configs)
        );
        text + &samples.table()
    }

    pub(crate) fn assert_well(&self) {
        let failed: u64 = self.rows.values().map(|row| row.failed).sum();
        assert_eq!(failed, 0, "requests failed that had three healthy choices:\n{}", self.unexpected.join("\n"));
    }
}

/// What the process holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    tasks: usize,
    descriptors: usize,
    resident: usize,
}

impl Sample {
    pub(crate) fn of(tasks: usize) -> Self {
        Self { tasks, descriptors: descriptors(), resident: resident() }
    }
}

/// One a second.
#[derive(Default)]
pub(crate) struct Samples(Vec<(Duration, Sample)>);

/// What is sampled: its name, its unit, and how much more the last third may hold than the middle one: so much, and a
/// share of what is there.
type Kind = (&'static str, &'static str, fn(&Sample) -> f64, f64, f64);

const KINDS: [Kind; 3] = [
    ("memory", "MiB", |sample| sample.resident as f64 / f64::from(1 << 20), 4.0, 0.05),
    ("tasks", "", |sample| sample.tasks as f64, 20.0, 0.2),
    ("descriptors", "", |sample| sample.descriptors as f64, 40.0, 0.2),
];

impl Samples {
    pub(crate) fn take(&mut self, at: Duration, sample: Sample) {
        self.0.push((at, sample));
    }

    fn thirds(&self, of: fn(&Sample) -> f64) -> [f64; 3] {
        let third = (self.0.len() / 3).max(1);
        let mean =
            |part: &[(Duration, Sample)]| part.iter().map(|(_, s)| of(s)).sum::<f64>() / part.len().max(1) as f64;
        let mut thirds = self.0.chunks(third).map(mean);
        [(); 3].map(|()| thirds.next().unwrap_or_default())
    }

    /// By least squares, over the last two thirds, an hour.
    fn slope(&self, of: fn(&Sample) -> f64) -> f64 {
        let part = &self.0[self.0.len() / 3..];
        let n = part.len().max(1) as f64;
        let mean_at = part.iter().map(|(at, _)| at.as_secs_f64()).sum::<f64>() / n;
        let mean = part.iter().map(|(_, sample)| of(sample)).sum::<f64>() / n;
        let (mut above, mut below) = (0.0, 0.0);
        for (at, sample) in part {
            let off = at.as_secs_f64() - mean_at;
            above += off * (of(sample) - mean);
            below += off * off;
        }
        if below > 0.0 { above / below * 3600.0 } else { 0.0 }
    }

    fn table(&self) -> String {
        let columns = ["first third", "second", "last", "most", "slope an hour"];
        let mut text = format!("{:<16}{}\n", "", columns.map(|column| format!("{column:>15}")).concat());
        for (name, unit, of, ..) in KINDS {
            let [first, second, last] = self.thirds(of);
            let most = self.0.iter().map(|(_, sample)| of(sample)).fold(0.0, f64::max);
            let numbers = [first, second, last, most, self.slope(of)];
            let _ =
                writeln!(text, "{:<16}{}", format!("{name} {unit}"), numbers.map(|n| format!("{n:>15.1}")).concat());
        }
        text
    }

    /// The last third holds no more than the middle one.
    pub(crate) fn assert_flat(&self, length: Duration) {
        // The first minute fills pools and allocators.
        if length < Duration::from_secs(60) {
            return;
        }
        for (name, unit, of, more, share) in KINDS {
            let [_, second, last] = self.thirds(of);
            assert!(last <= second * (1.0 + share) + more, "{name}: {second:.1} {unit} became {last:.1}");
        }
    }
}

/// The descriptors that are open.
pub(crate) fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// The memory in use, in bytes.
pub(crate) fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    pages.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

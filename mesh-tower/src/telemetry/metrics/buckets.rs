//! Distributions.

use std::sync::atomic::{AtomicU64, Ordering};

use opentelemetry::KeyValue;
use opentelemetry::metrics::Histogram;

use super::metric::Bounds;

/// Where observations of one attribute set go: to OpenTelemetry, to buckets of our own, or to both.
#[derive(Debug)]
pub(crate) struct Recorder {
    /// Made once: nothing of it is built when something is recorded. In the order of the keys, which the SDK finds at
    /// the first look.
    attributes: Box<[KeyValue]>,
    histogram: Option<Histogram<f64>>,
    buckets: Option<Buckets>,
}

impl Recorder {
    pub(crate) fn new(mut attributes: Vec<KeyValue>, histogram: Option<Histogram<f64>>, own: Option<Bounds>) -> Self {
        attributes.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        Self { attributes: attributes.into(), histogram, buckets: own.map(Buckets::new) }
    }

    pub(crate) fn record(&self, value: f64) {
        if let Some(buckets) = &self.buckets {
            buckets.record(value);
        }
        if let Some(histogram) = &self.histogram {
            histogram.record(value, &self.attributes);
        }
    }

    #[cfg(feature = "prometheus")]
    pub(crate) fn attributes(&self) -> &[KeyValue] {
        &self.attributes
    }

    /// Whether nothing was recorded here.
    #[cfg(feature = "prometheus")]
    pub(super) fn is_empty(&self) -> bool {
        let counts = self.buckets.iter().flat_map(|buckets| &buckets.counts);
        counts.map(|count| count.load(Ordering::Relaxed)).all(|count| count == 0)
    }

    /// The distribution kept here, if it is.
    #[cfg(feature = "prometheus")]
    pub(crate) fn buckets(&self) -> Option<&Buckets> {
        self.buckets.as_ref()
    }
}

/// A histogram with fixed buckets, of atomics.
#[derive(Debug)]
pub(crate) struct Buckets {
    bounds: Bounds,
    /// One for each bound, and one for what is above them all.
    counts: Box<[AtomicU64]>,
    /// In units of a nanosecond where seconds are observed: sums of floating point numbers cannot be added at once.
    sum: AtomicU64,
}

impl Buckets {
    fn new(bounds: Bounds) -> Self {
        let counts = std::iter::repeat_with(AtomicU64::default).take(bounds.values().len() + 1).collect();
        Self { bounds, counts, sum: AtomicU64::new(0) }
    }

    fn record(&self, value: f64) {
        // A bound belongs to the bucket below it (`le`).
        let bucket = self.bounds.values().partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add((value * self.bounds.scale()) as u64, Ordering::Relaxed);
    }

    /// How many observations were at most each bound, and how many there were.
    #[cfg(feature = "prometheus")]
    pub(crate) fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = self.bounds.values().iter().copied().chain([f64::INFINITY]);
        bounds.zip(&self.counts).scan(0, |total, (bound, count)| {
            *total += count.load(Ordering::Relaxed);
            Some((bound, *total))
        })
    }

    #[cfg(feature = "prometheus")]
    pub(crate) fn sum(&self) -> f64 {
        self.sum.load(Ordering::Relaxed) as f64 / self.bounds.scale()
    }
}

#[cfg(all(test, feature = "prometheus"))]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_the_bucket_below_it() {
        let buckets = Buckets::new(Bounds::Retries);
        for value in [1.0, 1.0, 2.0, 5.0, 6.0, 100.0] {
            buckets.record(value);
        }
        let counts: Vec<_> = buckets.cumulative().collect();
        let expected = [(1.0, 2), (2.0, 3), (3.0, 3), (4.0, 3), (5.0, 4), (f64::INFINITY, 6)];
        assert_eq!(counts, expected);
        assert!((buckets.sum() - 115.0).abs() < 1e-9);
    }

    #[test]
    fn seconds_are_summed_in_nanoseconds() {
        let buckets = Buckets::new(Bounds::GrpcLatency);
        for value in [0.0, 1e-9, 0.000_01, 0.5, 1000.0] {
            buckets.record(value);
        }
        assert!((buckets.sum() - 1_000.500_010_001).abs() < 1e-9, "{}", buckets.sum());
        assert_eq!(buckets.cumulative().next(), Some((0.0, 1)));
        assert_eq!(buckets.cumulative().last(), Some((f64::INFINITY, 5)));
    }
}

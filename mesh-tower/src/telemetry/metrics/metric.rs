//! What a metric is: its name, its kind, and the bounds of a histogram.

use opentelemetry::KeyValue;

use super::Reading;
use super::instruments::Distribution;

/// A metric.
pub(crate) struct Metric {
    /// As OpenTelemetry calls it.
    pub(crate) name: &'static str,
    /// In UCUM; what stands in braces is a word for what is counted.
    pub(crate) unit: &'static str,
    pub(crate) help: &'static str,
    pub(crate) kind: Kind,
}

/// Where values go, each with its attributes.
pub(super) type Sink<'a, T> = &'a mut dyn FnMut(T, &[KeyValue]);

/// What kind of metric it is, and what reads it.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// Only ever grows.
    Counter(fn(&Reading<'_>, Sink<'_, u64>)),
    /// Can be added up, and goes up and down.
    UpDownCounter(fn(&Reading<'_>, Sink<'_, u64>)),
    /// Cannot be added up.
    Gauge(fn(&Reading<'_>, Sink<'_, f64>)),
    /// Is recorded as it happens.
    Histogram(Distribution, Bounds),
}

/// The bounds of a histogram's buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bounds {
    /// Seconds (gRFC A66).
    GrpcLatency,
    /// Seconds (OpenTelemetry semantic conventions, HTTP metrics).
    HttpLatency,
    /// gRFC A96.
    Retries,
    /// gRFC A96.
    TransparentRetries,
}

impl Bounds {
    pub(crate) fn values(self) -> &'static [f64] {
        match self {
            Self::GrpcLatency => &[
                0.0, 0.000_01, 0.000_05, 0.000_1, 0.000_3, 0.000_6, 0.000_8, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006,
                0.008, 0.01, 0.013, 0.016, 0.02, 0.025, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3,
                0.4, 0.5, 0.65, 0.8, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0,
            ],
            Self::HttpLatency => &[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0],
            Self::Retries => &[1.0, 2.0, 3.0, 4.0, 5.0],
            Self::TransparentRetries => &[1.0, 2.0, 3.0, 4.0, 5.0, 10.0],
        }
    }

    /// By what observations are multiplied to be summed as integers.
    pub(super) fn scale(self) -> f64 {
        match self {
            Self::GrpcLatency | Self::HttpLatency => 1e9,
            Self::Retries | Self::TransparentRetries => 1.0,
        }
    }
}

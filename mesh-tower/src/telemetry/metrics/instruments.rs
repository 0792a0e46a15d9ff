//! The registry as OpenTelemetry's instruments.
//!
//! Counters and gauges are observable: their callbacks read the registry when a reader collects, and the path of a
//! request does not know of them. OpenTelemetry has no way to unregister a callback: each holds its mesh by a weak
//! reference and observes nothing once that is gone. Distributions are recorded as they happen, with attributes that
//! were made beforehand.

use std::sync::{Arc, Weak};
use std::time::Instant;

use opentelemetry::metrics::{Histogram, Meter, MeterProvider};
use opentelemetry::{KeyValue, global};

use super::buckets::Recorder;
use super::catalog::CATALOG;
use super::metric::{Bounds, Kind, Sink};
use super::{Metrics, Reading};
use crate::telemetry::spans::scope;

/// The meter of a mesh from `provider`.
pub(crate) fn meter(provider: &impl MeterProvider) -> Meter {
    provider.meter_with_scope(scope())
}

/// The meter of the global provider, if one is installed.
pub(crate) fn global_meter() -> Option<Meter> {
    let provider = global::meter_provider();
    // The API does not say whether the provider is the one that does nothing. That one has no state at all; one that
    // collects has.
    (size_of_val(&*provider) > 0).then(|| provider.meter_with_scope(scope()))
}

/// A distribution, by what is observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Distribution {
    GrpcAttempt,
    GrpcCall,
    GrpcRetries,
    GrpcTransparentRetries,
    GrpcHedges,
    GrpcRetryDelay,
    HttpAttempt,
    HttpRequest,
    HttpServer,
    GrpcServer,
    Handshake,
}

/// Where distributions are recorded.
#[derive(Debug)]
pub(super) struct Histograms {
    instruments: Vec<(Distribution, Bounds, Option<Histogram<f64>>)>,
    /// Whether they are also kept here.
    pages: bool,
}

impl Histograms {
    pub(super) fn new(meter: Option<&Meter>, pages: bool) -> Self {
        let instruments = CATALOG.iter().filter_map(|metric| {
            let Kind::Histogram(distribution, bounds) = metric.kind else { return None };
            let histogram = meter.map(|meter| {
                meter
                    .f64_histogram(metric.name)
                    .with_unit(metric.unit)
                    .with_description(metric.help)
                    .with_boundaries(bounds.values().to_vec())
                    .build()
            });
            Some((distribution, bounds, histogram))
        });
        Self { instruments: instruments.collect(), pages }
    }

    #[cfg(feature = "prometheus")]
    pub(super) fn keeps_pages(&self) -> bool {
        self.pages
    }

    /// Where observations of `distribution` with these attributes go.
    pub(super) fn recorder(&self, distribution: Distribution, attributes: Vec<KeyValue>) -> Box<Recorder> {
        let found = self.instruments.iter().find(|(other, ..)| *other == distribution);
        let (histogram, bounds) =
            found.map_or((None, None), |(_, bounds, histogram)| (histogram.clone(), Some(*bounds)));
        Box::new(Recorder::new(attributes, histogram, bounds.filter(|_| self.pages)))
    }
}

/// Reads a metric, as long as its mesh is there.
fn collect<T>(metrics: &Weak<Metrics>, read: fn(&Reading<'_>, Sink<'_, T>), sink: Sink<'_, T>) {
    if let Some(metrics) = metrics.upgrade() {
        read(&metrics.read(Instant::now()), sink);
    }
}

/// Registers everything that is read when somebody collects.
pub(super) fn observe(meter: &Meter, metrics: &Arc<Metrics>) {
    for metric in CATALOG {
        let weak = Arc::downgrade(metrics);
        match metric.kind {
            Kind::Counter(read) => {
                meter
                    .u64_observable_counter(metric.name)
                    .with_unit(metric.unit)
                    .with_description(metric.help)
                    .with_callback(move |observer| {
                        collect(&weak, read, &mut |value, attributes| observer.observe(value, attributes));
                    })
                    .build();
            }
            Kind::UpDownCounter(read) => {
                meter
                    .i64_observable_up_down_counter(metric.name)
                    .with_unit(metric.unit)
                    .with_description(metric.help)
                    .with_callback(move |observer| {
                        let signed = |value| i64::try_from(value).unwrap_or(i64::MAX);
                        collect(&weak, read, &mut |value, attributes| observer.observe(signed(value), attributes));
                    })
                    .build();
            }
            Kind::Gauge(read) => {
                meter
                    .f64_observable_gauge(metric.name)
                    .with_unit(metric.unit)
                    .with_description(metric.help)
                    .with_callback(move |observer| {
                        collect(&weak, read, &mut |value, attributes| observer.observe(value, attributes));
                    })
                    .build();
            }
            Kind::Histogram(..) => {}
        }
    }
}

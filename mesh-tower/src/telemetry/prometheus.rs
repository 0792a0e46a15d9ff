//! Metrics in Prometheus' text format, and in that of OpenMetrics.
//!
//! ```
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use mesh_tower::Mesh;
//!
//! let mesh = Mesh::builder().env().prometheus().build().await?;
//! // In the handler of `/metrics`, whatever server that is in:
//! # let request = http::Request::new(());
//! let accept = request.headers().get("accept").and_then(|value| value.to_str().ok());
//! let (content_type, page) = mesh.metrics_page(accept);
//! let response = http::Response::builder().header("content-type", content_type).body(page)?;
//! # Ok(())
//! # }
//! ```
//!
//! Names are those of the [table](super), as Prometheus writes them: `.` becomes `_`, a unit of seconds is a suffix, and
//! so is `_total` of a counter. `grpc.client.call.duration` is `grpc_client_call_duration_seconds` there.

mod accept;

use std::fmt::{Display, Write};
use std::time::Instant;

use opentelemetry::KeyValue;

use super::metrics::{CATALOG, Kind, Metric, Metrics, Recorder};

/// The content type of [`Mesh::prometheus_text`](crate::Mesh::prometheus_text).
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The content type of a page of OpenMetrics.
pub const OPENMETRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// In which format a page is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Prometheus' text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// What an `Accept` header asks for.
    pub(crate) fn wanted(accept: Option<&str>) -> Self {
        if accept.is_some_and(accept::prefers_openmetrics) { Self::OpenMetrics } else { Self::Text }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Text => CONTENT_TYPE,
            Self::OpenMetrics => OPENMETRICS_CONTENT_TYPE,
        }
    }

    /// A page without a metric.
    pub(crate) fn empty(self) -> &'static str {
        match self {
            Self::Text => "",
            Self::OpenMetrics => "# EOF\n",
        }
    }
}

/// The whole page.
pub(crate) fn page(metrics: &Metrics, format: Format) -> String {
    let reading = metrics.read(Instant::now());
    let mut page = String::new();
    for metric in CATALOG {
        let mut family = Family::new(metric, format, &mut page);
        match metric.kind {
            Kind::Counter(read) | Kind::UpDownCounter(read) => {
                read(&reading, &mut |value, labels| family.sample("", labels, None, value));
            }
            Kind::Gauge(read) => read(&reading, &mut |value, labels| family.sample("", labels, None, value)),
            Kind::Histogram(distribution, _) => {
                reading.distribution(distribution, &mut |recorder| family.histogram(recorder));
            }
        }
    }
    page.push_str(format.empty());
    page
}

/// The lines of one metric.
struct Family<'a> {
    /// With its unit.
    name: String,
    unit: &'static str,
    kind: &'static str,
    help: &'static str,
    format: Format,
    page: &'a mut String,
    /// Whether its head is written: it has one only if there is something below it.
    begun: bool,
}

impl<'a> Family<'a> {
    fn new(metric: &Metric, format: Format, page: &'a mut String) -> Self {
        let unit = if metric.unit == "s" { "seconds" } else { "" };
        let separator = if unit.is_empty() { "" } else { "_" };
        let kind = match metric.kind {
            Kind::Counter(_) => "counter",
            Kind::UpDownCounter(_) | Kind::Gauge(_) => "gauge",
            Kind::Histogram(..) => "histogram",
        };
        let name = format!("{}{separator}{unit}", metric.name.replace('.', "_"));
        Self { name, unit, kind, help: metric.help, format, page, begun: false }
    }

    /// What every sample of a counter has, and in the text format its head, too.
    fn total(&self) -> &'static str {
        if self.kind == "counter" { "_total" } else { "" }
    }

    fn begin(&mut self) {
        let Self { name, unit, kind, help, .. } = &*self;
        let head = match self.format {
            Format::Text => {
                let total = self.total();
                format!("# HELP {name}{total} {help}\n# TYPE {name}{total} {kind}\n")
            }
            Format::OpenMetrics if unit.is_empty() => format!("# TYPE {name} {kind}\n# HELP {name} {help}\n"),
            Format::OpenMetrics => format!("# TYPE {name} {kind}\n# UNIT {name} {unit}\n# HELP {name} {help}\n"),
        };
        self.page.push_str(&head);
        self.begun = true;
    }

    fn sample(&mut self, suffix: &str, labels: &[KeyValue], bound: Option<f64>, value: impl Display) {
        if !self.begun {
            self.begin();
        }
        let total = self.total();
        self.page.push_str(&self.name);
        self.page.push_str(total);
        self.page.push_str(suffix);
        let mut separator = '{';
        for label in labels {
            self.page.push(separator);
            self.page.extend(label.key.as_str().chars().map(|one| if one == '.' { '_' } else { one }));
            self.page.push_str("=\"");
            escape(&label.value.as_str(), self.page);
            self.page.push('"');
            separator = ',';
        }
        // Writing to a text cannot fail.
        if let Some(bound) = bound {
            let _ = match self.format {
                _ if bound.is_infinite() => write!(self.page, "{separator}le=\"+Inf\""),
                // A number with a fraction, whatever it is (OpenMetrics, canonical numbers).
                Format::OpenMetrics if bound.fract() == 0.0 => write!(self.page, "{separator}le=\"{bound}.0\""),
                _ => write!(self.page, "{separator}le=\"{bound}\""),
            };
            separator = ',';
        }
        if separator == ',' {
            self.page.push('}');
        }
        let _ = writeln!(self.page, " {value}");
    }

    fn histogram(&mut self, recorder: &Recorder) {
        let Some(buckets) = recorder.buckets() else { return };
        let mut count = 0;
        for (bound, below) in buckets.cumulative() {
            count = below;
            self.sample("_bucket", recorder.attributes(), Some(bound), below);
        }
        self.sample("_sum", recorder.attributes(), None, buckets.sum());
        self.sample("_count", recorder.attributes(), None, count);
    }
}

/// A label's value as the formats want it.
fn escape(value: &str, page: &mut String) {
    for character in value.chars() {
        match character {
            '\\' => page.push_str("\\\\"),
            '"' => page.push_str("\\\""),
            '\n' => page.push_str("\\n"),
            other => page.push(other),
        }
    }
}

#[cfg(test)]
mod tests;

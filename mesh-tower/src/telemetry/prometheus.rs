//! Metrics in Prometheus' text format.
//!
//! ```
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use mesh_tower::Mesh;
//! use mesh_tower::telemetry::prometheus::CONTENT_TYPE;
//!
//! let mesh = Mesh::builder().env().prometheus().build().await?;
//! // In the handler of `/metrics`, whatever server that is in:
//! let page = http::Response::builder().header("content-type", CONTENT_TYPE).body(mesh.prometheus_text())?;
//! # Ok(())
//! # }
//! ```
//!
//! Names are those of the [table](super), as Prometheus writes them: `.` becomes `_`, a unit of seconds is a suffix, and
//! so is `_total` of a counter. `grpc.client.call.duration` is `grpc_client_call_duration_seconds` there.

use std::fmt::Write;
use std::time::Instant;

use opentelemetry::KeyValue;

use super::metrics::{CATALOG, Kind, Metrics, Recorder};

/// The content type of [`Mesh::prometheus_text`](crate::Mesh::prometheus_text).
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The whole page.
pub(crate) fn text(metrics: &Metrics) -> String {
    let reading = metrics.read(Instant::now());
    let mut page = String::new();
    for metric in CATALOG {
        let unit = if metric.unit == "s" { "_seconds" } else { "" };
        let suffix = if matches!(metric.kind, Kind::Counter(_)) { "_total" } else { "" };
        let mut family = Family {
            name: format!("{}{unit}{suffix}", metric.name.replace('.', "_")),
            kind: match metric.kind {
                Kind::Counter(_) => "counter",
                Kind::UpDownCounter(_) | Kind::Gauge(_) => "gauge",
                Kind::Histogram(..) => "histogram",
            },
            help: metric.help,
            page: &mut page,
            begun: false,
        };
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
    page
}

/// The lines of one metric.
struct Family<'a> {
    name: String,
    kind: &'static str,
    help: &'static str,
    page: &'a mut String,
    /// Whether its head is written: it has one only if there is something below it.
    begun: bool,
}

impl Family<'_> {
    fn sample(&mut self, suffix: &str, labels: &[KeyValue], bound: Option<f64>, value: impl std::fmt::Display) {
        let Self { name, kind, help, .. } = &*self;
        if !self.begun {
            self.page.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
            self.begun = true;
        }
        self.page.push_str(&self.name);
        self.page.push_str(suffix);
        let mut separator = '{';
        for label in labels {
            self.page.push(separator);
            self.page.push_str(&label.key.as_str().replace('.', "_"));
            self.page.push_str("=\"");
            escape(&label.value.as_str(), self.page);
            self.page.push('"');
            separator = ',';
        }
        if let Some(bound) = bound {
            let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".to_owned() };
            self.page.push(separator);
            self.page.push_str(&format!("le=\"{bound}\""));
            separator = ',';
        }
        if separator == ',' {
            self.page.push('}');
        }
        // Writing to a text cannot fail.
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

/// A label's value as the format wants it.
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

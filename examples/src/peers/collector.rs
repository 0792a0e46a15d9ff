//! The OpenTelemetry collector.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::otlp::{self, Metric, Span};
use super::{Process, program, until};

/// Port 0: the kernel chooses, and the collector tells. `basic` is a line on its output for each export that came.
const CONFIG: &str = "
receivers: { otlp: { protocols: { grpc: { endpoint: '127.0.0.1:0' }, http: { endpoint: '127.0.0.1:0' } } } }
exporters:
  file: { path: exports.jsonl, flush_interval: 20ms }
  debug: { verbosity: basic }
service:
  telemetry: { metrics: { level: none } }
  pipelines:
    traces: { receivers: [otlp], exporters: [file, debug] }
    metrics: { receivers: [otlp], exporters: [file, debug] }
";

/// An OpenTelemetry collector, the program that `MESH_PEER_OTELCOL` names. It takes OTLP on loopback ports of its own
/// and keeps what it took; it ends when dropped.
#[derive(Debug)]
pub struct Collector {
    // Before the directory that it writes into, so that it ends first.
    process: Process,
    directory: TempDir,
    grpc: SocketAddr,
    http: SocketAddr,
}

impl Collector {
    /// Starts one, and returns when it takes exports.
    ///
    /// # Panics
    /// If the variable is not set, or the program does not come up.
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        std::fs::write(directory.path().join("config.yaml"), CONFIG).expect("the directory can be written to");
        let mut command = Command::new(program("MESH_PEER_OTELCOL"));
        command.args(["--config", "config.yaml"]).current_dir(directory.path());
        let process = Process::start("otelcol", command);
        let grpc = process.said("where it takes gRPC", |line| endpoint(line, "Starting GRPC server")).await;
        let http = process.said("where it takes HTTP", |line| endpoint(line, "Starting HTTP server")).await;
        process.said("that it is ready", |line| line.contains("Everything is ready").then_some(())).await;
        Self { process, directory, grpc, http }
    }

    /// Where it takes OTLP over gRPC.
    pub fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    /// Where it takes OTLP over HTTP (`/v1/traces`, `/v1/metrics`), as protobuf and as JSON.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// The program itself.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Waits until `count` spans of `service` (the resource's `service.name`) have come; all that have come by then.
    ///
    /// # Panics
    /// If they have not come after a minute.
    pub async fn spans(&self, service: &str, count: usize) -> Vec<Span> {
        let what = format!("{count} spans of {service}");
        until(&what, async || {
            let mut spans: Vec<Span> = self.exports().iter().flat_map(otlp::spans).collect();
            let all = spans.len();
            spans.retain(|span| is_of(&span.resource, service));
            let names: Vec<_> = spans.iter().map(|span| &span.name).collect();
            let reason = format!("there are {names:?}, and {} of others", all - names.len());
            if names.len() >= count { Ok(spans) } else { Err(reason) }
        })
        .await
    }

    /// Waits until the metrics of `service` (the resource's `service.name`) are as `expected`; the metrics then, by
    /// name, each as it was exported last.
    ///
    /// # Panics
    /// If they are not after a minute.
    pub async fn metrics(
        &self,
        service: &str,
        expected: impl Fn(&BTreeMap<String, Metric>) -> bool,
    ) -> BTreeMap<String, Metric> {
        let what = format!("such metrics of {service}");
        until(&what, async || {
            let exported = self.exports().iter().flat_map(otlp::metrics).collect::<Vec<_>>();
            let of_service = exported.into_iter().filter(|metric| is_of(&metric.resource, service));
            let metrics = of_service.map(|metric| (metric.name.clone(), metric)).collect();
            if expected(&metrics) { Ok(metrics) } else { Err(format!("they are {metrics:#?}")) }
        })
        .await
    }

    /// What it took, in the order in which it did: each an OTLP request in JSON.
    ///
    /// # Panics
    /// If what it wrote cannot be read.
    pub fn exports(&self) -> Vec<Value> {
        let path: PathBuf = self.directory.path().join("exports.jsonl");
        let written = match std::fs::read_to_string(&path) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => panic!("{}: {error}", path.display()),
        };
        // What comes after the last line break is still being written.
        let (lines, _) = written.rsplit_once('\n').unwrap_or_default();
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in an export: {line}"));
        lines.lines().map(parse).collect()
    }
}

fn is_of(resource: &otlp::Attributes, service: &str) -> bool {
    resource.get("service.name").is_some_and(|name| name == service)
}

/// The address in a line of its log that says `message`: the last field of such a line is an object.
fn endpoint(line: &str, message: &str) -> Option<SocketAddr> {
    let fields = line.contains(message).then(|| line.rsplit('\t').next())??;
    let fields: Value = serde_json::from_str(fields).ok()?;
    fields["endpoint"].as_str()?.parse().ok()
}

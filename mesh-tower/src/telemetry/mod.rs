//! Traces and metrics of the client.
//!
//! The library sets nothing global. It tells the providers of [OpenTelemetry](crate::opentelemetry) that the builder is
//! given ([`tracer_provider`](crate::Builder::tracer_provider), [`meter_provider`](crate::Builder::meter_provider)), or
//! the global ones if they are installed when the mesh is built. What is not installed costs a branch.
//!
//! | feature | brings |
//! | --- | --- |
//! | `otlp` | `telemetry::otlp::Otlp`: providers that export to a collector, from the `OTEL_*` variables |
//! | `prometheus` | `Mesh::prometheus_text`: all metrics as a page |
//!
//! # Traces
//!
//! A span for each request and below it one for each attempt, named and described by gRPC's rules (gRFC A72) for gRPC
//! and by OpenTelemetry's conventions for HTTP. The sampler is asked before anything is written down: with the span's
//! kind and its parent, without attributes, and with a short name, which is `Sent` or `Attempt` for gRPC and the method
//! for HTTP. A sampler that goes by paths or attributes finds none.
//!
//! Trace context travels on as `settings.telemetry.propagators` says. Without a provider nothing is propagated: headers
//! that the caller set are left alone.
//!
//! # Metrics
//!
#![doc = include_str!("metrics.md")]
//!
//! `mesh.client.requests` and `mesh.client.attempts` are told apart by method and outcome: `rpc.method` and
//! `rpc.response.status_code` for gRPC, `http.request.method` and `http.response.status_code` for HTTP, and
//! `error.type` for what failed: the status, the word of an [`ErrorKind`](crate::ErrorKind), or `cancelled`.
//!
//! * **Service** (`mesh.service`, `grpc.target`, `server.address`) is the name of a virtual host, never what a caller
//!   wrote; it has no `server.port`. **Route** is the route's name, or `#` and its index; never a path.
//! * **A service that nobody configured** is told by its place: of one called by `http://catalog:8080`,
//!   `server.address` is `catalog`, `server.port` 8080 and `grpc.target` `dns:///catalog:8080`; of a socket it is the
//!   path, none, and `unix:/run/catalog.sock`. `mesh.service` is what tells it from others, `http://catalog:8080` or
//!   `unix:/run/catalog.sock`, where capital letters of a path are escaped (`%41`).
//! * **Method** of gRPC is that of generated code (`package.Service/Method`); any other path counts as `other` (gRFC
//!   A66). HTTP methods that nobody registered count as `_OTHER`, and status codes that nobody registered as the first
//!   of their class (RFC 9110 15).
//! * **At most 2,000 series** of service, route and method: what comes then counts as `other`, and a `WARN` event says so
//!   once. OpenTelemetry's SDK has a limit of its own, 2,000 attribute sets a metric.
//! * **What leaves the configuration** is shown until 10 minutes after it was last used. Histograms that an SDK keeps
//!   cumulatively are not: they last as long as its provider.
//! * The sizes of messages (`grpc.client.attempt.sent_total_compressed_message_size` of gRFC A66 and its counterpart) are
//!   not measured: they would have to be read out of the bodies of all calls.
//!
//! Counters and gauges are read when somebody collects. A request pays for a look at a table, some additions, and two
//! observations of its duration; nothing is allocated once a series exists.

pub(crate) mod metrics;
#[cfg(feature = "otlp")]
pub mod otlp;
#[cfg(feature = "prometheus")]
pub mod prometheus;
pub(crate) mod propagate;
pub(crate) mod server;
pub(crate) mod spans;

use std::sync::Arc;

use self::metrics::Metrics;
pub use self::server::AccessSink;
use self::spans::Spans;

/// What is installed.
#[derive(Default)]
pub(crate) struct Telemetry {
    pub(crate) spans: Option<Spans>,
    pub(crate) metrics: Option<Arc<Metrics>>,
}

//! Traces, metrics and the access log, of clients and of servers.
//!
//! The library sets nothing global. It tells the providers of [OpenTelemetry](crate::opentelemetry) that the builder is
//! given ([`tracer_provider`](crate::Builder::tracer_provider), [`meter_provider`](crate::Builder::meter_provider)), or
//! the global ones if they are installed when the mesh is built. What is not installed costs a branch.
//!
//! | feature | brings |
//! | --- | --- |
//! | `otlp` | `telemetry::otlp::Otlp`: providers that export to a collector, from the `OTEL_*` variables |
//! | `prometheus` | `Mesh::metrics_page`: all metrics as a page |
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
//! A request that a server of the mesh takes in continues the trace of its caller: of the formats that
//! `settings.telemetry.propagators` names, the first that holds a valid span counts; what is not valid begins a new trace.
//! `tracestate` of more than 32 members is cut there, of more than 4 KiB left out; baggage is taken over up to 8 KiB and 64
//! members. The server's span is of kind server and called `Recv.package.Service.Method` for gRPC, by the method for
//! HTTP; an HTTP status below 500 is not its error. It is current while the handler is polled, so what that sends by a
//! client of the mesh goes below it; where the sampler said no, that word is current in its place.
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
//! Of servers:
//!
//! * **Caller** (`mesh.peer`) is the SPIFFE id of a verified certificate, `none` for a caller without one, and `other` for
//!   those beyond 200. One that was not heard of for 10 minutes is no longer shown, and makes room.
//! * **Method** of gRPC: nobody tells a server which methods its handlers have, and callers can invent paths. A path
//!   counts as a method once a handler began to answer to it, that is with `OK` or with a head before its status; until
//!   then, and beyond 1,000 of a server, it is `other`. A call that is not known yet counts as started when that is clear.
//! * `mesh.outcome` is `client_error` for HTTP 4xx and codes that blame the call, `server_error` for 5xx, and for
//!   `UNKNOWN`, `DEADLINE_EXCEEDED`, `UNIMPLEMENTED`, `INTERNAL`, `UNAVAILABLE` and `DATA_LOSS`; `refused` where the server
//!   itself refused or gave up; `cancelled` where the caller went away before the end of the answer.
//! * `mesh.refusal` of requests is one of `no_peer`, `not_mutual`, `identity`, `headers`, `malformed`, `deadline`,
//!   `request_timeout`, `body_timeout`, `body_size`, `message_size`, `draining` and `panic` (which is a `server_error`); of
//!   connections `max_connections`, `max_connections_per_address`, `plaintext`, `unknown_protocol`, `detection_timeout`,
//!   `handshake_timeout`, `handshake`, `identity`, `first_request_timeout`, `header_timeout`, `headers` (of HTTP/1.1; an
//!   HTTP/2 request whose headers are too large is answered by hyper and counts nowhere), `malformed`, `control_frames`,
//!   `send_timeout`, `draining` or `broken`.
//! * `http.route` is not known here and left out. So are the sizes of messages.
//!
//! Counters and gauges are read when somebody collects. A request pays for a look at a table, some additions, and two
//! observations of its duration; nothing is allocated once a series exists.
//!
//! # Access log
//!
//! A server that says `access_log: text` or `json` tells each request when it has ended: as a `tracing` event at level
//! `INFO` under the target `mesh::access`, whose message is the line and whose fields are its values, and to the
//! [`AccessSink`] of the [builder](crate::Builder::access_log), if there is one. Without a listener nothing is kept.
//!
//! | field | of JSON and `tracing` |
//! | --- | --- |
//! | `time` | when the request came in, RFC 3339 in UTC; in the line only |
//! | `server` | the server's name |
//! | `method`, `path`, `protocol` | of the request; the path without its query, which may hold credentials |
//! | `status`, `grpc_status` | of the answer; no `status` if no head went out |
//! | `outcome`, `refusal` | as in metrics |
//! | `bytes_in`, `bytes_out` | of the bodies |
//! | `duration_ms` | from the head of the request to the end of the answer |
//! | `peer`, `remote` | the caller's SPIFFE id, and the address that it connected from |
//! | `authority`, `user_agent`, `request_id` | `:authority` or `host`, `user-agent`, `x-request-id` |
//! | `trace_id` | of the server's span; without a tracer, of the caller's |
//!
//! What is not known is left out of JSON and is `-` in text, which is one line of these words:
//!
//! ```text
//! TIME "METHOD PATH PROTOCOL" STATUS GRPC_STATUS OUTCOME REFUSAL BYTES_IN BYTES_OUT DURATION_MS PEER REMOTE "AUTHORITY"
//! "USER_AGENT" "REQUEST_ID" TRACE_ID "SERVER"
//! ```
//!
//! A line is printable ASCII whatever a caller sent (CVE-2024-45808, RUSTSEC-2025-0055): in text `"` and `\` stand behind
//! a `\` and any other byte is `\xHH`; in JSON any other character is `\uHHHH`, and what is not UTF-8 `\ufffd`. A method is
//! cut off behind 32 bytes, a path behind 1024, any other value behind 256; `...` says so. No other header, and so neither
//! `authorization` nor a cookie, is ever written.

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

//! Every metric: its name, its unit, what it says, and where it is read. The one list that OpenTelemetry's instruments,
//! the Prometheus page and the tests are made from; `telemetry`'s documentation has it as a table.

use opentelemetry::KeyValue;

use super::instruments::Distribution;
use super::metric::{Bounds, Kind, Metric};
use super::reading::{load, since_1970};
use super::server::Requests;
use super::{BackendSeries, ServerSeries};
use crate::net::Backend;

/// Every metric, in the order of the page.
pub(crate) const CATALOG: &[Metric] = &[
    Metric {
        name: "grpc.client.attempt.started",
        unit: "{attempt}",
        help: "The total number of RPC attempts started, including those that have not completed.",
        kind: Kind::Counter(|reading, sink| reading.started(sink)),
    },
    Metric {
        name: "grpc.client.attempt.duration",
        unit: "s",
        help: "How long an RPC attempt took, with the time to pick an endpoint.",
        kind: Kind::Histogram(Distribution::GrpcAttempt, Bounds::GrpcLatency),
    },
    Metric {
        name: "grpc.client.call.duration",
        unit: "s",
        help: "How long a gRPC call took from the application's perspective, with all its attempts.",
        kind: Kind::Histogram(Distribution::GrpcCall, Bounds::GrpcLatency),
    },
    Metric {
        name: "grpc.client.call.retries",
        unit: "{retry}",
        help: "How often a call was retried by its policy. Calls without a retry are not reported.",
        kind: Kind::Histogram(Distribution::GrpcRetries, Bounds::Retries),
    },
    Metric {
        name: "grpc.client.call.transparent_retries",
        unit: "{transparent_retry}",
        help: "How often a call was sent again because no peer processed it. Calls that were not are not reported.",
        kind: Kind::Histogram(Distribution::GrpcTransparentRetries, Bounds::TransparentRetries),
    },
    Metric {
        name: "grpc.client.call.hedges",
        unit: "{hedge}",
        help: "How many attempts of a call were sent beside the first. Calls without are not reported.",
        kind: Kind::Histogram(Distribution::GrpcHedges, Bounds::Retries),
    },
    Metric {
        name: "grpc.client.call.retry_delay",
        unit: "s",
        help: "How long no attempt of a retried call was active.",
        kind: Kind::Histogram(Distribution::GrpcRetryDelay, Bounds::GrpcLatency),
    },
    Metric {
        name: "grpc.subchannel.connection_attempts_succeeded",
        unit: "{attempt}",
        help: "Connection attempts that succeeded, to backends that serve gRPC calls.",
        kind: Kind::Counter(|reading, sink| reading.grpc_backends(|series| load(&series.connected), sink)),
    },
    Metric {
        name: "grpc.subchannel.connection_attempts_failed",
        unit: "{attempt}",
        help: "Connection attempts that failed, to backends that serve gRPC calls.",
        kind: Kind::Counter(|reading, sink| reading.grpc_backends(|series| load(&series.not_connected), sink)),
    },
    Metric {
        name: "grpc.subchannel.disconnections",
        unit: "{disconnection}",
        help: "Connections that ended, to backends that serve gRPC calls.",
        kind: Kind::Counter(|reading, sink| reading.grpc_backends(|series| load(&series.disconnected), sink)),
    },
    Metric {
        name: "grpc.subchannel.open_connections",
        unit: "{connection}",
        help: "Connections that are open, to backends that serve gRPC calls.",
        kind: Kind::UpDownCounter(|reading, sink| reading.grpc_backends(BackendSeries::open, sink)),
    },
    Metric {
        name: "http.client.request.duration",
        unit: "s",
        help: "How long a try of an HTTP request took, to its response head.",
        kind: Kind::Histogram(Distribution::HttpAttempt, Bounds::HttpLatency),
    },
    Metric {
        name: "mesh.client.request.duration",
        unit: "s",
        help: "How long an HTTP request took with all its tries, to the end of its response.",
        kind: Kind::Histogram(Distribution::HttpRequest, Bounds::HttpLatency),
    },
    Metric {
        name: "mesh.client.requests",
        unit: "{request}",
        help: "Requests that ended, by outcome.",
        kind: Kind::Counter(|reading, sink| reading.outcomes(|series| &series.requests, sink)),
    },
    Metric {
        name: "mesh.client.attempts",
        unit: "{attempt}",
        help: "Attempts that ended, by outcome.",
        kind: Kind::Counter(|reading, sink| reading.outcomes(|series| &series.attempts, sink)),
    },
    Metric {
        name: "mesh.client.retries",
        unit: "{retry}",
        help: "Attempts that followed another one of the same request: policy, or transparent if no peer processed it; \
               hedge if it was sent beside it.",
        kind: Kind::Counter(|reading, sink| reading.retries(sink)),
    },
    Metric {
        name: "mesh.client.retries.denied",
        unit: "{retry}",
        help: "Retries and hedges that the policy asked for and the budget of the backend did not allow.",
        kind: Kind::Counter(|reading, sink| reading.denied(sink)),
    },
    Metric {
        name: "mesh.client.requests.unrouted",
        unit: "{request}",
        help: "Requests that failed before a backend was chosen, such as those to unknown services.",
        kind: Kind::Counter(|reading, sink| reading.unrouted(sink)),
    },
    Metric {
        name: "mesh.backend.picks",
        unit: "{pick}",
        help: "Attempts that asked for an endpoint, and how they came by one.",
        kind: Kind::Counter(|reading, sink| reading.picks(sink)),
    },
    Metric {
        name: "mesh.backend.connection_attempts",
        unit: "{attempt}",
        help: "Connection attempts that ended, TCP to HTTP.",
        kind: Kind::Counter(|reading, sink| reading.connects(sink)),
    },
    Metric {
        name: "mesh.backend.disconnections",
        unit: "{disconnection}",
        help: "Connections that ended.",
        kind: Kind::Counter(|reading, sink| reading.backends(|series| load(&series.disconnected), sink)),
    },
    Metric {
        name: "mesh.backend.open_connections",
        unit: "{connection}",
        help: "Connections that are open.",
        kind: Kind::UpDownCounter(|reading, sink| reading.backends(BackendSeries::open, sink)),
    },
    Metric {
        name: "mesh.backend.endpoints",
        unit: "{endpoint}",
        help: "Endpoints by state.",
        kind: Kind::UpDownCounter(|reading, sink| reading.endpoints(sink)),
    },
    Metric {
        name: "mesh.backend.active_requests",
        unit: "{request}",
        help: "Requests under way.",
        kind: Kind::UpDownCounter(|reading, sink| reading.live(|backend| backend.budget().in_flight(), sink)),
    },
    Metric {
        name: "mesh.backend.pending_requests",
        unit: "{request}",
        help: "Requests that wait for an endpoint or a stream.",
        kind: Kind::UpDownCounter(|reading, sink| reading.live(|backend| backend.transport().queue.len().into(), sink)),
    },
    Metric {
        name: "mesh.backend.active_retries",
        unit: "{retry}",
        help: "Retries under way, their pauses included.",
        kind: Kind::UpDownCounter(|reading, sink| reading.live(|backend| backend.budget().retries(), sink)),
    },
    Metric {
        name: "mesh.backend.retry_limit",
        unit: "{retry}",
        help: "How many retries the budget allows at once with the requests under way.",
        kind: Kind::UpDownCounter(|reading, sink| {
            reading.live(|backend| backend.budget().limit(&backend.config().retry_budget), sink);
        }),
    },
    Metric {
        name: "mesh.backend.overflows",
        unit: "{request}",
        help: "Requests, connections and retries that a limit refused.",
        kind: Kind::Counter(|reading, sink| reading.overflows(sink)),
    },
    Metric {
        name: "mesh.backend.ejections",
        unit: "{ejection}",
        help: "Endpoints that outlier detection took out.",
        kind: Kind::Counter(|reading, sink| reading.ejections(sink)),
    },
    Metric {
        name: "mesh.backend.ejections_unenforced",
        unit: "{ejection}",
        help: "Endpoints that outlier detection would have taken out.",
        kind: Kind::Counter(|reading, sink| reading.spared(sink)),
    },
    Metric {
        name: "mesh.backend.ejected_endpoints",
        unit: "{endpoint}",
        help: "Endpoints that outlier detection keeps out.",
        kind: Kind::UpDownCounter(|reading, sink| {
            reading.live(|backend| backend.fleet().detector().ejected() as u64, sink);
        }),
    },
    Metric {
        name: "mesh.backend.health_checks",
        unit: "{check}",
        help: "Health checks of endpoints that ended, by result.",
        kind: Kind::Counter(|reading, sink| {
            let counts = |series: &BackendSeries| series.health_checks.each_ref().map(load);
            reading.by_kind("mesh.health_check.result", ["bad", "good"], counts, sink);
        }),
    },
    Metric {
        name: "mesh.backend.unhealthy_endpoints",
        unit: "{endpoint}",
        help: "Endpoints that are kept out by their answers to health checks.",
        kind: Kind::UpDownCounter(|reading, sink| {
            let unhealthy = |backend: &Backend| {
                backend.picker().endpoints().iter().filter(|endpoint| !endpoint.is_healthy()).count() as u64
            };
            reading.live(unhealthy, sink);
        }),
    },
    Metric {
        name: "mesh.backend.priority",
        unit: "",
        help: "The first priority that gets requests; nothing if no endpoint of any is available.",
        kind: Kind::Gauge(|reading, sink| {
            reading.serving(|news| news.priority.map(f64::from), sink);
        }),
    },
    Metric {
        name: "mesh.backend.panic",
        unit: "",
        help: "1 while requests go to endpoints whatever their health, else 0.",
        kind: Kind::Gauge(|reading, sink| {
            reading.serving(|news| Some(f64::from(u8::from(news.panics))), sink);
        }),
    },
    Metric {
        name: "grpc.lb.outlier_detection.ejections_enforced",
        unit: "{ejection}",
        help: "Endpoints that outlier detection took out.",
        kind: Kind::Counter(|reading, sink| reading.grpc_ejections(sink)),
    },
    Metric {
        name: "grpc.lb.outlier_detection.ejections_unenforced",
        unit: "{ejection}",
        help: "Endpoints that outlier detection would have taken out.",
        kind: Kind::Counter(|reading, sink| reading.grpc_spared(sink)),
    },
    Metric {
        name: "grpc.server.call.started",
        unit: "{call}",
        help: "The total number of RPCs started at a server, including those that have not completed.",
        kind: Kind::Counter(|reading, sink| reading.served(|requests| requests.started(), sink)),
    },
    Metric {
        name: "grpc.server.call.duration",
        unit: "s",
        help: "How long an RPC took at a server, from its head to the end of its answer.",
        kind: Kind::Histogram(Distribution::GrpcServer, Bounds::GrpcLatency),
    },
    Metric {
        name: "http.server.request.duration",
        unit: "s",
        help: "How long an HTTP request took at a server, from its head to the end of its answer.",
        kind: Kind::Histogram(Distribution::HttpServer, Bounds::HttpLatency),
    },
    Metric {
        name: "http.server.active_requests",
        unit: "{request}",
        help: "HTTP requests that a server is serving.",
        kind: Kind::UpDownCounter(|reading, sink| reading.served(|requests| requests.http_active().collect(), sink)),
    },
    Metric {
        name: "mesh.server.requests",
        unit: "{request}",
        help: "Requests that ended, by who called and by outcome.",
        kind: Kind::Counter(|reading, sink| reading.served(|requests| requests.by_peer(), sink)),
    },
    Metric {
        name: "mesh.server.active_requests",
        unit: "{request}",
        help: "Requests that a server is serving, gRPC calls among them.",
        kind: Kind::UpDownCounter(|reading, sink| {
            reading.servers(|series| series.requests.as_ref().map_or(0, Requests::active), sink);
        }),
    },
    Metric {
        name: "mesh.server.requests.refused",
        unit: "{request}",
        help: "Requests that a server refused or gave up, by reason.",
        kind: Kind::Counter(|reading, sink| reading.refused_requests(sink)),
    },
    Metric {
        name: "mesh.server.connections",
        unit: "{connection}",
        help: "Connections that are open.",
        kind: Kind::UpDownCounter(|reading, sink| reading.servers(ServerSeries::open, sink)),
    },
    Metric {
        name: "mesh.server.connections.accepted",
        unit: "{connection}",
        help: "Connections that came in.",
        kind: Kind::Counter(|reading, sink| reading.servers(|series| load(&series.accepted), sink)),
    },
    Metric {
        name: "mesh.server.connections.refused",
        unit: "{connection}",
        help: "Connections that were closed before they served anything, by reason.",
        kind: Kind::Counter(|reading, sink| reading.refused_connections(sink)),
    },
    Metric {
        name: "mesh.server.handshakes",
        unit: "{handshake}",
        help: "TLS handshakes that ended; the reason of those that failed.",
        kind: Kind::Counter(|reading, sink| reading.handshakes(sink)),
    },
    Metric {
        name: "mesh.server.handshake.duration",
        unit: "s",
        help: "How long a TLS handshake took that succeeded.",
        kind: Kind::Histogram(Distribution::Handshake, Bounds::HttpLatency),
    },
    Metric {
        name: "mesh.certificate.expiry_timestamp",
        unit: "s",
        help: "Until when the certificate in force is valid, in seconds since 1970.",
        kind: Kind::Gauge(|reading, sink| reading.identity(|facts| facts.not_after.map(since_1970), sink)),
    },
    Metric {
        name: "mesh.identity.generation",
        unit: "",
        help: "How many identities there were so far; 0 before the first.",
        kind: Kind::Gauge(|reading, sink| reading.identity(|facts| Some(facts.generation as f64), sink)),
    },
    Metric {
        name: "mesh.identity.last_reload_successful",
        unit: "",
        help: "1 if what the source of the identity said last was usable, else 0.",
        kind: Kind::Gauge(|reading, sink| {
            reading.identity(|facts| Some(f64::from(u8::from(facts.last_successful))), sink);
        }),
    },
    Metric {
        name: "mesh.identity.last_reload_timestamp",
        unit: "s",
        help: "When the source of the identity last said something usable, in seconds since 1970.",
        kind: Kind::Gauge(|reading, sink| reading.identity(|facts| facts.last_success.map(since_1970), sink)),
    },
    Metric {
        name: "mesh.identity.failures",
        unit: "{failure}",
        help: "How often something was wrong with what the source of the identity said.",
        kind: Kind::Counter(|reading, sink| {
            if let Some(facts) = reading.own_identity() {
                sink(facts.failures, &[]);
            }
        }),
    },
    Metric {
        name: "mesh.config.version",
        unit: "",
        help: "The version of the configuration in force, counted from 1.",
        kind: Kind::Gauge(|reading, sink| sink(reading.metrics.config.version() as f64, &[])),
    },
    Metric {
        name: "mesh.config.reloads",
        unit: "{reload}",
        help: "Configurations that were applied or refused; the first counts too, found endpoints do not.",
        kind: Kind::Counter(|reading, sink| {
            for (result, count) in reading.metrics.config.counts() {
                sink(count, &[KeyValue::new("mesh.config.result", result)]);
            }
        }),
    },
    Metric {
        name: "mesh.config.last_reload_successful",
        unit: "",
        help: "1 if the newest configuration is in force, 0 if it was refused.",
        kind: Kind::Gauge(|reading, sink| sink(f64::from(u8::from(reading.metrics.config.is_successful())), &[])),
    },
    Metric {
        name: "mesh.config.last_reload_timestamp",
        unit: "s",
        help: "When the configuration in force was applied, in seconds since 1970.",
        kind: Kind::Gauge(|reading, sink| sink(reading.metrics.config.applied_on().as_secs_f64(), &[])),
    },
    Metric {
        name: "mesh.config.age",
        unit: "s",
        help: "How long the configuration has been in force.",
        kind: Kind::Gauge(|reading, sink| sink(reading.metrics.config.age(reading.now).as_secs_f64(), &[])),
    },
    Metric {
        name: "mesh.dns.lookups",
        unit: "{lookup}",
        help: "DNS look-ups, by result.",
        kind: Kind::Counter(|reading, sink| {
            for (result, count) in ["found", "failed"].into_iter().zip(reading.metrics.lookups.iter().map(load)) {
                if count > 0 {
                    sink(count, &[KeyValue::new("mesh.dns.result", result)]);
                }
            }
        }),
    },
    Metric {
        name: "mesh.build_info",
        unit: "",
        help: "1, with the version of this library.",
        kind: Kind::Gauge(|_, sink| sink(1.0, &[KeyValue::new("version", env!("CARGO_PKG_VERSION"))])),
    },
];

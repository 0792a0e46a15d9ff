//! Every metric: its name, its unit, what it says, and where it is read. The one list that OpenTelemetry's instruments,
//! the Prometheus page and the tests are made from; `telemetry`'s documentation has it as a table.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use mesh_core::balance::{News, State};
use mesh_core::error::ErrorKind;
use mesh_core::resilience::limits::Limit;
use mesh_core::resilience::outlier::{Cause, Unenforced};
use opentelemetry::KeyValue;

#[cfg(feature = "prometheus")]
use super::buckets::Recorder;
use super::instruments::Distribution;
use super::series::Series;
use super::server::Requests;
use super::{BackendSeries, Picked, Reading, ServerSeries};
use crate::identity::Facts;
use crate::net::Backend;
use crate::telemetry::server::{ConnectionRefusal, Refusal};

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

fn load(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

fn since_1970(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// `attributes` with one more.
fn and(mut attributes: Vec<KeyValue>, key: &'static str, value: &'static str) -> Vec<KeyValue> {
    attributes.push(KeyValue::new(key, value));
    attributes
}

impl Reading<'_> {
    /// Each of the things that series of one service and method share, once.
    fn durations(&self) -> impl Iterator<Item = &super::Durations> {
        let by_address: BTreeMap<_, _> =
            self.table.all().map(|series| (Arc::as_ptr(&series.durations), &*series.durations)).collect();
        by_address.into_values()
    }

    fn started(&self, sink: Sink<'_, u64>) {
        for durations in self.durations().filter(|durations| durations.is_grpc()) {
            let count = load(&durations.started);
            if count > 0 {
                sink(count, &durations.attributes);
            }
        }
    }

    /// The distributions kept here.
    #[cfg(feature = "prometheus")]
    pub(crate) fn distribution(&self, distribution: Distribution, sink: &mut dyn FnMut(&Recorder)) {
        for durations in self.durations() {
            durations.recorders(distribution).for_each(&mut *sink);
        }
        for requests in self.servers.iter().filter_map(|series| series.requests.as_ref()) {
            requests.distribution(distribution, sink);
        }
    }

    /// What each server says of itself.
    fn servers(&self, value: impl Fn(&ServerSeries) -> u64, sink: Sink<'_, u64>) {
        for series in &self.servers {
            sink(value(series), &[series.attribute()]);
        }
    }

    /// What each server says of its requests.
    fn served(&self, counts: impl Fn(&Requests) -> Vec<(u64, Vec<KeyValue>)>, sink: Sink<'_, u64>) {
        for requests in self.servers.iter().filter_map(|series| series.requests.as_ref()) {
            for (count, attributes) in counts(requests) {
                sink(count, &attributes);
            }
        }
    }

    fn refused_requests(&self, sink: Sink<'_, u64>) {
        for series in &self.servers {
            let Some(requests) = &series.requests else { continue };
            for (why, count) in Refusal::ALL.into_iter().zip(requests.refusals.each_ref().map(load)) {
                if count > 0 {
                    sink(count, &[series.attribute(), KeyValue::new("mesh.refusal", why.as_str())]);
                }
            }
        }
    }

    fn refused_connections(&self, sink: Sink<'_, u64>) {
        for series in &self.servers {
            for (why, count) in ConnectionRefusal::ALL.into_iter().zip(series.turned_away.each_ref().map(load)) {
                if count > 0 {
                    sink(count, &[series.attribute(), KeyValue::new("mesh.refusal", why.as_str())]);
                }
            }
        }
    }

    /// What is known of the identity, where the configuration asks for one.
    fn own_identity(&self) -> Option<&Facts> {
        let settings = self.snapshot.as_ref()?.settings();
        self.identity.as_ref().filter(|_| settings.identity.is_some())
    }

    fn identity(&self, value: impl Fn(&Facts) -> Option<f64>, sink: Sink<'_, f64>) {
        if let Some(value) = self.own_identity().and_then(value) {
            sink(value, &[]);
        }
    }

    fn handshakes(&self, sink: Sink<'_, u64>) {
        for series in &self.servers {
            let count = load(&series.handshakes);
            if count > 0 {
                sink(count, &[series.attribute()]);
            }
            for (reason, count) in series.failed_handshakes() {
                sink(count, &[series.attribute(), KeyValue::new("error.type", reason)]);
            }
        }
    }

    fn outcomes(&self, counts: impl Fn(&Series) -> &[AtomicU64], sink: Sink<'_, u64>) {
        for series in self.table.all() {
            for (number, count) in counts(series).iter().map(load).enumerate().filter(|(_, count)| *count > 0) {
                sink(count, &series.attributes(Some(number)));
            }
        }
    }

    fn retries(&self, sink: Sink<'_, u64>) {
        for series in self.table.all() {
            let kinds = [("policy", &series.retries), ("transparent", &series.resends), ("hedge", &series.hedges)];
            for (kind, count) in kinds.map(|(kind, count)| (kind, load(count))) {
                if count > 0 {
                    sink(count, &and(series.attributes(None), "mesh.retry.kind", kind));
                }
            }
        }
    }

    fn denied(&self, sink: Sink<'_, u64>) {
        for series in self.table.all() {
            let count = load(&series.denied);
            if count > 0 {
                sink(count, &series.attributes(None));
            }
        }
    }

    fn unrouted(&self, sink: Sink<'_, u64>) {
        for (kind, count) in ErrorKind::ALL.iter().zip(self.metrics.unrouted.iter().map(load)) {
            if count > 0 {
                sink(count, &[KeyValue::new("error.type", kind.as_str())]);
            }
        }
    }

    fn backends(&self, value: impl Fn(&BackendSeries) -> u64, sink: Sink<'_, u64>) {
        for series in self.backends.iter().filter(|series| series.was_used()) {
            sink(value(series), &series.attributes());
        }
    }

    /// What was counted by kinds, of each backend.
    fn by_kind<const N: usize>(
        &self,
        key: &'static str,
        words: [&'static str; N],
        counts: impl Fn(&BackendSeries) -> [u64; N],
        sink: Sink<'_, u64>,
    ) {
        for series in self.backends.iter() {
            for (word, count) in words.into_iter().zip(counts(series)).filter(|(_, count)| *count > 0) {
                sink(count, &and(series.attributes(), key, word));
            }
        }
    }

    fn overflows(&self, sink: Sink<'_, u64>) {
        let counts = |series: &BackendSeries| series.overflows.each_ref().map(load);
        self.by_kind("mesh.limit", Limit::ALL.map(Limit::as_str), counts, sink);
    }

    fn ejections(&self, sink: Sink<'_, u64>) {
        let counts = |series: &BackendSeries| series.ejections.each_ref().map(load);
        self.by_kind("mesh.ejection.cause", Cause::ALL.map(Cause::as_str), counts, sink);
    }

    fn spared(&self, sink: Sink<'_, u64>) {
        for series in self.backends.iter() {
            for (cause, counts) in Cause::ALL.into_iter().zip(&series.spared) {
                for (reason, count) in Unenforced::ALL.into_iter().zip(counts).filter(|(_, count)| load(count) > 0) {
                    let attributes = and(series.attributes(), "mesh.ejection.cause", cause.as_str());
                    sink(load(count), &and(attributes, "mesh.ejection.reason", reason.as_str()));
                }
            }
        }
    }

    /// In gRPC's words, of the two algorithms that it has.
    fn grpc_ejections(&self, sink: Sink<'_, u64>) {
        for cause in [Cause::SuccessRate, Cause::FailurePercentage] {
            self.grpc_backends(|series| load(&series.ejections[cause as usize]), &mut |count, attributes| {
                if count > 0 {
                    sink(
                        count,
                        &and(attributes.to_vec(), "grpc.lb.outlier_detection.detection_method", cause.as_str()),
                    );
                }
            });
        }
    }

    fn grpc_spared(&self, sink: Sink<'_, u64>) {
        for cause in [Cause::SuccessRate, Cause::FailurePercentage] {
            for reason in Unenforced::ALL {
                let value = |series: &BackendSeries| load(&series.spared[cause as usize][reason as usize]);
                self.grpc_backends(value, &mut |count, attributes| {
                    if count > 0 {
                        let method = "grpc.lb.outlier_detection.detection_method";
                        let attributes = and(attributes.to_vec(), method, cause.as_str());
                        let why = "grpc.lb.outlier_detection.unenforced_reason";
                        sink(count, &and(attributes, why, reason.as_str()));
                    }
                });
            }
        }
    }

    /// Backends that are told by the same place, over TLS and without, are one.
    fn grpc_backends(&self, value: impl Fn(&BackendSeries) -> u64, sink: Sink<'_, u64>) {
        let mut sums = BTreeMap::new();
        for series in self.backends.iter().filter(|series| series.serves_grpc()) {
            let attributes = series.grpc_attributes();
            let key = attributes.each_ref().map(|attribute| attribute.value.to_string());
            sums.entry(key).or_insert((0, attributes)).0 += value(series);
        }
        for (sum, attributes) in sums.values() {
            sink(*sum, attributes);
        }
    }

    fn picks(&self, sink: Sink<'_, u64>) {
        for series in &self.backends {
            for result in Picked::ALL {
                let count = load(&series.picks[result as usize]);
                if count > 0 {
                    sink(count, &and(series.attributes(), "mesh.pick.result", result.as_str()));
                }
            }
        }
    }

    fn connects(&self, sink: Sink<'_, u64>) {
        for series in self.backends.iter().filter(|series| series.was_used()) {
            sink(load(&series.connected), &and(series.attributes(), "mesh.connect.result", "succeeded"));
            sink(load(&series.not_connected), &and(series.attributes(), "mesh.connect.result", "failed"));
        }
    }

    /// The backends of the configuration in force.
    fn live(&self, value: impl Fn(&Backend) -> u64, sink: Sink<'_, u64>) {
        for backend in self.snapshot.iter().flat_map(|snapshot| snapshot.backends()) {
            if let Some(series) = &backend.transport().series {
                sink(value(backend), &series.attributes());
            }
        }
    }

    fn serving(&self, value: impl Fn(&News) -> Option<f64>, sink: Sink<'_, f64>) {
        for backend in self.snapshot.iter().flat_map(|snapshot| snapshot.backends()) {
            if let (Some(series), Some(value)) = (&backend.transport().series, value(&backend.picker().serving())) {
                sink(value, &series.attributes());
            }
        }
    }

    fn endpoints(&self, sink: Sink<'_, u64>) {
        for backend in self.snapshot.iter().flat_map(|snapshot| snapshot.backends()) {
            let Some(series) = &backend.transport().series else { continue };
            for state in [State::Idle, State::Connecting, State::Ready, State::Failing] {
                let endpoints = backend.picker().endpoints().iter();
                let count = endpoints.filter(|endpoint| endpoint.state() == state).count() as u64;
                sink(count, &and(series.attributes(), "mesh.endpoint.state", state.as_str()));
            }
        }
    }
}

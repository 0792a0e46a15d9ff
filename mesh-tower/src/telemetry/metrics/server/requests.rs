//! The requests of a server.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::StatusCode;
use mesh_core::grpc::Code;
use opentelemetry::KeyValue;

use super::super::buckets::Recorder;
use super::super::instruments::{Distribution, Histograms};
use super::super::outcome::{STATUS_CODES, status_number};
use super::super::table::{METHODS, method_number};
use super::methods::{MethodSeries, Methods};
use super::peers::{Peers, Served};
use crate::telemetry::server::Refusal;

/// HTTP statuses, and a caller that went away.
const HTTP_ENDS: usize = STATUS_CODES.len() + 1;

/// The requests of a server.
#[derive(Debug)]
pub(crate) struct Requests {
    server: Arc<str>,
    histograms: Arc<Histograms>,
    http: HttpSeries,
    methods: Methods,
    grpc_active: AtomicU64,
    peers: Peers,
    pub(in super::super) refusals: [AtomicU64; Refusal::ALL.len()],
    handshake: Box<Recorder>,
}

impl Requests {
    pub(super) fn new(server: &Arc<str>, histograms: &Arc<Histograms>) -> Self {
        let name = KeyValue::new("mesh.server", Arc::clone(server));
        Self {
            server: Arc::clone(server),
            histograms: Arc::clone(histograms),
            http: HttpSeries::default(),
            methods: Methods::default(),
            grpc_active: AtomicU64::new(0),
            peers: Peers::default(),
            refusals: Default::default(),
            handshake: histograms.recorder(Distribution::Handshake, vec![name]),
        }
    }

    /// A request of HTTP begins: what it is counted by.
    pub(crate) fn http(&self, method: &http::Method, secure: bool) -> HttpKind {
        let kind = HttpKind(method_number(method) * 2 + usize::from(secure));
        self.http.0[kind.0].active.fetch_add(1, Ordering::Relaxed);
        kind
    }

    /// It ended; without a `status` because its caller went away.
    pub(crate) fn http_ended(&self, kind: HttpKind, status: Option<StatusCode>, took: Duration) {
        let series = &self.http.0[kind.0];
        series.active.fetch_sub(1, Ordering::Relaxed);
        let durations = series.durations.get_or_init(|| std::array::from_fn(|_| OnceLock::new()).into());
        let end = status.map_or(HTTP_ENDS - 1, status_number);
        let recorder = durations[end].get_or_init(|| {
            let mut attributes = self.http_attributes(kind);
            match STATUS_CODES.get(end) {
                Some(status) => {
                    attributes.push(KeyValue::new("http.response.status_code", i64::from(*status)));
                    let error = (*status >= 500).then(|| KeyValue::new("error.type", status.to_string()));
                    attributes.extend(error);
                }
                None => attributes.push(KeyValue::new("error.type", Served::Cancelled.as_str())),
            }
            self.histograms.recorder(Distribution::HttpServer, attributes)
        });
        recorder.record(took.as_secs_f64());
    }

    fn http_attributes(&self, kind: HttpKind) -> Vec<KeyValue> {
        vec![
            KeyValue::new("mesh.server", Arc::clone(&self.server)),
            KeyValue::new("http.request.method", METHODS[kind.0 / 2]),
            KeyValue::new("url.scheme", if kind.0 % 2 == 1 { "https" } else { "http" }),
        ]
    }

    /// A gRPC call begins. `None`: nobody has answered to this path so far, and it may be anything.
    pub(crate) fn grpc(&self, path: &str) -> Option<Arc<MethodSeries>> {
        self.grpc_active.fetch_add(1, Ordering::Relaxed);
        let method = self.methods.find(path)?;
        method.started.fetch_add(1, Ordering::Relaxed);
        Some(method)
    }

    /// The handler of a path, which answered: from now on it counts as a method.
    #[cold]
    pub(crate) fn learn(&self, path: &str) -> Option<Arc<MethodSeries>> {
        let method = self.methods.learn(path)?;
        method.started.fetch_add(1, Ordering::Relaxed);
        Some(method)
    }

    /// A call ended. One of no known method counts as begun only now.
    pub(crate) fn grpc_ended(&self, method: Option<&MethodSeries>, code: Code, took: Duration) {
        self.grpc_active.fetch_sub(1, Ordering::Relaxed);
        let method = method.unwrap_or_else(|| {
            let other = &*self.methods.other;
            other.started.fetch_add(1, Ordering::Relaxed);
            other
        });
        let recorder = method.durations[code as usize].get_or_init(|| {
            let mut attributes = self.grpc_attributes(method);
            attributes.push(KeyValue::new("grpc.status", code.name()));
            self.histograms.recorder(Distribution::GrpcServer, attributes)
        });
        recorder.record(took.as_secs_f64());
    }

    fn grpc_attributes(&self, method: &MethodSeries) -> Vec<KeyValue> {
        vec![
            KeyValue::new("mesh.server", Arc::clone(&self.server)),
            KeyValue::new("grpc.method", Arc::clone(&method.name)),
        ]
    }

    /// A request of this caller ended; `None`: nobody knows whose it was.
    pub(crate) fn counted(&self, peer: Option<&str>, served: Served) {
        self.peers.count(peer, served);
    }

    pub(crate) fn refused(&self, why: Refusal) {
        self.refusals[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A TLS handshake succeeded.
    pub(super) fn shook_hands(&self, took: Duration) {
        self.handshake.record(took.as_secs_f64());
    }

    /// Lets go of callers that were not heard of for long.
    pub(super) fn sweep(&self, now: Instant) {
        self.peers.sweep(now);
    }

    /// How many requests are under way.
    pub(in super::super) fn active(&self) -> u64 {
        let http = self.http.0.iter().map(|series| series.active.load(Ordering::Relaxed));
        http.sum::<u64>() + self.grpc_active.load(Ordering::Relaxed)
    }

    /// How many of HTTP, by what tells them apart, where there ever was one.
    pub(in super::super) fn http_active(&self) -> impl Iterator<Item = (u64, Vec<KeyValue>)> {
        let used = |series: &HttpKindSeries| {
            let active = series.active.load(Ordering::Relaxed);
            (active > 0 || series.durations.get().is_some()).then_some(active)
        };
        let kinds = self.http.0.iter().enumerate();
        kinds.filter_map(move |(kind, series)| Some((used(series)?, self.http_attributes(HttpKind(kind)))))
    }

    /// How many calls of each method began.
    pub(in super::super) fn started(&self) -> Vec<(u64, Vec<KeyValue>)> {
        let started = |method: &Arc<MethodSeries>| {
            let count = method.started.load(Ordering::Relaxed);
            (count > 0).then(|| (count, self.grpc_attributes(method)))
        };
        self.methods.all().iter().filter_map(started).collect()
    }

    /// How many requests of each caller ended, by how.
    pub(in super::super) fn by_peer(&self) -> Vec<(u64, Vec<KeyValue>)> {
        let mut counts = Vec::new();
        for peer in self.peers.all() {
            for (served, count) in Served::ALL.into_iter().zip(&peer.counts) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    let attributes = vec![
                        KeyValue::new("mesh.server", Arc::clone(&self.server)),
                        KeyValue::new("mesh.peer", Arc::clone(&peer.name)),
                        KeyValue::new("mesh.outcome", served.as_str()),
                    ];
                    counts.push((count, attributes));
                }
            }
        }
        counts
    }

    /// The distributions that were met.
    #[cfg(feature = "prometheus")]
    pub(in super::super) fn distribution(&self, distribution: Distribution, sink: &mut dyn FnMut(&Recorder)) {
        match distribution {
            Distribution::HttpServer => {
                let durations = self.http.0.iter().filter_map(|series| series.durations.get());
                durations.flat_map(|ends| ends.iter()).filter_map(OnceLock::get).for_each(|one| sink(one));
            }
            Distribution::GrpcServer => {
                for method in self.methods.all() {
                    method.durations.iter().filter_map(OnceLock::get).for_each(|one| sink(one));
                }
            }
            Distribution::Handshake if !self.handshake.is_empty() => sink(&self.handshake),
            _ => {}
        }
    }
}

/// Method and scheme.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HttpKind(usize);

#[derive(Debug, Default)]
struct HttpSeries([HttpKindSeries; 2 * METHODS.len()]);

/// By status; made when first met.
type HttpDurations = Box<[OnceLock<Box<Recorder>>; HTTP_ENDS]>;

#[derive(Debug, Default)]
struct HttpKindSeries {
    active: AtomicU64,
    durations: OnceLock<HttpDurations>,
}

//! The counters of a server.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::StatusCode;
use mesh_core::grpc::Code;
use opentelemetry::KeyValue;

use super::buckets::Recorder;
use super::index::{Hash, Index};
use super::instruments::{Distribution, Histograms};
use super::outcome::{STATUS_CODES, status_number};
use super::table::{METHODS, OTHER, method_number};
use super::{KEEP, lock};
use crate::telemetry::server::{ConnectionRefusal, Refusal};

/// The most gRPC methods of a server that are told apart (TL-05).
pub(super) const MAX_METHODS: usize = 1_000;
/// The most callers of a server that are told apart (TL-05).
pub(super) const MAX_PEERS: usize = 200;
/// What a caller is called that has not proved who it is.
const NOBODY: &str = "none";
/// HTTP statuses, and a caller that went away.
const HTTP_ENDS: usize = STATUS_CODES.len() + 1;

/// What happened to one server of this mesh. Connections are counted whether anybody asks or not.
#[derive(Debug)]
pub(crate) struct ServerSeries {
    pub(super) name: Arc<str>,
    pub(super) accepted: AtomicU64,
    /// By [`ConnectionRefusal`].
    pub(super) turned_away: [AtomicU64; ConnectionRefusal::ALL.len()],
    opened: AtomicU64,
    closed: AtomicU64,
    pub(super) handshakes: AtomicU64,
    /// By reason.
    failed_handshakes: Mutex<BTreeMap<&'static str, u64>>,
    /// What is counted of requests, if anybody asks.
    pub(crate) requests: Option<Requests>,
}

impl ServerSeries {
    /// Of connections alone.
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            accepted: AtomicU64::new(0),
            turned_away: Default::default(),
            opened: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            handshakes: AtomicU64::new(0),
            failed_handshakes: Mutex::default(),
            requests: None,
        }
    }

    pub(super) fn with_requests(mut self, histograms: &Arc<Histograms>) -> Self {
        self.requests = Some(Requests::new(&self.name, histograms));
        self
    }

    /// The listener has a new connection.
    pub(crate) fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection was closed before it served anything.
    pub(crate) fn refused(&self, why: ConnectionRefusal) {
        self.turned_away[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A connection is open until the guard is dropped.
    pub(crate) fn opened(self: &Arc<Self>) -> OpenServed {
        self.opened.fetch_add(1, Ordering::Relaxed);
        OpenServed(Arc::clone(self))
    }

    /// The connections that are open.
    pub(crate) fn open(&self) -> u64 {
        // Read in this order, so that one which opens and closes meanwhile makes it too large and never negative.
        let closed = self.closed.load(Ordering::Acquire);
        self.opened.load(Ordering::Acquire).saturating_sub(closed)
    }

    /// A TLS handshake ended: it took so long, or failed for this reason.
    pub(crate) fn handshake(&self, result: Result<Duration, &'static str>) {
        match result {
            Ok(took) => {
                self.handshakes.fetch_add(1, Ordering::Relaxed);
                if let Some(requests) = &self.requests {
                    requests.handshake.record(took.as_secs_f64());
                }
            }
            Err(reason) => *lock(&self.failed_handshakes).entry(reason).or_default() += 1,
        }
    }

    pub(super) fn failed_handshakes(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.failed_handshakes).clone()
    }

    pub(super) fn attribute(&self) -> KeyValue {
        KeyValue::new("mesh.server", Arc::clone(&self.name))
    }

    /// Lets go of callers that were not heard of for [`KEEP`].
    pub(super) fn sweep(&self, now: Instant) {
        if let Some(requests) = &self.requests {
            requests.peers.sweep(now);
        }
    }
}

/// An open connection of a server.
#[derive(Debug)]
pub(crate) struct OpenServed(Arc<ServerSeries>);

impl Drop for OpenServed {
    fn drop(&mut self) {
        self.0.closed.fetch_add(1, Ordering::Release);
    }
}

/// How a request ended, as far as its caller is concerned: what is counted of each caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Served {
    Ok,
    /// HTTP 4xx, and the codes of gRPC that blame the call.
    ClientError,
    /// HTTP 5xx, and the codes of gRPC that blame the server (OpenTelemetry's conventions for gRPC servers).
    ServerError,
    /// The server did not serve it.
    Refused,
    /// Its caller went away.
    Cancelled,
}

impl Served {
    pub(super) const ALL: [Self; 5] = [Self::Ok, Self::ClientError, Self::ServerError, Self::Refused, Self::Cancelled];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ClientError => "client_error",
            Self::ServerError => "server_error",
            Self::Refused => "refused",
            Self::Cancelled => "cancelled",
        }
    }

    pub(crate) fn of_status(status: StatusCode) -> Self {
        match status.as_u16() {
            500.. => Self::ServerError,
            400.. => Self::ClientError,
            _ => Self::Ok,
        }
    }

    pub(crate) fn of_code(code: Code) -> Self {
        match code {
            Code::Ok => Self::Ok,
            Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => Self::ServerError,
            _ => Self::ClientError,
        }
    }
}

/// The requests of a server.
#[derive(Debug)]
pub(crate) struct Requests {
    server: Arc<str>,
    histograms: Arc<Histograms>,
    http: HttpSeries,
    methods: Methods,
    grpc_active: AtomicU64,
    peers: Peers,
    pub(super) refusals: [AtomicU64; Refusal::ALL.len()],
    handshake: Box<Recorder>,
}

impl Requests {
    fn new(server: &Arc<str>, histograms: &Arc<Histograms>) -> Self {
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

    /// How many requests are under way.
    pub(super) fn active(&self) -> u64 {
        let http = self.http.0.iter().map(|series| series.active.load(Ordering::Relaxed));
        http.sum::<u64>() + self.grpc_active.load(Ordering::Relaxed)
    }

    /// How many of HTTP, by what tells them apart, where there ever was one.
    pub(super) fn http_active(&self) -> impl Iterator<Item = (u64, Vec<KeyValue>)> {
        let used = |series: &HttpKindSeries| {
            let active = series.active.load(Ordering::Relaxed);
            (active > 0 || series.durations.get().is_some()).then_some(active)
        };
        let kinds = self.http.0.iter().enumerate();
        kinds.filter_map(move |(kind, series)| Some((used(series)?, self.http_attributes(HttpKind(kind)))))
    }

    /// How many calls of each method began.
    pub(super) fn started(&self) -> Vec<(u64, Vec<KeyValue>)> {
        let started = |method: &Arc<MethodSeries>| {
            let count = method.started.load(Ordering::Relaxed);
            (count > 0).then(|| (count, self.grpc_attributes(method)))
        };
        self.methods.all().iter().filter_map(started).collect()
    }

    /// How many requests of each caller ended, by how.
    pub(super) fn by_peer(&self) -> Vec<(u64, Vec<KeyValue>)> {
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
    pub(super) fn distribution(&self, distribution: Distribution, sink: &mut dyn FnMut(&Recorder)) {
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

/// The calls of one method.
#[derive(Debug)]
pub(crate) struct MethodSeries {
    /// `package.Service/Method`.
    name: Arc<str>,
    started: AtomicU64,
    durations: [OnceLock<Box<Recorder>>; Code::ALL.len()],
}

impl MethodSeries {
    fn new(name: &str) -> Arc<Self> {
        let durations = std::array::from_fn(|_| OnceLock::new());
        Arc::new(Self { name: name.into(), started: AtomicU64::new(0), durations })
    }
}

/// The methods that answered so far: there is no other way to know them, and whoever calls can invent paths.
#[derive(Debug)]
struct Methods {
    known: ArcSwap<Index<Arc<MethodSeries>>>,
    writer: Mutex<()>,
    other: Arc<MethodSeries>,
}

impl Default for Methods {
    fn default() -> Self {
        Self { known: ArcSwap::default(), writer: Mutex::default(), other: MethodSeries::new(OTHER) }
    }
}

impl Methods {
    fn find(&self, path: &str) -> Option<Arc<MethodSeries>> {
        let name = path.strip_prefix('/').unwrap_or(path);
        self.known.load().find(hash(name), |method| *method.name == *name).cloned()
    }

    fn learn(&self, path: &str) -> Option<Arc<MethodSeries>> {
        if let Some(known) = self.find(path) {
            return Some(known);
        }
        let _writer = lock(&self.writer);
        if let Some(known) = self.find(path) {
            return Some(known);
        }
        let known = self.known.load();
        if known.len() >= MAX_METHODS {
            return None;
        }
        let method = MethodSeries::new(path.strip_prefix('/').unwrap_or(path));
        self.known.store(Arc::new(known.with(hash(&method.name), Arc::clone(&method))));
        Some(method)
    }

    fn all(&self) -> Vec<Arc<MethodSeries>> {
        let known = self.known.load();
        known.iter().map(|(_, method)| method).chain([&self.other]).cloned().collect()
    }
}

fn hash(text: &str) -> u64 {
    Hash::new().text(text).finish()
}

/// The requests of one caller.
#[derive(Debug)]
struct PeerSeries {
    name: Arc<str>,
    /// By [`Served`].
    counts: [AtomicU64; Served::ALL.len()],
    /// The sum of them when it was last looked at, and since when it is that.
    seen: Mutex<Option<(u64, Instant)>>,
}

impl PeerSeries {
    fn new(name: &str) -> Arc<Self> {
        Arc::new(Self { name: name.into(), counts: Default::default(), seen: Mutex::default() })
    }

    fn is_idle(&self, now: Instant) -> bool {
        let activity = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).fold(0, u64::wrapping_add);
        let mut seen = lock(&self.seen);
        let (last, since) = seen.get_or_insert((activity, now));
        if *last != activity {
            (*last, *since) = (activity, now);
        }
        now.saturating_duration_since(*since) >= KEEP
    }
}

/// The callers that proved who they are, those that did not, and those that there is no more room for.
#[derive(Debug)]
struct Peers {
    known: ArcSwap<Index<Arc<PeerSeries>>>,
    writer: Mutex<()>,
    nobody: Arc<PeerSeries>,
    other: Arc<PeerSeries>,
}

impl Default for Peers {
    fn default() -> Self {
        let (nobody, other) = (PeerSeries::new(NOBODY), PeerSeries::new(OTHER));
        Self { known: ArcSwap::default(), writer: Mutex::default(), nobody, other }
    }
}

impl Peers {
    fn count(&self, peer: Option<&str>, served: Served) {
        let count = |series: &PeerSeries| series.counts[served as usize].fetch_add(1, Ordering::Relaxed);
        let Some(name) = peer else {
            count(&self.nobody);
            return;
        };
        let known = self.known.load();
        match known.find(hash(name), |series| *series.name == *name) {
            Some(series) => count(series),
            None if known.len() >= MAX_PEERS => count(&self.other),
            None => count(&self.enter(name)),
        };
    }

    #[cold]
    fn enter(&self, name: &str) -> Arc<PeerSeries> {
        let _writer = lock(&self.writer);
        let known = self.known.load();
        if let Some(series) = known.find(hash(name), |series| *series.name == *name) {
            return Arc::clone(series);
        }
        if known.len() >= MAX_PEERS {
            return Arc::clone(&self.other);
        }
        let series = PeerSeries::new(name);
        self.known.store(Arc::new(known.with(hash(name), Arc::clone(&series))));
        series
    }

    fn sweep(&self, now: Instant) {
        // Each of them is looked at, so that it is known since when it is idle.
        let idle = self.known.load().iter().filter(|(_, peer)| peer.is_idle(now)).count();
        if idle == 0 {
            return;
        }
        let _writer = lock(&self.writer);
        let stay = self.known.load().iter().filter(|(_, peer)| !peer.is_idle(now)).cloned().collect();
        self.known.store(Arc::new(Index::new(stay)));
    }

    fn all(&self) -> Vec<Arc<PeerSeries>> {
        let known = self.known.load();
        known.iter().map(|(_, peer)| peer).chain([&self.nobody, &self.other]).cloned().collect()
    }
}

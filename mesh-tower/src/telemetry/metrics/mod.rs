//! What is counted: a registry of atomics, read by OpenTelemetry's callbacks and by the Prometheus page.
//!
//! ```text
//!  request ── table (immutable, by place) ──> Series (service, route, method) ──> Durations (service, method)
//!  backend ── slot of its Cluster ──────────> BackendSeries
//!  update, refusal ─────────────────────────> ConfigSeries
//! ```
//!
//! A request finds its [`Series`] in a table that is replaced whole when a series comes or goes: by the address of its
//! virtual host, the index of its route and its method, without a lock and without an allocation. The table holds the
//! virtual hosts it knows by address, so that none can be taken for another; an update makes new ones, which are led to
//! the series of the same names when first asked for. What can be read off the snapshot (endpoints, requests in flight)
//! is not counted at all but looked up when somebody collects.

mod backend;
mod buckets;
mod catalog;
mod config;
mod index;
mod instruments;
mod metric;
mod outcome;
mod reading;
mod series;
mod server;
mod table;
mod target;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use mesh_core::error::ErrorKind;
use mesh_core::model::BackendId;
use mesh_core::snapshot::VirtualHost;
use opentelemetry::metrics::Meter;

use self::backend::Backends;
pub(crate) use self::backend::{BackendSeries, Picked};
#[cfg(feature = "prometheus")]
pub(crate) use self::buckets::Recorder;
#[cfg(feature = "prometheus")]
pub(crate) use self::catalog::CATALOG;
use self::config::ConfigSeries;
use self::instruments::Histograms;
pub(crate) use self::instruments::{global_meter, meter};
#[cfg(all(test, feature = "prometheus"))]
pub(crate) use self::metric::Bounds;
#[cfg(feature = "prometheus")]
pub(crate) use self::metric::{Kind, Metric};
use self::series::Durations;
pub(crate) use self::series::{Ended, Series};
pub(crate) use self::server::{HttpKind, MethodSeries, OpenServed, Served, ServerSeries};
use self::table::{Key, Name, Table};
use crate::identity;
use crate::mesh::Core;
use crate::net::Snapshot;

/// The most series of requests: what comes then is counted as `other`, one series for gRPC and one for HTTP (TL-05).
/// Also OpenTelemetry's default limit for one instrument.
const MAX_SERIES: usize = 2_000;
/// How long series of what left the configuration are still shown (TL-10).
const KEEP: Duration = Duration::from_secs(600);

/// What kind of request a series counts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Call<'a> {
    /// A gRPC call, with its path if generated code stands for it. Any other path may be anything, and is counted as
    /// `other` (gRFC A66).
    Grpc(Option<&'a str>),
    /// Any other request, by its method.
    Http(&'a http::Method),
}

/// All series of a mesh.
pub(crate) struct Metrics {
    table: ArcSwap<Table>,
    /// Held by the one who replaces the table.
    writer: Mutex<()>,
    full: AtomicBool,
    histograms: Arc<Histograms>,
    backends: Mutex<Backends>,
    servers: Mutex<Vec<Arc<ServerSeries>>>,
    config: ConfigSeries,
    /// DNS look-ups that found something, and those that did not.
    lookups: [AtomicU64; 2],
    /// Requests that no route was found for, by kind of error.
    unrouted: [AtomicU64; ErrorKind::ALL.len()],
    core: OnceLock<Weak<Core>>,
}

impl Metrics {
    /// A registry whose observations also go to `meter`. `pages`: whether distributions are kept here, too, for pages of
    /// our own.
    pub(crate) fn new(meter: Option<&Meter>, pages: bool) -> Arc<Self> {
        let histograms = Arc::new(Histograms::new(meter, pages));
        let metrics = Arc::new(Self {
            table: ArcSwap::from_pointee(Table::new(&histograms)),
            writer: Mutex::default(),
            full: AtomicBool::new(false),
            histograms,
            backends: Mutex::default(),
            servers: Mutex::default(),
            config: ConfigSeries::new(Instant::now()),
            lookups: Default::default(),
            unrouted: Default::default(),
            core: OnceLock::new(),
        });
        if let Some(meter) = meter {
            instruments::observe(meter, &metrics);
        }
        metrics
    }

    /// Whether there is all that a page of our own needs.
    #[cfg(feature = "prometheus")]
    pub(crate) fn keeps_pages(&self) -> bool {
        self.histograms.keeps_pages()
    }

    /// Reads gauges off the snapshots of `core` from now on.
    pub(crate) fn attach(&self, core: &Arc<Core>) {
        // A mesh has one core.
        let _ = self.core.set(Arc::downgrade(core));
    }

    /// The series that a request belongs to.
    pub(crate) fn series(&self, host: &Arc<VirtualHost>, route: u32, call: Call<'_>) -> Arc<Series> {
        let (table, key) = (self.table.load(), Key::from(call));
        match table.find(host, route, key) {
            Some(series) => Arc::clone(series),
            None => self.enter(&table, host, route, key),
        }
    }

    /// A request that was not seen before, or not since the last update.
    #[cold]
    fn enter(&self, seen: &Table, host: &Arc<VirtualHost>, route: u32, key: Key<'_>) -> Arc<Series> {
        let known = seen.named(host, route, key);
        if known.is_none() && seen.len() >= MAX_SERIES {
            self.warn_full();
            return Arc::clone(seen.other(key));
        }
        if let Some(known) = known.filter(|_| seen.places_are_full()) {
            return Arc::clone(known);
        }
        let _writer = lock(&self.writer);
        let table = self.table.load();
        if let Some(series) = table.find(host, route, key) {
            return Arc::clone(series);
        }
        let series = match table.named(host, route, key) {
            Some(series) => Arc::clone(series),
            None if table.len() >= MAX_SERIES => return Arc::clone(table.other(key)),
            None => {
                let name = Name::of(host, route, key);
                let durations = table.durations(&name).unwrap_or_else(|| Durations::new(&name, &self.histograms));
                Arc::new(Series::new(name, durations))
            }
        };
        self.table.store(Arc::new(table.with(host, route, key, &series)));
        series
    }

    fn warn_full(&self) {
        if !self.full.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                target: crate::observe::TARGET,
                "metrics hold {MAX_SERIES} series of requests; services, routes and methods that come now are counted \
                 as `other`"
            );
        }
    }

    /// The series of a backend, the same one for as long as it is shown.
    pub(crate) fn backend(&self, id: &BackendId) -> Arc<BackendSeries> {
        lock(&self.backends).series(id)
    }

    /// The series of a server, which is shown from now on.
    pub(crate) fn server(&self, name: &Arc<str>) -> Arc<ServerSeries> {
        let series = Arc::new(ServerSeries::new(Arc::clone(name)).with_requests(&self.histograms));
        lock(&self.servers).push(Arc::clone(&series));
        series
    }

    /// A request found no route.
    pub(crate) fn unrouted(&self, kind: ErrorKind) {
        if let Some(index) = ErrorKind::ALL.iter().position(|other| *other == kind) {
            self.unrouted[index].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A name was looked up in DNS.
    pub(crate) fn lookup(&self, found: bool) {
        self.lookups[usize::from(!found)].fetch_add(1, Ordering::Relaxed);
    }

    /// `snapshot` is in force from `now` on. `configured`: it holds a new configuration, and not only endpoints that were
    /// found; `refused`: a newer configuration is not in force.
    pub(crate) fn published(&self, snapshot: &Snapshot, configured: bool, refused: bool, now: Instant) {
        self.config.published(snapshot.version());
        if configured {
            self.config.applied(refused, now);
        }
        {
            let mut backends = lock(&self.backends);
            backends.mark(|id| snapshot.backend_by_id(id).is_some(), now);
            backends.sweep(now);
        }
        let _writer = lock(&self.writer);
        let table = self.table.load();
        self.table.store(Arc::new(table.following(snapshot.virtual_hosts(), now).without_idle(now)));
    }

    /// A configuration was refused.
    pub(crate) fn refused(&self) {
        self.config.refused();
    }

    /// Lets go of what left the configuration and was not used for [`KEEP`].
    fn sweep(&self, now: Instant) {
        lock(&self.backends).sweep(now);
        lock(&self.servers).iter().for_each(|series| series.sweep(now));
        if self.table.load().has_idle(now) {
            let _writer = lock(&self.writer);
            let table = self.table.load();
            self.table.store(Arc::new(table.without_idle(now)));
        }
    }

    /// Everything as it is `now`, for whoever collects.
    pub(crate) fn read(&self, now: Instant) -> Reading<'_> {
        self.sweep(now);
        let core = self.core.get().and_then(Weak::upgrade);
        Reading {
            metrics: self,
            table: self.table.load_full(),
            backends: lock(&self.backends).all(),
            servers: lock(&self.servers).clone(),
            identity: core.as_ref().map(|core| core.shared.identities.facts()),
            snapshot: core.map(|core| core.snapshot.load_full()),
            now,
        }
    }
}

/// What is read at one collection.
pub(crate) struct Reading<'a> {
    metrics: &'a Metrics,
    table: Arc<Table>,
    backends: Vec<Arc<BackendSeries>>,
    servers: Vec<Arc<ServerSeries>>,
    identity: Option<identity::Facts>,
    snapshot: Option<Arc<Snapshot>>,
    now: Instant,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

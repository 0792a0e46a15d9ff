//! Connections: how they are made, kept, shared and given up.
//!
//! ```text
//! Endpoint (mesh-core) ── slot ──> Pool ──> h2: connections, admitted by the peer's stream limit
//!                                      └──> h1: idle connections, one request each
//! Backend  (mesh-core) ── slot ──> Cluster: TLS, protocol, timeouts, the queue of waiting requests
//! ```
//!
//! Every connection attempt and every connection runs on a task of its own, tracked by [`Tasks`]; a request that is
//! cancelled never takes a connection attempt with it. A [`Pool`] is the only one to change its endpoint's state.

pub(crate) mod account;
pub(crate) mod aside;
pub(crate) mod connect;
pub(crate) mod grpc;
pub(crate) mod h1;
pub(crate) mod h2;
pub(crate) mod io;
pub(crate) mod pool;
mod pulse;
mod queue;
mod room;
pub(crate) mod seldom;
mod tasks;
pub(crate) mod tls;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use mesh_core::model::{self, Address, BackendId, ConnectBackoff, Protocol};
use mesh_core::resilience::limits::Limit;
use mesh_core::resilience::outlier::EjectionChange;
use mesh_core::resilience::retry::RetryClassifier;
use mesh_core::snapshot::Transport;

use tokio::sync::Notify;
use tokio::time::Instant;

use account::Account;
pub(crate) use account::Claim;
pub use connect::{Connect, ConnectError, Connecting};
pub use io::Io;
pub(crate) use io::Stream;
pub(crate) use pool::Pool;
pub(crate) use queue::{Aside, Queue};
pub(crate) use room::Room;
pub(crate) use tasks::Tasks;

use crate::identity::{Identities, IdentitySource, NoIdentity};
use crate::observe::Observers;
use crate::telemetry::metrics::BackendSeries;
use crate::telemetry::{AccessSink, Telemetry};

/// The transport of a mesh: what all its connections share.
pub(crate) struct Net {
    pub(crate) shared: Arc<Shared>,
}

/// See [`Net`].
pub(crate) struct Shared {
    pub(crate) tasks: Tasks,
    pub(crate) observers: Observers,
    pub(crate) telemetry: Telemetry,
    /// The application's word on retries.
    pub(crate) classifier: Option<Arc<dyn RetryClassifier>>,
    /// What stands for this mesh where a hash asks for it (gRFC A42).
    pub(crate) channel_id: u64,
    pub(crate) connector: Option<Arc<dyn Connect>>,
    /// Where the access log goes beside `tracing`.
    pub(crate) access_log: Option<Arc<dyn AccessSink>>,
    pub(crate) provider: Arc<rustls::crypto::CryptoProvider>,
    pub(crate) identities: Identities,
    /// Who brings them, where the configuration leaves that to the application.
    pub(crate) identity_source: Option<Arc<dyn IdentitySource>>,
    /// The peers of its connections by mutual TLS.
    pub(crate) sessions: tls::Sessions,
}

impl Shared {
    /// Has the identity come from where `settings` say, or from nowhere.
    ///
    /// # Errors
    /// If the application is to bring it, and does not.
    pub(crate) fn identify(&self, settings: Option<&Arc<model::Identity>>) -> Result<(), NoIdentity> {
        match settings {
            Some(settings) => self.identities.start(settings, self.identity_source.as_ref()),
            None => {
                self.identities.clear();
                Ok(())
            }
        }
    }
}

/// A compiled backend with this crate's transport.
pub(crate) type Backend = mesh_core::snapshot::Backend<Net>;
/// A snapshot with this crate's transport.
pub(crate) type Snapshot = mesh_core::snapshot::Snapshot<Net>;
/// An endpoint with its connections.
pub(crate) type Endpoint = mesh_core::balance::Endpoint<Pool>;

/// What the endpoints of a backend share.
pub(crate) struct Cluster {
    pub(crate) id: BackendId,
    pub(crate) protocol: Protocol,
    pub(crate) tls: Option<tls::Client>,
    pub(crate) connect_timeout: Duration,
    pub(crate) connect_backoff: ConnectBackoff,
    /// How connections are kept, and how many there are.
    account: Arc<Account>,
    /// Requests that wait for an endpoint or a stream.
    pub(crate) queue: Arc<Queue>,
    /// Woken at each change of an endpoint's state.
    pub(crate) changed: Notify,
    /// In which order endpoints are connected, where that is one after the other.
    order: pool::Order,
    /// What is counted of it, if anything is.
    pub(crate) series: Option<Arc<BackendSeries>>,
    pub(crate) shared: Arc<Shared>,
    /// Who used it so far: [`HTTP`], [`GRPC`] or both; and [`RECENT`].
    users: AtomicU8,
}

/// How long a request without any deadline waits for an endpoint, a stream or a connection. No wait is unbounded.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(30);
/// Requests of HTTP clients.
const HTTP: u8 = 1;
/// gRPC calls.
const GRPC: u8 = 2;
/// Anybody, since somebody looked.
const RECENT: u8 = 4;

/// 30 years.
pub(crate) const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// `at` and `duration` added; what no clock reaches counts as 30 years.
pub(crate) fn after(at: Instant, duration: Duration) -> Instant {
    at + duration.min(FAR)
}

/// What a request needs of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// HTTP/1.1, in plaintext or because the backend speaks nothing else.
    Http1,
    /// HTTP/2.
    Http2,
    /// What ALPN agrees on.
    Negotiated,
}

impl Cluster {
    /// What a request needs of a connection to this backend; `None` for gRPC to a backend that speaks HTTP/1.1 only.
    pub(crate) fn wanted(&self, grpc: bool) -> Option<Wanted> {
        match (self.protocol, grpc) {
            (Protocol::Http1, true) => None,
            (Protocol::Http1, false) => Some(Wanted::Http1),
            (Protocol::Http2, _) => Some(Wanted::Http2),
            (Protocol::Auto, _) if self.negotiates() => Some(Wanted::Negotiated),
            (Protocol::Auto, true) => Some(Wanted::Http2),
            (Protocol::Auto, false) => Some(Wanted::Http1),
        }
    }

    /// Whether the endpoint of `config` is spoken to by TLS.
    fn secures(&self, config: &model::Endpoint) -> bool {
        self.tls.as_ref().is_some_and(|tls| !tls.is_auto() || config.mesh)
    }

    /// Remembers that gRPC calls, or requests of HTTP clients, use it.
    pub(crate) fn mark_used(&self, grpc: bool) {
        let marks = RECENT | if grpc { GRPC } else { HTTP };
        if self.users.load(Ordering::Relaxed) & marks != marks {
            self.users.fetch_or(marks, Ordering::Relaxed);
        }
    }

    /// Whether it was used since this was asked last.
    pub(crate) fn take_recent(&self) -> bool {
        self.users.fetch_and(!RECENT, Ordering::Relaxed) & RECENT != 0
    }

    /// Who used it so far, for [`expect`](Self::expect) of another.
    pub(crate) fn users(&self) -> u8 {
        self.users.load(Ordering::Relaxed) & (HTTP | GRPC)
    }

    /// Expects the users of another backend.
    pub(crate) fn expect(&self, users: u8) {
        self.users.fetch_or(users, Ordering::Relaxed);
    }

    /// A limit of the backend is reached.
    pub(crate) fn overflow(&self, limit: Limit) {
        self.shared.observers.overflow(&self.id, limit);
        if let Some(series) = &self.series {
            series.overflowed(limit);
        }
    }

    /// Outlier detection took an endpoint out, or brought it back.
    pub(crate) fn ejection(&self, endpoint: &Address, change: EjectionChange) {
        self.shared.observers.ejection(&self.id, endpoint, change);
        if let Some(series) = &self.series {
            series.ejection(change);
        }
        self.changed.notify_waiters();
        self.queue.wake_all();
    }

    /// An endpoint became unhealthy for a `reason`, or healthy again.
    pub(crate) fn health(&self, endpoint: &Address, healthy: bool, reason: Option<&str>) {
        self.shared.observers.health(&self.id, endpoint, healthy, reason);
        self.changed.notify_waiters();
        self.queue.wake();
    }

    /// Whether requests for HTTP/1.1 use it.
    pub(crate) fn serves_http1(&self) -> bool {
        self.users() & HTTP != 0 && self.wanted(false) == Some(Wanted::Http1)
    }

    /// Whether ALPN decides between HTTP/1.1 and HTTP/2. Where some endpoints are spoken to in plaintext the request
    /// does, at all of them.
    fn negotiates(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| !tls.is_auto())
    }

    /// Whether all its endpoints are spoken to by TLS.
    pub(crate) fn is_secure(&self) -> bool {
        self.negotiates()
    }

    /// Whether a request decides between HTTP/1.1 and HTTP/2: neither the configuration nor ALPN does.
    pub(crate) fn speaks_both(&self) -> bool {
        self.protocol == Protocol::Auto && !self.negotiates()
    }

    /// What is offered by ALPN for `wanted`. Where gRPC alone uses a peer of the mesh, nothing else: a sidecar in front
    /// of it hands on what it was spoken to.
    fn offer(&self, tls: &tls::Client, wanted: Wanted) -> tls::Offer {
        match wanted {
            Wanted::Http1 => tls::Offer::Http1,
            Wanted::Http2 => tls::Offer::Http2,
            Wanted::Negotiated if tls.is_mutual() && self.users() == GRPC => tls::Offer::Http2,
            Wanted::Negotiated => tls::Offer::Both,
        }
    }

    /// Whether a connection for `wanted` speaks HTTP/2, by what ALPN `agreed` on. A peer of the mesh that does not say
    /// is spoken to as its users need.
    fn takes_h2(&self, wanted: Wanted, agreed: Option<bool>) -> bool {
        match wanted {
            Wanted::Http1 => false,
            Wanted::Http2 => true,
            Wanted::Negotiated => agreed
                .unwrap_or_else(|| self.tls.as_ref().is_some_and(tls::Client::is_mutual) && self.users() & GRPC != 0),
        }
    }

    /// What is asked of the connection that follows one of HTTP/2.
    fn reconnects_by(&self) -> Wanted {
        let wanted = if self.negotiates() { Wanted::Negotiated } else { Wanted::Http2 };
        self.used().unwrap_or(wanted)
    }

    /// What its users need of a connection, gRPC first; `None` if nobody used it.
    pub(crate) fn used(&self) -> Option<Wanted> {
        let users = self.users();
        let grpc = (users & GRPC != 0).then(|| self.wanted(true)).flatten();
        grpc.or_else(|| (users != 0).then(|| self.wanted(false)).flatten())
    }
}

impl Transport for Net {
    type Backend = Cluster;
    type Endpoint = Pool;
    type Error = tls::TlsConfigError;

    fn backend(&self, config: &model::Backend, previous: Option<&Arc<Cluster>>) -> Result<Cluster, Self::Error> {
        let tls = config.tls.as_ref().map(|tls| tls::Client::new(tls, config, &self.shared.provider)).transpose()?;
        Ok(Cluster {
            id: config.id.clone(),
            protocol: config.protocol,
            tls,
            connect_timeout: config.connect_timeout,
            connect_backoff: config.connect_backoff,
            account: previous.map_or_else(|| Arc::new(Account::new(config)), |previous| Arc::clone(&previous.account)),
            // Who waits keeps their place when the settings change.
            queue: previous.map_or_else(|| Arc::new(Queue::new()), |previous| Arc::clone(&previous.queue)),
            changed: Notify::new(),
            order: pool::Order::default(),
            series: self.shared.telemetry.metrics.as_ref().map(|metrics| metrics.backend(&config.id)),
            shared: Arc::clone(&self.shared),
            users: AtomicU8::new(previous.map_or(0, |previous| previous.users())),
        })
    }

    fn update(&self, backend: &Arc<Cluster>, config: &model::Backend) {
        backend.account.update(config);
    }

    fn endpoint(&self, backend: &Arc<Cluster>, config: &model::Endpoint) -> Pool {
        Pool::new(Arc::clone(backend), backend.secures(config))
    }

    fn keeps(&self, endpoint: &Pool, config: &model::Endpoint) -> bool {
        endpoint.is_secure() == endpoint.cluster.secures(config)
    }
}

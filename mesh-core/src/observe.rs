//! The events of the request path. Telemetry, and whoever wants to watch, plugs in here.
//!
//! Events borrow what they tell; nothing is formatted or allocated for an observer that is not there.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::balance::State;
use crate::error::ErrorKind;
use crate::grpc::Code;
use crate::identity::SpiffeId;
use crate::model::{Address, BackendId, Finder};
use crate::resilience::limits::Limit;
use crate::resilience::outlier::EjectionChange;

/// Watches a mesh.
///
/// Called on the request path, on whatever task the event happens: an observer must be quick and must not block. A
/// panic of an observer is caught and logged; the mesh goes on as if it had been told.
pub trait Observer: Send + Sync + 'static {
    /// Something happened.
    fn event(&self, event: &Event<'_>);
}

impl<O: Observer + ?Sized> Observer for Arc<O> {
    fn event(&self, event: &Event<'_>) {
        (**self).event(event);
    }
}

/// Something that happened in a mesh.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A request ended: its response body was read to the end or dropped, or it failed.
    Request(Request<'a>),
    /// An attempt ended: it has a response head, or failed.
    Attempt(Attempt<'a>),
    /// A server of this process answered a request to the end, or its caller went away.
    Served(Served<'a>),
    /// A balancer was asked for an endpoint.
    Pick(Pick<'a>),
    /// A connection attempt ended.
    Connect(Connect<'a>),
    /// An endpoint changed its state.
    Endpoint(Endpoint<'a>),
    /// An endpoint was taken out for what it answered, or came back.
    Ejection(Ejection<'a>),
    /// An endpoint became unhealthy by its answers to health checks, or healthy again.
    Health(Health<'a>),
    /// A request was refused by a limit of ours.
    Overflow(Overflow<'a>),
    /// Requests of a backend go to another priority than before, or go to all endpoints in a panic.
    Priority(Priority<'a>),
    /// A configuration was applied or refused.
    Config(Config<'a>),
    /// Endpoints were looked up by name.
    Lookup(Lookup<'a>),
    /// The identity of this process changed, was not renewed, or comes to its end.
    Identity(Identity<'a>),
}

/// A request that ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Request<'a> {
    /// The virtual host, if one was found.
    pub service: Option<&'a str>,
    /// The route's name, if one matched and has a name.
    pub route: Option<&'a str>,
    /// The backend that was drawn, if it came so far.
    pub backend: Option<&'a BackendId>,
    /// How it ended.
    pub outcome: Outcome,
    /// How many attempts were made, transparent resends included.
    pub attempts: u32,
    /// From the call to the end.
    pub duration: Duration,
    /// The version of the configuration that routed it.
    pub config_version: u64,
}

impl<'a> Request<'a> {
    /// A request that ended as `outcome` says.
    pub fn new(outcome: Outcome, duration: Duration) -> Self {
        Self { service: None, route: None, backend: None, outcome, attempts: 0, duration, config_version: 0 }
    }
}

/// An attempt that ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Attempt<'a> {
    /// The virtual host.
    pub service: &'a str,
    /// The backend.
    pub backend: &'a BackendId,
    /// The endpoint, if one was picked.
    pub endpoint: Option<&'a Address>,
    /// 1 for the first.
    pub number: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// From its beginning, a wait for an endpoint included, to the response head.
    pub duration: Duration,
    /// What comes next.
    pub next: Next,
    /// The version of the configuration that routed it.
    pub config_version: u64,
}

impl<'a> Attempt<'a> {
    /// An attempt at `service`'s `backend`.
    pub fn new(service: &'a str, backend: &'a BackendId, number: u32, outcome: Outcome) -> Self {
        Self {
            service,
            backend,
            endpoint: None,
            number,
            outcome,
            duration: Duration::ZERO,
            next: Next::Return,
            config_version: 0,
        }
    }
}

/// A request that a server of this process served, or refused.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Served<'a> {
    /// The server's name.
    pub server: &'a str,
    /// Who called, if that is proved.
    pub peer: Option<&'a SpiffeId>,
    /// How it ended, as the caller sees it; never [`Outcome::Failed`].
    pub outcome: Outcome,
    /// Why it was refused or given up, as a word such as `not_mutual`; `None` if it was served.
    pub refusal: Option<&'a str>,
    /// From the request's head to the end of the response.
    pub duration: Duration,
}

impl<'a> Served<'a> {
    /// A request of nobody known that `server` served.
    pub fn new(server: &'a str, outcome: Outcome, duration: Duration) -> Self {
        Self { server, peer: None, outcome, refusal: None, duration }
    }
}

/// What follows an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Next {
    /// Its result goes to the caller.
    Return,
    /// It is sent again at once, because the peer never processed it.
    Resend,
    /// It is tried again after a pause, by the retry policy.
    Retry,
    /// The policy would try again; the retry budget did not allow it.
    BudgetExhausted,
    /// Another attempt of the request goes on beside it, or was quicker.
    Hedge,
}

/// How a request or an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// With a response.
    Response {
        /// Its HTTP status.
        status: http::StatusCode,
        /// Its gRPC code, where it is known: from a head without a body, or from trailers.
        grpc: Option<Code>,
    },
    /// Without one.
    Failed(ErrorKind),
    /// The caller lost interest: in a request without a response, in the middle of a body, or in a gRPC call before its
    /// status. An HTTP response whose body nobody asked for counts as received.
    Cancelled,
}

/// A balancer was asked.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Pick<'a> {
    /// The backend.
    pub backend: &'a BackendId,
    /// The endpoint that was chosen; `None` if the request has to wait or fails.
    pub endpoint: Option<&'a Address>,
}

impl<'a> Pick<'a> {
    /// `endpoint` was chosen, or none.
    pub fn new(backend: &'a BackendId, endpoint: Option<&'a Address>) -> Self {
        Self { backend, endpoint }
    }
}

/// A connection attempt ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Connect<'a> {
    /// The backend.
    pub backend: &'a BackendId,
    /// The endpoint.
    pub endpoint: &'a Address,
    /// What went wrong, or `None`.
    pub error: Option<&'a (dyn std::error::Error + Send + Sync + 'static)>,
    /// How long it took.
    pub duration: Duration,
}

impl<'a> Connect<'a> {
    /// An attempt that succeeded.
    pub fn new(backend: &'a BackendId, endpoint: &'a Address, duration: Duration) -> Self {
        Self { backend, endpoint, error: None, duration }
    }
}

/// An endpoint changed its state.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Endpoint<'a> {
    /// The backend.
    pub backend: &'a BackendId,
    /// The endpoint.
    pub endpoint: &'a Address,
    /// The new state.
    pub state: State,
}

impl<'a> Endpoint<'a> {
    /// `endpoint` is `state` now.
    pub fn new(backend: &'a BackendId, endpoint: &'a Address, state: State) -> Self {
        Self { backend, endpoint, state }
    }
}

/// An endpoint was taken out for what it answered, or came back.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Ejection<'a> {
    /// The backend.
    pub backend: &'a BackendId,
    /// The endpoint.
    pub endpoint: &'a Address,
    /// What happened.
    pub change: EjectionChange,
}

impl<'a> Ejection<'a> {
    /// `change` happened to `endpoint`.
    pub fn new(backend: &'a BackendId, endpoint: &'a Address, change: EjectionChange) -> Self {
        Self { backend, endpoint, change }
    }
}

/// An endpoint became unhealthy by its answers to health checks, or healthy again.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Health<'a> {
    /// The backend.
    pub backend: &'a BackendId,
    /// The endpoint.
    pub endpoint: &'a Address,
    /// What it is now.
    pub healthy: bool,
    /// What was wrong with the last answer, for people to read: `status 404, expected 200..=299`. `None` where the
    /// endpoint is healthy.
    pub reason: Option<&'a str>,
}

impl<'a> Health<'a> {
    /// `endpoint` is `healthy` now, or not.
    pub fn new(backend: &'a BackendId, endpoint: &'a Address, healthy: bool) -> Self {
        Self { backend, endpoint, healthy, reason: None }
    }

    /// With what was wrong with the last answer.
    #[must_use]
    pub fn with_reason(mut self, reason: Option<&'a str>) -> Self {
        self.reason = reason;
        self
    }
}

/// A request was refused by a limit of ours: it was not sent, and is not retried.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Overflow<'a> {
    /// The backend.
    pub backend: &'a BackendId,
    /// The limit.
    pub limit: Limit,
}

impl<'a> Overflow<'a> {
    /// `limit` of `backend` is reached.
    pub fn new(backend: &'a BackendId, limit: Limit) -> Self {
        Self { backend, limit }
    }
}

/// Requests of a backend go to another priority than before, or go to all endpoints in a panic.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Priority<'a> {
    /// The backend.
    pub backend: &'a BackendId,
    /// The first priority that gets requests; `None` if no endpoint of any is available.
    pub priority: Option<u32>,
    /// How many steps that is away, where endpoints nearby come first
    /// ([`LocalityPolicy::prefer`](crate::model::LocalityPolicy::prefer)); 0 elsewhere.
    pub distance: u32,
    /// Whether requests go to endpoints whatever their health.
    pub panic: bool,
}

impl<'a> Priority<'a> {
    /// Requests of `backend` go to `priority` now.
    pub fn new(backend: &'a BackendId, priority: Option<u32>, panic: bool) -> Self {
        Self { backend, priority, distance: 0, panic }
    }
}

/// A configuration was applied or refused.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config<'a> {
    /// The version in force after this event; the first is 1.
    pub version: u64,
    /// Where it came from: a path, or a word for the source.
    pub source: &'a str,
    /// Why it was refused; `None` if it is in force.
    pub error: Option<&'a (dyn std::error::Error + 'static)>,
}

impl<'a> Config<'a> {
    /// `version` from `source` is in force.
    pub fn new(version: u64, source: &'a str) -> Self {
        Self { version, source, error: None }
    }
}

/// Endpoints were looked up by name, successfully or not.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Lookup<'a> {
    /// Who was asked for what.
    pub finder: &'a Finder,
    /// How many endpoints were found; 0 if it failed.
    pub endpoints: usize,
    /// Why it failed, or `None`. The endpoints that were found last stay in use.
    pub error: Option<&'a str>,
    /// How long it took.
    pub duration: Duration,
}

impl<'a> Lookup<'a> {
    /// A look-up that found `endpoints`.
    pub fn new(finder: &'a Finder, endpoints: usize, duration: Duration) -> Self {
        Self { finder, endpoints, error: None, duration }
    }
}

/// Something happened to the identity of this process.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Identity<'a> {
    /// Who brings it, such as `files /etc/tls/tls.crt, /etc/tls/tls.key`.
    pub source: &'a str,
    /// What happened.
    pub change: IdentityChange<'a>,
}

/// What happens to identities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdentityChange<'a> {
    /// The next handshakes use a new one.
    Changed {
        /// How many there were, this one included.
        generation: u64,
        /// Its SPIFFE id. `None` in a plain PKI.
        id: Option<&'a SpiffeId>,
        /// Until when its certificate is valid.
        not_after: SystemTime,
    },
    /// Something new is not used, or the source cannot be reached. The last good identity stays. Told once for each
    /// failure that differs from the one before.
    Failed {
        /// What is wrong, for people to read. There is nothing of a key in it.
        error: &'a str,
    },
    /// Less than a fifth of the certificate's life is left. Told once for each identity.
    Expiring {
        /// Until when it is valid.
        not_after: SystemTime,
    },
    /// The certificate has expired: peers refuse it. Told once for each identity.
    Expired {
        /// Until when it was valid.
        not_after: SystemTime,
    },
}

impl<'a> Identity<'a> {
    /// `change` happened to what `source` brings.
    pub fn new(source: &'a str, change: IdentityChange<'a>) -> Self {
        Self { source, change }
    }
}

impl IdentityChange<'_> {
    /// `changed`, `failed`, `expiring` or `expired`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Changed { .. } => "changed",
            Self::Failed { .. } => "failed",
            Self::Expiring { .. } => "expiring",
            Self::Expired { .. } => "expired",
        }
    }
}

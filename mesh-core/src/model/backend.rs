use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{
    AdmissionControl, CircuitBreaker, ConnectionPolicy, Discovery, Endpoint, HealthCheck, LoadBalancer, LocalityPolicy,
    OutlierDetection, RetryBudget, SlowStart,
};
use crate::identity::SanMatch;

/// The identity of a backend: the service that owns it and its name there.
///
/// Two services of a file may both have a backend `v1`. A source whose backends are global (xDS clusters) leaves
/// `service` empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendId {
    /// The owning service, or empty.
    pub service: Arc<str>,
    /// The name within the service.
    pub name: Arc<str>,
}

impl BackendId {
    /// The backend `name` of `service`.
    pub fn new(service: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { service: service.into(), name: name.into() }
    }
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.service.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.service, self.name) }
    }
}

/// A set of equal endpoints and how to reach them: a cluster, in the words of xDS.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Backend {
    /// Its identity. State (connections, retry budget) survives an update that keeps it.
    pub id: BackendId,
    /// Its endpoints, without duplicates. May be empty: requests then fail as "no endpoint". With a
    /// [`discovery`](Self::discovery) those that were found last.
    pub endpoints: Vec<Endpoint>,
    /// How endpoints are found, where the source does not list them.
    pub discovery: Option<Discovery>,
    /// Which HTTP version to speak.
    pub protocol: Protocol,
    /// How an endpoint is chosen.
    pub load_balancer: LoadBalancer,
    /// How requests are divided among localities and priorities.
    pub localities: LocalityPolicy,
    /// How many of the endpoints of a priority this mesh uses, and of each [part](super::WeightedBackend::subset) that
    /// routes name; the same ones as long as they are there and may be picked (gRFC A68). `None`: all.
    pub subset_size: Option<NonZeroU32>,
    /// How an endpoint that just became ready comes up to its full share. `None`: at once.
    pub slow_start: Option<SlowStart>,
    /// Bound of one connection attempt, TCP and TLS together. Default 5 s (Envoy's).
    pub connect_timeout: Duration,
    /// Pause between failed connection attempts.
    pub connect_backoff: ConnectBackoff,
    /// How connections are kept and when they are given up.
    pub connections: ConnectionPolicy,
    /// How many retries may be under way at once.
    pub retry_budget: RetryBudget,
    /// What may be under way at once.
    pub circuit_breaker: CircuitBreaker,
    /// When an endpoint is taken out for what it answers. `None`: never.
    pub outlier_detection: Option<OutlierDetection>,
    /// When requests are refused for the failures of others. `None`: never.
    pub admission_control: Option<AdmissionControl>,
    /// How endpoints are asked for their health. `None`: not at all.
    pub health_check: Option<HealthCheck>,
    /// TLS towards the endpoints; `None` is plaintext.
    pub tls: Option<Tls>,
}

impl Backend {
    /// A plaintext backend with the defaults of this crate.
    pub fn new(id: BackendId, endpoints: Vec<Endpoint>) -> Self {
        Self {
            id,
            endpoints,
            discovery: None,
            protocol: Protocol::default(),
            load_balancer: LoadBalancer::default(),
            localities: LocalityPolicy::default(),
            subset_size: None,
            slow_start: None,
            connect_timeout: Self::DEFAULT_CONNECT_TIMEOUT,
            connect_backoff: ConnectBackoff::default(),
            connections: ConnectionPolicy::default(),
            retry_budget: RetryBudget::default(),
            circuit_breaker: CircuitBreaker::default(),
            outlier_detection: None,
            admission_control: None,
            health_check: None,
            tls: None,
        }
    }

    /// The connect timeout where none is configured.
    pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
}

/// Which HTTP version to speak to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// Over TLS whatever ALPN agrees on; in plaintext HTTP/1.1 for the HTTP client and HTTP/2 for gRPC.
    #[default]
    Auto,
    /// HTTP/1.1 only. gRPC calls to such a backend fail with a clear error.
    Http1,
    /// HTTP/2 only; in plaintext by prior knowledge.
    Http2,
}

/// Pause between failed connection attempts of one endpoint (gRPC connection backoff): 1 s, then x1.6, at most 120 s,
/// each jittered by ±20 %. A completed connection resets it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ConnectBackoff {
    /// The first pause. Default 1 s.
    pub base: Duration,
    /// The longest pause. Default 120 s.
    pub max: Duration,
}

impl Default for ConnectBackoff {
    fn default() -> Self {
        Self { base: Duration::from_secs(1), max: Duration::from_secs(120) }
    }
}

/// TLS towards the endpoints of a backend. It never falls back to plaintext.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Tls {
    /// Who proves what to whom.
    pub mode: TlsMode,
    /// The name sent as SNI. With [`TlsMode::Simple`] it is also verified in the certificate, and `None` is the name of
    /// the service, which is what callers write; where that is no host name, the endpoint's IP address. With
    /// [`TlsMode::Mutual`] `None` sends none, and nothing is compared with it.
    pub server_name: Option<Arc<str>>,
    /// Whom to trust. `None`: with [`TlsMode::Simple`] the public authorities, with [`TlsMode::Mutual`] whom the
    /// identity trusts.
    pub roots: Option<RootCertificates>,
    /// Who the peer must be: one of its names must be one of these (gRFC A29). Empty: with [`TlsMode::Simple`] the name
    /// of the host, with [`TlsMode::Mutual`] anybody who is trusted.
    pub identities: Vec<SanMatch>,
}

/// Who proves what to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TlsMode {
    /// The server proves its name, the client proves nothing.
    Simple,
    /// Both prove who they are; ALPN is that of Istio's sidecars. Without an identity connections fail.
    Mutual,
    /// Mutual with endpoints that take part in the mesh ([`Endpoint::mesh`]), plaintext with the others. From a control
    /// plane, or where the file marks endpoints; never a default.
    Auto,
}

impl Tls {
    /// TLS with an ordinary server, which must prove the service's name to those who trust `roots`.
    pub fn simple(roots: RootCertificates) -> Self {
        Self { mode: TlsMode::Simple, server_name: None, roots: Some(roots), identities: Vec::new() }
    }

    /// Mutual TLS with whoever is one of `identities`; with anybody whom the identity trusts if there are none.
    pub fn mutual(identities: Vec<SanMatch>) -> Self {
        Self { mode: TlsMode::Mutual, server_name: None, roots: None, identities }
    }
}

/// The certificate authorities a TLS client trusts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RootCertificates {
    /// The public authorities of Mozilla's root programme, compiled in.
    WebPki,
    /// A file of PEM certificates, and nothing else.
    PemFile(PathBuf),
}

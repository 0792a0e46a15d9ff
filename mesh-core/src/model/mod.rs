//! What every configuration source is translated into: plain, validated data.
//!
//! A source (the YAML file today, DNS and xDS beside it) owns its own syntax and its own error messages; what it hands
//! on is a [`Config`]. Names and shapes follow xDS and Gateway API, so that each source can say here all that it knows:
//! a [`VirtualHost`] is an xDS virtual host and a `services:` entry of the file, a [`Backend`] is an xDS cluster.
//!
//! Values are shared by `Arc` and compared by value: a source may build everything anew on each change, and the
//! [compiler](crate::snapshot) still touches only what differs.

mod backend;
mod balancing;
mod connection;
mod discovery;
mod endpoint;
mod identity;
mod overload;
mod pattern;
mod policy;
mod route;
mod server;
mod settings;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use backend::{Backend, BackendId, ConnectBackoff, Protocol, RootCertificates, Tls, TlsMode};
pub use balancing::{
    LoadBalancer, LocalityPolicy, Maglev, PeakEwma, Proximity, RingHash, SlowStart, WeightedRoundRobin,
};
pub use connection::{ConnectionPolicy, HealthCheck, HealthProbe, Keepalive};
pub use discovery::{Discovered, Discovery, DnsName, Finder};
pub use endpoint::{Address, Endpoint, Health, Locality, Metadata, Place};
pub use identity::{Identity, IdentityFiles, IdentityFrom, TrustFile};
pub use overload::{
    AdmissionControl, CircuitBreaker, Consecutive, FailurePercentage, GrpcFailures, OutlierDetection, Recovery,
    SuccessRate,
};
pub use pattern::{Pattern, PatternError, Rewrite};
pub use policy::{
    Backoff, HashPolicy, HashSource, HedgePolicy, RetryBudget, RetryMethods, RetryOn, RetryPolicy, RetryThrottling,
    SessionAffinity, UnknownCondition,
};
pub use route::{
    Forward, Fraction, HeaderMatch, HostPattern, HostPatternError, PathMatch, PolicyOverride, QueryMatch, Route,
    RouteAction, RouteMatch, RoutePolicy, StringMatch, ValueMatch, VirtualHost, WeightedBackend,
};
pub use server::{AccessLog, Admin, Drain, ForwardedIdentity, Listen, Server, ServerLimits, ServerTls};
pub use settings::{Defaults, DnsSettings, Propagator, Settings, TelemetrySettings, UnknownServices};

/// Everything a mesh needs to know: which names route where, what stands behind each backend, and what it serves.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// Virtual hosts, in the order of the source. Two of them must not claim the same host pattern.
    pub virtual_hosts: Vec<Arc<VirtualHost>>,
    /// Backends by identity. A route may name a backend that is not here; requests that draw it fail with
    /// [`BackendNotFound`](crate::error::ErrorKind::BackendNotFound).
    pub backends: BTreeMap<BackendId, Arc<Backend>>,
    /// Servers by name.
    pub servers: BTreeMap<Arc<str>, Arc<Server>>,
    /// What holds for the mesh as a whole.
    pub settings: Arc<Settings>,
}

impl Config {
    /// A configuration that knows no name.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a virtual host.
    pub fn with_virtual_host(mut self, virtual_host: VirtualHost) -> Self {
        self.virtual_hosts.push(Arc::new(virtual_host));
        self
    }

    /// Replaces the settings.
    pub fn with_settings(mut self, settings: Settings) -> Self {
        self.settings = Arc::new(settings);
        self
    }

    /// Adds a server, or replaces the one of the same name.
    pub fn with_server(mut self, server: Server) -> Self {
        self.servers.insert(Arc::clone(&server.name), Arc::new(server));
        self
    }

    /// Adds a backend, or replaces the one of the same identity.
    pub fn with_backend(mut self, backend: Backend) -> Self {
        self.backends.insert(backend.id.clone(), Arc::new(backend));
        self
    }
}

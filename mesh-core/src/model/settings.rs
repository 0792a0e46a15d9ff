use std::sync::Arc;
use std::time::Duration;

use super::{
    Admin, Backend, CircuitBreaker, Identity, Keepalive, LoadBalancer, OutlierDetection, Place, Protocol, RetryPolicy,
    Tls,
};

/// What holds for the mesh as a whole.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct Settings {
    /// What becomes of a request to a name that no virtual host claims.
    pub unknown_services: UnknownServices,
    /// What a service gets that is known by its DNS name alone. A source applies them to what it declares itself.
    pub defaults: Defaults,
    /// How names are looked up.
    pub dns: DnsSettings,
    /// What requests tell others about themselves.
    pub telemetry: TelemetrySettings,
    /// Where this process runs. Default: nobody knows.
    pub locality: Place,
    /// Who this process is. Default: nobody, and TLS proves nothing to anybody.
    pub identity: Option<Arc<Identity>>,
    /// The admin listener. Default: none.
    pub admin: Option<Admin>,
}

/// What becomes of a request to a name that no virtual host claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum UnknownServices {
    /// It fails, with the nearest name there is.
    #[default]
    Refuse,
    /// The name is looked up in DNS, and the request goes there with the [`Defaults`].
    Dns,
}

/// What routes and backends get that do not say otherwise.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Defaults {
    /// Bound of a whole request with all its retries. Default: none.
    pub timeout: Option<Duration>,
    /// When to try again. Default: never.
    pub retry: Option<Arc<RetryPolicy>>,
    /// Bound of one connection attempt. Default 5 s.
    pub connect_timeout: Duration,
    /// How an endpoint is chosen. Default round robin.
    pub load_balancer: LoadBalancer,
    /// Which HTTP version to speak. Default `auto`.
    pub protocol: Protocol,
    /// What may be under way at once towards a backend. Default: no limit.
    pub circuit_breaker: CircuitBreaker,
    /// When an endpoint is taken out for what it answers. Default: never.
    pub outlier_detection: Option<OutlierDetection>,
    /// Pings over connections. Default: none.
    pub keepalive: Option<Keepalive>,
    /// TLS towards endpoints. Default: [mutual](super::TlsMode::Mutual) with an [identity](Settings::identity), else
    /// plaintext.
    pub tls: Option<Tls>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            timeout: None,
            retry: None,
            connect_timeout: Backend::DEFAULT_CONNECT_TIMEOUT,
            load_balancer: LoadBalancer::default(),
            protocol: Protocol::default(),
            circuit_breaker: CircuitBreaker::default(),
            outlier_detection: None,
            keepalive: None,
            tls: None,
        }
    }
}

/// How names are looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct DnsSettings {
    /// A name is looked up again no sooner than this after it was, whatever its TTL. Default 5 s.
    pub min_ttl: Duration,
    /// And no later than this. Default 5 min.
    pub max_ttl: Duration,
    /// Bound of one lookup with all its queries. Default 5 s.
    pub timeout: Duration,
}

impl Default for DnsSettings {
    fn default() -> Self {
        Self { min_ttl: Duration::from_secs(5), max_ttl: Duration::from_secs(300), timeout: Duration::from_secs(5) }
    }
}

/// What requests tell others about themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TelemetrySettings {
    /// How the trace context travels with a request, in the order in which headers are written. Empty: not at all.
    /// Default W3C trace context and baggage.
    pub propagators: Vec<Propagator>,
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        Self { propagators: vec![Propagator::TraceContext, Propagator::Baggage] }
    }
}

/// A format in which the trace context travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Propagator {
    /// `traceparent` and `tracestate` (W3C Trace Context).
    TraceContext,
    /// `baggage` (W3C Baggage).
    Baggage,
    /// One header, `b3` (Zipkin).
    B3,
    /// A header for each field, `x-b3-traceid` and so on (Zipkin).
    B3Multi,
    /// `grpc-trace-bin`, for OpenCensus peers (gRFC A72). On gRPC calls only.
    GrpcTraceBin,
}

//! Settings that the program says itself: they win over the environment and the file.

use std::time::Duration;

use mesh_core::config::Reader;
use mesh_core::model::{
    Admin, Config, Identity, LoadBalancer, Place, Propagator, Protocol, RetryPolicy, Server, Tls, UnknownServices,
};

use super::Builder;
use crate::observe::TARGET;

/// Settings. Each replaces the field of the same meaning of the file, also when the file changes, and what the
/// environment says of it. A value that the file could not say, such as a connect timeout of an hour, is an error of
/// [`build`](Builder::build).
impl Builder {
    /// What becomes of a request to a name that is no service of the configuration. Default: `Refuse`, and `Dns` where
    /// there is no file and no text.
    #[must_use]
    pub fn unknown_services(self, rule: UnknownServices) -> Self {
        self.set(|reader| reader.with_unknown_services(rule))
    }

    /// Bound of a whole request with all its retries where its route says none; `None` or zero is no bound. Default: no
    /// bound.
    #[must_use]
    pub fn default_timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        self.set(|reader| reader.with_default_timeout(timeout.into()))
    }

    /// When a failed attempt is followed by another where its route does not say; `None` is never. Default: never.
    #[must_use]
    pub fn default_retry(self, policy: impl Into<Option<RetryPolicy>>) -> Self {
        self.set(|reader| reader.with_default_retry(policy.into().as_ref()))
    }

    /// Bound of one connection attempt, TLS included, where its backend says none: 1 ms to 5 min. Default 5 s.
    #[must_use]
    pub fn default_connect_timeout(self, timeout: Duration) -> Self {
        self.set(|reader| reader.with_default_connect_timeout(timeout))
    }

    /// How an endpoint is chosen where its backend does not say. Default round robin.
    #[must_use]
    pub fn default_load_balancer(self, balancer: LoadBalancer) -> Self {
        self.set(|reader| reader.with_default_load_balancer(&balancer))
    }

    /// The HTTP version where a backend does not say. Default `Auto`.
    #[must_use]
    pub fn default_protocol(self, protocol: Protocol) -> Self {
        self.set(|reader| reader.with_default_protocol(protocol))
    }

    /// A name is looked up again no sooner than this after it was, whatever its time to live: 10 ms to 24 h. Default
    /// 5 s.
    #[must_use]
    pub fn dns_min_ttl(self, ttl: Duration) -> Self {
        self.set(|reader| reader.with_dns_min_ttl(ttl))
    }

    /// And no later than this: 10 ms to 24 h, at least the other. Default 5 min.
    #[must_use]
    pub fn dns_max_ttl(self, ttl: Duration) -> Self {
        self.set(|reader| reader.with_dns_max_ttl(ttl))
    }

    /// Bound of one lookup with all its queries: 1 ms to 5 min. Default 5 s.
    #[must_use]
    pub fn dns_timeout(self, timeout: Duration) -> Self {
        self.set(|reader| reader.with_dns_timeout(timeout))
    }

    /// Where this process runs: backends with `prefer` in their locality policy send requests to endpoints near it. The
    /// default place is that nobody knows. Each name is 1 to 253 letters, digits, `-`, `_` and `.`.
    #[must_use]
    pub fn locality(self, place: &Place) -> Self {
        self.set(|reader| reader.with_locality(place))
    }

    /// Who this process is, and whom it trusts. With it servers are strict and clients speak mutual TLS where nobody says
    /// otherwise. Paths are relative to where the process runs, and are UTF-8. Default: nobody.
    #[must_use]
    pub fn identity(self, identity: &Identity) -> Self {
        self.set(|reader| reader.with_identity(identity))
    }

    /// TLS to endpoints where their backend does not say; `None` is plaintext. Default: mutual with an
    /// [identity](Self::identity), else plaintext. [`Auto`](mesh_core::model::TlsMode::Auto) is no default: an error.
    #[must_use]
    pub fn default_tls(self, tls: impl Into<Option<Tls>>) -> Self {
        self.set(|reader| reader.with_default_tls(tls.into().as_ref()))
    }

    /// A server beside those of the file, or in place of the one of the same name. Sockets are relative to where the
    /// process runs.
    #[must_use]
    pub fn server(self, server: &Server) -> Self {
        self.set(|reader| reader.with_server(server))
    }

    /// The admin listener. Its address must be a loopback one unless `allow_remote` is set (AD-07). Default: none.
    #[must_use]
    pub fn admin(self, admin: &Admin) -> Self {
        self.set(|reader| reader.with_admin(admin))
    }

    /// The formats in which the trace context travels, in the order in which headers are written; none of them is not
    /// at all. Default W3C trace context and baggage.
    #[must_use]
    pub fn propagators(self, propagators: &[Propagator]) -> Self {
        self.set(|reader| reader.with_propagators(propagators))
    }

    fn set(mut self, with: impl FnOnce(Reader) -> Reader) -> Self {
        self.settings = with(self.settings);
        self
    }
}

/// CF-15: the one line that says what is active.
pub(super) fn announce(source: &str, config: &Config, spans: bool) {
    let settings = &config.settings;
    let unknown_services = match settings.unknown_services {
        UnknownServices::Dns => "dns",
        _ => "refuse",
    };
    tracing::info!(
        target: TARGET,
        source,
        services = config.virtual_hosts.len(),
        servers = config.servers.len(),
        identity = settings.identity.is_some(),
        unknown_services,
        default_timeout = ?settings.defaults.timeout,
        default_retries = settings.defaults.retry.as_ref().map_or(0, |retry| retry.num_retries),
        spans,
        propagators = ?settings.telemetry.propagators,
        "the mesh is active"
    );
}

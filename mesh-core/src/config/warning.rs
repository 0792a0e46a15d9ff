use std::fmt;

use super::origin::Origin;
use super::problem::sentence;

/// Something about a configuration that is legal and probably wrong.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Warning {
    /// A word for its kind, which does not change between versions: `no-timeout`.
    pub code: &'static str,
    /// Who said what it is about.
    pub origin: Origin,
    /// The way to it: `services.greeter.routes[1].retry`. Empty if it is about no field.
    pub path: String,
    /// What is probably wrong.
    pub message: String,
    /// The way out.
    pub help: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        sentence(f, &self.origin, &self.path, &self.message, Some(&self.help))?;
        write!(f, " [{}]", self.code)
    }
}

/// The [codes](Warning::code) of all warnings that there are, each with its meaning.
pub const WARNINGS: [(&str, &str); 36] = [
    ("no-timeout", "A route, or all of a service, has no `timeout`, and `defaults` have none."),
    ("no-default-timeout", "`unknown_services` is `dns`, and `defaults` have no `timeout`."),
    ("unreachable-route", "A route stands behind one that matches everything."),
    ("never-matches", "A match is for a share of 0 requests."),
    ("unused-backend", "No route of the service leads to a backend."),
    ("no-endpoints", "A backend that is used lists no endpoint that can be picked."),
    ("retry-all-methods", "`methods: all`: what is not idempotent may be carried out twice."),
    ("per-try-timeout-too-long", "A `per_try_timeout` is no shorter than the timeout of the request."),
    ("backoff-too-long", "The first pause before a retry is no shorter than the timeout of the request."),
    ("empty-retry-budget", "A retry budget allows nothing."),
    ("unused-hash-policy", "A hash policy is given, and no balancer behind the route looks at a hash."),
    ("missing-hash-policy", "A way to a backend that balances by hash has no hash policy."),
    ("hedging-too-late", "The second attempt of a hedged request comes no sooner than its timeout."),
    ("hedging-of-one", "All backends of a hedged route list one endpoint."),
    ("unmatched-subset", "A `subset` selects no endpoint of its backend."),
    ("unused-weight", "An endpoint has a weight, and the balancer is `pick_first` or `weighted_round_robin`."),
    ("small-hash-table", "The table or ring of a hashing balancer has fewer entries than the backend has endpoints."),
    ("unused-slow-start", "A `slow_start` is given, and the balancer does not choose by share."),
    (
        "prefer-without-locality",
        "A backend is to `prefer` endpoints near a process of which nobody says where it runs.",
    ),
    ("outlier-detection-of-one", "The only endpoint of a backend can be ejected."),
    (
        "idle-outlier-detection",
        "An outlier detection counts nothing, needs more endpoints than there are, or may eject nothing.",
    ),
    ("unused-health-check", "A `health_check` is given, and the balancer is `pick_first`."),
    ("slow-health-check", "The `timeout` of a health check is longer than its `interval`."),
    ("frequent-keepalive", "A keepalive sends pings more often than every 10 s."),
    ("pick-first-of-many", "`pick_first` without `shuffle` over more than two listed endpoints."),
    ("public-plaintext", "An endpoint with a public address is spoken to without TLS."),
    (
        "plaintext",
        "Backends are spoken to in plaintext, for there is no `identity`, and neither they nor `defaults` have `tls`.",
    ),
    ("any-identity", "A backend is spoken to by `mutual` TLS, and nobody says in `identities` who it must be."),
    ("open-prefix", "A prefix of a SPIFFE id does not end with a slash: it fits others, too."),
    ("plaintext-server", "A server speaks plaintext, for there is no `identity`, and it has no `tls`."),
    ("permissive-server", "A server is `permissive`: who speaks plaintext has no identity."),
    (
        "contradictory-limits",
        "A limit of a server never comes to bear: its `first_request_timeout` ends before a part of it does, and so on.",
    ),
    ("long-drain", "A server takes longer to stop than Kubernetes lets it by default, 30 s."),
    ("remote-admin", "The admin listener can be reached from other machines."),
    ("unknown-variable", "A variable begins with `MESH_` and is not one of the mesh."),
    ("unknown-propagator", "`OTEL_PROPAGATORS` names a format that only OpenTelemetry has."),
];

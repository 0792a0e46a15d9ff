//! The sections of the file: every field with its shape, default and meaning, declared once.

mod balancer;
mod connection;
mod endpoint;
mod identity;
mod overload;
mod server;
mod session;
mod tls;

use std::time::Duration;

#[cfg(test)]
pub(super) use self::balancer::BALANCER_FIELDS;
pub(super) use self::balancer::{BalancerSection, SlowStart};
pub(super) use self::connection::{HealthCheck, HttpProbe, Keepalive, StatusSection};
pub(super) use self::endpoint::{EndpointSection, HomeSection, LocalityPolicy, LocalitySection};
pub(super) use self::identity::IdentitySection;
#[cfg(test)]
pub(super) use self::identity::WorkloadApi;
pub(super) use self::overload::{
    AdmissionControl, CircuitBreaker, ConsecutiveSection, FailurePercentage, OutlierDetection, SuccessRate,
};
pub(super) use self::server::{Admin, Drain, ForwardedIdentity, Server, ServerLimits, ServerTlsSection};
#[cfg(test)]
pub(super) use self::session::SessionCookie;
pub(super) use self::session::{HashCookie, SessionAffinity};
pub(super) use self::tls::{PeerSection, Tls};
use super::address::{DnsTarget, EndpointItem, SrvName};
use super::choice::{LoadBalancer, Methods, NonFatal, OrNone, Propagators};
use super::credential::Discreet;
use super::duration;
use super::labels::Labels;
use super::names::{Header, Host, HttpMethod, UriPath};
use super::number::{Decimal, Flag, Integer, Span, Timeout, True};
use super::place::HomePlace;
use super::section::Presence::{DefaultsTo, Follows, Inherits, InheritsUnless, Optional, Required};
use super::section::section;
use super::shape::{List, Map, OneOrMore};
use super::text::{Regex, SomeText, Text, Word};
use super::tree::{Entries, Scalar, Value};
use crate::model::{Protocol, RetryOn, UnknownServices};

section! {
    /// The whole file.
    File: "a configuration" {
        /// The services by the names callers use. May be left out only with `unknown_services: dns` or with `servers`.
        services: Map<Service> = Optional,
        /// What becomes of a name that is no service here: `refuse` is an error, `dns` looks it up.
        unknown_services: Word<UnknownServices> = DefaultsTo("refuse"),
        /// What routes and backends get that do not say otherwise, and services that DNS alone knows.
        defaults: Defaults = DefaultsTo("{}"),
        /// How names are looked up.
        dns: Dns = DefaultsTo("{}"),
        /// What requests tell others about themselves.
        telemetry: Telemetry = DefaultsTo("{}"),
        /// Where this process runs, as `region/zone/sub_zone` or as a section.
        locality: HomePlace = Optional,
        /// Who this process is, and whom it trusts. Without it nobody, and TLS proves nothing of it to anybody.
        identity: IdentitySection = Optional,
        /// What this process serves.
        servers: OneOrMore<Server> = Optional,
        /// The admin listener, in plaintext. Without it there is none.
        admin: Admin = Optional,
    } not yet { overlay, xds }

    /// What routes and backends get that do not say otherwise. What they say replaces it, each field as a whole.
    Defaults: "a section of defaults" {
        /// Bound of the whole request with all its retries.
        timeout: Timeout = Optional,
        /// When to try again.
        retry: OrNone<Retry> = Optional,
        /// Bound of one connection attempt, TLS included.
        connect_timeout: Span<1, 300_000> = DefaultsTo("5s"),
        /// How an endpoint is chosen.
        load_balancer: LoadBalancer = DefaultsTo("round_robin"),
        /// The HTTP version. `auto`: what TLS agrees on; in plaintext HTTP/1.1, for gRPC HTTP/2.
        protocol: Word<Protocol> = DefaultsTo("auto"),
        /// What may be under way at once towards a backend.
        circuit_breaker: OrNone<CircuitBreaker> = Optional,
        /// When an endpoint is taken out for what it answers.
        outlier_detection: OrNone<OutlierDetection> = Optional,
        /// Pings over HTTP/2 connections, and the time after which a vanished peer is given up.
        keepalive: OrNone<Keepalive> = Optional,
        /// TLS to endpoints. Without it `mutual` where there is an `identity`, else plaintext.
        tls: Tls = Optional,
    } not yet {}

    /// How names are looked up.
    Dns: "a DNS section" {
        /// A name is looked up again no sooner than this, whatever its time to live.
        min_ttl: Span<10, 86_400_000> = DefaultsTo("5s"),
        /// And no later than this; at least `min_ttl`.
        max_ttl: Span<10, 86_400_000> = DefaultsTo("5m"),
        /// Bound of one lookup with all its queries.
        timeout: Span<1, 300_000> = DefaultsTo("5s"),
    } not yet {}

    /// What requests tell others about themselves.
    Telemetry: "a telemetry section" {
        /// The formats in which the trace context travels, in the order in which headers are written.
        propagators: Propagators = DefaultsTo("[tracecontext, baggage]"),
    } not yet {}

    /// What callers reach under one name. The name itself is one of its hosts.
    Service: "a service" {
        /// Other authorities that callers use for it; no other service may claim them.
        hosts: List<Host> = Optional,
        /// Where requests go; the first that matches wins. May be left out if there is one backend.
        routes: List<Route> = Optional,
        /// What stands behind it.
        backends: Map<Backend> = Required,
        /// gRPC's token bucket for the retries to the service (gRFC A6).
        retry_throttling: RetryThrottling = Optional,
    } not yet { fault, rate_limit, mirror }

    /// A bucket that every failure takes a token from; retries stop while half of it or more is gone.
    RetryThrottling: "a retry throttling" {
        /// The size of the bucket.
        max_tokens: Integer<u32, 1, 1000> = Required,
        /// The tokens that a success returns.
        token_ratio: Decimal<1, 1_000_000, 3> = Required,
    } not yet {}

    /// Where some of the requests go.
    Route: "a route" {
        /// Its name in errors and telemetry; no other route of the service may have it.
        name: SomeText = Optional,
        /// Alternatives, one of which must hold. Without any, every request matches.
        matches: List<Match> = Optional,
        /// Where requests go, drawn by weight; a backend at most once.
        backends: OneOrMore<WeightedBackend> = Required,
        /// Bound of the whole request with all its retries.
        timeout: Timeout = Inherits,
        /// When to try again; `none` takes that of `defaults` away.
        retry: OrNone<Retry> = InheritsUnless("hedging"),
        /// When to send a second attempt beside the first. Excludes `retry`, and takes the place of that of `defaults`.
        hedging: OrNone<Hedging> = Optional,
        /// What the request's hash is made of.
        hash_policy: List<HashPolicy> = Optional,
        /// How the requests of a session find their endpoint again.
        session_affinity: SessionAffinity = Optional,
    } not yet {
        redirect, rewrite, direct_response, mirror, fault, filters, rate_limit, authorization,
    }

    /// A backend of a route. Its policies replace those of the route, each as a whole.
    WeightedBackend: "a backend of a route" {
        /// One of the service's `backends`.
        name: SomeText = Required,
        /// Its share among its siblings; their sum must be from 1 to 4294967295.
        weight: Integer<u32, 0, U32_MAX> = DefaultsTo("1"),
        /// Only endpoints whose `metadata` holds all of this.
        subset: Labels = Optional,
        /// Replaces the route's timeout.
        timeout: Timeout = Optional,
        /// Replaces the route's retry policy or its hedging; `none` takes the retry policy away.
        retry: OrNone<Retry> = Optional,
        /// Replaces the route's hedging or its retry policy; `none` takes the hedging away. Excludes `retry`.
        hedging: OrNone<Hedging> = Optional,
        /// Replaces the route's hash policies.
        hash_policy: List<HashPolicy> = Optional,
    } not yet {}

    /// Conditions that must all hold.
    Match: "a match" {
        /// The path, without the query.
        path: PathMatch = Optional,
        /// The method.
        method: HttpMethod = Optional,
        /// Headers; several values of one are joined with a comma.
        headers: List<Discreet<HeaderMatch>> = Optional,
        /// Query parameters; the first of a name counts, decoded.
        query: List<Discreet<QueryMatch>> = Optional,
        /// The share of requests that match, in percent. Excludes `fraction`.
        percent: Decimal<0, 1_000_000, 4> = Optional,
        /// The share of requests that match. Excludes `percent`.
        fraction: Fraction = Optional,
    } not yet {}

    /// A condition on the path: one of `exact`, `prefix`, `regex`.
    PathMatch: "a path match" {
        /// The whole path.
        exact: UriPath = Optional,
        /// The first elements of the path: `/v2` matches `/v2` and `/v2/x`, not `/v2x`.
        prefix: UriPath = Optional,
        /// An expression for the whole path.
        regex: Regex = Optional,
        /// Compare without regard to ASCII case; not with `regex`.
        ignore_case: Flag = Follows("`false`", case_counts),
    } not yet {}

    /// A condition on a header: one of `exact`, `prefix`, `suffix`, `contains`, `regex`, `range`, `present`.
    HeaderMatch: "a header match" {
        /// The header, in any case.
        name: Header = Required,
        /// The whole value.
        exact: Text = Optional,
        /// How the value begins.
        prefix: SomeText = Optional,
        /// How the value ends.
        suffix: SomeText = Optional,
        /// What the value holds.
        contains: SomeText = Optional,
        /// An expression for the whole value.
        regex: Regex = Optional,
        /// The value as an integer.
        range: Range = Optional,
        /// Whether there is such a header at all.
        present: Flag = Optional,
        /// Compare without regard to ASCII case; not with `regex`, `range`, `present`.
        ignore_case: Flag = Follows("`false`", case_counts),
        /// Match what the rest does not; an absent header still does not match, but for `present`.
        invert: Flag = DefaultsTo("false"),
    } not yet {}

    /// A condition on a query parameter: one of `exact`, `prefix`, `suffix`, `contains`, `regex`, `present`.
    QueryMatch: "a query match" {
        /// The parameter, decoded.
        name: SomeText = Required,
        /// The whole value.
        exact: Text = Optional,
        /// How the value begins.
        prefix: SomeText = Optional,
        /// How the value ends.
        suffix: SomeText = Optional,
        /// What the value holds.
        contains: SomeText = Optional,
        /// An expression for the whole value.
        regex: Regex = Optional,
        /// Whether there is such a parameter at all.
        present: Flag = Optional,
        /// Compare without regard to ASCII case; not with `regex`, `present`.
        ignore_case: Flag = Follows("`false`", case_counts),
    } not yet {}

    /// Integers from `start` to just below `end`.
    Range: "a range" {
        /// The smallest number that matches.
        start: Integer<i64, { i64::MIN }, { i64::MAX }> = Required,
        /// The first number that no longer matches; greater than `start`.
        end: Integer<i64, { i64::MIN }, { i64::MAX }> = Required,
    } not yet {}

    /// A share of the requests, kept in millionths.
    Fraction: "a fraction" {
        /// How many match, at most `denominator`.
        numerator: Integer<u32, 0, 1_000_000> = Required,
        /// Out of how many.
        denominator: Integer<u32, 1, 1_000_000> = DefaultsTo("100"),
    } not yet {}

    /// When a failed attempt is followed by another, how often and how soon.
    Retry: "a retry policy" {
        /// How many attempts may follow the first; gRPC calls have at most 5 in all (gRFC A44).
        num_retries: Integer<u32, 1, 10> = DefaultsTo("1"),
        /// The conditions, one of which must hold.
        on: OneOrMore<Word<RetryOn>> = Required,
        /// Bound of each attempt up to its response head.
        per_try_timeout: Timeout = Optional,
        /// The pauses between attempts; they double and are jittered by 20 %.
        backoff: Backoff = DefaultsTo("{}"),
        /// The statuses of the condition `retriable-status-codes`, with which it must be given.
        retriable_status_codes: OneOrMore<Integer<u16, 400, 599>> = Optional,
        /// The response headers of the condition `retriable-headers`, with which it must be given; one is enough.
        retriable_headers: OneOrMore<Discreet<HeaderMatch>> = Optional,
        /// Methods that may be sent again after a peer acted on them, or `all`. Without it the idempotent ones.
        methods: Methods = Optional,
        /// How much of a request body is kept to be sent again, in bytes.
        max_body_bytes: Integer<usize, 0, 16_777_216> = DefaultsTo("65536"),
    } not yet {}

    /// The pauses between attempts.
    Backoff: "a backoff" {
        /// The first pause.
        base: Span<1, 300_000> = DefaultsTo("25ms"),
        /// The longest pause, at least `base`.
        max: Span<1, 300_000> = Follows("10 times `base`, at most `5m`", longest_pause),
    } not yet {}

    /// When a request without an answer is sent once more beside the first attempt (gRFC A6); the first good answer wins.
    Hedging: "a hedging policy" {
        /// How many attempts there may be in all.
        max_attempts: Integer<u32, 2, 5> = DefaultsTo("2"),
        /// The pause between two attempts; `0s` sends all at once.
        delay: Span<0, 300_000> = Required,
        /// Answers that end nothing: the next attempt follows at once. Every other answer is final.
        non_fatal: List<Word<NonFatal>> = Optional,
        /// The statuses of `retriable-status-codes` among `non_fatal`, with which it must be given.
        retriable_status_codes: OneOrMore<Integer<u16, 400, 599>> = Optional,
        /// Methods that may be sent twice, or `all`. Without it the idempotent ones; gRPC calls are not bound by it.
        methods: Methods = Optional,
        /// How much of a request body is kept for the other attempts, in bytes.
        max_body_bytes: Integer<usize, 0, 16_777_216> = DefaultsTo("65536"),
    } not yet {}

    /// One ingredient of the hash of a request: one of `header`, `query`, `cookie`, `source_ip`.
    HashPolicy: "a hash policy" {
        /// The value of this header.
        header: Header = Optional,
        /// The value of this query parameter.
        query: SomeText = Optional,
        /// The value of this cookie.
        cookie: HashCookie = Optional,
        /// The address of whom the request came from, where the caller said so.
        source_ip: True = Optional,
        /// Whether the policies behind it are skipped once there is a hash.
        terminal: Flag = DefaultsTo("false"),
    } not yet {}

    /// Equal endpoints and how to reach them. Needs one of `endpoints`, `localities`, `dns`, `discovery`.
    Backend: "a backend" {
        /// The endpoints, each once. `[]` is none: requests fail.
        endpoints: List<EndpointItem> = Optional,
        /// The endpoints by the places where they run.
        localities: OneOrMore<LocalitySection> = Optional,
        /// A name whose addresses are the endpoints; it is looked up again and again.
        dns: DnsTarget = Optional,
        /// A source of endpoints that the application registered.
        discovery: DiscoverySection = Optional,
        /// The HTTP version. `auto`: what TLS agrees on; in plaintext HTTP/1.1, for gRPC HTTP/2.
        protocol: Word<Protocol> = Inherits,
        /// How an endpoint is chosen.
        load_balancer: LoadBalancer = Inherits,
        /// How requests are divided among localities and priorities.
        locality_policy: LocalityPolicy = DefaultsTo("{}"),
        /// How many of the endpoints this process uses, the same ones as long as they are there (gRFC A68). Without it all.
        subset_size: Integer<u32, 1, U32_MAX> = Optional,
        /// How an endpoint that just became ready comes up to its full share. Without it at once.
        slow_start: SlowStart = Optional,
        /// Bound of one connection attempt, TLS included.
        connect_timeout: Span<1, 300_000> = Inherits,
        /// The pauses between failed connection attempts; they grow by 1.6 and are jittered by 20 %.
        connect_backoff: ConnectBackoff = DefaultsTo("{}"),
        /// How many retries may be under way at once.
        retry_budget: RetryBudget = DefaultsTo("{}"),
        /// What may be under way at once; `none` takes that of `defaults` away. Without both there is no limit.
        circuit_breaker: OrNone<CircuitBreaker> = Inherits,
        /// When an endpoint is taken out for what it answers; `none` takes that of `defaults` away. Without both never.
        outlier_detection: OrNone<OutlierDetection> = Inherits,
        /// When requests are refused for the failures of others. Without it never.
        admission_control: AdmissionControl = Optional,
        /// How endpoints are asked for their health. Without it not at all.
        health_check: HealthCheck = Optional,
        /// Pings, and the time after which a vanished peer is given up; `none` takes that of `defaults` away.
        keepalive: OrNone<Keepalive> = Inherits,
        /// How long a connection may be without a request, or `none` for good. HTTP/1.1 connections are not used after 50 s.
        idle_timeout: OrNone<Span<1000, 604_800_000>> = DefaultsTo("30m"),
        /// How old a connection may become, jittered by 10 %. Without it any age.
        max_connection_age: Span<1000, 604_800_000> = Optional,
        /// How many requests a connection may serve. Without it any number.
        max_requests_per_connection: Integer<u32, 1, U32_MAX> = Optional,
        /// With more endpoints than this they are connected as they are picked, and not all of them at once.
        eager_endpoints: Integer<u32, 0, U32_MAX> = DefaultsTo("100"),
        /// TLS to the endpoints.
        tls: Tls = Inherits,
    } not yet {}

    /// A service record (RFC 2782): hosts with their ports. Only those of the lowest priority count, weights do not.
    SrvSection: "a service record" {
        /// The name of the record.
        srv: SrvName = Required,
    } not yet {}

    /// A source of endpoints that the application registered.
    DiscoverySection: "a discovery" {
        /// The name under which the application registered the source.
        source: SomeText = Required,
        /// What it is asked for.
        name: SomeText = Required,
    } not yet {}

    /// The pauses between failed connection attempts.
    ConnectBackoff: "a connect backoff" {
        /// The first pause.
        base: Span<10, 3_600_000> = DefaultsTo("1s"),
        /// The longest pause, at least `base`.
        max: Span<10, 3_600_000> = Follows("`2m`, at least `base`", longest_connect_pause),
    } not yet {}

    /// How many retries of a backend may be under way at once: the greater of both.
    RetryBudget: "a retry budget" {
        /// In percent of its requests in flight.
        percent: Decimal<0, 1_000_000, 4> = DefaultsTo("20"),
        /// However few requests are in flight.
        min_concurrent: Integer<u32, 0, 1_000_000> = DefaultsTo("3"),
    } not yet {}
}

const U32_MAX: i64 = u32::MAX as i64;

fn text<'a>(section: &'a Entries, field: &str) -> Option<&'a str> {
    match &section.get(field)?.value.value {
        Value::Scalar(Scalar { text, .. }) => Some(text),
        Value::Sequence(_) | Value::Map(_) => None,
    }
}

/// Whether case is a question at all.
fn case_counts(matcher: &Entries) -> Option<String> {
    let is_text = ["exact", "prefix", "suffix", "contains"].iter().any(|kind| matcher.get(kind).is_some());
    is_text.then(|| "false".to_owned())
}

fn longest_pause(backoff: &Entries) -> Option<String> {
    let base = duration::parse_duration(text(backoff, "base")?)?;
    Some(duration::format(Backoff::longest(base)))
}

fn longest_connect_pause(backoff: &Entries) -> Option<String> {
    let base = duration::parse_duration(text(backoff, "base")?)?;
    Some(duration::format(base.max(ConnectBackoff::LONGEST)))
}

impl Backoff {
    /// The longest pause where only the first is said.
    pub(super) fn longest(base: Duration) -> Duration {
        (base * 10).min(Duration::from_secs(300))
    }
}

impl ConnectBackoff {
    /// The longest pause where none is said.
    pub(super) const LONGEST: Duration = Duration::from_secs(120);
}

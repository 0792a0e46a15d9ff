//! What is in force for a backend, in lines that a person reads.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use crate::identity::{SanKind, SanMatch, SanPattern};
use crate::model::{
    Backend, CircuitBreaker, Consecutive, Endpoint, HashPolicy, Health, HealthProbe, HedgePolicy, LoadBalancer,
    Locality, LocalityPolicy, OutlierDetection, Proximity, Recovery, RootCertificates, SessionAffinity, Tls, TlsMode,
};

/// The balancer with its parameters.
pub(super) fn load_balancer(balancer: &LoadBalancer) -> String {
    match balancer {
        LoadBalancer::RoundRobin => "round_robin".to_owned(),
        LoadBalancer::Random => "random".to_owned(),
        LoadBalancer::LeastRequest { choice_count } => format!("least_request of {choice_count}"),
        LoadBalancer::PeakEwma(p) => format!("peak_ewma, decay {:?}", p.decay),
        LoadBalancer::WeightedRoundRobin(p) => {
            let reports = if p.out_of_band { "out of band" } else { "with responses" };
            format!("weighted_round_robin, load reports {reports}")
        }
        LoadBalancer::RingHash(p) => format!("ring_hash of {} to {} entries", p.min_size, p.max_size),
        LoadBalancer::Maglev(p) => format!("maglev of {} entries", p.table_size),
        LoadBalancer::PickFirst { shuffle: false } => "pick_first".to_owned(),
        LoadBalancer::PickFirst { shuffle: true } => "pick_first, shuffled".to_owned(),
        LoadBalancer::Custom(name) => format!("custom {name}"),
    }
}

/// A line for each feature that the backend uses beyond the plain balancer.
pub(super) fn in_force(backend: &Backend) -> Vec<String> {
    let mut lines = localities(&backend.endpoints);
    if lines.len() > 1 || backend.localities != LocalityPolicy::default() {
        lines.push(policy(&backend.localities));
    }
    lines.extend(
        backend.subset_size.map(|size| format!("subset_size: {size} of {} endpoints", backend.endpoints.len())),
    );
    lines.extend(
        backend.slow_start.map(|slow| {
            format!("slow_start: within {:?} from {} % of the share", slow.window, slow.min_weight_percent)
        }),
    );
    lines.extend(circuit_breaker(&backend.circuit_breaker));
    lines.extend(backend.outlier_detection.as_ref().map(outlier_detection));
    lines.extend(backend.admission_control.map(|admission| {
        format!(
            "admission_control: below {} % of success within {:?}, at most {} % refused",
            admission.success_threshold, admission.window, admission.max_rejection_percent
        )
    }));
    lines.extend(backend.health_check.as_ref().map(|check| {
        let probe = match &check.probe {
            HealthProbe::Grpc { service } => format!("grpc {service:?}"),
            HealthProbe::Http { path, .. } => format!("http {path}"),
        };
        format!("health_check: {probe} every {:?}", check.interval)
    }));
    lines.extend(connections(backend));
    lines.extend(backend.tls.as_ref().map(|settings| tls(settings, &backend.endpoints)));
    lines
}

/// Who proves what to whom.
fn tls(tls: &Tls, endpoints: &[Endpoint]) -> String {
    let mut line = match tls.mode {
        TlsMode::Simple => "tls: simple".to_owned(),
        TlsMode::Mutual => "tls: mutual".to_owned(),
        TlsMode::Auto => {
            let marked = endpoints.iter().filter(|endpoint| endpoint.mesh).count();
            format!("tls: auto, mutual with {marked} of {} endpoints and plaintext with the others", endpoints.len())
        }
    };
    if let Some(name) = &tls.server_name {
        line.push_str(&format!(", server_name {name}"));
    }
    match &tls.roots {
        Some(RootCertificates::PemFile(path)) => line.push_str(&format!(", trusts {}", path.display())),
        Some(RootCertificates::WebPki) => line.push_str(", trusts the public authorities"),
        None => line.push_str(", trusts whom the identity trusts"),
    }
    let expected: Vec<_> = tls.identities.iter().map(peer).collect();
    match (expected.is_empty(), tls.mode) {
        (false, _) => line.push_str(&format!(", expects {}", expected.join(" or "))),
        (true, TlsMode::Simple) => {}
        (true, TlsMode::Mutual | TlsMode::Auto) => line.push_str(", expects anybody"),
    }
    line
}

/// As the file has it, but for the kind of a part of a name.
fn peer(peer: &SanMatch) -> String {
    let kind = match peer.kind {
        None => "",
        Some(SanKind::Uri) => "uri ",
        Some(SanKind::Dns) => "dns ",
        Some(SanKind::Email) => "email ",
        Some(SanKind::Ip) => "ip ",
    };
    match &peer.pattern {
        SanPattern::Exact(text) if text.starts_with("spiffe://") => text.to_string(),
        SanPattern::Exact(text) => format!("{kind}{text}"),
        SanPattern::Prefix(text) => format!("{kind}prefix {text}"),
        SanPattern::Suffix(text) => format!("{kind}suffix {text}"),
        SanPattern::Contains(text) => format!("{kind}contains {text}"),
        SanPattern::Regex(pattern) => format!("{kind}regex {}", pattern.as_str()),
    }
}

/// Where the endpoints run, if their source says so.
fn localities(endpoints: &[Endpoint]) -> Vec<String> {
    let mut counts: Vec<(&Arc<Locality>, usize, usize)> = Vec::new();
    for endpoint in endpoints {
        let Some(locality) = &endpoint.locality else { continue };
        let is_usable = usize::from(endpoint.health == Health::Healthy && endpoint.weight > 0);
        match counts.iter_mut().rev().find(|(known, ..)| known == &locality) {
            Some((_, count, usable)) => {
                *count += 1;
                *usable += is_usable;
            }
            None => counts.push((locality, 1, is_usable)),
        }
    }
    counts.sort_by_key(|(locality, ..)| locality.priority);
    let line = |(locality, count, usable): (&Arc<Locality>, usize, usize)| {
        let Locality { place, priority, weight } = &**locality;
        let name = if place.region.is_empty() { "without a name".to_owned() } else { place.to_string() };
        format!("locality {name}: priority {priority}, weight {weight}, {usable} of {count} endpoints usable")
    };
    counts.into_iter().map(line).collect()
}

fn policy(policy: &LocalityPolicy) -> String {
    let LocalityPolicy { overprovisioning_factor, panic_threshold, failover_timeout, prefer } = policy;
    let factor = overprovisioning_factor.map_or_else(|| "none".to_owned(), |percent| format!("{percent} %"));
    let prefer = match prefer {
        None => "",
        Some(Proximity::Region) => ", the own region first",
        Some(Proximity::Zone) => ", the own zone first",
        Some(Proximity::SubZone) => ", the own sub-zone first",
    };
    format!(
        "locality_policy: overprovisioning_factor {factor}, panic_threshold {panic_threshold} %, failover after \
         {failover_timeout:?}{prefer}"
    )
}

fn circuit_breaker(limits: &CircuitBreaker) -> Option<String> {
    let CircuitBreaker { max_requests, max_pending_requests, max_connections, max_retries } = limits;
    let limits = [
        part("max_requests", *max_requests),
        part("max_pending_requests", *max_pending_requests),
        part("max_connections", *max_connections),
        part("max_retries", *max_retries),
    ];
    joined("circuit_breaker", limits)
}

fn outlier_detection(detection: &OutlierDetection) -> String {
    let count = |consecutive: Option<Consecutive>| consecutive.map(|consecutive| consecutive.count);
    let parts = [
        part("consecutive_5xx", count(detection.consecutive_5xx)),
        part("consecutive_gateway_errors", count(detection.consecutive_gateway_errors)),
        part("consecutive_local_origin_failures", count(detection.consecutive_local_origin_failures)),
        part("success_rate, stdev_factor", detection.success_rate.map(|rate| rate.stdev_factor)),
        part("failure_percentage", detection.failure_percentage.map(|percentage| percentage.threshold)),
    ];
    let detects = joined("outlier_detection", parts).unwrap_or_else(|| "outlier_detection: nothing counted".to_owned());
    let back = match detection.recovery {
        Recovery::Time => "",
        Recovery::Probe => ", back by a probe",
    };
    format!(
        "{detects}; ejects up to {} % for {:?} to {:?}{back}",
        detection.max_ejection_percent, detection.base_ejection_time, detection.max_ejection_time
    )
}

/// What differs from the defaults, which say nothing about the backend.
fn connections(backend: &Backend) -> Option<String> {
    let policy = &backend.connections;
    let time = |name, time: Option<Duration>| time.map(|time| format!("{name} {time:?}"));
    let parts = [
        time("keepalive", policy.keepalive.map(|keepalive| keepalive.time)),
        time("max_connection_age", policy.max_age),
        part("max_requests_per_connection", policy.max_requests),
    ];
    joined("connections", parts)
}

/// The hash that a route's requests get, by where it comes from.
pub(super) fn hash_sources(policies: &[HashPolicy]) -> Vec<String> {
    use crate::model::HashSource::{ChannelId, Cookie, Header, QueryParameter, SourceAddress};
    let source = |policy: &HashPolicy| match &policy.source {
        Header { name, .. } => format!("header {name}"),
        QueryParameter(name) => format!("query {name}"),
        Cookie { name, ttl: Some(_), .. } => format!("cookie {name}, made up where there is none"),
        Cookie { name, ttl: None, .. } => format!("cookie {name}"),
        SourceAddress => "source_ip".to_owned(),
        ChannelId => "channel".to_owned(),
    };
    policies.iter().map(source).collect()
}

/// The cookie or the header.
pub(super) fn session(session: &SessionAffinity) -> String {
    match session {
        SessionAffinity::Cookie { name, ttl, path } if ttl.is_zero() => format!("cookie {name}, path {path}"),
        SessionAffinity::Cookie { name, ttl, path } => format!("cookie {name}, path {path}, for {ttl:?}"),
        SessionAffinity::Header(name) => format!("header {name}"),
    }
}

/// Attempts, pause, and what does not end them.
pub(super) fn hedging(policy: &HedgePolicy) -> String {
    let mut line = format!("up to {} attempts, {:?} apart", policy.max_attempts, policy.delay);
    let words: Vec<_> = policy.non_fatal.words().collect();
    if !words.is_empty() {
        line.push_str(", at once after ");
        line.push_str(&words.join(", "));
    }
    line
}

fn part(name: &str, value: Option<impl Display>) -> Option<String> {
    value.map(|value| format!("{name} {value}"))
}

fn joined<const N: usize>(name: &str, parts: [Option<String>; N]) -> Option<String> {
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| format!("{name}: {}", parts.join(", ")))
}

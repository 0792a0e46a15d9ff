//! Balancing, overload and connections: the fields of the file to the model.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method, StatusCode};

use super::{good, only_problem};
use crate::model::{
    AdmissionControl, Backend, BackendId, CircuitBreaker, Config, ConnectionPolicy, Consecutive, Endpoint,
    FailurePercentage, Forward, GrpcFailures, HashPolicy, HashSource, Health, HealthCheck, HealthProbe, HedgePolicy,
    Keepalive, LoadBalancer, Locality, LocalityPolicy, Maglev, Metadata, OutlierDetection, PeakEwma, Place,
    PolicyOverride, Proximity, Recovery, RetryMethods, RetryOn, RetryPolicy, RingHash, RouteAction, SessionAffinity,
    SlowStart, SuccessRate, WeightedBackend, WeightedRoundRobin,
};

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The backend `b` of a file in which it says `fields`.
fn backend(fields: &str) -> Backend {
    backend_of(&good(&format!("services: {{ s: {{ backends: {{ b: {{ {fields} }} }} }} }}")))
}

fn backend_of(config: &Config) -> Backend {
    Backend::clone(&config.backends[&BackendId::new("s", "b")])
}

/// A backend that looks `b` up and says nothing else.
fn plain() -> Backend {
    backend("dns: b:80")
}

fn endpoint(address: &str) -> Endpoint {
    Endpoint::new(address.parse::<std::net::SocketAddr>().unwrap())
}

fn metadata(entries: &[(&str, &str)]) -> Option<Arc<Metadata>> {
    Some(Arc::new(entries.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()))
}

#[test]
fn reads_every_balancer() {
    let cases = [
        ("peak_ewma", LoadBalancer::PeakEwma(PeakEwma::default())),
        ("weighted_round_robin", LoadBalancer::WeightedRoundRobin(WeightedRoundRobin::default())),
        ("ring_hash", LoadBalancer::RingHash(RingHash::default())),
        ("maglev", LoadBalancer::Maglev(Maglev::default())),
        ("{ policy: peak_ewma }", LoadBalancer::PeakEwma(PeakEwma::default())),
        ("{ policy: weighted_round_robin }", LoadBalancer::WeightedRoundRobin(WeightedRoundRobin::default())),
        ("{ policy: ring_hash }", LoadBalancer::RingHash(RingHash::default())),
        ("{ policy: maglev }", LoadBalancer::Maglev(Maglev::default())),
        (
            "{ policy: peak_ewma, decay: 1s, default_latency: 2s }",
            LoadBalancer::PeakEwma(PeakEwma { decay: seconds(1), default_latency: seconds(2) }),
        ),
        (
            "{ policy: weighted_round_robin, out_of_band: true, out_of_band_period: 1s, blackout_period: 0s, \
             weight_expiration_period: 2s, weight_update_period: 3s, error_utilization_penalty: 0.125, \
             utilization_metrics: [cpu_utilization, named_metrics.a.b] }",
            LoadBalancer::WeightedRoundRobin(WeightedRoundRobin {
                out_of_band: true,
                out_of_band_period: seconds(1),
                blackout_period: seconds(0),
                weight_expiration_period: seconds(2),
                weight_update_period: seconds(3),
                error_utilization_penalty: 0.125,
                utilization_metrics: vec!["cpu_utilization".into(), "named_metrics.a.b".into()],
            }),
        ),
        (
            "{ policy: ring_hash, min_size: 5, max_size: 8388608 }",
            LoadBalancer::RingHash(RingHash { min_size: 5, max_size: RingHash::MAX_SIZE }),
        ),
        ("{ policy: ring_hash, max_size: 512 }", LoadBalancer::RingHash(RingHash { min_size: 512, max_size: 512 })),
        (
            "{ policy: maglev, table_size: 5000011 }",
            LoadBalancer::Maglev(Maglev { table_size: Maglev::MAX_TABLE_SIZE }),
        ),
    ];
    for (written, expected) in cases {
        assert_eq!(backend(&format!("dns: b:80, load_balancer: {written}")).load_balancer, expected, "{written}");
    }
}

#[test]
fn reads_endpoints_with_all_that_is_known_of_them() {
    let read = backend(
        "endpoints: [10.0.0.1:80, { address: '10.0.0.2:80' }, { address: '10.0.0.3:80', weight: 0, health: draining, \
         metadata: { stage: canary, 'a.b/c': '' } }, { address: '10.0.0.4:80', health: unhealthy, metadata: {} }]",
    );
    let mut third = endpoint("10.0.0.3:80");
    (third.weight, third.health) = (0, Health::Draining);
    third.metadata = metadata(&[("stage", "canary"), ("a.b/c", "")]);
    let mut fourth = endpoint("10.0.0.4:80");
    fourth.health = Health::Unhealthy;
    assert_eq!(read.endpoints, [endpoint("10.0.0.1:80"), endpoint("10.0.0.2:80"), third, fourth]);
}

/// Endpoints of one locality share what is said of it; a place may stand in two priorities, and gaps between these stay.
#[test]
fn reads_localities() {
    let read = backend(
        "localities: [{ region: eu, zone: a, sub_zone: r, priority: 3, weight: 0, endpoints: [10.0.0.1:80, 10.0.0.2:80] }, \
         { endpoints: [10.0.0.3:80] }, { region: eu, zone: a, sub_zone: r, endpoints: [] }], \
         locality_policy: { overprovisioning_factor: none, panic_threshold: 50, failover_timeout: 1s, prefer: sub_zone }, \
         subset_size: 3",
    );
    let mut locality = Locality::new(Place::new("eu", "a", "r"));
    (locality.priority, locality.weight) = (3, 0);
    let [first, second, third] = &read.endpoints[..] else { panic!("{:?}", read.endpoints) };
    assert!(Arc::ptr_eq(first.locality.as_ref().unwrap(), second.locality.as_ref().unwrap()));
    assert_eq!(first.locality.as_deref(), Some(&locality));
    assert_eq!(third.locality.as_deref(), Some(&Locality::new(Place::default())));
    let policy = LocalityPolicy {
        overprovisioning_factor: None,
        panic_threshold: 50,
        failover_timeout: seconds(1),
        prefer: Some(Proximity::SubZone),
    };
    assert_eq!((read.localities, read.subset_size), (policy, NonZeroU32::new(3)));
    for (word, proximity) in [("region", Proximity::Region), ("zone", Proximity::Zone)] {
        let read = backend(&format!("dns: b:80, locality_policy: {{ prefer: {word} }}"));
        assert_eq!(read.localities, LocalityPolicy { prefer: Some(proximity), ..LocalityPolicy::default() });
    }
}

#[test]
fn reads_what_protects_a_backend() {
    let read = backend(
        "dns: b:80, slow_start: { window: 30s, aggression: 1.5, min_weight_percent: 0.5 }, \
         circuit_breaker: { max_requests: 1, max_pending_requests: 2, max_connections: 3, max_retries: 4 }, \
         outlier_detection: { interval: 1s, base_ejection_time: 2s, max_ejection_time: 3s, max_ejection_percent: 4, \
         consecutive_5xx: none, consecutive_gateway_errors: 5, \
         consecutive_local_origin_failures: { count: 6, enforcement: 7 }, split_local_origin: true, \
         success_rate: { stdev_factor: 8, enforcement: 9, minimum_hosts: 10, request_volume: 11 }, \
         failure_percentage: { threshold: 12, inclusive: true, enforcement: 13, minimum_hosts: 14, request_volume: 15 }, \
         grpc_failures: all_but_ok, recovery: probe }, \
         admission_control: { success_threshold: 99.5, window: 16s, aggression: 2, min_requests_per_second: 17, \
         max_rejection_percent: 18.25 }",
    );
    let mut expected = plain();
    expected.slow_start = Some(SlowStart { window: seconds(30), aggression: 1.5, min_weight_percent: 0.5 });
    expected.circuit_breaker = CircuitBreaker {
        max_requests: Some(1),
        max_pending_requests: Some(2),
        max_connections: Some(3),
        max_retries: Some(4),
    };
    expected.outlier_detection = Some(OutlierDetection {
        interval: seconds(1),
        base_ejection_time: seconds(2),
        max_ejection_time: seconds(3),
        max_ejection_percent: 4,
        consecutive_5xx: None,
        consecutive_gateway_errors: Some(Consecutive::new(5)),
        consecutive_local_origin_failures: Some(Consecutive { count: 6, enforcement: 7 }),
        split_local_origin: true,
        success_rate: Some(SuccessRate { stdev_factor: 8, enforcement: 9, minimum_hosts: 10, request_volume: 11 }),
        failure_percentage: Some(FailurePercentage {
            threshold: 12,
            inclusive: true,
            enforcement: 13,
            minimum_hosts: 14,
            request_volume: 15,
        }),
        grpc_failures: GrpcFailures::AllButOk,
        recovery: Recovery::Probe,
    });
    expected.admission_control = Some(AdmissionControl {
        success_threshold: 99.5,
        window: seconds(16),
        aggression: 2.0,
        min_requests_per_second: 17,
        max_rejection_percent: 18.25,
    });
    assert_eq!(read, expected);
}

/// An empty section has the defaults of the model: they are declared in both places.
#[test]
fn empty_sections_have_the_defaults_of_the_model() {
    let read = backend(
        "dns: b:80, circuit_breaker: {}, admission_control: {}, locality_policy: {}, slow_start: { window: 1s }, \
         outlier_detection: { success_rate: {}, failure_percentage: {} }, health_check: { http: { path: / } }, \
         keepalive: { time: 1m }",
    );
    let mut expected = plain();
    expected.admission_control = Some(AdmissionControl::default());
    expected.slow_start = Some(SlowStart::new(seconds(1)));
    expected.outlier_detection = Some(OutlierDetection {
        success_rate: Some(SuccessRate::default()),
        failure_percentage: Some(FailurePercentage::default()),
        ..OutlierDetection::default()
    });
    let probe = HealthProbe::Http { path: "/".into(), host: None, expected: 200..=299 };
    expected.health_check = Some(HealthCheck::new(probe));
    expected.connections.keepalive = Some(Keepalive::new(seconds(60)));
    assert_eq!(read, expected);
    assert_eq!(backend("dns: b:80, outlier_detection: {}").outlier_detection, Some(OutlierDetection::default()));
    assert_eq!(plain().connections, ConnectionPolicy::default());
}

/// gRFC A50: the longest ejection is no shorter than the first.
#[test]
fn the_longest_ejection_follows_the_first() {
    for (written, longest) in [("1s", 300), ("5m", 300), ("1h", 3600)] {
        let read = backend(&format!("dns: b:80, outlier_detection: {{ base_ejection_time: {written} }}"));
        assert_eq!(read.outlier_detection.unwrap().max_ejection_time, seconds(longest));
    }
}

#[test]
fn reads_how_connections_are_kept() {
    let read = backend(
        "dns: b:80, keepalive: { time: 1s, timeout: 2s, without_calls: true }, idle_timeout: none, \
         max_connection_age: 3s, max_requests_per_connection: 4, eager_endpoints: 0, \
         health_check: { grpc: a.B, interval: 5s, timeout: 6s, unhealthy_threshold: 7, healthy_threshold: 8 }",
    );
    let mut expected = plain();
    expected.connections = ConnectionPolicy {
        keepalive: Some(Keepalive { time: seconds(1), timeout: seconds(2), without_calls: true }),
        idle_timeout: None,
        max_age: Some(seconds(3)),
        max_requests: Some(4),
        eager_endpoints: 0,
    };
    expected.health_check = Some(HealthCheck {
        probe: HealthProbe::Grpc { service: "a.B".into() },
        interval: seconds(5),
        timeout: seconds(6),
        unhealthy_threshold: 7,
        healthy_threshold: 8,
    });
    assert_eq!(read, expected);
    assert_eq!(backend("dns: b:80, idle_timeout: 1s").connections.idle_timeout, Some(seconds(1)));
    for (written, statuses) in
        [("204", 204..=204), ("{ start: 200, end: 400 }", 200..=399), ("{ start: 599, end: 600 }", 599..=599)]
    {
        let read =
            backend(&format!("dns: b:80, health_check: {{ http: {{ path: /h, host: a.b, expected: {written} }} }}"));
        let probe = HealthProbe::Http { path: "/h".into(), host: Some("a.b".into()), expected: statuses };
        assert_eq!(read.health_check, Some(HealthCheck::new(probe)));
    }
}

/// What a route of `b` says in `fields`.
fn forward(defaults: &str, fields: &str) -> Forward {
    let config = good(&format!(
        "services: {{ s: {{ backends: {{ b: {{ dns: b:80 }} }}, routes: [{{ {fields} }}] }} }}\ndefaults: {{ {defaults} }}\n"
    ));
    match &config.virtual_hosts[0].routes[0].action {
        RouteAction::Forward(forward) => forward.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn reads_hedging() {
    let all = forward(
        "",
        "backends: [{ name: b }], hedging: { max_attempts: 5, delay: 10ms, non_fatal: [unavailable, 5xx, \
         retriable-status-codes], retriable_status_codes: [429], methods: [GET, POST], max_body_bytes: 7 }",
    );
    let hedge = HedgePolicy {
        max_attempts: 5,
        delay: Duration::from_millis(10),
        non_fatal: RetryOn::UNAVAILABLE | RetryOn::SERVER_ERROR | RetryOn::RETRIABLE_STATUS_CODES,
        status_codes: vec![StatusCode::TOO_MANY_REQUESTS],
        methods: RetryMethods::Only(vec![Method::GET, Method::POST]),
        max_body_bytes: 7,
    };
    assert_eq!(all.policy.hedge.as_deref(), Some(&hedge));
    let least = forward("", "backends: [{ name: b }], hedging: { delay: 0s }");
    assert_eq!(least.policy.hedge.as_deref(), Some(&HedgePolicy::new(2, Duration::ZERO)));
}

/// gRFC A6: a call has one of both. What is said nearer to the backend wins.
#[test]
fn hedging_and_retries_take_each_others_place() {
    let defaults = "retry: { on: [reset] }";
    let (retry, own) = (RetryPolicy::new(RetryOn::RESET), RetryPolicy::new(RetryOn::CANCELLED));
    let hedge = Some(Some(Arc::new(HedgePolicy::new(2, seconds(1)))));
    let policies = |fields: &str| {
        let forward = forward(defaults, fields);
        let PolicyOverride { retry, hedge, .. } = forward.backends[0].policy.clone();
        (forward.policy.retry.as_deref().cloned(), forward.policy.hedge.is_some(), retry, hedge)
    };
    let cases = [
        ("backends: [{ name: b }]", (Some(retry.clone()), false, None, None)),
        ("backends: [{ name: b }], hedging: { delay: 1s }", (None, true, None, None)),
        ("backends: [{ name: b }], hedging: { delay: 1s }, retry: none", (None, true, None, None)),
        ("backends: [{ name: b }], hedging: none", (Some(retry.clone()), false, None, None)),
        ("backends: [{ name: b, hedging: { delay: 1s } }]", (Some(retry.clone()), false, None, hedge)),
        ("backends: [{ name: b, hedging: none }], hedging: { delay: 1s }", (None, true, None, Some(None))),
        (
            "backends: [{ name: b, retry: { on: [cancelled] } }], hedging: { delay: 1s }",
            (None, true, Some(Some(Arc::new(own.clone()))), Some(None)),
        ),
        (
            "backends: [{ name: b, retry: { on: [cancelled] } }]",
            (Some(retry.clone()), false, Some(Some(Arc::new(own))), None),
        ),
        ("backends: [{ name: b, retry: none }], hedging: { delay: 1s }", (None, true, Some(None), None)),
    ];
    for (fields, expected) in cases {
        assert_eq!(policies(fields), expected, "{fields}");
    }
    let problem = only_problem(
        "services: { s: { backends: { b: { dns: b:80 } }, routes: [{ backends: [{ name: b }], retry: { on: [reset] }, \
         hedging: { delay: 1s } }] } }",
    );
    assert!(problem.message.starts_with("`retry` and `hedging` exclude each other"), "{problem}");
}

#[test]
fn reads_hashes_sessions_and_subsets() {
    let read = forward(
        "",
        "backends: [{ name: b, subset: { stage: canary } }], hash_policy: [{ cookie: { name: a, ttl: 1h, path: /p } }, \
         { cookie: { name: b } }, { cookie: { name: c, ttl: 0s } }, { source_ip: true, terminal: true }], \
         session_affinity: { cookie: { name: pod, ttl: 1s, path: /p } }",
    );
    let cookie = |name: &str, ttl, path: Option<&str>| {
        HashPolicy::new(HashSource::Cookie { name: name.into(), ttl, path: path.map(Into::into) })
    };
    let source = HashPolicy { source: HashSource::SourceAddress, terminal: true };
    let hash = [
        cookie("a", Some(seconds(3600)), Some("/p")),
        cookie("b", None, None),
        cookie("c", Some(seconds(0)), None),
        source,
    ];
    assert_eq!(*read.policy.hash, hash);
    let mut weighted = WeightedBackend::new(BackendId::new("s", "b"), 1);
    weighted.subset = metadata(&[("stage", "canary")]);
    assert_eq!(read.backends, [weighted]);
    let session = |fields: &str| {
        let read = forward("", &format!("backends: [{{ name: b, subset: {{}} }}], session_affinity: {{ {fields} }}"));
        assert_eq!(read.backends[0].subset, None);
        read.policy.session.as_deref().unwrap().clone()
    };
    let cookie = |ttl, path: &str| SessionAffinity::Cookie { name: "pod".into(), ttl, path: path.into() };
    assert_eq!(read.policy.session.as_deref(), Some(&cookie(seconds(1), "/p")));
    assert_eq!(session("cookie: { name: pod }"), cookie(Duration::ZERO, "/"));
    assert_eq!(session("header: X-Session"), SessionAffinity::Header(HeaderName::from_static("x-session")));
}

/// CF-07: what a backend says replaces the defaults as a whole, and `none` takes them away.
#[test]
fn cf_07_defaults_of_protection_hold_where_nothing_is_said() {
    let read = |fields: &str| {
        backend_of(&good(&format!(
            "services: {{ s: {{ backends: {{ b: {{ dns: b:80, {fields} }} }} }} }}\n\
             defaults: {{ circuit_breaker: {{ max_requests: 9, max_retries: 9 }}, outlier_detection: {{ interval: 9s }}, \
             keepalive: {{ time: 9s }} }}\n"
        )))
    };
    let limits = |max_requests, max_retries| CircuitBreaker { max_requests, max_retries, ..CircuitBreaker::default() };
    let detection = OutlierDetection { interval: seconds(9), ..OutlierDetection::default() };
    let summary =
        |backend: Backend| (backend.circuit_breaker, backend.outlier_detection, backend.connections.keepalive);
    let inherited = (limits(Some(9), Some(9)), Some(detection), Some(Keepalive::new(seconds(9))));
    assert_eq!(summary(read("")), inherited);
    let own = "circuit_breaker: { max_retries: 1 }, outlier_detection: {}, keepalive: { time: 1s }";
    let expected = (limits(None, Some(1)), Some(OutlierDetection::default()), Some(Keepalive::new(seconds(1))));
    assert_eq!(summary(read(own)), expected);
    let none = "circuit_breaker: none, outlier_detection: none, keepalive: none";
    assert_eq!(summary(read(none)), (CircuitBreaker::default(), None, None));
}

#[test]
fn reads_where_the_process_runs() {
    let place =
        |written: &str| good(&format!("unknown_services: dns\nlocality: {written}\n")).settings.locality.clone();
    for (written, expected) in [
        ("eu-west-1", Place::new("eu-west-1", "", "")),
        ("eu/a", Place::new("eu", "a", "")),
        ("eu/a/r", Place::new("eu", "a", "r")),
        ("{}", Place::default()),
        ("{ region: eu, zone: a, sub_zone: r }", Place::new("eu", "a", "r")),
        ("{ region: '1' }", Place::new("1", "", "")),
    ] {
        assert_eq!(place(written), expected, "{written}");
    }
}

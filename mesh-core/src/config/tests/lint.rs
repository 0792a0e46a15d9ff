//! Warnings: what is legal and probably wrong, and what looks like it and is meant.

use std::collections::BTreeSet;
use std::path::Path;

use super::super::{File, Reader, WARNINGS};

/// The warnings about a file whose service `s` is `service`, each as `code line:column path`; that there is no identity
/// left out.
fn warnings(service: &str, rest: &str) -> Vec<String> {
    let mut found = all_warnings(&format!("services: {{ s: {{\n {service}\n }} }}\n{rest}\n"));
    found.retain(|warning| !warning.starts_with("plaintext f:"));
    found
}

fn all_warnings(text: &str) -> Vec<String> {
    let file = File { text: text.as_bytes(), name: "f", directory: Path::new("") };
    let parsed = Reader::new().read(Some(file)).unwrap_or_else(|error| panic!("{error}\nin\n{text}"));
    let shown = parsed.warnings.iter().map(|warning| {
        assert!(warning.to_string().ends_with(&format!("; {} [{}]", warning.help, warning.code)));
        format!("{} {} {}", warning.code, warning.origin, warning.path)
    });
    shown.collect()
}

#[test]
fn says_what_is_probably_wrong() {
    let b = "backends: { b: { endpoints: [10.0.0.1:80] } }";
    let backend = |fields: &str| format!("backends: {{ b: {{ {fields} }} }}");
    let routes = |routes: &str| format!("routes: [ {routes} ], {b}");
    let t = "defaults: { timeout: 1s }";
    let cases: &[(&str, &str, &[&str])] = &[
        (b, t, &[]),
        (b, "", &["no-timeout f:1:13 services.s"]),
        (b, "defaults: { timeout: 0s }", &[]),
        (&routes("{ backends: [{ name: b }], timeout: 0s }"), "", &[]),
        (&routes("{ backends: [{ name: b, timeout: 1s }] }"), "", &[]),
        (&routes("{ backends: [{ name: b }] }"), "", &["no-timeout f:1:13 services.s"]),
        // A bound of one route hides none that is missing.
        (
            &routes(
                "{ matches: [{ method: GET }], backends: [{ name: b }], timeout: 1s }, { backends: [{ name: b }] }",
            ),
            "",
            &["no-timeout f:2:82 services.s.routes[1]"],
        ),
        (
            "routes: [{ backends: [{ name: b, timeout: 1s }, { name: c }] }], backends: { b: { dns: b:80 }, c: { dns: c:80 } }",
            "",
            &["no-timeout f:1:13 services.s"],
        ),
        (
            &routes(
                "{ matches: [{ method: GET }], backends: [{ name: b }], timeout: 1s }, { backends: [{ name: b }] }",
            ),
            t,
            &[],
        ),
        (
            &routes("{ backends: [{ name: b }], timeout: 1s }"),
            "unknown_services: dns",
            &["no-default-timeout f:4:19 unknown_services"],
        ),
        (b, "unknown_services: dns\ndefaults: { timeout: 0s }", &[]),
        (&routes("{ backends: [{ name: b }], timeout: 1s }"), "unknown_services: refuse", &[]),
        (
            "routes: [{ backends: [{ name: b }] }], backends: { b: { dns: b:80 }, c: { dns: c:80 } }",
            t,
            &["unused-backend f:2:71 services.s.backends.c"],
        ),
        // A backend that gets nothing by its weight is one that is waiting.
        (
            "routes: [{ backends: [{ name: b }, { name: c, weight: 0 }] }], backends: { b: { dns: b:80 }, c: { dns: c:80 } }",
            t,
            &[],
        ),
        (
            &routes("{ backends: [{ name: b }] }, { backends: [{ name: b }] }"),
            t,
            &["unreachable-route f:2:41 services.s.routes[1]"],
        ),
        (
            &routes("{ matches: [{ method: GET }, {}], backends: [{ name: b }] }, { backends: [{ name: b }] }"),
            t,
            &["unreachable-route f:2:73 services.s.routes[1]"],
        ),
        (
            &routes(
                "{ matches: [{ percent: 50 }, { headers: [{ name: a, exact: b }] }], backends: [{ name: b }] }, { backends: [{ name: b }] }",
            ),
            t,
            &[],
        ),
        (
            &routes("{ matches: [{ percent: 0 }], backends: [{ name: b }] }"),
            t,
            &["never-matches f:2:35 services.s.routes[0].matches[0].percent"],
        ),
        (
            &routes("{ matches: [{ fraction: { numerator: 0 } }], backends: [{ name: b }] }"),
            t,
            &["never-matches f:2:36 services.s.routes[0].matches[0].fraction"],
        ),
        (
            &routes("{ backends: [{ name: b }], retry: { on: [reset], methods: all } }"),
            t,
            &["retry-all-methods f:2:70 services.s.routes[0].retry.methods"],
        ),
        (&routes("{ backends: [{ name: b }], retry: { on: [reset], methods: [POST] } }"), t, &[]),
        (
            &routes("{ backends: [{ name: b }], retry: { on: [reset], per_try_timeout: 1s } }"),
            t,
            &["per-try-timeout-too-long f:2:78 services.s.routes[0].retry.per_try_timeout"],
        ),
        (
            &routes("{ backends: [{ name: b, timeout: 500ms, retry: { on: [reset], backoff: { base: 500ms } } }] }"),
            t,
            &["backoff-too-long f:2:91 services.s.routes[0].backends[0].retry.backoff.base"],
        ),
        (
            b,
            "defaults: { timeout: 1s, retry: { on: [reset], per_try_timeout: 2s, methods: all } }",
            &[
                "per-try-timeout-too-long f:4:65 defaults.retry.per_try_timeout",
                "retry-all-methods f:4:78 defaults.retry.methods",
            ],
        ),
        (
            &routes("{ backends: [{ name: b }], hash_policy: [{ query: q }] }"),
            t,
            &["unused-hash-policy f:2:52 services.s.routes[0].hash_policy"],
        ),
        (
            &routes("{ backends: [{ name: b }], hash_policy: [{ query: q }] }"),
            "defaults: { timeout: 1s, load_balancer: { policy: custom, name: x } }",
            &[],
        ),
        (
            &backend("endpoints: [10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80], load_balancer: pick_first"),
            t,
            &["pick-first-of-many f:2:86 services.s.backends.b.load_balancer"],
        ),
        (&backend("endpoints: [10.0.0.1:80, 10.0.0.2:80], load_balancer: pick_first"), t, &[]),
        (
            &backend(
                "endpoints: [10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80], load_balancer: { policy: pick_first, shuffle: true }",
            ),
            t,
            &[],
        ),
        (
            &backend("endpoints: [10.0.0.1:80, 8.8.8.8:80, 9.9.9.9:80]"),
            t,
            &["public-plaintext f:2:44 services.s.backends.b.endpoints[1]"],
        ),
        (&backend("endpoints: [8.8.8.8:443], tls: { mode: simple }"), t, &[]),
        (&backend("endpoints: [8.8.8.8:80], tls: { mode: disabled }"), t, &[]),
        (
            &backend("endpoints: [\"[2606:4700::1]:80\"]"),
            t,
            &["public-plaintext f:2:31 services.s.backends.b.endpoints[0]"],
        ),
        (
            &backend(
                "endpoints: [\"[::1]:1\", \"[fd00::1]:1\", \"[fe80::1]:1\", \"[2001:db8::1]:1\", \"[::ffff:10.0.0.1]:1\", \
                 127.0.0.1:1, 192.168.0.1:1, 172.16.0.1:1, 169.254.0.1:1, 100.64.0.1:1, 192.0.2.1:1, 198.18.0.1:1, \
                 unix:/run/a.sock]",
            ),
            t,
            &[],
        ),
        (&backend("endpoints: []"), t, &["no-endpoints f:2:30 services.s.backends.b.endpoints"]),
        (
            &backend("dns: b:80, retry_budget: { percent: 0, min_concurrent: 0 }"),
            t,
            &["empty-retry-budget f:2:44 services.s.backends.b.retry_budget"],
        ),
        (
            &routes("{ backends: [{ name: b }], hedging: { delay: 1s, methods: all } }"),
            t,
            &[
                "hedging-of-one f:2:48 services.s.routes[0].hedging",
                "hedging-too-late f:2:57 services.s.routes[0].hedging.delay",
                "retry-all-methods f:2:70 services.s.routes[0].hedging.methods",
            ],
        ),
        (
            "routes: [{ backends: [{ name: b, hedging: { delay: 1s }, timeout: 2s }] }], backends: { b: { dns: b:80 } }",
            t,
            &[],
        ),
        // A hash is looked at by some balancers, and needed by them.
        (
            "routes: [{ backends: [{ name: b }], hash_policy: [{ query: q }] }], backends: { b: { dns: b:80, load_balancer: maglev } }",
            t,
            &[],
        ),
        (
            "routes: [{ backends: [{ name: b }] }], backends: { b: { dns: b:80, load_balancer: { policy: ring_hash } } }",
            t,
            &["missing-hash-policy f:2:24 services.s.routes[0].backends[0]"],
        ),
        (
            "routes: [{ backends: [{ name: b, hash_policy: [] }], hash_policy: [{ query: q }] }], backends: { b: { dns: b:80, load_balancer: maglev } }",
            t,
            &["missing-hash-policy f:2:24 services.s.routes[0].backends[0]"],
        ),
        (
            b,
            "defaults: { timeout: 1s, load_balancer: ring_hash }",
            &["missing-hash-policy f:2:14 services.s.backends.b"],
        ),
        (&backend("dns: b:80, load_balancer: { policy: custom, name: x }"), t, &[]),
        (
            "routes: [{ backends: [{ name: b, subset: { stage: canary } }] }], backends: { b: { endpoints: [10.0.0.1:80, { address: 10.0.0.2:80, metadata: { stage: live } }] } }",
            t,
            &["unmatched-subset f:2:43 services.s.routes[0].backends[0].subset"],
        ),
        (
            "routes: [{ backends: [{ name: b, subset: { stage: live } }] }], backends: { b: { localities: [{ endpoints: [{ address: 10.0.0.2:80, metadata: { stage: live, a: b } }] }] } }",
            t,
            &[],
        ),
        (
            "routes: [{ backends: [{ name: b, subset: { stage: live } }] }], backends: { b: { dns: b:80 } }",
            t,
            &["unmatched-subset f:2:43 services.s.routes[0].backends[0].subset"],
        ),
        (
            "routes: [{ backends: [{ name: b, subset: { stage: live } }] }], backends: { b: { discovery: { source: a, name: b } } }",
            t,
            &[],
        ),
        (&backend("dns: b:80, slow_start: { window: 30s }"), t, &[]),
        (
            &backend("dns: b:80, slow_start: { window: 30s }"),
            "defaults: { timeout: 1s, load_balancer: pick_first }",
            &["unused-slow-start f:2:42 services.s.backends.b.slow_start"],
        ),
        (&backend("dns: b:80, health_check: { grpc: '' }"), t, &[]),
        (
            &backend("dns: b:80, health_check: { grpc: '' }"),
            "defaults: { timeout: 1s, load_balancer: pick_first }",
            &["unused-health-check f:2:44 services.s.backends.b.health_check"],
        ),
        (
            &backend("dns: b:80, locality_policy: { prefer: zone }"),
            t,
            &["prefer-without-locality f:2:57 services.s.backends.b.locality_policy.prefer"],
        ),
        (&backend("dns: b:80, locality_policy: { prefer: zone }"), "defaults: { timeout: 1s }\nlocality: eu/a", &[]),
        (
            &backend("dns: b:80, locality_policy: { prefer: zone }"),
            "defaults: { timeout: 1s }\nlocality: {}",
            &["prefer-without-locality f:2:57 services.s.backends.b.locality_policy.prefer"],
        ),
        (
            &backend("endpoints: [10.0.0.1:80], outlier_detection: {}"),
            t,
            &["outlier-detection-of-one f:2:64 services.s.backends.b.outlier_detection"],
        ),
        (&backend("endpoints: [10.0.0.1:80, 10.0.0.2:80], outlier_detection: {}"), t, &[]),
        (&backend("dns: b:80, outlier_detection: {}"), t, &[]),
        (&backend("endpoints: [10.0.0.1:80], outlier_detection: none"), t, &[]),
        (b, "defaults: { timeout: 1s, outlier_detection: {} }", &[]),
        (
            &backend("dns: b:80, outlier_detection: { consecutive_5xx: none }"),
            t,
            &["idle-outlier-detection f:2:49 services.s.backends.b.outlier_detection"],
        ),
        (
            &backend("dns: b:80, load_balancer: pick_first, outlier_detection: {}"),
            t,
            &["idle-outlier-detection f:2:76 services.s.backends.b.outlier_detection"],
        ),
        (&backend("dns: b:80, outlier_detection: { consecutive_5xx: none, success_rate: {} }"), t, &[]),
        (
            b,
            "defaults: { timeout: 1s, outlier_detection: { max_ejection_percent: 0 } }",
            &["idle-outlier-detection f:4:45 defaults.outlier_detection"],
        ),
        (
            &backend("dns: b:80, keepalive: { time: 9s }"),
            t,
            &["frequent-keepalive f:2:49 services.s.backends.b.keepalive.time"],
        ),
        (&backend("dns: b:80, keepalive: { time: 10s }"), t, &[]),
        (
            b,
            "defaults: { timeout: 1s, keepalive: { time: 1s } }",
            &["frequent-keepalive f:4:45 defaults.keepalive.time"],
        ),
        (
            &backend(
                "endpoints: [{ address: '10.0.0.1:80', weight: 0 }, { address: '10.0.0.2:80', health: draining }]",
            ),
            t,
            &["no-endpoints f:2:30 services.s.backends.b.endpoints"],
        ),
        (
            &backend("localities: [{ weight: 0, endpoints: [10.0.0.1:80] }, { region: a, endpoints: [] }]"),
            t,
            &["no-endpoints f:2:31 services.s.backends.b.localities"],
        ),
        (
            &backend(
                "localities: [{ endpoints: [10.0.0.1:80] }, { region: a, endpoints: [10.0.0.2:80, { address: '8.8.8.8:80' }] }]",
            ),
            t,
            &["public-plaintext f:2:111 services.s.backends.b.localities[1].endpoints[1]"],
        ),
        (
            &backend(
                "endpoints: [10.0.0.1:80, { address: '10.0.0.2:80', weight: 2 }], load_balancer: weighted_round_robin",
            ),
            t,
            &["unused-weight f:2:78 services.s.backends.b.endpoints"],
        ),
        (
            &backend("localities: [{ endpoints: [{ address: '10.0.0.2:80', weight: 2 }] }], load_balancer: pick_first"),
            t,
            &["unused-weight f:2:80 services.s.backends.b.localities"],
        ),
        (
            &backend("endpoints: [10.0.0.1:80, { address: '10.0.0.2:80', weight: 0 }], load_balancer: pick_first"),
            t,
            &[],
        ),
        (&backend("endpoints: [{ address: '10.0.0.2:80', weight: 2 }], load_balancer: least_request"), t, &[]),
        (
            &backend(
                "endpoints: [10.0.0.1:80, 10.0.0.2:80], outlier_detection: { consecutive_5xx: none, success_rate: { minimum_hosts: 4 }, failure_percentage: { minimum_hosts: 3 } }",
            ),
            t,
            &["idle-outlier-detection f:2:77 services.s.backends.b.outlier_detection"],
        ),
        (
            &backend(
                "endpoints: [10.0.0.1:80, 10.0.0.2:80], outlier_detection: { consecutive_5xx: none, success_rate: {}, failure_percentage: { minimum_hosts: 2 } }",
            ),
            t,
            &[],
        ),
        (&backend("endpoints: [10.0.0.1:80, 10.0.0.2:80], outlier_detection: { success_rate: {} }"), t, &[]),
        (
            "routes: [{ backends: [{ name: b }], hedging: { delay: 1ms } }], backends: { b: { endpoints: [10.0.0.1:80] } }",
            t,
            &["hedging-of-one f:2:47 services.s.routes[0].hedging"],
        ),
        (
            "routes: [{ backends: [{ name: b, hedging: { delay: 1ms } }] }], backends: { b: { localities: [{ endpoints: [10.0.0.1:80] }] } }",
            t,
            &["hedging-of-one f:2:44 services.s.routes[0].backends[0].hedging"],
        ),
        (
            "routes: [{ backends: [{ name: b }, { name: c }], hedging: { delay: 1ms } }], backends: { b: { endpoints: [10.0.0.1:80] }, c: { dns: c:80 } }",
            t,
            &[],
        ),
        (
            &backend(
                "endpoints: [10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80], load_balancer: { policy: maglev, table_size: 2 }",
            ),
            t,
            &[
                "missing-hash-policy f:2:14 services.s.backends.b",
                "small-hash-table f:2:116 services.s.backends.b.load_balancer.table_size",
            ],
        ),
        (
            &backend(
                "endpoints: [10.0.0.1:80, 10.0.0.2:80], load_balancer: { policy: ring_hash, max_size: 1, min_size: 1 }",
            ),
            t,
            &[
                "missing-hash-policy f:2:14 services.s.backends.b",
                "small-hash-table f:2:104 services.s.backends.b.load_balancer.max_size",
            ],
        ),
        (
            &backend("dns: b:80, health_check: { grpc: '', timeout: 11s }"),
            t,
            &["slow-health-check f:2:65 services.s.backends.b.health_check.timeout"],
        ),
        (
            &backend("dns: b:80, health_check: { grpc: '', interval: 500ms }"),
            t,
            &["slow-health-check f:2:66 services.s.backends.b.health_check.interval"],
        ),
        (&backend("dns: b:80, health_check: { grpc: '', interval: 1s }"), t, &[]),
    ];
    // Those of the environment are tested with it, and those of TLS below.
    let mut seen: BTreeSet<_> = ["unknown-propagator", "unknown-variable"].map(str::to_owned).into();
    seen.extend(SECURITY.iter().flat_map(|(_, codes)| *codes).map(|warning| {
        let (code, _) = warning.split_once(' ').unwrap();
        code.to_owned()
    }));
    for (service, rest, expected) in cases {
        let found = warnings(service, rest);
        assert_eq!(found, *expected, "{service}\n{rest}");
        seen.extend(found.iter().filter_map(|warning| warning.split(' ').next().map(str::to_owned)));
    }
    let listed: BTreeSet<_> = WARNINGS.iter().map(|(code, _)| (*code).to_owned()).collect();
    assert_eq!(seen, listed);
}

/// Behind problems no warning is looked for, and a hostile file has a thousand of them at most.
#[test]
fn warnings_are_bounded() {
    let services: String =
        (0..5000).map(|index| format!("s{index}: {{ backends: {{ b: {{ dns: b:80 }} }} }}\n")).collect();
    let text = format!("services:\n  {}", services.replace('\n', "\n  "));
    let file = File { text: text.as_bytes(), name: "f", directory: Path::new("") };
    assert_eq!(Reader::new().read(Some(file)).unwrap().warnings.len(), 1000);
}

/// Nobody is warned of what nobody said: without a file all names are looked up.
#[test]
fn names_that_are_looked_up_without_a_bound_are_a_warning_if_somebody_says_so() {
    use crate::model::UnknownServices::Dns;
    let codes = |reader: Reader| {
        let warnings = reader.read(None).unwrap().warnings;
        warnings.iter().map(|warning| format!("{} {}", warning.code, warning.origin)).collect::<Vec<_>>()
    };
    let environment = |variables: &[(&str, &str)]| {
        Reader::new().with_environment(variables.iter().map(|(name, value)| (name.into(), value.into())))
    };
    let variable = ("MESH_UNKNOWN_SERVICES", "dns");
    assert_eq!(codes(Reader::new()), [""; 0]);
    assert_eq!(codes(Reader::new().with_unknown_services(Dns)), [""; 0]);
    assert_eq!(codes(environment(&[variable])), ["no-default-timeout environment MESH_UNKNOWN_SERVICES"]);
    assert_eq!(codes(environment(&[variable, ("MESH_TIMEOUT", "1s")])), [""; 0]);
}

const I: &str = "identity: { source: custom }";

/// Files by their lines, and what is said about them.
const SECURITY: &[(&[&str], &[&str])] = &[
    // One word about all backends in plaintext, unless somebody says that it is meant.
    (&[S], &["plaintext f:1:30 services.s.backends.b"]),
    (
        &[
            "services: { s: { routes: [{ backends: [{ name: b }, { name: c }] }],",
            "  backends: { b: { dns: b:80, tls: { mode: simple } }, c: { dns: c:80 } } }, t: { backends: { d: { dns: d:80 } } } }",
        ],
        &["plaintext f:2:56 services.s.backends.c"],
    ),
    (&[S, "defaults: { tls: { mode: disabled } }"], &[]),
    (&["services: { s: { backends: { b: { dns: b:80, tls: { mode: disabled } } } } }"], &[]),
    // Who a server must be.
    (&[S, I], &["any-identity f:1:30 services.s.backends.b"]),
    (&[S, I, "defaults: { tls: { mode: mutual } }"], &["any-identity f:1:30 services.s.backends.b"]),
    (&[S, I, "defaults: { tls: { mode: mutual, identities: [] } }"], &[]),
    (&[S, I, "defaults: { tls: { mode: disabled } }"], &[]),
    (&[S, I, "defaults: { tls: { mode: simple } }"], &[]),
    (
        &["services: { s: { backends: { b: { dns: b:80, tls: { mode: mutual } } } } }", I],
        &["any-identity f:1:59 services.s.backends.b.tls"],
    ),
    (
        &[
            "services: { s: { backends: { b: { endpoints: [{ address: '10.0.0.1:80', mesh: true }], tls: { mode: auto } } } } }",
            I,
        ],
        &["any-identity f:1:101 services.s.backends.b.tls"],
    ),
    (
        &["services: { s: { backends: { b: { dns: b:80, tls: { mode: mutual, identities: [spiffe://a/b] } } } } }", I],
        &[],
    ),
    (&["services: { s: { backends: { b: { dns: b:80, tls: { mode: disabled } } } } }", I], &[]),
    // With an identity nothing goes out in plaintext, whoever is at its other end.
    (
        &["services: { s: { backends: { b: { endpoints: [8.8.8.8:443] } } } }", I],
        &["any-identity f:1:30 services.s.backends.b"],
    ),
    (
        &[
            "services: { s: { backends: { b: { dns: b:80, tls: { mode: mutual, identities: [{ prefix: spiffe://a }, { prefix: spiffe://a/ }] } } } } }",
            I,
        ],
        &["open-prefix f:1:90 services.s.backends.b.tls.identities[0].prefix"],
    ),
    // Servers.
    (&["servers: [{ name: a }]"], &["plaintext-server f:1:11 servers[0]"]),
    (&["servers: [{ name: a, tls: disabled }]"], &[]),
    (&["servers: [{ name: a }, { name: b, tls: strict }]", I], &[]),
    (
        &["servers: [{ name: a, tls: { mode: permissive, identities: [{ prefix: 'spiffe://a' }] } }]", I],
        &["permissive-server f:1:27 servers[0].tls", "open-prefix f:1:70 servers[0].tls.identities[0].prefix"],
    ),
    (
        &["servers: [{ name: a, forwarded_identity: { trusted_proxies: [{ prefix: 'spiffe://a/ns/b' }] } }]", I],
        &["open-prefix f:1:72 servers[0].forwarded_identity.trusted_proxies[0].prefix"],
    ),
    (
        &[
            "servers:",
            "  - { name: a, limits: { first_request_timeout: 9s } }",
            "  - { name: b, limits: { handshake_timeout: 16s } }",
            "  - { name: c, limits: { detection_timeout: 16s, first_request_timeout: 16s } }",
            I,
        ],
        &[
            "contradictory-limits f:2:49 servers[0].limits.first_request_timeout",
            "contradictory-limits f:3:45 servers[1].limits.handshake_timeout",
        ],
    ),
    (
        &[
            "servers: [{ name: a, limits: { max_connections_per_address: 20001 } }, { name: b, limits: { max_connections: none, max_connections_per_address: 20001 } }]",
            I,
        ],
        &["contradictory-limits f:1:61 servers[0].limits.max_connections_per_address"],
    ),
    (
        &[
            "servers: [{ name: a, limits: { max_connection_age_grace: 1s } }, { name: b, limits: { max_connection_age: 1m, max_connection_age_grace: 1s } }]",
            I,
        ],
        &["contradictory-limits f:1:58 servers[0].limits.max_connection_age_grace"],
    ),
    (
        &[
            "servers: [{ name: a, drain: { grace: 26s } }, { name: b, drain: { grace: 25s } }, { name: c, drain: { delay: 31s, grace: 0s } }]",
            I,
        ],
        &["long-drain f:1:29 servers[0].drain", "long-drain f:1:101 servers[2].drain"],
    ),
    (
        &["unknown_services: dns", "admin: { address: '0.0.0.0:15000', allow_remote: true }"],
        &["remote-admin f:2:50 admin.allow_remote"],
    ),
    (&["unknown_services: dns", "admin: { address: '127.0.0.1:15000', allow_remote: true }"], &[]),
];

const S: &str = "services: { s: { backends: { b: { dns: b:80 } } } }";

#[test]
fn says_what_is_probably_wrong_about_who_may_speak_with_whom() {
    for (lines, expected) in SECURITY {
        let mut found = all_warnings(&(lines.join("\n") + "\n"));
        found.retain(|warning| !warning.contains("-timeout "));
        assert_eq!(found, *expected, "{lines:#?}");
    }
}

#[test]
fn the_word_about_plaintext_counts_the_backends() {
    let text = format!(
        "{}, t: {{ backends: {{ b: {{ dns: b:80 }}, c: {{ dns: c:80 }} }} }} }}\n",
        S.strip_suffix(" }").unwrap()
    );
    let text = text.replace("c:80 } }", "c:80 } }, routes: [{ backends: [{ name: b }, { name: c }] }]");
    let file = File { text: text.as_bytes(), name: "f", directory: Path::new("") };
    let warnings = Reader::new().read(Some(file)).unwrap().warnings;
    let message = &warnings.iter().find(|warning| warning.code == "plaintext").unwrap().message;
    assert!(message.contains("to this backend and 2 more go out in plaintext"), "{message}");
}

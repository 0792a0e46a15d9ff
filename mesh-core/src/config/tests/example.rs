//! Whole files to the model.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method, StatusCode};

use super::{good, only_problem};
use crate::model::{
    Backend, BackendId, Backoff, Config, ConnectBackoff, Discovered, DnsName, Endpoint, Finder, Forward, Fraction,
    HashPolicy, HashSource, HeaderMatch, HostPattern, LoadBalancer, PathMatch, Pattern, PolicyOverride, Propagator,
    Protocol, QueryMatch, RetryBudget, RetryMethods, RetryOn, RetryPolicy, RetryThrottling, RootCertificates, Route,
    RouteMatch, RoutePolicy, Settings, StringMatch, Tls, UnknownServices, ValueMatch, VirtualHost, WeightedBackend,
};

fn endpoints(addresses: &[&str]) -> Vec<Endpoint> {
    addresses.iter().map(|address| Endpoint::new(address.parse::<std::net::SocketAddr>().unwrap())).collect()
}

fn exact(text: &str) -> ValueMatch {
    ValueMatch::String(StringMatch::Exact { value: text.into(), ignore_case: false })
}

fn prefix_match(prefix: &str) -> RouteMatch {
    RouteMatch { path: Some(PathMatch::PathPrefix(prefix.into())), ..RouteMatch::default() }
}

/// The example of the architecture, as far as this version goes.
#[test]
fn reads_the_example() {
    let config = good(
        r#"
services:
  greeter:                                          # mesh.channel("greeter"), http://greeter/
    hosts: [greeter.default.svc.cluster.local]      # other names callers use
    routes:                                         # first match wins; no routes: everything to the only backend
      - name: testers
        matches:
          - path: { prefix: /greeter.v1.Greeter/ }
            headers: [{ name: x-canary, exact: "true" }]
        backends: [{ name: v2 }]
      - backends: [{ name: v1, weight: 90 }, { name: v2, weight: 10 }]
        timeout: 2s
        retry: { num_retries: 2, on: [unavailable, connect-failure, 5xx], per_try_timeout: 500ms, backoff: { base: 25ms, max: 250ms } }
    backends:
      v1:
        endpoints: [127.0.0.1:50051, 127.0.0.1:50052]
        protocol: auto
        load_balancer: least_request
        retry_budget: { percent: 20, min_concurrent: 3 }
      v2:
        endpoints: [127.0.0.1:50053]
"#,
    );
    let v1 = BackendId::new("greeter", "v1");
    let v2 = BackendId::new("greeter", "v2");
    let mut testers = prefix_match("/greeter.v1.Greeter/");
    testers.headers.push(HeaderMatch::new(HeaderName::from_static("x-canary"), exact("true")));
    let mut retry = RetryPolicy::new(RetryOn::UNAVAILABLE | RetryOn::CONNECT_FAILURE | RetryOn::SERVER_ERROR);
    retry.num_retries = 2;
    retry.per_try_timeout = Some(Duration::from_millis(500));
    let policy =
        RoutePolicy { timeout: Some(Duration::from_secs(2)), retry: Some(Arc::new(retry)), ..RoutePolicy::default() };
    let split = vec![WeightedBackend::new(v1.clone(), 90), WeightedBackend::new(v2.clone(), 10)];
    let hosts = ["greeter", "greeter.default.svc.cluster.local"].map(|host| HostPattern::Exact(host.into()));
    let virtual_host = VirtualHost::new("greeter", hosts.to_vec())
        .with_route(Route::new(Forward::to(v2.clone())).with_name("testers").with_match(testers))
        .with_route(Route::new(Forward::split(split).with_policy(policy)));
    let mut first = Backend::new(v1, endpoints(&["127.0.0.1:50051", "127.0.0.1:50052"]));
    first.load_balancer = LoadBalancer::LeastRequest { choice_count: 2 };
    let second = Backend::new(v2, endpoints(&["127.0.0.1:50053"]));
    assert_eq!(config, Config::new().with_virtual_host(virtual_host).with_backend(first).with_backend(second));
}

/// What is left out has the defaults of the model: they are declared in both places.
#[test]
fn defaults_are_those_of_the_model() {
    let config = good("services: { a: { backends: { b: { endpoints: [] } } } }");
    let id = BackendId::new("a", "b");
    let virtual_host =
        VirtualHost::new("a", vec![HostPattern::Exact("a".into())]).with_route(Route::new(Forward::to(id.clone())));
    let backend = Backend::new(id, Vec::new());
    assert_eq!(config, Config::new().with_virtual_host(virtual_host).with_backend(backend));
    assert_eq!(*config.settings, Settings::default());

    let config = good(
        "services: { a: { backends: { b: { endpoints: [] } },\
         routes: [{ backends: [{ name: b }], retry: { on: [reset] } }] } }",
    );
    let retry = forward(&config.virtual_hosts[0].routes[0]).policy.retry.clone();
    assert_eq!(retry, Some(Arc::new(RetryPolicy::new(RetryOn::RESET))));
}

fn forward(route: &Route) -> &Forward {
    match &route.action {
        crate::model::RouteAction::Forward(forward) => forward,
        other => panic!("{other:?}"),
    }
}

/// Every field of the schema, none at its default.
#[test]
fn reads_every_field() {
    let config = good(
        r#"
services:
  Shop.example_1:
    hosts: ["*.shop.example", "shop.*", "*", SHOP.example_1, "shop:8080"]
    retry_throttling: { max_tokens: 10, token_ratio: 0.125 }
    routes:
      - name: everything
        matches:
          - path: { exact: /Items, ignore_case: true }
            method: POST
            headers:
              - { name: X-Exact, exact: "", ignore_case: true }
              - { name: x-prefix, prefix: a }
              - { name: x-suffix, suffix: b, ignore_case: true }
              - { name: x-contains, contains: c }
              - { name: x-regex, regex: "d+" }
              - { name: x-range, range: { start: -5, end: 0x10 } }
              - { name: x-present, present: false, invert: true }
            query:
              - { name: q e, exact: "1" }
              - { name: q, prefix: a, ignore_case: true }
              - { name: q, suffix: b }
              - { name: q, contains: c }
              - { name: q, regex: "d+" }
              - { name: q, present: true }
            percent: 12.5
          - path: { regex: "/v[0-9]+/.*" }
            fraction: { numerator: 1, denominator: 1000 }
          - fraction: { numerator: 1 }
          - {}
        backends:
          - name: blue
            weight: 0
            timeout: 0s
            retry: none
            hash_policy: []
          - name: green
            weight: 4294967295
            timeout: 1h30m
            retry: { on: [5xx] }
            hash_policy: [{ query: user }]
        timeout: 10s
        retry:
          num_retries: 10
          on: [retriable-status-codes, retriable-headers]
          per_try_timeout: 0s
          backoff: { base: 1m }
          retriable_status_codes: [400, 599]
          retriable_headers: [{ name: x-again, present: true }]
          methods: [GET, PURGE]
          max_body_bytes: 0
        hash_policy: [{ header: X-User, terminal: true }, { query: user }]
      - backends: [{ name: blue }]
        timeout: 0s
        retry: { on: [reset], methods: all, backoff: { base: 1ms, max: 1ms } }
    backends:
      blue:
        endpoints: [10.0.0.1:80, "[2001:db8::1]:443"]
        protocol: http1
        load_balancer: { policy: least_request, choice_count: 10 }
        connect_timeout: 1ms
        connect_backoff: { base: 1h }
        retry_budget: { percent: 0.0001, min_concurrent: 0 }
        tls: { mode: simple, server_name: shop.example, ca_certificates: tls/ca.pem }
      green:
        endpoints: []
        protocol: http2
        load_balancer: random
        connect_backoff: { base: 10ms, max: 20ms }
        tls: { mode: simple, ca_certificates: /ca.pem }
      red:
        endpoints: []
        load_balancer: { policy: round_robin }
        tls: { mode: disabled }
"#,
    );
    let name = "Shop.example_1";
    let host = &config.virtual_hosts[0];
    assert_eq!(&*host.name, name);
    let hosts: Vec<_> = host.hosts.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["shop.example_1", "*.shop.example", "shop.*", "*", "shop:8080"]);
    assert_eq!(host.retry_throttling, Some(RetryThrottling { max_tokens: 10, token_ratio_millis: 125 }));

    let route = &host.routes[0];
    assert_eq!(route.name.as_deref(), Some("everything"));
    assert_eq!(route.matches, matches_of_everything());
    let [blue, green] = ["blue", "green"].map(|backend| BackendId::new(name, backend));
    let user = HashPolicy::new(HashSource::QueryParameter("user".into()));
    let header = HashSource::Header { name: HeaderName::from_static("x-user"), rewrite: None };
    let retry = RetryPolicy {
        on: RetryOn::RETRIABLE_STATUS_CODES | RetryOn::RETRIABLE_HEADERS,
        status_codes: vec![StatusCode::BAD_REQUEST, StatusCode::from_u16(599).unwrap()],
        headers: vec![HeaderMatch::new(HeaderName::from_static("x-again"), ValueMatch::Present(true))],
        num_retries: 10,
        per_try_timeout: None,
        backoff: Backoff { base: Duration::from_secs(60), max: Duration::from_secs(300) },
        methods: RetryMethods::Only(vec![Method::GET, Method::from_bytes(b"PURGE").unwrap()]),
        max_body_bytes: 0,
    };
    let expected = Forward {
        backends: vec![
            WeightedBackend {
                backend: blue.clone(),
                weight: 0,
                subset: None,
                policy: PolicyOverride {
                    timeout: Some(None),
                    retry: Some(None),
                    hash: Some(Arc::new([])),
                    ..PolicyOverride::default()
                },
            },
            WeightedBackend {
                backend: green.clone(),
                weight: u32::MAX,
                subset: None,
                policy: PolicyOverride {
                    timeout: Some(Some(Duration::from_secs(5400))),
                    retry: Some(Some(Arc::new(RetryPolicy::new(RetryOn::SERVER_ERROR)))),
                    hash: Some(Arc::new([user.clone()])),
                    ..PolicyOverride::default()
                },
            },
        ],
        policy: RoutePolicy {
            timeout: Some(Duration::from_secs(10)),
            retry: Some(Arc::new(retry)),
            hash: Arc::new([HashPolicy { source: header, terminal: true }, user]),
            ..RoutePolicy::default()
        },
    };
    assert_eq!(forward(route), &expected);

    let policy = &forward(&host.routes[1]).policy;
    let mut retry = RetryPolicy::new(RetryOn::RESET);
    retry.methods = RetryMethods::All;
    retry.backoff = Backoff { base: Duration::from_millis(1), max: Duration::from_millis(1) };
    assert_eq!((policy.timeout, &policy.retry), (None, &Some(Arc::new(retry))));

    let tls = |server_name: Option<&str>, file: &str| {
        let mut tls = Tls::simple(RootCertificates::PemFile(PathBuf::from(file)));
        tls.server_name = server_name.map(Into::into);
        tls
    };
    let mut expected = Backend::new(blue.clone(), endpoints(&["10.0.0.1:80", "[2001:db8::1]:443"]));
    expected.protocol = Protocol::Http1;
    expected.load_balancer = LoadBalancer::LeastRequest { choice_count: 10 };
    expected.connect_timeout = Duration::from_millis(1);
    expected.connect_backoff = ConnectBackoff { base: Duration::from_secs(3600), max: Duration::from_secs(3600) };
    expected.retry_budget = RetryBudget { percent: 0.0001, min_concurrent: 0 };
    expected.tls = Some(tls(Some("shop.example"), "/etc/mesh/tls/ca.pem"));
    assert_eq!(*config.backends[&blue], expected);

    let mut expected = Backend::new(green.clone(), Vec::new());
    expected.protocol = Protocol::Http2;
    expected.load_balancer = LoadBalancer::Random;
    expected.connect_backoff = ConnectBackoff { base: Duration::from_millis(10), max: Duration::from_millis(20) };
    expected.tls = Some(tls(None, "/ca.pem"));
    assert_eq!(*config.backends[&green], expected);

    let red = BackendId::new(name, "red");
    assert_eq!(*config.backends[&red], Backend::new(red.clone(), Vec::new()));
}

fn matches_of_everything() -> Vec<RouteMatch> {
    let text = |value: &str| Arc::<str>::from(value);
    let values = [
        ("x-exact", StringMatch::Exact { value: text(""), ignore_case: true }),
        ("x-prefix", StringMatch::Prefix { value: text("a"), ignore_case: false }),
        ("x-suffix", StringMatch::Suffix { value: text("b"), ignore_case: true }),
        ("x-contains", StringMatch::Contains { value: text("c"), ignore_case: false }),
        ("x-regex", StringMatch::Regex(Pattern::new("d+").unwrap())),
    ];
    let mut headers: Vec<_> =
        values.map(|(name, value)| HeaderMatch::new(HeaderName::from_static(name), ValueMatch::String(value))).to_vec();
    let range = ValueMatch::Range { start: -5, end: 16 };
    headers.push(HeaderMatch::new(HeaderName::from_static("x-range"), range));
    headers.push(HeaderMatch::new(HeaderName::from_static("x-present"), ValueMatch::Present(false)).inverted());
    let query = vec![
        QueryMatch::new("q e", exact("1")),
        QueryMatch::new("q", ValueMatch::String(StringMatch::Prefix { value: text("a"), ignore_case: true })),
        QueryMatch::new("q", ValueMatch::String(StringMatch::Suffix { value: text("b"), ignore_case: false })),
        QueryMatch::new("q", ValueMatch::String(StringMatch::Contains { value: text("c"), ignore_case: false })),
        QueryMatch::new("q", ValueMatch::String(StringMatch::Regex(Pattern::new("d+").unwrap()))),
        QueryMatch::new("q", ValueMatch::Present(true)),
    ];
    let share = |parts| RouteMatch { fraction: Some(Fraction::per_million(parts)), ..RouteMatch::default() };
    vec![
        RouteMatch {
            path: Some(PathMatch::Exact(text("/Items"))),
            ignore_path_case: true,
            method: Some(Method::POST),
            headers,
            query,
            fraction: Some(Fraction::per_million(125_000)),
        },
        RouteMatch { path: Some(PathMatch::Regex(Pattern::new("/v[0-9]+/.*").unwrap())), ..share(1000) },
        share(10_000),
        RouteMatch::default(),
    ]
}

/// The order of the file is kept, and a backend of the same name may stand in two services.
#[test]
fn services_keep_their_order_and_their_backends() {
    let config = good(
        "services:\n  z: { backends: { v1: { endpoints: [10.0.0.1:1] } } }\n  \
         a: { backends: { v1: { endpoints: [10.0.0.2:1] } } }\n",
    );
    let names: Vec<_> = config.virtual_hosts.iter().map(|host| &*host.name).collect();
    assert_eq!(names, ["z", "a"]);
    let address = |service| config.backends[&BackendId::new(service, "v1")].endpoints[0].address.to_string();
    assert_eq!((address("z").as_str(), address("a").as_str()), ("10.0.0.1:1", "10.0.0.2:1"));
}

/// JSON is YAML.
#[test]
fn reads_json() {
    let config = good(r#"{"services": {"a": {"backends": {"b": {"endpoints": ["10.0.0.1:1"]}}}}}"#);
    assert_eq!(config.backends.len(), 1);
}

/// An empty list of routes is no list of routes.
#[test]
fn no_routes_need_a_single_backend() {
    let config = good("services: { a: { routes: [], backends: { b: { endpoints: [] } } } }");
    assert_eq!(config.virtual_hosts[0].routes.len(), 1);
    let problem = only_problem("services:\n  a:\n    backends: { b: { endpoints: [] }, c: { endpoints: [] } }\n");
    assert_eq!(
        problem.to_string(),
        "mesh.yaml:3:5: services.a.routes: `routes` is missing: it must say which of the backends `b`, `c` gets what; \
         write `routes: [{ backends: [{ name: b }] }]`"
    );
}

/// CF-07: what a route, a weighted backend or a backend says replaces the defaults, each field as a whole.
#[test]
fn cf_07_defaults_hold_where_nothing_is_said() {
    let config = good(
        r#"
defaults:
  timeout: 3s
  retry: { num_retries: 4, on: [unavailable] }
  connect_timeout: 700ms
  load_balancer: { policy: pick_first, shuffle: true }
  protocol: http2
services:
  plain: { backends: { b: { dns: Plain.example:80 } } }
  own:
    routes:
      - backends: [{ name: b }]
        matches: [{ method: GET }]
      - backends: [{ name: b, timeout: 1s, retry: none }]
        timeout: 0s
        retry: { on: [reset] }
      - backends: [{ name: c }]
        retry: none
    backends:
      b: { endpoints: [], connect_timeout: 1s, load_balancer: random, protocol: auto }
      c: { dns: { srv: _Grpc._tcp.own }, load_balancer: { policy: custom, name: nearest } }
      d: { discovery: { source: zoo, name: /own } }
"#,
    );
    let policies: Vec<_> = config.virtual_hosts.iter().flat_map(|host| &host.routes).map(forward).collect();
    let retry = Arc::new(RetryPolicy::new(RetryOn::UNAVAILABLE).with_num_retries(4));
    let default = RoutePolicy {
        timeout: Some(Duration::from_secs(3)),
        retry: Some(Arc::clone(&retry)),
        ..RoutePolicy::default()
    };
    assert_eq!(policies[0].policy, default);
    assert_eq!(policies[1].policy, default);
    let reset = Some(Arc::new(RetryPolicy::new(RetryOn::RESET)));
    assert_eq!(policies[2].policy, RoutePolicy { retry: reset, ..RoutePolicy::default() });
    let over = &policies[2].backends[0].policy;
    assert_eq!((over.timeout, &over.retry), (Some(Some(Duration::from_secs(1))), &Some(None)));
    assert_eq!(policies[3].policy, RoutePolicy { retry: None, ..default.clone() });

    let backend = |service, name| &config.backends[&BackendId::new(service, name)];
    let pick_first = LoadBalancer::PickFirst { shuffle: true };
    let [plain, b, c, d] = [("plain", "b"), ("own", "b"), ("own", "c"), ("own", "d")].map(|(s, b)| backend(s, b));
    for inheriting in [plain, d] {
        assert_eq!(inheriting.connect_timeout, Duration::from_millis(700));
        assert_eq!((&inheriting.load_balancer, inheriting.protocol), (&pick_first, Protocol::Http2));
    }
    assert_eq!(b.connect_timeout, Duration::from_secs(1));
    assert_eq!((&b.load_balancer, b.protocol), (&LoadBalancer::Random, Protocol::Auto));
    assert_eq!(c.load_balancer, LoadBalancer::Custom("nearest".into()));

    let finders = [plain, b, c, d].map(|backend| {
        let discovery = backend.discovery.as_ref()?;
        assert_eq!(discovery.found, Discovered::Pending);
        Some(discovery.of.clone())
    });
    let host = DnsName::Host { host: "plain.example".into(), port: 80 };
    let expected = [
        Some(Finder::Dns(host)),
        None,
        Some(Finder::Dns(DnsName::Service("_grpc._tcp.own".into()))),
        Some(Finder::Custom { source: "zoo".into(), name: "/own".into() }),
    ];
    assert_eq!(finders, expected);

    let defaults = &config.settings.defaults;
    assert_eq!((defaults.timeout, &defaults.retry), (default.timeout, &Some(retry)));
    assert_eq!((&defaults.load_balancer, defaults.protocol), (&pick_first, Protocol::Http2));
    assert_eq!(defaults.connect_timeout, Duration::from_millis(700));
}

#[test]
fn reads_the_settings_of_the_mesh() {
    let config = good(
        "unknown_services: dns\ndns: { min_ttl: 1s, max_ttl: 1h, timeout: 2s }\n\
         telemetry: { propagators: [b3multi, b3, grpc-trace-bin, baggage, tracecontext] }\n",
    );
    assert!(config.virtual_hosts.is_empty() && config.backends.is_empty());
    let settings = &config.settings;
    assert_eq!(settings.unknown_services, UnknownServices::Dns);
    let seconds = [settings.dns.min_ttl, settings.dns.max_ttl, settings.dns.timeout].map(|value| value.as_secs());
    assert_eq!(seconds, [1, 3600, 2]);
    use Propagator::{B3, B3Multi, Baggage, GrpcTraceBin, TraceContext};
    assert_eq!(settings.telemetry.propagators, [B3Multi, B3, GrpcTraceBin, Baggage, TraceContext]);
    for none in ["none", "[]"] {
        let config = good(&format!("unknown_services: dns\ntelemetry: {{ propagators: {none} }}\n"));
        assert!(config.settings.telemetry.propagators.is_empty());
    }
}

/// A socket's path is relative to the file, as a certificate's is.
#[test]
fn reads_unix_sockets() {
    let config = good("services: { a: { backends: { b: { endpoints: [unix:/run/a.sock, unix:sub/b.sock] } } } }");
    let addresses: Vec<_> =
        config.backends.values().flat_map(|backend| &backend.endpoints).map(|e| e.address.to_string()).collect();
    assert_eq!(addresses, ["unix:/run/a.sock", "unix:/etc/mesh/sub/b.sock"]);
}

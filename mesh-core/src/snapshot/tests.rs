use std::collections::HashMap;
use std::time::{Duration, Instant};

use http::{HeaderMap, Method};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::balance::State;
use crate::matching::RequestHead;
use crate::model::{
    Backend as BackendConfig, Config, Endpoint, Forward, HeaderMatch, HostPattern, LoadBalancer, PathMatch,
    PolicyOverride, Protocol, RetryOn, RetryPolicy, RetryThrottling, Route as RouteConfig, RouteAction, RouteMatch,
    RoutePolicy as Policy, StringMatch, ValueMatch, VirtualHost as VirtualHostConfig, WeightedBackend,
};

mod endpoints;

fn id(service: &str, name: &str) -> BackendId {
    BackendId::new(service, name)
}

fn backend(service: &str, name: &str, ports: &[u16]) -> BackendConfig {
    let address = |port: &u16| Endpoint::new(std::net::SocketAddr::from(([127, 0, 0, 1], *port)));
    BackendConfig::new(id(service, name), ports.iter().map(address).collect())
}

fn host(name: &str) -> VirtualHostConfig {
    VirtualHostConfig::new(name, vec![HostPattern::parse(name).unwrap()])
}

fn split(service: &str, weights: &[(&str, u32)]) -> Forward {
    Forward::split(weights.iter().map(|(name, weight)| WeightedBackend::new(id(service, name), *weight)).collect())
}

/// A service with one route that splits by `weights` over backends of one endpoint each.
fn service(config: Config, name: &str, weights: &[(&str, u32)]) -> Config {
    let config = config.with_virtual_host(host(name).with_route(RouteConfig::new(split(name, weights))));
    let port = |place: usize| 1000 + place as u16;
    weights.iter().enumerate().fold(config, |config, (place, (backend_name, _))| {
        config.with_backend(backend(name, backend_name, &[port(place)]))
    })
}

struct Mesh {
    compiler: Compiler<()>,
    snapshot: Arc<Snapshot>,
    rng: StdRng,
}

impl Mesh {
    fn new(config: &Config) -> Self {
        let mut mesh =
            Self { compiler: Compiler::new(()), snapshot: Arc::new(Snapshot::empty()), rng: StdRng::seed_from_u64(3) };
        mesh.apply(config);
        mesh
    }

    fn apply(&mut self, config: &Config) -> Update<()> {
        let update = self.compiler.compile(&self.snapshot, config, &mut self.rng, Instant::now()).unwrap();
        self.snapshot = Arc::clone(&update.snapshot);
        update
    }

    fn refuse(&mut self, config: &Config) -> String {
        self.compiler
            .compile(&self.snapshot, config, &mut self.rng, Instant::now())
            .err()
            .expect("it must be refused")
            .to_string()
    }

    fn backend(&self, service: &str, name: &str) -> &Arc<Backend<()>> {
        self.snapshot.backend_by_id(&id(service, name)).expect("the backend exists")
    }

    /// How often each backend is drawn in `count` requests.
    fn draw(&mut self, authority: &str, path: &str, count: usize) -> HashMap<String, usize> {
        let (method, headers) = (Method::GET, HeaderMap::new());
        let head = RequestHead { method: &method, authority, path, query: None, headers: &headers };
        let mut counts = HashMap::new();
        for _ in 0..count {
            let key = match self.snapshot.route(&head, &mut self.rng) {
                Ok(routed) => routed.target.backend().name.to_string(),
                Err(RouteError::UnknownService) => "unknown service".to_owned(),
                Err(RouteError::NoRoute(_)) => "no route".to_owned(),
                Err(RouteError::Unsupported(_, what)) => format!("unsupported {what}"),
            };
            *counts.entry(key).or_default() += 1;
        }
        counts
    }
}

/// Five sigma of a binomial count.
fn five_sigma(count: usize, share: f64) -> f64 {
    5.0 * (count as f64 * share * (1.0 - share)).sqrt()
}

#[test]
fn rt_07_weights_are_drawn_in_proportion_and_weight_zero_never() {
    let mut mesh = Mesh::new(&service(Config::new(), "greeter", &[("a", 20), ("b", 80), ("c", 0)]));
    let counts = mesh.draw("greeter", "/", 1600);
    assert_eq!(counts.len(), 2, "{counts:?}");
    assert!((counts["a"] as f64 - 320.0).abs() <= five_sigma(1600, 0.2), "{counts:?}");
}

#[test]
fn rt_08_weights_that_cannot_be_drawn_from_are_refused() {
    let mut mesh = Mesh::new(&service(Config::new(), "greeter", &[("a", 1)]));
    for weights in [&[("a", 0)][..], &[("a", u32::MAX), ("b", 1)]] {
        let error = mesh.refuse(&service(Config::new(), "greeter", weights));
        assert!(error.contains("route #0 of `greeter`"), "{error}");
    }
    assert_eq!(mesh.draw("greeter", "/", 10)["a"], 10, "the last good one stays");
}

#[test]
fn rt_10_without_a_usable_route_the_reason_is_told() {
    let unsupported = RouteConfig::new(RouteAction::Unsupported("a mirror".into()))
        .with_match(RouteMatch { path: Some(PathMatch::Exact("/mirror".into())), ..RouteMatch::default() });
    let mut mesh = Mesh::new(&Config::new().with_virtual_host(host("greeter").with_route(unsupported)));
    assert_eq!(mesh.draw("greeter", "/mirror", 1).keys().collect::<Vec<_>>(), ["unsupported a mirror"]);
    assert_eq!(mesh.draw("greeter", "/other", 1).keys().collect::<Vec<_>>(), ["no route"]);
    assert_eq!(mesh.draw("stranger", "/", 1).keys().collect::<Vec<_>>(), ["unknown service"]);
}

#[test]
fn rt_11_a_backend_that_does_not_exist_keeps_its_share() {
    let mut config = service(Config::new(), "greeter", &[("real", 3), ("missing", 1)]);
    config.backends.remove(&id("greeter", "missing"));
    let mut mesh = Mesh::new(&config);
    let counts = mesh.draw("greeter", "/", 2000);
    assert!((counts["missing"] as f64 - 500.0).abs() <= five_sigma(2000, 0.25), "{counts:?}");

    // Once it exists the route finds it, though the route itself did not change.
    mesh.apply(&config.with_backend(backend("greeter", "missing", &[1])));
    let targets: Vec<_> = mesh.snapshot.virtual_hosts()[0].targets().collect();
    assert!(targets.iter().all(|target| target.index().is_some()), "{targets:?}");
}

#[test]
fn two_services_must_not_claim_the_same_host() {
    let mut mesh = Mesh::new(&Config::new());
    let twin = VirtualHostConfig::new("twin", vec![HostPattern::parse("GREETER").unwrap()]);
    let error = mesh.refuse(&Config::new().with_virtual_host(host("greeter")).with_virtual_host(twin));
    assert!(error.contains("`greeter`") && error.contains("`twin`"), "{error}");
}

#[test]
fn an_equal_configuration_changes_nothing_but_the_version() {
    let config = || service(service(Config::new(), "a", &[("x", 1), ("y", 2)]), "b", &[("x", 1)]);
    let mut mesh = Mesh::new(&config());
    let before = Arc::clone(&mesh.snapshot);
    let update = mesh.apply(&config());
    assert!(update.touched.is_empty() && update.removed.is_empty());
    assert_eq!(update.snapshot.version(), before.version() + 1);
    for (old, new) in before.backends().zip(update.snapshot.backends()) {
        assert!(Arc::ptr_eq(old, new));
    }
    for (old, new) in before.virtual_hosts().iter().zip(update.snapshot.virtual_hosts()) {
        assert!(Arc::ptr_eq(old, new));
    }
}

#[test]
fn endpoints_keep_their_state_while_their_address_stays() {
    let with =
        |ports: &[u16]| service(Config::new(), "greeter", &[("v1", 1)]).with_backend(backend("greeter", "v1", ports));
    let mut mesh = Mesh::new(&with(&[1, 2]));
    let before: Vec<_> = mesh.backend("greeter", "v1").picker().endpoints().to_vec();
    for endpoint in &before {
        endpoint.set_state(State::Ready, Instant::now());
    }

    let update = mesh.apply(&with(&[3, 2]));
    let after = mesh.backend("greeter", "v1").picker().endpoints();
    assert_eq!(after[0].state(), State::Idle);
    assert!(Arc::ptr_eq(&after[1], &before[1]));
    assert_eq!(update.removed.len(), 1);
    assert!(Arc::ptr_eq(&update.removed[0], &before[0]));
    assert_eq!(update.touched, [mesh.backend("greeter", "v1").index()]);
}

#[test]
fn lb_07_an_update_leaves_pick_first_on_the_endpoint_it_uses() {
    let of = |ports: &[u16]| {
        let mut backend = backend("greeter", "v1", ports);
        backend.load_balancer = LoadBalancer::PickFirst { shuffle: false };
        Config::new().with_virtual_host(host("greeter")).with_backend(backend)
    };
    let mut mesh = Mesh::new(&of(&[1, 2, 3]));
    let used = Arc::clone(&mesh.backend("greeter", "v1").picker().endpoints()[1]);
    used.set_state(State::Ready, Instant::now());
    mesh.apply(&of(&[4, 1, 2]));
    let picker = mesh.backend("greeter", "v1").picker();
    assert!(picker.connects_in_order());
    assert!(Arc::ptr_eq(&picker.endpoints()[0], &used));
    let ports: Vec<_> = picker.endpoints().iter().map(|endpoint| endpoint.address().to_string()).collect();
    assert_eq!(ports, ["127.0.0.1:2", "127.0.0.1:4", "127.0.0.1:1"]);
}

#[test]
fn a_setting_that_connections_depend_on_replaces_the_endpoints() {
    type Change = fn(&mut BackendConfig);
    let changes: [(&str, Change, bool); 4] = [
        ("protocol", |backend| backend.protocol = Protocol::Http2, true),
        ("connect_timeout", |backend| backend.connect_timeout = Duration::from_secs(9), true),
        ("load_balancer", |backend| backend.load_balancer = LoadBalancer::Random, false),
        ("retry_budget", |backend| backend.retry_budget.percent = 1.0, false),
    ];
    for (what, change, replaced) in changes {
        let config = service(Config::new(), "greeter", &[("v1", 1)]);
        let mut mesh = Mesh::new(&config);
        let budget = Arc::clone(mesh.backend("greeter", "v1").budget());
        let mut changed = backend("greeter", "v1", &[1000]);
        change(&mut changed);
        let update = mesh.apply(&config.with_backend(changed));
        assert_eq!(update.removed.len(), usize::from(replaced), "{what}");
        assert!(Arc::ptr_eq(mesh.backend("greeter", "v1").budget(), &budget), "{what}: the budget stays");
    }
}

/// Remembers the idle timeout it was told last.
struct Told;

impl Transport for Told {
    type Backend = std::sync::Mutex<Option<Duration>>;
    type Endpoint = ();
    type Error = std::convert::Infallible;

    fn backend(&self, _: &BackendConfig, _: Option<&Arc<Self::Backend>>) -> Result<Self::Backend, Self::Error> {
        Ok(std::sync::Mutex::default())
    }

    fn update(&self, backend: &Arc<Self::Backend>, config: &BackendConfig) {
        *backend.lock().unwrap() = config.connections.idle_timeout;
    }

    fn endpoint(&self, _: &Arc<Self::Backend>, _: &model::Endpoint) {}
}

#[test]
fn how_connections_are_kept_may_change_without_new_ones() {
    let compiler = Compiler::new(Told);
    let mut rng = StdRng::seed_from_u64(3);
    let mut config = backend("svc", "v1", &[1, 2]);
    let mut compile =
        |previous: &Snapshot<Told>, config: &Config| compiler.compile(previous, config, &mut rng, Instant::now());
    let first = compile(&Snapshot::empty(), &Config::new().with_backend(config.clone())).unwrap();
    config.connections.idle_timeout = Some(Duration::from_secs(7));
    let second = compile(&first.snapshot, &Config::new().with_backend(config.clone())).unwrap();
    assert!(second.removed.is_empty());
    let transport = second.snapshot.backend(0).unwrap().transport();
    assert!(Arc::ptr_eq(transport, first.snapshot.backend(0).unwrap().transport()));
    assert_eq!(*transport.lock().unwrap(), Some(Duration::from_secs(7)));
    // A configuration that is refused changes nothing.
    config.connections.idle_timeout = Some(Duration::from_secs(8));
    let conflict = Config::new().with_virtual_host(host("svc")).with_virtual_host(host("svc")).with_backend(config);
    assert!(compile(&second.snapshot, &conflict).is_err());
    assert_eq!(*transport.lock().unwrap(), Some(Duration::from_secs(7)));
}

#[test]
fn indices_stay_and_free_places_are_used_again() {
    let mut mesh = Mesh::new(&service(service(Config::new(), "a", &[("x", 1)]), "b", &[("x", 1)]));
    let kept = mesh.backend("b", "x").index();
    let freed = mesh.backend("a", "x").index();

    let update = mesh.apply(&service(Config::new(), "b", &[("x", 1)]));
    assert_eq!(update.removed.len(), 1, "the endpoint of a/x");
    assert_eq!(mesh.backend("b", "x").index(), kept);
    assert!(mesh.snapshot.backend(freed).is_none());

    mesh.apply(&service(service(Config::new(), "b", &[("x", 1)]), "c", &[("x", 1)]));
    assert_eq!(mesh.backend("b", "x").index(), kept);
    assert_eq!(mesh.backend("c", "x").index(), freed);
}

#[test]
fn a_backend_that_gains_weight_is_touched() {
    let config = |weights| service(Config::new(), "greeter", weights);
    let mut mesh = Mesh::new(&config(&[("v1", 100), ("v2", 0)]));
    let update = mesh.apply(&config(&[("v1", 50), ("v2", 50)]));
    assert_eq!(update.touched, [mesh.backend("greeter", "v2").index()]);
    let update = mesh.apply(&config(&[("v1", 40), ("v2", 60)]));
    assert!(update.touched.is_empty(), "both were in use before");
}

#[test]
fn re_04_tokens_survive_an_update() {
    let throttling = |max_tokens| RetryThrottling { max_tokens, token_ratio_millis: 100 };
    let config = |throttling| {
        let mut host = host("greeter").with_route(RouteConfig::new(split("greeter", &[("v1", 1)])));
        host.retry_throttling = Some(throttling);
        Config::new().with_virtual_host(host).with_backend(backend("greeter", "v1", &[1]))
    };
    let mut mesh = Mesh::new(&config(throttling(10)));
    let throttle = Arc::clone(mesh.snapshot.virtual_hosts()[0].throttle().unwrap());
    (0..5).for_each(|_| throttle.failed());
    assert!(!throttle.allows());
    mesh.apply(&config(throttling(100)));
    let after = mesh.snapshot.virtual_hosts()[0].throttle().unwrap();
    assert!(Arc::ptr_eq(after, &throttle));
    assert_eq!((after.tokens_millis(), after.allows()), (50_000, false), "scaled, not refilled");
}

#[test]
fn policies_of_a_backend_replace_the_routes() {
    let retry = Arc::new(RetryPolicy::new(RetryOn::UNAVAILABLE));
    let mut forward = split("greeter", &[("plain", 1), ("own", 1)]).with_policy(Policy {
        timeout: Some(Duration::from_secs(1)),
        retry: Some(Arc::clone(&retry)),
        ..Policy::default()
    });
    forward.backends[1].policy = PolicyOverride { timeout: Some(None), retry: Some(None), ..PolicyOverride::default() };
    let mesh = Mesh::new(&Config::new().with_virtual_host(host("greeter").with_route(RouteConfig::new(forward))));
    let targets: Vec<_> = mesh.snapshot.virtual_hosts()[0].targets().collect();
    assert_eq!(targets[0].policy().timeout, Some(Duration::from_secs(1)));
    assert_eq!(targets[0].policy().retry, Some(retry));
    assert_eq!(targets[1].policy().timeout, None);
    assert_eq!(targets[1].policy().retry, None);
}

fn explained(mesh: &Mesh, line: &str) -> Explanation {
    explain(&mesh.snapshot, &serde_json::from_str(line).unwrap()).unwrap()
}

fn canary() -> Mesh {
    let header = HeaderMatch::new(
        http::HeaderName::from_static("x-canary"),
        ValueMatch::String(StringMatch::Exact { value: "true".into(), ignore_case: false }),
    );
    let testers = RouteConfig::new(split("greeter", &[("v2", 1)])).with_name("testers").with_match(RouteMatch {
        path: Some(PathMatch::PathPrefix("/api".into())),
        headers: vec![header],
        ..RouteMatch::default()
    });
    let quarter = RouteConfig::new(split("greeter", &[("v2", 1)])).with_match(RouteMatch {
        fraction: Some(crate::model::Fraction::per_million(250_000)),
        ..RouteMatch::default()
    });
    let rest = RouteConfig::new(split("greeter", &[("v1", 90), ("v2", 10)]).with_policy(Policy {
        timeout: Some(Duration::from_secs(2)),
        retry: Some(Arc::new(RetryPolicy::new(RetryOn::UNAVAILABLE | RetryOn::RESET).with_num_retries(2))),
        ..Policy::default()
    }));
    Mesh::new(
        &Config::new()
            .with_virtual_host(host("greeter").with_route(testers).with_route(quarter).with_route(rest))
            .with_backend(backend("greeter", "v1", &[1]))
            .with_backend(backend("greeter", "v2", &[2])),
    )
}

#[test]
fn explain_tells_which_route_takes_a_request_and_why() {
    let mesh = canary();
    let table = [
        (
            r#"{"method":"GET","authority":"greeter","path":"/api/x","headers":[["x-canary","true"]],"draw":999999}"#,
            "testers",
        ),
        (
            r#"{"method":"GET","authority":"GREETER:8080","path":"/api/x","headers":[["X-Canary","true"]],"draw":999999}"#,
            "testers",
        ),
        (r#"{"method":"GET","authority":"greeter","path":"/api/x","headers":[],"draw":249999}"#, "#1"),
        (r#"{"authority":"greeter"}"#, "#1"),
        (r#"{"method":"GET","authority":"greeter","path":"/api/x","headers":[],"draw":250000}"#, "#2"),
        (
            r#"{"method":"GET","authority":"greeter","path":"/apix","headers":[["x-canary","true"]],"draw":999999}"#,
            "#2",
        ),
    ];
    for (line, route) in table {
        let explanation = explained(&mesh, line);
        assert_eq!(explanation.route.as_deref(), Some(route), "{line}");
        assert_eq!((explanation.action, explanation.status), ("forward", None));
    }
    let rest = explained(&mesh, table[4].0);
    let shares: Vec<_> = rest.backends.iter().map(|share| (share.name.as_str(), share.weight)).collect();
    assert_eq!(shares, [("v1", 90), ("v2", 10)]);
    assert_eq!(rest.timeout_ms, Some(2000));
    let retry = rest.retry.unwrap();
    assert_eq!((retry.num_retries, retry.on), (2, vec!["unavailable", "reset"]));
}

#[test]
fn explain_tells_why_nothing_takes_a_request() {
    let mesh = canary();
    let stranger = explained(&mesh, r#"{"authority":"greter","path":"/"}"#);
    assert_eq!((stranger.virtual_host, stranger.status, stranger.action), (None, Some(404), "none"));
    assert!(stranger.reason.contains("did you mean `greeter`?"), "{}", stranger.reason);

    let empty = Mesh::new(&Config::new().with_virtual_host(host("greeter")));
    let lost = explained(&empty, r#"{"authority":"greeter","path":"/"}"#);
    assert_eq!((lost.virtual_host.as_deref(), lost.route, lost.status), (Some("greeter"), None, Some(404)));
}

#[test]
fn explain_refuses_what_is_no_request() {
    let mesh = canary();
    for (line, field) in [
        (r#"{"authority":"greeter","method":"G T"}"#, "method"),
        (r#"{"authority":"greeter","path":"relative"}"#, "path"),
        (r#"{"authority":"greeter","draw":1000000}"#, "draw"),
        (r#"{"authority":"greeter","headers":[["a b","c"]]}"#, "headers"),
        (r#"{"authority":"greeter","headers":[["a","\n"]]}"#, "headers"),
    ] {
        let error = explain(&mesh.snapshot, &serde_json::from_str(line).unwrap()).unwrap_err();
        assert!(error.starts_with(field), "{error}");
    }
}

/// What protects a backend and divides its requests is told in a line each, and nothing is told of what is not in force.
#[test]
fn explain_tells_what_is_in_force() {
    let text = r#"
defaults: { retry: { on: [reset] } }
services:
  greeter:
    routes:
      - backends:
          - { name: v0, weight: 0, subset: { stage: waiting } }
          - { name: v1, weight: 9, subset: { stage: canary } }
          - { name: v2 }
        hedging: { max_attempts: 3, delay: 50ms, non_fatal: [unavailable] }
        hash_policy: [{ cookie: { name: user, ttl: 1h } }, { source_ip: true }]
        session_affinity: { cookie: { name: pod } }
    backends:
      v0: { endpoints: [] }
      v1:
        localities:
          - region: eu
            zone: a
            weight: 3
            endpoints: [10.0.0.1:80, { address: "10.0.0.2:80", health: draining, metadata: { stage: canary } }]
          - { region: us, priority: 1, endpoints: [10.1.0.1:80] }
        load_balancer: ring_hash
        locality_policy: { prefer: zone }
        circuit_breaker: { max_requests: 100, max_retries: 3 }
        outlier_detection: { consecutive_gateway_errors: 3, recovery: probe }
        admission_control: {}
        health_check: { grpc: greeter }
        slow_start: { window: 30s }
        subset_size: 20
        keepalive: { time: 10s }
      v2: { endpoints: [10.0.0.3:80] }
"#;
    let mesh = Mesh::new(&crate::config::parse(text.as_bytes(), "mesh.yaml", std::path::Path::new("")).unwrap());
    let explanation = explained(&mesh, r#"{"authority":"greeter"}"#);
    assert_eq!(explanation.retry, None);
    assert_eq!(explanation.hedging.as_deref(), Some("up to 3 attempts, 50ms apart, at once after unavailable"));
    assert_eq!(explanation.session_affinity.as_deref(), Some("cookie pod, path /"));
    assert_eq!(explanation.hash_policy, ["cookie user, made up where there is none", "source_ip"]);
    let [v1, v2] = &explanation.backends[..] else { panic!("{explanation:?}") };
    assert_eq!(v1.subset, [("stage".to_owned(), "canary".to_owned())].into());
    assert_eq!(v1.load_balancer, "ring_hash of 1024 to 4096 entries");
    assert_eq!(
        v1.in_force,
        [
            "locality eu/a: priority 0, weight 3, 1 of 2 endpoints usable",
            "locality us: priority 1, weight 1, 1 of 1 endpoints usable",
            "locality_policy: overprovisioning_factor 140 %, panic_threshold 0 %, failover after 10s, the own zone first",
            "subset_size: 20 of 3 endpoints",
            "slow_start: within 30s from 10 % of the share",
            "circuit_breaker: max_requests 100, max_retries 3",
            "outlier_detection: consecutive_5xx 5, consecutive_gateway_errors 3; ejects up to 10 % for 30s to 300s, back by \
             a probe",
            "admission_control: below 95 % of success within 120s, at most 80 % refused",
            "health_check: grpc \"greeter\" every 10s",
            "connections: keepalive 10s",
        ]
    );
    assert_eq!((v2.load_balancer.as_str(), &v2.in_force[..], v2.subset.len()), ("round_robin", &[][..], 0));
}

/// Who proves what to whom, and who the endpoints must be.
#[test]
fn explain_tells_who_is_expected() {
    let in_force = |tls: &str| {
        let text = format!(
            "services: {{ s: {{ backends: {{ b: {{ endpoints: [10.0.0.1:80, {{ address: 10.0.0.2:80, mesh: true }}]{tls} }} }} }} }}\n\
             identity: {{ source: custom }}\ndefaults: {{ tls: {{ mode: disabled }} }}\n"
        );
        let mesh =
            Mesh::new(&crate::config::parse(text.as_bytes(), "mesh.yaml", std::path::Path::new("/etc")).unwrap());
        explained(&mesh, r#"{"authority":"s"}"#).backends[0].in_force.clone()
    };
    assert_eq!(in_force(""), [""; 0]);
    let trust = "trusts whom the identity trusts";
    for (tls, expected) in [
        ("mode: simple", "simple, trusts the public authorities".to_owned()),
        ("mode: mutual", format!("mutual, {trust}, expects anybody")),
        (
            "mode: auto, server_name: b.example",
            format!(
                "auto, mutual with 1 of 2 endpoints and plaintext with the others, server_name b.example, {trust}, expects anybody"
            ),
        ),
        (
            "mode: simple, ca_certificates: ca.crt, identities: [spiffe://a/b, { dns: c }, { exact: d }]",
            "simple, trusts /etc/ca.crt, expects spiffe://a/b or dns c or d".to_owned(),
        ),
        (
            "mode: mutual, identities: [{ prefix: 'spiffe://a/', kind: uri }, { suffix: b }, { contains: c, kind: email }, \
             { regex: 'd+' }, { exact: 10.0.0.1, kind: ip }]",
            format!(
                "mutual, {trust}, expects uri prefix spiffe://a/ or suffix b or email contains c or regex d+ or ip 10.0.0.1"
            ),
        ),
    ] {
        assert_eq!(in_force(&format!(", tls: {{ {tls} }}")), [format!("tls: {expected}")]);
    }
}

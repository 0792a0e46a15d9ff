#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]

use std::collections::BTreeSet;

use http::Method;
use mesh_core::grpc::Code;
use mesh_core::model::{self, Config, Forward, HostPattern, Route};
use mesh_core::observe::{Next, Outcome};
use mesh_core::snapshot::Compiler;

use super::catalog::CATALOG;
use super::metric::Kind;
use super::*;

fn ok() -> Outcome {
    Outcome::Response { status: http::StatusCode::OK, grpc: Some(Code::Ok) }
}

/// A virtual host with one route of each of these names; the empty one stands for none.
fn host(name: &str, routes: &[&str]) -> model::VirtualHost {
    let mut host = model::VirtualHost::new(name, vec![HostPattern::parse(name).unwrap()]);
    for route in routes {
        let mut compiled = Route::new(Forward::to(BackendId::new(name, "v1")));
        compiled.name = (!route.is_empty()).then(|| (*route).into());
        host = host.with_route(compiled);
    }
    host
}

fn compiled(hosts: impl IntoIterator<Item = model::VirtualHost>) -> Vec<Arc<VirtualHost>> {
    let config = hosts.into_iter().fold(Config::new(), Config::with_virtual_host);
    let update = Compiler::new(()).compile(
        &mesh_core::snapshot::Snapshot::empty(),
        &config,
        &mut rand::rng(),
        std::time::Instant::now(),
    );
    update.unwrap().snapshot.virtual_hosts().to_vec()
}

fn count(series: &Series) {
    series.attempt_started();
    series.attempt_ended(ok(), Duration::from_millis(1), Next::Return);
    let ended = Ended {
        outcome: ok(),
        duration: Duration::from_millis(1),
        retries: 0,
        resends: 0,
        hedges: 0,
        idle: Duration::ZERO,
    };
    series.request_ended(&ended);
}

impl Metrics {
    fn follow(&self, hosts: &[Arc<VirtualHost>], now: Instant) {
        let table = self.table.load();
        self.table.store(Arc::new(table.following(hosts, now).without_idle(now)));
    }
}

/// `service route method: count` of every series that was used.
fn requests(metrics: &Metrics, now: Instant) -> BTreeSet<String> {
    let reading = metrics.read(now);
    let metric = CATALOG.iter().find(|metric| metric.name == "mesh.client.requests").unwrap();
    let Kind::Counter(read) = metric.kind else { panic!("{} is a counter", metric.name) };
    let mut lines = BTreeSet::new();
    read(&reading, &mut |count, attributes| {
        let of = |key| attributes.iter().find(|pair| pair.key.as_str() == key).map(|pair| pair.value.to_string());
        let method = of("rpc.method").or_else(|| of("http.request.method"));
        let line =
            format!("{} {} {}: {count}", of("mesh.service").unwrap(), of("mesh.route").unwrap(), method.unwrap());
        assert!(lines.insert(line), "two series of the same name");
    });
    lines
}

#[test]
fn a_series_is_told_by_service_route_and_method() {
    let metrics = Metrics::new(None, false);
    let hosts = compiled([host("greeter", &["canary", "", "rest"]), host("catalog", &[""])]);
    let get = Call::Http(&Method::GET);
    for (host, route, call, times) in [
        (0, 0, Call::Grpc(Some("/a.B/C")), 1),
        (0, 0, Call::Grpc(Some("/a.B/D")), 2),
        (0, 1, Call::Grpc(Some("/a.B/C")), 3),
        (0, 2, Call::Grpc(None), 4),
        (0, 2, get, 5),
        (1, 0, get, 6),
        (1, 0, Call::Http(&Method::from_bytes(b"BREW").unwrap()), 7),
        (1, 0, Call::Http(&Method::from_bytes(b"STEEP").unwrap()), 8),
    ] {
        (0..times).for_each(|_| count(&metrics.series(&hosts[host], route, call)));
    }
    let expected = [
        "catalog #0 GET: 6",
        "catalog #0 _OTHER: 15",
        "greeter #1 a.B/C: 3",
        "greeter canary a.B/C: 1",
        "greeter canary a.B/D: 2",
        "greeter rest GET: 5",
        "greeter rest other: 4",
    ];
    assert_eq!(requests(&metrics, Instant::now()), expected.map(str::to_owned).into());
}

/// An update makes new virtual hosts; who is called the same goes on to be counted in the same place.
#[test]
fn series_survive_updates_by_their_names() {
    let metrics = Metrics::new(None, false);
    let (now, get) = (Instant::now(), Call::Http(&Method::GET));
    let before = compiled([host("greeter", &["a", "b"])]);
    let first = metrics.series(&before[0], 1, get);
    count(&first);
    let after = compiled([host("greeter", &["new", "a", "b"])]);
    metrics.follow(&after, now);
    let second = metrics.series(&after[0], 2, get);
    assert!(Arc::ptr_eq(&first, &second));
    // A request that was routed before the update.
    assert!(Arc::ptr_eq(&first, &metrics.series(&before[0], 1, get)));
    count(&second);
    assert_eq!(requests(&metrics, now), ["greeter b GET: 2".to_owned()].into());
    // Whoever left the configuration is not held: nobody but this test has it once the next one is in force.
    metrics.follow(&after, now);
    assert_eq!(Arc::strong_count(&before[0]), 1);
}

/// TL-05: names that others choose make no series, and what the configuration makes is bounded.
#[test]
fn tl_05_series_are_bounded() {
    let metrics = Metrics::new(None, false);
    let hosts = compiled([host("*", &["all"]), host("greeter", &["all"])]);
    let paths: Vec<String> = (0..10_000).map(|n| format!("/a.B/Method{n}")).collect();
    for path in &paths {
        // Not generated: any path, and any method.
        count(&metrics.series(&hosts[0], 0, Call::Grpc(None)));
        let method = Method::from_bytes(format!("M{}", &path[11..]).as_bytes()).unwrap();
        count(&metrics.series(&hosts[0], 0, Call::Http(&method)));
    }
    let now = Instant::now();
    assert_eq!(requests(&metrics, now), ["* all _OTHER: 10000".to_owned(), "* all other: 10000".to_owned()].into());

    for path in &paths {
        count(&metrics.series(&hosts[0], 0, Call::Grpc(Some(path))));
    }
    count(&metrics.series(&hosts[1], 0, Call::Http(&Method::GET)));
    let lines = requests(&metrics, now);
    assert_eq!(lines.len(), MAX_SERIES + 2);
    let beyond = 10_000 - (MAX_SERIES - 2);
    assert!(lines.contains(&format!("other other other: {beyond}")), "{:?}", lines.last());
    assert!(lines.contains("other other _OTHER: 1"));
    // Those that were there first go on to be counted, also after an update.
    let hosts = compiled([host("*", &["all"]), host("greeter", &["all"])]);
    metrics.follow(&hosts, now);
    count(&metrics.series(&hosts[0], 0, Call::Grpc(Some(&paths[0]))));
    assert!(requests(&metrics, now).contains("* all a.B/Method0: 2"));
}

/// TL-10: what left the configuration is shown for 10 minutes after it was last used.
#[test]
fn tl_10_series_of_what_left_are_dropped_in_the_end() {
    let metrics = Metrics::new(None, false);
    let began = Instant::now();
    let at = |minutes: u64| began + Duration::from_secs(60 * minutes);
    let get = Call::Http(&Method::GET);
    let hosts = compiled([host("greeter", &["a", "b"]), host("catalog", &["a"])]);
    for (host, route) in [(0, 0), (0, 1), (1, 0)] {
        count(&metrics.series(&hosts[host], route, get));
    }
    let under_way = metrics.series(&hosts[0], 1, get);
    let all = ["catalog a GET: 1", "greeter a GET: 1", "greeter b GET: 1"].map(str::to_owned);
    assert_eq!(requests(&metrics, at(60)), all.clone().into(), "what is in the configuration stays");

    // Of catalog nothing is left, and of greeter one route.
    metrics.follow(&compiled([host("greeter", &["a"])]), at(60));
    assert_eq!(requests(&metrics, at(69)), all.into());
    count(&under_way);
    let expected = ["catalog a GET: 1", "greeter a GET: 1", "greeter b GET: 2"].map(str::to_owned);
    assert_eq!(requests(&metrics, at(69)), expected.into());
    let expected = ["greeter a GET: 1", "greeter b GET: 2"].map(str::to_owned);
    assert_eq!(requests(&metrics, at(70)), expected.into());
    assert_eq!(requests(&metrics, at(79)), ["greeter a GET: 1".to_owned()].into());

    // What comes back begins anew.
    let hosts = compiled([host("greeter", &["a", "b"])]);
    metrics.follow(&hosts, at(90));
    count(&metrics.series(&hosts[0], 1, get));
    let expected = ["greeter a GET: 1", "greeter b GET: 1"].map(str::to_owned);
    assert_eq!(requests(&metrics, at(200)), expected.into());
}

/// TL-10, for backends.
#[test]
fn tl_10_backends_that_left_are_dropped_in_the_end() {
    let began = Instant::now();
    let at = |minutes: u64| began + Duration::from_secs(60 * minutes);
    let mut backends = Backends::default();
    let [v1, v2] = ["v1", "v2"].map(|name| BackendId::new("greeter", name));
    let (first, second) = (backends.series(&v1), backends.series(&v2));
    first.picked(Picked::AtOnce, true);
    let open = second.opened();
    backends.mark(|id| *id == v1, at(0));
    let names = |backends: &mut Backends, now| {
        backends.sweep(now);
        backends.all().iter().map(|series| series.id.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&mut backends, at(9)), ["v1", "v2"]);
    assert_eq!(names(&mut backends, at(11)), ["v1", "v2"], "it has a connection");
    drop(open);
    assert_eq!(names(&mut backends, at(12)), ["v1", "v2"], "which just ended");
    assert_eq!(names(&mut backends, at(22)), ["v1"]);
    assert_eq!(second.open(), 0);
    assert!(Arc::ptr_eq(&first, &backends.series(&v1)));
    // One that came back in time is kept.
    backends.mark(|_| false, at(30));
    backends.mark(|_| true, at(35));
    assert_eq!(names(&mut backends, at(100)), ["v1"]);
}

/// The table of the documentation is the catalogue.
#[test]
fn tl_07_the_documented_table_is_the_catalogue() {
    let documented: Vec<(&str, &str, &str)> = include_str!("../metrics.md")
        .lines()
        .filter_map(|line| {
            let mut cells = line.split('|').skip(1).map(str::trim);
            let name = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
            Some((name, cells.next()?, cells.next()?.trim_matches('`')))
        })
        .collect();
    let catalogue: Vec<(&str, &str, &str)> = CATALOG
        .iter()
        .map(|metric| {
            let kind = match metric.kind {
                Kind::Counter(_) => "counter",
                Kind::UpDownCounter(_) => "up-down counter",
                Kind::Gauge(_) => "gauge",
                Kind::Histogram(..) => "histogram",
            };
            (metric.name, kind, metric.unit)
        })
        .collect();
    assert_eq!(documented, catalogue);
}

/// Two services of one place, which a page must not show as two series of the same labels.
#[test]
fn a_place_is_one_target_with_tls_and_without() {
    let metrics = Metrics::new(None, false);
    let names = ["http://h:443", "https://h:443"];
    let key = |name: &str| model::VirtualHost::new(name, vec![HostPattern::Exact(name.into())]);
    let hosts = names.map(|name| key(name).with_route(Route::new(Forward::to(BackendId::new(name, "dns")))));
    for host in &compiled(hosts) {
        count(&metrics.series(host, 0, Call::Grpc(Some("/a.B/C"))));
        let backend = metrics.backend(&BackendId::new(&**host.name(), "dns"));
        backend.picked(Picked::AtOnce, true);
        backend.connect_ended(true);
    }
    let reading = metrics.read(Instant::now());
    for name in ["grpc.client.attempt.started", "grpc.subchannel.connection_attempts_succeeded"] {
        let metric = CATALOG.iter().find(|metric| metric.name == name).unwrap();
        let Kind::Counter(read) = metric.kind else { panic!("{name} is a counter") };
        let mut seen = Vec::new();
        read(&reading, &mut |count, attributes| {
            let target = attributes.iter().find(|pair| pair.key.as_str() == "grpc.target").unwrap();
            seen.push((target.value.to_string(), count));
        });
        assert_eq!(seen, [("dns:///h:443".to_owned(), 2)], "{name}");
    }
}

/// TL-10, for callers: who was not heard of for 10 minutes is not shown, and makes room.
#[test]
fn tl_10_callers_that_are_gone_are_dropped_in_the_end() {
    let metrics = Metrics::new(None, false);
    let began = Instant::now();
    let at = |minutes: u64| began + Duration::from_secs(60 * minutes);
    let series = metrics.server(&"web".into());
    let requests = series.requests.as_ref().unwrap();
    let metric = CATALOG.iter().find(|metric| metric.name == "mesh.server.requests").unwrap();
    let Kind::Counter(read) = metric.kind else { panic!("{} is a counter", metric.name) };
    let callers = |now| {
        let mut seen = BTreeSet::new();
        read(&metrics.read(now), &mut |count, attributes| {
            let peer = attributes.iter().find(|pair| pair.key.as_str() == "mesh.peer").unwrap();
            seen.insert(format!("{}: {count}", peer.value));
        });
        seen
    };
    let set = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<BTreeSet<_>>();
    for peer in [Some("a"), Some("b"), None] {
        requests.counted(peer, Served::Ok);
    }
    assert_eq!(callers(at(0)), set(&["a: 1", "b: 1", "none: 1"]));
    assert_eq!(callers(at(9)), set(&["a: 1", "b: 1", "none: 1"]));
    requests.counted(Some("a"), Served::Ok);
    assert_eq!(callers(at(9)), set(&["a: 2", "b: 1", "none: 1"]));
    assert_eq!(callers(at(10)), set(&["a: 2", "none: 1"]));
    assert_eq!(callers(at(19)), set(&["none: 1"]), "whoever did not prove who it is has no place of its own to lose");
    requests.counted(Some("b"), Served::Ok);
    assert_eq!(callers(at(20)), set(&["b: 1", "none: 1"]));
}

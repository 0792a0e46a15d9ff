//! Metrics as OpenTelemetry's SDK collects them.

#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]

mod http_support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::BodyExt;
use http_support::{Answer, greeter, grpc, nowhere, serve, text, whole};
use mesh_tower::opentelemetry::KeyValue;
use mesh_tower::testing::{At, Events, Fault, Pieces, Reason, Reply, Seen, TestBackend, TestMesh, empty, full};
use mesh_tower::{Mesh, RequestOptions};
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, Metric, MetricData, ResourceMetrics};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
use tokio::sync::watch;
use tower::ServiceExt;

/// A provider and what it exported.
struct Meters {
    provider: SdkMeterProvider,
    exporter: InMemoryMetricExporter,
}

/// What was collected of one metric: its unit, and each attribute set with its value (the count of a histogram).
#[derive(Debug, Clone, Default, PartialEq)]
struct Collected {
    unit: String,
    kind: &'static str,
    bounds: Vec<f64>,
    points: BTreeMap<String, f64>,
    sums: BTreeMap<String, f64>,
}

impl Meters {
    fn new() -> Self {
        let exporter = InMemoryMetricExporter::default();
        let reader = PeriodicReader::builder(exporter.clone()).with_interval(Duration::from_secs(3600)).build();
        Self { provider: SdkMeterProvider::builder().with_reader(reader).build(), exporter }
    }

    async fn mesh(&self, yaml: String) -> TestMesh {
        Mesh::builder().text(yaml).meter_provider(&self.provider).build().await.unwrap().into()
    }

    fn collect(&self) -> BTreeMap<String, Collected> {
        self.exporter.reset();
        self.provider.force_flush().unwrap();
        let exported = self.exporter.get_finished_metrics().unwrap();
        let metrics = exported.iter().flat_map(ResourceMetrics::scope_metrics).flat_map(|scope| {
            assert_eq!(scope.scope().name(), "mesh");
            scope.metrics()
        });
        metrics.map(|metric| (metric.name().to_owned(), collected(metric))).collect()
    }
}

fn collected(metric: &Metric) -> Collected {
    let mut of = Collected { unit: metric.unit().to_owned(), ..Collected::default() };
    match metric.data() {
        AggregatedMetrics::U64(MetricData::Sum(sum)) => {
            assert!(sum.is_monotonic());
            of.kind = "counter";
            of.points = sum.data_points().map(|point| (key(point.attributes()), point.value() as f64)).collect();
        }
        AggregatedMetrics::I64(MetricData::Sum(sum)) => {
            assert!(!sum.is_monotonic());
            of.kind = "up-down counter";
            of.points = sum.data_points().map(|point| (key(point.attributes()), point.value() as f64)).collect();
        }
        AggregatedMetrics::F64(MetricData::Gauge(gauge)) => {
            of.kind = "gauge";
            of.points = gauge.data_points().map(|point| (key(point.attributes()), point.value())).collect();
        }
        AggregatedMetrics::F64(MetricData::Histogram(histogram)) => {
            of.kind = "histogram";
            for point in histogram.data_points() {
                of.bounds = point.bounds().collect();
                of.points.insert(key(point.attributes()), point.count() as f64);
                of.sums.insert(key(point.attributes()), point.sum());
            }
        }
        other => panic!("{} is of another kind: {other:?}", metric.name()),
    }
    of
}

fn key<'a>(attributes: impl Iterator<Item = &'a KeyValue>) -> String {
    let mut pairs: Vec<_> = attributes.map(|pair| format!("{}={}", pair.key, pair.value)).collect();
    pairs.sort_unstable();
    pairs.join(" ")
}

/// A gRPC answer with a message and its status behind it.
fn grpc_answer(code: u32) -> Answer {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(code));
    let body = Pieces::new([&b"\0\0\0\0\0"[..]]).with_trailers(trailers).boxed_unsync();
    Ok(Response::builder().header("content-type", "application/grpc").body(body).unwrap())
}

fn grpc_refusal(code: u32) -> Answer {
    let response = Response::builder().header("content-type", "application/grpc").header("grpc-status", code);
    Ok(response.body(empty()).unwrap())
}

/// Answers each request as told by its number.
fn server<R: Into<Reply> + 'static>(answer: impl Fn(usize) -> R + Send + Sync + 'static) -> TestBackend {
    let count = Arc::new(AtomicUsize::new(0));
    TestBackend::handling(move |_| {
        let reply = answer(count.fetch_add(1, Ordering::SeqCst)).into();
        async move { reply }
    })
    .start()
}

async fn call(mesh: &Mesh, path: &str) {
    let request = grpc(path).body(http_body_util::Full::new(bytes::Bytes::new())).unwrap();
    let response = mesh.service("greeter").unwrap().call_generated(request).await.unwrap();
    whole(response).await;
}

/// The latency buckets of gRFC A66, in seconds.
const GRPC_LATENCY: [f64; 41] = [
    0.0, 0.00001, 0.00005, 0.0001, 0.0003, 0.0006, 0.0008, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008, 0.01,
    0.013, 0.016, 0.02, 0.025, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.4, 0.5, 0.65, 0.8,
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0,
];
/// Those of OpenTelemetry's conventions for HTTP.
const HTTP_LATENCY: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

type Expected<'a> = (&'a str, &'a str, &'a str, &'a [f64], &'a [(&'a str, f64)]);

fn assert_collected(collected: &BTreeMap<String, Collected>, expected: &[Expected<'_>]) {
    for (name, unit, kind, bounds, points) in expected {
        let of = collected.get(*name).unwrap_or_else(|| panic!("{name} was not collected: {:?}", collected.keys()));
        assert_eq!((&*of.unit, of.kind, &*of.bounds), (*unit, *kind, *bounds), "{name}");
        let points: BTreeMap<_, _> = points.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect();
        assert_eq!(of.points, points, "{name}");
    }
}

/// TL-07: name, unit, labels and buckets of gRPC's metrics (gRFC A66, A94, A96), and of ours beside them.
#[tokio::test]
async fn tl_07_grpc_calls_are_measured_as_grpc_says() {
    let meters = Meters::new();
    let server = server(|number| match number {
        1 | 2 => Reply::from(grpc_refusal(14)),
        3 => grpc_answer(5).into(),
        4 => Fault::Reset(At::BeforeHead, Reason::REFUSED_STREAM).into(),
        _ => grpc_answer(0).into(),
    });
    let route = "name: all, retry: { num_retries: 3, on: [unavailable], backoff: { base: 20ms, max: 20ms } }";
    let mesh = meters.mesh(greeter(&[server.address()]).route(route).yaml()).await;
    call(&mesh, "/a.B/C").await;
    // Two retries, then an answer that is no success.
    call(&mesh, "/a.B/C").await;
    // Sent again, because it was refused unprocessed.
    call(&mesh, "/a.B/D").await;
    // Not by generated code.
    let request = grpc("http://greeter/any/path").body(String::new()).unwrap();
    whole(mesh.http_client().oneshot(request).await.unwrap()).await;

    let collected = meters.collect();
    let of = |method: &str, status: &str| format!("grpc.method={method} grpc.status={status} grpc.target=greeter");
    let [c_ok, c_unavailable, c_not_found, d_ok, d_unavailable, other_ok] = [
        of("a.B/C", "OK"),
        of("a.B/C", "UNAVAILABLE"),
        of("a.B/C", "NOT_FOUND"),
        of("a.B/D", "OK"),
        of("a.B/D", "UNAVAILABLE"),
        of("other", "OK"),
    ];
    let subchannel = "grpc.lb.backend_service=v1 grpc.target=greeter";
    let (seconds, count, up_down) = ("histogram", "counter", "up-down counter");
    let mesh_of = |rest: &str| format!("mesh.route=all mesh.service=greeter {rest}");
    let calls = [
        mesh_of("rpc.method=a.B/C rpc.response.status_code=OK"),
        format!("error.type=NOT_FOUND {}", mesh_of("rpc.method=a.B/C rpc.response.status_code=NOT_FOUND")),
        mesh_of("rpc.method=a.B/D rpc.response.status_code=OK"),
        mesh_of("rpc.method=other rpc.response.status_code=OK"),
        format!("error.type=UNAVAILABLE {}", mesh_of("rpc.method=a.B/C rpc.response.status_code=UNAVAILABLE")),
        format!("error.type=refused {}", mesh_of("rpc.method=a.B/D rpc.response.status_code=UNAVAILABLE")),
    ];
    let calls: Vec<&str> = calls.iter().map(String::as_str).collect();
    let [policy, transparent] = [
        "mesh.retry.kind=policy mesh.route=all mesh.service=greeter rpc.method=a.B/C",
        "mesh.retry.kind=transparent mesh.route=all mesh.service=greeter rpc.method=a.B/D",
    ];
    assert_collected(
        &collected,
        &[
            (
                "grpc.client.attempt.started",
                "{attempt}",
                count,
                &[],
                &[
                    ("grpc.method=a.B/C grpc.target=greeter", 4.0),
                    ("grpc.method=a.B/D grpc.target=greeter", 2.0),
                    ("grpc.method=other grpc.target=greeter", 1.0),
                ],
            ),
            (
                "grpc.client.attempt.duration",
                "s",
                seconds,
                &GRPC_LATENCY,
                &[
                    (&c_ok, 1.0),
                    (&c_unavailable, 2.0),
                    (&c_not_found, 1.0),
                    (&d_unavailable, 1.0),
                    (&d_ok, 1.0),
                    (&other_ok, 1.0),
                ],
            ),
            (
                "grpc.client.call.duration",
                "s",
                seconds,
                &GRPC_LATENCY,
                &[(&c_ok, 1.0), (&c_not_found, 1.0), (&d_ok, 1.0), (&other_ok, 1.0)],
            ),
            (
                "grpc.client.call.retries",
                "{retry}",
                seconds,
                &[1.0, 2.0, 3.0, 4.0, 5.0],
                &[("grpc.method=a.B/C grpc.target=greeter", 1.0)],
            ),
            (
                "grpc.client.call.transparent_retries",
                "{transparent_retry}",
                seconds,
                &[1.0, 2.0, 3.0, 4.0, 5.0, 10.0],
                &[("grpc.method=a.B/D grpc.target=greeter", 1.0)],
            ),
            ("grpc.subchannel.connection_attempts_succeeded", "{attempt}", count, &[], &[(subchannel, 1.0)]),
            ("grpc.subchannel.connection_attempts_failed", "{attempt}", count, &[], &[(subchannel, 0.0)]),
            ("grpc.subchannel.disconnections", "{disconnection}", count, &[], &[(subchannel, 0.0)]),
            ("grpc.subchannel.open_connections", "{connection}", up_down, &[], &[(subchannel, 1.0)]),
            (
                "mesh.client.requests",
                "{request}",
                count,
                &[],
                &[(calls[0], 1.0), (calls[1], 1.0), (calls[2], 1.0), (calls[3], 1.0)],
            ),
            (
                "mesh.client.attempts",
                "{attempt}",
                count,
                &[],
                &[(calls[0], 1.0), (calls[1], 1.0), (calls[2], 1.0), (calls[3], 1.0), (calls[4], 2.0), (calls[5], 1.0)],
            ),
            ("mesh.client.retries", "{retry}", count, &[], &[(policy, 2.0), (transparent, 1.0)]),
        ],
    );
    let retries = &collected["grpc.client.call.retries"].sums["grpc.method=a.B/C grpc.target=greeter"];
    assert!((retries - 2.0).abs() < 1e-9);
    let delay = &collected["grpc.client.call.retry_delay"];
    assert_eq!((&*delay.unit, &*delay.bounds), ("s", &GRPC_LATENCY[..]));
    // Two pauses of 20 ms, each shortened by at most a fifth.
    let paused = delay.sums["grpc.method=a.B/C grpc.target=greeter"];
    assert!(paused >= 0.03, "{paused} s");
    mesh.end().await;
}

/// TL-07: and HTTP's by OpenTelemetry's conventions.
#[tokio::test]
async fn tl_07_http_requests_are_measured_as_the_conventions_say() {
    let meters = Meters::new();
    let server = server(|number| {
        let status = [200, 503, 200, 404, 503].get(number).copied().unwrap_or(599);
        Ok(Response::builder().status(status).body(full("hello")).unwrap())
    });
    let route = "retry: { num_retries: 1, on: [5xx], backoff: { base: 1ms, max: 1ms } }";
    let greeter = greeter(&[server.address()]).route(route).backend("retry_budget: { percent: 0, min_concurrent: 1 }");
    let mesh = meters.mesh(greeter.yaml()).await;
    for _ in 0..3 {
        text(mesh.http_client().get("http://greeter/").await.unwrap()).await;
    }
    let mut request = Request::post("http://greeter.default.svc/").body(String::new()).unwrap();
    request.extensions_mut().insert(RequestOptions::new().no_retry());
    text(mesh.http_client().oneshot(request).await.unwrap()).await;
    mesh.http_client().get("http://greter/").await.unwrap_err();

    let get = |rest: &str| format!("{rest}http.request.method=GET ");
    let of = |rest: &str, status: u16| format!("{rest}http.response.status_code={status} server.address=greeter");
    let [ok, unavailable, not_found, post] = [
        of(&get(""), 200),
        of(&get("error.type=503 "), 503),
        of(&get("error.type=404 "), 404),
        of("error.type=503 http.request.method=POST ", 503),
    ];
    let backend = "mesh.backend=v1 mesh.service=greeter";
    let endpoints: Vec<String> = ["idle", "connecting", "ready", "failing"]
        .map(|s| format!("mesh.backend=v1 mesh.endpoint.state={s} mesh.service=greeter"))
        .into();
    let collected = meters.collect();
    let (seconds, count, up_down) = ("histogram", "counter", "up-down counter");
    assert_collected(
        &collected,
        &[
            (
                "http.client.request.duration",
                "s",
                seconds,
                &HTTP_LATENCY,
                &[(&ok, 2.0), (&unavailable, 1.0), (&not_found, 1.0), (&post, 1.0)],
            ),
            (
                "mesh.client.request.duration",
                "s",
                seconds,
                &HTTP_LATENCY,
                &[(&ok, 2.0), (&not_found, 1.0), (&post, 1.0)],
            ),
            ("mesh.client.requests.unrouted", "{request}", count, &[], &[("error.type=unknown_service", 1.0)]),
            (
                "mesh.client.retries",
                "{retry}",
                count,
                &[],
                &[("http.request.method=GET mesh.retry.kind=policy mesh.route=#0 mesh.service=greeter", 1.0)],
            ),
            ("mesh.backend.open_connections", "{connection}", up_down, &[], &[(backend, 1.0)]),
            ("mesh.backend.disconnections", "{disconnection}", count, &[], &[(backend, 0.0)]),
            (
                "mesh.backend.endpoints",
                "{endpoint}",
                up_down,
                &[],
                &[(&endpoints[0], 0.0), (&endpoints[1], 0.0), (&endpoints[2], 1.0), (&endpoints[3], 0.0)],
            ),
            ("mesh.backend.active_requests", "{request}", up_down, &[], &[(backend, 0.0)]),
            ("mesh.backend.pending_requests", "{request}", up_down, &[], &[(backend, 0.0)]),
            ("mesh.backend.active_retries", "{retry}", up_down, &[], &[(backend, 0.0)]),
            ("mesh.backend.retry_limit", "{retry}", up_down, &[], &[(backend, 1.0)]),
            ("mesh.config.version", "", "gauge", &[], &[("", 1.0)]),
            ("mesh.config.last_reload_successful", "", "gauge", &[], &[("", 1.0)]),
            (
                "mesh.config.reloads",
                "{reload}",
                count,
                &[],
                &[("mesh.config.result=applied", 1.0), ("mesh.config.result=refused", 0.0)],
            ),
            ("mesh.build_info", "", "gauge", &[], &[(concat!("version=", env!("CARGO_PKG_VERSION")), 1.0)]),
        ],
    );
    let picks: f64 = collected["mesh.backend.picks"].points.values().sum();
    assert!((picks - 5.0).abs() < 1e-9, "{:?}", collected["mesh.backend.picks"]);
    assert!(!collected.keys().any(|name| name.starts_with("grpc.")), "nobody called by gRPC: {:?}", collected.keys());

    mesh.shutdown().await;
    let collected = meters.collect();
    assert_eq!(collected["mesh.backend.disconnections"].points[backend], 1.0);
    assert_eq!(collected["mesh.backend.open_connections"].points[backend], 0.0);
}

/// A mesh that is gone is not told of any more.
#[tokio::test]
async fn instruments_end_with_their_mesh() {
    let meters = Meters::new();
    let server = TestBackend::named("hello").start();
    let mesh = meters.mesh(greeter(&[server.address()]).yaml()).await;
    text(mesh.http_client().get("http://greeter/").await.unwrap()).await;
    assert!(meters.collect().contains_key("mesh.config.version"));
    mesh.shutdown().await;
    drop(mesh);
    http_support::until("its last task ended", || !meters.collect().contains_key("mesh.config.version")).await;
}

#[tokio::test]
async fn failures_and_cancellations_are_told_by_their_reason() {
    let meters = Meters::new();
    let server = serve(|_| std::future::pending::<Answer>());
    let mesh = meters.mesh(greeter(&[server.address()]).route("name: slow").yaml()).await;
    let mut request = Request::get("http://greeter/").body(String::new()).unwrap();
    request.extensions_mut().insert(RequestOptions::new().timeout(Duration::from_millis(50)));
    mesh.http_client().oneshot(request).await.unwrap_err();
    let request = mesh.http_client().oneshot(Request::get("http://greeter/").body(String::new()).unwrap());
    tokio::time::timeout(Duration::from_millis(50), request).await.unwrap_err();
    let collected = meters.collect();
    let of = |error: &str| format!("error.type={error} http.request.method=GET mesh.route=slow mesh.service=greeter");
    for name in ["mesh.client.requests", "mesh.client.attempts"] {
        let expected = [(of("deadline_exceeded"), 1.0), (of("cancelled"), 1.0)].into();
        assert_eq!(collected[name].points, expected, "{name}");
    }
    mesh.end().await;
}

/// Retries that the budget refuses are told from those that were never asked for.
#[tokio::test]
async fn retries_denied_by_the_budget_are_counted() {
    let meters = Meters::new();
    let server = server(|_| Ok(Response::builder().status(503).body(empty()).unwrap()));
    let route = "retry: { num_retries: 1, on: [5xx], backoff: { base: 1ms, max: 1ms } }";
    let greeter = greeter(&[server.address()]).route(route).backend("retry_budget: { percent: 0, min_concurrent: 0 }");
    let mesh = meters.mesh(greeter.yaml()).await;
    mesh.http_client().get("http://greeter/").await.unwrap();
    let expected = [("http.request.method=GET mesh.route=#0 mesh.service=greeter".to_owned(), 1.0)].into();
    assert_eq!(meters.collect()["mesh.client.retries.denied"].points, expected);
    mesh.end().await;
}

/// CF-03: a refused configuration shows.
#[tokio::test]
async fn cf_03_a_refused_configuration_shows_in_metrics() {
    let meters = Meters::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mesh.yaml");
    std::fs::write(&path, greeter(&[nowhere()]).yaml()).unwrap();
    let mesh = Mesh::builder().file(&path).meter_provider(&meters.provider).build().await.unwrap();
    let value = |name: &str| meters.collect()[name].points[""];
    let applied = value("mesh.config.last_reload_timestamp");
    assert!(applied > 1.7e9 && value("mesh.config.age") >= 0.0);

    let mut status = mesh.config_status();
    std::fs::write(&path, "services: nonsense").unwrap();
    status.wait_for(|status| status.error.is_some()).await.unwrap();
    let collected = meters.collect();
    assert_eq!(collected["mesh.config.last_reload_successful"].points[""], 0.0);
    assert_eq!(collected["mesh.config.version"].points[""], 1.0);
    assert_eq!(collected["mesh.config.reloads"].points["mesh.config.result=refused"], 1.0);
    assert_eq!(collected["mesh.config.last_reload_timestamp"].points[""], applied);

    std::fs::write(&path, greeter(&[nowhere()]).route("name: new").yaml()).unwrap();
    status.wait_for(|status| status.version == 2).await.unwrap();
    http_support::until("it is counted", || value("mesh.config.last_reload_successful") == 1.0).await;
    assert_eq!(value("mesh.config.version"), 2.0);
    mesh.shutdown().await;
}

/// Counts go on through an update that changes everything but the names.
#[tokio::test]
async fn counts_survive_an_update() {
    let meters = Meters::new();
    let server = TestBackend::named("hello").start();
    let config = |timeout: &str| {
        let yaml = greeter(&[server.address()]).route(&format!("name: all, timeout: {timeout}")).yaml();
        Arc::new(mesh_tower::core::config::parse(yaml.as_bytes(), "test", std::path::Path::new("")).unwrap())
    };
    let (sender, configs) = watch::channel(config("5s"));
    let mesh = Mesh::builder().configs(configs).meter_provider(&meters.provider).build().await.unwrap();
    let mut status = mesh.config_status();
    for version in 1..=3 {
        status.wait_for(|status| status.version == version).await.unwrap();
        text(mesh.http_client().get("http://greeter/").await.unwrap()).await;
        sender.send(config(&format!("{version}0s"))).unwrap();
    }
    let requests = &meters.collect()["mesh.client.requests"].points;
    let expected = "http.request.method=GET http.response.status_code=200 mesh.route=all mesh.service=greeter";
    assert_eq!(*requests, [(expected.to_owned(), 3.0)].into());
    mesh.shutdown().await;
}

/// The attempt of a gRPC call ends with its status, which comes behind the messages.
#[tokio::test]
async fn tl_03_the_span_of_an_attempt_has_the_status_of_the_trailers() {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let server = server(|number| grpc_answer(if number == 0 { 0 } else { 5 }));
    let yaml = greeter(&[server.address()]).yaml();
    let mesh = Mesh::builder().text(yaml).tracer_provider(&provider).build().await.unwrap();
    call(&mesh, "/a.B/C").await;
    call(&mesh, "/a.B/C").await;
    mesh.shutdown().await;
    let spans = exporter.get_finished_spans().unwrap();
    let told = |name: &str| -> Vec<String> {
        let spans = spans.iter().filter(|span| span.name == name);
        let code = |pairs: &[KeyValue]| {
            let mut code = pairs.iter().filter(|pair| pair.key.as_str() == "rpc.response.status_code");
            code.next().map(|pair| pair.value.to_string()).unwrap_or_default()
        };
        spans.map(|span| code(&span.attributes)).collect()
    };
    assert_eq!(told("Attempt.a.B.C"), ["OK", "NOT_FOUND"]);
    assert_eq!(told("Sent.a.B.C"), ["OK", "NOT_FOUND"]);
}

/// A service that nobody configured is told by its place, over HTTP, over gRPC and over a socket.
#[tokio::test]
async fn services_on_demand_are_told_by_their_place() {
    let meters = Meters::new();
    let server = server(|number| {
        if number == 0 { Reply::from(Ok(Response::new(full("hello"))) as Answer) } else { grpc_answer(0).into() }
    });
    let (address, port) = (server.address(), server.address().port());
    let mesh = meters.mesh("unknown_services: dns".to_owned()).await;
    text(mesh.http_client().get(format!("http://{address}/")).await.unwrap()).await;
    for target in [format!("dns:///{address}"), "unix:/nowhere/A.sock".to_owned()] {
        let request = grpc("/a.B/C").body(http_body_util::Full::new(bytes::Bytes::new())).unwrap();
        if let Ok(response) = mesh.service(&target).unwrap().call_generated(request).await {
            whole(response).await;
        }
    }
    let collected = meters.collect();
    let points = |name: &str| collected[name].points.keys().cloned().collect::<Vec<_>>();
    let http =
        format!("http.request.method=GET http.response.status_code=200 server.address=127.0.0.1 server.port={port}");
    assert_eq!(points("http.client.request.duration"), [http]);
    let of = |target: String| format!("grpc.method=a.B/C grpc.target={target}");
    let targets = [format!("dns:///{address}"), "unix:/nowhere/A.sock".to_owned()];
    assert_eq!(points("grpc.client.attempt.started"), targets.clone().map(of));
    let of = |target: String| format!("grpc.lb.backend_service=dns grpc.target={target}");
    assert_eq!(points("grpc.subchannel.connection_attempts_failed"), targets.map(of));
    let requests = points("mesh.client.requests").join("\n");
    for service in [format!("mesh.service=http://{address} "), "mesh.service=unix:/nowhere/A.sock ".to_owned()] {
        assert!(requests.contains(&service), "{requests}");
    }
    mesh.end().await;
}

/// Health checks by result, and who is out by them.
#[tokio::test]
async fn health_checks_and_unhealthy_endpoints_are_counted() {
    let server = serve(|request: Request<_>| async move {
        let status = if request.uri().path() == "/healthz" { 503 } else { 200 };
        Ok(Response::builder().status(status).body(empty())?)
    });
    let (meters, events) = (Meters::new(), Events::new());
    let yaml = greeter(&[server.address()]).backend("health_check: { http: { path: /healthz } }").yaml();
    let builder = Mesh::builder().text(yaml).meter_provider(&meters.provider).observer(events.clone());
    let mesh = TestMesh::start(builder).await;
    // The first check may be quicker than the request, and forbid it.
    let _ = mesh.http_client().get("http://greeter/").await;
    events.wait_for(|seen| matches!(seen, Seen::Health { healthy: false, .. })).await;
    let collected = meters.collect();
    let backend = "mesh.backend=v1 mesh.service=greeter";
    assert_eq!(collected["mesh.backend.unhealthy_endpoints"].points[backend], 1.0);
    let bad = "mesh.backend=v1 mesh.health_check.result=bad mesh.service=greeter";
    assert_eq!(collected["mesh.backend.health_checks"].points, [(bad.to_owned(), 1.0)].into());
    mesh.end().await;
}

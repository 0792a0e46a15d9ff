//! Export to a collector that takes what it gets, that hangs, and that is not there.

#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]

mod http_support;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_support::{Answer, greeter, serve, silent, text, until};
use mesh_tower::Mesh;
use mesh_tower::opentelemetry::trace::{Tracer, TracerProvider};
use mesh_tower::telemetry::otlp::{Otlp, OtlpError, SpanCounts};
use mesh_tower::testing::{ReceivedRequest, TestBackend};

/// What the SDK's queue may hold.
const QUEUE: u64 = 2048;

async fn otlp(variables: &[(&str, &str)]) -> Result<Otlp, OtlpError> {
    Otlp::from_variables(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
        .await
}

fn contains(body: &Bytes, text: &str) -> bool {
    body.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Ends spans until `count` have ended.
fn end_spans(otlp: &Otlp, count: u64) {
    let tracer = otlp.tracer_provider().tracer("test");
    (0..count).for_each(|_| drop(tracer.start("span")));
}

fn all(counts: &SpanCounts) -> u64 {
    counts.queued + counts.exported + counts.failed + counts.dropped
}

/// A mesh told of by `otlp` to one server, called once.
async fn call(otlp: &Otlp) {
    let server = TestBackend::named("hello").start();
    let yaml = greeter(&[server.address()]).yaml();
    let mesh = Mesh::builder().text(yaml).telemetry(otlp).build().await.unwrap();
    assert_eq!(text(mesh.http_client().get("http://greeter/").await.unwrap()).await, "hello");
    mesh.shutdown().await;
}

#[tokio::test]
async fn spans_and_metrics_arrive_at_the_collector() {
    let collector = silent();
    // By name: `localhost` is looked up as any other.
    let endpoint = format!("http://localhost:{}", collector.address().port());
    let otlp = otlp(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc"),
        ("OTEL_SERVICE_NAME", "checkout"),
    ])
    .await
    .unwrap();
    call(&otlp).await;
    let counts = otlp.spans();
    assert_eq!((all(&counts), counts.dropped), (2, 0));
    otlp.shutdown().await.unwrap();

    let exports = collector.requests();
    let to = |path: &str| -> Vec<&ReceivedRequest> {
        exports.iter().filter(|export| export.head.uri.path() == path).collect()
    };
    let [traces] = *to("/v1/traces") else { panic!("one export of traces: {exports:?}") };
    assert!(contains(&traces.body, "checkout") && contains(&traces.body, "mesh.backend"));
    let [metrics] = *to("/v1/metrics") else { panic!("one export of metrics: {exports:?}") };
    assert!(contains(&metrics.body, "http.client.request.duration") && contains(&metrics.body, "greeter"));
    for export in &exports {
        assert_eq!(export.header("content-type"), Some("application/x-protobuf"));
        assert_eq!(export.header("authorization"), Some("Bearer abc"));
        assert_eq!(export.header("traceparent"), None, "the export is not traced");
    }
}

/// TL-04: requests go on, the queue is bounded, what has no room is counted, and the end does not wait for ever.
#[tokio::test]
async fn tl_04_a_collector_that_hangs_delays_nobody() {
    let collector = serve(|_| std::future::pending::<Answer>());
    let endpoint = format!("http://{}", collector.address());
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint), ("OTEL_EXPORTER_OTLP_TIMEOUT", "300")];
    let otlp = otlp(&variables).await.unwrap();
    // More than are sent at once: the first export is under way, and hangs.
    end_spans(&otlp, 512);
    until("the first export", || collector.connections() > 0).await;
    end_spans(&otlp, 10_000);
    let counts = otlp.spans();
    assert!(counts.queued <= QUEUE, "{counts:?}");
    assert!(counts.dropped > 0 && counts.exported == 0, "{counts:?}");
    // Those that are missing are in the export that hangs.
    assert!((10_000..=10_512).contains(&all(&counts)), "{counts:?}");
    call(&otlp).await;
    let ended = tokio::time::timeout(Duration::from_secs(20), otlp.shutdown()).await;
    assert!(ended.is_ok(), "it ends all the same");
}

/// TL-04, where nobody listens.
#[tokio::test]
async fn tl_04_without_a_collector_requests_go_on() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "300"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "64"),
    ];
    let otlp = otlp(&variables).await.unwrap();
    call(&otlp).await;
    end_spans(&otlp, 64);
    until("an export failed", || otlp.spans().failed > 0).await;
    let counts = otlp.spans();
    assert!(counts.queued <= 64 && counts.exported == 0, "{counts:?}");
    let ended = tokio::time::timeout(Duration::from_secs(20), otlp.shutdown()).await;
    assert!(ended.is_ok(), "it ends all the same");
}

/// What is dropped without a word is sent in the background, and blocks nobody.
#[tokio::test]
async fn what_is_dropped_is_sent_all_the_same() {
    let collector = silent();
    let otlp = otlp(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &*format!("http://{}", collector.address()))]).await.unwrap();
    call(&otlp).await;
    drop(otlp);
    until("both arrived", || {
        let exports = collector.requests();
        ["/v1/traces", "/v1/metrics"].iter().all(|path| exports.iter().any(|export| export.head.uri.path() == *path))
    })
    .await;
}

#[tokio::test]
async fn what_is_disabled_tells_nobody() {
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    let endpoint = format!("http://{nobody}");
    let otlp = otlp(&[("OTEL_SDK_DISABLED", "true"), ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint)]).await.unwrap();
    call(&otlp).await;
    assert_eq!(otlp.spans(), SpanCounts::default());
    otlp.shutdown().await.unwrap();
}

#[tokio::test]
async fn certificates_that_cannot_be_read_are_told_at_once() {
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector.example:4318"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem"),
    ];
    let error = otlp(&variables).await.unwrap_err();
    assert!(matches!(error, OtlpError::Connection(_)), "{error}");
    assert!(error.to_string().contains("/nowhere/ca.pem"), "{error}");
}

//! Prometheus and promtool. `.ci/interop prometheus` runs these tests.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicU64, Ordering};

use std::time::Duration;

use examples::backend::Backend;
use examples::peers::{Page, Prometheus, promtool_check};
use mesh_tonic::Mesh;
use mesh_tonic::mesh_tower::telemetry::prometheus::{CONTENT_TYPE, OPENMETRICS_CONTENT_TYPE};

const TEXT: &str = "text/plain; version=0.0.4";

#[tokio::test]
async fn a_page_is_scraped_and_found_by_queries() {
    let scrapes = AtomicU64::new(0);
    let page = Page::serve(TEXT, move || {
        let scrape = scrapes.fetch_add(1, Ordering::Relaxed);
        format!("# HELP calls_total Calls made.\n# TYPE calls_total counter\ncalls_total{{to=\"a\\\"b\"}} {scrape}\n")
    });
    let page = page.await.unwrap();
    let prometheus = Prometheus::start(&[("shop", page.address())]).await;

    let found = prometheus.query_until("calls_total{to=~'a.+'} > 1", |found| !found.is_empty()).await;
    let [sample] = &found[..] else { panic!("there is one series: {found:?}") };
    assert_eq!((&*sample.labels["__name__"], &*sample.labels["job"]), ("calls_total", "shop"));
    assert_eq!((&*sample.labels["to"], &*sample.labels["instance"]), ("a\"b", &*page.address().to_string()));

    assert_eq!(prometheus.query("nobody_total").await.unwrap(), []);
    assert_eq!(prometheus.query("up").await.unwrap()[0].value, 1.0);
    let metadata = prometheus.api("/api/v1/metadata?metric=calls_total").await.unwrap();
    assert_eq!(metadata["calls_total"][0]["type"], "counter", "{metadata}");
}

#[tokio::test]
async fn a_page_that_it_cannot_read_is_a_target_that_is_down() {
    let page = Page::serve(TEXT, || "calls_total{to=} 1\n".to_owned()).await.unwrap();
    let prometheus = Prometheus::start(&[("shop", page.address())]).await;

    prometheus.query_until("up{job='shop'} == 0", |found| !found.is_empty()).await;
    let targets = prometheus.api("/api/v1/targets").await.unwrap();
    assert_eq!(targets["activeTargets"][0]["health"], "down", "{targets}");
    assert!(prometheus.query("calls_total").await.unwrap().is_empty());
    let error = prometheus.query("calls_total{").await.unwrap_err();
    assert!(error.contains("parse error"), "{error}");
}

#[test]
fn promtool_takes_a_good_page_and_says_what_is_wrong_with_others() {
    let good = "# HELP calls_total Calls made.\n# TYPE calls_total counter\ncalls_total{to=\"a\"} 1\n";
    promtool_check(good).unwrap();
    for (bad, reason) in [
        ("# TYPE calls_total counter\ncalls_total 1\n", "no help text"),
        ("# HELP calls Calls made.\n# TYPE calls counter\ncalls 1\n", "_total"),
        ("# HELP openTotal Open.\n# TYPE openTotal gauge\nopenTotal 1\n", "snake_case"),
        ("calls_total{to=} 1\n", "pars"),
    ] {
        let said = promtool_check(bad).unwrap_err();
        assert!(said.contains(reason), "{bad}{said}");
    }
}

/// TL-06: the page of a mesh that was used in every way is scraped, answers queries, and promtool finds nothing.
#[tokio::test]
async fn tl_06_the_page_of_a_mesh_is_scraped_and_clean() {
    let backend = Backend::start("v1", Duration::ZERO).unwrap();
    let config = format!(
        "services: {{ catalog: {{ routes: [{{ name: everybody, backends: [{{ name: v1 }}] }}], \
         backends: {{ v1: {{ endpoints: ['{}'] }} }} }} }}",
        backend.address()
    );
    let mesh = Mesh::builder().text(config).prometheus().build().await.unwrap();
    for _ in 0..20 {
        mesh.http_client().get("http://catalog/items").await.unwrap().into_body().bytes().await.unwrap();
    }
    mesh.http_client().get("http://nobody/").await.unwrap_err();
    greet(&mesh).await;
    promtool_check(&mesh.prometheus_text()).unwrap();

    let served = mesh.clone();
    let page = Page::serve(CONTENT_TYPE, move || served.prometheus_text()).await.unwrap();
    let served = mesh.clone();
    let open = move || served.metrics_page(Some(OPENMETRICS_CONTENT_TYPE)).1;
    let open = Page::serve(OPENMETRICS_CONTENT_TYPE, open).await.unwrap();
    let prometheus = Prometheus::start(&[("shop", page.address()), ("open", open.address())]).await;
    for job in ["shop", "open"] {
        let query = format!(
            "mesh_client_requests_total{{mesh_service='catalog', http_response_status_code='200', job='{job}'}}"
        );
        let found = prometheus.query_until(&query, |found| !found.is_empty()).await;
        assert_eq!(found[0].value, 20.0, "{job}");
    }
    let median = "histogram_quantile(0.5, http_client_request_duration_seconds_bucket{job='open'})";
    let median = prometheus.query_until(median, |found| !found.is_empty()).await;
    assert!(median[0].value > 0.0 && median[0].value < 10.0, "{median:?}");
    let calls = prometheus.query("grpc_client_call_duration_seconds_count").await.unwrap();
    assert_eq!(
        (&*calls[0].labels["grpc_method"], &*calls[0].labels["grpc_status"]),
        ("greeter.v1.Greeter/SayHello", "OK")
    );
    let metadata = prometheus.api("/api/v1/metadata?metric=http_client_request_duration_seconds").await.unwrap();
    assert_eq!(metadata["http_client_request_duration_seconds"][0]["type"], "histogram", "{metadata}");
    mesh.shutdown().await;
}

/// A call by the generated client.
async fn greet(mesh: &Mesh) {
    use examples::greeter::HelloRequest;
    use examples::greeter::greeter_client::GreeterClient;
    use mesh_tonic::MeshExt;

    let mut client = GreeterClient::new(mesh.channel("catalog").unwrap());
    client.say_hello(HelloRequest { name: "mesh".to_owned(), count: 0 }).await.unwrap();
}

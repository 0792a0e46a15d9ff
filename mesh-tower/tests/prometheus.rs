//! The page that Prometheus reads.

#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]

mod http_support;

use http_support::{greeter, text};
use mesh_tower::Mesh;
use mesh_tower::telemetry::prometheus::CONTENT_TYPE;
use mesh_tower::testing::TestBackend;

#[tokio::test]
async fn a_page_tells_what_was_called() {
    let server = TestBackend::named("hello").start();
    let yaml = greeter(&[server.address()]).route("name: all").yaml();
    let mesh = Mesh::builder().text(yaml).prometheus().build().await.unwrap();
    for _ in 0..3 {
        text(mesh.http_client().get("http://greeter/").await.unwrap()).await;
    }
    let page = mesh.prometheus_text();
    let of = |name: &str| -> Vec<&str> {
        page.lines().filter(|line| line.starts_with(&format!("{name}{{"))).collect::<Vec<_>>()
    };
    let labels = r#"mesh_service="greeter",mesh_route="all",http_request_method="GET",http_response_status_code="200""#;
    assert_eq!(of("mesh_client_requests_total"), [format!("mesh_client_requests_total{{{labels}}} 3")]);
    let [count] = *of("http_client_request_duration_seconds_count") else { panic!("one count: {page}") };
    assert!(count.ends_with("} 3"), "{count}");
    let buckets = of("http_client_request_duration_seconds_bucket");
    assert_eq!(buckets.len(), 15);
    assert!(buckets[14].contains("le=\"+Inf\"") && buckets[14].ends_with(" 3"), "{}", buckets[14]);
    let ready = r#"mesh_backend_endpoints{mesh_service="greeter",mesh_backend="v1",mesh_endpoint_state="ready"} 1"#;
    assert!(of("mesh_backend_endpoints").contains(&ready), "{page}");
    assert!(page.contains("# TYPE mesh_config_version gauge\nmesh_config_version 1\n"), "{page}");
    assert!(CONTENT_TYPE.contains("version=0.0.4"));
    mesh.shutdown().await;
}

#[tokio::test]
async fn without_being_asked_for_there_is_no_page() {
    let mesh = greeter(&[http_support::nowhere()]).mesh().await;
    assert_eq!(mesh.prometheus_text(), "");
    mesh.end().await;
}

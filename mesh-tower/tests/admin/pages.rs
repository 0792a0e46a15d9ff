//! What is on the pages.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use mesh_tower::Mesh;
use mesh_tower::core::model::{Config, Listen, Server};
use mesh_tower::identity::MemoryIdentity;
use mesh_tower::testing::{Authority, NewCertificate, watched};
use tower::service_fn;

use crate::support::{admin, get, send, start};

#[tokio::test]
async fn ready_says_what_is_missing() {
    let mut server = Server::new("public");
    server.addresses = vec![Listen::Socket("127.0.0.1:0".parse().unwrap())];
    server.drain.delay = Duration::ZERO;
    let (mesh, address) = start(Config::new().with_server(server), admin()).await;
    assert_eq!(get(address, "/live").await.status, 200);
    let answer = get(address, "/ready").await;
    assert_eq!(answer.status, 503);
    let failed = &answer.json()["failed"];
    assert_eq!(failed[0]["gate"], "server");
    assert!(failed[0]["reason"].as_str().unwrap().contains("\"public\""), "{failed}");

    let mut readiness = mesh.watch_readiness();
    let hello = service_fn(async |_| Ok::<_, std::convert::Infallible>(http::Response::new(String::new())));
    let serving = tokio::spawn(mesh.serve(mesh.listener("public").await.unwrap(), hello));
    assert!(watched(readiness.changed()).await.unwrap().is_ready());
    let answer = get(address, "/ready").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json(), serde_json::json!({ "ready": true, "failed": [] }));

    mesh.start_drain();
    assert!(!watched(readiness.changed()).await.unwrap().is_ready());
    watched(serving).await.unwrap();
    let answer = get(address, "/ready").await;
    assert_eq!(answer.status, 503);
    let gates: Vec<_> = answer.json()["failed"].as_array().unwrap().iter().map(|one| one["gate"].clone()).collect();
    assert_eq!(gates, ["server", "draining"]);
    assert_eq!(get(address, "/live").await.status, 200, "it serves while the mesh drains");
}

#[tokio::test]
async fn a_certificate_that_expires_is_not_ready_any_more() {
    let authority = Authority::new("cluster.local");
    // Certificates count in seconds: between one and two are left.
    let end = SystemTime::now() + Duration::from_secs(2);
    let certificate =
        NewCertificate::new().uri("spiffe://cluster.local/a").valid(SystemTime::now() - Duration::from_secs(60), end);
    let source = MemoryIdentity::new(authority.issue_as(certificate).material(authority.bundles()));
    let config = "unknown_services: dns\nidentity: { source: custom }\nadmin: { address: '127.0.0.1:0' }";
    let mesh = Mesh::builder().text(config).identity_source(source.clone()).build().await.unwrap();
    let address = mesh.admin_address().unwrap();
    let mut readiness = mesh.watch_readiness();
    assert!(readiness.last().is_ready());
    let expired = watched(readiness.changed()).await.unwrap().clone();
    assert_eq!(expired.failed()[0].as_str(), "identity");
    assert!(get(address, "/ready").await.json()["failed"][0]["reason"].as_str().unwrap().contains("expired"));
    source.set(authority.issue("spiffe://cluster.local/a").material(authority.bundles()));
    assert!(watched(readiness.changed()).await.unwrap().is_ready());
    drop(mesh);
    assert!(watched(readiness.changed()).await.is_none_or(|gone| !gone.is_ready()));
}

#[tokio::test]
async fn certs_tell_of_the_certificate_and_its_renewal() {
    let (_plain, address) = start(Config::new(), admin()).await;
    let page = get(address, "/certs").await.json();
    assert!(page["certificate"].is_null() && page["source"].is_null(), "{page}");

    let authority = Authority::new("cluster.local");
    let issued = authority.issue("spiffe://cluster.local/ns/shop/sa/cart");
    let source = MemoryIdentity::new(issued.material(authority.bundles()));
    let config = "unknown_services: dns\nidentity: { source: custom }\nadmin: { address: '127.0.0.1:0' }";
    let mesh = Mesh::builder().text(config).identity_source(source.clone()).build().await.unwrap();
    let mut status = mesh.identity_status();
    source.set(
        authority
            .issue_as(NewCertificate::new().uri("spiffe://cluster.local/a").expired())
            .material(authority.bundles()),
    );
    watched(status.wait_for(|status| status.failure.is_some())).await.unwrap();
    let page = get(mesh.admin_address().unwrap(), "/certs").await.json();
    let certificate = &page["certificate"];
    assert_eq!(certificate["id"], "spiffe://cluster.local/ns/shop/sa/cart");
    assert_eq!(certificate["serial"], mesh.identity().unwrap().serial());
    assert_eq!(certificate["trust_domains"], serde_json::json!(["cluster.local"]));
    assert!(certificate["days_left"].as_f64().unwrap() > 0.0, "{page}");
    assert!(certificate["not_before"].is_string() && certificate["not_after"].is_string(), "{page}");
    assert!(page["last_reload"].is_string() && page["last_failure"]["error"].is_string(), "{page}");
    assert_eq!(page["failures"], 1);
    assert_eq!(page["warnings"], serde_json::json!([]));
}

#[tokio::test]
async fn config_is_yaml_or_json_and_a_description_of_what_has_no_file() {
    let config = "admin: { address: '127.0.0.1:0' }\nservices: { catalog: { backends: { v1: { endpoints: ['127.0.0.1:1'] } } } }";
    let mesh = Mesh::builder().text(config).build().await.unwrap();
    let address = mesh.admin_address().unwrap();
    let yaml = get(address, "/config").await;
    assert_eq!(yaml.text(), mesh.effective_config().unwrap().to_string());
    assert!(yaml.has("content-type: text/plain; charset=utf-8"));
    for request in
        ["/config?format=json HTTP/1.1\nhost: localhost", "/config HTTP/1.1\nhost: localhost\naccept: application/json"]
    {
        let json = send(address, &format!("GET {request}")).await.json();
        let endpoint =
            json.as_array().unwrap().iter().find(|one| one["path"] == "services.catalog.backends.v1.endpoints[0]");
        assert_eq!(endpoint.unwrap()["value"], "127.0.0.1:1", "{request}");
        assert!(endpoint.unwrap()["origin"].is_object() || endpoint.unwrap()["origin"].is_string());
    }
    let mut server = Server::new("public");
    server.addresses = vec![Listen::Inherited(0)];
    let (_mesh, address) = start(Config::new().with_server(server), admin()).await;
    let page = get(address, "/config").await;
    assert_eq!(page.status, 404);
    assert!(
        page.text().contains("made in code") && page.text().contains("server \"public\": 1 addresses"),
        "{}",
        page.text()
    );
}

/// TL-06
#[cfg(feature = "prometheus")]
#[tokio::test]
async fn tl_06_metrics_are_negotiated_and_compressed() {
    let (mesh, address) = start(Config::new().with_server(Server::new("public")), admin()).await;
    let hello = service_fn(async |_| Ok::<_, std::convert::Infallible>(http::Response::new(String::new())));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let served = listener.local_addr().unwrap();
    tokio::spawn(mesh.serve(mesh.adopt("public", listener).unwrap(), hello));
    assert_eq!(get(served, "/").await.status, 200);
    for path in ["/metrics", "/stats/prometheus"] {
        let text = get(address, path).await;
        assert!(text.has("content-type: text/plain; version=0.0.4; charset=utf-8"), "{}", text.head);
        assert!(text.text().contains("\"public\"") && !text.text().contains("\"admin\""), "{}", text.text());
        let openmetrics = send(
            address,
            &format!(
                "GET {path} HTTP/1.1\nhost: localhost\naccept: application/openmetrics-text\naccept-encoding: gzip"
            ),
        )
        .await;
        assert!(openmetrics.has("content-encoding: gzip") && openmetrics.has("vary: accept, accept-encoding"));
        assert!(openmetrics.head.contains("content-type: application/openmetrics-text; version=1.0.0"));
        let page = std::io::read_to_string(flate2::read::GzDecoder::new(&*openmetrics.body)).unwrap();
        assert!(page.ends_with("# EOF\n") && !page.contains(",,"), "{page}");
    }
}

#[cfg(not(feature = "prometheus"))]
#[tokio::test]
async fn without_pages_of_metrics_it_says_what_is_missing() {
    let (_mesh, address) = start(Config::new(), admin()).await;
    let page = get(address, "/metrics").await;
    assert_eq!(page.status, 404);
    assert!(page.text().contains("feature `prometheus`"), "{}", page.text());
}

/// Nobody asked for metrics when the mesh was built.
#[cfg(feature = "prometheus")]
#[tokio::test]
async fn a_router_without_metrics_says_how_to_have_them() {
    use tower::ServiceExt;
    let mesh = Mesh::builder().config(Config::new()).build().await.unwrap();
    let request = http::Request::get("/metrics").header("host", "localhost").body(axum::body::Body::empty()).unwrap();
    let answer = mesh.admin_router().oneshot(request).await.unwrap();
    assert_eq!(answer.status(), 404);
}

/// AD-08: what grows with the endpoints is made beside the threads that serve requests. While the only other thread is
/// taken the page waits, and everybody else is served.
#[test]
fn ad_08_large_pages_keep_nobody_waiting() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let mut config =
            String::from("admin: { address: '127.0.0.1:0' }\nservices: { catalog: { backends: { v1: { endpoints: [");
        for number in 0..10_000 {
            let _ = write!(config, "'10.0.{}.{}:80',", number / 250, number % 250);
        }
        config.push_str("] } } } }");
        let mesh = Mesh::builder().text(config).build().await.unwrap();
        let address = mesh.admin_address().unwrap();
        let (free, taken) = std::sync::mpsc::channel::<()>();
        let taken = tokio::task::spawn_blocking(move || taken.recv());
        let page = tokio::spawn(async move { get(address, "/config").await });
        for _ in 0..5 {
            assert_eq!(get(address, "/live").await.status, 200);
        }
        assert!(!page.is_finished());
        drop(free);
        assert!(taken.await.unwrap().is_err());
        let page = watched(page).await.unwrap();
        let endpoints = page.text().lines().filter(|line| line.contains("- ") && line.contains(":80"));
        assert_eq!(endpoints.count(), 10_000);
        #[cfg(feature = "prometheus")]
        {
            let metrics = get(address, "/metrics").await;
            assert!(!metrics.text().contains("10.0."), "metrics do not grow with the endpoints");
        }
    });
}

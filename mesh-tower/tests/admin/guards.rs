//! AD-04 to AD-07: who may ask, what for, and what is never said.

use mesh_tower::core::model::{Admin, Config, Listen, Server};
use mesh_tower::identity::MemoryIdentity;
use mesh_tower::testing::Authority;
use mesh_tower::{BuildError, Mesh};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::ServiceExt;

use crate::support::{admin, get, post, send, settings, start};

const PAGES: [&str; 7] = ["/", "/live", "/ready", "/metrics", "/stats/prometheus", "/config", "/certs"];

#[tokio::test]
async fn ad_04_what_changes_something_is_a_post() {
    let mut admin = admin();
    admin.allow_drain = true;
    let (mesh, address) = start(Config::new(), admin).await;
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"] {
        let answer = send(address, &format!("{method} /drain HTTP/1.1\nhost: {address}")).await;
        assert_eq!(answer.status, 405, "{method}");
        assert!(answer.has("allow: post"), "{}", answer.head);
    }
    for page in PAGES {
        assert_eq!(post(address, page).await.status, 405, "{page}");
    }
    assert_eq!(get(address, "/nothing").await.status, 404);
    assert!(mesh.is_ready());
}

/// DNS rebinding: the browser thinks that it talks to somebody else.
#[tokio::test]
async fn ad_04_a_request_for_another_host_is_refused() {
    let mut admin = admin();
    admin.hosts = vec!["metrics.shop.svc".into()];
    admin.allow_drain = true;
    let (mesh, address) = start(Config::new(), admin).await;
    for (host, expected) in [
        ("127.0.0.1", 200),
        ("[::1]:15000", 200),
        ("localhost", 200),
        ("metrics.shop.svc:15000", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("", 400),
        ("a b", 400),
    ] {
        for page in PAGES.iter().filter(|page| !page.contains("ready")) {
            let answer = send(address, &format!("GET {page} HTTP/1.1\nhost: {host}")).await;
            let with_metrics = cfg!(feature = "prometheus") || !page.ends_with("s") || *page == "/certs";
            let there = with_metrics && *page != "/config" && !page.ends_with("prometheus") || expected != 200;
            if there {
                assert_eq!(answer.status, expected, "{host} {page}");
            } else {
                assert!([200, 404].contains(&answer.status), "{host} {page}");
            }
        }
    }
    for request in [
        "GET http://evil.example/live HTTP/1.1\nhost: evil.example",
        "POST /drain HTTP/1.1\nhost: evil.example\ncontent-length: 0",
    ] {
        assert_eq!(send(address, request).await.status, 403, "{request}");
    }
    assert_eq!(send(address, "GET http://evil.example/live HTTP/1.1\nhost: localhost").await.status, 400);
    assert_eq!(send(address, "GET /live HTTP/1.1\nhost: localhost\nhost: localhost").await.status, 400);
    assert_eq!(send(address, "GET /live HTTP/1.1").await.status, 400);
    // No browser; some probes are.
    assert_eq!(send(address, "GET /live HTTP/1.0").await.status, 200);
    assert!(mesh.is_ready());
}

#[tokio::test]
async fn ad_04_no_page_in_a_browser_changes_anything() {
    let mut admin = admin();
    admin.allow_drain = true;
    let (mesh, address) = start(Config::new(), admin).await;
    for origin in ["https://evil.example", "null", &format!("http://{address}")] {
        let request = format!("POST /drain HTTP/1.1\nhost: {address}\ncontent-length: 0\norigin: {origin}");
        assert_eq!(send(address, &request).await.status, 403, "{origin}");
    }
    assert!(mesh.is_ready());
}

/// A caller that has proved who it is may use any name: that is no browser.
#[tokio::test]
async fn callers_of_a_known_identity_may_ask_by_any_name() {
    let authority = Authority::new("cluster.local");
    let mesh = async |id: &str, text: String| {
        let source = MemoryIdentity::new(authority.issue(id).material(authority.bundles()));
        Mesh::builder()
            .text(format!("identity: {{ source: custom }}\n{text}"))
            .identity_source(source)
            .build()
            .await
            .unwrap()
    };
    let server_id = "spiffe://cluster.local/server";
    let server =
        mesh(server_id, "unknown_services: dns\nservers: [{ name: public, tls: permissive }]".to_owned()).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(server.serve(server.adopt("public", listener).unwrap(), server.admin_router()));
    for (tls, expected) in [("{ mode: mutual }", 200), ("{ mode: disabled }", 403)] {
        let service =
            format!("{{ hosts: [shop.example], backends: {{ it: {{ endpoints: ['{address}'], tls: {tls} }} }} }}");
        let client = mesh("spiffe://cluster.local/caller", format!("services: {{ shop: {service} }}")).await;
        assert_eq!(client.http_client().get("http://shop.example/live").await.unwrap().status(), expected, "{tls}");
    }
}

#[tokio::test]
async fn ad_05_names_are_shown_as_text_and_pages_run_nothing() {
    let mut server = Server::new("<script>alert('1')</script>");
    server.addresses = vec![Listen::Socket("127.0.0.1:0".parse().unwrap())];
    let (_mesh, address) = start(Config::new().with_server(server), admin()).await;
    let index = get(address, "/").await;
    assert_eq!(index.status, 200);
    assert!(index.has("content-type: text/html; charset=utf-8"));
    assert!(!index.text().contains("<script") && index.text().contains("&lt;script&gt;"), "{}", index.text());
    for page in PAGES.iter().chain(&["/nothing", "/drain"]) {
        let answer = get(address, page).await;
        assert!(answer.head.contains("content-security-policy: default-src 'none';"), "{page}: {}", answer.head);
        assert!(answer.has("x-content-type-options: nosniff"), "{page}: {}", answer.head);
        assert!(answer.has("cache-control: no-store"), "{page}: {}", answer.head);
        assert!(!answer.head.contains("access-control-"), "{page}: {}", answer.head);
        let is_html = answer.head.contains("content-type: text/html");
        assert_eq!(is_html, *page == "/", "{page}");
    }
}

#[tokio::test]
async fn ad_06_no_secret_is_on_any_page() {
    let authority = Authority::new("cluster.local");
    let issued = authority.issue("spiffe://cluster.local/ns/shop/sa/cart");
    let config = "
identity: { source: custom }
admin: { address: '127.0.0.1:0' }
services:
  catalog:
    backends: { v1: { endpoints: ['127.0.0.1:1'] } }
    routes:
      - matches: [{ headers: [{ name: authorization, exact: Bearer s3cret }] }]
        backends: [{ name: v1 }]
      - backends: [{ name: v1 }]
";
    let source = MemoryIdentity::new(issued.material(authority.bundles()));
    let mesh = Mesh::builder().text(config).identity_source(source).build().await.unwrap();
    let address = mesh.admin_address().unwrap();
    let key: String = issued.key_pem().lines().filter(|line| !line.starts_with("--")).collect();
    for page in PAGES.iter().chain(&["/config?format=json"]) {
        let text = get(address, page).await.text().to_owned();
        assert!(!text.contains("s3cret"), "{page}: {text}");
        assert!(!text.contains(&key[..20]) && !text.contains("PRIVATE"), "{page}: {text}");
    }
    assert!(get(address, "/config").await.text().contains("<redacted>"));
}

#[tokio::test]
async fn ad_07_others_reach_it_only_if_that_is_said() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let admin = Admin::new(address.parse().unwrap());
        let error = Mesh::builder().config(Config::new().with_settings(settings(admin))).build().await.unwrap_err();
        assert!(matches!(error, BuildError::Admin(_)) && error.to_string().contains("allow_remote"), "{error}");
    }
    let mut admin = Admin::new("0.0.0.0:0".parse().unwrap());
    admin.allow_remote = true;
    let (_mesh, address) = start(Config::new(), admin).await;
    assert!(address.ip().is_unspecified());
    assert_eq!(get(format!("127.0.0.1:{}", address.port()).parse().unwrap(), "/live").await.status, 200);
}

fn ran<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever bytes come, the next caller is answered.
    #[test]
    fn any_bytes_are_survived(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        head in "(GET|POST|PUT|\\PC{0,5}) (/|/config|/drain|/metrics)?\\PC{0,20} HTTP/1\\.[01]\r\n(host: \\PC{0,20}\r\n)?(\\PC{1,9}: \\PC{0,30}\r\n){0,4}\r\n",
        preface in any::<bool>(),
    ) {
        ran(async {
            let (_mesh, address) = start(Config::new(), admin()).await;
            let mut of_http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
            of_http2.extend_from_slice(&bytes);
            for bytes in [head.as_bytes(), if preface { &of_http2 } else { &bytes }] {
                let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
                // It may be refused before all is written.
                let _ = stream.write_all(bytes).await;
                let _ = stream.shutdown().await;
                let _ = mesh_tower::testing::watched(stream.read_to_end(&mut Vec::new())).await;
            }
            assert_eq!(get(address, "/live").await.status, 200);
        });
    }

    /// Whatever a request asks for, there is an answer.
    #[test]
    fn any_request_is_answered(
        method in "[A-Z]{1,7}",
        path in "/(config|drain|metrics|certs|ready|\\PC{0,12})(\\?[a-z=&;%0-9]{0,20})?",
        headers in prop::collection::vec(("(host|origin|accept|accept-encoding|x-[a-z]{1,5})", prop::collection::vec(any::<u8>(), 0..30)), 0..6),
    ) {
        let Ok(mut request) = http::Request::builder().method(&*method).uri(path).body(axum::body::Body::empty()) else {
            return Ok(());
        };
        for (name, value) in headers {
            if let Ok(value) = http::HeaderValue::from_bytes(&value) {
                request.headers_mut().append(http::HeaderName::try_from(name).unwrap(), value);
            }
        }
        ran(async {
            let mesh = Mesh::builder().config(Config::new()).build().await.unwrap();
            let answer = mesh.admin_router().oneshot(request).await.unwrap();
            assert!(answer.headers().contains_key("content-security-policy"));
        });
    }
}

//! Mutual TLS with those who take part in the mesh, plaintext with others.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_tower::core::model::{
    Backend, BackendId, Config, Endpoint, Forward, HostPattern, Identity, IdentityFrom, Route, Tls, TlsMode,
    VirtualHost, WeightedBackend,
};
use mesh_tower::identity::MemoryIdentity;
use mesh_tower::testing::{Authority, Events, Seen, TestBackend, TestMesh};
use mesh_tower::{ErrorKind, Mesh};
use tokio::sync::watch;
use tower::ServiceExt;

use crate::http_support::{grpc, text, until};
use crate::support::{BOTH, CART, CATALOG, Server, ask, catalog, somebody, strict};

/// A configuration whose catalog is at `endpoints`, each with its mark.
pub fn config(endpoints: &[(SocketAddr, bool)], mode: TlsMode, identity: bool) -> Arc<Config> {
    let id = BackendId::new("catalog", "v1");
    let endpoints = endpoints.iter().map(|(address, mesh)| {
        let mut endpoint = Endpoint::new(*address);
        endpoint.mesh = *mesh;
        endpoint
    });
    let mut backend = Backend::new(id.clone(), endpoints.collect());
    let mut tls = Tls::mutual(Vec::new());
    tls.mode = mode;
    backend.tls = Some(tls);
    backend.connect_backoff.base = Duration::from_millis(50);
    let host = VirtualHost::new("catalog", vec![HostPattern::parse("catalog").unwrap()]);
    let route = Route::new(Forward::split(vec![WeightedBackend::new(id, 1)]));
    let mut config = Config::new().with_backend(backend).with_virtual_host(host.with_route(route));
    if identity {
        let mut settings = (*config.settings).clone();
        settings.identity = Some(Arc::new(Identity::new(IdentityFrom::Custom)));
        config.settings = Arc::new(settings);
    }
    Arc::new(config)
}

#[tokio::test]
async fn marked_endpoints_are_spoken_to_by_mutual_tls_and_others_in_plaintext() {
    let authority = Authority::new("cluster.local");
    let inside = Server::start("inside", strict(&authority.issue(CATALOG), &authority, BOTH)).await;
    let outside = TestBackend::named("outside").start();
    let identity = MemoryIdentity::new(somebody(&authority, CART));
    let text_of = catalog(&[], "tls: { mode: auto }, load_balancer: round_robin");
    let endpoints = format!("[{{ address: '{}', mesh: true }}, '{}']", inside.address, outside.address());
    let text_of = text_of.replace("endpoints: []", &format!("endpoints: {endpoints}"));
    let mesh = TestMesh::start(crate::support::builder(&text_of, &identity)).await;
    for _ in 0..20 {
        ask(&mesh).await.unwrap();
    }
    until("both are used", || inside.backend.request_count() > 0 && outside.request_count() > 0).await;
    // Each request decides its protocol at both kinds of endpoints, as in plaintext.
    let hellos = inside.hellos().clone();
    assert!(hellos.iter().all(|hello| hello.alpn == "istio-http/1.1 istio http/1.1" && hello.client.is_some()));
    let by_grpc = async {
        loop {
            let request = grpc("http://catalog/a.B/C").body(String::new()).unwrap();
            if text(mesh.http_client().oneshot(request).await.unwrap()).await == "inside h2" {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), by_grpc).await.unwrap();
    assert_eq!(inside.hellos().last().unwrap().alpn, "istio-h2 istio h2");
    let error = mesh.http_client().get("https://catalog/").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert!(error.to_string().contains("plaintext with some endpoints"), "{error}");
    mesh.end().await;
}

/// The mark decides what is spoken from then on; everybody else keeps their connections.
#[tokio::test]
async fn a_change_of_the_mark_makes_another_endpoint() {
    let authority = Authority::new("cluster.local");
    let tls = Server::start("tls", strict(&authority.issue(CATALOG), &authority, BOTH)).await;
    let kept = TestBackend::named("kept").start();
    let marked = |mark| config(&[(tls.address, mark), (kept.address(), false)], TlsMode::Auto, true);
    let (sender, configs) = watch::channel(marked(true));
    let (events, identity) = (Events::new(), MemoryIdentity::new(somebody(&authority, CART)));
    let mesh = Mesh::builder().configs(configs).identity_source(identity).observer(events.clone());
    let mesh = TestMesh::start(mesh).await;
    until_answered(&mesh, "tls h1").await;
    until_answered(&mesh, "kept").await;
    let (connections, handshakes) = (kept.connections(), tls.hellos().len());
    sender.send_replace(marked(false));
    // A server of TLS cannot make sense of plaintext.
    let is_config = |seen: &Seen| matches!(seen, Seen::Config { .. });
    events.wait_for_nth(2, is_config).await;
    for _ in 0..10 {
        if let Ok(answer) = ask(&mesh).await {
            assert_eq!(answer, "kept");
        }
    }
    assert_eq!(tls.hellos().len(), handshakes);
    sender.send_replace(marked(true));
    events.wait_for_nth(3, is_config).await;
    until_answered(&mesh, "tls h1").await;
    until_answered(&mesh, "kept").await;
    assert_eq!(kept.connections(), connections, "it is another's mark that changed");
    mesh.end().await;
}

async fn until_answered(mesh: &TestMesh, wanted: &str) {
    let is_wanted = |answer: &Result<String, _>| matches!(answer, Ok(answer) if answer.starts_with(wanted));
    crate::support::until_asked(mesh, wanted, is_wanted).await;
}

//! When the listener is there, and what it does.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mesh_tower::core::model::{Config, Server};
use mesh_tower::identity::{IdentitySource, IdentityUpdates};
use mesh_tower::testing::{Authority, watched};
use mesh_tower::{BuildError, Mesh};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tower::service_fn;

use crate::support::{admin, get, post, settings, start};

/// One that was free a moment ago.
async fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

fn at(address: SocketAddr) -> Arc<Config> {
    let mut admin = admin();
    admin.address = address;
    Arc::new(Config::new().with_settings(settings(admin)))
}

async fn is_open(address: SocketAddr) -> bool {
    TcpStream::connect(address).await.is_ok()
}

async fn until<F: Future<Output = bool>>(what: impl Fn() -> F) {
    watched(async {
        while !what().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn it_is_off_by_default() {
    let mesh = Mesh::builder().config(Config::new()).build().await.unwrap();
    assert_eq!(mesh.admin_address(), None);
}

#[tokio::test]
async fn a_taken_address_is_an_error_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let error = Mesh::builder().config(at(address).as_ref().clone()).build().await.unwrap_err();
    assert!(matches!(error, BuildError::Admin(_)) && error.to_string().contains(&address.to_string()), "{error}");
}

#[tokio::test]
async fn both_versions_of_http_are_served() {
    let mut named = admin();
    named.hosts = vec!["admin".into()];
    let (_mesh, address) = start(Config::new(), named).await;
    let text =
        format!("services: {{ admin: {{ backends: {{ it: {{ endpoints: ['{address}'], protocol: http2 }} }} }} }}");
    let client = Mesh::builder().text(text).build().await.unwrap().http_client();
    let answer = client.get("http://admin/live").await.unwrap();
    assert_eq!((answer.version(), answer.status().as_u16()), (http::Version::HTTP_2, 200));
    assert_eq!(client.get("http://admin/nothing").await.unwrap().status(), 404);
    assert_eq!(get(address, "/live").await.status, 200);
}

#[tokio::test]
async fn cl_02_it_drains_the_mesh_and_serves_meanwhile() {
    let mut admin = admin();
    let (mesh, address) = start(Config::new(), admin.clone()).await;
    assert_eq!(post(address, "/drain").await.status, 403);
    assert!(mesh.is_ready());

    admin.allow_drain = true;
    let mut server = Server::new("public");
    (server.drain.delay, server.drain.grace) = (Duration::ZERO, Duration::from_secs(3600));
    let (mesh, address) = start(Config::new().with_server(server), admin).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let served = listener.local_addr().unwrap();
    let (asked, mut heard) = watch::channel(false);
    let never = service_fn(move |_: http::Request<_>| {
        asked.send_replace(true);
        std::future::pending::<Result<http::Response<String>, std::convert::Infallible>>()
    });
    let serving = tokio::spawn(mesh.serve(mesh.adopt("public", listener).unwrap(), never));
    let stuck = tokio::spawn(async move {
        let mut stream = TcpStream::connect(served).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut Vec::new()).await
    });
    watched(heard.wait_for(|asked| *asked)).await.unwrap();
    // A first word cuts nothing.
    let answer = post(address, "/drain?force").await;
    assert_eq!((answer.status, answer.json()["phase"].as_str()), (202, Some("draining")));
    assert_eq!(get(address, "/ready").await.status, 503);
    assert_eq!(post(address, "/drain").await.json()["phase"], "draining");
    assert!(!serving.is_finished());
    assert_eq!(post(address, "/drain?force").await.json()["phase"], "forced");
    assert_eq!(watched(serving).await.unwrap().cut, 1);
    let _ = watched(stuck).await.unwrap();
    assert_eq!(get(address, "/live").await.status, 200);
    mesh.shutdown().await;
    assert!(!is_open(address).await);
}

#[tokio::test]
async fn it_ends_with_the_mesh() {
    let (mesh, address) = start(Config::new(), admin()).await;
    let router = mesh.admin_router();
    drop(mesh);
    until(async || !is_open(address).await).await;
    drop(router);
}

/// It follows the configuration: away, back, elsewhere, and on the same port of other interfaces.
#[tokio::test]
async fn a_new_address_is_listened_on() {
    let (first, second) = (free().await, free().await);
    let (configs, receiver) = watch::channel(at(first));
    let mesh = Mesh::builder().configs(receiver).build().await.unwrap();
    assert_eq!(get(first, "/live").await.status, 200);

    configs.send_replace(at(second));
    until(async || is_open(second).await && !is_open(first).await).await;
    assert_eq!(mesh.admin_address(), Some(second));

    configs.send_replace(Arc::new(Config::new()));
    until(async || !is_open(second).await).await;
    assert_eq!(mesh.admin_address(), None);

    configs.send_replace(at(first));
    until(async || is_open(first).await).await;
    let mut wide = admin();
    wide.address = SocketAddr::from(([0, 0, 0, 0], first.port()));
    // AD-07: refused as a whole, and what is in force stays.
    configs.send_replace(Arc::new(Config::new().with_settings(settings(wide.clone()))));
    let mut status = mesh.config_status();
    watched(status.wait_for(|status| status.error.is_some())).await.unwrap();
    assert_eq!(mesh.admin_address(), Some(first));
    wide.allow_remote = true;
    configs.send_replace(Arc::new(Config::new().with_settings(settings(wide.clone()))));
    until(async || mesh.admin_address() == Some(wide.address)).await;
    assert_eq!(get(first, "/live").await.status, 200);
}

#[tokio::test]
async fn where_it_cannot_listen_it_stays_where_it_is() {
    let first = free().await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let second = taken.local_addr().unwrap();
    let (configs, receiver) = watch::channel(at(first));
    let mesh = Mesh::builder().configs(receiver).build().await.unwrap();
    let mut status = mesh.config_status();
    configs.send_replace(at(second));
    watched(status.wait_for(|status| status.version == 2)).await.unwrap();
    assert_eq!(get(first, "/live").await.status, 200);
    assert_eq!(mesh.admin_address(), Some(first));
    // Once it is free, the next look finds it so.
    drop(taken);
    let mut more = at(second).as_ref().clone();
    more = more.with_server(Server::new("another"));
    configs.send_replace(Arc::new(more));
    until(async || mesh.admin_address() == Some(second)).await;
}

/// A kubelet hears of a process whose certificate is on its way.
#[tokio::test]
async fn probes_are_answered_before_there_is_an_identity() {
    struct Late(watch::Receiver<bool>, Authority);
    impl IdentitySource for Late {
        fn run(&self, updates: IdentityUpdates) -> Pin<Box<dyn Future<Output = ()> + Send>> {
            let mut wait = self.0.clone();
            let material = self.1.issue("spiffe://cluster.local/a").material(self.1.bundles());
            Box::pin(async move {
                updates.failed("it takes a while");
                let _ = wait.wait_for(|now| *now).await;
                updates.update(material).unwrap();
                std::future::pending().await
            })
        }
    }
    let address = free().await;
    let (now, wait) = watch::channel(false);
    let text = format!(
        "unknown_services: dns\nidentity: {{ source: custom, startup_timeout: 60s }}\nadmin: {{ address: '{address}' }}"
    );
    let source = Late(wait, Authority::new("cluster.local"));
    let building = tokio::spawn(Mesh::builder().text(text).identity_source(source).build());
    until(async || is_open(address).await).await;
    assert_eq!(get(address, "/live").await.status, 200);
    until(async || get(address, "/ready").await.text().contains("it takes a while")).await;
    let answer = get(address, "/ready").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["failed"][0]["gate"], "configuration");
    now.send_replace(true);
    let _mesh = watched(building).await.unwrap().unwrap();
    assert_eq!(get(address, "/ready").await.status, 200);
}

/// Whoever gives up building leaves nothing behind.
#[tokio::test]
async fn a_mesh_that_is_given_up_listens_no_more() {
    struct Never;
    impl IdentitySource for Never {
        fn run(&self, _: IdentityUpdates) -> Pin<Box<dyn Future<Output = ()> + Send>> {
            Box::pin(std::future::pending())
        }
    }
    let address = free().await;
    let text = format!(
        "unknown_services: dns\nidentity: {{ source: custom, startup_timeout: 60s }}\nadmin: {{ address: '{address}' }}"
    );
    let building = tokio::spawn(Mesh::builder().text(text).identity_source(Never).build());
    until(async || is_open(address).await).await;
    building.abort();
    until(async || !is_open(address).await).await;
}

//! `axum::serve`: who calls, who is thrown out, and the way out.

use std::io::Write as _;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::routing::get;
use axum::{Extension, Router};
use mesh_tower::server::{Caller, Peer};
use mesh_tower::testing::watched;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::{CALLER, Served};

/// Says who calls; `/stuck` never answers, and tells that it was asked.
fn router(asked: watch::Sender<usize>) -> Router {
    let whoami = async |ConnectInfo(caller): ConnectInfo<Caller>, Extension(peer): Extension<Arc<Peer>>| {
        assert!(Arc::ptr_eq(&caller.0, &peer));
        peer.identity().map_or_else(|| "nobody".to_owned(), ToString::to_string)
    };
    let stuck = async move || {
        asked.send_modify(|asked| *asked += 1);
        std::future::pending::<()>().await;
    };
    Router::new().route("/", get(whoami)).route("/stuck", get(stuck))
}

struct Running {
    served: Served,
    task: JoinHandle<()>,
    asked: watch::Receiver<usize>,
}

/// `fields` of the server, with its layer around the router.
async fn start(fields: &str) -> Running {
    let (served, listener) = Served::new(fields).await;
    let (sender, asked) = watch::channel(0);
    let router = router(sender).layer(served.mesh.server_layer("public").unwrap());
    let incoming = served.mesh.incoming(listener);
    let draining = incoming.draining();
    let service = router.into_make_service_with_connect_info::<Caller>();
    let task =
        tokio::spawn(async move { axum::serve(incoming, service).with_graceful_shutdown(draining).await.unwrap() });
    Running { served, task, asked }
}

async fn text(mesh: &mesh_tower::Mesh, url: &str) -> String {
    let response = mesh.http_client().get(url).await.unwrap();
    assert_eq!(response.status(), 200);
    response.into_body().string().await.unwrap()
}

/// MT-13, MT-14: strict TLS under another's accept loop, the caller by connect info.
#[tokio::test]
async fn the_handler_knows_the_caller_behind_strict_tls() {
    let running = start("tls: strict").await;
    assert_eq!(text(&running.served.caller().await, "http://h1/").await, CALLER);
    assert!(running.served.nobody().await.http_client().get("http://h1/").await.is_err());
    let running = start("tls: permissive").await;
    assert_eq!(text(&running.served.nobody().await, "http://h1/").await, "nobody");
}

/// A layer of a strict server under a listener that says nothing of the caller lets nobody in.
#[tokio::test]
async fn without_peer_information_a_strict_layer_fails_closed() {
    for (tls, expected) in [("strict", 403), ("permissive", 200)] {
        let (served, _) = Served::new(&format!("tls: {tls}")).await;
        let router = Router::new().route("/", get(async || "in")).layer(served.mesh.server_layer("public").unwrap());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        let text = format!("services: {{ it: {{ backends: {{ it: {{ endpoints: ['{address}'] }} }} }} }}");
        let client = mesh_tower::Mesh::builder().text(text).build().await.unwrap();
        assert_eq!(client.http_client().get("http://it/").await.unwrap().status(), expected, "{tls}");
    }
}

/// MT-10: whoever is revoked is thrown out at once, with what is under way; the others stay.
#[tokio::test]
async fn mt_10_a_revoked_caller_is_thrown_out() {
    let mut running = start("tls: strict").await;
    let (bad, good) = (running.served.authority.issue(CALLER), running.served.authority.issue(CALLER));
    let (caller, other) = (running.served.caller_with(&bad).await, running.served.caller_with(&good).await);
    let stuck = tokio::spawn(caller.http_client().get("http://h1/stuck"));
    let mut kept = tokio::spawn(other.http_client().get("http://h1/stuck"));
    watched(running.asked.wait_for(|asked| *asked == 2)).await.unwrap();
    running.served.revoke(&bad);
    assert!(watched(stuck).await.unwrap().is_err());
    assert!(caller.http_client().get("http://h1/").await.is_err());
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut kept).await.is_err(), "it is still served");
    assert_eq!(text(&other, "http://h1/").await, CALLER);
}

/// CL-02: requests under way have the server's grace, as under `Mesh::serve`.
#[tokio::test]
async fn cl_02_what_does_not_end_within_the_grace_is_cut() {
    let mut running = start("tls: strict, drain: { delay: 0s, grace: 200ms }").await;
    let caller = running.served.caller().await;
    assert_eq!(text(&caller, "http://h1/").await, CALLER);
    let stuck = tokio::spawn(caller.http_client().get("http://h1/stuck"));
    watched(running.asked.wait_for(|asked| *asked == 1)).await.unwrap();
    assert!(running.served.mesh.is_ready());
    watched(running.served.mesh.drain()).await;
    assert!(watched(stuck).await.unwrap().is_err());
    watched(running.task).await.unwrap();
    assert!(tokio::net::TcpStream::connect(running.served.address).await.is_err());
}

/// So many connections, each with a request, that nobody has accepted.
fn waiting(address: std::net::SocketAddr, count: usize) -> Vec<tokio::net::TcpStream> {
    let connect = || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        stream.set_nonblocking(true).unwrap();
        tokio::net::TcpStream::from_std(stream).unwrap()
    };
    (0..count).map(|_| connect()).collect()
}

/// CL-02: whoever had connected before the end gets an answer.
#[tokio::test]
async fn cl_02_connections_that_wait_are_served_before_the_framework_shuts_down() {
    let (served, listener) = Served::new("tls: disabled, drain: { delay: 0s, grace: 1h }").await;
    let callers = waiting(served.address, 100);
    served.mesh.start_drain();
    let (sender, _) = watch::channel(0);
    let incoming = served.mesh.incoming(listener);
    let draining = incoming.draining();
    let layer = served.mesh.server_layer("public").unwrap();
    let service = router(sender).layer(layer).into_make_service_with_connect_info::<Caller>();
    let task =
        tokio::spawn(async move { axum::serve(incoming, service).with_graceful_shutdown(draining).await.unwrap() });
    for (number, mut caller) in callers.into_iter().enumerate() {
        let mut answer = [0; 15];
        let read = watched(caller.read_exact(&mut answer)).await;
        assert!(read.is_ok() && answer == *b"HTTP/1.1 200 OK", "{number}: {read:?}");
    }
    watched(task).await.unwrap();
}

/// CL-02: it is told of the end only when the last of them was looked at.
#[tokio::test]
async fn cl_02_draining_waits_for_those_who_wait() {
    let (served, listener) = Served::new("tls: disabled, drain: { delay: 0s, grace: 1h }").await;
    let callers = waiting(served.address, 2);
    served.mesh.start_drain();
    let mut incoming = served.mesh.incoming(listener);
    let mut draining = pin!(incoming.draining());
    let mut streams = [incoming.accept().await.unwrap(), incoming.accept().await.unwrap()];
    streams[0].read_u8().await.unwrap();
    // The end of the connections would be a sign to shut down, too.
    let told = async { tokio::join!(&mut draining, incoming.accept()) };
    assert!(tokio::time::timeout(Duration::from_millis(50), told).await.is_err());
    streams[1].read_u8().await.unwrap();
    watched(draining).await;
    assert!(watched(incoming.accept()).await.is_none());
    drop(callers);
}

/// A second signal does not wait for the grace.
#[tokio::test]
async fn cl_02_force_cuts_at_once() {
    let mut running = start("tls: strict, drain: { delay: 1h, grace: 1h }").await;
    let caller = running.served.caller().await;
    let stuck = tokio::spawn(caller.http_client().get("http://h1/stuck"));
    watched(running.asked.wait_for(|asked| *asked == 1)).await.unwrap();
    running.served.mesh.start_drain();
    assert_eq!(text(&caller, "http://h1/").await, CALLER, "others have not heard of it yet");
    running.served.mesh.force_drain();
    assert!(watched(stuck).await.unwrap().is_err());
    watched(running.task).await.unwrap();
}

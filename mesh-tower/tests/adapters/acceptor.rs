//! An accept loop of the application's own.

use std::convert::Infallible;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use mesh_tower::Mesh;
use mesh_tower::server::Peer;
use mesh_tower::testing::watched;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::support::{CALLER, Served};

/// Serves until it is aborted; says who calls.
async fn accept_loop(mesh: &Mesh) -> (std::net::SocketAddr, AbortHandle) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = mesh.acceptor("public").unwrap();
    let task = tokio::spawn(async move {
        loop {
            let (stream, remote) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream, Some(remote), None).await else { return };
                let peer: Arc<Peer> = Arc::clone(stream.peer());
                let whoami = service_fn(move |request: Request<Incoming>| {
                    let stuck = request.uri().path() == "/stuck";
                    let caller = peer.identity().map_or_else(|| "nobody".to_owned(), ToString::to_string);
                    async move {
                        if stuck {
                            std::future::pending::<()>().await;
                        }
                        Ok::<_, Infallible>(Response::new(caller))
                    }
                });
                let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), whoami).await;
            });
        }
    });
    (address, task.abort_handle())
}

/// MT-10: a connection that has nothing under way ends too, over both versions of HTTP.
#[tokio::test]
async fn mt_10_a_revoked_caller_is_thrown_out_of_a_loop_of_ones_own() {
    let (mut served, _) = Served::new("tls: strict").await;
    let (address, task) = accept_loop(&served.mesh).await;
    served.address = address;
    let bad = served.authority.issue(CALLER);
    let caller = served.caller_with(&bad).await.http_client();
    for url in ["http://h1/", "http://h2/"] {
        let answer = caller.get(url).await.unwrap().into_body().string().await.unwrap();
        assert_eq!(answer, CALLER, "{url}");
    }
    let stuck = tokio::spawn(caller.get("http://h2/stuck"));
    served.revoke(&bad);
    assert!(watched(stuck).await.unwrap().is_err());
    for url in ["http://h1/", "http://h2/"] {
        assert!(caller.get(url).await.is_err(), "{url}");
    }
    task.abort();
}

/// The drain of the mesh waits for connections of such a loop, and no longer than the grace.
#[tokio::test]
async fn cl_02_a_drain_ends_connections_of_ones_own_loop() {
    let (mut served, _) = Served::new("tls: strict, drain: { delay: 0s, grace: 100ms }").await;
    let (address, _) = accept_loop(&served.mesh).await;
    served.address = address;
    let caller = served.caller().await;
    assert_eq!(caller.http_client().get("http://h2/").await.unwrap().status(), 200);
    let stuck = tokio::spawn(caller.http_client().get("http://h2/stuck"));
    watched(served.mesh.drain()).await;
    assert!(watched(stuck).await.unwrap().is_err());
}

//! What went wrong once and must not again.

#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]

mod http_support;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_support::{Raw, greeter, in_memory, serve, text, until};
use mesh_tower::core::model::{
    Address, Backend, BackendId, Config, Endpoint, Forward, HostPattern, Route, RoutePolicy, VirtualHost,
};
use mesh_tower::testing::{TestBackend, TestMesh, full};
use mesh_tower::{Connect, Connecting, ErrorKind, Mesh};
use tokio::net::TcpListener;
use tokio::sync::{Barrier, Notify};
use tower::ServiceExt;

/// Every idle connection is stale: a resend that took another of them would fail like the first attempt.
#[tokio::test]
async fn a_resend_takes_a_connection_that_has_not_idled() {
    const IDLE: usize = 8;
    let barrier = Arc::new(Barrier::new(IDLE));
    let opened = Arc::new(AtomicUsize::new(0));
    let server = Raw::start(move |_, mut client| {
        let (barrier, opened) = (Arc::clone(&barrier), Arc::clone(&opened));
        async move {
            let stale = opened.fetch_add(1, Ordering::SeqCst) < IDLE;
            client.head().await.unwrap();
            if stale {
                barrier.wait().await;
            }
            client.answer("ok").await;
            // The stale ones take one more request and close on it.
            while client.head().await.is_some() {
                if stale {
                    return client.reset();
                }
                client.answer("ok").await;
            }
        }
    })
    .await;
    let mesh = greeter(&[server.address()]).mesh().await;
    let at_once = (0..IDLE).map(|_| {
        let client = mesh.http_client();
        tokio::spawn(async move { text(client.get("http://greeter/").await.unwrap()).await })
    });
    for call in at_once.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap(), "ok");
    }
    for _ in 0..2 * IDLE {
        assert_eq!(text(mesh.http_client().get("http://greeter/").await.unwrap()).await, "ok");
    }
    mesh.end().await;
}

/// More requests than connections, and no more connections to be had: those that are there serve all of them.
#[tokio::test]
async fn connections_that_work_outlive_one_that_cannot_be_made() {
    let (started, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (network, server) = in_memory({
        let (started, gate) = (Arc::clone(&started), Arc::clone(&gate));
        move |request| {
            let (started, gate) = (Arc::clone(&started), Arc::clone(&gate));
            async move {
                if request.uri().path() == "/held" {
                    started.fetch_add(1, Ordering::SeqCst);
                    gate.notified().await;
                }
                Ok(Response::new(full("ok")))
            }
        }
    });
    let refusing = Arc::new(AtomicBool::new(false));
    let refuse = Arc::clone(&refusing);
    let connector = move |address: &Address| -> Connecting {
        if refuse.load(Ordering::SeqCst) {
            return Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) });
        }
        Connect::connect(&network, address)
    };
    let yaml = greeter(&[http_support::nowhere()]).backend("connect_backoff: { base: 10ms, max: 20ms }").yaml();
    let mesh = TestMesh::from(Mesh::builder().text(yaml).connector(connector).build().await.unwrap());
    let get = |path: &'static str| {
        let client = mesh.http_client();
        tokio::spawn(async move { text(client.get(format!("http://greeter{path}")).await.unwrap()).await })
    };
    let held = get("/held");
    until("the request is there", || started.load(Ordering::SeqCst) == 1).await;
    refusing.store(true, Ordering::SeqCst);
    let others: Vec<_> = (0..5).map(|_| get("/")).collect();
    gate.notify_one();
    assert_eq!(held.await.unwrap(), "ok");
    for call in others {
        assert_eq!(call.await.unwrap(), "ok");
    }
    assert_eq!(server.connections(), 1);
    mesh.end().await;
}

#[tokio::test]
async fn durations_that_no_clock_reaches_are_as_good_as_none() {
    let server = TestBackend::named("ok").start();
    let id = BackendId::new("greeter", "v1");
    let mut backend = Backend::new(id.clone(), vec![Endpoint::new(server.address())]);
    backend.connect_timeout = Duration::MAX;
    let mut policy = RoutePolicy::default();
    policy.timeout = Some(Duration::MAX);
    let route = Route::new(Forward::to(id).with_policy(policy));
    let host = VirtualHost::new("greeter", vec![HostPattern::parse("greeter").unwrap()]).with_route(route);
    let config = Config::new().with_virtual_host(host).with_backend(backend);
    let mesh = TestMesh::from(Mesh::builder().config(config).build().await.unwrap());
    assert_eq!(text(mesh.http_client().get("http://greeter/").await.unwrap()).await, "ok");
    mesh.end().await;
}

/// The server answers at once, reads nothing and keeps the stream: the rest of the request body has nowhere to go.
#[tokio::test]
async fn an_upload_that_nobody_reads_ends_with_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let mut unread = Vec::new();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            respond.send_response(Response::new(()), true).unwrap();
            unread.push((request, respond));
        }
    });
    let mesh = greeter(&[address]).backend("protocol: http2").route("timeout: 300ms").mesh().await;
    assert_eq!(text(mesh.http_client().post("http://greeter/", "first").await.unwrap()).await, "");
    let idle = mesh.live_tasks();
    for _ in 0..3 {
        let body = Bytes::from(vec![0; 1 << 20]);
        assert_eq!(text(mesh.http_client().post("http://greeter/", body).await.unwrap()).await, "");
    }
    until("the uploads ended", || mesh.live_tasks() <= idle).await;
    mesh.end().await;
    server.abort();
}

#[tokio::test]
async fn a_request_that_the_shutdown_breaks_says_so() {
    for fields in ["protocol: http1", "protocol: http2"] {
        let arrived = Arc::new(Notify::new());
        let server = serve({
            let arrived = Arc::clone(&arrived);
            move |_| {
                arrived.notify_one();
                std::future::pending()
            }
        });
        let mesh = greeter(&[server.address()]).backend(fields).mesh().await;
        let client = mesh.http_client();
        let call = tokio::spawn(async move { client.get("http://greeter/").await.map(drop) });
        arrived.notified().await;
        mesh.end().await;
        assert_eq!(call.await.unwrap().unwrap_err().kind(), ErrorKind::Shutdown, "{fields}");
    }
}

#[tokio::test]
async fn a_content_length_that_is_not_the_bodys_is_refused() {
    let server = TestBackend::named("ok").start();
    let mesh = greeter(&[server.address()]).mesh().await;
    for (stated, right) in [("3", true), ("1", false), ("100", false), ("three", false)] {
        let request = Request::post("http://greeter/").header("content-length", stated).body(full("abc")).unwrap();
        let result = mesh.http_client().oneshot(request).await;
        match result {
            Ok(response) => assert!(right && text(response).await == "ok", "{stated}"),
            Err(error) => {
                assert!(!right, "{error}");
                assert_eq!(error.kind(), ErrorKind::InvalidRequest);
                assert!(error.to_string().contains(stated) && error.to_string().contains("3 bytes"), "{error}");
            }
        }
    }
    mesh.end().await;
}

//! RL-13: the laws of a Tower service, for the clients of a mesh.

#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]

mod http_support;

use std::error::Error as _;
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Empty, Full};
use http_support::{gone, greeter, serve, text};
use mesh_tower::testing::{TestBackend, TestMesh, empty};
use mesh_tower::{Body, BoxError, Error, HttpClient, ResponseFuture, ServiceClient};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};

fn is_a_client<S, B>()
where
    S: Service<Request<B>, Response = Response<Body>, Error = Error, Future = ResponseFuture>,
    S: Clone + Send + Sync + std::fmt::Debug + 'static,
    S::Error: Into<BoxError> + Send + Sync + 'static,
    S::Future: Send + Unpin + 'static,
{
}

#[test]
fn the_clients_and_what_they_give_are_what_tower_wants() {
    fn is_owned<T: Send + 'static>() {}
    is_a_client::<HttpClient, Empty<Bytes>>();
    is_a_client::<HttpClient, String>();
    is_a_client::<HttpClient, Full<std::collections::VecDeque<u8>>>();
    is_a_client::<ServiceClient, Full<Bytes>>();
    is_owned::<Body>();
    is_owned::<Response<Body>>();
}

async fn given() -> (TestMesh, TestBackend) {
    let server = TestBackend::named("ok").start();
    (greeter(&[server.address()]).mesh().await, server)
}

fn get() -> Request<Empty<Bytes>> {
    Request::get("http://greeter/").body(Empty::new()).unwrap()
}

/// Every law, for one kind of client.
async fn obeys_the_laws<S>(client: S, server: &TestBackend)
where
    S: Service<Request<Empty<Bytes>>, Response = Response<Body>, Error = Error> + Clone + Send + 'static,
    S::Future: Send,
{
    let mut cx = Context::from_waker(Waker::noop());
    // Always ready, however often it is asked, and a clone as much as the original.
    let (mut one, mut two) = (client.clone(), client.clone());
    for _ in 0..3 {
        assert!(matches!(one.poll_ready(&mut cx), Poll::Ready(Ok(()))));
    }
    assert!(matches!(two.poll_ready(&mut cx), Poll::Ready(Ok(()))));
    // Nothing is sent before the first poll, and a future that is dropped leaves no trace.
    drop(one.call(get()));
    tokio::task::yield_now().await;
    assert_eq!((server.connections(), server.request_count()), (0, 0));
    // A call without a poll_ready works, several from one instance at once, in any order.
    let (first, second) = (one.call(get()), one.call(get()));
    assert_eq!(text(second.await.unwrap()).await, "ok");
    drop(one);
    assert_eq!(text(first.await.unwrap()).await, "ok", "a future outlives its client");
    // A clone is independent.
    let response = tokio::spawn(two.call(get())).await.unwrap().unwrap();
    assert_eq!(text(response).await, "ok");
    assert_eq!(server.request_count(), 3);
}

#[tokio::test]
async fn rl_13_http_client() {
    let (mesh, server) = given().await;
    obeys_the_laws(mesh.http_client(), &server).await;
    mesh.end().await;
}

#[tokio::test]
async fn rl_13_http_client_with_errors_as_responses() {
    let (mesh, server) = given().await;
    obeys_the_laws(mesh.http_client().errors_as_responses(), &server).await;
    mesh.end().await;
}

#[tokio::test]
async fn rl_13_service_client() {
    let (mesh, server) = given().await;
    let client = mesh.service("greeter").unwrap();
    assert_eq!(client.authority(), "greeter");
    obeys_the_laws(client, &server).await;
    mesh.end().await;
}

#[tokio::test]
async fn rl_13_a_future_dropped_after_its_first_poll_leaves_nothing_behind() {
    let (mesh, _server) = given().await;
    for polls in 1..6 {
        let mut future = mesh.http_client().oneshot(get());
        for _ in 0..polls {
            let mut polled = pin!(&mut future);
            let done = poll_fn(|cx| Poll::Ready(polled.as_mut().poll(cx).is_ready())).await;
            if done {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(future);
    }
    assert_eq!(text(mesh.http_client().oneshot(get()).await.unwrap()).await, "ok");
    mesh.end().await;
}

#[tokio::test]
async fn rl_13_works_under_the_layers_of_tower() {
    let (mesh, _server) = given().await;
    let service = ServiceBuilder::new()
        .map_request(|path: &str| Request::get(format!("http://greeter{path}")).body(Empty::<Bytes>::new()).unwrap())
        .map_response(|response: Response<Body>| response.status())
        .service(mesh.http_client());
    assert_eq!(service.oneshot("/x").await.unwrap(), 200);
    let boxed = tower::util::BoxCloneSyncService::new(tower::layer::layer_fn(|inner| inner).layer(mesh.http_client()));
    assert_eq!(text(boxed.oneshot(get()).await.unwrap()).await, "ok");
    mesh.end().await;
}

#[tokio::test]
async fn rl_13_errors_keep_their_sources() {
    let gone = gone();
    let mesh = greeter(&[gone]).mesh().await;
    let error: BoxError = mesh.http_client().oneshot(get()).await.unwrap_err().into();
    let error = error.downcast::<Error>().expect("the error is found again");
    let source = error.source().and_then(|source| source.downcast_ref::<mesh_tower::ConnectError>()).expect("why");
    assert!(source.source().is_some_and(|source| source.is::<std::io::Error>()));
    mesh.end().await;
}

/// All clients of a mesh share its connections.
#[tokio::test]
async fn clients_of_every_kind_share_one_connection() {
    for (protocol, request) in [("http1", 6), ("http2", 6)] {
        let server = TestBackend::named("ok").start();
        let mesh = greeter(&[server.address()]).backend(&format!("protocol: {protocol}")).mesh().await;
        for _ in 0..request / 2 {
            assert_eq!(text(mesh.http_client().oneshot(get()).await.unwrap()).await, "ok");
            assert_eq!(text(mesh.service("greeter").unwrap().oneshot(get()).await.unwrap()).await, "ok");
        }
        assert_eq!(server.connections(), 1, "{protocol}");
        mesh.end().await;
    }
}

#[tokio::test]
async fn a_shared_http2_connection_carries_requests_at_once() {
    let barrier = std::sync::Arc::new(tokio::sync::Barrier::new(20));
    let server = serve(move |_| {
        let barrier = barrier.clone();
        async move {
            barrier.wait().await;
            Ok(Response::new(empty()))
        }
    });
    let mesh = greeter(&[server.address()]).backend("protocol: http2").mesh().await;
    let calls: Vec<_> = (0..20).map(|_| tokio::spawn(mesh.http_client().oneshot(get()))).collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().status(), 200);
    }
    assert_eq!(server.connections(), 1);
    mesh.end().await;
}

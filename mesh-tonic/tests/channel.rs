//! RL-13: the laws of a Tower service, for the channel.

#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]

mod support;

use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use examples::greeter::greeter_client::GreeterClient;
use http::Request;
use http_body_util::{BodyExt, Full};
use mesh_tonic::prelude::*;
use mesh_tonic::{Channel, ResponseBody, ResponseFuture};
use support::{Server, mesh_to, named};
use tonic::Status;
use tower::{Service, ServiceExt};

#[test]
fn the_channel_is_what_generated_clients_want() {
    fn takes_tonics_place<T>()
    where
        T: tonic::client::GrpcService<tonic::body::Body, ResponseBody = ResponseBody, Error = Status>,
        T: Clone + Send + Sync + std::fmt::Debug + 'static,
        T::Future: Send + Unpin + 'static,
    {
    }
    fn is_shared<T: Clone + Send + Sync + 'static>() {}
    takes_tonics_place::<Channel>();
    is_shared::<GreeterClient<Channel>>();
    fn is_owned<T: Send + 'static>() {}
    is_owned::<ResponseFuture>();
    is_owned::<ResponseBody>();
}

/// `SayHello` with an empty message.
fn hello() -> Request<Full<Bytes>> {
    Request::post("http://anything/greeter.v1.Greeter/SayHello")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::from(vec![0; 5]))
        .unwrap()
}

async fn is_ok(future: ResponseFuture) -> bool {
    let body = future.await.unwrap().into_body().collect().await.unwrap();
    body.trailers().is_some_and(|trailers| trailers["grpc-status"] == "0")
}

#[tokio::test]
async fn rl_13_channel() {
    let server = Server::start().await;
    let mesh = mesh_to(server.address, "", "").await;
    let channel = mesh.channel("greeter").unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    let (mut one, mut two) = (channel.clone(), channel);
    for _ in 0..3 {
        let ready = Service::<Request<Full<Bytes>>>::poll_ready(&mut one, &mut cx);
        assert!(matches!(ready, Poll::Ready(Ok(()))));
    }
    drop(one.call(hello()));
    tokio::task::yield_now().await;
    assert_eq!((server.accepts(), server.calls().len()), (0, 0), "nothing is sent before the first poll");
    let (first, second) = (one.call(hello()), one.call(hello()));
    assert!(is_ok(second).await);
    drop(one);
    assert!(is_ok(first).await, "a future outlives its channel");
    assert!(tokio::spawn(is_ok(two.call(hello()))).await.unwrap(), "a clone is independent");
    assert_eq!(server.calls().len(), 3);
    mesh.end().await;
}

#[tokio::test]
async fn rl_13_works_under_the_layers_of_tower() {
    let server = Server::start().await;
    let mesh = mesh_to(server.address, "", "").await;
    let channel = mesh.channel("greeter").unwrap();
    let layered = tower::ServiceBuilder::new()
        .map_request(|mut request: Request<tonic::body::Body>| {
            request.headers_mut().insert("x-layer", http::HeaderValue::from_static("1"));
            request
        })
        .service(channel.clone());
    GreeterClient::new(layered).say_hello(named("ada")).await.unwrap();
    assert_eq!(server.calls()[0].get("x-layer").unwrap(), "1");

    let mut intercepted = GreeterClient::with_interceptor(channel.clone(), |mut request: tonic::Request<()>| {
        request.metadata_mut().insert("x-interceptor", "2".parse().unwrap());
        Ok(request)
    });
    intercepted.say_hello(named("ada")).await.unwrap();
    assert_eq!(server.calls()[1].get("x-interceptor").unwrap(), "2");

    let response = channel.oneshot(hello()).await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/grpc");
    drop(response);
    mesh.end().await;
}

#[tokio::test]
async fn rl_13_errors_keep_their_sources() {
    let gone = Server::start().await.address;
    let mesh = mesh_to(gone, "", "").await;
    let status = mesh.channel("greeter").unwrap().call(hello()).await.unwrap_err();
    let mut source = std::error::Error::source(&status);
    let mut refused = false;
    while let Some(cause) = source {
        let io = cause.downcast_ref::<std::io::Error>();
        refused |= io.is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused);
        source = cause.source();
    }
    assert!(refused, "{status:?}");
    mesh.end().await;
}

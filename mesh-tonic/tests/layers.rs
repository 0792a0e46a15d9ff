//! The separate layers around a tonic `Channel`, under an unchanged generated client.

#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]

mod support;

use std::error::Error;
use std::future::ready;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use examples::greeter::greeter_client::GreeterClient;
use http::Request;
use mesh_tonic::StatusLayer;
use mesh_tonic::core::model::{
    Backend, BackendId, Config, Endpoint, Forward, HostPattern, PathMatch, RetryOn, RetryPolicy, Route, RouteMatch,
    RoutePolicy, VirtualHost,
};
use mesh_tonic::mesh_tower::layer::{DeadlineLayer, RetryLayer, RouteLayer, find_error};
use support::{Server, named};
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::{Code, Status, transport};
use tower::{ServiceBuilder, service_fn};

/// One service, `greeter`, for calls of `Greeter`, with a retry policy and a timeout.
fn config(address: SocketAddr) -> Config {
    let id = BackendId::new("greeter", "v1");
    let mut policy = RoutePolicy::default();
    policy.retry = Some(Arc::new(RetryPolicy::new(RetryOn::UNAVAILABLE).with_num_retries(3)));
    policy.timeout = Some(Duration::from_secs(2));
    let mut greeter = RouteMatch::default();
    greeter.path = Some(PathMatch::PathPrefix("/greeter.v1.Greeter".into()));
    let route = Route::new(Forward::to(id.clone()).with_policy(policy)).with_match(greeter);
    let host = VirtualHost::new("greeter", vec![HostPattern::Exact("greeter".into())]).with_route(route);
    Config::new().with_virtual_host(host).with_backend(Backend::new(id, vec![Endpoint::new(address)]))
}

fn client(
    config: &Config,
) -> GreeterClient<
    impl GrpcService<
        Body,
        ResponseBody: http_body::Body<Data = bytes::Bytes, Error = Status> + Send + 'static,
        Future: Send,
    > + Clone
    + Send
    + Sync
    + 'static,
> {
    let maker = service_fn(|backend: Arc<Backend>| {
        let channel = transport::Endpoint::from_shared(format!("http://{}", backend.endpoints[0].address));
        ready(channel.map(|channel| {
            ServiceBuilder::new()
                .layer(DeadlineLayer::from_request())
                .layer(RetryLayer::from_route())
                .map_request(|request: Request<_>| request.map(Body::new))
                .service(channel.connect_lazy())
        }))
    });
    let layers = ServiceBuilder::new()
        .layer(StatusLayer::new())
        .layer(RouteLayer::new(config).unwrap().with_authority("greeter"))
        .service(maker);
    GreeterClient::new(layers)
}

#[tokio::test]
async fn calls_are_routed_and_retried() {
    let server = Server::scripted(|number, _| match number {
        1 | 2 => Err(Status::unavailable("not yet")),
        _ => Ok(()),
    })
    .await;
    let mut greeter = client(&config(server.address));
    assert_eq!(greeter.say_hello(named("Ada")).await.unwrap().into_inner().message, "hello Ada");
    let calls = server.calls();
    let attempts: Vec<_> = calls.iter().map(|call| call.get("grpc-previous-rpc-attempts")).collect();
    assert_eq!(attempts, [None, Some(&"1".parse().unwrap()), Some(&"2".parse().unwrap())]);
    assert!(calls.iter().all(|call| call.contains_key("grpc-timeout")), "the route's timeout is told");

    // Streams both ways: bodies and trailers come through.
    let names = tokio_stream::iter(["Ada", "Grace"].map(named));
    assert_eq!(greeter.collect(names).await.unwrap().into_inner().message, "Ada+Grace");
    let mut replies =
        greeter.watch(examples::greeter::HelloRequest { name: "n".into(), count: 3 }).await.unwrap().into_inner();
    let mut count = 0;
    while let Some(reply) = replies.message().await.unwrap() {
        assert_eq!(reply.message, format!("n {count}"));
        count += 1;
    }
    assert_eq!(count, 3);
}

#[tokio::test]
async fn a_status_of_the_server_is_its_own() {
    let server = Server::scripted(|_, _| Err(Status::not_found("no such greeting"))).await;
    let status = client(&config(server.address)).say_hello(named("Ada")).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "no such greeting"));
    assert_eq!(server.calls().len(), 1);
}

#[tokio::test]
async fn deadlines_are_deadline_exceeded() {
    let mut server = Server::start().await;
    let mut greeter = client(&config(server.address));
    let status = greeter.say_hello(named("nobody")).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(status.message().contains("backend v1 of service greeter within 2s"), "{status}");
    server.caller_gone().await;

    // In the middle of a stream too.
    let mut replies = greeter.watch(named("nobody")).await.unwrap().into_inner();
    assert_eq!(replies.message().await.unwrap().unwrap().message, "first");
    let status = replies.message().await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    server.caller_gone().await;

    // The caller's, if it is earlier.
    let mut request = tonic::Request::new(named("nobody"));
    request.set_timeout(Duration::from_millis(100));
    let status = greeter.say_hello(request).await.unwrap_err();
    assert!(status.code() == Code::DeadlineExceeded && status.message().contains("within 100ms"), "{status}");
}

#[tokio::test]
async fn what_never_left_is_unavailable() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let status = client(&config(closed)).say_hello(named("Ada")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");

    let nothing = Config::new();
    let status = client(&nothing).say_hello(named("Ada")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(status.message(), "no service has the host \"greeter\"; add it to `services`, or to the `hosts` of one");
    let source = status.source().expect("the layer's error");
    assert!(find_error(source).is_some(), "{source:?}");
}

/// tonic's channel has a timer of its own, which reads `grpc-timeout` too; it says CANCELLED.
#[tokio::test]
async fn the_channels_own_timer_is_the_deadline() {
    let server = Server::start().await;
    let endpoint = transport::Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
    let late = endpoint.timeout(Duration::from_millis(100)).connect_lazy();
    let status = GreeterClient::new(late.clone()).say_hello(named("nobody")).await.unwrap_err();
    assert_eq!(status.code(), Code::Cancelled, "if tonic says otherwise, the layer need not");
    let layered = ServiceBuilder::new().layer(StatusLayer::new()).service(late);
    let status = GreeterClient::new(layered).say_hello(named("nobody")).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
}

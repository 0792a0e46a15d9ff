//! The layer of a server under tonic: in its transport, and around its routes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use examples::greeter::HelloRequest;
use examples::greeter::greeter_client::GreeterClient;
use examples::greeter::greeter_server::GreeterServer;
use http::Request;
use http_body_util::BodyExt;
use mesh_tonic::core::model::{Config, Server, ServerTls};
use mesh_tonic::prelude::*;
use mesh_tonic::server::{GrpcLayer, Peer, ServerLayer};
use support::{TestGreeter, named, requests};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tower::{Layer, ServiceExt};

const LIMIT: u32 = 1000;

/// A greeter that panics if it is asked to.
fn routes() -> Routes {
    Routes::new(GreeterServer::with_interceptor(TestGreeter::willing(), |request: tonic::Request<()>| {
        assert!(!request.metadata().contains_key("x-panic"), "no luck");
        Ok(request)
    }))
}

async fn layer(change: impl FnOnce(&mut Server)) -> (Mesh, ServerLayer) {
    let mut server = Server::new("public");
    server.limits.max_message_bytes = Some(LIMIT);
    change(&mut server);
    let mesh = Mesh::builder().config(Config::new().with_server(server)).build().await.unwrap();
    let layer = mesh.server_layer("public").unwrap();
    (mesh, layer)
}

/// A client of a tonic server with the layer in its stack.
async fn transport(layer: ServerLayer) -> GreeterClient<Channel> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder().layer(layer).add_routes(routes());
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    connect(address).await
}

/// A client of a mesh that serves tonic's routes.
async fn served() -> (Mesh, GreeterClient<Channel>) {
    let (mesh, _) = layer(|_| {}).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(mesh.serve(mesh.adopt("public", listener).unwrap(), routes()));
    (mesh, connect(address).await)
}

async fn connect(address: SocketAddr) -> GreeterClient<Channel> {
    let endpoint = tonic::transport::Endpoint::try_from(format!("http://{address}")).unwrap();
    GreeterClient::new(endpoint.connect().await.unwrap())
}

async fn clients() -> (Vec<Mesh>, [GreeterClient<Channel>; 2]) {
    let (mesh, layer) = layer(|_| {}).await;
    let transport = transport(layer).await;
    let (serving, served) = served().await;
    (vec![mesh, serving], [transport, served])
}

#[tokio::test]
async fn messages_within_the_limit_pass() {
    let (_meshes, clients) = clients().await;
    for mut client in clients {
        let reply = client.say_hello(named(&"x".repeat(900))).await.unwrap();
        assert_eq!(reply.into_inner().message.len(), 906);
        let (sender, stream) = requests();
        let mut chat = client.chat(stream).await.unwrap().into_inner();
        for _ in 0..5 {
            sender.try_send(named(&"x".repeat(900))).unwrap();
            assert_eq!(chat.message().await.unwrap().unwrap().message.len(), 904);
        }
    }
}

#[tokio::test]
async fn a_message_beyond_the_limit_is_resource_exhausted() {
    let (_meshes, clients) = clients().await;
    for mut client in clients {
        let status = client.say_hello(named(&"x".repeat(1000))).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "a message is too large"));
        // Behind the head, too.
        let (sender, stream) = requests();
        let mut chat = client.chat(stream).await.unwrap().into_inner();
        sender.try_send(named("ada")).unwrap();
        assert_eq!(chat.message().await.unwrap().unwrap().message, "re: ada");
        sender.try_send(named(&"x".repeat(1000))).unwrap();
        let status = chat.message().await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
    }
}

/// A stream that is sent before there is an answer may have any length, where somebody says that gRPC is spoken;
/// otherwise the limits of HTTP hold for whoever says that a request is a gRPC call.
#[tokio::test]
async fn streams_of_requests_are_bound_by_message_where_grpc_is_known() {
    let (mesh, _) = layer(|server| server.limits.max_body_bytes = Some(u64::from(LIMIT))).await;
    let calls = || routes().into_axum_router();
    let mixed = calls().layer(GrpcLayer::new()).route("/", axum::routing::get(async || "hello"));
    for (name, router, all, expected) in [
        ("nobody says it", calls(), false, Code::ResourceExhausted),
        ("of the listener", calls(), true, Code::Ok),
        ("of the services", mixed, false, Code::Ok),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let listener = mesh.adopt("public", listener).unwrap();
        let listener = if all { listener.grpc() } else { listener };
        tokio::spawn(mesh.serve(listener, router));
        assert_eq!(stream(address).await, expected, "{name}");
    }
    // tonic's own server says it by itself.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = mesh.tonic_incoming(mesh.adopt("public", listener).unwrap());
    let server = tonic::transport::Server::builder().layer(mesh.server_layer("public").unwrap()).add_routes(routes());
    tokio::spawn(server.serve_with_incoming(incoming));
    assert_eq!(stream(address).await, Code::Ok);
}

/// How a stream of ten times [`LIMIT`] bytes ends, each message of which is within it.
async fn stream(address: SocketAddr) -> Code {
    let requests = (0..20).map(|_| named(&"x".repeat(500)));
    let answer = connect(address).await.collect(tokio_stream::iter(requests.collect::<Vec<_>>())).await;
    answer.map_or_else(|status| status.code(), |_| Code::Ok)
}

/// RL-14: of the call alone; the connection goes on.
#[tokio::test]
async fn rl_14_a_panic_is_internal() {
    let (_meshes, clients) = clients().await;
    for mut client in clients {
        let mut request = tonic::Request::new(named("ada"));
        request.metadata_mut().insert("x-panic", "1".parse().unwrap());
        let status = client.say_hello(request).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Internal, "internal error"));
        assert_eq!(client.say_hello(named("ada")).await.unwrap().into_inner().message, "hello ada");
    }
}

/// The server ends what its caller has no more time for, whatever the caller does: its stream is not reset.
#[tokio::test]
async fn a_deadline_ends_a_stream_that_has_begun() {
    let (_mesh, layer) = layer(|_| {}).await;
    let service = layer.layer(routes());
    let message = framed(&HelloRequest { name: "nobody".into(), count: 0 });
    let request = Request::post("http://greeter/greeter.v1.Greeter/Watch")
        .version(http::Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "50m")
        .body(Body::new(http_body_util::Full::from(message)))
        .unwrap();
    let response = service.oneshot(request).await.unwrap_or_else(|never: Infallible| match never {});
    assert_eq!(response.headers().get("grpc-status"), None);
    let whole = tokio::time::timeout(Duration::from_secs(30), response.into_body().collect()).await.unwrap().unwrap();
    let trailers = whole.trailers().unwrap();
    assert_eq!(Status::from_header_map(trailers).unwrap().code(), Code::DeadlineExceeded);
    assert!(!whole.to_bytes().is_empty(), "the first reply came");
}

/// Whoever accepts connections without saying who calls lets nobody in; whoever says so does.
#[tokio::test]
async fn a_strict_layer_fails_closed() {
    let (_mesh, strict) = layer(|server| server.tls = Some(ServerTls::Strict)).await;
    let status = transport(strict).await.say_hello(named("ada")).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::PermissionDenied, "the caller is not let in"));

    let (_mesh, open) = layer(|_| {}).await;
    let routes =
        Routes::new(GreeterServer::with_interceptor(
            TestGreeter::willing(),
            |request: tonic::Request<()>| match request.extensions().get::<Arc<Peer>>() {
                Some(_) => Ok(request),
                None => Err(Status::unauthenticated("who calls?")),
            },
        ));
    let mut client = GreeterClient::new(Known(open.layer(routes)));
    assert_eq!(client.say_hello(named("ada")).await.unwrap().into_inner().message, "hello ada");
}

/// Leaves a caller with each request.
#[derive(Clone)]
struct Known<S>(S);

impl<S: tower::Service<Request<Body>>> tower::Service<Request<Body>> for Known<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> S::Future {
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = format!("http://greeter{}", request.uri().path()).parse().unwrap();
        request.extensions_mut().insert(Arc::new(Peer::plaintext(None)));
        self.0.call(request)
    }
}

fn framed(message: &HelloRequest) -> bytes::Bytes {
    let name = message.name.as_bytes();
    let body = [&[0x0a, name.len() as u8], name].concat();
    mesh_tonic::core::grpc::messages::framed(&body).unwrap()
}

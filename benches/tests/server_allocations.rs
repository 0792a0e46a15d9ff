//! The bar that no change may raise: what the layer of a server allocates for each request.
//!
//! A test binary of its own, since it replaces the allocator. Services are called by Tower, without a connection, and
//! then once more over one, where that of the mesh takes the place of the framework's.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use benches::measure::{one_thread, process_cpu};
use benches::subject::{self, Around, Framework, Kind, Load};
use benches::telemetry;
use bytes::Bytes;
use examples::greeter::greeter_server::{Greeter, GreeterServer};
use examples::greeter::{HelloReply, HelloRequest};
use http::{Request, Response, Version};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use mesh_core::model::{Config, Server};
use mesh_tonic::Mesh;
use mesh_tonic::server::{Peer, RequestBody, ServerLayer};
use prost::Message;
use tonic::Status;
use tower::{Layer, Service, ServiceExt, service_fn};

const REQUESTS: u64 = 1_000;
/// By how much two counts of the same over a connection may differ: see `allocations.rs`.
const SPLIT_READS: i64 = 50;

/// The layers of a server with every limit on: without metrics, and with them.
async fn layers() -> [(Mesh, ServerLayer); 2] {
    let mut server = Server::new("public");
    server.limits.request_timeout = Some(Duration::from_secs(60));
    server.limits.max_body_bytes = Some(1 << 20);
    server.propagate_deadline = true;
    let config = Config::new().with_server(server);
    let plain = Mesh::builder().config(config.clone()).build().await.unwrap();
    let measured = Mesh::builder().config(config).meter_provider(&telemetry::meters()).build().await.unwrap();
    [plain, measured].map(|mesh| {
        let layer = mesh.server_layer("public").unwrap();
        (mesh, layer)
    })
}

fn http(peer: Option<&Arc<Peer>>) -> Request<Full<Bytes>> {
    let request = Request::post("/items/7").header("host", "catalog").body(Full::from("hello"));
    known(request.unwrap(), peer)
}

fn grpc(peer: Option<&Arc<Peer>>) -> Request<Full<Bytes>> {
    let message = HelloRequest { name: "ada".to_owned(), count: 1 }.encode_to_vec();
    let framed = mesh_core::grpc::messages::framed(&message).unwrap();
    let request = Request::post("http://greeter/greeter.v1.Greeter/SayHello")
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "10S")
        .body(Full::from(framed));
    known(request.unwrap(), peer)
}

fn known(mut request: Request<Full<Bytes>>, peer: Option<&Arc<Peer>>) -> Request<Full<Bytes>> {
    if let Some(peer) = peer {
        request.extensions_mut().insert(Arc::clone(peer));
    }
    request
}

/// Allocations of so many requests to `service`.
async fn count<S, B>(
    service: S,
    request: fn(Option<&Arc<Peer>>) -> Request<Full<Bytes>>,
    peer: Option<&Arc<Peer>>,
) -> u64
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body<Data = Bytes, Error: std::fmt::Debug>,
{
    let send = async |requests: u64| {
        for _ in 0..requests {
            let response = service.clone().oneshot(request(peer)).await.unwrap();
            assert_eq!(response.status(), 200);
            let whole = response.into_body().collect().await.unwrap();
            assert!(whole.trailers().is_none_or(|trailers| trailers["grpc-status"] == "0"));
        }
    };
    send(10).await;
    let runtime = tokio::runtime::Handle::current();
    let counted = allocation_counter::measure(|| tokio::task::block_in_place(|| runtime.block_on(send(REQUESTS))));
    counted.count_total
}

/// How many allocations the layer adds to a request: on its own, and with the caller that its handler finds.
async fn added<S, T, B, C>(plain: S, layered: T, request: fn(Option<&Arc<Peer>>) -> Request<Full<Bytes>>) -> (f64, f64)
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = Infallible> + Clone,
    T: Service<Request<Full<Bytes>>, Response = Response<C>, Error = Infallible> + Clone,
    B: Body<Data = Bytes, Error: std::fmt::Debug>,
    C: Body<Data = Bytes, Error: std::fmt::Debug>,
{
    let peer = Arc::new(Peer::plaintext(None));
    let plain = count(plain, request, None).await;
    let alone = count(layered.clone(), request, None).await;
    let known = count(layered, request, Some(&peer)).await;
    // Less than the request itself takes would mean that the counter does not see the service.
    assert!(plain >= REQUESTS, "{plain}");
    let each = |count: u64| (count as f64 - plain as f64) / REQUESTS as f64;
    (each(alone), each(known))
}

async fn echo<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible>
where
    B: Body<Data = Bytes, Error: std::fmt::Debug>,
{
    Ok(Response::new(Full::new(request.into_body().collect().await.unwrap().to_bytes())))
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_three_where_nobody_uses_extensions() {
    for (_mesh, layer) in layers().await {
        let layered = layer.layer(service_fn(echo::<RequestBody<Full<Bytes>>>));
        let added = added(service_fn(echo::<Full<Bytes>>), layered, http).await;
        assert_eq!(added, (0.0, 3.0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_one_around_a_router_of_axum() {
    for (_mesh, layer) in layers().await {
        let router: Router = Router::new().route("/items/{id}", post(async |body: String| body));
        let added = added(router.clone(), layer.layer(router), http).await;
        assert_eq!(added, (0.0, 1.0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_one_around_services_of_tonic() {
    #[derive(Clone)]
    struct Hello;

    type Never = tokio_stream::Empty<Result<HelloReply, Status>>;

    #[tonic::async_trait]
    impl Greeter for Hello {
        type WatchStream = Never;
        type ChatStream = Never;

        async fn say_hello(
            &self,
            request: tonic::Request<HelloRequest>,
        ) -> Result<tonic::Response<HelloReply>, Status> {
            Ok(tonic::Response::new(HelloReply { message: request.into_inner().name, served_by: String::new() }))
        }

        async fn watch(&self, _: tonic::Request<HelloRequest>) -> Result<tonic::Response<Never>, Status> {
            Err(Status::unimplemented("watch"))
        }

        async fn collect(
            &self,
            _: tonic::Request<tonic::Streaming<HelloRequest>>,
        ) -> Result<tonic::Response<HelloReply>, Status> {
            Err(Status::unimplemented("collect"))
        }

        async fn chat(
            &self,
            _: tonic::Request<tonic::Streaming<HelloRequest>>,
        ) -> Result<tonic::Response<Never>, Status> {
            Err(Status::unimplemented("chat"))
        }
    }

    for (_mesh, layer) in layers().await {
        let routes = tonic::service::Routes::new(GreeterServer::new(Hello)).prepare();
        let added = added(routes.clone(), layer.layer(routes), grpc).await;
        assert_eq!(added, (0.0, 1.0));
    }
}

/// Allocations of 1,000 requests over a connection after 100, client and server together: they share a thread.
fn over_a_connection(kind: Kind, load: Load) -> i64 {
    let runtime = one_thread().unwrap();
    let address = runtime.block_on(subject::start(kind, None)).unwrap();
    let client = runtime.block_on(load.on(address, 1, None, process_cpu)).unwrap();
    client.calls(&runtime, 100).unwrap();
    let counted = allocation_counter::measure(|| client.calls(&runtime, REQUESTS).unwrap());
    i64::try_from(counted.count_total).unwrap()
}

#[test]
fn a_request_allocates_no_more_over_a_connection_of_the_mesh() {
    let bars = [
        (Framework::Hyper, Load::Http1, 3),
        (Framework::Hyper, Load::Http2, 3),
        // Without its own features axum puts nothing into the extensions: the map is ours to make, as on bare hyper.
        (Framework::Axum, Load::Http1, 3),
        (Framework::Axum, Load::Http2, 3),
        (Framework::Tonic, Load::Grpc, 1),
    ];
    for (framework, load, most) in bars {
        let bare = over_a_connection(Kind::plain(framework, Around::Nothing), load);
        for around in [Around::Mesh, Around::MeshMeasured] {
            let kind = Kind::plain(framework, around);
            let added = over_a_connection(kind, load) - bare;
            assert!(added <= most * REQUESTS as i64 + SPLIT_READS, "{kind}, {}: {added} more than {bare}", load.name());
        }
    }
}

//! tonic's own server on connections that the mesh let in, with health and reflection.
//!
//! ```sh
//! cargo run --example tonic_server
//! ```
#![allow(clippy::print_stdout, reason = "this is a program")]

use std::error::Error;
use std::sync::Arc;

use examples::certs::Authority;
use examples::greeter::greeter_client::GreeterClient;
use examples::greeter::greeter_server::{Greeter, GreeterServer};
use examples::greeter::{HelloReply, HelloRequest};
use examples::grpc_testing;
use mesh_tonic::prelude::*;
use mesh_tonic::server::Peer;
use tokio::net::TcpListener;
use tonic::codegen::BoxStream;
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const GREETER: &str = "spiffe://cluster.local/ns/default/sa/greeter";
const SHOP: &str = "spiffe://cluster.local/ns/default/sa/shop";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let authority = Authority::new("cluster.local")?;
    let identity = |name: &str, id: &str| authority.identity_section(&directory.path().join(name), id);

    let server = "unknown_services: dns\nservers: [{ name: public, drain: { delay: 100ms } }]";
    let mesh = Mesh::builder().text(identity("greeter", GREETER)? + server).build().await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let incoming = mesh.tonic_incoming(mesh.adopt("public", listener)?);
    let draining = incoming.draining();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(grpc_testing::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let serving = Server::builder()
        // What `mesh.serve` does for requests: who may call, limits, deadlines, telemetry.
        .layer(mesh.server_layer("public")?)
        .add_service(mesh.health_service(&[GreeterServer::<Hello>::NAME]))
        .add_service(reflection)
        .add_service(GreeterServer::new(Hello))
        .serve_with_incoming_shutdown(incoming, draining);
    let serving = tokio::spawn(serving);

    let backend = format!("{{ endpoints: ['{address}'], tls: {{ mode: mutual, identities: ['{GREETER}'] }} }}");
    let config = format!("{}services: {{ greeter: {{ backends: {{ v1: {backend} }} }} }}", identity("shop", SHOP)?);
    let shop = Mesh::builder().text(config).build().await?;
    let mut greeter = GreeterClient::new(shop.channel("greeter")?);
    let reply = greeter.say_hello(HelloRequest { name: "mesh".to_owned(), count: 1 }).await?.into_inner();
    println!("{}", reply.message);
    assert_eq!(reply.message, format!("hello, {SHOP}"));

    // Health follows the readiness of the mesh: whoever watches hears of a drain before the connection goes.
    let mut health = HealthClient::new(shop.channel("greeter")?);
    let of_greeter = HealthCheckRequest { service: GreeterServer::<Hello>::NAME.to_owned() };
    let mut watch = health.watch(of_greeter).await?.into_inner();
    let mut told = async || Ok::<_, Status>(watch.message().await?.map(|answer| answer.status()));
    assert_eq!(told().await?, Some(ServingStatus::Serving));
    mesh.start_drain();
    let status = told().await?;
    println!("{status:?}");
    assert_eq!(status, Some(ServingStatus::NotServing));
    println!("{}", told().await.err().ok_or("no drain waits for those who watch")?);
    serving.await??;
    Ok(())
}

/// Greets callers by their identity.
struct Hello;

#[tonic::async_trait]
impl Greeter for Hello {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let peer = request.extensions().get::<Arc<Peer>>().and_then(|peer| peer.identity().cloned());
        let message = peer.map_or_else(|| "who are you?".to_owned(), |id| format!("hello, {id}"));
        Ok(Response::new(HelloReply { message, served_by: "greeter".to_owned() }))
    }

    type WatchStream = BoxStream<HelloReply>;

    async fn watch(&self, _: Request<HelloRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn collect(&self, _: Request<Streaming<HelloRequest>>) -> Result<Response<HelloReply>, Status> {
        Err(Status::unimplemented("not here"))
    }

    type ChatStream = BoxStream<HelloReply>;

    async fn chat(&self, _: Request<Streaming<HelloRequest>>) -> Result<Response<Self::ChatStream>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

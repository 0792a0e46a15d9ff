//! tonic's own channel over a connection of a mesh: mutual TLS and the endpoint by the mesh's configuration. What it
//! lacks, such as retries and balancing by request, `mesh.channel(..)` of `mesh-tonic` has.
//!
//! ```sh
//! cargo run --example connector_tonic
//! ```
#![allow(clippy::print_stdout, reason = "this is a program")]

use std::error::Error;
use std::sync::Arc;

use examples::certs::Authority;
use examples::greeter::greeter_client::GreeterClient;
use examples::greeter::greeter_server::{Greeter, GreeterServer};
use examples::greeter::{HelloReply, HelloRequest};
use mesh_tonic::Mesh;
use mesh_tonic::server::Peer;
use tokio::net::TcpListener;
use tonic::codegen::BoxStream;
use tonic::transport::Endpoint;
use tonic::{Request, Response, Status, Streaming};

const GREETER: &str = "spiffe://cluster.local/ns/default/sa/greeter";
const SHOP: &str = "spiffe://cluster.local/ns/default/sa/shop";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let authority = Authority::new("cluster.local")?;
    let identity = |name: &str, id: &str| authority.identity_section(&directory.path().join(name), id);

    // The server: lets in who has a certificate, and greets them by name.
    let greeter = Mesh::builder().text(format!("{}servers: [{{ name: public }}]", identity("greeter", GREETER)?));
    let greeter = greeter.build().await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let serving = tokio::spawn(greeter.serve(greeter.adopt("public", listener)?, GreeterServer::new(Hello)));

    // The client: tonic's own channel, which speaks HTTP/2 alone.
    let config = format!(
        "{}services:
           greeter:
             backends:
               v1: {{ endpoints: ['{address}'], tls: {{ mode: mutual, identities: ['{GREETER}'] }} }}",
        identity("shop", SHOP)?
    );
    let shop = Mesh::builder().text(config).build().await?;
    let endpoint = Endpoint::from_static("http://greeter");
    let mut client = GreeterClient::new(endpoint.connect_with_connector(shop.connector().http2()).await?);
    let reply = client.say_hello(HelloRequest { name: "mesh".to_owned(), count: 1 }).await?.into_inner();
    println!("{}", reply.message);
    assert_eq!(reply.message, format!("hello, {SHOP}"));

    let endpoint = Endpoint::from_static("https://greeter.example.com");
    let error = endpoint.connect_with_connector(shop.connector().http2()).await.err().ok_or("nobody has that name")?;
    println!("{error}: {}", error.source().ok_or("it says why")?);
    drop(client);
    greeter.drain().await;
    serving.await?;
    Ok(())
}

/// Greets callers by their identity.
struct Hello;

#[tonic::async_trait]
impl Greeter for Hello {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let peer = request.extensions().get::<Arc<Peer>>().and_then(|peer| peer.identity().cloned());
        let message = peer.map_or("who are you?".to_owned(), |id| format!("hello, {id}"));
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

//! The three kinds of streaming calls over the mesh, with an unchanged generated client.
//!
//! ```sh
//! cargo run --example tonic_streaming
//! ```
#![allow(clippy::print_stdout, reason = "this is a program")]

use std::error::Error;
use std::time::Duration;

use examples::backend::Backend;
use examples::greeter::HelloRequest;
use examples::greeter::greeter_client::GreeterClient;
use mesh_tonic::prelude::*;
use tonic::codegen::tokio_stream;

fn requests(names: &'static [&'static str]) -> impl tokio_stream::Stream<Item = HelloRequest> {
    tokio_stream::iter(names.iter().map(|name| HelloRequest { name: (*name).to_owned(), count: 0 }))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = Backend::start("server", Duration::from_millis(100))?;
    let config = format!("services: {{ greeter: {{ backends: {{ v1: {{ endpoints: [{}] }} }} }} }}", server.address());
    let mesh = Mesh::builder().text(config).build().await?;
    let mut greeter = GreeterClient::new(mesh.channel("greeter")?);

    println!("one request, many replies:");
    let watch = HelloRequest { name: "Ada".to_owned(), count: 3 };
    let mut replies = greeter.watch(watch).await?.into_inner();
    while let Some(reply) = replies.message().await? {
        println!("  {}", reply.message);
    }

    println!("many requests, one reply:");
    let reply = greeter.collect(requests(&["Grace", "Barbara", "Frances"])).await?.into_inner();
    println!("  {}", reply.message);

    println!("a reply to each request as it comes:");
    let mut replies = greeter.chat(requests(&["Radia", "Karen"])).await?.into_inner();
    while let Some(reply) = replies.message().await? {
        println!("  {}", reply.message);
    }
    mesh.shutdown().await;
    Ok(())
}

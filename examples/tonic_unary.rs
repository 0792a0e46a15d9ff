//! A generated tonic client over the mesh: the client is unchanged, only its channel is another.
//!
//! ```sh
//! cargo run --example tonic_unary
//! ```
#![allow(clippy::print_stdout, reason = "this is a program")]

use std::error::Error;
use std::time::Duration;

use examples::backend::Backend;
use examples::greeter::HelloRequest;
use examples::greeter::greeter_client::GreeterClient;
use mesh_tonic::prelude::*;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let servers = [Backend::start("server a", Duration::ZERO)?, Backend::start("server b", Duration::ZERO)?];

    let config = format!(
        "services:
           greeter:
             backends:
               v1:
                 endpoints: [{}, {}]",
        servers[0].address(),
        servers[1].address()
    );
    let mesh = Mesh::builder().text(config).build().await?; // or Mesh::from_file("mesh.yaml"), or Mesh::from_env()
    let greeter = GreeterClient::new(mesh.channel("greeter")?);

    for name in ["Ada", "Grace", "Barbara", "Frances"] {
        let request = HelloRequest { name: name.to_owned(), count: 0 };
        let reply = greeter.clone().say_hello(request).await?.into_inner();
        println!("{} (from {})", reply.message, reply.served_by);
    }
    mesh.shutdown().await;
    Ok(())
}

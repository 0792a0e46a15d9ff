//! A service from nothing but its name: no file, no variable. The system's DNS (and /etc/hosts) knows the rest.
//!
//! ```sh
//! cargo run --example dns
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
    let backend = Backend::start("a", Duration::ZERO)?;
    let name = format!("localhost:{}", backend.address().port());

    let mesh = Mesh::builder().build().await?; // or Mesh::from_env(), with none of its variables set

    let mut greeter = GreeterClient::new(mesh.channel(&name)?);
    let reply = greeter.say_hello(HelloRequest { name: "Ada".into(), count: 0 }).await?.into_inner();
    println!("{} (from {name})", reply.message);
    assert_eq!(reply.served_by, "a");

    let response = mesh.http_client().get(format!("http://{name}/")).await?;
    assert_eq!(response.into_body().string().await?, "a\n");

    // RFC 6761: no name below `invalid` exists. The error says who was asked for what.
    let error = mesh.http_client().get("http://catalog.invalid/").await.err().ok_or("catalog.invalid exists")?;
    println!("{error}");
    assert!(error.is_connect());
    mesh.shutdown().await;
    Ok(())
}

//! A backend that takes its time, and a limit on what may be under way towards it: what is beyond is refused at once, by an
//! error that says so, and not queued up until everybody waits.
//!
//! ```sh
//! cargo run --example circuit_breaker
//! ```
#![allow(clippy::print_stdout, reason = "this is a program")]

use std::error::Error;
use std::time::Duration;

use examples::backend::Backend;
use mesh_tonic::Mesh;
use mesh_tonic::mesh_tower::ErrorKind;
use tokio::task::JoinSet;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let slow = Backend::start("slow", Duration::from_secs(1))?;
    let config = format!(
        "services:
           shop:
             routes: [{{ backends: [{{ name: v1 }}], timeout: 20s }}]
             backends:
               v1:
                 endpoints: ['{}']
                 circuit_breaker: {{ max_requests: 3 }}",
        slow.address()
    );
    let mesh = Mesh::builder().text(config).build().await?;

    let mut calls = JoinSet::new();
    for _ in 0..10 {
        let client = mesh.http_client();
        calls.spawn(async move { client.get("http://shop/").await?.into_body().string().await });
    }
    let (mut served, mut refused) = (0, 0);
    while let Some(ended) = calls.join_next().await {
        match ended? {
            Ok(_) => served += 1,
            Err(error) if error.kind() == ErrorKind::Overflow => {
                if refused == 0 {
                    println!("{error} (HTTP {}, gRPC {:?})", error.http_status(), error.grpc_code());
                }
                refused += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
    println!("ten requests at once, three allowed: {served} served, {refused} refused");

    let after = mesh.http_client().get("http://shop/").await?.status();
    println!("and once they are done: {after}");
    mesh.shutdown().await;
    if (served, refused) == (3, 7) { Ok(()) } else { Err("the limit did not hold".into()) }
}

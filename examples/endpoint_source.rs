//! Endpoints from a registry of the application: what it says is in force at once, and when it is lost what it said last
//! stays.
//!
//! ```sh
//! cargo run --example endpoint_source
//! ```
#![allow(clippy::print_stdout, reason = "this is a program")]

use std::collections::BTreeMap;
use std::error::Error;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use examples::backend::Backend;
use mesh_tonic::Mesh;
use mesh_tonic::core::model::Endpoint;
use mesh_tonic::mesh_tower::{EndpointSource, Found};
use tokio::sync::watch;

type Instances = BTreeMap<String, Vec<SocketAddr>>;

/// Stands for a client of Consul, a database, a file of your own.
struct Registry(watch::Receiver<Result<Instances, String>>);

impl EndpointSource for Registry {
    fn watch(&self, name: String, found: Found) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let mut registry = self.0.clone();
        Box::pin(async move {
            loop {
                match &*registry.borrow_and_update() {
                    Ok(instances) => {
                        let addresses = instances.get(&name).into_iter().flatten();
                        found.endpoints(addresses.copied().map(Endpoint::new).collect());
                    }
                    Err(error) => found.failed(error),
                }
                if registry.changed().await.is_err() {
                    return; // called again after a pause
                }
            }
        })
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (a, b) = (Backend::start("a", Duration::ZERO)?, Backend::start("b", Duration::ZERO)?);
    let instances = |backend: &Backend| Ok(Instances::from([("catalog-prod".to_owned(), vec![backend.address()])]));
    let (registry, receiver) = watch::channel(instances(&a));

    let config = "
        services:
          catalog:
            backends:
              v1: { discovery: { source: registry, name: catalog-prod } }";
    let mesh = Mesh::builder().text(config).endpoint_source("registry", Registry(receiver)).build().await?;
    let client = mesh.http_client();
    let ask = async || -> Result<String, Box<dyn Error>> {
        Ok(client.get("http://catalog/").await?.into_body().string().await?.trim_end().to_owned())
    };
    assert_eq!(ask().await?, "a");

    registry.send(instances(&b))?;
    tokio::time::timeout(Duration::from_secs(10), async {
        while ask().await? != "b" {}
        Ok::<_, Box<dyn Error>>(())
    })
    .await??;
    println!("the registry moved catalog-prod from a to b, and so did the requests");

    registry.send(Err("the registry is down".to_owned()))?;
    for _ in 0..100 {
        assert_eq!(ask().await?, "b", "what was found last stays");
    }
    mesh.shutdown().await;
    Ok(())
}

//! Weights changed while requests run, by a configuration made in code.
//!
//! ```sh
//! cargo run --example canary
//! ```
#![allow(clippy::print_stdout, reason = "this is a program")]

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use examples::backend::Backend;
use mesh_tonic::Mesh;
use mesh_tonic::core::model::{self, BackendId, Config, Forward, HostPattern, Route, VirtualHost, WeightedBackend};
use tokio::sync::watch;

const SERVICE: &str = "shop";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (v1, v2) = (Backend::start("v1", Duration::ZERO)?, Backend::start("v2", Duration::ZERO)?);

    let (configs, receiver) = watch::channel(Arc::new(config(&v1, 100, &v2, 0)));
    let mesh = Mesh::builder().configs(receiver).build().await?;
    let mut status = mesh.config_status();

    for canary in [0, 10, 50, 100] {
        if canary > 0 {
            configs.send(Arc::new(config(&v1, 100 - canary, &v2, canary)))?;
            // v2 is connected before the first request can be sent to it.
            tokio::time::timeout(Duration::from_secs(10), status.changed()).await??;
        }
        let mut answers = [0; 2];
        for _ in 0..500 {
            let version = mesh.http_client().get("http://shop/").await?.into_body().string().await?;
            answers[usize::from(version.trim_end() == "v2")] += 1;
        }
        println!("{:>3} % canary: {:>3} answers by v1, {:>3} by v2", canary, answers[0], answers[1]);
    }
    mesh.shutdown().await;
    Ok(())
}

fn config(v1: &Backend, stable: u32, v2: &Backend, canary: u32) -> Config {
    let mut config = Config::new();
    let mut split = Vec::new();
    for (backend, weight) in [(v1, stable), (v2, canary)] {
        let id = BackendId::new(SERVICE, backend.name());
        split.push(WeightedBackend::new(id.clone(), weight));
        config = config.with_backend(model::Backend::new(id, vec![model::Endpoint::new(backend.address())]));
    }
    let route = Route::new(Forward::split(split));
    config.with_virtual_host(VirtualHost::new(SERVICE, vec![HostPattern::Exact(SERVICE.into())]).with_route(route))
}

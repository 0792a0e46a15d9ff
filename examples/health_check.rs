//! An active health check: a server that says that it is not well gets no requests until it is.
//!
//! ```sh
//! cargo run --example health_check
//! ```
#![allow(clippy::print_stdout, reason = "this is a program")]

use std::collections::BTreeSet;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::StatusCode;
use axum::{Router, routing::get};
use mesh_tonic::Mesh;
use mesh_tonic::mesh_tower::observe::{Event, Observer};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// A server that answers with its name, and at `/healthz` whether it is well.
async fn start(name: &'static str) -> Result<(SocketAddr, Arc<AtomicBool>), Box<dyn Error>> {
    let well = Arc::new(AtomicBool::new(true));
    let health = Arc::clone(&well);
    let status = move || if health.load(Ordering::Relaxed) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let router = Router::new().route("/items", get(async move || name)).route("/healthz", get(async move || status()));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(axum::serve(listener, router).into_future());
    Ok((address, well))
}

/// Prints changes of health, and keeps the last one.
struct Nurse(watch::Sender<bool>);

impl Observer for Nurse {
    fn event(&self, event: &Event<'_>) {
        if let Event::Health(change) = event {
            println!("{} is {}", change.endpoint, if change.healthy { "healthy" } else { "unhealthy" });
            self.0.send_replace(change.healthy);
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let ((a, _), (b, well)) = (start("a").await?, start("b").await?);
    let config = format!(
        "services:
           catalog:
             backends:
               v1:
                 endpoints: [{a}, {b}]
                 health_check: {{ http: {{ path: /healthz }}, interval: 100ms, unhealthy_threshold: 2 }}"
    );
    let (health, mut changes) = watch::channel(true);
    let mesh = Mesh::builder().text(config).observer(Nurse(health)).build().await?;
    while answers(&mesh).await?.len() < 2 {}

    well.store(false, Ordering::Relaxed);
    changes.wait_for(|healthy| !healthy).await?;
    assert_eq!(answers(&mesh).await?, ["a".to_owned()].into());

    well.store(true, Ordering::Relaxed);
    changes.wait_for(|healthy| *healthy).await?;
    assert_eq!(answers(&mesh).await?.len(), 2);
    mesh.shutdown().await;
    Ok(())
}

/// Who answers ten requests.
async fn answers(mesh: &Mesh) -> Result<BTreeSet<String>, Box<dyn Error>> {
    let mut names = BTreeSet::new();
    for _ in 0..10 {
        names.insert(mesh.http_client().get("http://catalog/items").await?.into_body().string().await?);
    }
    println!("requests go to {names:?}");
    Ok(names)
}

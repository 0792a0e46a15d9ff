//! The mesh taken apart: its layers around hyper-util's client, which brings the connections.
//!
//! ```sh
//! cargo run --example layer_stack
//! ```
#![allow(clippy::print_stdout, reason = "this is a program")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use examples::backend::Backend;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use mesh_tonic::core::{config, model};
use mesh_tonic::mesh_tower::BoxError;
use mesh_tonic::mesh_tower::layer::{
    DeadlineLayer, ReplayBody, RetryLayer, RouteLayer, SplitService, TimeoutLayer, TraceLayer,
};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let (alive, mut dead) = (Backend::start("v1", Duration::ZERO)?, Backend::start("dead", Duration::ZERO)?);
    let slow = Backend::start("slow", Duration::from_secs(5))?;
    dead.kill().await;
    let text = format!(
        "services:
           catalog:
             routes:
               - {{ matches: [{{ path: {{ prefix: /reports }} }}], backends: [{{ name: slow }}], timeout: 300ms }}
               - {{ backends: [{{ name: v1 }}], retry: {{ on: [connect-failure], num_retries: 2 }} }}
             backends: {{ v1: {{ endpoints: [{}, {}] }}, slow: {{ endpoints: [{}] }} }}",
        dead.address(),
        alive.address(),
        slow.address()
    );
    let config = config::parse(text.as_bytes(), "layer_stack", Path::new("."))?;

    let client = Client::builder(TokioExecutor::new()).build_http::<ReplayBody<Empty<Bytes>>>();
    let new_client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(1).build_http();
    let clients = SplitService::new([(client, 9), (new_client, 1)])?; // a tenth of the attempts tries the new settings
    let maker = service_fn(move |backend: Arc<model::Backend>| {
        let turn = Arc::new(AtomicUsize::new(0));
        let service = ServiceBuilder::new()
            .layer(DeadlineLayer::new(Duration::from_secs(10))) // where the route has no timeout
            .layer(RetryLayer::from_route())
            .layer(TraceLayer::global_attempts())
            .layer(TimeoutLayer::new(Duration::from_secs(3)))
            .map_request(move |mut request: Request<_>| {
                // Your own way to choose an endpoint; each attempt asks anew.
                let endpoint = &backend.endpoints[turn.fetch_add(1, Ordering::Relaxed) % backend.endpoints.len()];
                let uri = format!("http://{}{}", endpoint.address, request.uri().path());
                *request.uri_mut() = uri.parse().expect("an address and a path are a URI");
                request
            })
            .service(clients.clone());
        std::future::ready(Ok::<_, BoxError>(service))
    });
    // Spans go to OpenTelemetry's global provider; here is none, and they cost nothing.
    let catalog = TraceLayer::global_requests().layer(RouteLayer::new(&config)?.layer(maker));
    let get = |path: &str| {
        let request = Request::get(format!("http://catalog{path}")).body(Empty::new());
        let catalog = catalog.clone();
        async move { catalog.oneshot(request?).await }
    };

    for _ in 0..4 {
        let answer = get("/items").await?.into_body().collect().await?.to_bytes();
        println!("/items:   answered by {}", String::from_utf8_lossy(&answer).trim_end());
    }
    match get("/reports").await {
        Err(error) => println!("/reports: {error}"),
        Ok(_) => return Err("the route's timeout did not hold".into()),
    }
    Ok(())
}

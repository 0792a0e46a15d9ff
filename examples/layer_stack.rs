//! A stack of one's own: hyper-util's client, with the routes, deadlines and retries of the mesh as Tower layers around
//! it.
//!
//! ```sh
//! cargo run --example layer_stack
//! ```
#![allow(clippy::print_stdout, reason = "this is a program")]

use std::convert::Infallible;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use examples::backend::Backend;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use mesh_tonic::core::{config, model};
use mesh_tonic::mesh_tower::layer::{DeadlineLayer, ReplayBody, RetryLayer, RouteLayer, TimeoutLayer};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let (mut a, b) = (Backend::start("a", Duration::ZERO)?, Backend::start("b", Duration::ZERO)?);
    let config = format!(
        "services:
           catalog:
             routes:
               - backends: [{{ name: v1 }}]
                 timeout: 2s
                 retry: {{ num_retries: 3, on: [connect-failure, reset] }}
             backends:
               v1: {{ endpoints: [{}, {}] }}",
        a.address(),
        b.address()
    );
    let config = config::parse(config.as_bytes(), "stack", Path::new(""))?;

    let client = Client::builder(TokioExecutor::new()).build_http::<ReplayBody<Full<Bytes>>>();
    // Called once for each backend that is needed.
    let maker = service_fn(move |backend: Arc<model::Backend>| {
        let turn = Arc::new(AtomicUsize::new(0));
        let to_endpoint = move |mut request: Request<_>| {
            // Balancing is ours in a stack of our own: each attempt takes the next endpoint.
            let index = turn.fetch_add(1, Ordering::Relaxed) % backend.endpoints.len();
            let uri = format!("http://{}{}", backend.endpoints[index].address, request.uri().path());
            *request.uri_mut() = uri.parse().unwrap_or_default();
            request
        };
        let service = ServiceBuilder::new()
            .layer(DeadlineLayer::new(Duration::from_secs(10))) // where the route has no timeout
            .layer(RetryLayer::from_route())
            .layer(TimeoutLayer::new(Duration::from_secs(1))) // of one attempt
            .map_request(to_endpoint)
            .service(client.clone());
        std::future::ready(Ok::<_, Infallible>(service))
    });
    let stack = RouteLayer::new(&config)?.layer(maker);

    a.kill().await;
    for _ in 0..10 {
        let request = Request::get("http://catalog/items").body(Full::<Bytes>::default())?;
        let body = stack.clone().oneshot(request).await?.into_body();
        assert_eq!(body.collect().await?.to_bytes(), "b\n");
    }
    println!("10 of 10 answered, though every other attempt went to a dead server");
    Ok(())
}

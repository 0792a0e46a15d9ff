//! A handler of an axum service that calls another service: the caller's trace and the time it has left travel on, and
//! what goes wrong becomes a response.
//!
//! ```sh
//! cargo run --example axum_handler
//! ```
#![allow(clippy::print_stdout, reason = "this is a program")]

use std::error::Error;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Request, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing::get};
use mesh_tonic::Mesh;
use mesh_tonic::mesh_tower::opentelemetry::context::FutureExt;
use mesh_tonic::mesh_tower::opentelemetry::propagation::TextMapPropagator;
use mesh_tonic::mesh_tower::{self, RequestOptions, ServiceClient};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::net::TcpListener;
use tower::ServiceExt;

/// In milliseconds: what a caller gives its request. Envoy sends it; another word does as well.
const TIME_LEFT: &str = "x-envoy-expected-rq-timeout-ms";

async fn shop(State(catalog): State<ServiceClient>, uri: Uri, headers: HeaderMap) -> Result<Response, CallFailed> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = uri;
    let left = headers.get(TIME_LEFT).and_then(|left| left.to_str().ok()?.parse().ok()).unwrap_or(2_000);
    request.extensions_mut().insert(RequestOptions::new().timeout(Duration::from_millis(left)));

    // The span of the call becomes a child of the caller's. With tracing-opentelemetry the current span does that.
    let caller = TraceContextPropagator::new().extract(&HeaderExtractor(&headers));
    let response = catalog.oneshot(request).with_context(caller).await;
    Ok(response.map_err(CallFailed)?.map(Body::new))
}

struct CallFailed(mesh_tower::Error);

impl IntoResponse for CallFailed {
    fn into_response(self) -> Response {
        println!("the shop logs: {}", self.0.report()); // for us; the caller hears the status alone
        self.0.http_status().into_response()
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // A catalog that answers with the trace it was told, or not at all.
    let catalog = Router::new()
        .route("/items", get(async |headers: HeaderMap| headers["traceparent"].as_bytes().to_vec()))
        .route("/never", get(std::future::pending::<()>));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let config =
        format!("services: {{ catalog: {{ backends: {{ v1: {{ endpoints: [{}] }} }} }} }}", listener.local_addr()?);
    tokio::spawn(axum::serve(listener, catalog).into_future());

    let spans = SdkTracerProvider::default();
    let mesh = Mesh::builder().text(config).tracer_provider(&spans).build().await?;
    let service = Router::new().fallback(shop).with_state(mesh.service("catalog")?);

    let incoming = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = |path| Request::get(path).header("traceparent", incoming);
    let response = service.clone().oneshot(request("/items").body(Body::empty())?).await?;
    let outgoing = axum::body::to_bytes(response.into_body(), 1024).await?;
    println!("from the caller: {incoming}\nto the catalog:  {}", String::from_utf8_lossy(&outgoing));
    assert_eq!(outgoing[..35], incoming.as_bytes()[..35], "the trace is the caller's");
    assert_ne!(outgoing[36..52], incoming.as_bytes()[36..52], "the span is our own");

    let request = request("/never").header(TIME_LEFT, "50").body(Body::empty())?;
    assert_eq!(service.oneshot(request).await?.status(), StatusCode::GATEWAY_TIMEOUT);
    mesh.shutdown().await;
    Ok(())
}

//! Our own client: routes, round robin over all endpoints, and a retry policy that keeps what it may send again.

use std::net::SocketAddr;

use mesh_tonic::prelude::*;
use mesh_tonic::{Channel, mesh_tower};
use mesh_tower::HttpClient;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;

use super::{Call, Get, Greeter, METHOD_PREFIX, RETRIES, SERVICE};
use crate::credentials::{SERVER, Side};
use crate::{Result, telemetry};

/// The generated client over a mesh channel.
pub type MeshGrpc = Greeter<Channel>;
/// `GET` by the mesh's HTTP client.
pub type MeshHttp = Get<HttpClient>;

/// The configuration of every mesh here; `protocol` is a word of the file: `http1` or `http2`.
pub fn config_text(endpoints: &[SocketAddr], protocol: &str) -> String {
    format!(
        "services:
  {SERVICE}:
    routes:
      - matches: [{{ path: {{ prefix: {METHOD_PREFIX} }} }}]
        backends: [{{ name: all }}]
        retry: {{ num_retries: {RETRIES}, on: [unavailable] }}
      - matches: [{{ path: {{ exact: /hello }} }}]
        backends: [{{ name: all }}]
        retry: {{ num_retries: {RETRIES}, on: [gateway-error] }}
    backends:
      all:
        endpoints: {endpoints:?}
        protocol: {protocol}
        load_balancer: round_robin
"
    )
}

/// The same with all that protects a backend: outlier detection by every rule, limits, and localities with priorities.
fn protected_text(endpoints: &[SocketAddr]) -> String {
    let (near, far) = endpoints.split_at(endpoints.len().div_ceil(2));
    // Weights by which every endpoint gets as much as without localities.
    let place = |name: &str, endpoints: &[SocketAddr]| match endpoints.len() {
        0 => String::new(),
        weight => format!(
            "
          - {{ region: eu, zone: {name}, weight: {weight}, endpoints: {endpoints:?} }}"
        ),
    };
    let text = config_text(endpoints, "http2");
    let one_list = format!("        endpoints: {endpoints:?}\n");
    let protection = format!(
        "        localities:{}{}
        locality_policy: {{ panic_threshold: 50 }}
        outlier_detection:
          consecutive_5xx: 5
          consecutive_gateway_errors: 5
          success_rate: {{}}
          failure_percentage: {{}}
        circuit_breaker: {{ max_requests: 1024, max_pending_requests: 1024, max_connections: 1024, max_retries: 3 }}
",
        place("a", near),
        place("b", far)
    );
    text.replace(&one_list, &protection)
}

/// The mesh's gRPC channel with outlier detection, limits and localities.
///
/// # Errors
/// If the mesh refuses its configuration.
pub async fn protected_grpc(endpoints: &[SocketAddr]) -> Result<MeshGrpc> {
    Ok(Greeter::new(Mesh::builder().text(protected_text(endpoints)).build().await?.channel(SERVICE)?))
}

async fn mesh(endpoints: &[SocketAddr], protocol: &str) -> Result<Mesh> {
    Ok(Mesh::builder().text(config_text(endpoints, protocol)).build().await?)
}

/// The mesh's gRPC channel to all endpoints.
///
/// # Errors
/// If the mesh refuses its configuration.
pub async fn grpc(endpoints: &[SocketAddr]) -> Result<MeshGrpc> {
    Ok(Greeter::new(mesh(endpoints, "http2").await?.channel(SERVICE)?))
}

/// The mesh's gRPC channel to all endpoints by mutual TLS, as the client that `side` is, to the server that
/// [`SERVER`] is.
///
/// # Errors
/// If the mesh refuses its configuration.
pub async fn mutual_grpc(endpoints: &[SocketAddr], side: &Side) -> Result<MeshGrpc> {
    grpc_of(mutual_text(endpoints, side)).await
}

/// The configuration of [`mutual_grpc`].
fn mutual_text(endpoints: &[SocketAddr], side: &Side) -> String {
    let mutual = format!("        tls: {{ mode: mutual, identities: [{SERVER:?}] }}\n");
    config_text(endpoints, "http2") + &mutual + &side.identity()
}

/// The mesh's gRPC channel with outlier detection as it is when switched on, and with the policies of these names in the
/// file: a balancer and, if any, a retry policy.
///
/// # Errors
/// If the mesh refuses its configuration.
pub async fn grpc_in_adversity(endpoints: &[SocketAddr], balancer: &str, retry: Option<&str>) -> Result<MeshGrpc> {
    let retry = retry.map(|retry| format!("        retry: {retry}\n")).unwrap_or_default();
    let config = format!(
        "services:
  {SERVICE}:
    routes:
      - matches: [{{ path: {{ prefix: {METHOD_PREFIX} }} }}]
        backends: [{{ name: all }}]
{retry}    backends:
      all:
        endpoints: {endpoints:?}
        protocol: http2
        load_balancer: {balancer}
        outlier_detection: {{}}
"
    );
    grpc_of(config).await
}

async fn grpc_of(config: String) -> Result<MeshGrpc> {
    Ok(Greeter::new(Mesh::builder().text(config).build().await?.channel(SERVICE)?))
}

/// The generated client over a mesh channel that is measured: metrics by the SDK, collected every second, and a share of
/// the traces recorded. What is exported goes nowhere.
#[derive(Debug, Clone)]
pub struct MeasuredGrpc {
    client: MeshGrpc,
    /// Telemetry ends with its last provider.
    _providers: (SdkMeterProvider, SdkTracerProvider),
}

impl Call for MeasuredGrpc {
    async fn call(&self) -> Result<()> {
        self.client.call().await
    }
}

/// The mesh's gRPC channel to all endpoints, measured, and with `sampled` of 1 of its traces recorded.
///
/// # Errors
/// If the mesh refuses its configuration.
pub async fn measured_grpc(endpoints: &[SocketAddr], sampled: f64) -> Result<MeasuredGrpc> {
    let (meters, tracers) = (telemetry::meters(), telemetry::tracers(sampled));
    let builder =
        Mesh::builder().text(config_text(endpoints, "http2")).meter_provider(&meters).tracer_provider(&tracers);
    let client = Greeter::new(builder.build().await?.channel(SERVICE)?);
    Ok(MeasuredGrpc { client, _providers: (meters, tracers) })
}

/// The mesh's HTTP client over h1.
///
/// # Errors
/// If the mesh refuses its configuration.
pub async fn http1(endpoints: &[SocketAddr]) -> Result<MeshHttp> {
    get(mesh(endpoints, "http1").await?)
}

/// The mesh's HTTP client over h2.
///
/// # Errors
/// If the mesh refuses its configuration.
pub async fn http2(endpoints: &[SocketAddr]) -> Result<MeshHttp> {
    get(mesh(endpoints, "http2").await?)
}

fn get(mesh: Mesh) -> Result<MeshHttp> {
    Ok(Get::new(mesh.http_client(), vec![format!("http://{SERVICE}/hello").parse()?]))
}

//! Our own client: routes, round robin over all endpoints, and a retry policy that keeps what it may send again.

use std::net::SocketAddr;

use mesh_tonic::prelude::*;
use mesh_tonic::{Channel, mesh_tower};
use mesh_tower::HttpClient;

use super::{Get, Greeter, METHOD_PREFIX, RETRIES, SERVICE};
use crate::Result;

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

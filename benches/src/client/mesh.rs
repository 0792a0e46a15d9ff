//! Our own client: routes, round robin over all endpoints, and a retry policy that keeps what it may send again.

use std::net::SocketAddr;

use tonic::transport::Channel;

use super::hyper_util::HyperUtil;
use super::{Greeter, METHOD_PREFIX, RETRIES, SERVICE};
use crate::Result;

/// The generated client over a mesh channel.
pub type MeshGrpc = Greeter<Channel>;
/// `GET` by the mesh's HTTP client.
pub type MeshHttp = HyperUtil;

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

/// The mesh's gRPC channel to all endpoints; `None` while there is no such client.
///
/// # Errors
/// If the mesh refuses its configuration.
pub async fn grpc(_endpoints: &[SocketAddr]) -> Result<Option<MeshGrpc>> {
    Ok(None)
}

/// The mesh's HTTP client over h1; `None` while there is no such client.
///
/// # Errors
/// If the mesh refuses its configuration.
pub async fn http1(_endpoints: &[SocketAddr]) -> Result<Option<MeshHttp>> {
    Ok(None)
}

/// The mesh's HTTP client over h2; `None` while there is no such client.
///
/// # Errors
/// If the mesh refuses its configuration.
pub async fn http2(_endpoints: &[SocketAddr]) -> Result<Option<MeshHttp>> {
    Ok(None)
}

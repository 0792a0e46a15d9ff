//! What the HTTP tests share, beyond the test kit.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test binary uses its own part")]

mod raw;

use std::future::Future;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Collected};
use mesh_tower::testing::{MemoryNetwork, Payload, RequestBody, ServiceConfig, TestBackend, TestMesh, empty};
use mesh_tower::{Body, BoxError, Mesh};

pub use raw::{Client, Raw};

/// What a handler gives; an error closes an HTTP/1.1 connection and resets an HTTP/2 stream.
pub type Answer = Result<Response<Payload>, BoxError>;

/// A backend on a port of its own.
pub fn serve<F, Fut>(handler: F) -> TestBackend
where
    F: Fn(Request<RequestBody>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Answer> + Send + 'static,
{
    TestBackend::handling(handler).start()
}

/// A backend in memory, [`nowhere`].
pub fn in_memory<F, Fut>(handler: F) -> (MemoryNetwork, TestBackend)
where
    F: Fn(Request<RequestBody>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Answer> + Send + 'static,
{
    let network = MemoryNetwork::new();
    let backend = TestBackend::handling(handler).at(nowhere()).start_in(&network);
    (network, backend)
}

/// One that reads whole requests and answers them with nothing.
pub fn silent() -> TestBackend {
    serve(|request| async move {
        request.into_body().collect().await?;
        Ok(Response::new(empty()))
    })
}

/// A mesh of this configuration.
pub async fn mesh(yaml: impl Into<String>) -> TestMesh {
    TestMesh::start(Mesh::builder().text(yaml)).await
}

/// The configuration of a service `greeter` with one backend `v1`.
pub fn greeter(endpoints: &[SocketAddr]) -> ServiceConfig {
    ServiceConfig::new("greeter", endpoints.iter().copied()).service("hosts: [greeter.default.svc]")
}

/// The port of a server that is gone.
pub fn gone() -> SocketAddr {
    TestBackend::named("").start().address()
}

/// A name for an endpoint that only a connector of the test reaches.
pub fn nowhere() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 80))
}

/// One header of every request.
pub fn headers(server: &TestBackend, name: &str) -> Vec<Option<String>> {
    server.requests().iter().map(|request| request.header(name).map(str::to_owned)).collect()
}

/// A body that was read to its end.
#[derive(Debug, Clone, Default)]
pub struct Whole {
    pub data: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl From<Collected<Bytes>> for Whole {
    fn from(body: Collected<Bytes>) -> Self {
        Self { trailers: body.trailers().cloned(), data: body.to_bytes() }
    }
}

/// Reads a response to its end.
pub async fn whole(response: Response<Body>) -> (http::response::Parts, Whole) {
    let (parts, body) = response.into_parts();
    (parts, body.collect().await.expect("the response is whole").into())
}

/// The text of a response.
pub async fn text(response: Response<Body>) -> String {
    response.into_body().string().await.expect("the response is whole")
}

/// A gRPC request without a message.
pub fn grpc(uri: &str) -> http::request::Builder {
    Request::post(uri).header("content-type", "application/grpc").header("te", "trailers")
}

/// Waits until `condition` holds, however long it takes: whatever it waits for happens on another task.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), waiting)
        .await
        .unwrap_or_else(|_| panic!("waited in vain: {what}"));
}

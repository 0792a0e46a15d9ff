//! What the HTTP tests share: meshes to be given, servers to talk to, bodies to send.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test binary uses its own part")]

mod body;
mod raw;
mod server;

use std::net::SocketAddr;
use std::ops::Deref;

use http::{Request, Response};
use http_body_util::BodyExt;
use mesh_tower::{Body, Mesh};

pub use body::{Broken, Feed, Payload, Pieces, empty, feed, full};
pub use raw::{Client, Raw};
pub use server::{Answer, Seen, Server, Whole};

/// A mesh under test, whose end is checked.
pub struct TestMesh(Mesh);

impl TestMesh {
    /// RL-12: nothing of it is left behind.
    pub async fn end(self) {
        self.0.shutdown().await;
        assert_eq!(self.0.live_tasks(), 0, "tasks are left behind");
    }
}

impl Deref for TestMesh {
    type Target = Mesh;

    fn deref(&self) -> &Mesh {
        &self.0
    }
}

impl From<Mesh> for TestMesh {
    fn from(mesh: Mesh) -> Self {
        Self(mesh)
    }
}

/// A mesh of this configuration.
pub async fn mesh(yaml: impl Into<String>) -> TestMesh {
    Mesh::builder().text(yaml).build().await.expect("the configuration is valid").into()
}

/// The configuration of a service `greeter` with one backend `v1`.
///
/// ```yaml
/// services: { greeter: { hosts: [..], routes: [{ ROUTE, backends: [v1] }], backends: { v1: { endpoints, BACKEND } } } }
/// ```
#[derive(Default)]
pub struct Greeter {
    endpoints: Vec<String>,
    route: String,
    backend: String,
    service: String,
}

impl Greeter {
    pub fn at(endpoints: &[SocketAddr]) -> Self {
        Self { endpoints: endpoints.iter().map(ToString::to_string).collect(), ..Self::default() }
    }

    /// Fields of the route.
    pub fn route(mut self, fields: &str) -> Self {
        self.route = format!("{fields}, ");
        self
    }

    /// Fields of the backend.
    pub fn backend(mut self, fields: &str) -> Self {
        self.backend = format!(", {fields}");
        self
    }

    /// Fields of the service.
    pub fn service(mut self, fields: &str) -> Self {
        self.service = format!("{fields}, ");
        self
    }

    pub fn http2(self) -> Self {
        self.backend("protocol: http2")
    }

    pub fn yaml(&self) -> String {
        let Self { route, backend, service, .. } = self;
        let endpoints = self.endpoints.join(", ");
        format!(
            "services: {{ greeter: {{ {service}hosts: [greeter.default.svc], \
             routes: [{{ {route}backends: [{{ name: v1 }}] }}], \
             backends: {{ v1: {{ endpoints: [{endpoints}]{backend} }} }} }} }}"
        )
    }

    pub async fn mesh(&self) -> TestMesh {
        mesh(self.yaml()).await
    }

    /// Over connections of `server` that live in memory.
    pub async fn mesh_over(&self, server: &Server) -> TestMesh {
        let builder = Mesh::builder().text(self.yaml()).connector(server.connector());
        builder.build().await.expect("the configuration is valid").into()
    }
}

/// A name for an endpoint that only a connector of the test reaches.
pub fn nowhere() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 80))
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

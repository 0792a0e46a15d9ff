//! Meshes under test, and their configurations.

use std::net::SocketAddr;
use std::ops::Deref;

use super::MemoryNetwork;
use crate::{Builder, Mesh};

/// A mesh under test, whose end is checked.
///
/// ```
/// use mesh_tower::Mesh;
/// use mesh_tower::testing::{ServiceConfig, TestMesh};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let config = ServiceConfig::new("catalog", []);
/// let mesh = TestMesh::start(Mesh::builder().text(config.yaml())).await;
/// assert!(mesh.http_client().get("http://catalog/").await.unwrap_err().is_connect());
/// mesh.end().await;
/// # }
/// ```
#[derive(Debug)]
pub struct TestMesh(Mesh);

impl TestMesh {
    /// Builds it.
    ///
    /// # Panics
    /// If the configuration is refused; the text names every problem.
    pub async fn start(builder: Builder) -> Self {
        match builder.build().await {
            Ok(mesh) => Self(mesh),
            Err(error) => panic!("the configuration of the test is refused:\n{error}"),
        }
    }

    /// Shuts it down, and asserts that it leaves nothing behind: no connection, no task.
    ///
    /// # Panics
    /// If a task is left.
    pub async fn end(self) {
        self.0.shutdown().await;
        let left = self.0.live_tasks();
        assert_eq!(left, 0, "{left} tasks outlive the shutdown of their mesh");
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

/// The configuration of one service with one backend, `v1`, in the format of the file.
///
/// ```
/// use mesh_tower::testing::ServiceConfig;
///
/// let config = ServiceConfig::new("catalog", ["192.0.2.1:80".parse().unwrap()])
///     .route("timeout: 1s, retry: { on: [5xx] }")
///     .backend("protocol: http2");
/// assert_eq!(
///     config.yaml(),
///     "services: { catalog: { \
///        routes: [{ timeout: 1s, retry: { on: [5xx] }, backends: [{ name: v1 }] }], \
///        backends: { v1: { protocol: http2, endpoints: [\"192.0.2.1:80\"] } } } }"
/// );
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct ServiceConfig {
    name: String,
    endpoints: Vec<SocketAddr>,
    service: String,
    route: String,
    backend: String,
}

impl ServiceConfig {
    /// The service `name`, whose requests go to `endpoints`.
    pub fn new(name: impl Into<String>, endpoints: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self {
            name: name.into(),
            endpoints: endpoints.into_iter().collect(),
            service: String::new(),
            route: String::new(),
            backend: String::new(),
        }
    }

    /// Fields of the route, in YAML's flow style: `timeout: 1s, retry: { on: [5xx] }`. A further call adds to them.
    pub fn route(mut self, fields: &str) -> Self {
        add(&mut self.route, fields);
        self
    }

    /// Fields of the backend: `protocol: http2`. A further call adds to them.
    pub fn backend(mut self, fields: &str) -> Self {
        add(&mut self.backend, fields);
        self
    }

    /// Fields of the service: `hosts: [catalog.default.svc]`. A further call adds to them.
    pub fn service(mut self, fields: &str) -> Self {
        add(&mut self.service, fields);
        self
    }

    /// The text, for [`Builder::text`] or a file.
    pub fn yaml(&self) -> String {
        let Self { name, endpoints, service, route, backend } = self;
        let endpoints: Vec<_> = endpoints.iter().map(|address| format!("\"{address}\"")).collect();
        let endpoints = endpoints.join(", ");
        format!(
            "services: {{ {name}: {{ {service}routes: [{{ {route}backends: [{{ name: v1 }}] }}], \
             backends: {{ v1: {{ {backend}endpoints: [{endpoints}] }} }} }} }}"
        )
    }

    /// A mesh of it over TCP.
    ///
    /// # Panics
    /// If it is refused; the text names every problem.
    pub async fn mesh(&self) -> TestMesh {
        TestMesh::start(Mesh::builder().text(self.yaml())).await
    }

    /// A mesh of it over `network`.
    ///
    /// # Panics
    /// If it is refused; the text names every problem.
    pub async fn mesh_over(&self, network: &MemoryNetwork) -> TestMesh {
        TestMesh::start(Mesh::builder().text(self.yaml()).connector(network.clone())).await
    }
}

fn add(to: &mut String, fields: &str) {
    if !fields.is_empty() {
        to.push_str(fields);
        to.push_str(", ");
    }
}

//! Endpoints that say who they are, callers who keep cookies, and meshes whose configuration changes.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use http::{Request, Response, header};
use mesh_tower::core::config;
use mesh_tower::core::model::Config;
use mesh_tower::testing::{Events, MemoryNetwork, TestBackend, TestMesh};
use mesh_tower::{Body, Mesh};
use tokio::sync::watch;
use tower::ServiceExt;

/// Endpoints in memory, which answer with their names: `e0`, `e1` and so on.
pub(crate) fn endpoints(network: &MemoryNetwork, count: usize) -> Vec<TestBackend> {
    (0..count).map(|n| TestBackend::named(format!("e{n}")).start_in(network)).collect()
}

pub(crate) fn addresses(endpoints: &[TestBackend]) -> Vec<SocketAddr> {
    endpoints.iter().map(TestBackend::address).collect()
}

/// The configuration of a service `shop`. An endpoint is an address, or a section.
pub(crate) fn config(route: &str, backend: &str, endpoints: &[impl ToString]) -> Arc<Config> {
    let items: Vec<_> = endpoints
        .iter()
        .map(ToString::to_string)
        .map(|item| if item.starts_with('{') { item } else { format!("\"{item}\"") })
        .collect();
    let text = format!(
        "services: {{ shop: {{ routes: [{{ {route}, backends: [{{ name: v1 }}] }}], \
         backends: {{ v1: {{ {backend}, endpoints: [{}] }} }} }} }}",
        items.join(", ")
    );
    Arc::new(config::parse(text.as_bytes(), "test", Path::new("")).unwrap_or_else(|error| panic!("{text}\n{error}")))
}

/// A mesh whose configuration changes.
pub(crate) struct Live {
    pub(crate) mesh: TestMesh,
    pub(crate) events: Events,
    configs: watch::Sender<Arc<Config>>,
}

impl Live {
    pub(crate) async fn start(network: &MemoryNetwork, config: Arc<Config>) -> Self {
        let (configs, receiver) = watch::channel(config);
        let events = Events::new();
        let builder = Mesh::builder().configs(receiver).connector(network.clone()).observer(events.clone());
        Self { mesh: TestMesh::start(builder).await, events, configs }
    }

    /// Resolves when `config` is in force.
    pub(crate) async fn update(&self, config: Arc<Config>) {
        let version = self.mesh.config_status().borrow().version;
        self.configs.send_replace(config);
        self.mesh.config_status().wait_for(|status| status.version > version).await.unwrap();
    }
}

/// Sends a GET for `/` with one header; says who answered.
pub(crate) async fn ask(mesh: &Mesh, name: &str, value: &str) -> String {
    answer(send(mesh, Request::get("http://shop/").header(name, value)).await).await
}

pub(crate) async fn send(mesh: &Mesh, request: http::request::Builder) -> Response<Body> {
    let response = mesh.http_client().oneshot(request.body(String::new()).unwrap()).await;
    response.unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) async fn answer(response: Response<Body>) -> String {
    assert_eq!(response.status(), 200);
    response.into_body().string().await.unwrap()
}

pub(crate) fn set_cookies(response: &Response<Body>) -> Vec<String> {
    response.headers().get_all(header::SET_COOKIE).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
}

/// A caller who keeps one cookie.
#[derive(Default)]
pub(crate) struct Caller {
    pub(crate) cookie: Option<String>,
    /// How often it was set.
    pub(crate) set: usize,
}

impl Caller {
    /// Asks for `path`, keeps the cookie, and says who answered.
    pub(crate) async fn visit(&mut self, mesh: &Mesh, path: &str) -> String {
        let mut request = Request::get(format!("http://shop{path}"));
        if let Some(cookie) = &self.cookie {
            request = request.header(header::COOKIE, format!("theme=dark; {cookie}"));
        }
        let response = send(mesh, request).await;
        for set in set_cookies(&response) {
            self.cookie = Some(set.split(';').next().unwrap().to_owned());
            self.set += 1;
        }
        answer(response).await
    }
}

//! Meshes that serve on a port of their own, and meshes that call them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use mesh_tower::core::identity::SanMatch;
use mesh_tower::core::model::{
    Backend, BackendId, Config, Endpoint, Forward, HostPattern, Identity, IdentityFrom, Protocol, Route, Server,
    Settings, Tls, VirtualHost,
};
use mesh_tower::identity::MemoryIdentity;
use mesh_tower::server::{Drained, Peer, RequestBody};
use mesh_tower::testing::Authority;
use mesh_tower::{Body, Mesh};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tower::service_fn;

pub(crate) const SERVER: &str = "spiffe://cluster.local/ns/default/sa/server";
pub(crate) const CALLER: &str = "spiffe://cluster.local/ns/default/sa/caller";
pub(crate) const OTHER: &str = "spiffe://cluster.local/ns/default/sa/other";

/// A server of a mesh, and where it is.
pub(crate) struct Running {
    pub(crate) mesh: Mesh,
    pub(crate) address: SocketAddr,
    pub(crate) task: JoinHandle<Drained>,
}

/// Serves in plaintext.
pub(crate) async fn start(change: impl FnOnce(&mut Server)) -> Running {
    run(Mesh::builder().config(Config::new().with_server(server(change))).build().await.unwrap()).await
}

/// Serves as [`SERVER`], with a certificate of `authority`.
pub(crate) async fn start_as(authority: &Authority, change: impl FnOnce(&mut Server)) -> Running {
    let config = Config::new().with_server(server(change)).with_settings(identified());
    run(with_identity(config, authority, SERVER).await).await
}

fn server(change: impl FnOnce(&mut Server)) -> Server {
    let mut server = Server::new("public");
    server.drain.delay = Duration::ZERO;
    change(&mut server);
    server
}

fn identified() -> Settings {
    let mut settings = Settings::default();
    settings.identity = Some(Arc::new(Identity::new(IdentityFrom::Custom)));
    settings
}

async fn with_identity(config: Config, authority: &Authority, id: &str) -> Mesh {
    let source = MemoryIdentity::new(authority.issue(id).material(authority.bundles()));
    Mesh::builder().config(config).identity_source(source).build().await.unwrap()
}

async fn run(mesh: Mesh) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(mesh.serve(mesh.adopt("public", listener).unwrap(), service_fn(answer)));
    Running { mesh, address, task }
}

/// Says the version, the path and the caller; `/slow` takes a while.
async fn answer(request: Request<RequestBody>) -> Result<Response<String>, Infallible> {
    if request.uri().path() == "/slow" {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let peer = request.extensions().get::<Arc<Peer>>().unwrap();
    let caller = peer.identity().map_or_else(|| "nobody".to_owned(), ToString::to_string);
    Ok(Response::new(format!("{:?} {} {caller}", request.version(), request.uri().path())))
}

/// A plaintext client of the server: `http://h1/` and `http://h2/`.
pub(crate) async fn client(address: SocketAddr) -> Mesh {
    Mesh::builder().config(calling(address, None)).build().await.unwrap()
}

/// The same over mutual TLS, as `id` by `authority`, of a server that must be `expected`.
pub(crate) async fn client_as(authority: &Authority, id: &str, expected: &str, address: SocketAddr) -> Mesh {
    let tls = Tls::mutual(vec![SanMatch::uri(expected)]);
    with_identity(calling(address, Some(tls)).with_settings(identified()), authority, id).await
}

fn calling(address: SocketAddr, tls: Option<Tls>) -> Config {
    let mut config = Config::new();
    for (name, protocol) in [("h1", Protocol::Http1), ("h2", Protocol::Http2)] {
        let id = BackendId::new(name, "it");
        let mut backend = Backend::new(id.clone(), vec![Endpoint::new(address)]);
        backend.protocol = protocol;
        backend.tls = tls.clone();
        let route = Route::new(Forward::to(id));
        let mut host = VirtualHost::new(name, vec![HostPattern::parse(name).unwrap()]);
        host.routes.push(route);
        config = config.with_backend(backend).with_virtual_host(host);
    }
    config
}

pub(crate) async fn text(response: Response<Body>) -> String {
    response.into_body().string().await.unwrap()
}

//! Meshes that serve on a port of their own or in memory, and those who call them.

mod app;
mod door;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Response;
use mesh_tower::core::identity::SanMatch;
use mesh_tower::core::model::{
    Backend, BackendId, Config, Endpoint, Forward, HostPattern, Identity, IdentityFrom, Protocol, Route, Server,
    Settings, Tls, VirtualHost,
};
use mesh_tower::identity::MemoryIdentity;
use mesh_tower::server::{Drained, Listener};
use mesh_tower::testing::{Authority, watched};
use mesh_tower::{Body, Builder, Mesh};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tower::service_fn;

pub(crate) use self::app::App;
pub(crate) use self::door::Door;
pub(crate) use self::wire::{Frame, Wire, field, flag, frame, get, kind, post, reason};

pub(crate) const SERVER: &str = "spiffe://cluster.local/ns/default/sa/server";
pub(crate) const CALLER: &str = "spiffe://cluster.local/ns/default/sa/caller";
pub(crate) const OTHER: &str = "spiffe://cluster.local/ns/default/sa/other";

/// A server of a mesh, and where it is.
pub(crate) struct Running {
    pub(crate) mesh: Mesh,
    pub(crate) address: SocketAddr,
    pub(crate) app: App,
    pub(crate) task: JoinHandle<Drained>,
}

/// A server of a mesh, in memory.
pub(crate) struct Inside {
    pub(crate) mesh: Mesh,
    pub(crate) door: Door,
    pub(crate) app: App,
    pub(crate) task: JoinHandle<Drained>,
}

impl Running {
    /// Waits until it has drained.
    pub(crate) async fn drained(self) -> Drained {
        watched(self.task).await.unwrap()
    }
}

impl Inside {
    /// Waits until it has drained.
    pub(crate) async fn drained(self) -> Drained {
        watched(self.task).await.unwrap()
    }
}

/// Serves in plaintext.
pub(crate) async fn start(change: impl FnOnce(&mut Server)) -> Running {
    run(Mesh::builder().config(Config::new().with_server(server(change))).build().await.unwrap()).await
}

/// Serves as [`SERVER`], with a certificate of `authority`.
pub(crate) async fn start_as(authority: &Authority, change: impl FnOnce(&mut Server)) -> Running {
    run(as_server(authority, change).await.0).await
}

/// Serves in plaintext, in memory.
pub(crate) async fn inside(change: impl FnOnce(&mut Server)) -> Inside {
    let builder = Mesh::builder().config(Config::new().with_server(server(change)));
    #[cfg(feature = "prometheus")]
    let builder = builder.prometheus();
    run_inside(builder.build().await.unwrap())
}

/// Serves as [`SERVER`], in memory, with a certificate of `authority`.
pub(crate) async fn inside_as(authority: &Authority, change: impl FnOnce(&mut Server)) -> (Inside, MemoryIdentity) {
    let (mesh, identity) = as_server(authority, change).await;
    (run_inside(mesh), identity)
}

/// Serves by configurations that may change; `authority` gives [`SERVER`] its certificate.
pub(crate) async fn inside_by(configs: &watch::Sender<Arc<Config>>, authority: &Authority) -> (Inside, MemoryIdentity) {
    let identity = MemoryIdentity::new(authority.issue(SERVER).material(authority.bundles()));
    let builder = Mesh::builder().configs(configs.subscribe()).identity_source(identity.clone());
    (run_inside(builder.build().await.unwrap()), identity)
}

pub(crate) fn server(change: impl FnOnce(&mut Server)) -> Server {
    let mut server = Server::new("public");
    server.drain.delay = Duration::ZERO;
    // Scripted callers answer no ping while a test sleeps.
    server.limits.keepalive_time = None;
    change(&mut server);
    server
}

pub(crate) fn identified() -> Settings {
    let mut settings = Settings::default();
    settings.identity = Some(Arc::new(Identity::new(IdentityFrom::Custom)));
    settings
}

async fn as_server(authority: &Authority, change: impl FnOnce(&mut Server)) -> (Mesh, MemoryIdentity) {
    let config = Config::new().with_server(server(change)).with_settings(identified());
    let builder = Mesh::builder().config(config);
    #[cfg(feature = "prometheus")]
    let builder = builder.prometheus();
    with_identity(builder, authority, SERVER).await
}

async fn with_identity(builder: Builder, authority: &Authority, id: &str) -> (Mesh, MemoryIdentity) {
    let source = MemoryIdentity::new(authority.issue(id).material(authority.bundles()));
    (builder.identity_source(source.clone()).build().await.unwrap(), source)
}

async fn run(mesh: Mesh) -> Running {
    run_on(mesh, TcpListener::bind("127.0.0.1:0").await.unwrap())
}

/// Serves by `mesh` on `listener`.
pub(crate) fn run_on(mesh: Mesh, listener: TcpListener) -> Running {
    let address = listener.local_addr().unwrap();
    let listener = mesh.adopt("public", listener).unwrap();
    let (app, task) = serve(&mesh, listener);
    Running { mesh, address, app, task }
}

fn run_inside(mesh: Mesh) -> Inside {
    let (door, accept) = Door::new();
    let listener = mesh.adopt_accept("public", accept).unwrap();
    let (app, task) = serve(&mesh, listener);
    Inside { mesh, door, app, task }
}

fn serve(mesh: &Mesh, listener: Listener) -> (App, JoinHandle<Drained>) {
    let app = App::default();
    let answering = app.clone();
    let task = tokio::spawn(mesh.serve(listener, service_fn(move |request| answering.clone().answer(request))));
    (app, task)
}

/// A plaintext client of the server: `http://h1/` and `http://h2/`.
pub(crate) async fn client(address: SocketAddr) -> Mesh {
    Mesh::builder().config(calling(&[address], None)).build().await.unwrap()
}

/// The same over mutual TLS, as `id` by `authority`, of a server that must be `expected`.
pub(crate) async fn client_as(authority: &Authority, id: &str, expected: &str, address: SocketAddr) -> Mesh {
    let tls = Tls::mutual(vec![SanMatch::uri(expected)]);
    let config = calling(&[address], Some(tls)).with_settings(identified());
    with_identity(Mesh::builder().config(config), authority, id).await.0
}

/// A client of what is behind `door`, in plaintext.
pub(crate) async fn client_through(door: &Door) -> Mesh {
    Mesh::builder().config(calling(&[door.address()], None)).connector(door.clone()).build().await.unwrap()
}

/// A client of what is behind `door`, as `id` over mutual TLS, and its identity.
pub(crate) async fn client_through_as(door: &Door, authority: &Authority, id: &str) -> (Mesh, MemoryIdentity) {
    let tls = Tls::mutual(vec![SanMatch::uri(SERVER)]);
    let config = calling(&[door.address()], Some(tls)).with_settings(identified());
    with_identity(Mesh::builder().config(config).connector(door.clone()), authority, id).await
}

/// Sends `http://h1/` and `http://h2/` to `addresses`.
pub(crate) fn calling(addresses: &[SocketAddr], tls: Option<Tls>) -> Config {
    let mut config = Config::new();
    for (name, protocol) in [("h1", Protocol::Http1), ("h2", Protocol::Http2)] {
        let id = BackendId::new(name, "it");
        let endpoints = addresses.iter().map(|address| Endpoint::new(*address)).collect();
        let mut backend = Backend::new(id.clone(), endpoints);
        backend.protocol = protocol;
        backend.tls = tls.clone();
        let route = Route::new(Forward::to(id));
        let mut host = VirtualHost::new(name, vec![HostPattern::parse(name).unwrap()]);
        host.routes.push(route);
        config = config.with_backend(backend).with_virtual_host(host);
    }
    config
}

/// What the server has counted of connections that it did not let in, or closed, by reason.
#[cfg(feature = "prometheus")]
pub(crate) fn refused(server: &Inside, reason: &str) -> u64 {
    let (_, page) = server.mesh.metrics_page(None);
    let line =
        |line: &&str| line.starts_with("mesh_server_connections_refused") && line.contains(&format!("\"{reason}\""));
    page.lines().find(line).map_or(0, |line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64)
}

pub(crate) async fn text(response: Response<Body>) -> String {
    response.into_body().string().await.unwrap()
}

/// Waits until `is` holds, of what nothing tells changes of.
pub(crate) async fn until(is: impl Fn() -> bool) {
    watched(async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// With a paused clock: waits until nothing happens any more without time.
pub(crate) async fn settled() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

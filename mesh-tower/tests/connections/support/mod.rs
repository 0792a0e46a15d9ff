//! What the tests share beyond the test kit: scripted peers, short configurations.

mod h2_server;
mod peer;
mod server;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mesh_tower::core::model::{
    Backend, BackendId, Config, ConnectBackoff, Endpoint, Forward, HostPattern, Protocol, Route, RoutePolicy,
    VirtualHost, WeightedBackend,
};
use mesh_tower::testing::{Events, MemoryNetwork, TestMesh};
use mesh_tower::{Body, Error, Mesh};
use tokio::sync::watch;

pub(crate) use h2_server::speak_h2;
pub(crate) use peer::Peer;
pub(crate) use server::Server;
pub(crate) use wire::{Wire, kind, reason};

/// The service of every test.
pub(crate) const SERVICE: &str = "svc";
/// Where its requests go.
pub(crate) const URI: &str = "http://svc/";

/// Ends a mesh and shows that nothing of it is left (RL-12).
pub(crate) async fn finish(mesh: Mesh) {
    TestMesh::from(mesh).end().await;
}

pub(crate) fn backend_id(name: &str) -> BackendId {
    BackendId::new(SERVICE, name)
}

/// An HTTP/2 backend that reconnects quickly.
pub(crate) fn backend(name: &str, addresses: &[SocketAddr]) -> Backend {
    let endpoints = addresses.iter().map(|address| Endpoint::new(*address)).collect();
    let mut backend = Backend::new(backend_id(name), endpoints);
    backend.protocol = Protocol::Http2;
    backend.connect_backoff = ConnectBackoff { base: Duration::from_millis(10), max: Duration::from_millis(100) };
    backend
}

/// Everything to the backend `b`.
pub(crate) fn config_of(backend: Backend) -> Config {
    config_with(backend, RoutePolicy::default())
}

pub(crate) fn config_with(backend: Backend, policy: RoutePolicy) -> Config {
    let forward = Forward::to(backend.id.clone()).with_policy(policy);
    Config::new().with_virtual_host(virtual_host(forward)).with_backend(backend)
}

/// Everything to `addresses`, behind the backend `b`.
pub(crate) fn config(addresses: &[SocketAddr]) -> Config {
    config_of(backend("b", addresses))
}

/// By weight over several backends.
pub(crate) fn split(backends: Vec<(Backend, u32)>) -> Config {
    let weights = backends.iter().map(|(backend, weight)| WeightedBackend::new(backend.id.clone(), *weight));
    let config = Config::new().with_virtual_host(virtual_host(Forward::split(weights.collect())));
    backends.into_iter().fold(config, |config, (backend, _)| config.with_backend(backend))
}

fn virtual_host(forward: Forward) -> VirtualHost {
    let hosts = vec![HostPattern::parse(SERVICE).unwrap()];
    VirtualHost::new(SERVICE, hosts).with_route(Route::new(forward))
}

/// A mesh and the events it tells.
pub(crate) async fn mesh(config: Config) -> (Mesh, Events) {
    let events = Events::new();
    let mesh = Mesh::builder().config(config).observer(events.clone()).build().await.unwrap();
    (mesh, events)
}

/// A mesh whose configuration can be changed.
pub(crate) async fn live_mesh(config: Config) -> (Mesh, Events, watch::Sender<Arc<Config>>) {
    let events = Events::new();
    let (configs, receiver) = watch::channel(Arc::new(config));
    let mesh = Mesh::builder().configs(receiver).observer(events.clone()).build().await.unwrap();
    (mesh, events, configs)
}

/// Sends a POST and reads the whole answer.
pub(crate) async fn post(mesh: &Mesh, body: impl Into<Bytes>) -> Result<Bytes, Error> {
    whole(mesh.http_client().post(URI, body).await?).await
}

/// Sends a GET and reads the whole answer.
pub(crate) async fn get(mesh: &Mesh) -> Result<Bytes, Error> {
    whole(mesh.http_client().get(URI).await?).await
}

async fn whole(response: http::Response<Body>) -> Result<Bytes, Error> {
    assert_eq!(response.status(), 200);
    response.into_body().bytes().await
}

/// `len` bytes that differ from each other enough for a lost, doubled or swapped piece to show.
pub(crate) fn pattern(len: usize, seed: usize) -> Bytes {
    (0..len).map(|at| (at.wrapping_mul(31) ^ (at >> 8) ^ seed) as u8).collect()
}

/// A mesh over a network in memory, whose configuration can be changed.
pub(crate) async fn mesh_over(network: &MemoryNetwork, config: Config) -> (Mesh, Events, watch::Sender<Arc<Config>>) {
    let events = Events::new();
    let (configs, receiver) = watch::channel(Arc::new(config));
    let builder = Mesh::builder().configs(receiver).observer(events.clone()).connector(network.clone());
    (builder.build().await.unwrap(), events, configs)
}

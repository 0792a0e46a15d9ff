//! RL-14: code of the application that panics takes nothing of the mesh with it.

#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]

mod http_support;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http_support::{greeter, text};
use mesh_tower::core::balance::{Balance, Candidates, PickRequest};
use mesh_tower::core::model::{Address, Backend, DnsName, Endpoint, LoadBalancer};
use mesh_tower::observe::{Event, Observer};
use mesh_tower::testing::{MemoryNetwork, TestBackend, TestMesh, watched};
use mesh_tower::{Answer, Connect, EndpointSource, ErrorKind, Found, Io, Mesh, RequestOptions, Resolve, Resolving};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tower::ServiceExt;

/// Panics the first `left` times it is asked.
#[derive(Clone)]
struct Clumsy(Arc<AtomicUsize>);

impl Clumsy {
    fn new(left: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(left)))
    }

    fn stumble(&self) {
        let left = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        assert!(left.is_err(), "clumsy");
    }
}

impl Observer for Clumsy {
    fn event(&self, _: &Event<'_>) {
        self.stumble();
    }
}

#[tokio::test]
async fn rl_14_an_observer_that_always_panics_changes_nothing() {
    watched(async {
        let (one, two) = (TestBackend::named("one").start(), TestBackend::named("two").start());
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mesh.yaml");
        std::fs::write(&path, greeter(&[one.address()]).yaml()).unwrap();
        let mesh = TestMesh::start(Mesh::builder().file(&path).observer(Clumsy::new(usize::MAX))).await;
        assert_eq!(text(mesh.http_client().get("http://greeter/").await.unwrap()).await, "one");
        std::fs::write(&path, greeter(&[two.address()]).yaml()).unwrap();
        mesh.config_status().wait_for(|status| status.version > 1).await.unwrap();
        assert_eq!(text(mesh.http_client().get("http://greeter/").await.unwrap()).await, "two");
        mesh.end().await;
    })
    .await;
}

impl Resolve for Clumsy {
    fn resolve(&self, _: &DnsName, _: Duration) -> Resolving {
        let (clumsy, at) = (self.clone(), http_support::nowhere());
        clumsy.stumble();
        Box::pin(async move { Ok(Answer::new(vec![at], Duration::from_secs(60))) })
    }
}

#[tokio::test(start_paused = true)]
async fn rl_14_a_resolver_that_panicked_is_asked_again() {
    watched(async {
        let network = MemoryNetwork::new();
        let _backend = TestBackend::named("found").at(http_support::nowhere()).start_in(&network);
        let yaml = "services: { greeter: { backends: { v1: { dns: greeter.test:80 } } } }";
        let builder = Mesh::builder().text(yaml).connector(network).resolver(Clumsy::new(1));
        let mesh = TestMesh::start(builder).await;
        let error = mesh.http_client().get("http://greeter/").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoHealthyEndpoint);
        assert!(error.to_string().contains("the resolver panicked: clumsy"), "{error}");
        let mut request = http::Request::get("http://greeter/").body(String::new()).unwrap();
        request.extensions_mut().insert(RequestOptions::new().wait_for_ready());
        assert_eq!(text(mesh.http_client().oneshot(request).await.unwrap()).await, "found");
        mesh.end().await;
    })
    .await;
}

impl EndpointSource for Clumsy {
    fn watch(&self, _: String, found: Found) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let clumsy = self.clone();
        Box::pin(async move {
            tokio::task::yield_now().await;
            clumsy.stumble();
            found.endpoints(vec![Endpoint::new(http_support::nowhere())]);
            found.closed().await;
        })
    }
}

#[tokio::test(start_paused = true)]
async fn rl_14_an_endpoint_source_that_panicked_is_asked_again() {
    watched(async {
        let network = MemoryNetwork::new();
        let _backend = TestBackend::named("found").at(http_support::nowhere()).start_in(&network);
        let yaml = "services: { greeter: { backends: { v1: { discovery: { source: clumsy, name: greeter } } } } }";
        let builder = Mesh::builder().text(yaml).connector(network).endpoint_source("clumsy", Clumsy::new(2));
        let mesh = TestMesh::start(builder).await;
        let mut request = http::Request::get("http://greeter/").body(String::new()).unwrap();
        request.extensions_mut().insert(RequestOptions::new().wait_for_ready());
        assert_eq!(text(mesh.http_client().oneshot(request).await.unwrap()).await, "found");
        mesh.end().await;
    })
    .await;
}

/// What has not answered yet is not mistaken for what has no room.
#[tokio::test(start_paused = true)]
async fn a_source_that_never_answers_is_named() {
    let yaml = "services: { greeter: { backends: { v1: { dns: greeter.test:80 } } } }";
    let resolver = mesh_tower::testing::ScriptedResolver::new();
    resolver.stall("greeter.test");
    let yaml = format!("{yaml}\ndns: {{ timeout: 1m }}");
    let mesh = TestMesh::start(Mesh::builder().text(yaml).resolver(resolver)).await;
    let error = mesh.http_client().get("http://greeter/").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoHealthyEndpoint);
    assert!(error.to_string().ends_with("dns:greeter.test:80 has not answered for 30s"), "{error}");
    mesh.end().await;
}

struct Over(MemoryNetwork, Clumsy);

impl Connect for Over {
    fn connect(&self, address: &Address) -> Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>> {
        self.1.stumble();
        Connect::connect(&self.0, address)
    }
}

#[tokio::test(start_paused = true)]
async fn rl_14_a_connector_that_panicked_is_asked_again() {
    watched(async {
        let network = MemoryNetwork::new();
        let backend = TestBackend::named("found").at(http_support::nowhere()).start_in(&network);
        let over = Over(network, Clumsy::new(1));
        let builder = Mesh::builder().text(greeter(&[backend.address()]).yaml()).connector(over);
        let mesh = TestMesh::start(builder).await;
        let error = mesh.http_client().get("http://greeter/").await.unwrap_err();
        assert!(error.to_string().contains("the connector panicked: clumsy"), "{error}");
        let mut request = http::Request::get("http://greeter/").body(String::new()).unwrap();
        request.extensions_mut().insert(RequestOptions::new().wait_for_ready());
        assert_eq!(text(mesh.http_client().oneshot(request).await.unwrap()).await, "found");
        mesh.end().await;
    })
    .await;
}

struct First;

impl Balance for First {
    fn pick(&self, _: &dyn Candidates, _: &PickRequest, _: &mut dyn rand::Rng) -> Option<usize> {
        Some(0)
    }
}

#[tokio::test]
async fn rl_14_a_maker_of_balancers_that_panicks_refuses_the_update_and_nothing_more() {
    watched(async {
        let (one, two) = (TestBackend::named("one").start(), TestBackend::named("two").start());
        let config = |address, policy: Option<&str>| {
            let id = mesh_tower::core::model::BackendId::new("greeter", "v1");
            let mut backend = Backend::new(id.clone(), vec![Endpoint::new(address)]);
            if let Some(policy) = policy {
                backend.load_balancer = LoadBalancer::Custom(policy.into());
            }
            let host = mesh_tower::core::model::HostPattern::Exact("greeter".into());
            let route = mesh_tower::core::model::Route::new(mesh_tower::core::model::Forward::to(id));
            let host = mesh_tower::core::model::VirtualHost::new("greeter", vec![host]).with_route(route);
            Arc::new(mesh_tower::core::model::Config::new().with_virtual_host(host).with_backend(backend))
        };
        let (sender, configs) = watch::channel(config(one.address(), None));
        let clumsy = Clumsy::new(1);
        let make = move |_: &Backend| {
            clumsy.stumble();
            Arc::new(First) as Arc<dyn Balance>
        };
        let mesh = TestMesh::start(Mesh::builder().configs(configs).load_balancer("first", make)).await;
        sender.send_replace(config(two.address(), Some("first")));
        let mut status = mesh.config_status();
        let refused = status.wait_for(|status| status.error.is_some()).await.unwrap().clone();
        assert_eq!(refused.error.unwrap().to_string(), "the maker of load balancers panicked: clumsy");
        assert_eq!(text(mesh.http_client().get("http://greeter/").await.unwrap()).await, "one");
        sender.send_replace(config(two.address(), Some("first")));
        status.wait_for(|status| status.error.is_none()).await.unwrap();
        assert_eq!(text(mesh.http_client().get("http://greeter/").await.unwrap()).await, "two");
        mesh.end().await;
    })
    .await;
}

/// Hands out streams that panic when they are read, as long as it is clumsy.
struct Hands(MemoryNetwork, Clumsy);

/// A stream that panics when it is read, if it has been given what makes it do so.
struct Slippery(Box<dyn Io>, Clumsy);

impl Connect for Hands {
    fn connect(&self, address: &Address) -> Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>> {
        let (connecting, clumsy) = (Connect::connect(&self.0, address), self.1.clone());
        Box::pin(async move { Ok(Box::new(Slippery(connecting.await?, clumsy)) as Box<dyn Io>) })
    }
}

impl AsyncRead for Slippery {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.1.stumble();
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Slippery {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The task that connects an endpoint may panic; another one goes on.
#[tokio::test(start_paused = true)]
async fn rl_14_a_stream_that_panics_as_it_is_greeted_is_followed_by_another() {
    watched(async {
        let network = MemoryNetwork::new();
        let backend = TestBackend::named("found").at(http_support::nowhere()).start_in(&network);
        let hands = Hands(network, Clumsy::new(2));
        let mesh = TestMesh::start(Mesh::builder().text(greeter(&[backend.address()]).yaml()).connector(hands)).await;
        assert_eq!(text(mesh.http_client().get("http://greeter/").await.unwrap()).await, "found");
        mesh.end().await;
    })
    .await;
}

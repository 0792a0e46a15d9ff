//! Services on demand among others: whoever calls a name that nobody configured waits for nobody, and harms nobody.

#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]

mod http_support;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http_support::{nowhere, text};
use mesh_tower::core::model::{
    Address, Backend, BackendId, Config, Discovery, Endpoint, Finder, Forward, HostPattern, LoadBalancer, Route,
    Settings, UnknownServices, VirtualHost,
};
use mesh_tower::testing::{MemoryNetwork, ScriptedResolver, TestBackend, TestMesh, empty, watched};
use mesh_tower::{Connect, Connecting, EndpointSource, ErrorKind, Found, Mesh, RequestOptions};
use tokio::sync::watch;
use tokio::time::Instant;
use tower::ServiceExt;

fn on_demand() -> Config {
    let mut settings = Settings::default();
    settings.unknown_services = UnknownServices::Dns;
    Config::new().with_settings(settings)
}

fn with_host(config: Config, pattern: HostPattern, address: SocketAddr) -> Config {
    let id = BackendId::new("greeter", "v1");
    let host = VirtualHost::new("greeter", vec![pattern]).with_route(Route::new(Forward::to(id.clone())));
    config.with_virtual_host(host).with_backend(Backend::new(id, vec![Endpoint::new(address)]))
}

/// What cannot be made is told to who asked, and stands in the way of nothing.
#[tokio::test]
async fn a_service_that_cannot_be_made_poisons_nothing() {
    let server = TestBackend::named("hello").start();
    for uri in ["https://10.0.0/", "https://-x.example/", "https://x-.example/"] {
        let (sender, configs) = watch::channel(Arc::new(on_demand()));
        let mesh = TestMesh::start(Mesh::builder().configs(configs).resolver(ScriptedResolver::new())).await;
        let error = mesh.http_client().get(uri).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{uri}: {error}");
        let next = with_host(on_demand(), HostPattern::Exact("greeter".into()), server.address());
        sender.send_replace(Arc::new(next));
        mesh.config_status().wait_for(|status| status.version > 1).await.unwrap();
        assert_eq!(text(mesh.http_client().get("http://greeter/").await.unwrap()).await, "hello");
        let by_address = format!("http://{}/", server.address());
        assert_eq!(text(mesh.http_client().get(by_address.as_str()).await.unwrap()).await, "hello");
        mesh.end().await;
    }
}

/// Nor does a default that nobody registered: it is found out by the first who needs it.
#[tokio::test]
async fn what_the_compiler_refuses_is_told_to_who_asked() {
    let mut settings = Settings::default();
    settings.unknown_services = UnknownServices::Dns;
    settings.defaults.load_balancer = LoadBalancer::Custom("nobody".into());
    let mesh = TestMesh::start(Mesh::builder().config(Config::new().with_settings(settings))).await;
    for _ in 0..2 {
        let error = mesh.http_client().get("http://127.0.0.1:1/").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
        assert!(error.to_string().contains("the load balancer \"nobody\" is not registered"), "{error}");
    }
    assert!(mesh.config_status().borrow().error.is_none(), "the configuration is not to blame");
    mesh.end().await;
}

/// A target that says where a service is means that place, whatever wildcard the configuration holds.
#[tokio::test]
async fn a_target_that_names_its_place_goes_by_no_wildcard() {
    let (right, wrong) = (TestBackend::named("right").start(), TestBackend::named("wrong").start());
    for pattern in [HostPattern::Any, HostPattern::Suffix(".0.0.1".into())] {
        let config = with_host(Config::new(), pattern, wrong.address());
        let mesh = TestMesh::start(Mesh::builder().config(config)).await;
        let service = mesh.service(&format!("dns:///{}", right.address())).unwrap();
        let response = service.oneshot(Request::get("http://ignored/").body(empty()).unwrap()).await.unwrap();
        assert_eq!(text(response).await, "right");
        let socket = mesh.service("unix:/nowhere/a.sock").unwrap();
        let error = socket.oneshot(Request::get("http://ignored/").body(empty()).unwrap()).await.unwrap_err();
        assert!(error.to_string().contains("/nowhere/a.sock"), "{error}");
        mesh.end().await;
    }
}

/// An endpoint source that hands out what it does.
#[derive(Clone)]
struct Registry(Arc<watch::Sender<Option<Found>>>);

impl EndpointSource for Registry {
    fn watch(&self, _: String, found: Found) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.0.send_replace(Some(found));
        Box::pin(std::future::pending())
    }
}

/// Swallows what goes to one address.
struct Hole(MemoryNetwork, SocketAddr);

impl Connect for Hole {
    fn connect(&self, address: &Address) -> Connecting {
        if *address == Address::Socket(self.1) {
            return Box::pin(std::future::pending());
        }
        Connect::connect(&self.0, address)
    }
}

/// A mesh whose next update waits for a backend that moved to where nobody answers.
async fn stuck(network: &MemoryNetwork, first: &TestBackend) -> TestMesh {
    let id = BackendId::new("greeter", "v1");
    let mut backend = Backend::new(id.clone(), Vec::new());
    backend.discovery = Some(Discovery::new(Finder::Custom { source: "registry".into(), name: "greeter".into() }));
    let host = VirtualHost::new("greeter", vec![HostPattern::Exact("greeter".into())]);
    let config = on_demand().with_virtual_host(host.with_route(Route::new(Forward::to(id)))).with_backend(backend);
    let registry = Registry(Arc::new(watch::Sender::new(None)));
    let builder = Mesh::builder().config(config).connector(Hole(network.clone(), nowhere()));
    let mesh = TestMesh::start(builder.endpoint_source("registry", registry.clone())).await;
    let found = registry.0.subscribe().wait_for(Option::is_some).await.unwrap().clone().unwrap();
    found.endpoints(vec![Endpoint::new(first.address())]);
    assert_eq!(text(mesh.http_client().get("http://greeter/").await.unwrap()).await, "first");
    found.endpoints(vec![Endpoint::new(nowhere())]);
    mesh
}

#[tokio::test(start_paused = true)]
async fn a_first_call_does_not_wait_for_the_backends_of_others() {
    watched(async {
        let network = MemoryNetwork::new();
        let first = TestBackend::named("first").start_in(&network);
        let other = TestBackend::named("other").start_in(&network);
        let mesh = stuck(&network, &first).await;
        let began = Instant::now();
        let uri = format!("http://{}/", other.address());
        assert_eq!(text(mesh.http_client().get(uri.as_str()).await.unwrap()).await, "other");
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        assert_eq!(
            text(mesh.http_client().get("http://greeter/").await.unwrap()).await,
            "first",
            "as long as it waits"
        );
        mesh.end().await;
    })
    .await;
}

/// Whatever a request waits for when the mesh is shut down, it ends with it.
#[tokio::test(start_paused = true)]
async fn rl_11_requests_that_wait_end_with_the_mesh() {
    watched(async {
        for patient in [false, true] {
            let resolver = ScriptedResolver::new();
            if patient {
                resolver.fail("slow", "no");
            } else {
                resolver.stall("slow");
            }
            let mesh = TestMesh::start(Mesh::builder().config(on_demand()).resolver(resolver.clone())).await;
            let mut request = Request::get("http://slow/").body(String::new()).unwrap();
            if patient {
                request.extensions_mut().insert(RequestOptions::new().wait_for_ready());
            }
            let request = tokio::spawn(mesh.http_client().oneshot(request));
            resolver.asked("slow", 1).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
            let began = Instant::now();
            mesh.end().await;
            assert_eq!(request.await.unwrap().unwrap_err().kind(), ErrorKind::Shutdown, "patient: {patient}");
            assert!(began.elapsed() <= Duration::from_secs(1), "{:?}", began.elapsed());
        }
    })
    .await;
}

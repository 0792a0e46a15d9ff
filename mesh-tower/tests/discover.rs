//! Endpoints that are found, and services that nobody configured.

#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]

mod http_support;

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use http_support::{grpc, serve, text, until};
use mesh_tower::core::model::{
    Address, Backend, BackendId, Config, Discovery, DnsName, Endpoint, Finder, Forward, HostPattern, Route, Settings,
    UnknownServices, VirtualHost,
};
use mesh_tower::testing::{TestBackend, TestMesh, empty, full};
use mesh_tower::{
    Answer, BuildError, EndpointSource, ErrorKind, Found, Mesh, RequestOptions, Resolve, ResolveError, Resolving,
};
use tokio::sync::watch;
use tokio::time::Instant;
use tower::ServiceExt;

/// A source that says what the test tells it, and counts who listens.
#[derive(Clone, Default)]
struct Registry(Arc<Mutex<HashMap<String, Found>>>);

impl Registry {
    async fn asked(&self, name: &str) -> Found {
        until("the source is asked", || self.0.lock().unwrap().contains_key(name)).await;
        self.0.lock().unwrap()[name].clone()
    }
}

impl EndpointSource for Registry {
    fn watch(&self, name: String, found: Found) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.0.lock().unwrap().insert(name, found);
        Box::pin(std::future::pending())
    }
}

fn endpoints(addresses: &[SocketAddr]) -> Vec<Endpoint> {
    addresses.iter().copied().map(Endpoint::new).collect()
}

/// `greeter`, whose endpoints a registry knows as `name`.
fn discovered(name: &str) -> Config {
    let id = BackendId::new("greeter", "v1");
    let mut backend = Backend::new(id.clone(), Vec::new());
    backend.discovery = Some(Discovery::new(Finder::Custom { source: "registry".into(), name: name.into() }));
    let host = VirtualHost::new("greeter", vec![HostPattern::Exact("greeter".into())]);
    Config::new().with_virtual_host(host.with_route(Route::new(Forward::to(id)))).with_backend(backend)
}

fn on_demand() -> Config {
    let mut settings = Settings::default();
    settings.unknown_services = UnknownServices::Dns;
    Config::new().with_settings(settings)
}

async fn mesh(config: Config, registry: &Registry) -> TestMesh {
    let builder = Mesh::builder().config(config).endpoint_source("registry", registry.clone());
    builder.build().await.unwrap().into()
}

#[tokio::test]
async fn a_request_waits_for_the_first_answer_of_a_source() {
    let (server, registry) = (TestBackend::named("hello").start(), Registry::default());
    let mesh = mesh(discovered("greeter"), &registry).await;
    let found = registry.asked("greeter").await;
    let request = tokio::spawn({
        let client = mesh.http_client();
        async move { text(client.get("http://greeter/").await.unwrap()).await }
    });
    found.endpoints(endpoints(&[server.address()]));
    assert_eq!(request.await.unwrap(), "hello");
    mesh.end().await;
}

#[tokio::test]
async fn a_source_that_fails_keeps_what_it_found_and_says_why_it_never_did() {
    let (server, registry) = (TestBackend::named("hello").start(), Registry::default());
    let mesh = mesh(discovered("greeter"), &registry).await;
    let found = registry.asked("greeter").await;
    found.failed("the registry is down");
    let error = mesh.http_client().get("http://greeter/").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoHealthyEndpoint);
    assert_eq!(
        error.to_string(),
        "no endpoint of backend v1 of service greeter is known: registry:greeter: the registry is down"
    );
    // Whoever waits for ready is served once there is an answer.
    let mut request = Request::get("http://greeter/").body(String::new()).unwrap();
    request.extensions_mut().insert(RequestOptions::new().wait_for_ready());
    let waiting = tokio::spawn(mesh.http_client().oneshot(request));
    found.endpoints(endpoints(&[server.address()]));
    assert_eq!(text(waiting.await.unwrap().unwrap()).await, "hello");

    let version = mesh.config_status().borrow().version;
    found.failed("the registry is down again");
    assert_eq!(text(mesh.http_client().get("http://greeter/").await.unwrap()).await, "hello");
    assert_eq!(mesh.config_status().borrow().version, version);

    found.endpoints(Vec::new());
    mesh.config_status().wait_for(|status| status.version > version).await.unwrap();
    let error = mesh.http_client().get("http://greeter/").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoEndpoint);
    assert!(error.to_string().ends_with("registry:greeter names none"), "{error}");
    mesh.end().await;
}

/// CF-03: what cannot be used changes nothing, not even that the last good configuration is followed.
#[tokio::test]
async fn cf_03_a_configuration_that_is_refused_does_not_stop_the_one_in_force() {
    let (first, second, registry) =
        (TestBackend::named("1").start(), TestBackend::named("2").start(), Registry::default());
    let (sender, configs) = watch::channel(Arc::new(discovered("greeter")));
    let mesh = Mesh::builder().configs(configs).endpoint_source("registry", registry.clone()).build().await.unwrap();
    let mesh = TestMesh::from(mesh);
    let found = registry.asked("greeter").await;
    found.endpoints(endpoints(&[first.address()]));
    assert_eq!(text(mesh.http_client().get("http://greeter/").await.unwrap()).await, "1");

    // One that the compiler refuses, and that knows nothing of the registry any more.
    let host = |name| VirtualHost::new(name, vec![HostPattern::Exact("twice".into())]);
    sender.send_replace(Arc::new(Config::new().with_virtual_host(host("a")).with_virtual_host(host("b"))));
    let mut status = mesh.config_status();
    let refused = status.wait_for(|status| status.error.is_some()).await.unwrap().clone();

    found.endpoints(endpoints(&[second.address()]));
    let after = status.wait_for(|status| status.version > refused.version).await.unwrap().clone();
    assert!(after.error.is_some(), "the newest word of the source is still refused");
    assert_eq!(text(mesh.http_client().get("http://greeter/").await.unwrap()).await, "2");

    sender.send_replace(Arc::new(discovered("greeter")));
    status.wait_for(|status| status.error.is_none()).await.unwrap();
    mesh.end().await;
}

#[tokio::test]
async fn endpoints_that_stay_keep_their_connections() {
    let (first, second, registry) =
        (TestBackend::named("1").start(), TestBackend::named("2").start(), Registry::default());
    let mesh = mesh(discovered("greeter"), &registry).await;
    let found = registry.asked("greeter").await;
    found.endpoints(endpoints(&[first.address()]));
    assert_eq!(text(mesh.http_client().get("http://greeter/").await.unwrap()).await, "1");
    let mut status = mesh.config_status();
    let version = status.borrow_and_update().version;
    found.endpoints(endpoints(&[second.address(), first.address()]));
    status.wait_for(|status| status.version > version).await.unwrap();
    for _ in 0..6 {
        text(mesh.http_client().get("http://greeter/").await.unwrap()).await;
    }
    assert_eq!(first.connections(), 1, "the connection of the endpoint that stayed is the one it had");
    assert!(second.connections() > 0);
    mesh.end().await;
}

#[tokio::test]
async fn a_source_is_let_go_when_no_backend_needs_it() {
    let registry = Registry::default();
    let (sender, configs) = watch::channel(Arc::new(discovered("old")));
    let mesh = Mesh::builder().configs(configs).endpoint_source("registry", registry.clone()).build().await.unwrap();
    let old = registry.asked("old").await;
    sender.send_replace(Arc::new(discovered("new")));
    registry.asked("new").await;
    old.closed().await;
    TestMesh::from(mesh).end().await;
}

#[tokio::test]
async fn a_source_that_is_not_registered_is_refused_by_name() {
    let error = Mesh::builder().config(discovered("greeter")).build().await.unwrap_err();
    assert!(matches!(error, BuildError::EndpointSource { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        "services.greeter.backends.v1: the endpoint source \"registry\" is not registered; none is"
    );
}

#[tokio::test]
async fn an_address_needs_no_configuration_where_unknown_services_are_allowed() {
    let (first, second) = (TestBackend::named("1").start(), TestBackend::named("2").start());
    let mesh = mesh(on_demand(), &Registry::default()).await;
    let client = mesh.http_client();
    for (server, said) in [(&first, "1"), (&second, "2"), (&first, "1")] {
        let uri = format!("http://{}/", server.address());
        assert_eq!(text(client.get(uri.as_str()).await.unwrap()).await, said);
    }
    assert_eq!(first.connections(), 1);

    // The same place over gRPC, by a channel's target.
    let service = mesh.service(&format!("http://{}", second.address())).unwrap();
    let response = service.oneshot(grpc("http://ignored/a.B/C").body(empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    mesh.end().await;
}

#[tokio::test]
async fn many_first_requests_at_once_make_one_service() {
    let server = TestBackend::named("hello").start();
    let mesh = mesh(on_demand(), &Registry::default()).await;
    let version = mesh.config_status().borrow().version;
    let uri = format!("http://{}/", server.address());
    let requests = (0..50).map(|_| {
        let (client, uri) = (mesh.http_client(), uri.clone());
        tokio::spawn(async move { text(client.get(uri.as_str()).await.unwrap()).await })
    });
    for request in requests.collect::<Vec<_>>() {
        assert_eq!(request.await.unwrap(), "hello");
    }
    assert_eq!(mesh.config_status().borrow().version, version + 1);
    mesh.end().await;
}

#[tokio::test]
async fn without_leave_an_unknown_name_is_an_error_at_once() {
    let mesh = mesh(discovered("greeter"), &Registry::default()).await;
    let error = mesh.http_client().get("http://127.0.0.1:1/").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownService);
    assert_eq!(mesh.service("greter").unwrap_err().kind(), ErrorKind::UnknownService);
    mesh.end().await;
}

#[tokio::test]
async fn a_target_that_names_its_finder_needs_no_leave() {
    let server = TestBackend::named("hello").start();
    let mesh = mesh(discovered("greeter"), &Registry::default()).await;
    let service = mesh.service(&format!("dns:///{}", server.address())).unwrap();
    let response = service.oneshot(Request::get("http://ignored/").body(empty()).unwrap()).await.unwrap();
    assert_eq!(text(response).await, "hello");
    mesh.end().await;
}

#[tokio::test]
async fn names_that_others_make_up_do_not_fill_the_memory() {
    let nobody = |_: &Address| async { Err(std::io::Error::from(std::io::ErrorKind::ConnectionRefused)) };
    let mesh: TestMesh = Mesh::builder().config(on_demand()).connector(nobody).build().await.unwrap().into();
    let client = mesh.http_client();
    for batch in 0..20_u32 {
        let requests: Vec<_> = (0..50_u32)
            .map(|number| {
                let ([_, _, high, low], client) = ((batch * 50 + number).to_be_bytes(), client.clone());
                tokio::spawn(async move { client.get(format!("http://192.0.{high}.{low}:1/")).await.unwrap_err() })
            })
            .collect();
        for request in requests {
            let error = request.await.unwrap();
            assert_eq!(error.kind(), ErrorKind::NoHealthyEndpoint, "{error}");
        }
    }
    let error = client.get("http://192.0.77.1:1/").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overflow);
    assert!(error.to_string().contains("1000 services are in use that no configuration names"), "{error}");
    mesh.end().await;
}

#[tokio::test]
async fn an_unreadable_host_is_told_at_once() {
    let mesh = mesh(on_demand(), &Registry::default()).await;
    let error = mesh.http_client().get("http://a..b/").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
    mesh.end().await;
}

/// The peer is told who is called, whatever finds it.
#[tokio::test]
async fn the_host_is_what_the_caller_wrote() {
    let server = serve(|request| async move {
        let host = request.headers()["host"].to_str().unwrap().to_owned();
        Ok(Response::new(full(host)))
    });
    let mesh = mesh(on_demand(), &Registry::default()).await;
    let uri = format!("http://{}/", server.address());
    assert_eq!(text(mesh.http_client().get(uri.as_str()).await.unwrap()).await, server.address().to_string());
    mesh.end().await;
}

/// Knows one name.
struct OneName(SocketAddr);

impl Resolve for OneName {
    fn resolve(&self, name: &DnsName, _: Duration) -> Resolving {
        let known = matches!(name, DnsName::Host { host, .. } if **host == *"greeter.test");
        let answer = if known {
            Ok(Answer::new(vec![self.0], Duration::from_secs(60)))
        } else {
            Err(ResolveError::NoSuchName { name: name.clone() })
        };
        Box::pin(std::future::ready(answer))
    }
}

#[tokio::test]
async fn cf_15_a_name_is_all_that_is_needed() {
    let server = TestBackend::named("hello").start();
    let builder = Mesh::builder().config(on_demand()).resolver(OneName(server.address()));
    let mesh: TestMesh = builder.build().await.unwrap().into();
    assert_eq!(text(mesh.http_client().get("http://Greeter.test:8080/").await.unwrap()).await, "hello");
    assert_eq!(text(mesh.http_client().get("http://greeter.test:8080/").await.unwrap()).await, "hello");
    assert_eq!(server.connections(), 1, "case makes no difference");

    let error = mesh.http_client().get("http://nobody.test/").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoHealthyEndpoint);
    assert!(error.to_string().contains("dns:nobody.test:80"), "{error}");
    mesh.end().await;
}

/// A source that gives up at once, but for each fourth time: then it lasts two minutes.
#[derive(Clone, Default)]
struct GivesUp(Arc<Mutex<Vec<Instant>>>);

impl EndpointSource for GivesUp {
    fn watch(&self, _: String, _: Found) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let calls = {
            let mut calls = self.0.lock().unwrap();
            calls.push(Instant::now());
            calls.len()
        };
        Box::pin(async move {
            if calls % 4 == 0 {
                tokio::time::sleep(Duration::from_secs(120)).await;
            }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_lasted_is_asked_again_soon() {
    let source = GivesUp::default();
    let builder = Mesh::builder().config(discovered("greeter")).endpoint_source("registry", source.clone());
    let mesh: TestMesh = builder.build().await.unwrap().into();
    while source.0.lock().unwrap().len() < 7 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let calls = source.0.lock().unwrap().clone();
    let pauses: Vec<_> = calls.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
    assert_eq!(pauses, [1, 2, 4, 121, 2, 4]);
    mesh.end().await;
}

//! tonic's own server on connections that the mesh let in, and the health service.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use examples::greeter::HelloRequest;
use examples::greeter::greeter_client::GreeterClient;
use examples::greeter::greeter_server::GreeterServer;
use mesh_tonic::identity::MemoryIdentity;
use mesh_tonic::prelude::*;
use mesh_tonic::server::Peer;
use mesh_tonic::testing::{Authority, Issued, watched};
use support::TestGreeter;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const SERVER: &str = "spiffe://cluster.local/greeter";
const CALLER: &str = "spiffe://cluster.local/caller";

/// Lets pass whoever is [`CALLER`].
#[derive(Clone)]
struct Expects;

impl Interceptor for Expects {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let peer = request.extensions().get::<Arc<Peer>>().expect("the peer");
        assert!(peer.remote_address().is_some());
        match peer.identity() {
            Some(id) if id.to_string() == CALLER => Ok(request),
            other => Err(Status::unauthenticated(format!("{other:?}"))),
        }
    }
}

struct Running {
    mesh: Mesh,
    authority: Authority,
    identity: MemoryIdentity,
    issued: Issued,
    address: SocketAddr,
    task: JoinHandle<()>,
}

/// `fields` of the server, behind its name. `layered`: whether the layer of the mesh is around the services.
async fn start(fields: &str, layered: bool) -> Running {
    let authority = Authority::new("cluster.local");
    let issued = authority.issue(SERVER);
    let identity = MemoryIdentity::new(issued.material(authority.bundles()));
    let text =
        format!("unknown_services: dns\nidentity: {{ source: custom }}\nservers: [{{ name: public, {fields} }}]\n");
    let mesh = Mesh::builder().text(text).identity_source(identity.clone()).build().await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = mesh.tonic_incoming(mesh.adopt("public", listener).unwrap());
    let draining = incoming.draining();
    let greeter = InterceptedService::new(GreeterServer::new(TestGreeter::willing()), Expects);
    let health = mesh.health_service(&["greeter.Greeter"]);
    let serving = if layered {
        let server = Server::builder().layer(mesh.server_layer("public").unwrap()).add_service(health);
        tokio::spawn(server.add_service(greeter).serve_with_incoming_shutdown(incoming, draining))
    } else {
        let server = Server::builder().add_service(health).add_service(greeter);
        tokio::spawn(server.serve_with_incoming_shutdown(incoming, draining))
    };
    let task = tokio::spawn(async move { serving.await.unwrap().unwrap() });
    Running { mesh, authority, identity, issued, address, task }
}

impl Running {
    async fn caller_with(&self, certificate: &Issued) -> Mesh {
        let source = MemoryIdentity::new(certificate.material(self.authority.bundles()));
        let text = format!(
            "identity: {{ source: custom }}\n\
             services: {{ greeter: {{ backends: {{ it: {{ endpoints: ['{}'], protocol: http2 }} }} }} }}",
            self.address
        );
        Mesh::builder().text(text).identity_source(source).build().await.unwrap()
    }

    async fn caller(&self) -> Mesh {
        self.caller_with(&self.authority.issue(CALLER)).await
    }
}

async fn greet(mesh: &Mesh) -> Result<String, Status> {
    let mut greeter = GreeterClient::new(mesh.channel("greeter").unwrap());
    let answer = greeter.say_hello(HelloRequest { name: "it".to_owned(), count: 1 }).await?;
    Ok(answer.into_inner().message)
}

/// MT-13: strict TLS below tonic's own server; the handler finds the peer, with the layer and without.
#[tokio::test]
async fn the_handler_knows_the_caller_behind_strict_tls() {
    for layered in [true, false] {
        let running = start("tls: strict", layered).await;
        assert!(greet(&running.caller().await).await.is_ok());
        let other = running.caller_with(&running.authority.issue("spiffe://cluster.local/other")).await;
        assert_eq!(greet(&other).await.unwrap_err().code(), Code::Unauthenticated);
    }
}

/// A layer of a strict server that nobody tells of the caller lets nobody in.
#[tokio::test]
async fn without_peer_information_a_strict_layer_fails_closed() {
    for (tls, expected) in [("strict", Code::PermissionDenied), ("permissive", Code::Ok)] {
        let running = start(&format!("tls: {tls}"), true).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let layer = running.mesh.server_layer("public").unwrap();
        let router = Server::builder().layer(layer).add_service(GreeterServer::new(TestGreeter::willing()));
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        tokio::spawn(router.serve_with_incoming(incoming));
        let mesh = support::mesh_to(address, "", "protocol: http2").await;
        let code = greet(&mesh).await.map_or_else(|status| status.code(), |_| Code::Ok);
        assert_eq!(code, expected, "{tls}");
    }
}

/// MT-10: whoever is revoked is thrown out at once, with the calls under way.
#[tokio::test]
async fn mt_10_a_revoked_caller_is_thrown_out() {
    let running = start("tls: strict", true).await;
    let bad = running.authority.issue(CALLER);
    let caller = running.caller_with(&bad).await;
    let mut health = HealthClient::new(caller.channel("greeter").unwrap());
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert!(watched(watch.message()).await.unwrap().is_some());
    let list = running.authority.revocation_list(&[&bad]);
    let material = running.issued.material(running.authority.bundles());
    running.identity.set(material.with_revocation_lists(vec![list.der]));
    assert_eq!(watched(watch.message()).await.unwrap_err().code(), Code::Unavailable);
    assert!(greet(&caller).await.is_err());
    assert!(greet(&running.caller().await).await.is_ok());
}

/// CL-02: the health service hears of the drain first, then calls end, then the server.
#[tokio::test]
async fn cl_02_health_follows_readiness_and_keeps_no_drain_waiting() {
    let running = start("tls: strict, drain: { delay: 1h, grace: 1h }", true).await;
    let caller = running.caller().await;
    let mut health = HealthClient::new(caller.channel("greeter").unwrap());
    let request = |service: &str| HealthCheckRequest { service: service.to_owned() };
    for service in ["", "greeter.Greeter"] {
        let answer = health.check(request(service)).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    assert_eq!(health.check(request("nobody")).await.unwrap_err().code(), Code::NotFound);
    let mut known = health.watch(request("greeter.Greeter")).await.unwrap().into_inner();
    let mut unknown = health.watch(request("nobody")).await.unwrap().into_inner();
    assert_eq!(watched(known.message()).await.unwrap().unwrap().status(), ServingStatus::Serving);
    assert_eq!(watched(unknown.message()).await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);

    running.mesh.start_drain();
    assert_eq!(watched(known.message()).await.unwrap().unwrap().status(), ServingStatus::NotServing);
    for watch in [&mut known, &mut unknown] {
        assert_eq!(watched(watch.message()).await.unwrap_err().code(), Code::Unavailable);
    }
    let answer = health.check(request("")).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::NotServing);
    assert!(greet(&caller).await.is_ok(), "it serves for its delay");
    running.mesh.force_drain();
    watched(running.task).await.unwrap();
}

/// CL-02: whoever had connected before the end gets an answer, also where nobody had accepted.
#[tokio::test]
async fn cl_02_connections_that_wait_are_served() {
    let text = "servers: [{ name: public, drain: { delay: 0s, grace: 1h } }]";
    let mesh = Mesh::builder().text(text).build().await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let callers: Vec<_> = (0..20)
        .map(|_| {
            let mut caller = std::net::TcpStream::connect(address).unwrap();
            caller.write_all(preface).unwrap();
            caller.set_nonblocking(true).unwrap();
            tokio::net::TcpStream::from_std(caller).unwrap()
        })
        .collect();
    mesh.start_drain();
    let incoming = mesh.tonic_incoming(mesh.adopt("public", listener).unwrap());
    let draining = incoming.draining();
    let server = Server::builder().add_service(GreeterServer::new(TestGreeter::willing()));
    let task = tokio::spawn(server.serve_with_incoming_shutdown(incoming, draining));
    for (number, mut caller) in callers.into_iter().enumerate() {
        // SETTINGS, and then GOAWAY, which is no reset.
        let mut head = [0; 9];
        watched(caller.read_exact(&mut head)).await.unwrap_or_else(|error| panic!("{number}: {error}"));
        assert_eq!(head[3], 4, "{number}");
    }
    watched(task).await.unwrap().unwrap();
}

/// A server that drains ends by itself once its calls have.
#[tokio::test]
async fn cl_02_tonic_shuts_down_when_the_mesh_drains() {
    let running = start("tls: strict, drain: { delay: 0s, grace: 1h }", true).await;
    let caller = running.caller().await;
    assert!(greet(&caller).await.is_ok());
    watched(running.mesh.drain()).await;
    watched(running.task).await.unwrap();
    assert!(tokio::net::TcpStream::connect(running.address).await.is_err());
    assert!(tokio::time::timeout(Duration::from_secs(10), greet(&caller)).await.is_ok_and(|answer| answer.is_err()));
}

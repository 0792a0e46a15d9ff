//! Streams of a mesh for other clients.

use std::net::SocketAddr;

use http::{Uri, Version};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use mesh_tower::identity::MemoryIdentity;
use mesh_tower::testing::{Authority, NewCertificate, ServiceConfig, TestBackend, TestMesh};
use mesh_tower::{ConnectError, Error, ErrorKind, MeshConnector, MeshStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::{Service, ServiceExt};

use crate::http_support::{gone, until};
use crate::support::{BOTH, CART, CATALOG, Server, builder, cart, catalog, connect_error, somebody, strict};

async fn open(connector: MeshConnector, uri: &'static str) -> Result<MeshStream, Error> {
    connector.oneshot(Uri::from_static(uri)).await
}

/// The version of an answer of hyper-util's client, and its text.
async fn by_hyper(mesh: &TestMesh, uri: &'static str) -> (Version, String) {
    let client = Client::builder(TokioExecutor::new()).build::<_, Empty<bytes::Bytes>>(mesh.connector());
    let response = client.get(Uri::from_static(uri)).await.unwrap();
    let version = response.version();
    (version, String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().into()).unwrap())
}

#[tokio::test]
async fn hyper_speaks_what_alpn_or_the_configuration_says() {
    let authority = Authority::new("cluster.local");
    for (protocol, agrees, version, answer) in [
        ("auto", BOTH, Version::HTTP_2, "a h2"),
        ("auto", &["http/1.1"][..], Version::HTTP_11, "a h1"),
        ("http1", BOTH, Version::HTTP_11, "a h1"),
        ("http2", BOTH, Version::HTTP_2, "a h2"),
        ("http2", &[], Version::HTTP_2, "a h2"),
    ] {
        let server = Server::start("a", strict(&authority.issue(CATALOG), &authority, agrees)).await;
        let mesh = cart(&authority, &[server.address], &format!("protocol: {protocol}")).await;
        for uri in ["http://catalog/", "https://catalog/"] {
            assert_eq!(by_hyper(&mesh, uri).await, (version, answer.to_owned()), "{protocol} {agrees:?} {uri}");
        }
        mesh.end().await;
    }
    let plain = TestBackend::named("plain").start();
    for (protocol, version) in [("auto", Version::HTTP_11), ("http1", Version::HTTP_11), ("http2", Version::HTTP_2)] {
        let config = ServiceConfig::new("catalog", [plain.address()]).backend(&format!("protocol: {protocol}"));
        let mesh = config.mesh().await;
        let (spoken, answer) = by_hyper(&mesh, "http://catalog/").await;
        assert_eq!((spoken, answer.trim_end()), (version, "plain"), "{protocol}");
        mesh.end().await;
    }
}

#[tokio::test]
async fn a_client_of_http2_alone_offers_nothing_else() {
    let authority = Authority::new("cluster.local");
    let server = Server::start("a", strict(&authority.issue(CATALOG), &authority, BOTH)).await;
    let mesh = cart(&authority, &[server.address], "").await;
    let stream = open(mesh.connector().http2(), "http://catalog").await.unwrap();
    assert!(stream.is_http2());
    assert_eq!(*stream.address(), server.address.into());
    assert_eq!(server.only().alpn, "istio-h2 istio h2");
    mesh.end().await;
    let mesh = cart(&authority, &[server.address], "protocol: http1").await;
    let error = open(mesh.connector().http2(), "http://catalog").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
    mesh.end().await;
}

/// It is both a stream of tokio and of hyper.
#[tokio::test]
async fn a_stream_is_read_and_written() {
    let server = TestBackend::named("plain").start();
    let mesh = ServiceConfig::new("catalog", [server.address()]).mesh().await;
    let mut stream = open(mesh.connector(), "http://catalog").await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: catalog\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    mesh.end().await;
}

/// One that cannot be connected, or is refused, is followed by another one; the error of the last says why there is none.
#[tokio::test]
async fn other_endpoints_are_tried() {
    let authority = Authority::new("cluster.local");
    let expired = authority.issue_as(NewCertificate::new().uri(CATALOG).expired());
    let bad = Server::start("bad", strict(&expired, &authority, BOTH)).await;
    let good = Server::start("good", strict(&authority.issue(CATALOG), &authority, BOTH)).await;
    for balancer in ["round_robin", "pick_first", "ring_hash"] {
        let with = |endpoints: Vec<SocketAddr>| cart_of(&authority, endpoints, balancer);
        let mesh = with(vec![gone(), bad.address, good.address]).await;
        for _ in 0..10 {
            let stream = open(mesh.connector(), "http://catalog").await.unwrap();
            assert_eq!(*stream.address(), good.address.into(), "{balancer}");
        }
        mesh.end().await;
        let mesh = with(vec![bad.address]).await;
        let error = open(mesh.connector(), "http://catalog").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoHealthyEndpoint);
        assert!(matches!(connect_error(&error), ConnectError::Peer { .. }), "{error:?}");
        assert!(error.to_string().contains("expired at"), "{error}");
        mesh.end().await;
    }
}

async fn cart_of(authority: &Authority, endpoints: Vec<SocketAddr>, balancer: &str) -> TestMesh {
    cart(authority, &endpoints, &format!("load_balancer: {balancer}")).await
}

#[tokio::test]
async fn streams_are_spread_and_counted() {
    let servers = [TestBackend::named("a").start(), TestBackend::named("b").start()];
    let endpoints = servers.iter().map(TestBackend::address);
    let config = ServiceConfig::new("catalog", endpoints).backend("circuit_breaker: { max_connections: 16 }");
    let mesh = config.mesh().await;
    let mut streams = Vec::new();
    for _ in 0..16 {
        streams.push(open(mesh.connector(), "http://catalog").await.unwrap());
    }
    until("all are there", || servers.iter().map(TestBackend::open_connections).sum::<usize>() == 16).await;
    // Two of two endpoints are compared: whoever has more gets nothing, unless it is drawn twice.
    assert!(servers.iter().all(|server| server.open_connections() > 0));
    let error = open(mesh.connector(), "http://catalog").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overflow, "{error}");
    drop(streams.pop());
    open(mesh.connector(), "http://catalog").await.unwrap();
    drop(streams);
    mesh.end().await;
}

#[tokio::test]
async fn what_cannot_be_opened_is_told() {
    let server = TestBackend::named("plain").start();
    let mesh = ServiceConfig::new("catalog", [server.address()]).mesh().await;
    for (uri, kind) in [
        ("http://orders", ErrorKind::UnknownService),
        ("https://catalog", ErrorKind::InvalidRequest),
        ("/path", ErrorKind::InvalidRequest),
    ] {
        let error = open(mesh.connector(), uri).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{uri}: {error}");
    }
    let mut connector = mesh.connector();
    mesh.end().await;
    let error = connector.call(Uri::from_static("http://catalog")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Shutdown);
    assert_eq!(server.request_count(), 0);
}

/// MT-10, where somebody else holds the connection.
#[tokio::test]
async fn mt_10_a_stream_fails_when_its_peer_is_revoked() {
    let authority = Authority::new("cluster.local");
    let (issued, own) = (authority.issue(CATALOG), authority.issue(CART));
    let server = Server::start("a", strict(&issued, &authority, BOTH)).await;
    let identity = MemoryIdentity::new(own.material(authority.bundles()));
    let mesh = TestMesh::start(builder(&catalog(&[server.address], ""), &identity)).await;
    let mut stream = open(mesh.connector(), "http://catalog").await.unwrap();
    identity.set(somebody(&authority, CART));
    let list = authority.revocation_list(&[&issued]);
    identity.set(own.material(authority.bundles()).with_revocation_lists(vec![list.der]));
    let error = stream.read(&mut [0; 64]).await.unwrap_err();
    assert!(error.to_string().contains("not trusted any more"), "{error}");
    assert!(stream.write(b"more").await.is_err());
    mesh.end().await;
}

//! Servers that are not who they must be, and servers that do not let us in.

use std::time::Duration;

use http::{Method, Request};
use mesh_tower::core::balance::State;
use mesh_tower::core::grpc::Code;
use mesh_tower::core::model::Address;
use mesh_tower::core::observe::Next;
use mesh_tower::identity::MemoryIdentity;
use mesh_tower::testing::{Authority, Events, NewCertificate, Seen, TestMesh};
use mesh_tower::{ConnectError, ErrorKind, Io};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tower::ServiceExt;

use crate::http_support::text;
use crate::support::{
    BOTH, CART, CATALOG, Server, ask, builder, cart, catalog, connect_error, somebody, strict, strict_of,
};

/// MT-01, MT-11: each has its reason, which the caller is told; nothing of the request reaches such a server.
#[tokio::test]
async fn mt_01_mt_11_a_refused_server_gets_nothing_and_the_caller_the_reason() {
    let (authority, other) = (Authority::new("cluster.local"), Authority::new("other.example"));
    let good = || NewCertificate::new().uri(CATALOG);
    let table = [
        (authority.issue_as(good().expired()), "expired", "expired at"),
        (authority.issue_as(good().not_yet_valid()), "not_yet_valid", "valid from"),
        (authority.issue_as(good().for_clients()), "wrong_usage", "serverAuth"),
        (other.issue_as(good()), "unknown_issuer", "no trusted authority"),
        (other.issue("spiffe://other.example/catalog"), "unknown_trust_domain", "other.example"),
        (authority.issue_as(NewCertificate::new().dns("catalog")), "wrong_name", "DNS catalog"),
        (authority.issue_as(good().uri(CART)), "many_spiffe_ids", "2 URI names"),
        (authority.issue_as(NewCertificate::new().uri("spiffe://cluster.local/a//b")), "malformed_spiffe_id", "a//b"),
        (authority.issue(CART), "wrong_name", CART),
    ];
    for (issued, word, told) in table {
        for protocol in ["http1", "http2"] {
            let server = Server::start("bad", strict(&issued, &authority, BOTH)).await;
            let backend = format!("protocol: {protocol}, tls: {{ mode: mutual, identities: ['{CATALOG}'] }}");
            let mesh = cart(&authority, &[server.address], &backend).await;
            let error = ask(&mesh).await.unwrap_err();
            assert_eq!((error.kind(), error.grpc_code()), (ErrorKind::NoHealthyEndpoint, Code::Unavailable), "{word}");
            assert!(error.to_string().contains(told), "{word}: {error}");
            let ConnectError::Peer { address, reason } = connect_error(&error) else { panic!("{word}: {error:?}") };
            assert_eq!((address, reason.as_str()), (server.address.into(), word));
            assert_eq!(server.backend.request_count(), 0, "{word}");
            mesh.end().await;
        }
    }
}

/// MT-01: an endpoint that is refused fails, and others are used.
#[tokio::test]
async fn mt_01_other_endpoints_are_used() {
    let authority = Authority::new("cluster.local");
    let expired = authority.issue_as(NewCertificate::new().uri(CATALOG).expired());
    let bad = Server::start("bad", strict(&expired, &authority, BOTH)).await;
    let good = Server::start("good", strict(&authority.issue(CATALOG), &authority, BOTH)).await;
    let (events, identity) = (Events::new(), MemoryIdentity::new(somebody(&authority, CART)));
    let config = catalog(&[bad.address, good.address], "tls: { mode: mutual }");
    let mesh = TestMesh::start(builder(&config, &identity).observer(events.clone())).await;
    for _ in 0..50 {
        assert_eq!(ask(&mesh).await.unwrap(), "good h2");
    }
    events.wait_for_state(bad.address, State::Failing).await;
    for _ in 0..50 {
        assert_eq!(ask(&mesh).await.unwrap(), "good h2");
    }
    assert_eq!(bad.backend.request_count(), 0);
    mesh.end().await;
}

/// A server's refusal of our certificate is a failure to connect, with the word of its alert, although in TLS 1.3 it
/// comes after the handshake; no request is lost on it.
#[tokio::test]
async fn a_server_that_does_not_let_us_in_cannot_be_connected() {
    let (authority, stranger) = (Authority::new("cluster.local"), Authority::new("stranger.example"));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for protocol in ["http1", "http2", "auto"] {
            // It lets in who is of another authority.
            let config = strict_of(&authority.issue(CATALOG), &stranger, BOTH, &[version]);
            let server = Server::start("a", config).await;
            let mesh = cart(&authority, &[server.address], &format!("protocol: {protocol}")).await;
            let error = ask(&mesh).await.unwrap_err();
            assert_eq!((error.kind(), error.attempts()), (ErrorKind::NoHealthyEndpoint, 0), "{}", error.report());
            assert!(error.to_string().contains("UnknownCA"), "{protocol}: {error}");
            assert!(matches!(connect_error(&error), ConnectError::Tls { .. }), "{error:?}");
            mesh.end().await;
        }
    }
}

/// A server that sends no tickets and takes its time to refuse us meets the first request; that was not processed, and
/// goes elsewhere whatever its method.
#[tokio::test]
async fn a_late_refusal_is_no_lost_request() {
    let (authority, stranger) = (Authority::new("cluster.local"), Authority::new("stranger.example"));
    let mut config = strict_of(&authority.issue(CATALOG), &stranger, BOTH, &[&rustls::version::TLS13]);
    config.send_tls13_tickets = 0;
    let bad = Server::start("bad", config).await;
    let good = Server::start("good", strict(&authority.issue(CATALOG), &authority, BOTH)).await;
    let identity = MemoryIdentity::new(somebody(&authority, CART));
    let slow = bad.address;
    let connector = move |address: &Address| {
        let address = address.clone();
        async move {
            let Address::Socket(address) = address else { panic!("a socket: {address}") };
            let stream = TcpStream::connect(address).await?;
            if address != slow {
                return Ok(Box::new(stream) as Box<dyn Io>);
            }
            let (near, far) = tokio::io::duplex(64 * 1024);
            tokio::spawn(delay(stream, far));
            Ok(Box::new(near) as Box<dyn Io>)
        }
    };
    let config = catalog(&[bad.address, good.address], "protocol: http1, load_balancer: round_robin");
    let events = Events::new();
    let mesh = TestMesh::start(builder(&config, &identity).connector(connector).observer(events.clone())).await;
    let met = |seen: &Seen| {
        let is_bad = |endpoint: &Address| *endpoint == Address::from(bad.address);
        matches!(seen, Seen::Attempt { endpoint: Some(endpoint), next: Next::Resend, .. } if is_bad(endpoint))
    };
    let asking = async {
        while events.count(met) == 0 {
            let request = Request::builder().method(Method::POST).uri("http://catalog/").body("once".to_owned());
            let response = mesh.http_client().oneshot(request.unwrap()).await.unwrap();
            assert_eq!(text(response).await, "good h1");
        }
    };
    tokio::time::timeout(Duration::from_secs(30), asking).await.unwrap();
    assert_eq!(bad.backend.request_count(), 0);
    mesh.end().await;
}

/// Hands on bytes. What the server says of the client's certificate comes when the client has sent something more. (Tests
/// have one thread: what one side writes at once, the other reads at once.)
async fn delay(server: TcpStream, near: DuplexStream) {
    let (mut from_server, mut to_server) = server.into_split();
    let (mut from_client, mut to_client) = tokio::io::split(near);
    let (flights, seen) = watch::channel(0);
    let up = async move {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
            flights.send_modify(|flights| *flights += 1);
            if to_server.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    let down = async move {
        let (mut seen, mut buffer) = (seen, vec![0; 16 * 1024]);
        while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
            // ClientHello; the certificate; the request.
            if *seen.borrow() == 2 && seen.wait_for(|flights| *flights > 2).await.is_err() {
                return;
            }
            if to_client.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(up, down);
}

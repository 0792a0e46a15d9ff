use mesh_core::identity::SanMatch;
use mesh_core::model::{Config, Identity, IdentityFrom, Server, Settings};
use rustls::ClientConfig;
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsConnector;

use super::*;
use crate::Mesh;
use crate::identity::MemoryIdentity;
use crate::testing::log::Warnings;
use crate::testing::{Authority, NewCertificate, anonymous_client};

const CART: &str = "spiffe://cluster.local/cart";

/// Calls with `client`, or in plaintext.
async fn call(acceptor: &Acceptor, client: Option<&ClientConfig>) {
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    let remote = Some("192.0.2.1:7".parse().unwrap());
    let arrival = Arrival { raw: Raw::Other(Box::new(far)), remote, local: None };
    let place = acceptor.admit(&arrival).unwrap();
    let leaving = CancellationToken::new();
    let calling = async {
        match client {
            Some(client) => {
                let connector = TlsConnector::from(Arc::new(client.clone()));
                drop(connector.connect("server".try_into().unwrap(), near).await);
            }
            None => near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap(),
        }
    };
    let (stream, ()) = tokio::join!(acceptor.let_in(arrival, place, Instant::now(), &leaving), calling);
    assert!(stream.is_none());
}

/// What an operator must repair is told at WARN, each reason once a second, with who came and what to do.
#[tokio::test(start_paused = true)]
async fn callers_that_are_refused_are_told_of_and_do_not_fill_the_log() {
    let authority = Authority::new("cluster.local");
    let source = MemoryIdentity::new(authority.issue("spiffe://cluster.local/server").material(authority.bundles()));
    let mut settings = Settings::default();
    settings.identity = Some(Arc::new(Identity::new(IdentityFrom::Custom)));
    let mut server = Server::new("public");
    server.tls = Some(ServerTls::Strict);
    server.identities = vec![SanMatch::uri(CART)];
    let config = Config::new().with_server(server).with_settings(settings);
    let mesh = Mesh::builder().config(config).identity_source(source).build().await.unwrap();
    let acceptor = mesh.acceptor("public").unwrap();
    let careless = |issued: crate::testing::Issued| Some(issued.careless_client(rustls::ALL_VERSIONS));
    let warnings = Warnings::begin();
    let other = "spiffe://cluster.local/other";
    let cases = [
        (None, "plaintext", "no certificate that can be read", "set `tls: permissive`"),
        (careless(authority.issue(other)), "wrong_name", other, "add it to `identities`"),
        (careless(Authority::new("cluster.local").issue(CART)), "unknown_issuer", CART, "to the trust bundle"),
        (
            careless(authority.issue_as(NewCertificate::new().uri(CART).expired())),
            "expired",
            CART,
            "another certificate",
        ),
        (
            Some(anonymous_client(rustls::ALL_VERSIONS)),
            "no_certificate",
            "no certificate",
            "give the caller an `identity`",
        ),
    ];
    for second in 0..2 {
        for (client, reason, shown, way_out) in &cases {
            for _ in 0..5 {
                call(&acceptor, client.as_ref()).await;
            }
            let lines = warnings.take();
            let untold = format!("untold={} ", if second == 0 { 0 } else { 4 });
            assert_eq!(lines.len(), 1, "{reason}, second {second}: {lines:?}");
            let words = [
                &*format!("reason=\"{reason}\""),
                shown,
                way_out,
                "peer=192.0.2.1:7",
                "server=\"public\"",
                CART,
                &untold,
            ];
            for word in words {
                assert!(lines[0].contains(word), "{reason}, {word}: {lines:?}");
            }
        }
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    mesh.shutdown().await;
}

#[test]
fn whoever_only_looks_whether_the_port_is_open_is_no_news() {
    for error in [
        AcceptError::Draining,
        AcceptError::Timeout { stage: Stage::Handshaken, timeout: Duration::from_secs(1) },
        AcceptError::Io(io::ErrorKind::UnexpectedEof.into()),
        AcceptError::Handshake(io::ErrorKind::UnexpectedEof.into()),
    ] {
        assert!(error.to_repair().is_none(), "{error}");
    }
}

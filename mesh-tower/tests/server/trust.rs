//! MT-10: whoever would no longer be let in does not stay; and what changes of a server is followed.

use std::sync::Arc;

use mesh_tower::core::identity::SanMatch;
use mesh_tower::core::model::{Config, Server, ServerTls};
use mesh_tower::identity::Bundles;
use mesh_tower::testing::{Authority, Issued, watched};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;
use tokio_rustls::client::TlsStream;

use crate::support::{
    CALLER, Inside, OTHER, SERVER, Wire, identified, inside_as, inside_by, kind, reason, server, settled,
};

async fn connect(server: &Inside, issued: &Issued, alpn: &str) -> TlsStream<DuplexStream> {
    let mut config = issued.careless_client(rustls::ALL_VERSIONS);
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    watched(connector.connect("server".try_into().unwrap(), server.door.enter())).await.unwrap()
}

async fn h2(server: &Inside, issued: &Issued) -> Wire<TlsStream<DuplexStream>> {
    let mut wire = Wire::open(connect(server, issued, "h2").await).await;
    wire.get(1, "/").await;
    assert!(wire.answered(1).await);
    wire
}

async fn h1(server: &Inside, issued: &Issued, path: &str) -> TlsStream<DuplexStream> {
    let mut stream = connect(server, issued, "http/1.1").await;
    let upgrade = if path == "/upgrade" { "connection: upgrade\r\nupgrade: echo\r\n" } else { "" };
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\n{upgrade}\r\n").as_bytes()).await.unwrap();
    assert!(watched(stream.read(&mut [0; 1024])).await.unwrap() > 0);
    stream
}

async fn is_closed(mut stream: TlsStream<DuplexStream>) -> bool {
    // Not by an alert: it is an end that TLS calls truncated.
    watched(stream.read(&mut [0; 1024])).await.map_or(true, |length| length == 0)
}

/// MT-10: in use, idle, and speaking another protocol.
#[tokio::test(start_paused = true)]
async fn mt_10_connections_of_those_who_are_revoked_end() {
    // Of different names: lists are found by the name of their issuer.
    let (authority, second) = (Authority::new("cluster.local"), Authority::new("another authority"));
    let both = || Bundles::new(vec![authority.root().clone(), second.root().clone()]);
    let (server, identity) = inside_as(&authority, |_| {}).await;
    identity.set(authority.issue(SERVER).material(both()));
    settled().await;
    let (caller, other, third) = (authority.issue(CALLER), authority.issue(OTHER), second.issue(OTHER));
    let mut revoked = h2(&server, &caller).await;
    revoked.get(3, "/hold").await;
    server.app.held(1).await;
    let revoked = (revoked, h1(&server, &caller, "/").await, h1(&server, &caller, "/upgrade").await);
    let (mut stays, mut foreign) = (h2(&server, &other).await, h2(&server, &third).await);
    let lists = || vec![authority.revocation_list(&[&caller]).der, second.revocation_list(&[]).der];
    identity.set(authority.issue(SERVER).material(both()).with_revocation_lists(lists()));
    let (mut wire, idle, upgraded) = revoked;
    wire.until_closed().await;
    assert!(is_closed(idle).await);
    assert!(is_closed(upgraded).await);
    server.app.held(0).await;
    server.app.upgraded(0).await;
    for wire in [&mut stays, &mut foreign] {
        wire.get(3, "/").await;
        assert!(wire.answered(3).await);
    }
    // An authority goes: who was vouched for by it goes with it.
    identity.set(authority.issue(SERVER).material(authority.bundles()).with_revocation_lists(lists()));
    foreign.until_closed().await;
    stays.get(5, "/").await;
    assert!(stays.answered(5).await);
    // New certificates alone end nothing.
    identity.set(authority.issue(SERVER).material(authority.bundles()).with_revocation_lists(lists()));
    settled().await;
    stays.get(7, "/").await;
    assert!(stays.answered(7).await);
}

fn configured(change: impl FnOnce(&mut Server)) -> Arc<Config> {
    Arc::new(Config::new().with_server(server(change)).with_settings(identified()))
}

/// MT-10: a change of who gets in drains those who are there: nothing of theirs is lost.
#[tokio::test(start_paused = true)]
async fn mt_10_a_change_of_who_gets_in_drains_connections() {
    let authority = Authority::new("cluster.local");
    let configs = watch::Sender::new(configured(|_| {}));
    let (server, _) = inside_by(&configs, &authority).await;
    let caller = authority.issue(CALLER);
    let changes: [fn(&mut Server); 4] = [
        |server| server.identities = vec![SanMatch::uri(CALLER)],
        |server| server.tls = Some(ServerTls::Permissive),
        |server| server.tls = Some(ServerTls::Strict),
        |server| server.identities = vec![SanMatch::uri(OTHER)],
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut wire = h2(&server, &caller).await;
        wire.get(3, "/stream").await;
        server.app.held(1).await;
        let idle = h1(&server, &caller, "/").await;
        configs.send_replace(configured(change));
        let goaway = wire.wait(|frame| frame.kind == kind::GOAWAY).await;
        assert_eq!(goaway.reason(), reason::NO_ERROR, "{number}");
        assert!(is_closed(idle).await, "{number}");
        server.app.open();
        wire.wait(|frame| frame.stream == 3 && frame.ends_stream()).await;
        wire.until_closed().await;
        server.app.close();
    }
    // Now it is another one's turn.
    h2(&server, &authority.issue(OTHER)).await;
    let mut refused = connect(&server, &caller, "h2").await;
    assert!(watched(refused.read(&mut [0; 64])).await.is_err());
}

/// A change of limits holds for new connections, and ends none.
#[tokio::test(start_paused = true)]
async fn limits_change_for_new_connections() {
    let authority = Authority::new("cluster.local");
    let configs = watch::Sender::new(configured(|_| {}));
    let (server, _) = inside_by(&configs, &authority).await;
    let caller = authority.issue(CALLER);
    let mut before = h2(&server, &caller).await;
    configs.send_replace(configured(|server| {
        server.limits.max_concurrent_streams = 7;
        server.limits.idle_timeout = Some(std::time::Duration::from_secs(60));
        server.limits.max_connections = Some(2);
    }));
    settled().await;
    let mut after = Wire::open(connect(&server, &caller, "h2").await).await;
    let settings = after.wait(|frame| frame.kind == kind::SETTINGS).await;
    let streams = settings.payload.chunks(6).find(|setting| setting[..2] == [0, 3]).unwrap();
    assert_eq!(streams[2..], 7_u32.to_be_bytes());
    after.get(1, "/").await;
    assert!(after.answered(1).await);
    let mut third = server.door.enter();
    assert_eq!(watched(third.read(&mut [0])).await.unwrap(), 0);
    assert_eq!(after.until_closed().await.unwrap().reason(), reason::NO_ERROR);
    before.get(3, "/").await;
    assert!(before.answered(3).await);
}

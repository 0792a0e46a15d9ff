//! MT-10: whoever would no longer be let in does not stay; and what changes of a server is followed.

use std::sync::Arc;
use std::time::Duration;

use mesh_tower::core::identity::SanMatch;
use mesh_tower::core::model::{Config, Server, ServerTls};
use mesh_tower::identity::Bundles;
use mesh_tower::testing::{Authority, Issued, watched};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

use crate::support::{
    CALLER, Inside, OTHER, SERVER, Wire, identified, inside_as, inside_by, kind, reason, server, settled,
};

const GRACE: Duration = Duration::from_secs(7);

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

/// MT-10: a change of who gets in ends the connections of those who do not any more, and no other.
#[tokio::test(start_paused = true)]
async fn mt_10_a_change_of_who_gets_in_ends_what_it_shuts_out() {
    let authority = Authority::new("cluster.local");
    let configs = watch::Sender::new(configured(|_| {}));
    let (server, _) = inside_by(&configs, &authority).await;
    let (caller, other) = (authority.issue(CALLER), authority.issue(OTHER));
    let mut stays = h2(&server, &caller).await;
    stays.get(3, "/stream").await;
    server.app.held(1).await;
    let changes: [fn(&mut Server); 4] = [
        |server| server.identities = vec![SanMatch::uri(CALLER), SanMatch::uri(OTHER)],
        |server| server.tls = Some(ServerTls::Permissive),
        |server| server.tls = Some(ServerTls::Strict),
        |server| server.identities = vec![SanMatch::uri(CALLER)],
    ];
    let mut goes = h2(&server, &other).await;
    goes.get(3, "/stream").await;
    let (idle, upgraded) = (h1(&server, &other, "/").await, h1(&server, &other, "/upgrade").await);
    server.app.held(2).await;
    for (stream, change) in (5..).step_by(2).zip(changes) {
        goes.get(stream, "/").await;
        assert!(goes.answered(stream).await);
        configs.send_replace(configured(change));
        settled().await;
    }
    // Now it is the caller's alone, and what the other has under way ends, too.
    goes.until_closed().await;
    assert!(is_closed(idle).await);
    assert!(is_closed(upgraded).await);
    server.app.upgraded(0).await;
    server.app.held(1).await;
    let mut refused = connect(&server, &other, "h2").await;
    assert!(watched(refused.read(&mut [0; 64])).await.is_err());
    server.app.open();
    stays.wait(|frame| frame.stream == 3 && frame.ends_stream()).await;
    stays.get(5, "/").await;
    assert!(stays.answered(5).await);
}

/// MT-10: callers in plaintext, of a server that wants proof from now on, may finish what is under way, within the grace.
#[tokio::test(start_paused = true)]
async fn mt_10_callers_in_plaintext_finish_when_a_server_becomes_strict() {
    let authority = Authority::new("cluster.local");
    let configs = watch::Sender::new(configured(|server| server.tls = Some(ServerTls::Permissive)));
    let (server, _) = inside_by(&configs, &authority).await;
    let (mut ends, mut lasts) = (Wire::open(server.door.enter()).await, Wire::open(server.door.enter()).await);
    ends.get(1, "/stream").await;
    server.app.held(1).await;
    let mut upgraded = server.door.enter();
    upgraded
        .write_all(b"GET /upgrade HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n")
        .await
        .unwrap();
    let mut idle = server.door.enter();
    idle.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    for stream in [&mut upgraded, &mut idle] {
        assert!(watched(stream.read(&mut [0; 1024])).await.unwrap() > 0);
    }
    server.app.upgraded(1).await;
    let began = Instant::now();
    configs.send_replace(configured(|server| server.drain.grace = GRACE));
    for wire in [&mut ends, &mut lasts] {
        let goaway = wire.wait(|frame| frame.kind == kind::GOAWAY).await;
        assert_eq!(goaway.reason(), reason::NO_ERROR);
    }
    assert_eq!(watched(idle.read(&mut [0; 64])).await.unwrap(), 0);
    assert!(began.elapsed() < GRACE);
    server.app.open();
    ends.wait(|frame| frame.stream == 1 && frame.ends_stream()).await;
    server.app.close();
    lasts.polite = false;
    lasts.until_closed().await;
    assert_eq!(watched(upgraded.read(&mut [0; 64])).await.unwrap(), 0);
    server.app.upgraded(0).await;
    assert_eq!(began.elapsed().as_secs(), GRACE.as_secs());
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

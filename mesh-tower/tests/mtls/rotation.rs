//! Certificates that change while requests go on.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use mesh_tower::identity::{Bundles, Material, MemoryIdentity};
use mesh_tower::testing::{Authority, Events, Issued, NewCertificate, Seen, TestMesh};
use mesh_tower::{ConnectError, ErrorKind};

use crate::http_support::until;
use crate::support::{
    BOTH, CART, CATALOG, Server, ask, builder, catalog, connect_error, somebody, strict, until_asked,
};

const TTL: Duration = Duration::from_secs(3);

/// A certificate for the near future.
fn brief(authority: &Authority, uri: &str, ttl: Duration) -> Issued {
    let now = SystemTime::now();
    authority.issue_as(NewCertificate::new().uri(uri).valid(now - Duration::from_secs(60), now + ttl))
}

/// Waits until `identity` is in force as number `generation`.
async fn in_force(events: &Events, generation: u64) {
    let is_it = move |seen: &Seen| matches!(seen, Seen::Identity { generation: Some(it), .. } if *it >= generation);
    events.wait_for(is_it).await;
}

/// MT-02, in short: both sides get new certificates all the time, each good for three seconds. No request fails, new
/// handshakes show new certificates, and connections are replaced before theirs expire.
#[tokio::test]
async fn mt_02_no_request_fails_while_certificates_rotate() {
    rotate(Rotation { ttl: TTL, every: Duration::from_millis(200), lasts: 2 * TTL, pause: Duration::from_millis(5) })
        .await;
}

/// MT-02: 200 requests a second.
#[tokio::test]
#[ignore = "takes ten minutes"]
async fn mt_02_for_ten_minutes() {
    let every = Duration::from_secs(10);
    let lasts = Duration::from_secs(600);
    rotate(Rotation { ttl: 3 * every, every, lasts, pause: Duration::from_millis(40) }).await;
}

struct Rotation {
    /// How long a certificate is good.
    ttl: Duration,
    /// How often there are new ones.
    every: Duration,
    lasts: Duration,
    /// Between two requests of each of eight callers.
    pause: Duration,
}

async fn rotate(Rotation { ttl, every, lasts, pause }: Rotation) {
    let authority = Authority::new("cluster.local");
    let client = |authority: &Authority| brief(authority, CART, ttl).material(authority.bundles());
    let config = |authority: &Authority| strict(&brief(authority, CATALOG, ttl), authority, BOTH);
    let mut running = Vec::new();
    for protocol in ["http1", "http2"] {
        let server = Server::start("a", config(&authority)).await;
        let identity = MemoryIdentity::new(client(&authority));
        let backend = format!("protocol: {protocol}, tls: {{ mode: mutual, identities: ['{CATALOG}'] }}");
        let mesh = TestMesh::start(builder(&catalog(&[server.address], &backend), &identity)).await;
        running.push((server, identity, Arc::new(mesh)));
    }
    let (over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut load = tokio::task::JoinSet::new();
    for (_, _, mesh) in &running {
        for _ in 0..4 {
            let (mesh, over, sent) = (Arc::clone(mesh), Arc::clone(&over), Arc::clone(&sent));
            load.spawn(async move {
                while !over.load(Ordering::SeqCst) {
                    ask(&mesh).await.unwrap();
                    sent.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(pause).await;
                }
            });
        }
    }
    let began = std::time::Instant::now();
    while began.elapsed() < lasts {
        tokio::time::sleep(every).await;
        for (server, identity, _) in &running {
            server.set(config(&authority));
            identity.set(client(&authority));
        }
    }
    over.store(true, Ordering::SeqCst);
    while let Some(ended) = load.join_next().await {
        ended.unwrap();
    }
    assert!(sent.load(Ordering::SeqCst) > 100);
    for (server, _, mesh) in running {
        let shown: HashSet<_> = server.hellos().iter().filter_map(|hello| hello.client.clone()).collect();
        assert!(shown.len() >= 2, "{} certificates in {} handshakes", shown.len(), server.hellos().len());
        Arc::into_inner(mesh).unwrap().end().await;
    }
}

/// MT-09: a session is resumed under the identity by which its peer was verified, and under no other.
#[tokio::test]
async fn mt_09_no_session_is_resumed_across_identities() {
    let authority = Authority::new("cluster.local");
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = crate::support::strict_of(&authority.issue(CATALOG), &authority, BOTH, &[version]);
        let server = Server::start("a", config).await;
        let (events, identity) = (Events::new(), MemoryIdentity::new(somebody(&authority, CART)));
        let config = catalog(&[server.address], "protocol: http1");
        let mesh = TestMesh::start(builder(&config, &identity).observer(events.clone())).await;
        for (generation, resumed) in [(1, vec![false, true, true]), (2, vec![false, true])] {
            in_force(&events, generation).await;
            server.hellos().clear();
            for _ in 0..resumed.len() {
                server.backend.disconnect();
                server.backend.deserted().await;
                ask(&mesh).await.unwrap();
            }
            let seen: Vec<_> = server.hellos().iter().map(|hello| hello.resumed).collect();
            assert_eq!(seen, resumed, "{generation} {version:?}");
            // The same certificate, and one more authority.
            let stranger = Authority::new("partner.example");
            let bundles = authority.bundles().with("partner.example".parse().unwrap(), vec![stranger.root().clone()]);
            identity.set(authority.issue(CART).material(bundles));
        }
        mesh.end().await;
    }
}

/// Resumption verifies nothing by itself: a certificate that has expired since is refused all the same.
#[tokio::test]
async fn a_resumed_session_does_not_skip_checks() {
    let authority = Authority::new("cluster.local");
    let ttl = Duration::from_secs(3);
    let expires = SystemTime::now() + ttl;
    let server = Server::start("a", strict(&brief(&authority, CATALOG, ttl), &authority, BOTH)).await;
    let identity = MemoryIdentity::new(somebody(&authority, CART));
    let mesh = TestMesh::start(builder(&catalog(&[server.address], "protocol: http1"), &identity)).await;
    ask(&mesh).await.unwrap();
    server.backend.disconnect();
    tokio::time::sleep(expires.duration_since(SystemTime::now()).unwrap_or_default() + Duration::from_secs(1)).await;
    let error = ask(&mesh).await.unwrap_err();
    let ConnectError::Peer { reason, .. } = connect_error(&error) else { panic!("{error:?}") };
    assert_eq!(reason.as_str(), "expired");
    until("the server saw it resumed", || server.hellos().get(1).is_some_and(|hello| hello.resumed)).await;
    assert_eq!(server.backend.request_count(), 1);
    mesh.end().await;
}

/// MT-10: whoever is revoked loses the connections they have, and what is under way on them; others notice nothing.
#[tokio::test]
async fn mt_10_connections_of_those_who_are_revoked_end() {
    let authority = Authority::new("cluster.local");
    for protocol in ["http1", "http2"] {
        let (bad, good) = (authority.issue(CATALOG), authority.issue(CATALOG));
        let revoked = Server::start("bad", strict(&bad, &authority, BOTH)).await;
        let kept = Server::start("good", strict(&good, &authority, BOTH)).await;
        let own = authority.issue(CART);
        let (events, identity) = (Events::new(), MemoryIdentity::new(own.material(authority.bundles())));
        let config = catalog(&[revoked.address, kept.address], &format!("protocol: {protocol}"));
        let mesh = TestMesh::start(builder(&config, &identity).observer(events.clone())).await;
        let answers =
            |name: &'static str| move |answer: &Result<String, _>| matches!(answer, Ok(it) if it.starts_with(name));
        until_asked(&mesh, "the bad one answers", answers("bad")).await;
        until_asked(&mesh, "the good one answers", answers("good")).await;
        let (connections, handshakes) = (kept.backend.open_connections(), kept.hellos().len());
        let list = authority.revocation_list(&[&bad]);
        identity.set(own.material(authority.bundles()).with_revocation_lists(vec![list.der]));
        until("its connections end", || revoked.backend.open_connections() == 0).await;
        assert_eq!((kept.backend.open_connections(), kept.hellos().len()), (connections, handshakes), "{protocol}");
        // Only now that it has gone.
        let refused =
            |seen: &Seen| matches!(seen, Seen::Connect { error: Some(error), .. } if error.contains("revoked"));
        let asking = async {
            loop {
                let _ = ask(&mesh).await;
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = events.wait_for(refused) => {}
            () = asking => {}
        }
        let before = revoked.backend.request_count();
        for _ in 0..20 {
            assert_eq!(ask(&mesh).await.unwrap().split(' ').next(), Some("good"));
        }
        assert_eq!(revoked.backend.request_count(), before);
        mesh.end().await;
    }
}

/// A request that is under way when its peer is refused fails, and says why.
#[tokio::test]
async fn what_is_under_way_with_a_revoked_peer_fails() {
    use mesh_tower::testing::{Fault, MemoryNetwork, TestBackend};
    let authority = Authority::new("cluster.local");
    for protocol in ["http1", "http2"] {
        let issued = authority.issue(CATALOG);
        let backend = Arc::new(TestBackend::named("held").start_in(&MemoryNetwork::new()));
        backend.set(Fault::Stall);
        let server = Server::before(Arc::clone(&backend), strict(&issued, &authority, BOTH)).await;
        let own = authority.issue(CART);
        let identity = MemoryIdentity::new(own.material(authority.bundles()));
        let mesh = builder(&catalog(&[server.address], &format!("protocol: {protocol}")), &identity);
        let mesh = Arc::new(TestMesh::start(mesh).await);
        let asking = tokio::spawn({
            let mesh = Arc::clone(&mesh);
            async move { ask(&mesh).await }
        });
        until("the request is there", || backend.request_count() == 1).await;
        let list = authority.revocation_list(&[&issued]);
        identity.set(own.material(authority.bundles()).with_revocation_lists(vec![list.der]));
        let error = asking.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Reset, "{error:?}");
        assert!(error.report().contains("not trusted any more"), "{}", error.report());
        Arc::into_inner(mesh).unwrap().end().await;
    }
}

/// MT-16: while a source brings nothing usable the last good identity serves.
#[tokio::test]
async fn mt_16_good_bad_good() {
    let authority = Authority::new("cluster.local");
    let server = Server::start("a", strict(&authority.issue(CATALOG), &authority, BOTH)).await;
    let (events, identity) = (Events::new(), MemoryIdentity::new(somebody(&authority, CART)));
    let config = catalog(&[server.address], "protocol: http1");
    let mesh = TestMesh::start(builder(&config, &identity).observer(events.clone())).await;
    let bad = |authority: &Authority| {
        let (certificate, key) = (authority.issue(CART), authority.issue(CART));
        Material::new(certificate.chain.clone(), key.key(), Bundles::default())
    };
    ask(&mesh).await.unwrap();
    identity.set(bad(&authority));
    events.wait_for(|seen| matches!(seen, Seen::Identity { error: Some(_), .. })).await;
    for _ in 0..3 {
        server.backend.disconnect();
        server.backend.deserted().await;
        ask(&mesh).await.unwrap();
    }
    identity.set(somebody(&authority, CART));
    in_force(&events, 2).await;
    server.backend.disconnect();
    server.backend.deserted().await;
    ask(&mesh).await.unwrap();
    let shown: HashSet<_> = server.hellos().iter().filter_map(|hello| hello.client.clone()).collect();
    assert_eq!(shown.len(), 2);
    mesh.end().await;
}

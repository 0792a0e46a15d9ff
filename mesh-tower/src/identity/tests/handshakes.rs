//! Real handshakes over connections in memory.

use std::io;
use std::time::{Duration, SystemTime};

use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, ClientConfig, HandshakeKind, ProtocolVersion, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::identity::{Usage, refused};
use crate::testing::{NewCertificate, anonymous_client, watched};

const HOUR: Duration = Duration::from_secs(3600);
const BOTH: &[&rustls::SupportedProtocolVersion] = &[&TLS12, &TLS13];

/// What one side saw.
#[derive(Debug)]
struct Met {
    peer: Vec<CertificateDer<'static>>,
    version: ProtocolVersion,
    alpn: Option<Vec<u8>>,
    resumed: bool,
}

fn met(connection: &rustls::CommonState) -> Met {
    Met {
        peer: connection.peer_certificates().unwrap_or_default().to_vec(),
        version: connection.protocol_version().unwrap(),
        alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
        resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
    }
}

/// A handshake, and a byte each way: over TLS 1.3 a client hears of its refusal no earlier.
async fn meet(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> (io::Result<Met>, io::Result<Met>) {
    let (near, far) = duplex(64 * 1024);
    let client = async {
        let mut stream = TlsConnector::from(Arc::clone(client)).connect(name(), near).await?;
        stream.write_all(b"?").await?;
        stream.read_exact(&mut [0]).await?;
        Ok(met(stream.get_ref().1))
    };
    watched(async { tokio::join!(client, accept(server, far)) }).await
}

async fn accept(server: &Arc<ServerConfig>, stream: DuplexStream) -> io::Result<Met> {
    let mut stream = TlsAcceptor::from(Arc::clone(server)).accept(stream).await?;
    stream.read_exact(&mut [0]).await?;
    stream.write_all(b"!").await?;
    Ok(met(stream.get_ref().1))
}

fn name() -> ServerName<'static> {
    ServerName::try_from("whoever.invalid").unwrap()
}

fn alert(error: &io::Error) -> AlertDescription {
    match error.get_ref().and_then(|error| error.downcast_ref()) {
        Some(rustls::Error::AlertReceived(alert)) => *alert,
        _ => panic!("no alert came: {error:?}"),
    }
}

struct World {
    authority: Authority,
    cart: Identity,
    catalog: Identity,
}

impl World {
    fn new() -> Self {
        let authority = Authority::new("cluster.local");
        let cart = cart(&authority, authority.bundles());
        let catalog = identity_of(authority.issue(CATALOG).material(authority.bundles())).unwrap();
        Self { authority, cart, catalog }
    }

    fn client(&self, expected: &[SanMatch]) -> Arc<ClientConfig> {
        Arc::new(self.cart.client_config(&terms(expected)).unwrap())
    }

    fn server(&self, expected: &[SanMatch]) -> Arc<ServerConfig> {
        Arc::new(self.catalog.server_config(&expecting(expected), true).unwrap())
    }
}

#[tokio::test]
async fn both_prove_who_they_are() {
    let world = World::new();
    let client = world.client(&[SanMatch::uri(CATALOG)]);
    let (client, server) = meet(&client, &world.server(&[SanMatch::uri(CART)])).await;
    let (client, server) = (client.unwrap(), server.unwrap());
    assert_eq!(client.version, ProtocolVersion::TLSv1_3, "MT-12: TLS 1.3 where both can");
    assert_eq!(client.alpn.as_deref(), Some(&b"h2"[..]));
    let now = UnixTime::now();
    let seen = world.catalog.trust().verify(&server.peer, Usage::Client, &[], now).unwrap();
    assert_eq!(seen.id(), Some(&spiffe_id(CART)));
    let seen = world.cart.trust().verify(&client.peer, Usage::Server, &[], now).unwrap();
    assert_eq!(seen.id(), Some(&spiffe_id(CATALOG)));
}

/// MT-01, MT-05, MT-11, MT-20: a client refuses a server, names the reason, and says so by the right alert.
#[tokio::test]
async fn mt_01_05_11_20_a_client_refuses_a_server() {
    let world = World::new();
    let new = || NewCertificate::new().uri(CATALOG);
    let issue = |certificate: NewCertificate| world.authority.issue_as(certificate);
    for (server, expected, reason, told) in [
        (issue(new().expired()), vec![], "expired", AlertDescription::CertificateExpired),
        (issue(new().not_yet_valid()), vec![], "not_yet_valid", AlertDescription::CertificateExpired),
        (issue(new().for_clients()), vec![], "wrong_usage", AlertDescription::UnsupportedCertificate),
        (issue(new().weak_key()), vec![], "weak_key", AlertDescription::CertificateUnknown),
        (issue(new().uri(CART)), vec![], "many_spiffe_ids", AlertDescription::CertificateUnknown),
        (issue(NewCertificate::new().dns("a")), vec![], "no_spiffe_id", AlertDescription::CertificateUnknown),
        (issue(new()), vec![SanMatch::uri(CART)], "wrong_name", AlertDescription::CertificateUnknown),
        (Authority::new("cluster.local").issue(CATALOG), vec![], "unknown_issuer", AlertDescription::UnknownCA),
        (world.authority.issue("spiffe://b/c"), vec![], "unknown_trust_domain", AlertDescription::CertificateUnknown),
    ] {
        for version in BOTH {
            let server = Arc::new(server.careless_server(&[version]));
            let (client, server) = meet(&world.client(&expected), &server).await;
            let refused = PeerRefused::of(&client.unwrap_err()).expect("the reason survives");
            assert_eq!(refused.as_str(), reason, "{version:?}");
            assert_eq!(alert(&server.unwrap_err()), told, "{version:?}, {reason}");
        }
    }
}

/// MT-01, MT-05, MT-11, MT-13, MT-20: a server refuses a client by the same rules.
#[tokio::test]
async fn mt_01_05_11_13_20_a_server_refuses_a_client() {
    let world = World::new();
    let new = || NewCertificate::new().uri(CART);
    let issue = |certificate: NewCertificate| world.authority.issue_as(certificate);
    for (client, expected, reason, told) in [
        (issue(new().expired()), vec![], "expired", AlertDescription::CertificateExpired),
        (issue(new().not_yet_valid()), vec![], "not_yet_valid", AlertDescription::CertificateExpired),
        (issue(new().for_servers()), vec![], "wrong_usage", AlertDescription::UnsupportedCertificate),
        (issue(new().uri(CATALOG)), vec![], "many_spiffe_ids", AlertDescription::CertificateUnknown),
        (issue(NewCertificate::new().dns("a")), vec![], "no_spiffe_id", AlertDescription::CertificateUnknown),
        (issue(new()), vec![SanMatch::uri(CATALOG)], "wrong_name", AlertDescription::CertificateUnknown),
        (Authority::new("cluster.local").issue(CART), vec![], "unknown_issuer", AlertDescription::UnknownCA),
        (world.authority.issue("spiffe://b/c"), vec![], "unknown_trust_domain", AlertDescription::CertificateUnknown),
    ] {
        for version in BOTH {
            let client = Arc::new(client.careless_client(&[version]));
            let (client, server) = meet(&client, &world.server(&expected)).await;
            let refused = PeerRefused::of(&server.unwrap_err()).expect("the reason survives");
            assert_eq!(refused.as_str(), reason, "{version:?}");
            assert_eq!(alert(&client.unwrap_err()), told, "{version:?}, {reason}");
        }
    }
    for version in BOTH {
        let (client, server) = meet(&Arc::new(anonymous_client(&[version])), &world.server(&[])).await;
        assert_eq!(PeerRefused::of(&server.unwrap_err()), Some(PeerRefused::NoCertificate));
        assert_eq!(alert(&client.unwrap_err()), AlertDescription::CertificateRequired);
    }
}

/// MT-10: revoked peers are refused in the handshake, on either side.
#[tokio::test]
async fn mt_10_revoked_peers() {
    let authority = Authority::new("cluster.local");
    let (cart, catalog) = (authority.issue(CART), authority.issue(CATALOG));
    let good = |issued: &Issued| identity_of(issued.material(authority.bundles())).unwrap();
    let knowing = |issued: &Issued, revoked: &Issued| {
        let list = authority.revocation_list(&[revoked]).der;
        identity_of(issued.material(authority.bundles()).with_revocation_lists(vec![list])).unwrap()
    };
    let client = |identity: &Identity| Arc::new(identity.client_config(&terms(&[])).unwrap());
    let server = |identity: &Identity| Arc::new(identity.server_config(&expecting(&[]), true).unwrap());

    let (refusing, told) = meet(&client(&knowing(&cart, &catalog)), &server(&good(&catalog))).await;
    assert_eq!(PeerRefused::of(&refusing.unwrap_err()), Some(PeerRefused::Revoked));
    assert_eq!(alert(&told.unwrap_err()), AlertDescription::CertificateRevoked);
    let (told, refusing) = meet(&client(&good(&cart)), &server(&knowing(&catalog, &cart))).await;
    assert_eq!(PeerRefused::of(&refusing.unwrap_err()), Some(PeerRefused::Revoked));
    assert_eq!(alert(&told.unwrap_err()), AlertDescription::CertificateRevoked);
}

/// MT-09: a session is resumed by the identity and the list that it was made under, and by no other.
#[tokio::test]
async fn mt_09_no_resumption_across_trust() {
    for version in BOTH {
        let world = World::new();
        let mut client = world.cart.client_config(&terms(&[])).unwrap();
        if **version == TLS12 {
            // Towards a peer that has no better: the server takes what the client offers.
            client = old_client(&world);
        }
        let (client, server) = (Arc::new(client), world.server(&[]));
        let first = meet(&client, &server).await.1.unwrap();
        assert!(!first.resumed);
        let again = meet(&client, &server).await;
        let (there, here) = (again.0.unwrap(), again.1.unwrap());
        assert!(there.resumed && here.resumed, "{version:?}: the same two resume");
        assert_eq!(here.peer, first.peer, "and the peer is still known");

        // The same certificate, trust and list: and yet a new configuration.
        assert!(!meet(&client, &world.server(&[])).await.1.unwrap().resumed, "{version:?}");
        // Of a list that the client is not on.
        let refused = meet(&client, &world.server(&[SanMatch::uri(CATALOG)])).await.1.unwrap_err();
        assert_eq!(PeerRefused::of(&refused).unwrap().as_str(), "wrong_name");
        // A new identity, whose bundle no longer holds the client's authority.
        let new = Authority::new("cluster.local");
        let rotated = identity_of(world.authority.issue(CATALOG).material(new.bundles())).unwrap();
        let rotated = Arc::new(rotated.server_config(&expecting(&[]), true).unwrap());
        let refused = meet(&client, &rotated).await.1.unwrap_err();
        assert_eq!(PeerRefused::of(&refused), Some(PeerRefused::UnknownIssuer), "{version:?}");
        // And a client under new trust asks its server anew.
        let rotated = identity_of(world.authority.issue(CART).material(new.bundles())).unwrap();
        let rotated = Arc::new(rotated.client_config(&terms(&[])).unwrap());
        let refused = meet(&rotated, &server).await.0.unwrap_err();
        assert_eq!(PeerRefused::of(&refused), Some(PeerRefused::UnknownIssuer), "{version:?}");
    }
}

/// MT-09: what expired since the first handshake, above the peer's own certificate or of the lists, is not resumed.
#[tokio::test]
async fn mt_09_a_resumed_session_is_verified_as_of_now() {
    let now = SystemTime::now();
    let below = |authority: &Authority, id: &str| {
        // It outlives the certificate of the authority above it, which is valid for 24 hours.
        authority.issue_as(NewCertificate::new().uri(id).valid(now - HOUR, now + 48 * HOUR))
    };
    for (lists, good_until, then, reason) in
        [(false, 23 * HOUR, 25 * HOUR, "expired"), (true, 3 * HOUR, 5 * HOUR, "undetermined_revocation")]
    {
        for version in BOTH {
            let root = Authority::new("cluster.local");
            let zone = root.intermediate("zone a");
            let list = |of: &Authority| of.revocation_list_of(&[], now - HOUR, now + 4 * HOUR).der;
            let identity = |id: &str| {
                let material = below(&zone, id).material(root.bundles());
                let lists = if lists { vec![list(&root), list(&zone)] } else { Vec::new() };
                identity_of(material.with_revocation_lists(lists)).unwrap()
            };
            let (cart, catalog) = (identity(CART), identity(CATALOG));
            let client = match version.version {
                ProtocolVersion::TLSv1_2 => below(&zone, CART).careless_client(&[version]),
                _ => cart.client_config(&terms(&[])).unwrap(),
            };
            let client = Arc::new(client);
            let server = Arc::new(catalog.server_config(&expecting(&[]), true).unwrap());
            let (first, _) = meet(&client, &server).await;
            assert!(!first.unwrap().resumed);

            let (near, far) = duplex(64 * 1024);
            let (connector, acceptor) = (TlsConnector::from(client), TlsAcceptor::from(server));
            let (client, server) =
                watched(async { tokio::join!(connector.connect(name(), near), acceptor.accept(far)) }).await;
            let (client, server) = (client.unwrap(), server.unwrap());
            assert_eq!(server.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed), "{version:?}");
            let at = |hours: Duration| refused::unix_time(now + hours);
            let caller = |hours| catalog.trust().of_connection(server.get_ref().1, Usage::Client, &[], at(hours));
            assert_eq!(caller(good_until).unwrap().id(), Some(&spiffe_id(CART)));
            assert_eq!(caller(then).unwrap_err().as_str(), reason, "{version:?}");
            let called = |hours| cart.trust().of_connection(client.get_ref().1, Usage::Server, &[], at(hours));
            assert_eq!(called(good_until).unwrap().id(), Some(&spiffe_id(CATALOG)));
            assert_eq!(called(then).unwrap_err().as_str(), reason, "{version:?}");
        }
    }
}

/// MT-18: a chain that is longer than any good one is refused before it is kept, on either side.
#[tokio::test]
async fn mt_18_long_chains() {
    let world = World::new();
    let zone = world.authority.intermediate("zone a");
    let with = |id: &str, certificates: usize| {
        let mut issued = zone.issue(id);
        issued.chain.resize(certificates, issued.chain[1].clone());
        issued
    };
    let large = |id: &str| {
        let certificate = NewCertificate::new().uri(id);
        zone.issue_as((0..1200).fold(certificate, |it, i| it.dns(&format!("a-rather-long-name-{i}.example.com"))))
    };
    for version in BOTH {
        let longest = Arc::new(with(CART, 10).careless_client(&[version]));
        drop(meet(&longest, &world.server(&[])).await.1.unwrap());
        for long in [with(CART, 11), large(CART)] {
            let client = Arc::new(long.careless_client(&[version]));
            let (told, refusing) = meet(&client, &world.server(&[])).await;
            assert_eq!(PeerRefused::of(&refusing.unwrap_err()).unwrap().as_str(), "long_chain");
            assert_eq!(alert(&told.unwrap_err()), AlertDescription::CertificateUnknown);
        }
        for long in [with(CATALOG, 11), large(CATALOG)] {
            let server = Arc::new(long.careless_server(&[version]));
            let (refusing, told) = meet(&world.client(&[]), &server).await;
            let refused = PeerRefused::of(&refusing.unwrap_err()).unwrap();
            assert!(matches!(refused, PeerRefused::LongChain { .. }), "{refused}");
            assert_eq!(alert(&told.unwrap_err()), AlertDescription::CertificateUnknown);
        }
    }
}

fn old_client(world: &World) -> ClientConfig {
    world.authority.issue(CART).careless_client(&[&TLS12])
}

/// MT-12: TLS 1.2 at least, on either side; what is older is refused with an alert.
#[tokio::test]
async fn mt_12_versions() {
    let world = World::new();
    for version in BOTH {
        let client = Arc::new(world.authority.issue(CART).careless_client(&[version]));
        let (client, server) = meet(&client, &world.server(&[])).await;
        assert_eq!((client.unwrap().version, server.unwrap().version), (version.version, version.version));
        let server = Arc::new(world.authority.issue(CATALOG).careless_server(&[version]));
        assert_eq!(meet(&world.client(&[]), &server).await.0.unwrap().version, version.version);
    }
    for (minor, suite, what) in
        [(1, [0xc0, 0x09], "TLS 1.0"), (2, [0xc0, 0x09], "TLS 1.1"), (3, [0x00, 0x3b], "no cipher")]
    {
        let (mut near, far) = duplex(64 * 1024);
        near.write_all(&client_hello(minor, suite)).await.unwrap();
        let error = watched(accept(&world.server(&[]), far)).await.unwrap_err();
        assert_eq!(PeerRefused::of(&error), None, "{what}: {error}");
        let mut answer = Vec::new();
        watched(near.read_to_end(&mut answer)).await.unwrap();
        // An alert record: fatal, protocol_version or handshake_failure.
        assert_eq!((answer[0], answer[5]), (0x15, 2), "{what}");
        assert!(matches!((minor, answer[6]), (1 | 2, 70) | (3, 40)), "{what}: {answer:?}");
    }
}

/// A ClientHello of TLS 1.`minor - 1` that offers one cipher suite and no extension but what a server must see.
fn client_hello(minor: u8, suite: [u8; 2]) -> Vec<u8> {
    let mut body = vec![3, minor];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 2]);
    body.extend(suite);
    body.extend([1, 0]);
    let extensions = [[0, 10, 0, 4, 0, 2, 0, 23].as_slice(), &[0, 13, 0, 4, 0, 2, 4, 3], &[0, 23, 0, 0]].concat();
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    let mut hello = vec![1, 0];
    hello.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    hello.extend(body);
    let mut record = vec![0x16, 3, 1];
    record.extend(u16::try_from(hello.len()).unwrap().to_be_bytes());
    record.extend(hello);
    record
}

/// What a sidecar of Istio offers is understood.
#[tokio::test]
async fn alpn_of_istio() {
    let world = World::new();
    for (offered, agreed) in [
        (&["istio-h2", "istio", "h2"][..], "h2"),
        (&["istio-http/1.1", "istio", "http/1.1"], "http/1.1"),
        (&["istio-peer-exchange", "istio"], "istio"),
        (&["istio-http/1.1", "istio"], "istio-http/1.1"),
    ] {
        let mut terms = terms(&[]);
        terms.alpn = offered.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let client = Arc::new(world.cart.client_config(&terms).unwrap());
        let (client, server) = meet(&client, &world.server(&[])).await;
        assert_eq!(client.unwrap().alpn.as_deref(), Some(agreed.as_bytes()), "{offered:?}");
        drop(server.unwrap());
    }
}

/// Other roots than the mesh's, for one backend; the rules of SPIFFE do not hold there.
#[tokio::test]
async fn roots_of_a_backend() {
    let world = World::new();
    let other = Authority::new("Example CA");
    let server = Arc::new(other.issue_as(NewCertificate::new().dns("legacy.example.com")).careless_server(BOTH));
    let roots = Arc::new(rustls::RootCertStore {
        roots: vec![webpki::anchor_from_trusted_cert(other.root()).unwrap().to_owned()],
    });
    let terms = Terms { roots: Some(roots), ..terms(&[SanMatch::dns("legacy.example.com")]) };
    let client = Arc::new(world.cart.client_config(&terms).unwrap());
    let met = meet(&client, &server).await.0.unwrap();
    let trust = world.cart.trust_on(&terms);
    let certified = trust.verify(&met.peer, Usage::Server, &terms.expected, UnixTime::now()).unwrap();
    assert_eq!(certified.id(), None);
    let own = Arc::new(world.authority.issue(CATALOG).careless_server(BOTH));
    let refused = meet(&client, &own).await.0.unwrap_err();
    assert_eq!(PeerRefused::of(&refused), Some(PeerRefused::UnknownIssuer));
}

/// A server may ask for a certificate and go without.
#[tokio::test]
async fn a_client_certificate_may_be_optional() {
    let world = World::new();
    let server = Arc::new(world.catalog.server_config(&expecting(&[]), false).unwrap());
    let met = meet(&Arc::new(anonymous_client(BOTH)), &server).await.1.unwrap();
    assert!(met.peer.is_empty());
    let bad = world.authority.issue_as(NewCertificate::new().uri(CART).expired());
    let refused = meet(&Arc::new(bad.careless_client(BOTH)), &server).await.1.unwrap_err();
    assert_eq!(PeerRefused::of(&refused).unwrap().as_str(), "expired", "what is shown must be good");
}

/// MT-18: what rustls makes of fragments, rubbish and hellos that break off (RUSTSEC-2024-0336, 2024-0399).
#[tokio::test]
async fn mt_18_a_hello_in_records_of_one_byte() {
    let world = World::new();
    let config = world.client(&[]);
    let mut connection = rustls::ClientConnection::new(config, name()).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    let records = hello[5..].iter().flat_map(|byte| [0x16, 3, 1, 0, 1, *byte]).collect::<Vec<u8>>();

    let (mut near, far) = duplex(256 * 1024);
    let server = world.server(&[]);
    let accepting = tokio::spawn(async move { accept(&server, far).await });
    near.write_all(&records).await.unwrap();
    let mut answer = [0; 1];
    watched(near.read_exact(&mut answer)).await.unwrap();
    assert!(matches!(answer[0], 0x16 | 0x15), "a ServerHello or an alert: {answer:?}");
    drop(near);
    watched(accepting).await.unwrap().unwrap_err();
}

/// MT-18: an error of one connection, and no other notices.
#[tokio::test]
async fn mt_18_rubbish_and_broken_hellos() {
    let world = World::new();
    let server = world.server(&[]);
    let mut connection = rustls::ClientConnection::new(world.client(&[]), name()).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    let noise: Vec<u8> = (0..64 * 1024_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let endless = [0x16, 3, 1, 0x40, 0].into_iter().chain([1; 0x4000]).collect::<Vec<u8>>().repeat(4);
    for bytes in [&b""[..], &hello[..1], &hello[..20], &hello, &noise, &endless, b"GET / HTTP/1.1\r\n\r\n"] {
        let (mut near, far) = duplex(256 * 1024);
        // Whoever refuses may be gone before all is written.
        drop(near.write_all(bytes).await);
        drop(near.shutdown().await);
        let error = watched(accept(&server, far)).await.unwrap_err();
        assert_eq!(PeerRefused::of(&error), None, "{error}");
        let (client, server) = meet(&world.client(&[]), &server).await;
        drop((client.unwrap(), server.unwrap()));
    }
}

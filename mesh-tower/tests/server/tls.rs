//! MT-01, MT-12, MT-13, MT-14, MT-18: what happens before a caller has said anything in HTTP.

use std::sync::Arc;
use std::time::Duration;

use mesh_tower::core::model::ServerTls;
use mesh_tower::testing::{Authority, NewCertificate, anonymous_client, watched};
use rustls::{ALL_VERSIONS, ClientConfig, HandshakeKind};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::{CALLER, Inside, OTHER, SERVER, Wire, client_through_as, inside_as, settled, text};

const GET: &[u8] = b"GET /somewhere HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

async fn shake_hands(config: &Arc<ClientConfig>, stream: DuplexStream) -> std::io::Result<TlsStream<DuplexStream>> {
    watched(TlsConnector::from(Arc::clone(config)).connect("server".try_into().unwrap(), stream)).await
}

fn offering(mut config: ClientConfig, alpn: &[&str]) -> Arc<ClientConfig> {
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Arc::new(config)
}

async fn over_http1(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> String {
    let _ = stream.write_all(GET).await;
    let mut answer = Vec::new();
    let _ = watched(stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// Whether HTTP/2 is answered.
async fn over_http2(stream: impl AsyncRead + AsyncWrite + Unpin) -> bool {
    let mut wire = Wire::open(stream).await;
    wire.get(1, "/").await && wire.answered(1).await
}

/// The hello of a client that speaks TLS 1.2 alone, or 1.3 too.
fn hello(versions: &[&'static rustls::SupportedProtocolVersion]) -> Vec<u8> {
    let config = Arc::new(anonymous_client(versions));
    let mut bytes = Vec::new();
    let mut client = rustls::ClientConnection::new(config, "server".try_into().unwrap()).unwrap();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// Sends `bytes`, and no more if not told to `close`; what the server answers, and when it closes.
async fn answered(server: &Inside, bytes: &[u8], close: bool) -> (Vec<u8>, Duration) {
    let began = Instant::now();
    let mut stream = server.door.enter();
    // It may be closed before all of it is read.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    if close {
        stream.shutdown().await.unwrap_or_default();
    }
    let _ = watched(stream.read_to_end(&mut answer)).await;
    (answer, began.elapsed())
}

/// A fatal alert (RFC 8446 6).
fn is_alert(answer: &[u8], code: u8) -> bool {
    answer.len() >= 7 && answer[0] == 21 && answer[5..7] == [2, code]
}

async fn good_caller(server: &Inside, authority: &Authority) {
    let config = offering(authority.issue(CALLER).careless_client(ALL_VERSIONS), &["h2"]);
    assert!(over_http2(shake_hands(&config, server.door.enter()).await.unwrap()).await);
}

/// MT-13: closed, without a word of HTTP.
#[tokio::test(start_paused = true)]
async fn mt_13_a_strict_server_answers_plaintext_with_nothing() {
    let authority = Authority::new("cluster.local");
    let (server, _) = inside_as(&authority, |_| {}).await;
    for first in ["GET / HTTP/1.1\r\nhost: a\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\0\0", "P\n"] {
        let (answer, elapsed) = answered(&server, first.as_bytes(), false).await;
        assert!(answer.is_empty(), "{first:?}: {}", answer.escape_ascii());
        assert_eq!(elapsed, Duration::ZERO, "{first:?}");
    }
    #[cfg(feature = "prometheus")]
    assert_eq!(crate::support::refused(&server, "plaintext"), 4);
    // TLS without a certificate. With TLS 1.3 a client believes for a while that it is through.
    for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
        let config = offering(anonymous_client(versions), &["http/1.1"]);
        match shake_hands(&config, server.door.enter()).await {
            Ok(stream) => assert_eq!(over_http1(stream).await, ""),
            Err(error) => assert!(error.to_string().contains("alert"), "{error}"),
        }
    }
    #[cfg(feature = "prometheus")]
    assert_eq!(crate::support::refused(&server, "identity"), 2);
    good_caller(&server, &authority).await;
}

/// MT-01, MT-11: whoever cannot prove who they are is told so by an alert.
#[tokio::test(start_paused = true)]
async fn mt_01_callers_with_bad_certificates_are_refused() {
    let authority = Authority::new("cluster.local");
    let (server, _) = inside_as(&authority, |server| {
        server.identities = vec![mesh_tower::core::identity::SanMatch::uri(CALLER)];
    })
    .await;
    let new = || NewCertificate::new().uri(CALLER);
    let foreign = Authority::new("cluster.local");
    for (name, issued) in [
        ("expired", authority.issue_as(new().expired())),
        ("not yet valid", authority.issue_as(new().not_yet_valid())),
        ("for servers alone", authority.issue_as(new().for_servers())),
        ("two ids", authority.issue_as(new().uri(OTHER))),
        ("no name", authority.issue_as(NewCertificate::new())),
        ("somebody else", authority.issue(OTHER)),
        ("of a foreign authority", foreign.issue(CALLER)),
    ] {
        for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
            let config = offering(issued.careless_client(versions), &["http/1.1"]);
            match shake_hands(&config, server.door.enter()).await {
                Ok(stream) => assert_eq!(over_http1(stream).await, "", "{name}"),
                Err(error) => assert!(error.to_string().contains("alert"), "{name}: {error}"),
            }
        }
    }
    good_caller(&server, &authority).await;
}

/// MT-12: TLS 1.3, and 1.2 for those who have no better; nothing below, and no cipher that hides nothing.
#[tokio::test(start_paused = true)]
async fn mt_12_old_versions_and_null_ciphers_are_refused() {
    let authority = Authority::new("cluster.local");
    let (server, _) = inside_as(&authority, |_| {}).await;
    for (versions, spoken) in [
        (ALL_VERSIONS, rustls::ProtocolVersion::TLSv1_3),
        (&[&rustls::version::TLS12], rustls::ProtocolVersion::TLSv1_2),
    ] {
        let config = offering(authority.issue(CALLER).careless_client(versions), &["http/1.1"]);
        let stream = shake_hands(&config, server.door.enter()).await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(spoken));
        assert!(over_http1(stream).await.ends_with(CALLER));
    }
    let mut new = hello(&[&rustls::version::TLS12]);
    // Without the extension that says which versions there are (RFC 8446 4.2.1), as old clients do.
    let extension = new.windows(7).position(|bytes| bytes == [0, 43, 0, 3, 2, 3, 3]).unwrap();
    new[extension] = 0x7f;
    for minor in [0, 1, 2] {
        let mut old = new.clone();
        old[10] = minor;
        let (answer, _) = answered(&server, &old, false).await;
        assert!(is_alert(&answer, 70), "TLS 1.{minor}: {}", answer.escape_ascii());
    }
    // Behind the header of the record and of the message, the version and 32 random bytes.
    let at = 5 + 4 + 2 + 32;
    let suites = at + 1 + usize::from(new[at]);
    let length = usize::from(new[suites]) << 8 | usize::from(new[suites + 1]);
    for suite in [[0x00, 0x3b], [0x00, 0x02], [0x00, 0x00]] {
        let mut null = new.clone();
        null[suites + 2..suites + 2 + length].chunks_mut(2).for_each(|place| place.copy_from_slice(&suite));
        let (answer, _) = answered(&server, &null, false).await;
        assert!(is_alert(&answer, 40), "{suite:?}: {}", answer.escape_ascii());
    }
}

/// MT-14: TLS, HTTP/1.1 and HTTP/2 on one port, a byte at a time in both directions.
#[tokio::test(start_paused = true)]
async fn mt_14_all_that_is_spoken_may_come_byte_by_byte() {
    let authority = Authority::new("cluster.local");
    let (server, _) = inside_as(&authority, |server| server.tls = Some(ServerTls::Permissive)).await;
    let drop_by_drop = || server.door.enter_in_crumbs();
    assert!(over_http1(drop_by_drop()).await.ends_with("HTTP/1.1 /somewhere nobody"));
    assert!(over_http2(drop_by_drop()).await);
    for alpn in [&["http/1.1"][..], &[]] {
        let config = offering(authority.issue(CALLER).careless_client(ALL_VERSIONS), alpn);
        let answer = over_http1(shake_hands(&config, drop_by_drop()).await.unwrap()).await;
        assert!(answer.ends_with(&format!("HTTP/1.1 /somewhere {CALLER}")), "{alpn:?}: {answer}");
    }
    for alpn in [&["h2"][..], &[]] {
        let config = offering(authority.issue(CALLER).careless_client(ALL_VERSIONS), alpn);
        assert!(over_http2(shake_hands(&config, drop_by_drop()).await.unwrap()).await, "{alpn:?}");
    }
}

/// What ALPN agrees on is spoken; where it says nothing of HTTP the first bytes do.
#[tokio::test(start_paused = true)]
async fn alpn_says_what_is_spoken_or_the_first_bytes_do() {
    let authority = Authority::new("cluster.local");
    let (server, _) = inside_as(&authority, |_| {}).await;
    let caller = authority.issue(CALLER);
    for (offered, agreed, speaks) in [
        (&["h2"][..], Some("h2"), &[2][..]),
        (&["http/1.1"], Some("http/1.1"), &[1]),
        (&["http/1.1", "h2"], Some("h2"), &[2]),
        (&["istio-http/1.1", "istio", "http/1.1", "h2"], Some("h2"), &[2]),
        (&["istio-h2"], Some("istio-h2"), &[1, 2]),
        (&["istio-http/1.1"], Some("istio-http/1.1"), &[1, 2]),
        (&["istio"], Some("istio"), &[1, 2]),
        (&[], None, &[1, 2]),
    ] {
        for version in speaks {
            let config = offering(caller.careless_client(ALL_VERSIONS), offered);
            let stream = shake_hands(&config, server.door.enter()).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), agreed.map(str::as_bytes), "{offered:?}");
            match version {
                1 => assert!(over_http1(stream).await.ends_with(CALLER), "{offered:?}"),
                _ => assert!(over_http2(stream).await, "{offered:?}"),
            }
        }
    }
    // What it does not speak is refused (RFC 7301 3.2).
    let config = offering(caller.careless_client(ALL_VERSIONS), &["smtp"]);
    assert!(shake_hands(&config, server.door.enter()).await.is_err());
    // HTTP/1.1 where HTTP/2 was agreed on, and the other way round, is nobody's harm.
    let agreed =
        async |alpn| shake_hands(&offering(caller.careless_client(ALL_VERSIONS), &[alpn]), server.door.enter()).await;
    assert!(!over_http1(agreed("h2").await.unwrap()).await.starts_with("HTTP/1.1 200"));
    let mut wire = Wire::open(agreed("http/1.1").await.unwrap()).await;
    watched(async { while wire.next().await.is_some() {} }).await;
    good_caller(&server, &authority).await;
}

/// MT-18: whatever hellos look like, the connection ends in time, and others go on.
#[tokio::test(start_paused = true)]
async fn mt_18_broken_hellos_end_in_time() {
    let authority = Authority::new("cluster.local");
    let (server, _) = inside_as(&authority, |_| {}).await;
    let before = server.mesh.live_tasks();
    let whole = hello(ALL_VERSIONS);
    // A record for each byte of the message (RFC 8446 5.1).
    let records: Vec<u8> = whole[5..].iter().flat_map(|byte| [0x16, 3, 1, 0, 1, *byte]).collect();
    let garbage: Vec<u8> = (0..65_536_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let in_records = |payload: &[u8]| -> Vec<u8> {
        let records = payload.chunks(16_384).flat_map(|piece| {
            let length = (piece.len() as u16).to_be_bytes();
            [&[0x16, 3, 1][..], &length, piece].concat()
        });
        records.collect()
    };
    // A message that says it is 16 MiB long.
    let endless = [&[1, 0xff, 0xff, 0xff][..], &garbage].concat();
    let empty: Vec<u8> = [0x16, 3, 1, 0, 0].repeat(1000);
    for (name, bytes, close, limit) in [
        // It is a good hello: the handshake then waits for the client.
        ("records of one byte, then silence", records, false, 10),
        ("silence behind a hello", whole.clone(), false, 10),
        ("a hello, then the end", whole.clone(), true, 0),
        ("half a hello, then silence", whole[..whole.len() / 2].to_vec(), false, 10),
        ("half a hello, then the end", whole[..whole.len() / 2].to_vec(), true, 0),
        ("garbage", [&[0x16, 3, 1, 0x40, 0][..], &garbage].concat(), false, 0),
        ("garbage in records", in_records(&garbage), false, 0),
        ("a message without an end", in_records(&endless), false, 0),
        ("empty records", empty, false, 10),
        ("a record that is too long", [&[0x16, 3, 1, 0xff, 0xff][..], &garbage].concat(), false, 0),
    ] {
        let (answer, elapsed) = answered(&server, &bytes, close).await;
        assert!(elapsed <= Duration::from_secs(limit) + Duration::from_millis(2), "{name}: {elapsed:?}");
        assert!(!answer.starts_with(b"HTTP"), "{name}");
        good_caller(&server, &authority).await;
        settled().await;
        assert!(server.mesh.live_tasks() <= before + 1, "{name}");
    }
}

/// MT-09: a session is resumed for whom it was made, under what held then, and no longer than the certificate is good.
#[tokio::test]
async fn mt_09_nothing_is_resumed_that_would_not_be_let_in() {
    let authority = Authority::new("cluster.local");
    let (server, identity) = inside_as(&authority, |_| {}).await;
    let issued = authority.issue(CALLER);
    let config = offering(issued.careless_client(ALL_VERSIONS), &["http/1.1"]);
    // Whether a session was resumed; `None` if nobody was let in.
    let resumed = async |config: &Arc<ClientConfig>| {
        let mut stream = shake_hands(config, server.door.enter()).await.ok()?;
        let _ = stream.write_all(GET).await;
        let mut answer = Vec::new();
        let _ = watched(stream.read_to_end(&mut answer)).await;
        let kind = stream.get_ref().1.handshake_kind();
        answer.starts_with(b"HTTP/1.1 200 ").then_some(kind == Some(HandshakeKind::Resumed))
    };
    let in_force = async |generation| {
        let mut status = server.mesh.identity_status();
        watched(async { status.wait_for(|status| status.generation == generation).await.map(drop) }).await.unwrap();
    };
    assert_eq!(resumed(&config).await, Some(false));
    assert_eq!(resumed(&config).await, Some(true));
    // Another certificate of the server.
    identity.set(authority.issue(SERVER).material(authority.bundles()));
    in_force(2).await;
    assert_eq!(resumed(&config).await, Some(false));
    assert_eq!(resumed(&config).await, Some(true));
    // A caller that is revoked.
    let revoked = authority.revocation_list(&[&issued]);
    identity.set(authority.issue(SERVER).material(authority.bundles()).with_revocation_lists(vec![revoked.der]));
    in_force(3).await;
    assert_eq!(resumed(&config).await, None);
    // An authority that is trusted no more.
    identity.set(authority.issue(SERVER).material(authority.bundles()));
    in_force(4).await;
    assert_eq!(resumed(&config).await, Some(false));
    let other = Authority::new("cluster.local");
    identity.set(other.issue(SERVER).material(other.bundles()));
    in_force(5).await;
    assert_eq!(resumed(&config).await, None);
    // A certificate that has expired since.
    identity.set(authority.issue(SERVER).material(authority.bundles()));
    in_force(6).await;
    let now = std::time::SystemTime::now();
    let brief = NewCertificate::new().uri(CALLER).valid(now - Duration::from_secs(60), now + Duration::from_secs(4));
    let config = offering(authority.issue_as(brief).careless_client(ALL_VERSIONS), &["http/1.1"]);
    assert_eq!(resumed(&config).await, Some(false));
    watched(async {
        // There is nothing else to wait for than the time itself.
        while now.elapsed().unwrap() < Duration::from_secs(6) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    assert_eq!(resumed(&config).await, None);
}

/// MT-09, through the clients of a mesh: they go on while sessions come and go.
#[tokio::test(start_paused = true)]
async fn mt_09_meshes_resume_and_go_on() {
    let authority = Authority::new("cluster.local");
    let (server, _) = inside_as(&authority, |server| server.limits.idle_timeout = Some(Duration::from_secs(1))).await;
    let (mesh, _) = client_through_as(&server.door, &authority, CALLER).await;
    for _ in 0..3 {
        for (url, version) in [("http://h1/a", "HTTP/1.1"), ("http://h2/a", "HTTP/2.0")] {
            let answer = text(mesh.http_client().get(url).await.unwrap()).await;
            assert_eq!(answer, format!("{version} /a {CALLER}"));
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
}

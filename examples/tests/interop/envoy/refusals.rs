//! Whom our server lets in, and how it tells others: as openssl and curl see it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use examples::certs::{Authority, Leaf};
use examples::peers::{Files, curl, s_client};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::ours::{CLIENT, Ours, SERVER, files};
use crate::told;

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n";
const VERSIONS: [(&str, &str); 2] = [("TLSv1.3", "-tls1_3"), ("TLSv1.2", "-tls1_2")];

/// Who calls, and who is called: in strict and permissive mode, for clients that verify the address.
async fn servers(authority: &Authority) -> [Ours; 2] {
    let leaf = Leaf::new(SERVER).ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let of_server = Files::write(&authority.intermediate().unwrap().issue(&leaf).unwrap());
    let tls = |mode| format!("{{ mode: {mode}, identities: ['{CLIENT}'] }}");
    // What was read stays in force when the files go.
    [Ours::with(&of_server, &tls("strict")).await, Ours::with(&of_server, &tls("permissive")).await]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_agreed_on_by_alpn() {
    let authority = Authority::new("cluster.local").unwrap();
    let client = files(&authority, CLIENT);
    for server in servers(&authority).await {
        for (version, flag) in VERSIONS {
            for (offer, agreed) in [
                (Some("h2,http/1.1"), Some("h2")),
                (Some("http/1.1"), Some("http/1.1")),
                (Some("istio-h2,istio,h2"), Some("h2")),
                (Some("istio-http/1.1,istio,http/1.1"), Some("http/1.1")),
                (Some("istio-h2"), Some("istio-h2")),
                (Some("istio"), Some("istio")),
                (None, None),
            ] {
                let arguments: Vec<_> =
                    [flag].into_iter().chain(offer.into_iter().flat_map(|offer| ["-alpn", offer])).collect();
                let seen = s_client(server.address(), Some(&client), &arguments, GET).await;
                assert_eq!(
                    (seen.version.as_deref(), seen.alpn.as_deref()),
                    (Some(version), agreed),
                    "{offer:?}: {seen:?}"
                );
                let answered = seen.ran.said().contains(&format!("\"identity\":\"{CLIENT}\",\"mutual\":true"));
                // What was sent is no HTTP/2.
                assert_eq!(answered, agreed != Some("h2"), "{offer:?}: {seen:?}");
            }
            let seen = s_client(server.address(), Some(&client), &[flag, "-alpn", "spdy/3"], GET).await;
            assert_eq!(seen.alert, Some(120), "no_application_protocol (RFC 7301 3.2): {seen:?}");
        }
        for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
            let fetched = curl(&format!("https://{}/", server.address()), Some(&client), &[flag]).await;
            assert_eq!((fetched.status, &*fetched.version), (200, version), "{fetched:?}");
            assert_eq!(told(&fetched.body)["peer"]["identity"], CLIENT);
        }
    }
}

/// The alerts of RFC 8446 6.2, in both versions: certificate_required, unknown_ca, certificate_expired, and
/// certificate_unknown for whoever is known and not among those who may connect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_not_let_in_is_told_why() {
    let authority = Authority::new("cluster.local").unwrap();
    let issue = |leaf: Leaf| Files::write(&authority.issue(&leaf).unwrap());
    let client = files(&authority, CLIENT);
    let stranger = files(&Authority::new("cluster.local").unwrap(), CLIENT);
    let of_two = issue(Leaf::new(CLIENT).uri(SERVER));
    let (expired, early) = (issue(Leaf::new(CLIENT).expired()), issue(Leaf::new(CLIENT).not_yet_valid()));
    let other = files(&authority, "spiffe://cluster.local/ns/default/sa/other");
    let elsewhere = files(&authority, "spiffe://elsewhere/ns/default/sa/client");
    for server in servers(&authority).await {
        for (version, flag) in VERSIONS {
            for (who, files, alert) in [
                ("nobody", None, 116),
                ("stranger", Some(&stranger), 48),
                ("expired", Some(&expired), 45),
                ("early", Some(&early), 45),
                ("other", Some(&other), 46),
                ("elsewhere", Some(&elsewhere), 46),
                ("two", Some(&of_two), 46),
            ] {
                let seen = s_client(server.address(), files, &[flag, "-alpn", "istio-h2,istio,h2"], GET).await;
                assert_eq!(seen.alert, Some(alert), "{who} by {version}: {seen:?}");
                assert!(!seen.ran.said().contains("HTTP/1.1"), "{who} by {version}: {seen:?}");
            }
        }
        // handshake_failure: rustls misses the signature algorithms, which only newer versions have, before it looks at
        // the version. It is told to want the old version, and its ciphers, which it would not otherwise.
        let seen = s_client(server.address(), Some(&client), &["-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0"], GET).await;
        assert_eq!((seen.alert, seen.ran.said().contains("HTTP/1.1")), (Some(40), false), "{seen:?}");
        let fetched = curl(&format!("https://{}/", server.address()), None, &["--insecure"]).await;
        assert_eq!((fetched.status, fetched.body.as_str()), (0, ""), "{fetched:?}");
    }
}

/// What comes back for these bytes.
async fn answer(server: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A reset is an answer of no bytes, too.
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

/// MT-16: not a byte of plaintext, whichever way it is asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plaintext_is_not_answered_where_it_is_strict() {
    let authority = Authority::new("cluster.local").unwrap();
    let [strict, permissive] = servers(&authority).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for bytes in [GET, preface] {
        assert_eq!(answer(strict.address(), bytes).await, b"");
    }
    assert!(answer(permissive.address(), GET).await.starts_with(b"HTTP/1.1 200"));
    for flag in ["--http1.1", "--http2-prior-knowledge"] {
        let fetched = curl(&format!("http://{}/", strict.address()), None, &[flag]).await;
        assert_eq!((fetched.status, fetched.head.as_str(), fetched.body.as_str()), (0, "", ""), "{flag}: {fetched:?}");
        let fetched = curl(&format!("http://{}/", permissive.address()), None, &[flag]).await;
        assert_eq!(fetched.status, 200, "{flag}: {fetched:?}");
        let told = told(&fetched.body);
        assert_eq!((&told["peer"]["identity"], &told["peer"]["mutual"]), (&serde_json::Value::Null, &false.into()));
    }
}

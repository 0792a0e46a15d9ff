//! What leaves this process, byte by byte.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Request;
use mesh_tower::Io;
use mesh_tower::core::model::Address;
use mesh_tower::identity::{Bundles, Material, MemoryIdentity};
use mesh_tower::testing::{Authority, Events, NewCertificate, Seen, TestMesh};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tower::ServiceExt;

use crate::support::{BOTH, CART, CATALOG, Server, builder, catalog, somebody, strict};

const MARKER: &str = "what nobody but the server may read";

/// What was written, by connection.
type Written = Arc<Mutex<Vec<Vec<u8>>>>;

/// A stream that keeps what is written to it.
struct Sniffed {
    stream: TcpStream,
    number: usize,
    written: Written,
}

impl AsyncRead for Sniffed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Sniffed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(count)) = written {
            self.written.lock().unwrap()[self.number].extend_from_slice(&buf[..count]);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Connects, and keeps what is written.
fn sniffing(written: &Written) -> impl mesh_tower::Connect + use<> {
    let written = Arc::clone(written);
    move |address: &Address| {
        let (address, written) = (address.clone(), Arc::clone(&written));
        async move {
            let Address::Socket(address) = address else { panic!("a socket: {address}") };
            let stream = TcpStream::connect(address).await?;
            let number = {
                let mut all = written.lock().unwrap();
                all.push(Vec::new());
                all.len() - 1
            };
            Ok(Box::new(Sniffed { stream, number, written }) as Box<dyn Io>)
        }
    }
}

/// That all of it is records of TLS, the last of which may be cut short, and nothing of it can be read.
fn assert_encrypted(written: &Written) {
    let all = written.lock().unwrap();
    assert!(all.iter().any(|bytes| !bytes.is_empty()), "somebody was spoken to");
    for bytes in &*all {
        let mut rest = &bytes[..];
        while let [kind, major, minor, high, low, body @ ..] = rest {
            let known = (0x14..=0x17).contains(kind) && *major == 3 && *minor <= 4;
            assert!(known, "no record: {:02x?}", &rest[..rest.len().min(32)]);
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            assert!(length <= 16 * 1024 + 256);
            rest = body.get(length..).unwrap_or_default();
        }
        assert!(rest.is_empty() || (0x14..=0x17).contains(&rest[0]), "no record: {rest:02x?}");
        let shows = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(!shows(MARKER) && !shows("PRI * HTTP/2.0") && !shows("HTTP/1.1\r\n"));
    }
}

async fn say(mesh: &TestMesh) -> Result<(), mesh_tower::Error> {
    let request = Request::post("http://catalog/").header("x-marker", MARKER).body(MARKER.to_owned()).unwrap();
    mesh.http_client().oneshot(request).await.map(drop)
}

/// Says it until it is heard: a connection that was just closed is still asked.
async fn heard(mesh: &TestMesh) {
    let saying = async { while say(mesh).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(30), saying).await.unwrap();
}

/// MT-15, MT-16: whatever happens to the identity and whoever the server is, no byte leaves in plaintext.
#[tokio::test]
async fn mt_15_mt_16_nothing_leaves_in_plaintext() {
    let (authority, other) = (Authority::new("cluster.local"), Authority::new("other.example"));
    for protocol in ["http1", "http2", "auto"] {
        let written = Written::default();
        let server = Server::start("a", strict(&authority.issue(CATALOG), &authority, BOTH)).await;
        let (events, identity) = (Events::new(), MemoryIdentity::new(somebody(&authority, CART)));
        let config = catalog(&[server.address], &format!("protocol: {protocol}"));
        let mesh = builder(&config, &identity).connector(sniffing(&written)).observer(events.clone());
        let mesh = TestMesh::start(mesh).await;
        say(&mesh).await.unwrap();
        // Good, bad, good: requests go on by the last good one.
        let bad = Material::new(authority.issue(CART).chain, authority.issue(CART).key(), Bundles::default());
        identity.set(bad);
        events.wait_for(|seen| matches!(seen, Seen::Identity { error: Some(_), .. })).await;
        server.backend.disconnect();
        heard(&mesh).await;
        identity.set(somebody(&authority, CART));
        events.wait_for(|seen| matches!(seen, Seen::Identity { generation: Some(2), .. })).await;
        server.backend.disconnect();
        heard(&mesh).await;
        let served = server.backend.request_count();
        // Servers that are refused, that refuse us, and that trust nobody.
        let expired = authority.issue_as(NewCertificate::new().uri(CATALOG).expired());
        for config in [
            strict(&expired, &authority, BOTH),
            strict(&other.issue(CATALOG), &authority, BOTH),
            strict(&authority.issue(CATALOG), &other, BOTH),
            strict(&authority.issue(CATALOG), &authority, &["something-else"]),
        ] {
            server.set(config);
            server.backend.disconnect();
            server.backend.deserted().await;
            assert!(say(&mesh).await.is_err());
        }
        assert_eq!(server.backend.request_count(), served);
        mesh.end().await;
        assert_encrypted(&written);
    }
}

/// A server of plaintext gets a ClientHello, and no request.
#[tokio::test]
async fn mt_15_a_server_of_plaintext_gets_no_request() {
    let authority = Authority::new("cluster.local");
    let backend = mesh_tower::testing::TestBackend::named("plain").start();
    for protocol in ["http1", "http2", "auto"] {
        let written = Written::default();
        let identity = MemoryIdentity::new(somebody(&authority, CART));
        let config = catalog(&[backend.address()], &format!("protocol: {protocol}"));
        let mesh = TestMesh::start(builder(&config, &identity).connector(sniffing(&written))).await;
        assert!(say(&mesh).await.unwrap_err().is_connect());
        mesh.end().await;
        assert_encrypted(&written);
    }
    assert_eq!(backend.request_count(), 0);
}

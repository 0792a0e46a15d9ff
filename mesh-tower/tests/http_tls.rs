//! TLS to ordinary servers: which protocol, which name, whom to trust.

#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]

mod http_support;

use std::sync::{Arc, Mutex};

use http::{Request, Version};
use http_support::{greeter, grpc, text};
use mesh_tower::ErrorKind;
use mesh_tower::core::grpc::Code;
use mesh_tower::testing::{MemoryNetwork, RequestBody, TestBackend, TestMesh, empty};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};
use tower::ServiceExt;

/// An authority whose certificate lies in a file.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    file: tempfile::NamedTempFile,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), issuer.pem()).unwrap();
        Self { issuer, file }
    }

    /// A server's side of TLS, for these names and protocols.
    fn server(&self, names: &[&str], alpn: &[&[u8]]) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config
    }

    /// The `tls` section that trusts it.
    fn section(&self, extra: &str) -> String {
        format!("tls: {{ mode: simple, ca_certificates: \"{}\"{extra} }}", self.file.path().display())
    }
}

/// What a server saw of its clients.
#[derive(Debug, Default)]
struct Handshakes {
    accepts: usize,
    /// SNI and ALPN of those that succeeded.
    done: Vec<(Option<String>, Option<String>)>,
}

/// A server behind TLS that answers with the HTTP version; it ends when dropped.
struct TlsServer {
    address: std::net::SocketAddr,
    handshakes: Arc<Mutex<Handshakes>>,
    task: AbortHandle,
}

impl TlsServer {
    async fn start(config: ServerConfig) -> Self {
        let answer = |request: Request<RequestBody>| async move {
            let scheme = request.uri().scheme_str().unwrap_or("-");
            let version = if request.version() == Version::HTTP_2 { "h2" } else { "h1" };
            format!("{version} {scheme}")
        };
        let backend = Arc::new(TestBackend::handling(answer).start_in(&MemoryNetwork::new()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let handshakes = Arc::new(Mutex::new(Handshakes::default()));
        let (seen, acceptor) = (Arc::clone(&handshakes), tokio_rustls::TlsAcceptor::from(Arc::new(config)));
        let accept = async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                seen.lock().unwrap().accepts += 1;
                let (seen, acceptor, backend) = (Arc::clone(&seen), acceptor.clone(), Arc::clone(&backend));
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let session = stream.get_ref().1;
                    let alpn = session.alpn_protocol().map(|alpn| String::from_utf8(alpn.to_vec()).unwrap());
                    seen.lock().unwrap().done.push((session.server_name().map(str::to_owned), alpn));
                    backend.serve(stream);
                });
            }
        };
        Self { address, handshakes, task: tokio::spawn(accept).abort_handle() }
    }

    fn accepts(&self) -> usize {
        self.handshakes.lock().unwrap().accepts
    }

    /// SNI and ALPN of the only connection.
    fn only(&self) -> (Option<String>, Option<String>) {
        let handshakes = self.handshakes.lock().unwrap();
        assert_eq!((handshakes.accepts, handshakes.done.len()), (1, 1), "{handshakes:?}");
        handshakes.done[0].clone()
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn mesh_to(server: &TlsServer, backend: &str) -> TestMesh {
    greeter(&[server.address]).backend(backend).mesh().await
}

#[tokio::test]
async fn alpn_decides_where_the_protocol_is_auto() {
    let authority = Authority::new();
    for (offered, protocol, expected, alpn) in [
        (&[&b"h2"[..], b"http/1.1"][..], "auto", "h2 https", Some("h2")),
        (&[&b"http/1.1"[..]][..], "auto", "h1 -", Some("http/1.1")),
        (&[][..], "auto", "h1 -", None),
        (&[&b"h2"[..], b"http/1.1"][..], "http1", "h1 -", Some("http/1.1")),
        (&[&b"http/1.1"[..], b"h2"][..], "http2", "h2 https", Some("h2")),
        (&[][..], "http2", "h2 https", None),
    ] {
        let server = TlsServer::start(authority.server(&["greeter"], offered)).await;
        let mesh = mesh_to(&server, &format!("protocol: {protocol}, {}", authority.section(""))).await;
        for scheme in ["http", "https"] {
            let response = mesh.http_client().get(format!("{scheme}://greeter/")).await.unwrap();
            assert_eq!(text(response).await, expected, "{protocol}");
        }
        let (sni, told) = server.only();
        assert_eq!((sni.as_deref(), told.as_deref()), (Some("greeter"), alpn), "{protocol}: SNI is the service's name");
        mesh.end().await;
    }
}

#[tokio::test]
async fn the_configured_name_is_sent_and_verified() {
    let authority = Authority::new();
    let server = TlsServer::start(authority.server(&["other.example"], &[b"h2"])).await;
    let mesh = mesh_to(&server, &authority.section(", server_name: other.example")).await;
    assert_eq!(text(mesh.http_client().get("https://greeter/").await.unwrap()).await, "h2 https");
    assert_eq!(server.only().0.as_deref(), Some("other.example"));
    mesh.end().await;
}

/// No downgrade, and no request on a connection whose peer is not who it should be.
#[tokio::test]
async fn a_peer_that_is_not_trusted_gets_nothing() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    for (issuer, names, reason) in [
        (&authority, &["wrong.example"][..], "expected is greeter"),
        (&stranger, &["greeter"][..], "a signature of the peer is wrong"),
    ] {
        let server = TlsServer::start(issuer.server(names, &[b"h2", b"http/1.1"])).await;
        let mesh = mesh_to(&server, &authority.section("")).await;
        let error = mesh.http_client().get("https://greeter/").await.unwrap_err();
        assert_eq!((error.kind(), error.grpc_code()), (ErrorKind::NoHealthyEndpoint, Code::Unavailable));
        let report = error.report();
        for word in ["backend v1 of service greeter", "TLS handshake with 127.0.0.1", reason] {
            assert!(report.contains(word), "{word:?} is missing: {report}");
        }
        assert_eq!(server.handshakes.lock().unwrap().done, []);
        mesh.end().await;
    }
}

#[tokio::test]
async fn a_plaintext_server_asked_for_tls_is_told_as_such() {
    let authority = Authority::new();
    let server = TestBackend::named("plain").start();
    let mesh = greeter(&[server.address()]).backend(&authority.section("")).mesh().await;
    let error = mesh.http_client().get("https://greeter/").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoHealthyEndpoint);
    assert!(error.report().contains("TLS handshake"), "{}", error.report());
    mesh.end().await;
}

#[tokio::test]
async fn a_server_without_http2_fails_a_backend_of_http2_and_grpc() {
    let authority = Authority::new();
    let server = TlsServer::start(authority.server(&["greeter"], &[b"http/1.1"])).await;
    let mesh = mesh_to(&server, &format!("protocol: http2, {}", authority.section(""))).await;
    let error = mesh.http_client().get("https://greeter/").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoHealthyEndpoint, "{error:?}");
    mesh.end().await;

    let mesh = mesh_to(&server, &authority.section("")).await;
    let error = mesh.http_client().oneshot(grpc("https://greeter/s/m").body(empty()).unwrap()).await.unwrap_err();
    assert_eq!((error.kind(), error.grpc_code()), (ErrorKind::Protocol, Code::Internal), "{error:?}");
    for word in ["gRPC needs HTTP/2", "HTTP/1.1", "backend v1 of service greeter"] {
        assert!(error.report().contains(word), "{}", error.report());
    }
    // Those who do not need HTTP/2 are served.
    assert_eq!(text(mesh.http_client().get("https://greeter/").await.unwrap()).await, "h1 -");
    mesh.end().await;
}

#[tokio::test]
async fn grpc_and_http_share_a_negotiated_connection() {
    let authority = Authority::new();
    let server = TlsServer::start(authority.server(&["greeter"], &[b"h2", b"http/1.1"])).await;
    let mesh = mesh_to(&server, &authority.section("")).await;
    for _ in 0..3 {
        assert_eq!(text(mesh.http_client().get("https://greeter/").await.unwrap()).await, "h2 https");
        let call = mesh.http_client().oneshot(grpc("http://greeter/s/m").body(empty()).unwrap());
        assert_eq!(text(call.await.unwrap()).await, "h2 https");
    }
    assert_eq!(server.accepts(), 1);
    mesh.end().await;
}

#[tokio::test]
async fn an_http1_connection_over_tls_is_kept() {
    let authority = Authority::new();
    let server = TlsServer::start(authority.server(&["greeter"], &[b"http/1.1"])).await;
    let mesh = mesh_to(&server, &authority.section("")).await;
    for _ in 0..20 {
        assert_eq!(text(mesh.http_client().get("https://greeter/").await.unwrap()).await, "h1 -");
    }
    assert_eq!(server.accepts(), 1);
    mesh.end().await;
}

/// Settings that cannot work are told when the mesh is built.
#[tokio::test]
async fn authorities_that_cannot_be_read_are_told_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    let missing = file.display().to_string();
    let yaml = |path: &str| {
        greeter(&[http_support::nowhere()])
            .backend(&format!("tls: {{ mode: simple, ca_certificates: \"{path}\" }}"))
            .yaml()
    };
    let error = mesh_tower::Mesh::builder().text(yaml(&missing)).build().await.unwrap_err();
    assert!(error.to_string().contains(&missing), "{error}");
    std::fs::write(&file, "nothing of the kind").unwrap();
    let error = mesh_tower::Mesh::builder().text(yaml(&missing)).build().await.unwrap_err();
    assert!(error.to_string().contains(&missing), "{error}");
}

/// A rollout from plaintext to TLS: what the new backend is connected for is decided by its own settings.
#[tokio::test]
async fn weight_moves_from_plaintext_to_tls() {
    let authority = Authority::new();
    let secure = TlsServer::start(authority.server(&["greeter"], &[b"h2", b"http/1.1"])).await;
    let plain = TestBackend::named("plain").start();
    let config = |old: u32, new: u32| {
        let yaml = format!(
            "services: {{ greeter: {{ routes: [{{ backends: [{{ name: old, weight: {old} }}, {{ name: new, weight: {new} }}] }}], \
             backends: {{ old: {{ endpoints: [{}] }}, new: {{ endpoints: [{}], {} }} }} }} }}",
            plain.address(),
            secure.address,
            authority.section("")
        );
        Arc::new(mesh_tower::core::config::parse(yaml.as_bytes(), "test", std::path::Path::new("")).unwrap())
    };
    let (configs, receiver) = tokio::sync::watch::channel(config(1, 0));
    let mesh = TestMesh::from(mesh_tower::Mesh::builder().configs(receiver).build().await.unwrap());
    assert_eq!(text(mesh.http_client().get("http://greeter/").await.unwrap()).await, "plain");
    let mut status = mesh.config_status();
    status.mark_unchanged();
    configs.send_replace(config(0, 1));
    status.changed().await.unwrap();
    assert_eq!(text(mesh.http_client().get("http://greeter/").await.unwrap()).await, "h2 https");
    assert_eq!(secure.only().1.as_deref(), Some("h2"), "one connection, of the right kind");
    mesh.end().await;
}

#[tokio::test]
async fn all_certificate_files_that_cannot_be_used_are_told_at_once() {
    let empty = tempfile::NamedTempFile::new().unwrap();
    let empty = empty.path().display();
    let yaml = format!(
        "services: {{ a: {{ backends: {{ b: {{ endpoints: [], tls: {{ mode: simple, ca_certificates: nowhere.pem }} }} }} }}, \
         c: {{ backends: {{ d: {{ endpoints: [], tls: {{ mode: simple, ca_certificates: \"{empty}\" }} }} }} }} }}"
    );
    let error = mesh_tower::Mesh::builder().text(yaml).build().await.unwrap_err().to_string();
    let lines: Vec<_> = error.lines().collect();
    assert_eq!(lines.len(), 2, "{error}");
    assert!(lines[0].starts_with("services.a.backends.b: tls.ca_certificates: nowhere.pem: "), "{error}");
    assert!(lines[1].starts_with("services.c.backends.d: tls.ca_certificates: "), "{error}");
}

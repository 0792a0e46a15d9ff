//! Servers that ask who is there, and meshes that are somebody.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use http::{Request, Version};
use mesh_tower::identity::{Material, MemoryIdentity};
use mesh_tower::testing::{Authority, Issued, MemoryNetwork, RequestBody, ServiceConfig, TestBackend, TestMesh};
use mesh_tower::{Builder, ConnectError, Error, Mesh};
use rustls::server::{Acceptor, WebPkiClientVerifier};
use rustls::{HandshakeKind, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::LazyConfigAcceptor;

pub const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
pub const CATALOG: &str = "spiffe://cluster.local/ns/shop/sa/catalog";

/// Protocols that a server agrees on.
pub const BOTH: &[&str] = &["h2", "http/1.1"];

/// A server of `issued` that lets in whom `authority` has issued a certificate.
pub fn strict(issued: &Issued, authority: &Authority, alpn: &[&str]) -> ServerConfig {
    strict_of(issued, authority, alpn, rustls::ALL_VERSIONS)
}

pub fn strict_of(
    issued: &Issued,
    authority: &Authority,
    alpn: &[&str],
    versions: &[&'static SupportedProtocolVersion],
) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.root().clone()).unwrap();
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(issued.chain.clone(), issued.key())
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

/// What a server saw of one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    pub sni: Option<String>,
    /// What was offered.
    pub alpn: String,
    pub agreed: Option<String>,
    pub resumed: bool,
    pub version: Option<rustls::ProtocolVersion>,
    /// The certificate of the client, if there is one.
    pub client: Option<Vec<u8>>,
}

/// A server behind TLS that answers with its name and the HTTP version; it ends when dropped.
pub struct Server {
    pub address: SocketAddr,
    pub backend: Arc<TestBackend>,
    config: Arc<Mutex<Arc<ServerConfig>>>,
    hellos: Arc<Mutex<Vec<Hello>>>,
    task: AbortHandle,
}

impl Server {
    pub async fn start(name: &str, config: ServerConfig) -> Self {
        let name = name.to_owned();
        let answer = move |request: Request<RequestBody>| {
            let version = if request.version() == Version::HTTP_2 { "h2" } else { "h1" };
            let text = format!("{name} {version}");
            async move { text }
        };
        let backend = Arc::new(TestBackend::handling(answer).start_in(&MemoryNetwork::new()));
        Self::before(backend, config).await
    }

    /// One whose requests go to `backend`.
    pub async fn before(backend: Arc<TestBackend>, config: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = Arc::new(Mutex::new(Arc::new(config)));
        let hellos = Arc::new(Mutex::new(Vec::new()));
        let (current, seen, behind) = (Arc::clone(&config), Arc::clone(&hellos), Arc::clone(&backend));
        let accept = async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (current, seen, behind) = (Arc::clone(&current), Arc::clone(&seen), Arc::clone(&behind));
                connections.spawn(async move {
                    let Ok(start) = LazyConfigAcceptor::new(Acceptor::default(), stream).await else { return };
                    let hello = start.client_hello();
                    let alpn = hello.alpn().into_iter().flatten();
                    let alpn: Vec<_> = alpn.map(|name| String::from_utf8(name.to_vec()).unwrap()).collect();
                    let sni = hello.server_name().map(str::to_owned);
                    let config = Arc::clone(&current.lock().unwrap());
                    let Ok(stream) = start.into_stream(config).await else { return };
                    let session = stream.get_ref().1;
                    let hello = Hello {
                        sni,
                        alpn: alpn.join(" "),
                        agreed: session.alpn_protocol().map(|name| String::from_utf8(name.to_vec()).unwrap()),
                        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
                        version: session.protocol_version(),
                        client: session.peer_certificates().map(|chain| chain[0].to_vec()),
                    };
                    seen.lock().unwrap().push(hello);
                    behind.serve(stream);
                });
            }
        };
        Self { address, backend, config, hellos, task: tokio::spawn(accept).abort_handle() }
    }

    /// Goes on by `config` with those who connect from now on.
    pub fn set(&self, config: ServerConfig) {
        *self.config.lock().unwrap() = Arc::new(config);
    }

    pub fn hellos(&self) -> MutexGuard<'_, Vec<Hello>> {
        self.hellos.lock().unwrap()
    }

    /// What it saw of its only client.
    pub fn only(&self) -> Hello {
        let hellos = self.hellos();
        assert_eq!(hellos.len(), 1, "{hellos:?}");
        hellos[0].clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Somebody.
pub fn somebody(authority: &Authority, uri: &str) -> Material {
    authority.issue(uri).material(authority.bundles())
}

/// A service `catalog` at `endpoints`, whose backend has these fields.
pub fn catalog(endpoints: &[SocketAddr], backend: &str) -> String {
    let service = ServiceConfig::new("catalog", endpoints.iter().copied()).backend(backend);
    // No pause is waited for where something else decides.
    let service = service.backend("connect_backoff: { base: 50ms, max: 200ms }");
    format!("identity: {{ source: custom }}, {}", service.yaml())
}

/// `text` in braces, of a mesh that is `identity`.
pub fn builder(text: &str, identity: &MemoryIdentity) -> Builder {
    Mesh::builder().text(format!("{{ {text} }}")).identity_source(identity.clone())
}

/// CART, whose service `catalog` is at `endpoints`.
pub async fn cart(authority: &Authority, endpoints: &[SocketAddr], backend: &str) -> TestMesh {
    let identity = MemoryIdentity::new(somebody(authority, CART));
    TestMesh::start(builder(&catalog(endpoints, backend), &identity)).await
}

/// Why the last attempt to connect failed.
pub fn connect_error(error: &Error) -> ConnectError {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<ConnectError>());
    source.unwrap_or_else(|| panic!("no connect error: {}", error.report())).clone()
}

/// Asks until `wanted` holds of an answer or a failure, for as long as that takes.
pub async fn until_asked(mesh: &TestMesh, what: &str, wanted: impl Fn(&Result<String, Error>) -> bool) {
    let asking = async {
        loop {
            let answer = ask(mesh).await;
            if wanted(&answer) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), asking).await.unwrap_or_else(|_| panic!("waited in vain: {what}"));
}

/// What the catalog answers.
pub async fn ask(mesh: &TestMesh) -> Result<String, Error> {
    let response = mesh.http_client().get("http://catalog/").await?;
    response.into_body().string().await
}

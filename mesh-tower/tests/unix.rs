//! Unix domain sockets.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]

mod http_support;

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use http::{Request, Response, Version};
use http_support::text;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use mesh_tower::core::model::{
    Backend, BackendId, Config, Endpoint, Forward, HostPattern, LoadBalancer, Protocol, RootCertificates, Route, Tls,
    VirtualHost,
};
use mesh_tower::testing::{TestMesh, full};
use mesh_tower::{ErrorKind, Io, Mesh, RequestOptions};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

/// A server at `path` that answers with version and host of the request; it ends when dropped.
fn serve(path: &Path, tls: Option<TlsAcceptor>) -> JoinSet<()> {
    async fn speak(io: impl Io) {
        let service = service_fn(|request: Request<_>| async move {
            let host = match request.version() {
                Version::HTTP_2 => request.uri().host().map(str::to_owned),
                _ => request.headers().get("host").map(|host| host.to_str().unwrap().to_owned()),
            };
            Ok::<_, Infallible>(Response::new(full(format!("{:?} {}", request.version(), host.unwrap()))))
        });
        let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(io), service).await;
    }
    let listener = UnixListener::bind(path).unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let tls = tls.clone();
            connections.spawn(async move {
                match tls {
                    Some(tls) => speak(tls.accept(stream).await.unwrap()).await,
                    None => speak(stream).await,
                }
            });
        }
    });
    tasks
}

fn backend(path: &Path) -> Backend {
    Backend::new(BackendId::new("greeter", "v1"), vec![Endpoint::new(path.to_owned())])
}

async fn mesh(backend: Backend) -> TestMesh {
    let host = VirtualHost::new("greeter", vec![HostPattern::Exact("greeter".into())]);
    let host = host.with_route(Route::new(Forward::to(backend.id.clone())));
    Mesh::builder().config(Config::new().with_virtual_host(host).with_backend(backend)).build().await.unwrap().into()
}

#[tokio::test]
async fn http1_and_http2_are_spoken_over_a_socket_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("greeter.sock");
    let _server = serve(&path, None);
    for (protocol, wanted) in [(Protocol::Http1, "HTTP/1.1 greeter"), (Protocol::Http2, "HTTP/2.0 greeter")] {
        let mut backend = backend(&path);
        backend.protocol = protocol;
        let mesh = mesh(backend).await;
        for _ in 0..3 {
            assert_eq!(text(mesh.http_client().get("http://greeter/").await.unwrap()).await, wanted);
        }
        mesh.end().await;
    }
}

/// Without a configuration, by nothing but its path.
#[tokio::test]
async fn a_target_may_be_a_path() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("Greeter.sock");
    let _server = serve(&path, None);
    let mesh = TestMesh::from(Mesh::builder().config(Config::new()).build().await.unwrap());
    let client = mesh.service(&format!("unix:{}", path.display())).unwrap();
    let request = Request::get("/").body(String::new()).unwrap();
    let response = client.oneshot(request).await.unwrap();
    assert_eq!(text(response).await, "HTTP/1.1 localhost");
    mesh.end().await;
}

#[tokio::test]
async fn a_missing_file_is_named_and_found_once_it_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("greeter.sock");
    for load_balancer in [LoadBalancer::RoundRobin, LoadBalancer::PickFirst { shuffle: false }] {
        let _ = std::fs::remove_file(&path);
        let mut backend = backend(&path);
        backend.load_balancer = load_balancer;
        backend.connect_backoff.base = std::time::Duration::from_millis(10);
        backend.connect_backoff.max = std::time::Duration::from_millis(100);
        let mesh = mesh(backend).await;
        let error = mesh.http_client().get("http://greeter/").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoHealthyEndpoint);
        let wanted = format!("connect to unix:{}: No such file or directory", path.display());
        assert!(error.report().contains(&wanted), "{}", error.report());
        let _server = serve(&path, None);
        let mut request = Request::get("http://greeter/").body(String::new()).unwrap();
        request.extensions_mut().insert(RequestOptions::new().wait_for_ready());
        assert_eq!(text(mesh.http_client().oneshot(request).await.unwrap()).await, "HTTP/1.1 greeter");
        mesh.end().await;
    }
}

#[tokio::test]
async fn tls_over_a_socket_needs_a_name_to_verify() {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let roots = directory.path().join("ca.crt");
    std::fs::write(&roots, authority.pem()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["greeter".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let path = directory.path().join("greeter.sock");
    let _server = serve(&path, Some(TlsAcceptor::from(Arc::new(config))));
    let mut named = backend(&path);
    let mut tls = Tls::simple(RootCertificates::PemFile(roots));
    tls.server_name = Some("greeter".into());
    named.tls = Some(tls.clone());
    let mesh = mesh(named).await;
    assert_eq!(text(mesh.http_client().get("http://greeter/").await.unwrap()).await, "HTTP/2.0 greeter");
    mesh.end().await;
    // The service's own name would do; one that is no host name does not.
    let mut nameless = backend(&path);
    nameless.id = BackendId::new("the greeter", "v1");
    tls.server_name = None;
    nameless.tls = Some(tls);
    let mesh = self::mesh(nameless).await;
    let error = mesh.http_client().get("http://greeter/").await.unwrap_err();
    assert!(error.report().contains("has no name to verify; set `tls.server_name`"), "{}", error.report());
    mesh.end().await;
}

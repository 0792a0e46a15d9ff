//! CL-07: the peer breaks off, or talks nonsense, at each phase of a connection's life.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mesh_tower::core::grpc::Code;
use mesh_tower::core::model::{Backend, Config, Protocol, RetryOn, RetryPolicy, RootCertificates, RoutePolicy, Tls};
use mesh_tower::observe::Outcome;
use mesh_tower::{Error, ErrorKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use mesh_tower::testing::{MemoryNetwork, Seen, TestBackend, watched};

use crate::support::{Server, Wire, backend, config_of, config_with, finish, get, mesh, pattern, post};

/// How far a connection comes before its peer breaks it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Breaks {
    /// Nothing listens.
    Refused,
    /// Closed as soon as it is accepted.
    Accepted,
    /// Reset as soon as it is accepted.
    AcceptedReset,
    /// Closed once the client's preface is read.
    Preface,
    /// Answered by something that is not HTTP/2.
    Garbage,
    /// Never answered.
    Silent,
    /// Closed with the SETTINGS.
    Settings,
    /// Closed once a request's head is read.
    Headers,
    /// Reset once a request's head is read.
    HeadersReset,
    /// Answered by a frame that must not be.
    Nonsense,
}

use Breaks::{Accepted, AcceptedReset, Garbage, Headers, HeadersReset, Nonsense, Preface, Refused, Settings, Silent};

/// Makes the closing of `stream` a reset.
fn reset(stream: &TcpStream) {
    stream.set_zero_linger().unwrap();
}

async fn run(stream: TcpStream, breaks: Breaks) {
    match breaks {
        Refused | Accepted => {}
        AcceptedReset => reset(&stream),
        Preface => drop(Wire::silent(stream).await),
        Garbage => {
            let mut stream = stream;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
            while stream.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {}
        }
        Silent => {
            let Some(mut wire) = Wire::silent(stream).await else { return };
            while wire.next().await.is_some() {}
        }
        Settings => {
            let Some(wire) = Wire::greet(stream, None).await else { return };
            wire.close().await;
        }
        Headers | HeadersReset => {
            let Some(mut wire) = Wire::greet(stream, None).await else { return };
            if wire.request().await.is_some() && breaks == HeadersReset {
                reset(&wire.io);
            }
        }
        Nonsense => {
            let Some(mut wire) = Wire::greet(stream, None).await else { return };
            // DATA of no stream (RFC 9113 6.1).
            if wire.request().await.is_some() {
                wire.data(0, b"?", false).await;
                wire.close().await;
            }
        }
    }
}

/// A peer that breaks, if it listens at all, and its address.
async fn breaking(breaks: Breaks) -> (SocketAddr, Option<Server>) {
    if breaks == Refused {
        return (Server::nowhere().await, None);
    }
    let server = Server::start(move |_, stream| run(stream, breaks)).await;
    (server.address, Some(server))
}

fn patient(addresses: &[SocketAddr]) -> Backend {
    let mut backend = backend("b", addresses);
    backend.connect_timeout = Duration::from_millis(300);
    backend
}

/// An error that a person can act upon: it says where.
fn tells(error: &Error, address: SocketAddr) {
    let report = error.report();
    for part in ["backend b", "service svc", &address.to_string()] {
        assert!(report.contains(part), "{part:?} is missing in {report:?}");
    }
}

#[tokio::test]
async fn cl_07_each_phase_has_its_class_of_error() {
    watched(async {
        for (breaks, kind, text) in [
            (Refused, ErrorKind::NoHealthyEndpoint, "connect to"),
            (Accepted, ErrorKind::NoHealthyEndpoint, "HTTP/2 handshake with"),
            (AcceptedReset, ErrorKind::NoHealthyEndpoint, "HTTP/2 handshake with"),
            (Preface, ErrorKind::NoHealthyEndpoint, "HTTP/2 handshake with"),
            (Garbage, ErrorKind::NoHealthyEndpoint, "is it an HTTP/2 server?"),
            (Silent, ErrorKind::NoHealthyEndpoint, "within 300ms"),
            (Headers, ErrorKind::Reset, "broke before a response"),
            (HeadersReset, ErrorKind::Reset, "broke before a response"),
            (Nonsense, ErrorKind::Protocol, "broke before a response"),
        ] {
            let (address, _server) = breaking(breaks).await;
            let (mesh, _) = mesh(config_of(patient(&[address]))).await;
            // Not only the first request: the state the first one leaves behind must not be worse.
            for round in 0..3 {
                let error = get(&mesh).await.unwrap_err();
                assert_eq!(error.kind(), kind, "{breaks:?}, round {round}: {error:?}");
                let expected = if kind == ErrorKind::Protocol { Code::Internal } else { Code::Unavailable };
                assert!([expected, Code::Unavailable].contains(&error.grpc_code()), "{breaks:?}: {error:?}");
                assert!(error.report().contains(text), "{breaks:?}: {}", error.report());
                tells(&error, address);
            }
            finish(mesh).await;
        }
    })
    .await;
}

/// The request may have been put on the connection before its end was seen: then it broke. If not, it was refused.
#[tokio::test]
async fn cl_07_a_connection_that_ends_with_its_settings() {
    watched(async {
        let (address, _server) = breaking(Settings).await;
        let (mesh, _) = mesh(config_of(patient(&[address]))).await;
        for _ in 0..20 {
            let error = get(&mesh).await.unwrap_err();
            let kinds = [ErrorKind::Reset, ErrorKind::Refused, ErrorKind::NoHealthyEndpoint];
            assert!(kinds.contains(&error.kind()), "{error:?}");
            assert_eq!(error.grpc_code(), Code::Unavailable);
            tells(&error, address);
        }
        finish(mesh).await;
    })
    .await;
}

#[tokio::test]
async fn cl_07_a_body_that_breaks_off() {
    watched(async {
        for hard in [false, true] {
            let server = Server::start(move |_, stream| async move {
                let Some(mut wire) = Wire::greet(stream, None).await else { return };
                let Some((stream, _)) = wire.request().await else { return };
                wire.head(stream).await;
                wire.data(stream, b"half", false).await;
                if hard {
                    // The reset overtakes nothing: the client has seen what came before.
                    wire.ping().await;
                    while wire.next().await.is_some_and(|frame| !(frame.kind == 6 && frame.is_ack())) {}
                    reset(&wire.io);
                }
            })
            .await;
            let (mesh, events) = mesh(config_of(patient(&[server.address]))).await;
            let error = get(&mesh).await.unwrap_err();
            assert_eq!((error.kind(), error.grpc_code()), (ErrorKind::Reset, Code::Unavailable), "{error:?}");
            tells(&error, server.address);
            let failed = Outcome::Failed(ErrorKind::Reset);
            events.wait_for(|seen| matches!(seen, Seen::Request { outcome, .. } if *outcome == failed)).await;
            finish(mesh).await;
        }
    })
    .await;
}

/// What fails before anything was sent costs nothing as long as there is another endpoint, also without a policy; what
/// may have been processed is saved by one.
#[tokio::test]
async fn cl_07_a_healthy_neighbour_saves_what_can_be_saved() {
    watched(async {
        for breaks in
            [Refused, Accepted, AcceptedReset, Preface, Garbage, Silent, Settings, Headers, HeadersReset, Nonsense]
        {
            let (address, _server) = breaking(breaks).await;
            let healthy = TestBackend::named("healthy").start();
            let sent = matches!(breaks, Settings | Headers | HeadersReset | Nonsense);
            let mut policy = RoutePolicy::default();
            if sent {
                policy.retry = Some(Arc::new(RetryPolicy::new(RetryOn::RESET)));
            }
            let config = config_with(patient(&[address, healthy.address()]), policy);
            let (mesh, _) = mesh(config).await;
            for round in 0..40 {
                let answer = get(&mesh).await;
                assert_eq!(answer.unwrap_or_else(|error| panic!("{breaks:?}, {round}: {error:?}")), "healthy");
                if !sent {
                    assert_eq!(post(&mesh, pattern(2000, round)).await.unwrap(), "healthy", "{breaks:?}, {round}");
                }
            }
            finish(mesh).await;
        }
    })
    .await;
}

/// Certificates for one name, by an authority of their own.
struct Authority {
    _directory: tempfile::TempDir,
    file: PathBuf,
    server: Arc<ServerConfig>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ca.pem");
        std::fs::write(&file, key.cert.pem()).unwrap();
        let private = PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![key.cert.der().clone()], private)
            .unwrap();
        server.alpn_protocols = vec![b"h2".to_vec()];
        Self { _directory: directory, file, server: Arc::new(server) }
    }

    async fn serve(&self) -> Server {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.server));
        let backend = Arc::new(TestBackend::named("secret").start_in(&MemoryNetwork::new()));
        Server::start(move |_, stream| {
            let (acceptor, backend) = (acceptor.clone(), Arc::clone(&backend));
            async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    backend.serve(stream);
                }
            }
        })
        .await
    }

    /// Speaks over TLS what `next` names: `h2` or `http/1.1`. Each connection serves one request and is closed.
    async fn serve_once(&self, next: Arc<Mutex<&'static str>>) -> Server {
        let server = Arc::clone(&self.server);
        Server::start(move |_, stream| {
            let alpn = *next.lock().unwrap();
            let mut server = (*server).clone();
            server.alpn_protocols = vec![alpn.into()];
            async move {
                let Ok(mut stream) = TlsAcceptor::from(Arc::new(server)).accept(stream).await else { return };
                if alpn == "h2" {
                    let Some(mut wire) = Wire::greet(stream, None).await else { return };
                    let Some((stream, _)) = wire.request().await else { return };
                    wire.go_away(stream, 0).await;
                    wire.answer(stream, alpn.as_bytes()).await;
                    return wire.close().await;
                }
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    head.push(byte);
                }
                let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 8\r\n\r\nhttp/1.1";
                let _ = stream.write_all(answer).await;
                let _ = stream.shutdown().await;
                while stream.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {}
            }
        })
        .await
    }

    fn config(&self, addresses: &[SocketAddr], name: &str) -> Config {
        let mut tls = Tls::simple(RootCertificates::PemFile(self.file.clone()));
        tls.server_name = Some(name.into());
        let mut backend = patient(addresses);
        backend.connect_timeout = Duration::from_secs(5);
        backend.tls = Some(tls);
        config_of(backend)
    }
}

#[tokio::test]
async fn cl_07_tls_that_fails_names_its_reason_and_falls_back_to_nothing() {
    watched(async {
        let ours = Authority::new("svc.example");
        let theirs = Authority::new("svc.example");
        let good = ours.serve().await;
        let untrusted = theirs.serve().await;
        let garbage = Server::start(|_, stream| run(stream, Garbage)).await;
        let closing = Server::start(|_, stream| run(stream, Accepted)).await;
        // A peer that speaks HTTP/2 in plaintext must not be spoken to.
        let plain = TestBackend::named("plain").start();
        for (address, name, text) in [
            (garbage.address, "svc.example", "TLS handshake with"),
            (closing.address, "svc.example", "TLS handshake with"),
            (untrusted.address, "svc.example", "a signature of the peer is wrong"),
            (good.address, "other.example", "expected is other.example"),
            (plain.address(), "svc.example", "TLS handshake with"),
        ] {
            let (mesh, _) = mesh(ours.config(&[address], name)).await;
            for _ in 0..2 {
                let error = get(&mesh).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::NoHealthyEndpoint, "{text}: {error:?}");
                assert!(error.report().contains(text), "{text}: {}", error.report());
                tells(&error, address);
            }
            finish(mesh).await;
        }
        assert_eq!(plain.request_count(), 0);
        // With a trusted neighbour each of them is passed over.
        let addresses = [garbage.address, closing.address, untrusted.address, plain.address(), good.address];
        let (mesh, _) = mesh(ours.config(&addresses, "svc.example")).await;
        for _ in 0..50 {
            assert_eq!(get(&mesh).await.unwrap(), "secret");
        }
        finish(mesh).await;
    })
    .await;
}

/// A peer that is replaced by one of the other protocol, and back, while requests go on.
#[tokio::test]
async fn a_tls_peer_may_turn_to_another_protocol() {
    watched(async {
        let authority = Authority::new("svc.example");
        let next = Arc::new(Mutex::new("http/1.1"));
        let server = authority.serve_once(Arc::clone(&next)).await;
        let mut config = authority.config(&[server.address], "svc.example");
        for backend in config.backends.values_mut() {
            Arc::make_mut(backend).protocol = Protocol::Auto;
        }
        let (mesh, _) = mesh(config).await;
        for alpn in ["http/1.1", "h2", "http/1.1", "h2"] {
            *next.lock().unwrap() = alpn;
            // A connection of the old protocol may have been made ahead.
            while get(&mesh).await.unwrap() != alpn {}
            for _ in 0..3 {
                assert_eq!(get(&mesh).await.unwrap(), alpn);
            }
        }
        finish(mesh).await;
    })
    .await;
}

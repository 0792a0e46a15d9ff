//! Making a byte stream: TCP or a Unix socket, then TLS where it is configured.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::model::Address;
use rustls::ProtocolVersion;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::contain::contained_future;

use super::Cluster;
use super::io::{Io, Raw, Stream};
use super::tls::{Client, Guarded, Insecure, Offer};
use crate::identity::PeerRefused;

/// A byte stream on its way.
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>>;

/// Opens byte streams in place of TCP and Unix sockets: in tests over memory, in an application over whatever it has.
///
/// TLS, where configured, and HTTP are spoken over what it returns. The mesh bounds each call by the backend's connect
/// timeout and drops the future when the time is up.
pub trait Connect: Send + Sync + 'static {
    /// Opens a stream to `address`.
    fn connect(&self, address: &Address) -> Connecting;
}

impl<F, Fut> Connect for F
where
    F: Fn(&Address) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = io::Result<Box<dyn Io>>> + Send + 'static,
{
    fn connect(&self, address: &Address) -> Connecting {
        Box::pin(self(address))
    }
}

/// Why no connection could be made.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ConnectError {
    /// The operating system, or a [`Connect`] implementation, refused.
    Io {
        /// The endpoint.
        address: Address,
        /// The reason.
        error: Arc<io::Error>,
    },
    /// Mutual TLS is configured, and there is no certificate to prove who this process is. Nothing was sent.
    NoIdentity {
        /// The endpoint.
        address: Address,
    },
    /// The peer proved who it is, and it is not who it must be, or nobody who is trusted vouches for it.
    Peer {
        /// The endpoint.
        address: Address,
        /// The reason.
        reason: PeerRefused,
    },
    /// The TLS handshake failed, or the peer refused who we are.
    Tls {
        /// The endpoint.
        address: Address,
        /// The reason.
        error: Arc<io::Error>,
    },
    /// The peer is not heard of in time, or does not answer as HTTP/2 in time.
    Timeout {
        /// The endpoint.
        address: Address,
        /// How far it should have come.
        phase: &'static str,
        /// The bound.
        timeout: Duration,
    },
    /// The peer answered the HTTP/2 preface with something else, or closed.
    Http2 {
        /// The endpoint.
        address: Address,
        /// The reason.
        error: Arc<::h2::Error>,
    },
    /// The HTTP/1.1 connection could not be set up.
    Http1 {
        /// The endpoint.
        address: Address,
        /// The reason.
        error: Arc<hyper::Error>,
    },
    /// The endpoint left the configuration, or the mesh is shut down.
    Closed {
        /// The endpoint.
        address: Address,
    },
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { address, error } => write!(f, "connect to {address}: {error}"),
            Self::NoIdentity { address } => write!(
                f,
                "connect to {address}: no identity: mutual TLS needs a certificate of this process, and there is none \
                 yet; the log says what its source lacks, and `identity` in the configuration names one"
            ),
            Self::Peer { address, reason } => write!(f, "TLS handshake with {address}: {reason}"),
            Self::Tls { address, error } => {
                write!(f, "TLS handshake with {address}: {error}")?;
                if refuses_us(error) {
                    f.write_str(
                        "; the server refused the identity of this process: see its `identities`, its trust bundle and \
                         its log",
                    )?;
                }
                Ok(())
            }
            Self::Timeout { address, phase, timeout } => write!(
                f,
                "connect to {address}: not {phase} within {timeout:?}; raise `connect_timeout` if the peer is only slow"
            ),
            Self::Http2 { address, error } => {
                write!(f, "HTTP/2 handshake with {address}: {error}; is it an HTTP/2 server?")
            }
            Self::Http1 { address, error } => write!(f, "HTTP/1.1 handshake with {address}: {error}"),
            Self::Closed { address } => write!(f, "{address} is no longer used"),
        }
    }
}

/// Written out because a derived source would be the `Arc`: nobody who looks for an [`io::Error`] would find it.
impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { error, .. } | Self::Tls { error, .. } => Some(&**error),
            Self::Http2 { error, .. } => Some(&**error),
            Self::Http1 { error, .. } => Some(&**error),
            Self::Peer { reason, .. } => Some(reason),
            Self::NoIdentity { .. } | Self::Timeout { .. } | Self::Closed { .. } => None,
        }
    }
}

/// Whether the peer's alert (RFC 8446 6.2) is about the certificate of this process.
fn refuses_us(error: &io::Error) -> bool {
    use rustls::AlertDescription::{
        AccessDenied, BadCertificate, CertificateExpired, CertificateRequired, CertificateRevoked, CertificateUnknown,
        NoCertificate, UnknownCA, UnsupportedCertificate,
    };
    let Some(rustls::Error::AlertReceived(alert)) = error.get_ref().and_then(|error| error.downcast_ref()) else {
        return false;
    };
    matches!(
        alert,
        AccessDenied
            | BadCertificate
            | CertificateExpired
            | CertificateRequired
            | CertificateRevoked
            | CertificateUnknown
            | NoCertificate
            | UnknownCA
            | UnsupportedCertificate
    )
}

/// How long a peer has at least for its word on our certificate.
const LEAST_PATIENCE: Duration = Duration::from_millis(20);

/// A stream, and what the handshake said of it.
pub(super) struct Connected {
    pub(super) stream: Stream,
    /// Whether ALPN chose HTTP/2 (`None`: it says nothing of HTTP).
    pub(super) alpn_h2: Option<bool>,
    /// When it is to be replaced, because a certificate that it was made with will expire.
    pub(super) replace_at: Option<Instant>,
    /// How long the peer may take for its word on our certificate, if that is still to come.
    patience: Option<Duration>,
}

/// Connects to `address`: in plaintext, or by `tls` offering `offer`.
pub(super) async fn connect(
    cluster: &Cluster,
    address: &Address,
    tls: Option<(&Client, Offer)>,
    deadline: Instant,
) -> Result<Connected, ConnectError> {
    let timeout = |phase| {
        let (address, timeout) = (address.clone(), cluster.connect_timeout);
        move |_| ConnectError::Timeout { address, phase, timeout }
    };
    let io_error = |error| ConnectError::Io { address: address.clone(), error: Arc::new(error) };
    if tls.is_some_and(|(client, _)| client.is_mutual()) && cluster.shared.identities.current().is_none() {
        return Err(ConnectError::NoIdentity { address: address.clone() });
    }
    let raw = async {
        match &cluster.shared.connector {
            Some(connector) => {
                let connected = contained_future("the connector", || connector.connect(address)).await;
                connected.unwrap_or_else(|panicked| Err(io::Error::other(panicked))).map(Raw::Other)
            }
            None => open(cluster, address).await,
        }
    };
    let raw = tokio::time::timeout_at(deadline, raw).await.map_err(timeout("connected"))?.map_err(io_error)?;
    let Some((client, offer)) = tls else {
        return Ok(Connected { stream: Stream::Plain(raw), alpn_h2: None, replace_at: None, patience: None });
    };
    let began = Instant::now();
    let secured = tokio::time::timeout_at(deadline, client.connect(&cluster.shared, address, raw, offer))
        .await
        .map_err(timeout("through the TLS handshake"))?
        .map_err(|error| insecure(address, error))?;
    let replace_at = secured.held.as_ref().map(|held| held.session.replace_at());
    let is_heard = secured.stream.get_ref().1.protocol_version() != Some(ProtocolVersion::TLSv1_3);
    let patience = (secured.held.is_some() && !is_heard).then(|| began.elapsed().max(LEAST_PATIENCE));
    let stream = Stream::Tls(Box::new(Guarded::new(secured.stream, secured.held)));
    Ok(Connected { stream, alpn_h2: secured.agreed_h2, replace_at, patience })
}

impl Connected {
    /// Waits for the peer's word on our certificate. In TLS 1.3 a client is through its handshake before the server has
    /// seen the certificate; if that is refused, an alert comes in place of the tickets that servers send otherwise.
    /// HTTP/2 waits for SETTINGS anyway. Some servers send no tickets, and are not waited for longer than another
    /// handshake would take: a refusal that comes still later meets the first request.
    pub(super) async fn hear(&mut self, address: &Address, deadline: Instant) -> Result<(), ConnectError> {
        let Stream::Tls(stream) = &mut self.stream else { return Ok(()) };
        let Some(patience) = self.patience else { return Ok(()) };
        match tokio::time::timeout_at(deadline.min(Instant::now() + patience), stream.hear()).await {
            Ok(Err(error)) => Err(ConnectError::Tls { address: address.clone(), error: Arc::new(error) }),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }
}

fn insecure(address: &Address, error: Insecure) -> ConnectError {
    let address = address.clone();
    match error {
        Insecure::NoIdentity => ConnectError::NoIdentity { address },
        Insecure::Peer(reason) => ConnectError::Peer { address, reason },
        Insecure::Io(error) => ConnectError::Tls { address, error: Arc::new(error) },
    }
}

async fn open(cluster: &Cluster, address: &Address) -> io::Result<Raw> {
    match address {
        Address::Socket(address) => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            if let Some(keepalive) = cluster.account.policy().kept.keepalive {
                set_user_timeout(&stream, keepalive.timeout);
            }
            Ok(Raw::Tcp(stream))
        }
        #[cfg(unix)]
        Address::Unix(path) => Ok(Raw::Other(Box::new(tokio::net::UnixStream::connect(path).await?))),
        other => Err(io::Error::new(io::ErrorKind::Unsupported, format!("no sockets of this kind here: {other}"))),
    }
}

/// Has the kernel give up a connection whose bytes are not acknowledged for so long (gRFC A18), and not after the 15
/// minutes of its retransmissions. Linux and Android have the option; elsewhere pings alone find a dead peer.
fn set_user_timeout(stream: &TcpStream, timeout: Duration) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Err(error) = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(timeout)) {
        tracing::debug!(%error, ?timeout, "TCP_USER_TIMEOUT was not set");
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (stream, timeout);
}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use mesh_core::model::{Backend, BackendId, Config, Endpoint, Keepalive};

    use super::*;
    use crate::Mesh;

    #[test]
    fn an_alert_about_our_certificate_says_whose_fault_to_look_for() {
        use rustls::AlertDescription as Alert;
        let text = |error: rustls::Error| {
            let error = Arc::new(io::Error::new(io::ErrorKind::InvalidData, error));
            let address = Address::Socket("127.0.0.1:1".parse().unwrap());
            ConnectError::Tls { address, error }.to_string()
        };
        for alert in [Alert::CertificateUnknown, Alert::UnknownCA, Alert::CertificateRequired, Alert::AccessDenied] {
            let told = text(rustls::Error::AlertReceived(alert));
            let wanted = "refused the identity of this process: see its `identities`, its trust bundle and its log";
            assert!(told.contains(wanted) && told.contains(&format!("{alert:?}")), "{told}");
        }
        for other in [rustls::Error::AlertReceived(Alert::HandshakeFailure), rustls::Error::DecryptError] {
            assert!(!text(other).contains("identity"));
        }
    }

    /// CL-05: the kernel knows how long bytes may stay unacknowledged.
    #[tokio::test]
    async fn cl_05_tcp_user_timeout_is_the_timeout_of_keepalive() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::from(listener.local_addr().unwrap());
        for keepalive in [None, Some(Keepalive::new(Duration::from_secs(10)))] {
            let id = BackendId::new("s", "b");
            let mut backend = Backend::new(id.clone(), vec![Endpoint::new(address.clone())]);
            backend.connections.keepalive = keepalive;
            let mesh = Mesh::builder().config(Config::new().with_backend(backend)).build().await.unwrap();
            let snapshot = mesh.handle.core.snapshot.load_full();
            let cluster = snapshot.backend_by_id(&id).unwrap().transport();
            let Raw::Tcp(stream) = open(cluster, &address).await.unwrap() else { panic!("TCP was asked for") };
            let timeout = socket2::SockRef::from(&stream).tcp_user_timeout().unwrap();
            assert_eq!(timeout, keepalive.map(|keepalive| keepalive.timeout));
        }
    }
}

//! Making a byte stream: TCP or a Unix socket, then TLS where it is configured.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use mesh_core::model::Address;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::contain::contained_future;

use super::io::{Io, Raw, Stream};
use super::{Cluster, tls};

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
    /// The TLS handshake failed.
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
        timeout: std::time::Duration,
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
            Self::Tls { address, error } => write!(f, "TLS handshake with {address}: {error}"),
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
            Self::Timeout { .. } | Self::Closed { .. } => None,
        }
    }
}

/// A stream, and whether ALPN chose HTTP/2 (`None`: no ALPN).
pub(super) struct Connected {
    pub(super) stream: Stream,
    pub(super) alpn_h2: Option<bool>,
}

/// Connects to `address` for a request that wrote `host` (for SNI where the configuration gives no name).
pub(super) async fn connect(
    cluster: &Cluster,
    address: &Address,
    deadline: Instant,
) -> Result<Connected, ConnectError> {
    let timeout = |phase| {
        let (address, timeout) = (address.clone(), cluster.connect_timeout);
        move |_| ConnectError::Timeout { address, phase, timeout }
    };
    let io_error = |error| ConnectError::Io { address: address.clone(), error: Arc::new(error) };
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
    let Some(client) = &cluster.tls else {
        return Ok(Connected { stream: Stream::Plain(raw), alpn_h2: None });
    };
    let tls = tokio::time::timeout_at(deadline, client.connect(address, raw))
        .await
        .map_err(timeout("through the TLS handshake"))?
        .map_err(|error| ConnectError::Tls { address: address.clone(), error: Arc::new(error) })?;
    let alpn_h2 = tls.get_ref().1.alpn_protocol().map(|protocol| protocol == tls::ALPN_H2);
    Ok(Connected { stream: Stream::Tls(Box::new(tls)), alpn_h2 })
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
fn set_user_timeout(stream: &TcpStream, timeout: std::time::Duration) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Err(error) = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(timeout)) {
        tracing::debug!(%error, ?timeout, "TCP_USER_TIMEOUT was not set");
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (stream, timeout);
}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use std::time::Duration;

    use mesh_core::model::{Backend, BackendId, Config, Endpoint, Keepalive};

    use super::*;
    use crate::Mesh;

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

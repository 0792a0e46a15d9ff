//! From an accepted byte stream to a known caller: what is spoken, TLS, who it is.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::inbound::{Detected, detect, detect_http};
use mesh_core::model::ServerTls;
use rustls_pki_types::UnixTime;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout_at};

use super::peer::Peer;
use super::state::{Handshake, ServerState};
use super::stream::{First, Leave, Rewound, ServerStream, Transport, Version};
use crate::identity::PeerRefused;
use crate::net::after;
use crate::net::io::{Io, Raw};
use crate::net::tls::{ALPN_H1, ALPN_H2};

/// Lets connections in, for an accept loop of your own: it tells TLS from plaintext, shakes hands, and verifies who
/// calls, as the server's configuration says.
///
/// It knows nothing of the loop's number of connections, and nothing of HTTP: limits of both are the caller's, or
/// [`Mesh::serve`](crate::Mesh::serve)'s.
#[derive(Debug, Clone)]
pub struct Acceptor {
    state: Arc<ServerState>,
}

/// Why a connection was not let in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// The caller said nothing, or too little, in time.
    #[error("the caller had not {phase} within {timeout:?}")]
    Timeout {
        /// How far it should have come.
        phase: &'static str,
        /// The bound.
        timeout: Duration,
    },
    /// The caller does not speak TLS, and the server is strict. It was not answered.
    #[error("the caller speaks plaintext, and the server is strict; `tls: permissive` lets it in")]
    Plaintext,
    /// The caller has no certificate that is trusted, or is none of those who may connect.
    #[error("the caller is refused: {0}")]
    Peer(#[source] PeerRefused),
    /// The TLS handshake failed.
    #[error("TLS handshake: {0}")]
    Handshake(#[source] io::Error),
    /// This process has no identity to show.
    #[error("there is no identity to show to the caller; see what `identity` in the configuration waits for")]
    NoIdentity,
    /// The TLS settings of the server cannot be used.
    #[error("the server's TLS settings: {0}")]
    Settings(#[source] Arc<rustls::Error>),
    /// The connection broke or was closed.
    #[error("the connection ended: {0}")]
    Io(#[source] io::Error),
}

impl AcceptError {
    /// What an error of the handshake means.
    fn of_handshake(self) -> Self {
        match self {
            Self::Io(error) => PeerRefused::of(&error).map_or(Self::Handshake(error), Self::Peer),
            other => other,
        }
    }

    /// A word for it in metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Timeout { .. } => "timeout",
            Self::Plaintext => "plaintext",
            Self::Peer(refused) => refused.as_str(),
            Self::Handshake(_) => "handshake",
            Self::NoIdentity => "no_identity",
            Self::Settings(_) => "settings",
            Self::Io(_) => "io",
        }
    }
}

impl Acceptor {
    pub(crate) fn new(state: Arc<ServerState>) -> Self {
        Self { state }
    }

    /// Lets in `stream`, which comes from `remote` and to `local` as far as that is known. Run it on a task of its own: a
    /// caller may take its time, which the server's limits bound.
    ///
    /// # Errors
    /// If the caller is not let in. It has been told by a TLS alert, where TLS was spoken.
    pub async fn accept(
        &self,
        stream: impl Io,
        remote: Option<SocketAddr>,
        local: Option<SocketAddr>,
    ) -> Result<ServerStream, AcceptError> {
        self.accept_raw(Raw::Other(Box::new(stream)), remote, local, Instant::now()).await
    }

    /// As [`accept`](Self::accept), of a connection that began at `began`.
    pub(crate) async fn accept_raw(
        &self,
        mut raw: Raw,
        remote: Option<SocketAddr>,
        local: Option<SocketAddr>,
        began: Instant,
    ) -> Result<ServerStream, AcceptError> {
        let leave = Leave { entry: self.state.entry.subscribe(), identities: self.state.shared.identities.subscribe() };
        let settings = Arc::clone(&self.state.settings());
        let mode = settings.tls();
        let limits = &settings.server.limits;
        let first_request = Bound::new("sent a request", began, limits.first_request_timeout);
        let detection = Bound::new("said what it speaks", began, limits.detection_timeout);
        let mut first = First::default();
        let detected = detection.or(first_request).of(look(&mut raw, &mut first, detect)).await?;
        let raw = Rewound::new(raw, first);
        let mut peer = Peer { remote, local, certified: None };
        match (mode, detected) {
            (ServerTls::Strict | ServerTls::Permissive, Detected::Tls) => {}
            (ServerTls::Strict, _) => return Err(AcceptError::Plaintext),
            // TLS records are no HTTP where no TLS is spoken: the parser says so.
            (_, detected) => {
                return Ok(ServerStream {
                    transport: Transport::Plain(raw),
                    peer: Arc::new(peer),
                    version: Version::of(detected),
                    leave,
                });
            }
        }
        let Handshake { acceptor, identity, .. } = self.state.handshake(&settings)?;
        let limit = Bound::new("finished its TLS handshake", Instant::now(), limits.handshake_timeout);
        let mut tls = limit.or(first_request).of(acceptor.accept(raw)).await.map_err(AcceptError::of_handshake)?;
        let session = tls.get_ref().1;
        let chain = session.peer_certificates().unwrap_or_default();
        // A resumed session proves who the caller was: whether that still counts is asked each time.
        peer.certified = Some(
            identity
                .trust()
                .certified_of_resumed(chain, &settings.server.identities, UnixTime::now())
                .map_err(AcceptError::Peer)?,
        );
        let agreed = session.alpn_protocol().map(|protocol| match protocol {
            ALPN_H2 => Some(Version::Http2),
            ALPN_H1 => Some(Version::Http1),
            // Only that the caller is of the mesh.
            _ => None,
        });
        let mut first = First::default();
        let version = match agreed.flatten() {
            Some(version) => version,
            None => {
                let detection = Bound::new("said what it speaks", Instant::now(), limits.detection_timeout);
                Version::of(detection.or(first_request).of(look(&mut tls, &mut first, detect_http)).await?)
            }
        };
        Ok(ServerStream {
            transport: Transport::Tls(Box::new(Rewound::new(tls, first))),
            peer: Arc::new(peer),
            version,
            leave,
        })
    }
}

/// Reads until `verdict` is sure.
async fn look(
    stream: &mut (impl AsyncRead + Unpin),
    first: &mut First,
    verdict: fn(&[u8]) -> Option<Detected>,
) -> io::Result<Detected> {
    loop {
        if let Some(detected) = verdict(first.as_slice()) {
            return Ok(detected);
        }
        match stream.read(first.room()).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => first.filled(count),
        }
    }
}

/// Until when a caller must have come how far.
#[derive(Clone, Copy)]
struct Bound {
    phase: &'static str,
    at: Instant,
    timeout: Duration,
}

impl Bound {
    fn new(phase: &'static str, since: Instant, timeout: Duration) -> Self {
        Self { phase, at: after(since, timeout), timeout }
    }

    /// Whichever comes first.
    fn or(self, other: Self) -> Self {
        if other.at < self.at { other } else { self }
    }

    async fn of<T>(self, step: impl Future<Output = io::Result<T>>) -> Result<T, AcceptError> {
        match timeout_at(self.at, step).await {
            Ok(result) => result.map_err(AcceptError::Io),
            Err(_) => Err(AcceptError::Timeout { phase: self.phase, timeout: self.timeout }),
        }
    }
}

//! From an accepted byte stream to a known caller: what is spoken, TLS, who it is.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use mesh_core::inbound::{Detected, detect, detect_http};
use mesh_core::model::ServerTls;
use rustls_pki_types::UnixTime;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::count::{Full, Place};
use super::entry::Changes;
use super::listener::Arrival;
use super::peer::Peer;
use super::serve::draining;
use super::state::{Handshake, Served, ServerSettings, ServerState};
use super::stream::{First, Held, Rewound, ServerStream, Transport, Version};
use super::told::Told;
use crate::identity::{Certified, PeerRefused, Usage, list_expected, showing};
use crate::net::after;
use crate::net::io::{Io, Raw};
use crate::observe::TARGET;
use crate::telemetry::server::ConnectionRefusal;

/// How long a connection may still say nothing once its server is to end.
pub(super) const PARTING: Duration = Duration::from_secs(5);

/// Lets connections in, for an accept loop of your own: it tells TLS from plaintext, shakes hands, and verifies who
/// calls, as the server's configuration says.
///
/// It knows nothing of the loop's number of connections, and nothing of HTTP: limits of both are the caller's, or
/// [`Mesh::serve`](crate::Mesh::serve)'s.
#[derive(Debug, Clone)]
pub struct Acceptor {
    state: Arc<ServerState>,
    /// Whether all that serves what it lets in speaks gRPC.
    is_grpc: bool,
    told: Told,
    /// Of a loop that is not ours.
    _served: Option<Arc<Served>>,
}

/// Why a connection was not let in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// The caller said nothing, or too little, in time.
    #[error("the caller had not {stage} within {timeout:?}")]
    Timeout {
        /// How far it should have come.
        stage: Stage,
        /// The bound.
        timeout: Duration,
    },
    /// The server is to end, and the caller had not said anything.
    #[error("the server drains, and the caller has said nothing")]
    Draining,
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

/// How far a caller should have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// The first bytes said what it speaks.
    Detected,
    /// The TLS handshake was through.
    Handshaken,
    /// The head of a request was there.
    Requested,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Detected => "said what it speaks",
            Self::Handshaken => "finished its TLS handshake",
            Self::Requested => "sent a request",
        })
    }
}

impl AcceptError {
    /// What an error of the handshake means.
    fn of_handshake(self) -> Self {
        match self {
            Self::Io(error) => PeerRefused::of(&error).map_or(Self::Handshake(error), Self::Peer),
            other => other,
        }
    }

    /// What it counts as.
    pub(crate) fn refusal(&self) -> ConnectionRefusal {
        match self {
            Self::Timeout { stage: Stage::Detected, .. } => ConnectionRefusal::DetectionTimeout,
            Self::Timeout { stage: Stage::Handshaken, .. } => ConnectionRefusal::HandshakeTimeout,
            Self::Timeout { stage: Stage::Requested, .. } => ConnectionRefusal::FirstRequestTimeout,
            Self::Draining => ConnectionRefusal::Draining,
            Self::Plaintext => ConnectionRefusal::Plaintext,
            Self::Peer(_) => ConnectionRefusal::Identity,
            Self::Handshake(_) | Self::NoIdentity | Self::Settings(_) => ConnectionRefusal::Handshake,
            Self::Io(_) => ConnectionRefusal::Broken,
        }
    }

    /// The reason in a word and the way out, if it takes a person to have such callers let in.
    fn to_repair(&self) -> Option<(&'static str, &'static str)> {
        let (reason, way_out) = match self {
            Self::Plaintext => ("plaintext", "have the caller speak mutual TLS, or set `tls: permissive` meanwhile"),
            Self::Peer(refused) => {
                let way_out = match refused {
                    PeerRefused::Name { .. } => "if it may connect, add it to `identities` of this server",
                    PeerRefused::NoCertificate => "give the caller an `identity`, and have it speak mutual TLS",
                    PeerRefused::UnknownIssuer => {
                        "add the authority that issued it to the trust bundle, or have the caller send its intermediates"
                    }
                    PeerRefused::TrustDomain { .. } => {
                        "add the bundle of that trust domain to `trust_bundles`, or it to `trust_domain_aliases`"
                    }
                    PeerRefused::UndeterminedRevocation => "renew the revocation lists of this server",
                    _ => "have another certificate issued to the caller",
                };
                (refused.as_str(), way_out)
            }
            Self::Handshake(error) => match error.get_ref()?.downcast_ref::<rustls::Error>()? {
                rustls::Error::AlertReceived(_) => {
                    ("alert", "the caller refused this server: see its log, its trust bundle and whom it expects")
                }
                _ => ("protocol", "the caller must speak TLS 1.2 or 1.3 with a cipher suite of this server"),
            },
            Self::NoIdentity => ("no_identity", "see what this process's `identity` waits for"),
            Self::Settings(_) => ("settings", "see the crypto provider that the mesh was built with"),
            Self::Timeout { .. } | Self::Draining | Self::Io(_) => return None,
        };
        Some((reason, way_out))
    }

    /// Why there was no handshake, in a word.
    fn reason(&self) -> &'static str {
        match self {
            Self::Timeout { .. } => "timeout",
            Self::Peer(refused) => refused.as_str(),
            Self::NoIdentity => "no_identity",
            Self::Settings(_) => "settings",
            _ => "protocol",
        }
    }
}

impl Acceptor {
    pub(crate) fn new(state: Arc<ServerState>, is_grpc: bool) -> Self {
        Self { state, is_grpc, told: Told::default(), _served: None }
    }

    /// For an application, which serves the server as long as it has it.
    pub(crate) fn lent(state: Arc<ServerState>) -> Self {
        let served = Some(Arc::new(state.serve()));
        Self { state, is_grpc: false, told: Told::default(), _served: served }
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
        let parted = async {
            draining(&self.state).await;
            sleep(PARTING).await;
        };
        let stream = self.accept_raw(Raw::Other(Box::new(stream)), remote, local, Instant::now(), parted).await?;
        Ok(stream.watched(&self.state))
    }

    pub(super) fn state(&self) -> &Arc<ServerState> {
        &self.state
    }

    /// A place for a connection, if there is one.
    pub(super) fn admit(&self, arrival: &Arrival) -> Option<Place> {
        let state = &self.state;
        state.series.accepted();
        let full = match state.connections.enter(&state.settings().server.limits, arrival.remote) {
            Ok(place) => return Some(place),
            Err(full) => full,
        };
        let why = match full {
            Full::All => ConnectionRefusal::MaxConnections,
            Full::Address => ConnectionRefusal::MaxConnectionsPerAddress,
        };
        state.series.refused(why);
        let (server, limit) = (&*state.name, why.as_str());
        tracing::debug!(target: TARGET, server, peer = ?arrival.remote, limit, "a connection is refused");
        None
    }

    /// Lets in a connection that was accepted at `began`, or tells why not. It holds its `place`. `leaving`: the server is
    /// to end.
    pub(super) async fn let_in(
        &self,
        arrival: Arrival,
        place: Place,
        began: Instant,
        leaving: &CancellationToken,
    ) -> Option<ServerStream> {
        let Arrival { raw, remote, local } = arrival;
        let parted = async {
            leaving.cancelled().await;
            sleep(PARTING).await;
        };
        let (accepted, shown) = showing(self.accept_raw(raw, remote, local, began, parted)).await;
        match accepted {
            Ok(mut stream) => {
                stream.held = Some(Held { _place: place, _open: self.state.series.opened() });
                Some(stream)
            }
            Err(error) => {
                self.state.series.refused(error.refusal());
                self.tell(remote, &error, shown.as_deref());
                None
            }
        }
    }

    /// Tells the log why a caller is not let in: at `WARN`, once a second for each reason, what somebody must repair.
    fn tell(&self, remote: Option<SocketAddr>, error: &AcceptError, shown: Option<&str>) {
        let server = &*self.state.name;
        let due = error.to_repair().and_then(|(reason, way_out)| Some((reason, way_out, self.told.is_due(reason)?)));
        let Some((reason, way_out, untold)) = due else {
            tracing::debug!(target: TARGET, server, peer = ?remote, %error, "a caller is not let in");
            return;
        };
        let settings = self.state.settings();
        let expected = match &*settings.server.identities {
            [] => "whoever the trust bundle vouches for".into(),
            identities => list_expected(identities),
        };
        let shown = shown.unwrap_or("no certificate that can be read");
        let peer = remote.map(tracing::field::display);
        tracing::warn!(
            target: TARGET, server, peer, reason, shown, %expected, %error, way_out, untold, "a caller is refused"
        );
    }

    /// As [`accept`](Self::accept), of a connection that began at `began`. Once `parted` is over it is waited for no longer
    /// that it begins to say something; what has begun has the time that it always has.
    async fn accept_raw(
        &self,
        mut raw: Raw,
        remote: Option<SocketAddr>,
        local: Option<SocketAddr>,
        began: Instant,
        parted: impl Future<Output = ()>,
    ) -> Result<ServerStream, AcceptError> {
        let changes = Changes::new(&self.state);
        let settings = Arc::clone(&self.state.settings());
        let mode = settings.tls();
        let limits = &settings.server.limits;
        let first_request = Bound::new(Stage::Requested, began, limits.first_request_timeout);
        let detection = Bound::new(Stage::Detected, began, limits.detection_timeout);
        let mut parted = pin!(parted);
        let mut first = First::default();
        let bound = detection.or(first_request);
        let detected = bound.of(look(&mut raw, &mut first, detect, parted.as_mut())).await?;
        let raw = Rewound::new(raw, first);
        let mut peer = Peer { remote, local, is_grpc: self.is_grpc, ..Peer::default() };
        match (mode, detected) {
            (ServerTls::Strict | ServerTls::Permissive, Detected::Tls) => {}
            (ServerTls::Strict, _) => return Err(AcceptError::Plaintext),
            // TLS records are no HTTP where no TLS is spoken: the parser says so.
            (_, detected) => {
                return Ok(ServerStream {
                    transport: Transport::Plain(raw),
                    peer: Arc::new(peer),
                    version: Version::of(detected),
                    changes,
                    held: None,
                    staying: None,
                    fresh: None,
                });
            }
        }
        let began = Instant::now();
        // In a box of its own: whoever says nothing needs no room for it.
        let shaken = Box::pin(self.shake_hands(raw, &settings, first_request)).await;
        self.state.series.handshake(shaken.as_ref().map(|_| began.elapsed()).map_err(AcceptError::reason));
        let (mut tls, certified) = shaken?;
        peer.certified = Some(certified);
        peer.verified_at = Some(UnixTime::now());
        let agreed = tls.get_ref().1.alpn_protocol().map(|protocol| match protocol {
            b"h2" => Some(Version::Http2),
            b"http/1.1" => Some(Version::Http1),
            // Only that the caller is of the mesh.
            _ => None,
        });
        let mut first = First::default();
        let version = match agreed.flatten() {
            Some(version) => version,
            None => {
                let detection = Bound::new(Stage::Detected, Instant::now(), limits.detection_timeout);
                let bound = detection.or(first_request);
                Version::of(bound.of(look(&mut tls, &mut first, detect_http, parted.as_mut())).await?)
            }
        };
        Ok(ServerStream {
            transport: Transport::Tls(Box::new(Rewound::new(tls, first))),
            peer: Arc::new(peer),
            version,
            changes,
            held: None,
            staying: None,
            fresh: None,
        })
    }

    /// The TLS handshake, and what its caller's certificate says.
    async fn shake_hands(
        &self,
        raw: Rewound<Raw>,
        settings: &Arc<ServerSettings>,
        first_request: Bound,
    ) -> Result<(TlsStream<Rewound<Raw>>, Arc<Certified>), AcceptError> {
        let Handshake { acceptor, identity, .. } = self.state.handshake(settings)?;
        let limit = Bound::new(Stage::Handshaken, Instant::now(), settings.server.limits.handshake_timeout);
        let shaken = async { acceptor.accept(raw).await.map_err(AcceptError::Io) };
        let tls = limit.or(first_request).of(shaken).await.map_err(AcceptError::of_handshake)?;
        let (connection, expected) = (tls.get_ref().1, &settings.server.identities);
        let certified = identity.trust().of_connection(connection, Usage::Client, expected, UnixTime::now());
        Ok((tls, certified.map_err(AcceptError::Peer)?))
    }
}

/// Reads until `verdict` is sure. Once `parted` is over, nothing is waited for that has not begun.
async fn look(
    stream: &mut (impl AsyncRead + Unpin),
    first: &mut First,
    verdict: fn(&[u8]) -> Option<Detected>,
    mut parted: Pin<&mut impl Future<Output = ()>>,
) -> Result<Detected, AcceptError> {
    loop {
        if let Some(detected) = verdict(first.as_slice()) {
            return Ok(detected);
        }
        let is_silent = first.as_slice().is_empty();
        let read = tokio::select! {
            biased;
            read = stream.read(first.room()) => read,
            () = parted.as_mut(), if is_silent => return Err(AcceptError::Draining),
        };
        match read.map_err(AcceptError::Io)? {
            0 => return Err(AcceptError::Io(io::ErrorKind::UnexpectedEof.into())),
            count => first.filled(count),
        }
    }
}

/// Until when a caller must have come how far.
#[derive(Clone, Copy)]
struct Bound {
    stage: Stage,
    at: Instant,
    timeout: Duration,
}

impl Bound {
    fn new(stage: Stage, since: Instant, timeout: Duration) -> Self {
        Self { stage, at: after(since, timeout), timeout }
    }

    /// Whichever comes first.
    fn or(self, other: Self) -> Self {
        if other.at < self.at { other } else { self }
    }

    async fn of<T>(self, step: impl Future<Output = Result<T, AcceptError>>) -> Result<T, AcceptError> {
        match timeout_at(self.at, step).await {
            Ok(result) => result,
            Err(_) => Err(AcceptError::Timeout { stage: self.stage, timeout: self.timeout }),
        }
    }
}

#[cfg(test)]
mod tests;

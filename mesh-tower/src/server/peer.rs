//! Who is at the other end of a connection.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use http::HeaderValue;
use mesh_core::identity::{SanMatch, SpiffeId, SubjectAltName};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::identity::{Certified, Identity, PeerRefused, Usage};

/// The caller of a server: what its connection says about it. A handler finds it as `Arc<Peer>` in the extensions of
/// each request.
///
/// ```
/// use std::sync::Arc;
///
/// use mesh_tower::server::Peer;
///
/// fn caller<B>(request: &http::Request<B>) -> Option<String> {
///     let peer = request.extensions().get::<Arc<Peer>>()?;
///     peer.identity().map(|id| id.to_string()) // spiffe://cluster.local/ns/shop/sa/cart
/// }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Peer {
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) certified: Option<Arc<Certified>>,
    /// When that was verified.
    pub(crate) verified_at: Option<UnixTime>,
    /// Whether all that serves it speaks gRPC.
    pub(crate) is_grpc: bool,
    /// What `x-forwarded-client-cert` says of it, where that is written.
    pub(crate) forwarded: OnceLock<Option<HeaderValue>>,
}

impl Peer {
    /// Whether it would still get in, now that `identity` and `expected` hold. A certificate that has expired since it
    /// was verified does no harm to the connection: its caller has a newer one on others.
    pub(crate) fn check(&self, identity: &Identity, expected: &[SanMatch]) -> Result<(), PeerRefused> {
        let at = self.verified_at.unwrap_or_else(UnixTime::now);
        identity.trust().verify(self.chain(), Usage::Client, expected, at).map(drop)
    }

    /// A caller in plaintext, of whom nothing is known but where it comes from: for tests of handlers.
    pub fn plaintext(remote: Option<SocketAddr>) -> Self {
        Self { remote, ..Self::default() }
    }

    /// Its SPIFFE id, from a verified certificate. `None` for plaintext, and for certificates without one.
    pub fn identity(&self) -> Option<&SpiffeId> {
        self.certified.as_ref()?.id()
    }

    /// Whether it has proved who it is, by a verified certificate.
    pub fn is_mutual(&self) -> bool {
        self.certified.is_some()
    }

    /// What its verified certificate says.
    pub fn certified(&self) -> Option<&Certified> {
        self.certified.as_deref()
    }

    /// All names in its verified certificate.
    pub fn names(&self) -> &[SubjectAltName] {
        self.certified().map_or(&[], Certified::names)
    }

    /// Its verified certificate, and those between it and the root, as it sent them.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        self.certified().map_or(&[], Certified::chain)
    }

    /// Where it connected from: the address of a proxy in between, if there is one. `None` over a Unix socket.
    pub fn remote_address(&self) -> Option<SocketAddr> {
        self.remote
    }

    /// Where it connected to. `None` over a Unix socket.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.local
    }
}

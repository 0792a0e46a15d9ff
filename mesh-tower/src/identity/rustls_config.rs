//! An identity as configurations of rustls.
//!
//! Each has session storage of its own, so that a session is resumed only under the identity and the expectations under
//! which its peer was verified (CVE-2022-21654).

use std::sync::Arc;

use mesh_core::identity::SanMatch;
use rustls::crypto::CryptoProvider;
use rustls::server::ServerSessionMemoryCache;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::trust::Trust;
use super::verify::Verifier;

/// How many sessions a server keeps for resumption, of about 2 KiB each; a peer whose chain is as long as it
/// may be takes 32.
const SESSIONS: usize = 1024;

/// What a server may agree on, the best first. Istio's sidecars say the last three beside the ordinary ones.
const SERVER_ALPN: [&[u8]; 5] = [b"h2", b"http/1.1", b"istio-h2", b"istio-http/1.1", b"istio"];

/// What a client wants of the servers of one backend.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    /// The protocols that it offers, the best first.
    pub(crate) alpn: Vec<Vec<u8>>,
    /// Who the server must be. Empty: anybody who is trusted.
    pub(crate) expected: Arc<[SanMatch]>,
    /// Whom to trust in place of those that the identity trusts.
    pub(crate) roots: Option<Arc<RootCertStore>>,
}

/// A client without a certificate, for ordinary servers that prove one of the names on `terms` to its roots, and whom it
/// trusts. Without roots that is nobody.
pub(crate) fn anonymous(
    terms: &Terms,
    provider: &Arc<CryptoProvider>,
) -> Result<(ClientConfig, Arc<Trust>), rustls::Error> {
    let roots = terms.roots.clone().unwrap_or_else(|| Arc::new(RootCertStore::empty()));
    let trust = Arc::new(Trust::of_roots(roots, provider.signature_verification_algorithms));
    let verifier = Verifier { trust: Arc::clone(&trust), expected: Arc::clone(&terms.expected), client_required: true };
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols.clone_from(&terms.alpn);
    Ok((config, trust))
}

pub(super) fn client(
    certified: &Arc<CertifiedKey>,
    trust: Arc<Trust>,
    provider: &Arc<CryptoProvider>,
    terms: &Terms,
) -> Result<ClientConfig, rustls::Error> {
    let verifier = Verifier { trust, expected: Arc::clone(&terms.expected), client_required: true };
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(certified))));
    config.alpn_protocols.clone_from(&terms.alpn);
    Ok(config)
}

pub(super) fn server(
    certified: &Arc<CertifiedKey>,
    trust: Arc<Trust>,
    provider: &Arc<CryptoProvider>,
    expected: &Arc<[SanMatch]>,
    client_required: bool,
) -> Result<ServerConfig, rustls::Error> {
    let verifier = Verifier { trust, expected: Arc::clone(expected), client_required };
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(certified))));
    config.alpn_protocols = SERVER_ALPN.iter().map(|protocol| protocol.to_vec()).collect();
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
    Ok(config)
}

//! A verified, ready identity.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use mesh_core::identity::{SanMatch, SpiffeId, TrustDomain};
use mesh_core::model;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, InconsistentKeys, ServerConfig};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::certificate::Leaf;
use super::doubt::{Doubt, Purpose};
use super::error::IdentityError;
use super::material::Material;
use super::refused::PeerRefused;
use super::rustls_config::{self, Terms};
use super::trust::Trust;

/// Who this process is, and whom it trusts: verified, ready for handshakes, and never changed. New material makes a new
/// one.
pub struct Identity {
    id: Option<SpiffeId>,
    leaf: Leaf,
    certified: Arc<CertifiedKey>,
    trust: Arc<Trust>,
    provider: Arc<CryptoProvider>,
    generation: u64,
    doubts: Vec<Doubt>,
}

impl Identity {
    /// Verifies `material`. The key is handed on to `provider`.
    ///
    /// # Errors
    /// If a part of it cannot be used, or not now.
    pub(crate) fn new(
        material: Material,
        settings: &model::Identity,
        provider: &Arc<CryptoProvider>,
        generation: u64,
        now: UnixTime,
    ) -> Result<Self, IdentityError> {
        let mut leaves = Vec::with_capacity(material.certificates.len());
        for (index, certificate) in material.certificates.iter().enumerate() {
            let refused = |error| IdentityError::Certificate { index, reason: format!("{error}") };
            leaves.push(Leaf::read(certificate).map_err(refused)?);
        }
        let leaf = leaves.into_iter().next().ok_or(IdentityError::NoCertificate)?;
        leaf.valid_at(now).map_err(|refused| match refused {
            PeerRefused::NotYetValid { not_before, .. } => IdentityError::NotYetValid { not_before },
            _ => IdentityError::Expired { not_after: leaf.not_after },
        })?;
        if let Some(weak) = leaf.weak_key {
            return Err(IdentityError::WeakKey { algorithm: weak.algorithm, bits: weak.bits });
        }
        let unreadable = |error| IdentityError::Certificate { index: 0, reason: format!("{error}") };
        let purpose = Purpose::read(&material.certificates[0]).map_err(unreadable)?;
        purpose.check()?;
        let id = own_id(&leaf)?;
        let trust = Trust::new(
            &material.trust,
            &material.revocation_lists,
            id.as_ref(),
            &settings.trust_domain_aliases,
            settings.allow_undetermined_revocation,
            provider.signature_verification_algorithms,
        )?;
        let certified =
            CertifiedKey::from_der(material.certificates.clone(), material.copy_key(), provider).map_err(|error| {
                match error {
                    rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => IdentityError::KeyMismatch,
                    other => IdentityError::Key { reason: other.to_string() },
                }
            })?;
        let doubts = purpose.doubts(&material.certificates, &trust, now);
        Ok(Self {
            id,
            leaf,
            doubts,
            certified: Arc::new(certified),
            trust: Arc::new(trust),
            provider: Arc::clone(provider),
            generation,
        })
    }

    /// The SPIFFE id. `None` in a plain PKI.
    pub fn id(&self) -> Option<&SpiffeId> {
        self.id.as_ref()
    }

    /// From when the certificate is valid.
    pub fn not_before(&self) -> SystemTime {
        self.leaf.not_before
    }

    /// Until when the certificate is valid.
    pub fn not_after(&self) -> SystemTime {
        self.leaf.not_after
    }

    /// The serial number of the certificate, in hexadecimal.
    pub fn serial(&self) -> &str {
        &self.leaf.serial
    }

    /// The certificate, and behind it those between it and its root.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// How many identities this process has had, this one included.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The trust domains whose members are trusted: the own one, its aliases, then the others. None in a plain PKI.
    pub fn trust_domains(&self) -> impl Iterator<Item = &TrustDomain> {
        self.trust.domains()
    }

    /// What will not work with it, though it can be used. `old`: the SPIFFE id that it takes the place of.
    pub(super) fn doubts(&self, old: Option<&SpiffeId>) -> Vec<Doubt> {
        let mut doubts = self.doubts.clone();
        if let (Some(old), Some(new)) = (old, &self.id)
            && old != new
        {
            doubts.push(Doubt::OtherId { old: old.clone(), new: new.clone() });
        }
        doubts
    }

    /// Whom it trusts.
    pub(crate) fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// Whom a client trusts on `terms`.
    pub(crate) fn trust_on(&self, terms: &Terms) -> Arc<Trust> {
        match &terms.roots {
            Some(roots) => Arc::new(self.trust.with_roots(Arc::clone(roots))),
            None => Arc::clone(&self.trust),
        }
    }

    /// A client that presents the certificate. It resumes sessions of its own alone.
    ///
    /// # Errors
    /// If the crypto provider supports neither TLS 1.2 nor TLS 1.3.
    pub(crate) fn client_config(&self, terms: &Terms) -> Result<ClientConfig, rustls::Error> {
        rustls_config::client(&self.certified, self.trust_on(terms), &self.provider, terms)
    }

    /// A server that presents the certificate, for callers that are one of `expected`, or anybody who is trusted. It
    /// resumes sessions of its own alone.
    ///
    /// # Errors
    /// If the crypto provider supports neither TLS 1.2 nor TLS 1.3.
    pub(crate) fn server_config(
        &self,
        expected: &Arc<[SanMatch]>,
        require_client: bool,
    ) -> Result<ServerConfig, rustls::Error> {
        rustls_config::server(&self.certified, Arc::clone(&self.trust), &self.provider, expected, require_client)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("id", &self.id)
            .field("leaf", &self.leaf)
            .field("trust", &self.trust)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// A certificate with other URIs, or none, is of a plain PKI; one that is nearly of SPIFFE is a mistake.
fn own_id(leaf: &Leaf) -> Result<Option<SpiffeId>, IdentityError> {
    let is_spiffe = |uri: &str| uri.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe:"));
    let Some(uri) = leaf.uris().find(|uri| is_spiffe(uri)) else { return Ok(None) };
    match leaf.uris().count() {
        1 => SpiffeId::new(uri).map(Some).map_err(|error| IdentityError::SpiffeId { uri: uri.to_string(), error }),
        count => Err(IdentityError::ManySpiffeIds { count }),
    }
}

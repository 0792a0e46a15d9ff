//! What a source of identities brings.

use std::collections::BTreeMap;
use std::fmt;

use mesh_core::identity::TrustDomain;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use zeroize::Zeroize;

/// What a source brings: who this process is, and whom it trusts.
///
/// The bytes of the key are never printed, and wiped when this is dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Material {
    /// The certificate, and behind it those between it and its root, each issued by the next.
    pub certificates: Vec<CertificateDer<'static>>,
    key: Key,
    /// Whom to trust.
    pub trust: Bundles,
    /// Who is revoked. Empty: nobody. Otherwise each certificate below a root needs a list of its issuer; of several,
    /// the one that was issued last counts.
    pub revocation_lists: Vec<CertificateRevocationListDer<'static>>,
}

/// The authorities that this process trusts. An empty one is valid, and refuses everybody.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Bundles {
    /// Those of the own trust domain; without SPIFFE ids, the roots of the PKI.
    pub own: Vec<CertificateDer<'static>>,
    /// Those of each other trust domain, which vouch for its members alone. What stands here under the own trust domain
    /// is added to `own`.
    pub others: BTreeMap<TrustDomain, Vec<CertificateDer<'static>>>,
}

/// A private key that is wiped when it is dropped.
struct Key(PrivateKeyDer<'static>);

impl Material {
    /// The identity that `certificates` and `key` prove, which trusts `trust`. Nobody is revoked.
    pub fn new(certificates: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>, trust: Bundles) -> Self {
        Self { certificates, key: Key(key), trust, revocation_lists: Vec::new() }
    }

    /// Refuses what `lists` revoke.
    #[must_use]
    pub fn with_revocation_lists(mut self, lists: Vec<CertificateRevocationListDer<'static>>) -> Self {
        self.revocation_lists = lists;
        self
    }

    /// A copy of the key, for whoever consumes and does not wipe it.
    pub(super) fn copy_key(&self) -> PrivateKeyDer<'static> {
        self.key.0.clone_key()
    }
}

impl Bundles {
    /// The bundle of the own trust domain alone.
    pub fn new(own: Vec<CertificateDer<'static>>) -> Self {
        Self { own, others: BTreeMap::new() }
    }

    /// Trusts `authorities` with the members of `trust_domain`.
    #[must_use]
    pub fn with(mut self, trust_domain: TrustDomain, authorities: Vec<CertificateDer<'static>>) -> Self {
        self.others.insert(trust_domain, authorities);
        self
    }
}

impl Clone for Key {
    fn clone(&self) -> Self {
        Self(self.0.clone_key())
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Key {}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<private key>")
    }
}

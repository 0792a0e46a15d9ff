//! What can be wrong with an identity.

use std::fmt;
use std::time::SystemTime;

use mesh_core::identity::{SpiffeId, SpiffeIdError, TrustDomain};

use super::refused::Utc;

/// Material that no identity can be made of. The last good one stays.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// There is no certificate.
    #[error("no certificate: the chain is empty")]
    NoCertificate,
    /// A certificate of the chain cannot be read.
    #[error("certificate {} of the chain cannot be used: {reason}", index + 1)]
    Certificate {
        /// Its place, counted from 0: 0 is the own one.
        index: usize,
        /// Why.
        reason: String,
    },
    /// The certificate has expired.
    #[error("the certificate expired at {}; a new one must be issued", Utc(*not_after))]
    Expired {
        /// When.
        not_after: SystemTime,
    },
    /// The certificate is not valid yet.
    #[error("the certificate is valid from {} only; check the clocks of this machine and of whoever issued it", Utc(*not_before))]
    NotYetValid {
        /// From when it is.
        not_before: SystemTime,
    },
    /// The key of the certificate is too weak.
    #[error("the certificate has an {algorithm} key of {bits} bits; RSA needs 2048, elliptic curves 256")]
    WeakKey {
        /// Of which kind the key is.
        algorithm: &'static str,
        /// Its size.
        bits: usize,
    },
    /// The certificate has a SPIFFE id and other URIs beside it (SPIFFE X.509-SVID, section 2).
    #[error("the certificate has a SPIFFE id and {} more URI names; it must be the only one", count - 1)]
    ManySpiffeIds {
        /// How many URIs there are.
        count: usize,
    },
    /// The certificate's URI is a SPIFFE id by its scheme, and none by its form.
    #[error("the certificate's {uri:?} is no SPIFFE id: {error}")]
    SpiffeId {
        /// The URI.
        uri: String,
        /// Why.
        #[source]
        error: SpiffeIdError,
    },
    /// The certificate is one of an authority, which every peer refuses as that of a workload.
    #[error(
        "the certificate is one of an authority (basicConstraints CA:true), which peers refuse; `certificate` must begin \
         with the one of this workload, and those of authorities stand behind it or in `trust_bundle`"
    )]
    OfAuthority,
    /// The certificate may be used by neither side of a connection.
    #[error(
        "the extendedKeyUsage of the certificate has neither clientAuth nor serverAuth; it must be issued for both, or \
         without that extension"
    )]
    Usage,
    /// The certificate has no SPIFFE id, and the one in force, of the same source, has.
    #[error(
        "the certificate has no SPIFFE id (subjectAltName), and the one in force is {was}; it must be issued with one, \
         or, if SPIFFE is given up, this process be started anew"
    )]
    LostSpiffeId {
        /// The SPIFFE id in force.
        was: SpiffeId,
    },
    /// The private key cannot be used.
    #[error("the private key cannot be used: {reason}")]
    Key {
        /// Why, in the words of the crypto provider.
        reason: String,
    },
    /// The private key is another one than the certificate's.
    #[error("the private key does not belong to the certificate: both must be replaced together")]
    KeyMismatch,
    /// An authority cannot be read.
    #[error("authority {} {}cannot be used: {reason}", index + 1, Of(trust_domain))]
    Authority {
        /// Whose it is. `None`: that of the own trust domain.
        trust_domain: Option<TrustDomain>,
        /// Its place in the bundle, counted from 0.
        index: usize,
        /// Why.
        reason: String,
    },
    /// There are bundles of trust domains, and the certificate is of none.
    #[error("there are bundles of other trust domains, such as {trust_domain}, but the certificate has no SPIFFE id")]
    BundleWithoutSpiffeId {
        /// The first of them.
        trust_domain: TrustDomain,
    },
    /// A list of revoked certificates cannot be read.
    #[error("revocation list {} cannot be used: {reason}", index + 1)]
    RevocationList {
        /// Its place, counted from 0.
        index: usize,
        /// Why.
        reason: String,
    },
}

/// The part of [`Material`](super::Material) that is wrong, for whoever knows where it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Part {
    /// The certificate and its chain.
    Certificate,
    /// The private key.
    Key,
    /// The bundles.
    Trust,
    /// The lists of revoked certificates.
    RevocationLists,
}

impl IdentityError {
    /// Which part is wrong.
    pub fn part(&self) -> Part {
        match self {
            Self::Key { .. } | Self::KeyMismatch => Part::Key,
            Self::Authority { .. } | Self::BundleWithoutSpiffeId { .. } => Part::Trust,
            Self::RevocationList { .. } => Part::RevocationLists,
            _ => Part::Certificate,
        }
    }
}

struct Of<'a>(&'a Option<TrustDomain>);

impl fmt::Display for Of<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(trust_domain) => write!(f, "of trust domain {trust_domain} "),
            None => f.write_str("of the own bundle "),
        }
    }
}

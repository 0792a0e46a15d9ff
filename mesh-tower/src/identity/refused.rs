//! Why a peer is refused, and how the reason travels through rustls.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_core::identity::{SanMatch, SanPattern, SpiffeIdError, SubjectAltName, TrustDomain};
use rustls::{CertificateError, OtherError};
use rustls_pki_types::UnixTime;
use x509_parser::time::ASN1Time;

use super::certificate::{Unreadable, WeakKey};
use super::trust::{MAX_CHAIN_BYTES, MAX_CHAIN_CERTIFICATES};

/// Why a peer's certificate was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerRefused {
    /// It sent none.
    #[error("the peer sent no certificate; only callers with one are let in")]
    NoCertificate,
    /// A certificate of its chain has expired.
    #[error("a certificate of the peer expired at {}; it must be issued anew", Utc(*not_after))]
    Expired {
        /// When.
        not_after: SystemTime,
        /// When that was found.
        now: SystemTime,
    },
    /// A certificate of its chain is not valid yet.
    #[error("a certificate of the peer is valid from {} only; check the clocks of both machines", Utc(*not_before))]
    NotYetValid {
        /// From when it is.
        not_before: SystemTime,
        /// When that was found.
        now: SystemTime,
    },
    /// No authority of the bundle has issued it; one of the same name with another key does not count.
    #[error("no trusted authority has issued the peer's certificate; the root that has must be in the trust bundle")]
    UnknownIssuer,
    /// It must not be used for this side of a connection (extended key usage).
    #[error("the peer's certificate must not be used for this; servers need the usage serverAuth, clients clientAuth")]
    WrongUsage,
    /// A list revokes it.
    #[error("the peer's certificate or that of one of its issuers is revoked")]
    Revoked,
    /// No valid list says whether it is revoked (gRFC A69).
    #[error(
        "no valid revocation list says whether the peer's certificate is revoked; renew the lists, have one for each \
         issuer, or set `allow_undetermined_revocation`"
    )]
    UndeterminedRevocation,
    /// Its key is too weak.
    #[error("the peer's certificate has an {algorithm} key of {bits} bits; RSA needs 2048, elliptic curves 256")]
    WeakKey {
        /// Of which kind the key is.
        algorithm: &'static str,
        /// Its size; 0 if that does not matter.
        bits: usize,
    },
    /// It has no SPIFFE id, and nobody is expected by another name.
    #[error("the peer's certificate has no SPIFFE id; to accept it, expect it by one of its names: {presented}")]
    NoSpiffeId {
        /// The names that it has.
        presented: Arc<str>,
    },
    /// It has several URI names (gRFC A87).
    #[error("the peer's certificate has {count} URI names; a SPIFFE id must be the only one")]
    ManySpiffeIds {
        /// How many.
        count: usize,
    },
    /// Its URI name is no SPIFFE id.
    #[error("the peer's URI name {uri:?} is no SPIFFE id: {error}")]
    SpiffeId {
        /// The URI.
        uri: Arc<str>,
        /// Why.
        #[source]
        error: SpiffeIdError,
    },
    /// It is of a trust domain whose bundle is not there.
    #[error("the peer is of the trust domain {trust_domain}, of which there is no bundle; add it, or an alias")]
    TrustDomain {
        /// Which.
        trust_domain: TrustDomain,
    },
    /// None of its names is expected.
    #[error("the peer is {presented}; expected is {expected}")]
    Name {
        /// The names that it has.
        presented: Arc<str>,
        /// Those that were expected.
        expected: Arc<str>,
    },
    /// It sent more than 10 certificates, or more than 32 KiB of them.
    #[error(
        "the peer sent {certificates} certificates of {bytes} bytes in all; at most {MAX_CHAIN_CERTIFICATES} of \
         {MAX_CHAIN_BYTES} bytes are taken, so it must send no more than those between its own and its root"
    )]
    LongChain {
        /// How many.
        certificates: usize,
        /// Their length together, in bytes.
        bytes: usize,
    },
    /// It is no certificate, or one that cannot be verified.
    #[error("the peer's certificate cannot be used: {reason}")]
    Malformed {
        /// Why.
        reason: Arc<str>,
    },
    /// Its signature of the handshake is wrong, or one in its chain is of an unknown algorithm.
    #[error("a signature of the peer is wrong, or made with an algorithm that is not supported")]
    Signature,
}

impl PeerRefused {
    /// The reason in a few words without spaces, for metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::UnknownIssuer => "unknown_issuer",
            Self::WrongUsage => "wrong_usage",
            Self::Revoked => "revoked",
            Self::UndeterminedRevocation => "undetermined_revocation",
            Self::WeakKey { .. } => "weak_key",
            Self::NoSpiffeId { .. } => "no_spiffe_id",
            Self::ManySpiffeIds { .. } => "many_spiffe_ids",
            Self::SpiffeId { .. } => "malformed_spiffe_id",
            Self::TrustDomain { .. } => "unknown_trust_domain",
            Self::Name { .. } => "wrong_name",
            Self::LongChain { .. } => "long_chain",
            Self::Malformed { .. } => "malformed",
            Self::Signature => "bad_signature",
        }
    }

    /// The refusal that a failed handshake ended with. `None` if it failed for another reason.
    pub fn of(error: &io::Error) -> Option<Self> {
        Self::of_rustls(error.get_ref()?.downcast_ref()?)
    }

    pub(crate) fn of_rustls(error: &rustls::Error) -> Option<Self> {
        use CertificateError::{
            BadEncoding, BadSignature, Expired, ExpiredContext, ExpiredRevocationList, ExpiredRevocationListContext,
            InvalidPurpose, InvalidPurposeContext, NotValidForName, NotValidForNameContext, NotValidYet,
            NotValidYetContext, Other, Revoked, UnknownIssuer, UnknownRevocationStatus,
            UnsupportedSignatureAlgorithmContext, UnsupportedSignatureAlgorithmForPublicKeyContext,
        };
        let error = match error {
            rustls::Error::NoCertificatesPresented => return Some(Self::NoCertificate),
            rustls::Error::InvalidCertificate(error) => error,
            rustls::Error::InvalidCertRevocationList(_) => return Some(Self::UndeterminedRevocation),
            _ => return None,
        };
        Some(match error {
            Other(OtherError(inner)) => match inner.downcast_ref::<Self>() {
                Some(refused) => refused.clone(),
                None => Self::malformed(inner),
            },
            ExpiredContext { time, not_after } => {
                Self::Expired { not_after: system_time(*not_after), now: system_time(*time) }
            }
            NotValidYetContext { time, not_before } => {
                Self::NotYetValid { not_before: system_time(*not_before), now: system_time(*time) }
            }
            Expired | NotValidYet | BadEncoding => Self::malformed(error),
            Revoked => Self::Revoked,
            UnknownIssuer => Self::UnknownIssuer,
            UnknownRevocationStatus | ExpiredRevocationList | ExpiredRevocationListContext { .. } => {
                Self::UndeterminedRevocation
            }
            BadSignature
            | UnsupportedSignatureAlgorithmContext { .. }
            | UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => Self::Signature,
            InvalidPurpose | InvalidPurposeContext { .. } => Self::WrongUsage,
            NotValidForName => Self::Name { presented: "somebody else".into(), expected: "the server's name".into() },
            NotValidForNameContext { expected, presented } => {
                Self::Name { presented: list(presented), expected: expected.to_str().into() }
            }
            other => Self::malformed(other),
        })
    }

    /// The refusal as rustls wants it: what it has a word for goes by that, so that the peer gets the right alert.
    pub(super) fn into_rustls(self) -> rustls::Error {
        let error = match self {
            Self::NoCertificate => return rustls::Error::NoCertificatesPresented,
            Self::Expired { not_after, now } => {
                CertificateError::ExpiredContext { time: unix_time(now), not_after: unix_time(not_after) }
            }
            Self::NotYetValid { not_before, now } => {
                CertificateError::NotValidYetContext { time: unix_time(now), not_before: unix_time(not_before) }
            }
            Self::UnknownIssuer => CertificateError::UnknownIssuer,
            Self::WrongUsage => CertificateError::InvalidPurpose,
            Self::Revoked => CertificateError::Revoked,
            Self::UndeterminedRevocation => CertificateError::UnknownRevocationStatus,
            Self::Signature => CertificateError::BadSignature,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        };
        error.into()
    }

    /// What `webpki` says of a chain.
    pub(super) fn of_chain(error: &webpki::Error) -> Self {
        use webpki::Error::{
            CertExpired, CertNotValidYet, CertRevoked, CrlExpired, EmptyEkuExtension, InvalidCrlSignatureForPublicKey,
            InvalidSignatureForPublicKey, IssuerNotCrlSigner, RequiredEkuNotFoundContext, SignatureAlgorithmMismatch,
            UnknownIssuer, UnknownRevocationStatus, UnsupportedCrlSignatureAlgorithmContext,
            UnsupportedCrlSignatureAlgorithmForPublicKeyContext, UnsupportedSignatureAlgorithmContext,
            UnsupportedSignatureAlgorithmForPublicKeyContext,
        };
        match error {
            CertExpired { time, not_after } => {
                Self::Expired { not_after: system_time(*not_after), now: system_time(*time) }
            }
            CertNotValidYet { time, not_before } => {
                Self::NotYetValid { not_before: system_time(*not_before), now: system_time(*time) }
            }
            // Of a signature: there is an authority of the issuer's name, with another key.
            UnknownIssuer | InvalidSignatureForPublicKey => Self::UnknownIssuer,
            CertRevoked => Self::Revoked,
            UnknownRevocationStatus
            | CrlExpired { .. }
            | InvalidCrlSignatureForPublicKey
            | IssuerNotCrlSigner
            | UnsupportedCrlSignatureAlgorithmContext(_)
            | UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_) => Self::UndeterminedRevocation,
            RequiredEkuNotFoundContext(_) | EmptyEkuExtension => Self::WrongUsage,
            SignatureAlgorithmMismatch
            | UnsupportedSignatureAlgorithmContext(_)
            | UnsupportedSignatureAlgorithmForPublicKeyContext(_) => Self::Signature,
            other => Self::malformed(other),
        }
    }

    pub(super) fn name(presented: &[SubjectAltName], expected: &[SanMatch]) -> Self {
        Self::Name { presented: list_names(presented), expected: list_expected(expected) }
    }

    pub(super) fn no_spiffe_id(presented: &[SubjectAltName]) -> Self {
        Self::NoSpiffeId { presented: list_names(presented) }
    }

    fn malformed(reason: impl fmt::Display) -> Self {
        Self::Malformed { reason: reason.to_string().into() }
    }
}

impl From<Unreadable> for PeerRefused {
    fn from(error: Unreadable) -> Self {
        Self::malformed(error)
    }
}

impl From<WeakKey> for PeerRefused {
    fn from(WeakKey { algorithm, bits }: WeakKey) -> Self {
        Self::WeakKey { algorithm, bits }
    }
}

/// A name on its way into a message: what a peer calls itself must not be able to forge a line of a log.
struct Shown<'a>(&'a SubjectAltName);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, text) = match self.0 {
            SubjectAltName::Uri(text) => ("URI", text),
            SubjectAltName::Dns(text) => ("DNS", text),
            SubjectAltName::Email(text) => ("email", text),
            SubjectAltName::Ip(address) => return write!(f, "IP {address}"),
            _ => return f.write_str("a name of another kind"),
        };
        write!(f, "{kind} {}", text.escape_debug())
    }
}

struct Expected<'a>(&'a SanMatch);

impl fmt::Display for Expected<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.pattern {
            SanPattern::Exact(text) => write!(f, "{text}"),
            SanPattern::Prefix(text) => write!(f, "{text}.. (prefix)"),
            SanPattern::Suffix(text) => write!(f, "..{text} (suffix)"),
            SanPattern::Contains(text) => write!(f, "..{text}.. (contained)"),
            SanPattern::Regex(pattern) => write!(f, "/{}/", pattern.as_str()),
            _ => f.write_str("another pattern"),
        }
    }
}

/// A few of those who are expected.
pub(crate) fn list_expected(expected: &[SanMatch]) -> Arc<str> {
    list(expected.iter().map(Expected))
}

pub(super) fn list_names(names: &[SubjectAltName]) -> Arc<str> {
    list(names.iter().map(Shown))
}

/// A few of `items`: a certificate has room for thousands of names, a line of a log has not.
fn list(items: impl IntoIterator<Item = impl fmt::Display>) -> Arc<str> {
    const SHOWN: usize = 8;
    const LONGEST: usize = 256;
    let mut items = items.into_iter();
    let mut text = String::new();
    for item in items.by_ref().take(SHOWN) {
        if !text.is_empty() {
            text.push_str(" or ");
        }
        let item = item.to_string();
        let cut: String = item.chars().take(LONGEST).collect();
        text.push_str(&cut);
        if cut.len() < item.len() {
            text.push_str("..");
        }
    }
    match (text.is_empty(), items.count()) {
        (true, _) => "nobody by name".into(),
        (false, 0) => text.into(),
        (false, more) => format!("{text} and {more} more").into(),
    }
}

/// A time as people write it.
pub(crate) struct Utc(pub(crate) SystemTime);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = i64::try_from(unix_time(self.0).as_secs()).unwrap_or(i64::MAX);
        match ASN1Time::from_timestamp(seconds) {
            Ok(time) => write!(f, "{time}"),
            Err(_) => write!(f, "{seconds} s after 1970"),
        }
    }
}

pub(super) fn system_time(time: UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(time.as_secs())).unwrap_or(SystemTime::UNIX_EPOCH)
}

pub(super) fn unix_time(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

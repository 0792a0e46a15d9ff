//! SPIFFE ids (SPIFFE-ID standard, section 2; gRFC A87).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The identity of a workload: `spiffe://cluster.local/ns/shop/sa/cart`.
///
/// At most 2048 bytes: the scheme `spiffe`, a [`TrustDomain`], and a path whose segments are non-empty, neither `.` nor
/// `..`, of letters, digits, `.`, `-` and `_`. No port, user, query or fragment, no percent-encoding, and no slash at the
/// end. The scheme and the trust domain have no capital letters: an identity has one text, and what reads it elsewhere
/// reads the same. Compared byte by byte.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Arc<str>,
    trust_domain: TrustDomain,
}

/// The part of a SPIFFE id that names who vouches for it: 1 to 255 of `a-z`, `0-9`, `.`, `-` and `_`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

/// A text that is no SPIFFE id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpiffeIdError {
    /// It does not begin with `spiffe://`.
    #[error("a SPIFFE id begins with `spiffe://`, in small letters")]
    Scheme,
    /// It is longer than 2048 bytes.
    #[error("a SPIFFE id has at most 2048 bytes")]
    TooLong,
    /// The trust domain is empty, too long, or has a character that it must not have.
    #[error("a trust domain is 1 to 255 of a-z, 0-9, `.`, `-` and `_`, without user, port or percent-encoding")]
    TrustDomain,
    /// A segment of the path is empty, `.`, `..`, or has a character that it must not have.
    #[error(
        "the path of a SPIFFE id has segments of letters, digits, `.`, `-` and `_`, none of them empty, `.` or `..`"
    )]
    Path,
}

impl TrustDomain {
    /// Reads the name of a trust domain.
    ///
    /// # Errors
    /// If it has other characters than a trust domain may have, none, or more than 255.
    pub fn new(name: &str) -> Result<Self, SpiffeIdError> {
        let may_be = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
        if name.is_empty() || name.len() > 255 || !name.bytes().all(may_be) {
            return Err(SpiffeIdError::TrustDomain);
        }
        Ok(Self(name.into()))
    }

    /// The name, such as `cluster.local`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SpiffeId {
    const SCHEME: &'static str = "spiffe://";
    const MAX_LEN: usize = 2048;

    /// Reads a SPIFFE id.
    ///
    /// # Errors
    /// If `text` is none.
    pub fn new(text: &str) -> Result<Self, SpiffeIdError> {
        if text.len() > Self::MAX_LEN {
            return Err(SpiffeIdError::TooLong);
        }
        let rest = text.strip_prefix(Self::SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let trust_domain = TrustDomain::new(domain)?;
        if let Some(path) = path.strip_prefix('/') {
            let may_be = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
            let good = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(may_be);
            if !path.split('/').all(good) {
                return Err(SpiffeIdError::Path);
            }
        }
        Ok(Self { text: text.into(), trust_domain })
    }

    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Who vouches for it.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// What comes behind the trust domain, such as `/ns/shop/sa/cart`; empty for the trust domain itself.
    pub fn path(&self) -> &str {
        &self.text[Self::SCHEME.len() + self.trust_domain.0.len()..]
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        Self::new(text)
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        Self::new(text)
    }
}

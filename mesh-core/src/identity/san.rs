//! The names that a certificate holds, and what they are compared with (gRFC A29; Envoy's `SubjectAltNameMatcher`).

use std::net::IpAddr;
use std::sync::Arc;

use crate::model::Pattern;

/// A name in a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SubjectAltName {
    /// A URI, such as a SPIFFE id, as it is written there.
    Uri(Arc<str>),
    /// A DNS name, which may be a wildcard such as `*.example.com`.
    Dns(Arc<str>),
    /// A mail address.
    Email(Arc<str>),
    /// An IP address.
    Ip(IpAddr),
}

/// The kind of a [`SubjectAltName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SanKind {
    /// [`SubjectAltName::Uri`].
    Uri,
    /// [`SubjectAltName::Dns`].
    Dns,
    /// [`SubjectAltName::Email`].
    Email,
    /// [`SubjectAltName::Ip`].
    Ip,
}

/// What one of the names of a peer must be.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SanMatch {
    /// The kind it must be of. `None`: any, compared by its text alone.
    pub kind: Option<SanKind>,
    /// What it must be.
    pub pattern: SanPattern,
}

/// How a name is compared. Texts are compared whole, byte by byte; a NUL in them is a byte like any other.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum SanPattern {
    /// The whole name. A DNS name of the certificate may be a wildcard: `*` is the whole leftmost label, and stands for
    /// exactly one; ASCII case and a trailing dot do not count. An IP address is compared as one, however it is written.
    /// An empty text is no name.
    Exact(Arc<str>),
    /// How it begins.
    Prefix(Arc<str>),
    /// How it ends.
    Suffix(Arc<str>),
    /// What it holds.
    Contains(Arc<str>),
    /// An expression for the whole name.
    Regex(Pattern),
}

impl SanMatch {
    /// A name of any kind.
    pub fn new(pattern: SanPattern) -> Self {
        Self { kind: None, pattern }
    }

    /// The same, of names of `kind` alone.
    #[must_use]
    pub fn of_kind(mut self, kind: SanKind) -> Self {
        self.kind = Some(kind);
        self
    }

    /// The URI `uri`, such as a SPIFFE id.
    pub fn uri(uri: impl Into<Arc<str>>) -> Self {
        Self { kind: Some(SanKind::Uri), pattern: SanPattern::Exact(uri.into()) }
    }

    /// The DNS name `name`.
    pub fn dns(name: impl Into<Arc<str>>) -> Self {
        Self { kind: Some(SanKind::Dns), pattern: SanPattern::Exact(name.into()) }
    }

    /// Whether `name` is what is expected.
    pub fn matches(&self, name: &SubjectAltName) -> bool {
        if self.kind.is_some_and(|kind| kind != name.kind()) {
            return false;
        }
        match name {
            SubjectAltName::Dns(name) => self.pattern.matches(name, true),
            SubjectAltName::Uri(name) | SubjectAltName::Email(name) => self.pattern.matches(name, false),
            SubjectAltName::Ip(address) => match &self.pattern {
                SanPattern::Exact(wanted) => wanted.parse() == Ok(*address),
                pattern => pattern.matches(&address.to_string(), false),
            },
        }
    }
}

/// Whether one of `names` is what one of `expected` says. Nothing expected is fulfilled by anything.
pub fn matches_any(expected: &[SanMatch], names: &[SubjectAltName]) -> bool {
    expected.is_empty() || expected.iter().any(|expected| names.iter().any(|name| expected.matches(name)))
}

impl SubjectAltName {
    /// Its kind.
    pub fn kind(&self) -> SanKind {
        match self {
            Self::Uri(_) => SanKind::Uri,
            Self::Dns(_) => SanKind::Dns,
            Self::Email(_) => SanKind::Email,
            Self::Ip(_) => SanKind::Ip,
        }
    }
}

impl SanPattern {
    fn matches(&self, name: &str, is_dns: bool) -> bool {
        match self {
            Self::Exact(wanted) if is_dns => dns_equal(name, wanted),
            Self::Exact(wanted) => !name.is_empty() && name == &**wanted,
            Self::Prefix(prefix) => name.starts_with(&**prefix),
            Self::Suffix(suffix) => name.ends_with(&**suffix),
            Self::Contains(part) => name.contains(&**part),
            Self::Regex(pattern) => pattern.is_full_match(name.as_bytes()),
        }
    }
}

/// Whether the DNS name `presented` in a certificate stands for `wanted` (CVE-2020-15104: `*` is one label).
fn dns_equal(presented: &str, wanted: &str) -> bool {
    let presented = presented.strip_suffix('.').unwrap_or(presented);
    let wanted = wanted.strip_suffix('.').unwrap_or(wanted);
    let (presented, wanted) = match presented.strip_prefix("*.") {
        Some(parent) => match wanted.split_once('.') {
            Some((label, rest)) if !label.is_empty() => (parent, rest),
            _ => return false,
        },
        None => (presented, wanted),
    };
    !presented.is_empty() && !presented.contains('*') && presented.eq_ignore_ascii_case(wanted)
}

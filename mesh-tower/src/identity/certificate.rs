//! What a certificate says.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_core::identity::{SpiffeId, SubjectAltName};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::time::ASN1Time;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::refused::{self, PeerRefused};
use super::subject;

/// What the certificate of a verified peer says.
#[derive(Debug, Clone)]
pub struct Certified {
    pub(crate) id: Option<SpiffeId>,
    pub(crate) leaf: Leaf,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// When it and those between it and the root are valid.
    pub(crate) validity: Validity,
}

impl Certified {
    /// Its SPIFFE id. `None` if it has another kind of name.
    pub fn id(&self) -> Option<&SpiffeId> {
        self.id.as_ref()
    }

    /// All its names, in their order.
    pub fn names(&self) -> &[SubjectAltName] {
        &self.leaf.names
    }

    /// Its chain as the peer sent it, its own certificate first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// Its subject in the form of RFC 4514, such as `CN=cart,O=shop`.
    pub fn subject(&self) -> &str {
        &self.leaf.subject
    }

    /// Its serial number in hexadecimal.
    pub fn serial(&self) -> &str {
        &self.leaf.serial
    }

    /// From when it is valid.
    pub fn not_before(&self) -> SystemTime {
        self.leaf.not_before
    }

    /// Until when it and those between it and the root are valid.
    pub(crate) fn valid_until(&self) -> SystemTime {
        refused::system_time(self.validity.until)
    }

    /// Until when it is valid.
    pub fn not_after(&self) -> SystemTime {
        self.leaf.not_after
    }
}

/// What a certificate says, of whoever it is.
#[derive(Debug, Clone)]
pub(crate) struct Leaf {
    pub(super) names: Vec<SubjectAltName>,
    pub(super) subject: String,
    pub(super) serial: String,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    /// Why its key is too weak, if it is.
    pub(super) weak_key: Option<WeakKey>,
}

/// A key that is too weak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WeakKey {
    pub(super) algorithm: &'static str,
    pub(super) bits: usize,
}

/// Why something is no certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("it is not a certificate in DER")]
    Encoding,
    #[error("bytes follow the certificate")]
    TrailingBytes,
    #[error("its extension `subjectAltName` is malformed, or there are several")]
    Names,
    #[error("one of its names is malformed")]
    Name,
    #[error("its extension `basicConstraints` is malformed, or there are several")]
    Constraints,
    #[error("its extension `extendedKeyUsage` is malformed, or there are several")]
    Usage,
}

/// When certificates are valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(super) from: UnixTime,
    pub(super) until: UnixTime,
}

impl Validity {
    /// When all of `path` are.
    pub(super) fn of<'a>(path: impl Iterator<Item = CertificateDer<'a>>) -> Result<Self, Unreadable> {
        let mut all = Self { from: seconds(0), until: seconds(u64::MAX) };
        for certificate in path {
            let (_, certificate) = X509Certificate::from_der(&certificate).map_err(|_| Unreadable::Encoding)?;
            let validity = certificate.validity();
            all.from = all.from.max(unix_time(validity.not_before));
            all.until = all.until.min(unix_time(validity.not_after));
        }
        Ok(all)
    }
}

impl Leaf {
    pub(super) fn read(der: &[u8]) -> Result<Self, Unreadable> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| Unreadable::Encoding)?;
        if !rest.is_empty() {
            return Err(Unreadable::TrailingBytes);
        }
        let extension = certificate.subject_alternative_name().map_err(|_| Unreadable::Names)?;
        let mut names = Vec::new();
        for name in extension.iter().flat_map(|extension| &extension.value.general_names) {
            names.extend(read_name(name)?);
        }
        Ok(Self {
            names,
            subject: subject::text(certificate.subject()),
            serial: hexadecimal(certificate.raw_serial()),
            not_before: system_time(certificate.validity().not_before),
            not_after: system_time(certificate.validity().not_after),
            weak_key: weakness(certificate.public_key()),
        })
    }

    /// Whether it is valid now, by its own dates.
    pub(super) fn valid_at(&self, now: UnixTime) -> Result<(), PeerRefused> {
        let now = refused::system_time(now);
        if now < self.not_before {
            return Err(PeerRefused::NotYetValid { not_before: self.not_before, now });
        }
        if now > self.not_after {
            return Err(PeerRefused::Expired { not_after: self.not_after, now });
        }
        Ok(())
    }

    /// The URIs among its names.
    pub(super) fn uris(&self) -> impl Iterator<Item = &Arc<str>> {
        self.names.iter().filter_map(|name| match name {
            SubjectAltName::Uri(uri) => Some(uri),
            _ => None,
        })
    }
}

/// `None`: a kind that nothing is compared with, such as the name of a directory.
fn read_name(name: &GeneralName<'_>) -> Result<Option<SubjectAltName>, Unreadable> {
    // RFC 5280 4.2.1.6: these three are of ASCII.
    let text = |text: &str| if text.is_ascii() { Ok(Arc::from(text)) } else { Err(Unreadable::Name) };
    Ok(Some(match *name {
        GeneralName::URI(uri) => SubjectAltName::Uri(text(uri)?),
        GeneralName::DNSName(name) => SubjectAltName::Dns(text(name)?),
        GeneralName::RFC822Name(address) => SubjectAltName::Email(text(address)?),
        GeneralName::IPAddress(bytes) => SubjectAltName::Ip(ip_address(bytes).ok_or(Unreadable::Name)?),
        GeneralName::Invalid(..) => return Err(Unreadable::Name),
        _ => return Ok(None),
    }))
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(Into::into)
}

/// What `ring` would refuse later, or the handshake with another reason (RSA below 2048 bits, curves below 256).
fn weakness(key: &SubjectPublicKeyInfo<'_>) -> Option<WeakKey> {
    let (algorithm, bits, least) = match key.parsed().ok()? {
        PublicKey::RSA(key) => ("RSA", significant_bits(key.modulus), 2048),
        PublicKey::EC(point) => ("EC", point.key_size(), 256),
        PublicKey::DSA(_) => ("DSA", 0, usize::MAX),
        _ => return None,
    };
    (bits < least).then_some(WeakKey { algorithm, bits })
}

fn significant_bits(number: &[u8]) -> usize {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    match number.get(zeros) {
        Some(first) => (number.len() - zeros) * 8 - first.leading_zeros() as usize,
        None => 0,
    }
}

/// What is before 1970 is taken for that.
pub(super) fn unix_time(time: ASN1Time) -> UnixTime {
    seconds(time.timestamp().try_into().unwrap_or(0))
}

fn seconds(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = Duration::from_secs(time.timestamp().unsigned_abs());
    let epoch = SystemTime::UNIX_EPOCH;
    let time = if time.timestamp() < 0 { epoch.checked_sub(seconds) } else { epoch.checked_add(seconds) };
    time.unwrap_or(epoch)
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}

//! A certificate authority for development and tests, and what it issues: X.509 SVIDs, good ones and bad ones.
//!
//! Its key lies beside its certificate in a file, so nothing that matters may trust it.

mod files;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason, RevokedCertParams,
    SanType, SerialNumber,
};
use time::OffsetDateTime;

pub use files::Swap;

/// How far back the validity begins, as at Istio's authority: clocks differ.
const BACKDATED: Duration = Duration::from_secs(2 * 60);
/// How long an authority's own certificate is valid.
const AUTHORITY_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// How long a certificate is valid if nothing else is said, and a revocation list always.
const DEFAULT_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// By RFC 5280 4.1.2.5 a year has four digits: the end of the last.
const END_OF_TIME: Duration = Duration::from_secs(253_402_300_799);

/// Why there is no certificate, or no file of one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The name cannot be one of a trust domain.
    #[error(
        "{0:?} is no trust domain: it takes 1 to 255 lower-case letters, digits, dots, dashes and underscores, as in \
         cluster.local"
    )]
    TrustDomain(String),
    /// The text is no SPIFFE id of a workload of the trust domain, nor the path of one.
    #[error(
        "{text:?} is no identity: {problem}; write spiffe://{trust_domain}/ns/default/sa/shop or ns/default/sa/shop"
    )]
    Identity {
        /// What was given.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
        /// The trust domain that it must belong to.
        trust_domain: String,
    },
    /// A directory holds an authority that cannot be used.
    #[error("{}: {problem}; take another directory, or delete ca.crt and ca.key to begin anew", directory.display())]
    Authority {
        /// The directory.
        directory: PathBuf,
        /// What is wrong with what is in it.
        problem: String,
    },
    /// A file or directory could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A certificate could not be made of what was asked for.
    #[error("no certificate can be made of that: {0}")]
    Certificate(#[from] rcgen::Error),
}

/// A certificate authority of one trust domain: a root, or an intermediate below one. Its keys are P-256.
#[derive(Debug)]
pub struct Authority {
    trust_domain: String,
    root: String,
    /// Between what it issues and the root, in the order of a chain.
    intermediates: String,
    params: CertificateParams,
    key: KeyPair,
}

impl Authority {
    /// A new root, valid for ten years. Two of the same trust domain have the same name and do not know each other.
    ///
    /// # Errors
    /// If the standard does not allow such a trust domain.
    pub fn new(trust_domain: &str) -> Result<Self, Error> {
        let params = authority_params(trust_domain, "development root")?;
        let key = KeyPair::generate()?;
        let root = params.self_signed(&key)?.pem();
        Ok(Self { trust_domain: trust_domain.to_owned(), root, intermediates: String::new(), params, key })
    }

    /// A new authority below this one. The certificates that it issues come with its own, up to the root.
    ///
    /// # Errors
    /// If there are no random numbers for its key.
    pub fn intermediate(&self) -> Result<Self, Error> {
        let key = KeyPair::generate()?;
        // A name of its own, as the names are what a chain is put together by.
        let name = format!("development intermediate {:02x?}", &key.public_key_raw()[1..5]);
        let params = authority_params(&self.trust_domain, &name)?;
        let certificate = params.signed_by(&key, &self.issuer())?.pem();
        let intermediates = certificate + &self.intermediates;
        Ok(Self { trust_domain: self.trust_domain.clone(), root: self.root.clone(), intermediates, params, key })
    }

    /// Whose it is, such as `cluster.local`.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The root, in PEM: what somebody must trust to accept what this authority issues.
    pub fn bundle_pem(&self) -> &str {
        &self.root
    }

    /// The SPIFFE id that `text` means: one of the trust domain in full, or its path, as in `ns/default/sa/shop`.
    ///
    /// # Errors
    /// If the standard does not allow it (SPIFFE-ID 2.1 to 2.3), it is of another trust domain, or has no path.
    pub fn identity(&self, text: &str) -> Result<String, Error> {
        let no = |problem| Error::Identity { text: text.to_owned(), problem, trust_domain: self.trust_domain.clone() };
        let path = match text.split_once("://") {
            Some(("spiffe", rest)) => match rest.split_once('/') {
                Some((domain, path)) if domain == self.trust_domain => path,
                None if rest == self.trust_domain => return Err(no("it names no workload, only the trust domain")),
                _ => return Err(no("it is of another trust domain")),
            },
            Some(_) => return Err(no("its scheme is not spiffe")),
            None => text,
        };
        if path.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
            return Err(no("a segment of its path is empty, or dots"));
        }
        if !path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte)) {
            return Err(no("its path has other characters than letters, digits, dots, dashes and underscores"));
        }
        let identity = format!("spiffe://{}/{path}", self.trust_domain);
        if identity.len() > 2048 { Err(no("it is longer than 2048 bytes")) } else { Ok(identity) }
    }

    /// Issues a certificate of `id` into the directory `home`, and returns the `identity` section of a configuration that
    /// has it from there.
    ///
    /// # Errors
    /// If it cannot be issued or written.
    pub fn identity_section(&self, home: &Path, id: &str) -> Result<String, Error> {
        self.issue(&Leaf::new(id))?.write_to(home, Swap::Files)?;
        let file = |name: &str| home.join(name).display().to_string();
        let (certificate, key, bundle) = (file("tls.crt"), file("tls.key"), file("ca.crt"));
        Ok(format!("identity: {{ certificate: '{certificate}', key: '{key}', trust_bundle: '{bundle}' }}\n"))
    }

    /// Issues what `leaf` describes, with a new key.
    ///
    /// # Errors
    /// If there can be no such certificate: a name is not ASCII.
    pub fn issue(&self, leaf: &Leaf) -> Result<Issued, Error> {
        let key = KeyPair::generate()?;
        // Half of a coordinate of a random point; positive, and never with a leading zero.
        let mut serial = key.public_key_raw()[1..17].to_vec();
        serial[0] = serial[0] & 0x7f | 0x40;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.subject_alt_names = leaf.names.iter().map(Name::general).collect::<Result<_, _>>()?;
        params.not_before = date(leaf.valid.start);
        params.not_after = date(leaf.valid.end);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = leaf.usage.purposes();
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer())?;
        Ok(Issued {
            certificate_pem: certificate.pem() + &self.intermediates,
            key_pem: key.serialize_pem(),
            bundle_pem: self.root.clone(),
            serial,
        })
    }

    /// A revocation list, in PEM, with `revoked` on it. It is valid for a day.
    ///
    /// # Errors
    /// If it cannot be signed.
    pub fn crl_pem(&self, revoked: &[&Issued]) -> Result<String, Error> {
        let now = SystemTime::now();
        let revoked_certs = revoked.iter().map(|issued| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&issued.serial),
            revocation_time: date(now - BACKDATED),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date(now - BACKDATED),
            next_update: date(now + DEFAULT_TTL),
            crl_number: SerialNumber::from(since_epoch(now).as_secs()),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer())?.pem()?)
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }
}

/// An authority's certificate: it has the SPIFFE id of its trust domain, without a path (X509-SVID 3.2).
fn authority_params(trust_domain: &str, name: &str) -> Result<CertificateParams, Error> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    if !(1..=255).contains(&trust_domain.len()) || !trust_domain.bytes().all(allowed) {
        return Err(Error::TrustDomain(trust_domain.to_owned()));
    }
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, trust_domain);
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(format!("spiffe://{trust_domain}"))?)];
    params.not_before = date(now - BACKDATED);
    params.not_after = date(now + AUTHORITY_TTL);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// A certificate to be: by default as Istio issues them, an X.509 SVID for both sides of a connection, for a day.
#[derive(Debug, Clone)]
pub struct Leaf {
    names: Vec<Name>,
    valid: Range<SystemTime>,
    usage: Usage,
}

#[derive(Debug, Clone)]
enum Name {
    Uri(String),
    Dns(String),
    Ip(IpAddr),
}

/// What a certificate may be used for (`extendedKeyUsage`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Usage {
    /// `serverAuth` and `clientAuth`.
    Both,
    /// `serverAuth`.
    Server,
    /// `clientAuth`.
    Client,
    /// The extension is missing: anything, by RFC 5280 4.2.1.12.
    Unsaid,
}

impl Leaf {
    /// For the SPIFFE id `uri`, in full. It is taken as it is: tests need bad ones, and [`Authority::identity`] knows good
    /// ones.
    #[must_use]
    pub fn new(uri: &str) -> Self {
        Self::unnamed().uri(uri)
    }

    /// Without any name, until some are added: no SVID.
    #[must_use]
    pub fn unnamed() -> Self {
        let now = SystemTime::now();
        Self { names: Vec::new(), valid: now - BACKDATED..now + DEFAULT_TTL, usage: Usage::Both }
    }

    /// With another URI. With more than one it is no SVID (X509-SVID 2).
    #[must_use]
    pub fn uri(mut self, uri: &str) -> Self {
        self.names.push(Name::Uri(uri.to_owned()));
        self
    }

    /// With the name of a host as well.
    #[must_use]
    pub fn dns(mut self, name: &str) -> Self {
        self.names.push(Name::Dns(name.to_owned()));
        self
    }

    /// With an address as well.
    #[must_use]
    pub fn ip(mut self, address: IpAddr) -> Self {
        self.names.push(Name::Ip(address));
        self
    }

    /// Valid from two minutes ago until `ttl` from now; at most until the end of the year 9999.
    #[must_use]
    pub fn ttl(self, ttl: Duration) -> Self {
        let now = SystemTime::now();
        // The standard library may not have a time that is so far away.
        let until = now.checked_add(ttl).unwrap_or(SystemTime::UNIX_EPOCH + END_OF_TIME);
        self.valid(now - BACKDATED..until)
    }

    /// Valid from exactly then until exactly then. X.509 knows whole seconds: both are rounded down.
    #[must_use]
    pub fn valid(mut self, range: Range<SystemTime>) -> Self {
        self.valid = range;
        self
    }

    /// Valid until a minute ago.
    #[must_use]
    pub fn expired(self) -> Self {
        let now = SystemTime::now();
        self.valid(now - Duration::from_secs(60 * 60)..now - Duration::from_secs(60))
    }

    /// Valid from an hour from now.
    #[must_use]
    pub fn not_yet_valid(self) -> Self {
        let now = SystemTime::now();
        self.valid(now + Duration::from_secs(60 * 60)..now + DEFAULT_TTL)
    }

    /// For this use.
    #[must_use]
    pub fn usage(mut self, usage: Usage) -> Self {
        self.usage = usage;
        self
    }
}

impl Name {
    fn general(&self) -> Result<SanType, rcgen::Error> {
        Ok(match self {
            Self::Uri(uri) => SanType::URI(Ia5String::try_from(uri.as_str())?),
            Self::Dns(name) => SanType::DnsName(Ia5String::try_from(name.as_str())?),
            Self::Ip(address) => SanType::IpAddress(*address),
        })
    }
}

impl Usage {
    fn purposes(self) -> Vec<ExtendedKeyUsagePurpose> {
        match self {
            Self::Both => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            Self::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Self::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Self::Unsaid => Vec::new(),
        }
    }
}

/// A certificate, its key, and what it is verified with.
#[derive(Clone)]
pub struct Issued {
    /// The certificate, and after it those between it and the root, if there are any.
    pub certificate_pem: String,
    /// Its private key, PKCS#8.
    pub key_pem: String,
    /// The root that it leads to.
    pub bundle_pem: String,
    /// Its serial number, big-endian.
    pub serial: Vec<u8>,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("certificate_pem", &self.certificate_pem).finish_non_exhaustive()
    }
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().min(END_OF_TIME)
}

fn date(time: SystemTime) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + since_epoch(time)
}

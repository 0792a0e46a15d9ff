//! Certificates for tests, good and bad.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData, RevokedCertParams, SanType,
    SerialNumber, SignatureAlgorithm,
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::identity::{Bundles, Material};

/// An authority that issues certificates, and what a test wants to be wrong with them.
///
/// ```
/// use mesh_tower::testing::{Authority, NewCertificate};
///
/// let authority = Authority::new("cluster.local");
/// let cart = authority.issue("spiffe://cluster.local/ns/shop/sa/cart");
/// let material = cart.material(authority.bundles());
/// # let _ = material;
///
/// let expired = authority.issue_as(NewCertificate::new().uri("spiffe://cluster.local/ns/shop/sa/cart").expired());
/// assert!(expired.certificate_pem().starts_with("-----BEGIN CERTIFICATE-----"));
/// ```
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// Its own certificate and those above it, without the root.
    below_root: Vec<CertificateDer<'static>>,
    below_root_pem: String,
    root: CertificateDer<'static>,
    root_pem: String,
}

/// A certificate with its key, as an [`Authority`] issued it.
#[derive(Debug)]
pub struct Issued {
    /// The certificate, and behind it those between it and the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its serial number.
    pub serial: u64,
    pem: String,
    key: KeyPair,
}

/// A list of revoked certificates, as an [`Authority`] issued it.
#[derive(Debug)]
pub struct RevocationList {
    /// The list.
    pub der: CertificateRevocationListDer<'static>,
    /// The same in PEM.
    pub pem: String,
}

/// A certificate that is to be issued. Unless told otherwise it is good: valid from a minute ago for an hour, for servers
/// and clients, with a key on P-256; and it has no name.
#[derive(Debug, Clone)]
#[must_use = "nothing is issued before `Authority::issue_as`"]
pub struct NewCertificate {
    names: Vec<SanType>,
    common_name: Option<String>,
    not_before: SystemTime,
    not_after: SystemTime,
    usages: Vec<ExtendedKeyUsagePurpose>,
    is_authority: bool,
    weak_key: bool,
}

impl Authority {
    /// A root of its own for `trust_domain`. Two of one trust domain have one name and different keys.
    pub fn new(trust_domain: &str) -> Self {
        let issuer = CertifiedIssuer::self_signed(parameters(trust_domain), new_key()).expect("a root can be made");
        let (root, root_pem) = (issuer.der().clone(), issuer.pem());
        Self { issuer, below_root: Vec::new(), below_root_pem: String::new(), root, root_pem }
    }

    /// An authority that this one vouches for.
    #[must_use]
    pub fn intermediate(&self, name: &str) -> Self {
        let issuer = CertifiedIssuer::signed_by(parameters(name), new_key(), &self.issuer).expect("it can be signed");
        let mut below_root = vec![issuer.der().clone()];
        below_root.extend_from_slice(&self.below_root);
        let below_root_pem = issuer.pem() + &self.below_root_pem;
        Self { issuer, below_root, below_root_pem, root: self.root.clone(), root_pem: self.root_pem.clone() }
    }

    /// The certificate of the root.
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// The root in PEM.
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// A bundle that holds the root alone.
    pub fn bundles(&self) -> Bundles {
        Bundles::new(vec![self.root.clone()])
    }

    /// A good certificate for the SPIFFE id (or another URI) `uri`.
    pub fn issue(&self, uri: &str) -> Issued {
        self.issue_as(NewCertificate::new().uri(uri))
    }

    /// Issues `certificate`.
    pub fn issue_as(&self, certificate: NewCertificate) -> Issued {
        let serial = rand::random::<u64>() >> 1;
        let mut parameters = CertificateParams::default();
        parameters.serial_number = Some(SerialNumber::from(serial));
        parameters.distinguished_name = DistinguishedName::new();
        parameters.distinguished_name.push(DnType::OrganizationName, "test");
        if let Some(name) = certificate.common_name {
            parameters.distinguished_name.push(DnType::CommonName, name);
        }
        parameters.not_before = certificate.not_before.into();
        parameters.not_after = certificate.not_after.into();
        parameters.subject_alt_names = certificate.names;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = certificate.usages;
        parameters.use_authority_key_identifier_extension = true;
        if certificate.is_authority {
            parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let key = new_key();
        let issued = match certificate.weak_key {
            true => parameters.signed_by(&WeakKey::new(), &self.issuer),
            false => parameters.signed_by(&key, &self.issuer),
        };
        let issued = issued.expect("it can be signed");
        let mut chain = vec![issued.der().clone()];
        chain.extend_from_slice(&self.below_root);
        Issued { chain, serial, pem: issued.pem() + &self.below_root_pem, key }
    }

    /// Its list of revoked certificates, valid from a minute ago for an hour.
    pub fn revocation_list(&self, revoked: &[&Issued]) -> RevocationList {
        let now = SystemTime::now();
        self.revocation_list_of(revoked, now - MINUTE, now + HOUR)
    }

    /// Its list of revoked certificates, issued and to be replaced at the given times.
    pub fn revocation_list_of(&self, revoked: &[&Issued], issued: SystemTime, replaced: SystemTime) -> RevocationList {
        let entry = |revoked: &&Issued| RevokedCertParams {
            serial_number: SerialNumber::from(revoked.serial),
            revocation_time: SystemTime::now().into(),
            reason_code: None,
            invalidity_date: None,
        };
        let parameters = CertificateRevocationListParams {
            this_update: issued.into(),
            next_update: replaced.into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = parameters.signed_by(&self.issuer).expect("it can be signed");
        RevocationList { der: list.der().clone(), pem: list.pem().expect("it is a good list") }
    }
}

impl Issued {
    /// It, for a process that trusts `trust`.
    pub fn material(&self, trust: Bundles) -> Material {
        Material::new(self.chain.clone(), self.key(), trust)
    }

    /// The private key. That of a [`weak`](NewCertificate::weak_key) certificate is another one's.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }

    /// The chain in PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.pem
    }

    /// The private key in PEM (PKCS#8).
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// A TLS client that presents this certificate, whatever is wrong with it, and believes every server. It speaks
    /// `versions`, such as `rustls::ALL_VERSIONS`.
    pub fn careless_client(&self, versions: &[&'static rustls::SupportedProtocolVersion]) -> rustls::ClientConfig {
        careless::client(Some(self.certified()), versions)
    }

    /// A TLS server that presents this certificate, whatever is wrong with it, and lets everybody in.
    pub fn careless_server(&self, versions: &[&'static rustls::SupportedProtocolVersion]) -> rustls::ServerConfig {
        careless::server(self.certified(), versions)
    }

    fn certified(&self) -> Arc<rustls::sign::CertifiedKey> {
        let key = rustls::crypto::ring::sign::any_supported_type(&self.key()).expect("rcgen made the key");
        Arc::new(rustls::sign::CertifiedKey::new(self.chain.clone(), key))
    }
}

/// A TLS client that presents no certificate, and believes every server.
pub fn anonymous_client(versions: &[&'static rustls::SupportedProtocolVersion]) -> rustls::ClientConfig {
    careless::client(None, versions)
}

impl NewCertificate {
    /// A good one without a name.
    #[expect(clippy::new_without_default, reason = "nobody needs one by default")]
    pub fn new() -> Self {
        let now = SystemTime::now();
        Self {
            names: Vec::new(),
            common_name: None,
            not_before: now - MINUTE,
            not_after: now + HOUR,
            usages: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            is_authority: false,
            weak_key: false,
        }
    }

    /// With the URI `uri`, such as a SPIFFE id, beside its other names.
    pub fn uri(mut self, uri: &str) -> Self {
        self.names.push(SanType::URI(uri.try_into().expect("a URI is ASCII")));
        self
    }

    /// With the DNS name `name`, which may be a wildcard, beside its other names.
    pub fn dns(mut self, name: &str) -> Self {
        self.names.push(SanType::DnsName(name.try_into().expect("a DNS name is ASCII")));
        self
    }

    /// With the mail address `address` beside its other names.
    pub fn email(mut self, address: &str) -> Self {
        self.names.push(SanType::Rfc822Name(address.try_into().expect("a mail address is ASCII")));
        self
    }

    /// With the IP address `address` beside its other names.
    pub fn ip(mut self, address: IpAddr) -> Self {
        self.names.push(SanType::IpAddress(address));
        self
    }

    /// With `name` as the common name of its subject.
    pub fn common_name(mut self, name: &str) -> Self {
        self.common_name = Some(name.to_owned());
        self
    }

    /// Valid from `not_before` until `not_after`.
    pub fn valid(mut self, not_before: SystemTime, not_after: SystemTime) -> Self {
        (self.not_before, self.not_after) = (not_before, not_after);
        self
    }

    /// Valid until a minute ago.
    pub fn expired(self) -> Self {
        let now = SystemTime::now();
        self.valid(now - HOUR, now - MINUTE)
    }

    /// Valid in an hour.
    pub fn not_yet_valid(self) -> Self {
        let now = SystemTime::now();
        self.valid(now + HOUR, now + 2 * HOUR)
    }

    /// For servers alone.
    pub fn for_servers(mut self) -> Self {
        self.usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self
    }

    /// For clients alone.
    pub fn for_clients(mut self) -> Self {
        self.usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self
    }

    /// For signing code, and so neither for servers nor for clients.
    pub fn for_neither(mut self) -> Self {
        self.usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        self
    }

    /// One of an authority, which must not prove who a peer is.
    pub fn authority(mut self) -> Self {
        self.is_authority = true;
        self
    }

    /// With an RSA key of 1024 bits, whose private half nobody has.
    pub fn weak_key(mut self) -> Self {
        self.weak_key = true;
        self
    }
}

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

fn parameters(name: &str) -> CertificateParams {
    let now = SystemTime::now();
    let mut parameters = CertificateParams::default();
    parameters.not_before = (now - 2 * HOUR).into();
    parameters.not_after = (now + 24 * HOUR).into();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("ring makes keys")
}

/// The public half of an RSA key whose modulus is any odd number of 1024 bits.
struct WeakKey(Vec<u8>);

impl WeakKey {
    fn new() -> Self {
        let mut der = vec![0x30, 0x81, 0x89, 0x02, 0x81, 0x81, 0x00];
        der.extend([0xc5; 128]);
        der.extend([0x02, 0x03, 0x01, 0x00, 0x01]);
        Self(der)
    }
}

impl PublicKeyData for WeakKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

/// TLS that verifies nothing: what a test's peer says is the test's affair.
mod careless {
    use std::sync::Arc;

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::ring::default_provider;
    use rustls::sign::{CertifiedKey, SingleCertAndKey};
    use rustls::{ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme, SupportedProtocolVersion};
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

    pub(super) fn client(
        certified: Option<Arc<CertifiedKey>>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)
            .expect("ring supports TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody));
        match certified {
            Some(certified) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified))),
            None => builder.with_no_client_auth(),
        }
    }

    pub(super) fn server(certified: Arc<CertifiedKey>, versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
        ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)
            .expect("ring supports TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
    }

    #[derive(Debug)]
    struct Anybody;

    impl ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _end_entity: &CertificateDer<'_>,
            _intermediates: &[CertificateDer<'_>],
            _server_name: &ServerName<'_>,
            _ocsp_response: &[u8],
            _now: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _certificate: &CertificateDer<'_>,
            _signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _message: &[u8],
            _certificate: &CertificateDer<'_>,
            _signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            default_provider().signature_verification_algorithms.supported_schemes()
        }
    }
}

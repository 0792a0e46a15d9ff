//! Who this process is, and whom it trusts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::identity::{SpiffeId, TrustDomain};

/// Where the certificate of this process comes from, and whom it trusts.
///
/// A change of it is heeded by the next handshakes. While a source brings nothing usable, the last good identity stays.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Identity {
    /// Who brings it.
    pub source: IdentityFrom,
    /// Other names of the own trust domain: their members are verified by its bundle (Istio's
    /// `trustDomainAliases`).
    pub trust_domain_aliases: Vec<TrustDomain>,
    /// Bundles of other trust domains, each a file of PEM certificates.
    pub federated: BTreeMap<TrustDomain, PathBuf>,
    /// A file of PEM certificate revocation lists, or a directory of such files. `None`: nobody is revoked.
    pub revocation_list: Option<PathBuf>,
    /// Whether a peer is accepted of whom no valid list says anything. Default no: with lists, each certificate below
    /// the root needs one of its issuer that has not expired (gRFC A69).
    pub allow_undetermined_revocation: bool,
    /// How long the mesh waits for its first identity when it is built. Default 10 s.
    pub startup_timeout: Duration,
}

impl Identity {
    /// The identity that `source` brings, which trusts what `source` says.
    pub fn new(source: IdentityFrom) -> Self {
        Self {
            source,
            trust_domain_aliases: Vec::new(),
            federated: BTreeMap::new(),
            revocation_list: None,
            allow_undetermined_revocation: false,
            startup_timeout: Duration::from_secs(10),
        }
    }
}

/// Who brings an identity.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum IdentityFrom {
    /// PEM files, read again when they change.
    Files(IdentityFiles),
    /// The SPIFFE Workload API, such as SPIRE's agent.
    WorkloadApi {
        /// Its socket: `unix:/run/spire/agent.sock` or `tcp://127.0.0.1:8081`. `None`: the variable
        /// `SPIFFE_ENDPOINT_SOCKET`.
        endpoint: Option<Arc<str>>,
        /// Which of several identities is taken. `None`: the first.
        spiffe_id: Option<SpiffeId>,
    },
    /// The source that the application gave to the builder.
    Custom,
}

/// The files of an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct IdentityFiles {
    /// The certificate and those between it and the root, in PEM.
    pub certificate: PathBuf,
    /// Its private key, in PEM: PKCS#8, SEC1 or PKCS#1.
    pub key: PathBuf,
    /// Whom to trust.
    pub trust: TrustFile,
    /// How often they are looked at. A look costs a few `stat` calls. Default 1 s.
    pub refresh_interval: Duration,
}

impl IdentityFiles {
    /// Files that are looked at once a second.
    pub fn new(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>, trust: TrustFile) -> Self {
        Self { certificate: certificate.into(), key: key.into(), trust, refresh_interval: Duration::from_secs(1) }
    }
}

/// A file that says whom to trust.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrustFile {
    /// PEM certificates: the authorities of the own trust domain.
    Pem(PathBuf),
    /// A SPIFFE bundle map in JSON: the authorities of each trust domain (gRFC A87).
    SpiffeBundleMap(PathBuf),
}

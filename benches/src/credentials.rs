//! Certificates for one run: an authority, a server and a client, as the mesh reads them and as bare rustls does.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use examples::certs::{Authority, Leaf, Swap};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::{ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;

use crate::Result;

/// Who the server is.
pub const SERVER: &str = "spiffe://cluster.local/ns/default/sa/server";
/// Who calls.
pub const CLIENT: &str = "spiffe://cluster.local/ns/default/sa/client";
/// The name by which a bare client knows the server.
pub const HOST: &str = "localhost";
/// How many sessions a server of the mesh keeps.
const SESSIONS: usize = 1024;

/// The files of both sides, which go with this.
#[derive(Debug)]
pub struct Credentials {
    directory: TempDir,
}

/// One side's files.
#[derive(Debug, Clone)]
pub struct Side(PathBuf);

impl Credentials {
    /// Issues them.
    ///
    /// # Errors
    /// If they cannot be made or written.
    pub fn issue() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let authority = Authority::new("cluster.local")?;
        for (side, identity) in [("server", SERVER), ("client", CLIENT)] {
            authority.issue(&Leaf::new(identity).dns(HOST))?.write_to(&directory.path().join(side), Swap::Files)?;
        }
        Ok(Self { directory })
    }

    /// Those of the server.
    pub fn server(&self) -> Side {
        Side(self.directory.path().join("server"))
    }

    /// Those of the client.
    pub fn client(&self) -> Side {
        Side(self.directory.path().join("client"))
    }
}

impl Side {
    /// The files in `directory`.
    pub fn at(directory: &Path) -> Self {
        Self(directory.to_owned())
    }

    /// Where they are.
    pub fn directory(&self) -> &Path {
        &self.0
    }

    /// The section `identity` of a configuration file of the mesh.
    pub fn identity(&self) -> String {
        let path = |name| self.path(name).display().to_string();
        let (certificate, key, bundle) = (path("tls.crt"), path("tls.key"), path("ca.crt"));
        format!("identity: {{ certificate: {certificate:?}, key: {key:?}, trust_bundle: {bundle:?} }}\n")
    }

    /// A bare server that demands a certificate, with the ALPN and as many sessions as ours.
    ///
    /// # Errors
    /// If the files cannot be read.
    pub fn bare_server(&self) -> Result<ServerConfig> {
        let provider = provider();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()?), Arc::clone(&provider)).build()?;
        let (chain, key) = self.certified()?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
        Ok(config)
    }

    /// A bare client with a certificate, which offers `alpn`.
    ///
    /// # Errors
    /// If the files cannot be read.
    pub fn bare_client(&self, alpn: &[u8], resumption: Resumption) -> Result<ClientConfig> {
        let (chain, key) = self.certified()?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(chain, key)?;
        config.alpn_protocols = vec![alpn.to_vec()];
        config.resumption = resumption;
        Ok(config)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn certified(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let chain = CertificateDer::pem_file_iter(self.path("tls.crt"))?.collect::<Result<_, _>>()?;
        Ok((chain, PrivateKeyDer::from_pem_file(self.path("tls.key"))?))
    }

    fn roots(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_file_iter(self.path("ca.crt"))? {
            roots.add(root?)?;
        }
        Ok(roots)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

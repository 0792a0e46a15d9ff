//! TLS towards ordinary servers.
//!
//! rustls with the `ring` provider unless the builder was given another one: it builds with nothing but a Rust
//! toolchain and the linker that it needs anyway. The process default provider is neither read nor set.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use mesh_core::model::{self, Address, Protocol, RootCertificates};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::io::Raw;

pub(crate) const ALPN_H2: &[u8] = b"h2";
pub(crate) const ALPN_H1: &[u8] = b"http/1.1";

/// TLS settings that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsConfigError {
    /// The file of trusted certificates cannot be read as PEM.
    #[error("tls.ca_certificates: {path}: {error}")]
    RootFile {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        error: rustls_pki_types::pem::Error,
    },
    /// The file holds no certificate.
    #[error("tls.ca_certificates: {path}: no PEM certificate in it")]
    NoRoots {
        /// The file.
        path: PathBuf,
    },
    /// A certificate of the file is none.
    #[error("tls.ca_certificates: {path}: {error}")]
    Root {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        error: rustls::Error,
    },
    /// The name to verify is neither a DNS name nor an IP address.
    #[error("tls.server_name: {name:?} is neither a DNS name nor an IP address")]
    ServerName {
        /// The name.
        name: Arc<str>,
    },
    /// The crypto provider supports no protocol version.
    #[error("the crypto provider supports neither TLS 1.2 nor TLS 1.3: {0}")]
    Provider(#[source] rustls::Error),
}

/// A TLS client for one backend. Without a configured name the peer must prove the service's, and where that is no
/// host name, the endpoint's address.
pub(crate) struct Client {
    connector: TlsConnector,
    server_name: Option<ServerName<'static>>,
}

impl Client {
    pub(super) fn new(
        tls: &model::Tls,
        backend: &model::Backend,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, TlsConfigError> {
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsConfigError::Provider)?
            .with_root_certificates(roots(tls.roots.as_ref().unwrap_or(&RootCertificates::WebPki))?)
            .with_no_client_auth();
        let alpn: &[&[u8]] = match backend.protocol {
            Protocol::Auto => &[ALPN_H2, ALPN_H1],
            Protocol::Http1 => &[ALPN_H1],
            Protocol::Http2 => &[ALPN_H2],
        };
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let server_name = match &tls.server_name {
            Some(name) => Some(
                ServerName::try_from(name.to_string())
                    .map_err(|_| TlsConfigError::ServerName { name: Arc::clone(name) })?,
            ),
            None => ServerName::try_from(backend.id.service.to_string()).ok(),
        };
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), server_name })
    }

    pub(super) async fn connect(&self, address: &Address, raw: Raw) -> io::Result<TlsStream<Raw>> {
        let name = match (&self.server_name, address) {
            (Some(name), _) => name.clone(),
            (None, Address::Socket(address)) => ServerName::from(address.ip()),
            (None, other) => {
                let text = format!("{other} has no name to verify; set `tls.server_name`");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
        };
        self.connector.connect(name, raw).await
    }
}

fn roots(roots: &RootCertificates) -> Result<RootCertStore, TlsConfigError> {
    let mut store = RootCertStore::empty();
    match roots {
        RootCertificates::PemFile(path) => {
            let certificates = CertificateDer::pem_file_iter(path)
                .map_err(|error| TlsConfigError::RootFile { path: path.clone(), error })?;
            for certificate in certificates {
                let certificate =
                    certificate.map_err(|error| TlsConfigError::RootFile { path: path.clone(), error })?;
                store.add(certificate).map_err(|error| TlsConfigError::Root { path: path.clone(), error })?;
            }
            if store.is_empty() {
                return Err(TlsConfigError::NoRoots { path: path.clone() });
            }
        }
        _ => store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    Ok(store)
}

//! TLS towards servers: ordinary ones, which prove a host name, and peers of the mesh, where both sides prove who they are.
//!
//! rustls with the crypto provider of the mesh: a Rust toolchain and the linker that it needs anyway build the default
//! one. The process default provider is neither read nor set. There is no way from here to plaintext: what cannot be
//! encrypted as configured fails.

mod alpn;
mod mutual;
mod provider;
mod session;
mod stream;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use mesh_core::model::{self, Address, RootCertificates, TlsMode};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(super) use self::alpn::Offer;
use self::alpn::means_h2;
use self::mutual::Mutual;
pub(crate) use self::provider::default_provider;
pub(crate) use self::session::{Held, Sessions, review};
pub(crate) use self::stream::Guarded;
use super::Shared;
use super::io::Raw;
use crate::identity::{self, PeerRefused, Terms, Trust, Usage};

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

/// A TLS client for one backend.
pub(crate) struct Client {
    kind: Kind,
    server_name: Option<ServerName<'static>>,
    /// Whether endpoints outside of the mesh are spoken to in plaintext.
    is_auto: bool,
}

enum Kind {
    /// The server alone proves who it is. Without a configured name that is the service's, and where that is no host
    /// name, the endpoint's address; where names are listed, one of those in place of it.
    Simple { config: Arc<ClientConfig>, listed: Option<Listed> },
    /// Both do.
    Mutual(Mutual),
}

/// Who an ordinary server may be.
struct Listed {
    trust: Arc<Trust>,
    terms: Terms,
}

/// What a handshake brought.
pub(super) struct Secured {
    pub(super) stream: TlsStream<Raw>,
    /// Whether ALPN agreed on HTTP/2. `None`: it says nothing.
    pub(super) agreed_h2: Option<bool>,
    /// Of mutual TLS.
    pub(super) held: Option<Held>,
}

/// Why there is none.
pub(super) enum Insecure {
    /// There is no certificate to prove who we are.
    NoIdentity,
    /// The peer is not who it must be.
    Peer(PeerRefused),
    /// Anything else.
    Io(io::Error),
}

impl Client {
    pub(super) fn new(
        tls: &model::Tls,
        backend: &model::Backend,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, TlsConfigError> {
        let configured = match &tls.server_name {
            Some(name) => Some(
                ServerName::try_from(name.to_string())
                    .map_err(|_| TlsConfigError::ServerName { name: Arc::clone(name) })?,
            ),
            None => None,
        };
        let is_auto = tls.mode == TlsMode::Auto;
        if is_auto || tls.mode == TlsMode::Mutual {
            let roots = tls.roots.as_ref().map(roots).transpose()?.map(Arc::new);
            let mutual = Mutual::new(roots, tls.identities.as_slice().into(), configured.is_some());
            return Ok(Self { kind: Kind::Mutual(mutual), server_name: configured, is_auto });
        }
        let roots = roots(tls.roots.as_ref().unwrap_or(&RootCertificates::WebPki))?;
        let alpn = match backend.protocol {
            model::Protocol::Auto => Offer::Both,
            model::Protocol::Http1 => Offer::Http1,
            model::Protocol::Http2 => Offer::Http2,
        };
        let alpn = alpn.names(false);
        let server_name = configured.or_else(|| ServerName::try_from(backend.id.service.to_string()).ok());
        let (config, listed) = if tls.identities.is_empty() {
            let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
                .with_safe_default_protocol_versions()
                .map_err(TlsConfigError::Provider)?
                .with_root_certificates(roots)
                .with_no_client_auth();
            config.alpn_protocols = alpn;
            (config, None)
        } else {
            let terms = Terms { alpn, expected: tls.identities.as_slice().into(), roots: Some(Arc::new(roots)) };
            let (config, trust) = identity::anonymous(&terms, provider).map_err(TlsConfigError::Provider)?;
            (config, Some(Listed { trust, terms }))
        };
        Ok(Self { kind: Kind::Simple { config: Arc::new(config), listed }, server_name, is_auto })
    }

    /// Whether endpoints outside of the mesh are spoken to in plaintext.
    pub(crate) fn is_auto(&self) -> bool {
        self.is_auto
    }

    /// Whether both sides prove who they are.
    pub(crate) fn is_mutual(&self) -> bool {
        matches!(self.kind, Kind::Mutual(_))
    }

    pub(super) async fn connect(
        &self,
        shared: &Shared,
        address: &Address,
        raw: Raw,
        offer: Offer,
    ) -> Result<Secured, Insecure> {
        match &self.kind {
            Kind::Simple { config, listed } => {
                let name = self.host(address, listed.is_some()).map_err(Insecure::Io)?;
                let stream = handshake(config, name, raw).await?;
                if let Some(Listed { trust, terms }) = listed {
                    let connection = stream.get_ref().1;
                    let peer = trust.of_connection(connection, Usage::Server, &terms.expected, UnixTime::now());
                    peer.map(drop).map_err(Insecure::Peer)?;
                }
                let agreed_h2 = agreed(&stream);
                Ok(Secured { stream, agreed_h2, held: None })
            }
            Kind::Mutual(mutual) => {
                let identity = shared.identities.current().ok_or(Insecure::NoIdentity)?;
                let made = mutual.made(&identity);
                let terms = mutual.terms(offer);
                let config = made.config(offer, mutual).map_err(|error| Insecure::Io(io::Error::other(error)))?;
                let name = self.nominal(address);
                let stream = handshake(&config, name, raw).await?;
                let connection = stream.get_ref().1;
                let peer = made.trust.of_connection(connection, Usage::Server, &terms.expected, UnixTime::now());
                let peer = peer.map_err(Insecure::Peer)?;
                let held = shared.sessions.begin(peer, address, terms, &identity, &shared.identities);
                let held = held.map_err(Insecure::Peer)?;
                let agreed_h2 = agreed(&stream);
                Ok(Secured { stream, agreed_h2, held: Some(held) })
            }
        }
    }

    /// The name that the server must prove; where other names are listed, one to say as SNI.
    fn host(&self, address: &Address, is_listed: bool) -> io::Result<ServerName<'static>> {
        match (&self.server_name, address) {
            (Some(name), _) => Ok(name.clone()),
            (None, Address::Socket(address)) => Ok(ServerName::from(address.ip())),
            (None, _) if is_listed => Ok(self.nominal(address)),
            (None, other) => {
                let text = format!("{other} has no name to verify; set `tls.server_name`");
                Err(io::Error::new(io::ErrorKind::InvalidInput, text))
            }
        }
    }

    /// A name that nobody verifies. Without a configured one it is not sent either, and only keeps the sessions of one
    /// machine from those of another.
    fn nominal(&self, address: &Address) -> ServerName<'static> {
        match (&self.server_name, address) {
            (Some(name), _) => name.clone(),
            (None, Address::Socket(address)) => ServerName::from(address.ip()),
            (None, _) => ServerName::try_from("localhost").expect("it is a DNS name"),
        }
    }
}

async fn handshake(
    config: &Arc<ClientConfig>,
    name: ServerName<'static>,
    raw: Raw,
) -> Result<TlsStream<Raw>, Insecure> {
    TlsConnector::from(Arc::clone(config)).connect(name, raw).await.map_err(|error| match PeerRefused::of(&error) {
        Some(refused) => Insecure::Peer(refused),
        None => Insecure::Io(error),
    })
}

fn agreed(stream: &TlsStream<Raw>) -> Option<bool> {
    means_h2(stream.get_ref().1.alpn_protocol())
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

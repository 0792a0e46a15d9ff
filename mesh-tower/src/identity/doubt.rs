//! What will not work with an own certificate that can be used.

use mesh_core::identity::SpiffeId;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::certificate::Unreadable;
use super::error::IdentityError;
use super::trust::{Trust, Usage};

/// What an own certificate is for, by its extensions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Purpose {
    is_authority: bool,
    client: bool,
    server: bool,
    /// It has `anyExtendedKeyUsage`, which some peers take for all of them, and those of a mesh do not.
    any: bool,
}

/// Why peers may refuse an own certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Doubt {
    #[error(
        "the extendedKeyUsage of the certificate has no clientAuth: servers will refuse this process as a client; have \
         it issued for clientAuth and serverAuth"
    )]
    NotForClients,
    #[error(
        "the extendedKeyUsage of the certificate has no serverAuth: clients will refuse this process as a server; have \
         it issued for clientAuth and serverAuth"
    )]
    NotForServers,
    #[error(
        "no authority of the own `trust_bundle` vouches for the chain in `certificate` ({reason}): peers that trust the \
         same bundle will refuse this process; put the certificates between its own and its root behind it in \
         `certificate`, or the root that issued it into `trust_bundle`"
    )]
    Unvouched { reason: String },
    #[error(
        "the SPIFFE id (subjectAltName) of the certificate is {new}, and was {old}: peers that expect the old one will \
         refuse this process; list the new one in their `identities`, or have the certificate issued for the old one"
    )]
    OtherId { old: SpiffeId, new: SpiffeId },
}

impl Purpose {
    pub(super) fn read(der: &[u8]) -> Result<Self, Unreadable> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| Unreadable::Encoding)?;
        let constraints = certificate.basic_constraints().map_err(|_| Unreadable::Constraints)?;
        let usage = certificate.extended_key_usage().map_err(|_| Unreadable::Usage)?.map(|usage| usage.value);
        Ok(Self {
            is_authority: constraints.is_some_and(|constraints| constraints.value.ca),
            client: usage.is_none_or(|usage| usage.client_auth),
            server: usage.is_none_or(|usage| usage.server_auth),
            any: usage.is_some_and(|usage| usage.any),
        })
    }

    /// # Errors
    /// If nobody would let a process in, or call it, that shows such a certificate.
    pub(super) fn check(self) -> Result<(), IdentityError> {
        if self.is_authority {
            return Err(IdentityError::OfAuthority);
        }
        if self.client || self.server || self.any { Ok(()) } else { Err(IdentityError::Usage) }
    }

    /// What peers that trust `trust` as well would have against `chain`.
    pub(super) fn doubts(self, chain: &[CertificateDer<'_>], trust: &Trust, now: UnixTime) -> Vec<Doubt> {
        let mut doubts = Vec::new();
        if !self.client {
            doubts.push(Doubt::NotForClients);
        }
        if !self.server {
            doubts.push(Doubt::NotForServers);
        }
        let usage = match self {
            Self { server: true, .. } => Usage::Server,
            Self { client: true, .. } => Usage::Client,
            // Whatever else is wrong, it is refused for its usage.
            _ => return doubts,
        };
        if let Err(reason) = trust.vouches_for_own(chain, usage, now) {
            doubts.push(Doubt::Unvouched { reason });
        }
        doubts
    }
}

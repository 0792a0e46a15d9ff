//! Who this process is, whom it trusts, and how it proves the one and verifies the other.
//!
//! A source brings [`Material`]: a certificate chain, its private key, the [`Bundles`] of authorities to trust and
//! lists of revoked certificates. The mesh makes an [`Identity`] of it, which is verified once and never changes; new
//! material makes a new one, which the next handshakes use whole: certificate, key and trust switch together. While a
//! source brings nothing usable, the last good identity stays.
//!
//! # What is verified of a peer
//!
//! The same for servers and clients, over TLS 1.2 and 1.3:
//!
//! 1. The chain leads to an authority of the right bundle; every certificate in it is valid now and may be used for
//!    what it is used for; no list revokes it. The work is done by `rustls-webpki`. A list counts for the authority
//!    whose key has signed it, and not for another one of the same name.
//! 2. Its key is strong enough: RSA from 2048 bits, elliptic curves from 256.
//! 3. Its names. Where the certificate of this process has a SPIFFE id, the peer must have exactly one URI name, a
//!    well-formed SPIFFE id (gRFC A87), of the own trust domain or an alias (verified by the own bundle) or of another
//!    one whose bundle is there (verified by that). A peer without a URI name is accepted only if one of its names is
//!    expected by name. Where the own certificate has none, this is an ordinary PKI with one bundle.
//! 4. If somebody in particular is expected, one of the peer's names must say so ([`SanMatch`]). No name of a host is
//!    compared.
//!
//! A chain of more than 10 certificates, or of more than 32 KiB, is not looked at: it is kept with its connection.
//!
//! What fails is a [`PeerRefused`], which names the reason and the way out, and reaches the peer as a TLS alert.
//!
//! Sessions are resumed only within one identity and one list of expected names: after any change of the certificate,
//! the trust or the lists, the next handshake is a full one. The chain of a session that is resumed is verified again, as
//! of now.
//!
//! # Keys
//!
//! The bytes of a private key are never printed, and wiped when [`Material`] is dropped. Once an identity is made the
//! crypto provider holds the key; whether it wipes its own copy is its affair (`ring` does not).
//!
//! [`SanMatch`]: crate::core::identity::SanMatch

mod certificate;
mod doubt;
mod error;
mod files;
mod known;
mod material;
mod memory;
mod own;
mod refused;
mod revocation;
mod rustls_config;
mod shown;
mod source;
mod state;
mod subject;
#[cfg(test)]
mod tests;
mod trust;
mod verify;
mod workload_api;

pub use certificate::Certified;
pub use error::{IdentityError, Part};
pub use material::{Bundles, Material};
pub use memory::MemoryIdentity;
pub use own::Identity;
pub use refused::PeerRefused;
pub(crate) use refused::{Utc, list_expected};
pub(crate) use rustls_config::{Terms, anonymous};
/// The types of certificates and keys.
pub use rustls_pki_types as pki_types;
pub(crate) use shown::showing;
pub use source::{IdentitySource, IdentityUpdates};
pub(crate) use state::{Facts, Identities};
pub use state::{IdentityFailure, IdentityStatus, NoIdentity};
pub(crate) use trust::{Trust, Usage};

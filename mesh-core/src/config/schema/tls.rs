//! TLS towards endpoints, and who a peer must be.

use super::super::choice::TlsMode;
use super::super::names::{FilePath, ServerName};
use super::super::peer::PeerItem;
use super::super::section::Presence::{Optional, Required};
use super::super::section::section;
use super::super::shape::List;
use super::super::text::{Regex, SomeText, Word};
use crate::identity::SanKind;

section! {
    /// TLS to the endpoints of a backend. It never falls back to plaintext.
    Tls: "a TLS section" {
        /// `simple`: the server proves its name. `mutual`: both prove who they are, which needs an `identity`. `auto`: mutual with endpoints that are marked by `mesh: true`, plaintext with others. `disabled`: plaintext.
        mode: Word<TlsMode> = Required,
        /// The name for SNI, and with `simple` for the certificate. Without it the host of the request with `simple`, else none.
        server_name: ServerName = Optional,
        /// A PEM file with the authorities to trust, and no others. Without it the public ones with `simple`, else those of the `identity`.
        ca_certificates: FilePath = Optional,
        /// Who the server must be: one of these. Without it, or if empty, whom the name says with `simple`, else anybody who is trusted.
        identities: List<PeerItem> = Optional,
    } not yet {}

    /// What one of the names in the certificate of a peer must be: one of `uri`, `dns`, `exact`, `prefix`, `suffix`, `contains`, `regex`.
    PeerSection: "an identity of a peer" {
        /// The whole URI, such as a SPIFFE id.
        uri: SomeText = Optional,
        /// The whole DNS name; that of the certificate may be a wildcard, for one label.
        dns: SomeText = Optional,
        /// The whole name.
        exact: SomeText = Optional,
        /// How it begins.
        prefix: SomeText = Optional,
        /// How it ends.
        suffix: SomeText = Optional,
        /// What it holds.
        contains: SomeText = Optional,
        /// An expression for the whole name.
        regex: Regex = Optional,
        /// The kind of the name; without it any. Not with `uri`, `dns`.
        kind: Word<SanKind> = Optional,
    } not yet {}
}

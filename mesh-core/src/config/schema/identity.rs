//! Who this process is, and whom it trusts.

use super::super::choice::IdentitySource;
use super::super::names::FilePath;
use super::super::number::{Flag, Span};
use super::super::peer::{Bundles, KeyPath, SpiffeText, TrustDomainName, WorkloadEndpoint};
use super::super::section::Presence::{DefaultsTo, Follows, Optional};
use super::super::section::section;
use super::super::shape::List;
use super::super::text::Word;
use super::super::tree::Entries;

section! {
    /// Who this process is. Needs one of files (`certificate`, `key` and a trust), `workload_api`, `source`.
    IdentitySection: "an identity" {
        /// A PEM file with the certificate and those between it and the root. It is read again when it changes.
        certificate: FilePath = Optional,
        /// A PEM file with its private key: PKCS#8, SEC1 or PKCS#1.
        key: KeyPath = Optional,
        /// A PEM file with the authorities of the own trust domain. Excludes `spiffe_bundle_map`.
        trust_bundle: FilePath = Optional,
        /// A JSON file with the authorities of each trust domain (gRFC A87). Excludes `trust_bundle`.
        spiffe_bundle_map: FilePath = Optional,
        /// How often these files are looked at.
        refresh_interval: Span<10, 3_600_000> = Follows("`1s` with `certificate`", refresh_interval),
        /// The SPIFFE Workload API brings it, such as SPIRE's agent: `{}`, or a section.
        workload_api: WorkloadApi = Optional,
        /// Who else brings it: `custom` is the source that the program gave to the builder.
        source: Word<IdentitySource> = Optional,
        /// Other names of the own trust domain, whose members are verified by its bundle.
        trust_domain_aliases: List<TrustDomainName> = Optional,
        /// PEM files with the authorities of other trust domains.
        trust_bundles: Bundles = Optional,
        /// A PEM file of certificate revocation lists, or a directory of such files. Without it nobody is revoked.
        revocation_list: FilePath = Optional,
        /// Whether a peer is accepted of whom no list that is in force says anything (gRFC A69). Needs `revocation_list`.
        allow_undetermined_revocation: Flag = DefaultsTo("false"),
        /// How long the first identity may take when the mesh is built.
        startup_timeout: Span<1, 3_600_000> = DefaultsTo("10s"),
    } not yet {}

    /// The SPIFFE Workload API.
    WorkloadApi: "a workload API" {
        /// Its socket: `unix:/path` or `tcp://ip:port`. Without it the variable `SPIFFE_ENDPOINT_SOCKET`.
        endpoint: WorkloadEndpoint = Optional,
        /// Which of several identities is taken. Without it the first.
        spiffe_id: SpiffeText = Optional,
    } not yet {}
}

fn refresh_interval(identity: &Entries) -> Option<String> {
    identity.get("certificate").map(|_| "1s".to_owned())
}

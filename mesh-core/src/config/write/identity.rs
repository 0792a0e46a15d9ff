//! Who a program is, and how it speaks TLS.

use std::path::Path;

use super::super::choice::{IdentitySource, TlsMode};
use super::Writer;
use crate::config::tree::{Entry, Node, Value};
use crate::identity::{SanKind, SanMatch, SanPattern};
use crate::model::{Identity, IdentityFiles, IdentityFrom, RootCertificates, Tls, TrustFile};

impl Writer {
    pub(in crate::config) fn identity(self, identity: &Identity) -> Node {
        let Identity {
            source,
            trust_domain_aliases,
            federated,
            revocation_list,
            allow_undetermined_revocation,
            startup_timeout,
        } = identity;
        let aliases = trust_domain_aliases.iter().map(|domain| self.text(domain.as_str()));
        let bundles = federated.iter().map(|(domain, file)| Entry {
            key: domain.as_str().into(),
            at: self.0,
            value: self.path(file),
        });
        let rest = self.map([
            ("trust_domain_aliases", Some(self.list(aliases))),
            ("trust_bundles", Some(Node::map(bundles, self.0))),
            ("revocation_list", revocation_list.as_deref().map(|path| self.path(path))),
            ("allow_undetermined_revocation", Some(self.flag(*allow_undetermined_revocation))),
            ("startup_timeout", Some(self.duration(*startup_timeout))),
        ]);
        let all = [self.identity_from(source), rest].into_iter().flat_map(|node| match node.value {
            Value::Map(map) => map.list.clone(),
            Value::Scalar(_) | Value::Sequence(_) => Vec::new(),
        });
        Node::map(all, self.0)
    }

    fn identity_from(self, source: &IdentityFrom) -> Node {
        match source {
            IdentityFrom::Files(IdentityFiles { certificate, key, trust, refresh_interval }) => {
                let (pem, map) = match trust {
                    TrustFile::Pem(path) => (Some(self.path(path)), None),
                    TrustFile::SpiffeBundleMap(path) => (None, Some(self.path(path))),
                };
                self.map([
                    ("certificate", Some(self.path(certificate))),
                    ("key", Some(self.path(key))),
                    ("trust_bundle", pem),
                    ("spiffe_bundle_map", map),
                    ("refresh_interval", Some(self.duration(*refresh_interval))),
                ])
            }
            IdentityFrom::WorkloadApi { endpoint, spiffe_id } => {
                let api = self.map([
                    ("endpoint", endpoint.as_ref().map(|endpoint| self.text(endpoint))),
                    ("spiffe_id", spiffe_id.as_ref().map(|id| self.text(id.as_str()))),
                ]);
                self.map([("workload_api", Some(api))])
            }
            IdentityFrom::Custom => self.map([("source", Some(self.word(IdentitySource)))]),
        }
    }

    /// What is not UTF-8 in a path is replaced: there will be no such file.
    pub(super) fn path(self, path: &Path) -> Node {
        self.text(&path.to_string_lossy())
    }

    pub(in crate::config) fn tls(self, tls: Option<&Tls>) -> Node {
        let Some(Tls { mode, server_name, roots, identities }) = tls else {
            return self.map([("mode", Some(self.word(TlsMode::Disabled)))]);
        };
        let file = match roots {
            Some(RootCertificates::PemFile(path)) => Some(self.path(path)),
            Some(RootCertificates::WebPki) | None => None,
        };
        // With the identity's trust the public authorities have no word: they would let anybody in.
        self.map([
            ("mode", Some(self.word(TlsMode::Tls(*mode)))),
            ("server_name", server_name.as_ref().map(|name| self.text(name))),
            ("ca_certificates", file),
            ("identities", Some(self.peers(identities))),
        ])
    }

    pub(super) fn peers(self, peers: &[SanMatch]) -> Node {
        self.list(peers.iter().map(|peer| self.peer(peer)))
    }

    fn peer(self, peer: &SanMatch) -> Node {
        let (field, text) = match (&peer.pattern, peer.kind) {
            (SanPattern::Exact(text), Some(SanKind::Uri)) => return self.map([("uri", Some(self.text(text)))]),
            (SanPattern::Exact(text), Some(SanKind::Dns)) => return self.map([("dns", Some(self.text(text)))]),
            (SanPattern::Exact(text), _) => ("exact", &**text),
            (SanPattern::Prefix(text), _) => ("prefix", &**text),
            (SanPattern::Suffix(text), _) => ("suffix", &**text),
            (SanPattern::Contains(text), _) => ("contains", &**text),
            (SanPattern::Regex(pattern), _) => ("regex", pattern.as_str()),
        };
        self.map([(field, Some(self.text(text))), ("kind", peer.kind.map(|kind| self.word(kind)))])
    }
}

//! Who may speak with whom, and what is said in plaintext.

use super::super::choice::TlsMode;
use super::super::origin::Position;
use super::super::problem::Path;
use super::super::schema;
use super::super::shape::{Field, Spanned};
use super::Lint;
use crate::model::TlsMode::{Auto, Mutual};

impl Lint<'_> {
    /// TLS of the backend at `at`, which is used.
    pub(super) fn tls(&mut self, section: &schema::Backend, at: Position, path: Path<'_>) {
        let inherited = self.defaults.map_or(&Field::Absent, |defaults| &defaults.tls);
        let field = if section.tls.is_written() { &section.tls } else { inherited };
        let Some(Spanned { value: tls, .. }) = field.given() else {
            if self.has_identity {
                self.any_identity(at, path);
            } else {
                self.in_plaintext += 1;
                self.first_in_plaintext.get_or_insert((at, path.to_string()));
            }
            return;
        };
        if let Some(Spanned { value: TlsMode::Tls(Mutual | Auto), at: mode }) = tls.mode.given()
            && !tls.identities.is_written()
        {
            let own = section.tls.is_written();
            let tls_path = path.key("tls");
            self.any_identity(if own { *mode } else { at }, if own { tls_path } else { path });
        }
    }

    fn any_identity(&mut self, at: Position, path: Path<'_>) {
        let message = "any server with a certificate that the identity trusts is taken for this one".to_owned();
        let help = "list who it must be in `identities` of its `tls`; `identities: []` says that any is meant";
        self.warn("any-identity", at, path, message, help);
    }

    /// One word about all backends: who wants none of them in plaintext needs an identity once.
    pub(super) fn plaintext(&mut self) {
        let Some((at, path)) = self.first_in_plaintext.take() else { return };
        let message = match self.in_plaintext {
            1 => "this process has no identity, and requests to this backend go out in plaintext".to_owned(),
            count => format!(
                "this process has no identity, and requests to this backend and {} more go out in plaintext",
                count - 1
            ),
        };
        let help = "add `identity`; `defaults: { tls: { mode: disabled } }` says that plaintext is meant";
        self.warn("plaintext", at, path, message, help);
    }

    pub(super) fn peers(&mut self, field: &Field<Vec<Field<schema::PeerSection>>>, path: Path<'_>) {
        for (index, item) in field.value().into_iter().flatten().enumerate() {
            let Some(Spanned { value: prefix, at }) = item.value().and_then(|peer| peer.prefix.given()) else {
                continue;
            };
            let Some(rest) = prefix.strip_prefix("spiffe://").filter(|rest| !rest.ends_with('/')) else { continue };
            let message = match rest.contains('/') {
                true => format!("`{prefix}` is also the beginning of other ids, such as `{prefix}-other/..`"),
                false => {
                    format!("`{prefix}` is also the beginning of other trust domains, such as `spiffe://{rest}.other/`")
                }
            };
            let help = "end the prefix with a `/`, or write the whole id";
            self.warn("open-prefix", *at, path.index(index).key("prefix"), message, help);
        }
    }
}

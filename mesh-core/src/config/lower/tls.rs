//! TLS towards endpoints, and who a peer must be.

use std::path::Path as FsPath;
use std::sync::Arc;

use super::super::choice::TlsMode;
use super::super::peer::{PeerDns, PeerUri};
use super::super::problem::{Draft, Path};
use super::super::schema;
use super::super::shape::{Context, Field, Spanned};
use super::super::text::{Refusal, TextShape};
use super::{HasIdentity, exactly_one, file_path, has_no_effect};
use crate::identity::{SanKind, SanMatch, SanPattern};
use crate::model::{self, Endpoint, RootCertificates, Tls};

/// What a TLS section is read against.
pub(super) struct Scope<'a> {
    pub(super) has_identity: HasIdentity,
    /// What relative paths are relative to.
    pub(super) directory: &'a FsPath,
}

/// What holds for a backend that says nothing: with an identity mutual TLS, with anybody whom it trusts.
pub(super) fn of_defaults(section: Option<&schema::Defaults>, scope: &Scope<'_>, context: &mut Context) -> Option<Tls> {
    let field = section.map_or(&Field::Absent, |section| &section.tls);
    let Some(section) = field.value() else {
        return (scope.has_identity == HasIdentity::Yes && !field.is_invalid()).then(|| Tls::mutual(Vec::new()));
    };
    let path = Path::TOP.key("defaults");
    let path = path.key("tls");
    if let Some(Spanned { value: TlsMode::Tls(model::TlsMode::Auto), at }) = section.mode.given() {
        context.report(*at, path.key("mode"), || {
            let draft = Draft::new("`auto` is no default: what nobody marked would be spoken to in plaintext");
            draft.about("auto").help("write `mutual`, and `auto` at the backends whose endpoints have `mesh: true`")
        });
        return None;
    }
    tls(section, scope, path, context)
}

/// What a backend with these endpoints says.
pub(super) fn of_backend(
    section: &schema::Tls,
    scope: &Scope<'_>,
    endpoints: &[Endpoint],
    path: Path<'_>,
    context: &mut Context,
) -> Option<Tls> {
    if let Some(Spanned { value: TlsMode::Tls(model::TlsMode::Auto), at }) = section.mode.given()
        && !endpoints.iter().any(|endpoint| endpoint.mesh)
    {
        context.report(*at, path.key("mode"), || {
            let draft =
                Draft::new("`auto` is mutual TLS with endpoints that have `mesh: true`, and none of these has it");
            draft.about("auto").help("mark them, as `{ address: .., mesh: true }`, or write `mutual` or `disabled`")
        });
    }
    tls(section, scope, path, context)
}

fn tls(section: &schema::Tls, scope: &Scope<'_>, path: Path<'_>, context: &mut Context) -> Option<Tls> {
    let identities = peers(&section.identities, path.key("identities"), context);
    let Spanned { value: mode, at } = section.mode.given()?;
    let mode = match *mode {
        TlsMode::Disabled => {
            const WHY: &str = "while `mode` is `disabled`";
            has_no_effect(&section.server_name, "server_name", WHY, path, context);
            has_no_effect(&section.ca_certificates, "ca_certificates", WHY, path, context);
            has_no_effect(&section.identities, "identities", WHY, path, context);
            return None;
        }
        TlsMode::Tls(mode) => mode,
    };
    let roots = section.ca_certificates.given();
    let roots = roots.map(|file| RootCertificates::PemFile(file_path(file, scope.directory)));
    let mut tls = match mode {
        model::TlsMode::Simple => Tls::simple(roots.unwrap_or(RootCertificates::WebPki)),
        model::TlsMode::Mutual | model::TlsMode::Auto => {
            let word = if mode == model::TlsMode::Auto { "auto" } else { "mutual" };
            scope.has_identity.require(word, *at, path.key("mode"), context);
            Tls { mode, roots, ..Tls::mutual(Vec::new()) }
        }
    };
    tls.identities = identities;
    tls.server_name = section.server_name.value().cloned();
    Some(tls)
}

/// Who a peer must be.
pub(super) fn peers(
    field: &Field<Vec<Field<schema::PeerSection>>>,
    path: Path<'_>,
    context: &mut Context,
) -> Vec<SanMatch> {
    let sections = field.value().into_iter().flatten().enumerate();
    let peers = sections.filter_map(|(index, section)| peer(section.value()?, path.index(index), context));
    peers.collect()
}

fn peer(section: &schema::PeerSection, path: Path<'_>, context: &mut Context) -> Option<SanMatch> {
    let schema::PeerSection { uri, dns, exact, prefix, suffix, contains, regex, kind, at, is_doubtful } = section;
    let fields = [
        ("uri", uri.is_written()),
        ("dns", dns.is_written()),
        ("exact", exact.is_written()),
        ("prefix", prefix.is_written()),
        ("suffix", suffix.is_written()),
        ("contains", contains.is_written()),
        ("regex", regex.is_written()),
    ];
    if !is_doubtful || fields.iter().any(|(_, is_written)| *is_written) {
        exactly_one(&fields, *at, path, context);
    }
    for (field, name) in [(uri, "uri"), (dns, "dns")] {
        if field.is_written() {
            has_no_effect(kind, "kind", &format!("beside `{name}`, which says it"), path, context);
        }
    }
    let mut whole = |field: &Field<Arc<str>>, name: &'static str, kind| {
        let Spanned { value, at } = field.given()?;
        match checked(value, kind) {
            Ok(text) => Some(SanMatch { kind, pattern: SanPattern::Exact(text) }),
            Err(refusal) => {
                context.report(*at, path.key(name), || refusal.draft(value));
                None
            }
        }
    };
    let kind = kind.value().copied();
    if let Some(found) = whole(uri, "uri", Some(SanKind::Uri)).or_else(|| whole(dns, "dns", Some(SanKind::Dns))) {
        return Some(found);
    }
    if exact.is_written() {
        return whole(exact, "exact", kind);
    }
    let pattern = prefix.value().cloned().map(SanPattern::Prefix);
    let pattern = pattern.or_else(|| suffix.value().cloned().map(SanPattern::Suffix));
    let pattern = pattern.or_else(|| contains.value().cloned().map(SanPattern::Contains));
    let pattern = pattern.or_else(|| regex.value().cloned().map(SanPattern::Regex))?;
    Some(SanMatch { kind, pattern })
}

/// The whole name as it is compared.
fn checked(text: &Arc<str>, kind: Option<SanKind>) -> Result<Arc<str>, Refusal> {
    match kind {
        Some(SanKind::Uri) => PeerUri::parse(text),
        Some(SanKind::Dns) => PeerDns::parse(text),
        Some(SanKind::Ip) => match text.parse::<std::net::IpAddr>() {
            Ok(address) => Ok(address.to_string().into()),
            Err(_) => Err(Refusal::new("is not an IP address")),
        },
        Some(SanKind::Email) | None => Ok(text.clone()),
    }
}

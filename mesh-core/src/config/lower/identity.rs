//! Who this process is.

use std::path::Path as FsPath;

use super::super::origin::Position;
use super::super::problem::{Draft, Path};
use super::super::schema;
use super::super::shape::{Context, Field, Shape, Spanned};
use super::super::text::SomeText;
use super::{exactly_one, file_path};
use crate::model::{Identity, IdentityFiles, IdentityFrom, TrustFile};

/// Whether this process has an identity, as far as the file can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HasIdentity {
    Yes,
    No,
    /// It may have been among what was refused.
    Perhaps,
}

impl HasIdentity {
    pub(super) fn of(file: &schema::File) -> Self {
        match &file.identity {
            Field::Given(_) | Field::Default(_) => Self::Yes,
            Field::Absent if !file.is_doubtful => Self::No,
            Field::Absent | Field::Invalid => Self::Perhaps,
        }
    }

    /// Reports what `needs` an identity where there is none.
    pub(super) fn require(self, needs: &str, at: Position, path: Path<'_>, context: &mut Context) {
        if self == Self::No {
            context.report(at, path, || {
                let help = "add `identity`, with `source: custom` if the program gives it to the builder";
                Draft::new(format!("`{needs}` needs an identity, and there is none")).about(needs).help(help)
            });
        }
    }
}

pub(super) fn identity(
    section: &schema::IdentitySection,
    directory: &FsPath,
    path: Path<'_>,
    context: &mut Context,
) -> Option<Identity> {
    let source = source(section, directory, path, context);
    let mut identity = Identity::new(source?);
    let aliases = section.trust_domain_aliases.value().into_iter().flatten();
    identity.trust_domain_aliases = aliases.filter_map(Field::value).cloned().collect();
    let bundles = section.trust_bundles.value().into_iter().flatten();
    identity.federated = bundles.map(|(domain, file)| (domain.clone(), file_path(file, directory))).collect();
    identity.revocation_list = section.revocation_list.given().map(|file| file_path(file, directory));
    identity.allow_undetermined_revocation = section.allow_undetermined_revocation.or(false);
    if let Some(Spanned { value: true, at }) = section.allow_undetermined_revocation.given()
        && let Field::Absent = section.revocation_list
        && !section.is_doubtful
    {
        context.report(*at, path.key("allow_undetermined_revocation"), || {
            Draft::new("`allow_undetermined_revocation` has no effect without `revocation_list`").help("remove it")
        });
    }
    identity.startup_timeout = section.startup_timeout.or(identity.startup_timeout);
    Some(identity)
}

fn source(
    section: &schema::IdentitySection,
    directory: &FsPath,
    path: Path<'_>,
    context: &mut Context,
) -> Option<IdentityFrom> {
    let schema::IdentitySection { certificate, key, trust_bundle, spiffe_bundle_map, refresh_interval, .. } = section;
    let files = [
        ("certificate", certificate.is_written()),
        ("key", key.is_written()),
        ("trust_bundle", trust_bundle.is_written()),
        ("spiffe_bundle_map", spiffe_bundle_map.is_written()),
        ("refresh_interval", refresh_interval.is_written()),
    ];
    // The first that is written stands for all: they come together.
    let files = files.into_iter().find(|(_, is_written)| *is_written).unwrap_or(("certificate", false));
    // Who says a part of it beside the file is to hear what does not go with the rest.
    let outside = [certificate, key, trust_bundle, spiffe_bundle_map].into_iter().filter_map(Field::given);
    let outside =
        outside.map(|given| given.at).find(|at| matches!(at, Position::Environment(_) | Position::Builder(_)));
    let at = outside.unwrap_or(section.at);
    let sources = [files, ("workload_api", section.workload_api.is_written()), ("source", section.source.is_written())];
    if !section.is_doubtful || sources.iter().any(|(_, is_written)| *is_written) {
        exactly_one(&sources, at, path, context);
    }
    if let Some(section) = section.workload_api.value() {
        let (endpoint, spiffe_id) = (section.endpoint.value().cloned(), section.spiffe_id.value().cloned());
        return Some(IdentityFrom::WorkloadApi { endpoint, spiffe_id });
    }
    if section.source.value().is_some() {
        return Some(IdentityFrom::Custom);
    }
    let (_, true) = files else { return None };
    if !section.is_doubtful {
        for (field, name) in [(certificate, "certificate"), (key, "key")] {
            if let Field::Absent = field {
                context.report(at, path.key(name), || {
                    let message = format!("`{name}` is missing: write the path of a file");
                    Draft::new(message).help("an identity of files has `certificate`, `key` and `trust_bundle`")
                });
            }
        }
        let trust =
            [("trust_bundle", trust_bundle.is_written()), ("spiffe_bundle_map", spiffe_bundle_map.is_written())];
        exactly_one(&trust, at, path, context);
    }
    let file = |field: &Field<<SomeText as Shape>::Value>| field.given().map(|file| file_path(file, directory));
    let pem = file(trust_bundle).map(TrustFile::Pem);
    let trust = pem.or_else(|| file(spiffe_bundle_map).map(TrustFile::SpiffeBundleMap));
    let mut files = IdentityFiles::new(file(certificate)?, file(key)?, trust?);
    files.refresh_interval = refresh_interval.or(files.refresh_interval);
    Some(IdentityFrom::Files(files))
}

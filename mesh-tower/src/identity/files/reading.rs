//! Looking at the files of an identity, and reading all of them at one moment. Blocking.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mesh_core::identity::TrustDomain;
use mesh_core::model::{self, IdentityFiles, IdentityFrom, TrustFile};
use zeroize::Zeroizing;

use crate::source::file::{Look, read_regular};

/// The longest file that is read, in bytes.
const MAX_BYTES: usize = 1024 * 1024;
/// The most files of revoked certificates in a directory.
const MAX_FILES: usize = 100;
/// How often files that change meanwhile are read in one look.
const READS: usize = 3;

/// The content of a file, wiped when it is dropped.
pub(super) type Content = Zeroizing<Vec<u8>>;

/// Which files there are.
pub(super) struct Plan {
    /// None where somebody else brings the identity.
    pub(super) own: Option<IdentityFiles>,
    pub(super) federated: BTreeMap<TrustDomain, PathBuf>,
    pub(super) revocation_list: Option<PathBuf>,
}

/// How files look from outside; a change of any content changes it.
#[derive(Clone, PartialEq)]
pub(super) struct Seen(Vec<At>);

#[derive(Clone, PartialEq)]
struct At {
    path: PathBuf,
    /// Where the symlinks lead.
    resolved: Option<PathBuf>,
    look: Option<Look>,
}

/// A file of a directory.
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) content: Result<Content, String>,
}

/// What was read of all files. Errors say what is wrong, and not with which.
pub(super) struct Contents {
    pub(super) own: Option<Own>,
    /// In the order of [`Plan::federated`].
    pub(super) federated: Vec<Result<Content, String>>,
    /// None where none are asked for.
    pub(super) revocation_lists: Result<Vec<File>, String>,
}

/// What was read of the files of an identity.
pub(super) struct Own {
    pub(super) certificate: Result<Content, String>,
    pub(super) key: Result<Content, String>,
    pub(super) trust: Result<Content, String>,
    /// Whether others than its owner can read the key.
    pub(super) key_is_open: bool,
}

/// What a look found.
pub(super) enum Round {
    /// Nothing new.
    Same,
    /// Something changed each time while it was read.
    Restless,
    /// What all files held at one moment.
    Read(Seen, Contents),
}

impl Plan {
    pub(super) fn new(settings: &model::Identity) -> Self {
        let own = if let IdentityFrom::Files(files) = &settings.source { Some(files.clone()) } else { None };
        Self { own, federated: settings.federated.clone(), revocation_list: settings.revocation_list.clone() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.paths().next().is_none()
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        let own =
            self.own.iter().flat_map(|own| [&*own.certificate, &*own.key].into_iter().chain(trust_path(&own.trust)));
        own.chain(self.federated.values().map(|path| &**path)).chain(self.revocation_list.as_deref())
    }
}

fn trust_path(trust: &TrustFile) -> Option<&Path> {
    match trust {
        TrustFile::Pem(path) | TrustFile::SpiffeBundleMap(path) => Some(path),
        _ => None,
    }
}

impl Seen {
    fn of(plan: &Plan) -> Self {
        let mut seen: Vec<_> = plan.paths().map(At::of).collect();
        if let Some(Ok(Some(files))) = plan.revocation_list.as_deref().map(directory) {
            seen.extend(files.iter().map(|path| At::of(path)));
        }
        Self(seen)
    }
}

impl At {
    fn of(path: &Path) -> Self {
        let look = fs::metadata(path).ok().map(Look::from);
        Self { path: path.to_owned(), resolved: fs::canonicalize(path).ok(), look }
    }
}

/// Looks at the files, and reads them unless they look as they did when they were `seen`.
pub(super) fn round(plan: &Plan, seen: Option<&Seen>) -> Round {
    let mut before = Seen::of(plan);
    if Some(&before) == seen {
        return Round::Same;
    }
    for _ in 0..READS {
        let contents = Contents::read(plan);
        let after = Seen::of(plan);
        if before == after {
            return Round::Read(after, contents);
        }
        before = after;
    }
    Round::Restless
}

impl Contents {
    fn read(plan: &Plan) -> Self {
        let revocation_lists = match &plan.revocation_list {
            None => Ok(Vec::new()),
            Some(path) => directory(path).map(|files| {
                let files = files.unwrap_or_else(|| vec![path.clone()]);
                let read = |path: PathBuf| File { content: read(&path, "a file of revocation lists"), path };
                files.into_iter().map(read).collect()
            }),
        };
        let own = plan.own.as_ref().map(|own| Own {
            certificate: read(&own.certificate, "a file of certificates"),
            key: read(&own.key, "a file of a private key"),
            trust: trust_path(&own.trust).map_or(Ok(Content::default()), |path| read(path, "a file of authorities")),
            key_is_open: is_open(&own.key),
        });
        Self {
            own,
            federated: plan.federated.values().map(|path| read(path, "a file of authorities")).collect(),
            revocation_lists,
        }
    }
}

fn read(path: &Path, what: &str) -> Result<Content, String> {
    let content = Zeroizing::new(read_regular(path, what, MAX_BYTES).map_err(|error| error.to_string())?);
    if content.len() > MAX_BYTES { Err(format!("too long: {what} has at most {MAX_BYTES} bytes")) } else { Ok(content) }
}

/// The files of a directory in their order, without hidden ones and other directories; `None` if it is none.
fn directory(path: &Path) -> Result<Option<Vec<PathBuf>>, String> {
    if !fs::metadata(path).map_err(|error| error.to_string())?.is_dir() {
        return Ok(None);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(|error| error.to_string())? {
        let path = entry.map_err(|error| error.to_string())?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if is_hidden || path.is_dir() {
            continue;
        }
        files.push(path);
        if files.len() > MAX_FILES {
            return Err(format!("more than {MAX_FILES} files in it"));
        }
    }
    files.sort_unstable();
    if files.is_empty() { Err("no files in it".to_owned()) } else { Ok(Some(files)) }
}

#[cfg(unix)]
fn is_open(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn is_open(_: &Path) -> bool {
    false
}

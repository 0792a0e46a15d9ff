//! Authorities and what they issue as files, named as cert-manager names them: `tls.crt`, `tls.key`, `ca.crt`, and the
//! authority's own `ca.key`.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::{Authority, Error, Issued, authority_params};

/// How new files take the place of old ones. Either way nobody ever reads half a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Swap {
    /// File by file: for a moment the certificate is another's than the key.
    Files,
    /// All at once, as Kubernetes does it for a mounted secret: the files are symlinks into `..data`, itself a symlink to
    /// a directory, which is replaced by one rename.
    #[cfg(unix)]
    Symlink,
}

impl Authority {
    /// The authority whose `ca.crt` and `ca.key` are in `directory`, or a new one, which is put there.
    ///
    /// # Errors
    /// If what is there is not an authority of `trust_domain` that [`Authority::new`] made, or cannot be read or written.
    pub fn open(directory: &Path, trust_domain: &str) -> Result<Self, Error> {
        let (certificate, key) = (read(directory, "ca.crt")?, read(directory, "ca.key")?);
        let bad = |problem: String| Error::Authority { directory: directory.to_owned(), problem };
        match (certificate, key) {
            (Some(certificate), Some(key)) => Self::load(trust_domain, certificate, &key).map_err(bad),
            (Some(_), None) => Err(bad("there is a ca.crt and no ca.key".to_owned())),
            // The key is written first: a run that ended between the two left it, and nothing was issued with it.
            (None, _) => {
                let authority = Self::new(trust_domain)?;
                make_directory(directory)?;
                put(directory, "ca.key", &authority.key.serialize_pem(), Secrecy::Private)?;
                put(directory, "ca.crt", &authority.root, Secrecy::Public)?;
                Ok(authority)
            }
        }
    }

    /// The certificate is not parsed: it has to be one that [`Authority::new`] made, and whether it has the right names and
    /// key its bytes tell.
    fn load(trust_domain: &str, root: String, key: &str) -> Result<Self, String> {
        let params = authority_params(trust_domain, "development root").map_err(|error| error.to_string())?;
        let key = KeyPair::from_pem(key).map_err(|error| format!("ca.key: {error}"))?;
        let der = CertificateDer::from_pem_slice(root.as_bytes()).map_err(|error| format!("ca.crt: {error}"))?;
        let uri = format!("spiffe://{trust_domain}");
        // Tag and length of a URI in a SubjectAltName: what only begins or ends with it is another's.
        let length = u8::try_from(uri.len()).map_or_else(|_| vec![0x82, 1, uri.len() as u8], short_length);
        let uri = [&[0x86][..], &length, uri.as_bytes()].concat();
        for name in [uri.as_slice(), b"development root"] {
            if !contains(&der, name) {
                return Err(format!(
                    "ca.crt is not an authority of the trust domain {trust_domain} that was made here"
                ));
            }
        }
        if !contains(&der, key.public_key_raw()) {
            return Err("ca.key is not the key of ca.crt".to_owned());
        }
        Ok(Self { trust_domain: trust_domain.to_owned(), root, intermediates: String::new(), params, key })
    }
}

impl Issued {
    /// Writes `tls.crt`, `tls.key` and `ca.crt` into `directory`, which is made if it is not there, or swaps them for those
    /// that are. The key can be read by its owner only.
    ///
    /// # Errors
    /// If a file cannot be written. What was there before is there still, whole, if need be in part.
    pub fn write_to(&self, directory: &Path, swap: Swap) -> Result<(), Error> {
        make_directory(directory)?;
        match swap {
            Swap::Files => {
                self.write_all(directory)?;
                #[cfg(unix)]
                symlink::sweep(directory, None);
                Ok(())
            }
            #[cfg(unix)]
            Swap::Symlink => symlink::swap(directory, |fresh| self.write_all(fresh)),
        }
    }

    fn write_all(&self, directory: &Path) -> Result<(), Error> {
        put(directory, "ca.crt", &self.bundle_pem, Secrecy::Public)?;
        put(directory, "tls.key", &self.key_pem, Secrecy::Private)?;
        put(directory, "tls.crt", &self.certificate_pem, Secrecy::Public)
    }
}

#[cfg(unix)]
mod symlink {
    use std::ffi::OsStr;
    use std::fs;
    use std::io;
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use std::time::SystemTime;

    use super::{Error, at, make_directory};
    use crate::certs::since_epoch;

    const DATA: &str = "..data";

    /// Fills a new directory and makes it the one that is seen.
    pub(super) fn swap(directory: &Path, fill: impl FnOnce(&Path) -> Result<(), Error>) -> Result<(), Error> {
        let name = format!("..{}", since_epoch(SystemTime::now()).as_nanos());
        let fresh = directory.join(&name);
        make_directory(&fresh)?;
        fill(&fresh)?;
        point(directory, DATA, &name)?;
        for file in ["ca.crt", "tls.key", "tls.crt"] {
            let target = format!("{DATA}/{file}");
            if fs::read_link(directory.join(file)).ok().as_deref() != Some(Path::new(&target)) {
                point(directory, file, &target)?;
            }
        }
        sweep(directory, Some(&name));
        Ok(())
    }

    /// Lets `name` be a symlink to `target`, whatever it was before.
    fn point(directory: &Path, name: &str, target: &str) -> Result<(), Error> {
        let new = directory.join(format!("{name}_tmp"));
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&new)(error)),
            _ => symlink(target, &new).map_err(at(&new))?,
        }
        fs::rename(&new, directory.join(name)).map_err(at(&directory.join(name)))
    }

    /// Removes the directories of earlier swaps, and `..data` itself if none is the current one. One that cannot be removed
    /// is in nobody's way.
    pub(super) fn sweep(directory: &Path, current: Option<&str>) {
        if current.is_none() {
            let _ = fs::remove_file(directory.join(DATA));
        }
        let old = |name: &OsStr| {
            let digits = name.to_str().and_then(|name| name.strip_prefix(".."));
            digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
                && name.to_str() != current
        };
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if old(&entry.file_name()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Secrecy {
    Public,
    /// Only the owner may read it, on Unix.
    Private,
}

fn make_directory(directory: &Path) -> Result<(), Error> {
    fs::create_dir_all(directory).map_err(at(directory))
}

/// Writes a file beside the one that it then takes the place of.
fn put(directory: &Path, name: &str, content: &str, secrecy: Secrecy) -> Result<(), Error> {
    let new = directory.join(format!(".{name}.new"));
    // One of a run that was interrupted may be there, and belong to somebody who may read more.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&new)(error)),
        _ => write_new(&new, content, secrecy).map_err(at(&new))?,
    }
    let path = directory.join(name);
    fs::rename(&new, &path).map_err(at(&path))
}

fn write_new(path: &Path, content: &str, secrecy: Secrecy) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    if secrecy == Secrecy::Private {
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    }
    #[cfg(not(unix))]
    let _ = secrecy;
    options.open(path)?.write_all(content.as_bytes())
}

fn read(directory: &Path, name: &str) -> Result<Option<String>, Error> {
    let path = directory.join(name);
    match fs::read_to_string(&path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(&path)(error)),
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path: PathBuf = path.to_owned();
    move |source| Error::File { path, source }
}

/// A length in DER below 256.
fn short_length(length: u8) -> Vec<u8> {
    if length < 0x80 { vec![length] } else { vec![0x81, length] }
}

fn contains(whole: &[u8], part: &[u8]) -> bool {
    whole.windows(part.len()).any(|window| window == part)
}

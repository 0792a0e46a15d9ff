//! Configuration from a file, followed while it changes.
//!
//! The file is looked at every [`POLL`]: by path, so that a rename over it, a swap of the symlink in front of it
//! (Kubernetes' `..data`), an in-place write, a deletion and a remounted directory all look alike. Polling also works
//! where file notifications do not (network file systems, some container mounts) and costs one `stat`.
//!
//! A change is read once the file has kept still for one more look, so that a writer that needs two writes is not
//! caught between them. A ConfigMap mounted by `subPath` never changes; that is Kubernetes' rule (CF-05).

use std::fs::{self, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_core::config::{File, MAX_BYTES, Reader};
use tokio::sync::watch;

use super::reading::{Reading, Readings};
use super::{BuildError, Update};

/// How often the file is looked at. A change is in force after two to three of these.
pub(crate) const POLL: Duration = Duration::from_millis(250);
/// How often a file that does not keep still is waited for before it is read all the same.
const MAX_RESTLESS: u32 = 8;

/// How long the file may take to be read.
const MAX_READ: Duration = Duration::from_secs(10);

/// What the file looks like from outside; a change of content changes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Look {
    modified: Option<SystemTime>,
    len: u64,
    /// Device and file, and when its owner, permissions or content last changed.
    identity: (u64, u64, i64, i64),
}

impl From<Metadata> for Look {
    fn from(metadata: Metadata) -> Self {
        #[cfg(unix)]
        let identity = {
            use std::os::unix::fs::MetadataExt;
            (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
        };
        #[cfg(not(unix))]
        let identity = (0, 0, 0, 0);
        Self { modified: metadata.modified().ok(), len: metadata.len(), identity }
    }
}

/// A file that was read once and can be followed.
pub(crate) struct Watcher {
    path: PathBuf,
    look: Option<Look>,
    content: u64,
    reader: Reader,
    readings: Arc<Readings>,
}

fn hash(content: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}

async fn read(path: &Path) -> Result<Vec<u8>, BuildError> {
    let owned = path.to_owned();
    let reading = tokio::task::spawn_blocking(move || read_regular(&owned, "a configuration", MAX_BYTES));
    let content = match tokio::time::timeout(MAX_READ, reading).await {
        Ok(joined) => joined.unwrap_or_else(|error| Err(io::Error::other(error))),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("not read within {MAX_READ:?}"))),
    };
    content.map_err(|error| BuildError::Read { path: path.to_owned(), error })
}

/// Reads `what`: a regular file of no more than `max` bytes. One that grows meanwhile is read up to one byte more.
pub(crate) fn read_regular(path: &Path, what: &str, max: usize) -> io::Result<Vec<u8>> {
    // Before it is opened: opening a FIFO waits for whoever writes to it, and opening a device may do anything.
    suits(&fs::metadata(path)?, what, max)?;
    let file = fs::File::open(path)?;
    // Again: the path may name another file by now.
    let len = suits(&file.metadata()?, what, max)?;
    let mut content = Vec::with_capacity(len);
    file.take(max as u64 + 1).read_to_end(&mut content)?;
    Ok(content)
}

/// The length of a file that may be read.
fn suits(metadata: &Metadata, what: &str, max: usize) -> io::Result<usize> {
    if !metadata.is_file() {
        let text = format!("this is {}; {what} must be a regular file", kind(metadata));
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    usize::try_from(metadata.len()).ok().filter(|len| *len <= max).ok_or_else(|| {
        let text = format!("{} bytes are too many: {what} has at most {max}", metadata.len());
        io::Error::new(io::ErrorKind::FileTooLarge, text)
    })
}

/// What there is instead of a regular file.
fn kind(metadata: &Metadata) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let kind = metadata.file_type();
        if kind.is_fifo() {
            return "a FIFO";
        } else if kind.is_socket() {
            return "a socket";
        } else if kind.is_char_device() || kind.is_block_device() {
            return "a device";
        }
    }
    if metadata.is_dir() { "a directory" } else { "a special file" }
}

fn parse(path: &Path, content: &[u8], reader: &Reader) -> Result<Reading, BuildError> {
    let directory = path.parent().unwrap_or_else(|| Path::new(""));
    let name = path.display().to_string();
    Ok(Reading::of(reader.read(Some(File { text: content, name: &name, directory }))?))
}

/// Reads the file for the first time. `reader` knows what is put over each version of it; what is read goes to
/// `readings`.
pub(crate) async fn open(
    path: PathBuf,
    reader: Reader,
    readings: Arc<Readings>,
) -> Result<(Watcher, Reading), BuildError> {
    // Looked at before it is read: a change in between is seen by the next look.
    let look = tokio::fs::metadata(&path).await.ok().map(Look::from);
    let content = read(&path).await?;
    let reading = parse(&path, &content, &reader)?;
    Ok((Watcher { path, look, content: hash(&content), reader, readings }, reading))
}

impl Watcher {
    /// The file's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Follows the file for ever.
    pub(crate) async fn run(mut self, updates: watch::Sender<Update>) {
        let mut ticks = tokio::time::interval(POLL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut restless = 0;
        let mut previous = self.look.clone();
        loop {
            ticks.tick().await;
            let now = match tokio::fs::metadata(&self.path).await {
                Ok(metadata) => Some(Look::from(metadata)),
                Err(error) => {
                    if self.look.take().is_some() {
                        self.content = 0;
                        let _ =
                            updates.send_replace(Err(Arc::new(BuildError::Read { path: self.path.clone(), error })));
                    }
                    previous = None;
                    continue;
                }
            };
            let still = now == previous;
            previous = now.clone();
            if now == self.look {
                restless = 0;
                continue;
            }
            restless += 1;
            if !still && restless < MAX_RESTLESS {
                continue;
            }
            restless = 0;
            self.look = now;
            if let Some(update) = self.reread().await {
                let _ = updates.send_replace(update);
            }
        }
    }

    /// The configuration of the file as it is now; `None` if its content is the one already known.
    async fn reread(&mut self) -> Option<Update> {
        let content = match read(&self.path).await {
            Ok(content) => content,
            Err(BuildError::Read { error, .. }) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                if matches!(&error, BuildError::Read { error, .. } if error.kind() == io::ErrorKind::TimedOut) {
                    // Nothing of it was seen: it is read again although it looks the same.
                    self.look = None;
                }
                // Whatever can be read next is news, also what was there before.
                self.content = 0;
                return Some(Err(Arc::new(error)));
            }
        };
        let hash = hash(&content);
        if std::mem::replace(&mut self.content, hash) == hash {
            return None;
        }
        let reading = parse(&self.path, &content, &self.reader);
        Some(reading.map(|reading| self.readings.add(reading)).map_err(Arc::new))
    }
}

//! Sources of identities: whoever knows who this process is.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use super::error::IdentityError;
use super::files::Beside;
use super::material::Material;
use super::state::Identities;

/// A source of identities: brings the certificate of this process and whom to trust, and again each time they change.
///
/// The bundles of other trust domains and the revocation lists that the configuration names as files are added to what
/// it brings.
///
/// For what an application gets in its own way; [`MemoryIdentity`](super::MemoryIdentity) is one that is simply told.
///
/// ```
/// use std::future::Future;
/// use std::pin::Pin;
///
/// use mesh_tower::identity::{IdentitySource, IdentityUpdates, Material};
/// use tokio::sync::watch;
///
/// /// Whatever the application puts into a channel.
/// struct Vault(watch::Receiver<Option<Material>>);
///
/// impl IdentitySource for Vault {
///     fn run(&self, updates: IdentityUpdates) -> Pin<Box<dyn Future<Output = ()> + Send>> {
///         let mut issued = self.0.clone();
///         Box::pin(async move {
///             loop {
///                 let material = issued.borrow_and_update().clone();
///                 if let Some(Err(refused)) = material.map(|material| updates.update(material)) {
///                     eprintln!("issued what cannot be used: {refused}");
///                 }
///                 if issued.changed().await.is_err() {
///                     return;
///                 }
///             }
///         })
///     }
/// }
/// ```
pub trait IdentitySource: Send + Sync + 'static {
    /// Brings identities for as long as the returned future is polled; it is dropped when the mesh ends, or the
    /// configuration names another source.
    ///
    /// Called once, and again when the configuration's `identity` changes. When the future ends or panics, that is
    /// logged, and the last good identity stays for good.
    fn run(&self, updates: IdentityUpdates) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// Where a source reports. Cheap to clone.
///
/// What comes after the source was replaced by another changes nothing.
#[derive(Clone)]
pub struct IdentityUpdates {
    identities: Identities,
    run: u64,
}

impl IdentityUpdates {
    /// Of the source that was started as number `run`.
    pub(super) fn new(identities: Identities, run: u64) -> Self {
        Self { identities, run }
    }

    /// This is the identity now, whole. It is verified at once, and the next handshakes use it. What is equal to the
    /// last one makes no new one.
    ///
    /// # Errors
    /// If it cannot be used. The last good one stays, and the failure is logged and shown by the status.
    pub fn update(&self, material: Material) -> Result<(), IdentityError> {
        self.offer(material).inspect_err(|error| self.failed(error))
    }

    /// There is nothing new, because of `error`. The last good identity stays. A failure that comes again and again is
    /// logged once; nothing of a key may be in its text.
    pub fn failed(&self, error: impl fmt::Display) {
        self.identities.failed(self.run, &error.to_string());
    }

    /// Files stand beside what this source brings.
    pub(super) fn beside(&self, beside: Beside) -> Result<(), IdentityError> {
        self.identities.beside(self.run, beside)
    }

    /// As [`update`](Self::update), without a word about what is refused.
    pub(super) fn offer(&self, material: Material) -> Result<(), IdentityError> {
        self.identities.update(self.run, material)
    }
}

impl fmt::Debug for IdentityUpdates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdentityUpdates")
    }
}

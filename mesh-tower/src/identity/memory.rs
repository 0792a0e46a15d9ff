//! An identity that the application sets.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;

use super::material::Material;
use super::source::{IdentitySource, IdentityUpdates};

/// A source that brings what it was told: for tests, and for applications that get their certificates in their own way.
///
/// Clones are handles of one source, which several meshes may share.
#[derive(Clone)]
pub struct MemoryIdentity(Arc<watch::Sender<Material>>);

impl MemoryIdentity {
    /// A source that begins with `material`.
    pub fn new(material: Material) -> Self {
        Self(Arc::new(watch::Sender::new(material)))
    }

    /// The identity is `material` from now on. Each mesh verifies it soon after; one that cannot use it says so in its
    /// log and its status, and keeps the last good one. Of several set in one moment the last counts.
    pub fn set(&self, material: Material) {
        self.0.send_replace(material);
    }
}

impl IdentitySource for MemoryIdentity {
    fn run(&self, updates: IdentityUpdates) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let mut told = self.0.subscribe();
        // It does not end when the last handle is gone: nothing is wrong with what was set.
        let handle = Arc::clone(&self.0);
        Box::pin(async move {
            let _handle = handle;
            loop {
                let material = told.borrow_and_update().clone();
                // What is refused is in the log and the status.
                let _ = updates.update(material);
                if told.changed().await.is_err() {
                    return;
                }
            }
        })
    }
}

impl fmt::Debug for MemoryIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MemoryIdentity").field(&*self.0.borrow()).finish()
    }
}

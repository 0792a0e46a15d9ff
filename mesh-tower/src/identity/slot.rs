//! The identity of a mesh.

use std::sync::Arc;

use tokio::sync::watch;

use super::own::Identity;

/// The identity in force.
#[derive(Clone, Default)]
pub(crate) struct Identities(Arc<watch::Sender<Option<Arc<Identity>>>>);

impl Identities {
    /// The identity in force.
    pub(crate) fn current(&self) -> Option<Arc<Identity>> {
        self.0.borrow().clone()
    }

    /// The identity in force, and each one that follows.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Arc<Identity>>> {
        self.0.subscribe()
    }
}

//! The identity that is in force.

use std::sync::Arc;

use tokio::sync::watch;

use super::Identity;

/// The identity of a mesh, as it changes.
#[derive(Debug, Default)]
pub(crate) struct Identities {
    current: watch::Sender<Option<Arc<Identity>>>,
}

impl Identities {
    /// The identity in force, if there is one.
    pub(crate) fn current(&self) -> Option<Arc<Identity>> {
        self.current.borrow().clone()
    }

    /// Tells each change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Arc<Identity>>> {
        self.current.subscribe()
    }
}

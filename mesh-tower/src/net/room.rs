//! Requests that wait for a stream of one endpoint, and of no other.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Who waits for a stream of an endpoint, first in, first out: each stream that ends wakes one.
#[derive(Default)]
pub(crate) struct Room {
    waiting: AtomicU32,
    freed: Notify,
}

impl Room {
    /// A stream ended.
    pub(super) fn freed(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.freed.notify_one();
        }
    }

    /// Waits for streams from now on.
    pub(crate) fn enter(&self) -> InRoom<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        InRoom(self)
    }
}

/// A place among those who wait; dropping it gives it up.
pub(crate) struct InRoom<'a>(&'a Room);

impl<'a> InRoom<'a> {
    /// Resolves when a stream has ended.
    pub(crate) fn freed(&self) -> Notified<'a> {
        self.0.freed.notified()
    }
}

impl Drop for InRoom<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

//! The bounded queue of requests that wait for an endpoint or a stream of one backend.

use std::sync::atomic::{AtomicU32, Ordering};

use mesh_core::resilience::limits::Limit;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};

/// First in, first out: only the head of the queue looks for an endpoint, each time something changed; whoever comes
/// while others wait queues up behind them.
///
/// A waker is never lost: the head's [`Notify`] keeps one notification that came while it was looking.
pub(crate) struct Queue {
    /// Those who queue up.
    waiting: AtomicU32,
    /// Those who wait for an endpoint of their own.
    aside: AtomicU32,
    head: Semaphore,
    changed: Notify,
    beside: Notify,
}

impl Queue {
    /// How many requests may wait at once: Linkerd's queue capacity. Without a bound a dead backend would eat memory.
    pub(crate) const CAPACITY: u32 = 10_000;

    pub(crate) fn new() -> Self {
        Self {
            waiting: AtomicU32::new(0),
            aside: AtomicU32::new(0),
            head: Semaphore::new(1),
            changed: Notify::new(),
            beside: Notify::new(),
        }
    }

    /// Whether someone waits; a newcomer then has to queue up.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.load(Ordering::Acquire) == 0
    }

    /// How many wait.
    pub(crate) fn len(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed).saturating_add(self.aside.load(Ordering::Relaxed))
    }

    /// A stream or a connection became free: the head looks again.
    pub(crate) fn wake(&self) {
        if !self.is_empty() {
            self.changed.notify_one();
        }
    }

    /// An endpoint, a connection's limit or the configuration changed: those who wait aside look again, too.
    pub(crate) fn wake_all(&self) {
        self.wake();
        self.beside.notify_waiters();
    }

    /// Joins the queue; `max` is how many may wait, if the configuration says.
    pub(crate) fn join(&self, max: Option<u32>) -> Result<Waiting<'_>, Limit> {
        self.count(&self.waiting, max)?;
        Ok(Waiting { queue: self, head: None })
    }

    /// Waits beside the queue, for something that nobody else waits for.
    pub(crate) fn step_aside(&self, max: Option<u32>) -> Result<Aside<'_>, Limit> {
        self.count(&self.aside, max)?;
        Ok(Aside(self))
    }

    fn count(&self, place: &AtomicU32, max: Option<u32>) -> Result<(), Limit> {
        place.fetch_add(1, Ordering::AcqRel);
        if self.len() > max.unwrap_or(Self::CAPACITY).min(Self::CAPACITY) {
            place.fetch_sub(1, Ordering::AcqRel);
            return Err(Limit::PendingRequests);
        }
        Ok(())
    }
}

/// A place beside the queue; dropping it gives it up.
pub(crate) struct Aside<'a>(&'a Queue);

impl<'a> Aside<'a> {
    /// Resolves at the next change. Whoever looks between [`Notified::enable`] and the wait misses none.
    pub(crate) fn changed(&self) -> Notified<'a> {
        self.0.beside.notified()
    }
}

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        self.0.aside.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A place in the queue; dropping it leaves the queue.
pub(crate) struct Waiting<'a> {
    queue: &'a Queue,
    head: Option<SemaphorePermit<'a>>,
}

impl Waiting<'_> {
    /// Whether it is the one who looks.
    pub(crate) fn is_first(&self) -> bool {
        self.head.is_some()
    }

    /// Resolves when it is worth looking: once on becoming the head, then after each change.
    pub(crate) async fn turn(&mut self) {
        if self.head.is_some() {
            self.queue.changed.notified().await;
        } else {
            // The semaphore is never closed; were it, looking once too often does no harm.
            self.head = self.queue.head.acquire().await.ok();
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.queue.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

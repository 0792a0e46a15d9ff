//! The inner services by backend.
//!
//! ```text
//! Table ── swapped at each update ──> View: snapshot, and a Slot for each of its backends
//! Slot  ── swapped when spent ──────> Making: not begun, under way, or made; spent once it failed
//! ```
//!
//! Only [`Source`](super::source::Source) swaps views; a slot's making is swapped by the request that finds it spent.
//! Requests read both without a lock.

use std::error::Error as StdError;
use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::{ArcSwap, Guard};
use mesh_core::model;
use mesh_core::snapshot;
use tokio::sync::OnceCell;
use tower_service::Service;

use super::source::Follow;
use crate::error::BoxError;

/// A configuration compiled for routing alone.
pub(super) type Snapshot = snapshot::Snapshot<()>;

pub(super) struct Table<S> {
    view: ArcSwap<View<S>>,
}

/// A snapshot together with the services of its backends, so that a request never sees half of an update.
pub(super) struct View<S> {
    snapshot: Arc<Snapshot>,
    /// By the index of the backend.
    slots: Vec<Option<Arc<Slot<S>>>>,
}

/// The place of a backend's service.
pub(super) struct Slot<S> {
    backend: Arc<model::Backend>,
    current: ArcSwap<Making<S>>,
}

/// One attempt to make a backend's service, and what came of it.
pub(super) struct Making<S> {
    outcome: OnceCell<Result<S, MakeError>>,
    /// Whether the service that was made has failed.
    failed: AtomicBool,
}

/// Why there is no service; for all who waited.
#[derive(Debug, Clone)]
pub(super) struct MakeError(Arc<dyn StdError + Send + Sync>);

impl fmt::Display for MakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its service cannot be made: {}", self.0)
    }
}

impl StdError for MakeError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.0)
    }
}

impl<S> Table<S> {
    pub(super) fn new(snapshot: &Arc<Snapshot>) -> Self {
        Self { view: ArcSwap::from_pointee(View::new(snapshot, &[])) }
    }

    pub(super) fn view(&self) -> Guard<Arc<View<S>>> {
        self.view.load()
    }
}

impl<S: Send + Sync> Follow for Table<S> {
    fn follow(&self, snapshot: &Arc<Snapshot>) {
        let view = View::new(snapshot, &self.view.load().slots);
        self.view.store(Arc::new(view));
    }
}

impl<S> View<S> {
    /// Keeps of `old` what is as it was.
    fn new(snapshot: &Arc<Snapshot>, old: &[Option<Arc<Slot<S>>>]) -> Self {
        let mut slots = Vec::new();
        for backend in snapshot.backends() {
            let (index, config) = (backend.index() as usize, backend.config());
            let kept = old.get(index).into_iter().flatten().find(|slot| slot.is_of(config));
            slots.resize_with(slots.len().max(index + 1), || None);
            slots[index] = Some(kept.map_or_else(|| Arc::new(Slot::new(config)), Arc::clone));
        }
        Self { snapshot: Arc::clone(snapshot), slots }
    }

    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    pub(super) fn slot(&self, index: u32) -> Option<&Arc<Slot<S>>> {
        self.slots.get(index as usize)?.as_ref()
    }
}

impl<S> Slot<S> {
    fn new(backend: &Arc<model::Backend>) -> Self {
        Self { backend: Arc::clone(backend), current: ArcSwap::from_pointee(Making::new()) }
    }

    fn is_of(&self, backend: &Arc<model::Backend>) -> bool {
        Arc::ptr_eq(&self.backend, backend) || self.backend == *backend
    }

    /// The making that counts: the one there is, or a new one after one that is spent.
    pub(super) fn current(&self) -> Arc<Making<S>> {
        let current = self.current.load();
        if !current.is_spent() {
            return Arc::clone(&current);
        }
        let fresh = Arc::new(Making::new());
        let previous = self.current.compare_and_swap(&*current, Arc::clone(&fresh));
        // Another request may have been faster.
        if Arc::ptr_eq(&previous, &current) { fresh } else { Arc::clone(&previous) }
    }
}

impl<S> Making<S> {
    fn new() -> Self {
        Self { outcome: OnceCell::new(), failed: AtomicBool::new(false) }
    }

    fn is_spent(&self) -> bool {
        self.failed.load(Ordering::Relaxed) || matches!(self.outcome.get(), Some(Err(_)))
    }

    /// The service failed in `poll_ready` and, by Tower's law, is of no use any more.
    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }
}

impl<S: Clone> Making<S> {
    /// A clone of the service, if it is made.
    pub(super) fn service(&self) -> Option<S> {
        self.outcome.get()?.as_ref().ok().cloned()
    }

    /// A clone of the service, made by `maker` if nobody has. Who waits meanwhile shares the outcome; if the one who
    /// makes it is dropped, the next begins again.
    pub(super) async fn made<M>(self: Arc<Self>, maker: M, backend: Arc<model::Backend>) -> Result<S, MakeError>
    where
        M: Service<Arc<model::Backend>, Response = S>,
        M::Error: Into<BoxError>,
    {
        let make = || async { make(maker, backend).await.map_err(|error| MakeError(Arc::from(error))) };
        self.outcome.get_or_init(make).await.clone()
    }
}

async fn make<M>(mut maker: M, backend: Arc<model::Backend>) -> Result<M::Response, BoxError>
where
    M: Service<Arc<model::Backend>>,
    M::Error: Into<BoxError>,
{
    poll_fn(|cx| maker.poll_ready(cx)).await.map_err(Into::into)?;
    maker.call(backend).await.map_err(Into::into)
}

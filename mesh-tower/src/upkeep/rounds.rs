//! What is done at the endpoints of a backend again and again, beside its requests.
//!
//! ```text
//!  connected, or whatever else the errand asks for ──> due ──> visited ──> due again, at the time the errand says
//!                                                       │         └──────> done, until it is connected anew
//!                                     no longer wanted  └──> resting, until it is wanted again
//! ```
//!
//! Each backend that has such an errand has one task, with one timer; a visit is a task of its own while it lasts. An
//! endpoint that was never visited costs nothing, and is looked at only when some endpoint of its backend changed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::model::BackendId;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::net::{Backend, Endpoint, Snapshot, Tasks};

/// However often endpoints change, all of them are looked at no more often than this.
const SETTLE: Duration = Duration::from_millis(10);
/// Visits whose reports wait to be read; further ones wait to report.
const REPORTS: usize = 64;

/// What is done at endpoints.
pub(super) trait Errand: Clone + PartialEq + Send + Sync + 'static {
    /// What is remembered of an endpoint.
    type Memory: Default + Send;
    /// What a visit brings.
    type Report: Send + 'static;

    /// The errand at `backend`, if there is one. Whoever has another one than before begins anew.
    fn of(backend: &Backend) -> Option<Self>;

    /// Whether the endpoint is to be visited as it is now.
    fn wants(&self, endpoint: &Endpoint) -> bool;

    /// Goes there. Dropped if the endpoint leaves the backend or the errand ends.
    fn visit(&self, backend: Arc<Backend>, endpoint: Arc<Endpoint>) -> impl Future<Output = Self::Report> + Send;

    /// Draws the conclusions of a visit that began at `began`.
    fn conclude(
        &self,
        backend: &Backend,
        endpoint: &Endpoint,
        memory: &mut Self::Memory,
        report: Self::Report,
        began: Instant,
    ) -> Next;

    /// The configuration of the backend changed, maybe to one without this errand.
    fn adopt(&self, backend: &Backend) {
        let _ = backend;
    }
}

/// When an endpoint is visited again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    At(Instant),
    /// Not before it is connected anew.
    WhenConnectedAnew,
}

/// One errand, at all backends that have it.
pub(super) struct Rounds<E: Errand>(HashMap<BackendId, (E, watch::Sender<Arc<Backend>>)>);

impl<E: Errand> Default for Rounds<E> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<E: Errand> Rounds<E> {
    /// Goes on as `snapshot` says.
    pub(super) fn follow(&mut self, snapshot: &Snapshot, tasks: &Tasks) {
        self.0.retain(|id, (errand, told)| {
            // Whoever holds the receiver ends with the sender, after it was told what there is instead.
            let Some(backend) = snapshot.backend_by_id(id) else { return false };
            if !Arc::ptr_eq(&told.borrow(), backend) {
                told.send_replace(Arc::clone(backend));
            }
            E::of(backend).as_ref() == Some(errand)
        });
        for backend in snapshot.backends() {
            if self.0.contains_key(backend.id()) {
                continue;
            }
            if let Some(errand) = E::of(backend) {
                let (sender, receiver) = watch::channel(Arc::clone(backend));
                let round = Round::new(errand.clone(), Arc::clone(backend), tasks.clone());
                tasks.spawn_until_stop(round.run(receiver));
                self.0.insert(backend.id().clone(), (errand, sender));
            }
        }
    }
}

/// One errand at one backend.
struct Round<E: Errand> {
    errand: E,
    backend: Arc<Backend>,
    tasks: Tasks,
    /// By the addresses of endpoints in memory, which stay while they are held here.
    known: HashMap<usize, Known<E::Memory>>,
    due: BTreeSet<(Instant, usize)>,
    sender: mpsc::Sender<(usize, u64, E::Report)>,
    reports: mpsc::Receiver<(usize, u64, E::Report)>,
    visits: u64,
    /// The changes of endpoints that were looked at, and when.
    seen: Option<(u64, Instant)>,
}

/// An endpoint that was to be visited at least once.
struct Known<M> {
    endpoint: Arc<Endpoint>,
    memory: M,
    place: Place,
}

enum Place {
    /// At the time that the queue has.
    Due,
    /// It is not to be visited as it is, and in no case before this.
    Resting(Instant),
    Visited(Visit),
    /// It was not to be visited any more since it came into this state.
    Done(std::time::Instant),
}

/// A visit under way. Dropping it ends it.
struct Visit {
    number: u64,
    began: Instant,
    task: AbortHandle,
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<E: Errand> Round<E> {
    fn new(errand: E, backend: Arc<Backend>, tasks: Tasks) -> Self {
        let (sender, reports) = mpsc::channel(REPORTS);
        Self {
            errand,
            backend,
            tasks,
            known: HashMap::new(),
            due: BTreeSet::new(),
            sender,
            reports,
            visits: 0,
            seen: None,
        }
    }

    async fn run(mut self, mut updates: watch::Receiver<Arc<Backend>>) {
        loop {
            let cluster = Arc::clone(self.backend.transport());
            let changed = cluster.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let now = Instant::now();
            let look = self.look_if_changed(now);
            self.visit_due(now);
            let first = self.due.first().map(|(at, _)| *at);
            let next = [look, first].into_iter().flatten().min();
            tokio::select! {
                updated = updates.changed() => {
                    if updated.is_err() {
                        return;
                    }
                    let backend = Arc::clone(&updates.borrow_and_update());
                    self.adopt(backend);
                }
                Some((key, number, report)) = self.reports.recv() => self.conclude(key, number, report),
                () = tokio::time::sleep_until(next.unwrap_or(now)), if next.is_some() => {}
                () = changed, if look.is_none() => {}
            }
        }
    }

    fn adopt(&mut self, backend: Arc<Backend>) {
        self.errand.adopt(&backend);
        self.backend = backend;
        self.seen = None;
        if self.known.is_empty() {
            return;
        }
        let there: HashSet<usize> = self.backend.picker().endpoints().iter().map(key).collect();
        self.known.retain(|key, _| there.contains(key));
        self.due.retain(|(_, key)| there.contains(key));
    }

    /// Looks at the endpoints if one has changed; returns when to look, if it is too early for that.
    fn look_if_changed(&mut self, now: Instant) -> Option<Instant> {
        let changes = self.backend.fleet().changes();
        match self.seen {
            Some((seen, _)) if seen == changes => return None,
            Some((_, at)) if now < at + SETTLE => return Some(at + SETTLE),
            _ => self.seen = Some((changes, now)),
        }
        for endpoint in self.backend.picker().endpoints() {
            if !self.errand.wants(endpoint) {
                continue;
            }
            let key = key(endpoint);
            let at = match self.known.get(&key).map(|known| &known.place) {
                None => now,
                Some(Place::Resting(earliest)) => now.max(*earliest),
                Some(Place::Done(since)) if *since != endpoint.since() => now,
                Some(Place::Done(_) | Place::Due | Place::Visited(_)) => continue,
            };
            self.due.insert((at, key));
            let new = || Known { endpoint: Arc::clone(endpoint), memory: E::Memory::default(), place: Place::Due };
            self.known.entry(key).or_insert_with(new).place = Place::Due;
        }
        None
    }

    fn visit_due(&mut self, now: Instant) {
        while let Some((at, key)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.due.pop_first();
            let Some(known) = self.known.get_mut(&key) else { continue };
            if !self.errand.wants(&known.endpoint) {
                known.place = Place::Resting(at);
                continue;
            }
            self.visits += 1;
            let (errand, sender, number) = (self.errand.clone(), self.sender.clone(), self.visits);
            let (backend, endpoint) = (Arc::clone(&self.backend), Arc::clone(&known.endpoint));
            let task = self.tasks.spawn_until_stop(async move {
                let report = errand.visit(backend, endpoint).await;
                // Who does not wait for it any more has no use for it.
                let _ = sender.send((key, number, report)).await;
            });
            known.place = Place::Visited(Visit { number, began: now, task });
        }
    }

    fn conclude(&mut self, key: usize, number: u64, report: E::Report) {
        let Some(known) = self.known.get_mut(&key) else { return };
        let Place::Visited(Visit { number: current, began, .. }) = known.place else { return };
        if current != number {
            return;
        }
        let next = self.errand.conclude(&self.backend, &known.endpoint, &mut known.memory, report, began);
        known.place = match next {
            Next::At(at) => {
                self.due.insert((at, key));
                Place::Due
            }
            Next::WhenConnectedAnew => Place::Done(known.endpoint.since()),
        };
    }
}

fn key(endpoint: &Arc<Endpoint>) -> usize {
    Arc::as_ptr(endpoint) as usize
}

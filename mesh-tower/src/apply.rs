//! The one task that applies configurations: compile, connect what gains traffic, publish.

use std::sync::Arc;

use mesh_core::balance::State;
use mesh_core::model::{self, Config, Discovered};
use mesh_core::snapshot::{self, Compiler, VirtualHost};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::mesh::Core;
use crate::net::{Backend, Net, Snapshot, after, pool};
use crate::source::{BuildError, Update};

pub(crate) fn touched(update: &snapshot::Update<Net>) -> impl Iterator<Item = &Arc<Backend>> {
    update.touched.iter().filter_map(|index| update.snapshot.backend(*index))
}

/// The one writer of snapshots.
pub(crate) struct Applier {
    pub(crate) core: Arc<Core>,
    pub(crate) compiler: Compiler<Net>,
    pub(crate) updates: watch::Receiver<Update>,
    pub(crate) source: String,
    /// Why the newest configuration was refused, if it was.
    pub(crate) refused: Option<Arc<BuildError>>,
}

impl Applier {
    pub(crate) async fn run(mut self) {
        while self.updates.changed().await.is_ok() {
            let published = self.core.snapshot.load_full();
            let Some(mut pending) = self.compile(&published) else { continue };
            // Backends that gain traffic are connected before they get it. A newer configuration that comes meanwhile
            // is built on top of the one that waits, and the two are published as one.
            let began = Instant::now();
            loop {
                tokio::select! {
                    () = warm(&published, &pending, began) => break,
                    changed = self.updates.changed() => {
                        if changed.is_err() {
                            // The mesh is being shut down.
                            return;
                        }
                        if let Some(mut next) = self.compile(&pending.snapshot) {
                            next.removed.append(&mut pending.removed);
                            next.touched.append(&mut pending.touched);
                            pending = next;
                        }
                    }
                }
            }
            self.core.publish(pending, &self.source, self.refused.clone());
        }
    }

    fn compile(&mut self, previous: &Snapshot) -> Option<snapshot::Update<Net>> {
        let update = self.updates.borrow_and_update().clone();
        let compiled = update.and_then(|config| {
            let compiled = self.compiler.compile(previous, &config, &mut rand::rng());
            compiled.map_err(|error| Arc::new(BuildError::from(error)))
        });
        self.refused = compiled.as_ref().err().cloned();
        compiled.map_err(|error| self.core.refuse(error, &self.source)).ok()
    }
}

/// Connects the backends that `update` sends requests to and that nobody has used so far, each for at most its connect
/// timeout after `began`. Services that nobody uses are left alone.
async fn warm(published: &Snapshot, update: &snapshot::Update<Net>, began: Instant) {
    let mut waiting = Vec::new();
    for backend in touched(update) {
        let transport = backend.transport();
        transport.expect(users(published, update, backend));
        if let Some(wanted) = transport.used() {
            pool::connect_all(backend.picker().endpoints(), wanted);
            waiting.push(backend);
        }
    }
    for backend in waiting {
        // That it is not ready in time is no reason to hold the configuration back.
        let _ = tokio::time::timeout_at(after(began, backend.transport().connect_timeout), settled(backend)).await;
    }
}

/// Who will use `backend`: whoever used it before or, if nobody did, the other backends of its services.
fn users(published: &Snapshot, update: &snapshot::Update<Net>, backend: &Backend) -> u8 {
    let used = |id: &model::BackendId| published.backend_by_id(id).map_or(0, |backend| backend.transport().users());
    let own = used(backend.id());
    if own != 0 {
        return own;
    }
    let leads_here = |host: &VirtualHost| host.targets().any(|target| target.index() == Some(backend.index()));
    let names: Vec<_> =
        update.snapshot.virtual_hosts().iter().filter(|host| leads_here(host)).map(|host| host.name()).collect();
    let before = published.virtual_hosts().iter().filter(|host| names.contains(&host.name()));
    before.flat_map(|host| host.targets()).fold(0, |users, target| users | used(target.backend()))
}

/// Whether the backend's endpoints are still looked for.
pub(crate) fn is_pending(backend: &Backend) -> bool {
    backend.config().discovery.as_ref().is_some_and(|discovery| discovery.found == Discovered::Pending)
}

/// Resolves when `backend` has a ready endpoint, or none that may become so soon.
async fn settled(backend: &Backend) {
    loop {
        let changed = backend.transport().changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        // Its endpoints may come with the next update, which ends this wait.
        let mut open = is_pending(backend);
        for endpoint in backend.picker().endpoints() {
            match endpoint.state() {
                State::Ready => return,
                State::Connecting | State::Idle => open = true,
                State::Failing => {}
            }
        }
        if !open {
            return;
        }
        changed.await;
    }
}

pub(crate) async fn forward(mut configs: watch::Receiver<Arc<Config>>, updates: watch::Sender<Update>) {
    while configs.changed().await.is_ok() {
        let config = configs.borrow_and_update().clone();
        // The replaced one is of no interest.
        let _ = updates.send_replace(Ok(config));
    }
}

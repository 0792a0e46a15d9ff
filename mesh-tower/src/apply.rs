//! The one task that applies configurations: compile, connect what gains traffic, publish.

use std::sync::Arc;

use mesh_core::balance::Outlook;
use mesh_core::model::{self, Config, Discovered};
use mesh_core::snapshot::{self, Compiler, VirtualHost};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::contain::contained;
use crate::discover::{Discover, News};
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
    pub(crate) discover: Discover,
    /// What the snapshot in force was made of.
    pub(crate) published: Arc<Config>,
    pub(crate) source: String,
    /// Why the newest configuration of the source is not used, if it is not.
    pub(crate) refused: Option<Arc<BuildError>>,
}

/// An update on its way.
struct Pending {
    update: snapshot::Update<Net>,
    config: Arc<Config>,
    /// Whether it holds a configuration of the source that was not published so far.
    configured: bool,
}

impl Applier {
    pub(crate) async fn run(mut self) {
        let core = Arc::clone(&self.core);
        'news: loop {
            let news = self.discover.next(&core).await;
            let mut published = core.snapshot.load_full();
            // Whoever calls a service that nobody configured does not wait for the backends of others.
            let demanded = matches!(news, News::Found) && self.publish_demanded(&published);
            if demanded {
                published = core.snapshot.load_full();
            }
            let Some(mut pending) = self.take(news, &published) else { continue };
            if demanded && pending.update.touched.is_empty() && pending.update.removed.is_empty() {
                continue;
            }
            // Backends that gain traffic are connected before they get it. What is new meanwhile is built on top of what
            // waits, and the two are published as one.
            let began = Instant::now();
            loop {
                tokio::select! {
                    () = warm(&published, &pending.update, began) => break,
                    news = self.discover.next(&core) => {
                        if matches!(news, News::Found) && self.publish_demanded(&published) {
                            published = core.snapshot.load_full();
                            // What waited was built on what is no longer in force.
                            let Some(next) = self.take(News::Found, &published) else { continue 'news };
                            pending = Pending { configured: pending.configured, ..next };
                        } else if let Some(mut next) = self.take(news, &pending.update.snapshot) {
                            next.update.removed.append(&mut pending.update.removed);
                            next.update.touched.append(&mut pending.update.touched);
                            next.configured |= pending.configured;
                            pending = next;
                        }
                    }
                }
            }
            self.publish(pending);
        }
    }

    fn publish(&mut self, pending: Pending) {
        let told = pending.configured.then_some(&*self.source);
        self.published = pending.config;
        self.core.publish(pending.update, told, self.refused.clone());
        self.discover.answer();
    }

    /// Publishes the services that were made on demand, on top of what is in force; returns whether there was anything
    /// to publish.
    fn publish_demanded(&mut self, published: &Snapshot) -> bool {
        let Some(config) = self.discover.with_demanded(&self.published).map(Arc::new) else { return false };
        // What cannot be made is found out with the rest.
        let Ok(update) = self.compile(published, &config) else { return false };
        self.publish(Pending { update, config, configured: false });
        true
    }

    fn compile(&self, previous: &Snapshot, config: &Config) -> Result<snapshot::Update<Net>, BuildError> {
        // Balancers of the application are made there.
        contained("the maker of load balancers", || {
            self.compiler.compile(previous, config, &mut rand::rng(), Instant::now().into_std())
        })
        .map_err(|panicked| BuildError::Panicked(panicked.to_string()))
        .and_then(|compiled| compiled.map_err(BuildError::from))
    }

    /// What follows `previous`; `None` if that stays.
    fn take(&mut self, news: News, previous: &Snapshot) -> Option<Pending> {
        let configured = match news {
            News::Unreadable(error) => {
                self.refuse(error);
                return None;
            }
            News::Source => true,
            News::Found => false,
        };
        loop {
            let config = self.discover.config();
            match self.compile(previous, &config) {
                Ok(update) => {
                    if configured {
                        self.discover.keep();
                        self.refused = None;
                    }
                    return Some(Pending { update, config, configured });
                }
                // Without the services that were just asked for it may be all right.
                Err(error) if !configured && self.discover.reject(&error) => {}
                Err(error) => {
                    self.discover.revert();
                    self.refuse(Arc::new(error));
                    return None;
                }
            }
        }
    }

    fn refuse(&mut self, error: Arc<BuildError>) {
        self.refused = Some(Arc::clone(&error));
        self.core.refuse(error, &self.source);
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
            pool::connect(backend.picker(), wanted);
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
        let open = match backend.picker().outlook(Instant::now().into_std()) {
            Outlook::Ready => return,
            Outlook::Open => true,
            // Its endpoints may come with the next update, which ends this wait.
            _ => is_pending(backend),
        };
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

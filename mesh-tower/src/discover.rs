//! What stands between a source of configurations and the [`Applier`](crate::apply::Applier): endpoints that must be
//! found, and services that nobody configured.
//!
//! ```text
//!  source ──────────────> Discover ──────────> Applier
//!  a request's demand ──────^  ^── finders: one task for each name that a backend asks for
//! ```
//!
//! It holds the last good configuration of the source, what was demanded, and what each finder said last, and makes one
//! configuration of the three. A finder lives while a backend asks for it. A demanded service that nobody uses for some
//! minutes goes away again.

mod finders;

use std::collections::{BTreeMap, HashMap, HashSet, hash_map};
use std::sync::Arc;
use std::time::Duration;

use mesh_core::model::{self, Config, Discovered, Endpoint, Finder, VirtualHost};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Interval, MissedTickBehavior};

pub(crate) use self::finders::Sources;
use self::finders::find;
use crate::demand;
use crate::error::{Error, ErrorKind};
use crate::mesh::Core;
use crate::net::{MAX_WAIT, Tasks};
use crate::source::endpoints::Report;
use crate::source::{BuildError, Update};

/// How many services may be made on demand: whoever builds names out of what others send must not fill the memory.
const MAX_DEMANDED: usize = 1000;
/// How often demanded services are looked at. One that was not used between two looks goes.
const SWEEP: Duration = Duration::from_secs(300);
/// How many demands may wait to be looked at; who comes then waits for a place.
const DEMANDS: usize = 64;

/// A service that is asked for.
pub(crate) struct Demand {
    key: Arc<str>,
    reply: oneshot::Sender<Result<(), Error>>,
}

/// Where demands go.
pub(crate) type Demands = mpsc::Sender<Demand>;

pub(crate) fn channel() -> (Demands, mpsc::Receiver<Demand>) {
    mpsc::channel(DEMANDS)
}

/// Waits until the service of `key` is there.
///
/// # Errors
/// If it cannot be made, or is not there in time.
pub(crate) async fn demand(core: &Core, key: &str, timeout: Option<Duration>) -> Result<(), Error> {
    let limit = timeout.map_or(MAX_WAIT, |timeout| timeout.min(MAX_WAIT));
    let waited = tokio::time::timeout(limit, until_published(core, key)).await;
    waited.unwrap_or_else(|_| {
        let text = format!("the service {key} was not there within {limit:?}");
        Err(Error::new(if timeout.is_some() { ErrorKind::DeadlineExceeded } else { ErrorKind::Overflow }, text))
    })
}

async fn until_published(core: &Core, key: &str) -> Result<(), Error> {
    let gone = || Error::new(ErrorKind::Shutdown, "the mesh is shut down");
    let mut status = core.subscribe();
    let (reply, answer) = oneshot::channel();
    core.demands.send(Demand { key: key.into(), reply }).await.map_err(|_| gone())?;
    answer.await.map_err(|_| gone())??;
    while core.snapshot.load().named_virtual_host(key).is_none() {
        tokio::select! {
            changed = status.changed() => changed.map_err(|_| gone())?,
            () = core.shared.tasks.stopped() => return Err(gone()),
        }
    }
    Ok(())
}

/// A name that is watched.
struct Watch {
    task: AbortHandle,
    endpoints: Vec<Endpoint>,
    found: Discovered,
}

/// A service that was made on demand.
struct Demanded {
    host: Arc<VirtualHost>,
    backend: Arc<model::Backend>,
}

/// What is new.
pub(crate) enum News {
    /// The source has another configuration: [`Discover::keep`] or [`Discover::revert`] it.
    Source,
    /// The source has something that is none.
    Unreadable(Arc<BuildError>),
    /// Endpoints were found, or a service was made or let go.
    Found,
}

/// See the [module](self).
pub(crate) struct Discover {
    sources: Sources,
    tasks: Tasks,
    source: watch::Receiver<Update>,
    demands: mpsc::Receiver<Demand>,
    base: Arc<Config>,
    /// The configuration before, until it is known whether `base` can be used.
    last_good: Option<Arc<Config>>,
    demanded: BTreeMap<Arc<str>, Demanded>,
    /// Those that no snapshot could be made with so far, and who waits for that.
    fresh: HashMap<Arc<str>, Vec<oneshot::Sender<Result<(), Error>>>>,
    watches: HashMap<Finder, Watch>,
    reports: mpsc::Sender<(Finder, Report)>,
    reported: mpsc::Receiver<(Finder, Report)>,
    sweep: Interval,
}

impl Discover {
    /// Begins to find what `base` asks for. Further configurations come from `source`.
    pub(crate) fn new(
        sources: Sources,
        tasks: Tasks,
        base: Arc<Config>,
        source: watch::Receiver<Update>,
        demands: mpsc::Receiver<Demand>,
    ) -> Self {
        let (reports, reported) = mpsc::channel(DEMANDS);
        let mut sweep = tokio::time::interval_at(tokio::time::Instant::now() + SWEEP, SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        sources.dns.configure(base.settings.dns);
        let mut discover = Self {
            sources,
            tasks,
            source,
            demands,
            base,
            last_good: None,
            demanded: BTreeMap::new(),
            fresh: HashMap::new(),
            watches: HashMap::new(),
            reports,
            reported,
            sweep,
        };
        discover.watch();
        discover
    }

    /// The configuration as it is known now.
    pub(crate) fn config(&self) -> Arc<Config> {
        if self.watches.is_empty() && self.demanded.is_empty() {
            return Arc::clone(&self.base);
        }
        let mut config = (*self.base).clone();
        for demanded in self.demanded.values() {
            config.virtual_hosts.push(Arc::clone(&demanded.host));
            config.backends.insert(demanded.backend.id.clone(), Arc::clone(&demanded.backend));
        }
        for backend in config.backends.values_mut().filter(|backend| backend.discovery.is_some()) {
            *backend = self.filled(backend);
        }
        Arc::new(config)
    }

    /// Waits for something new, for ever where nothing can come any more. Nothing is lost if it is not waited for.
    pub(crate) async fn next(&mut self, core: &Core) -> News {
        loop {
            let found = tokio::select! {
                Ok(()) = self.source.changed() => return self.adopt(),
                Some(demand) = self.demands.recv() => self.demand(demand),
                Some((finder, report)) = self.reported.recv() => self.report(&finder, report),
                _ = self.sweep.tick() => self.sweep(core),
            };
            if found {
                // Whoever else is here already: one update serves them all.
                while let Ok(demand) = self.demands.try_recv() {
                    self.demand(demand);
                }
                while let Ok((finder, report)) = self.reported.try_recv() {
                    self.report(&finder, report);
                }
                return News::Found;
            }
        }
    }

    /// Takes over what the source says.
    fn adopt(&mut self) -> News {
        let update = self.source.borrow_and_update().clone();
        let usable = |config: &Config| {
            self.sources.check(config)?;
            // What needs no identity would go on in plaintext.
            let lost = config.settings.identity.is_none() && self.base.settings.identity.is_some();
            if lost { Err(BuildError::IdentityRemoved) } else { Ok(()) }
        };
        match update.and_then(|config| usable(&config).map(|()| config).map_err(Arc::new)) {
            Ok(config) => {
                let before = self.follow(config);
                self.last_good.get_or_insert(before);
                News::Source
            }
            Err(error) => News::Unreadable(error),
        }
    }

    /// The configuration of the source can be used.
    pub(crate) fn keep(&mut self) {
        self.last_good = None;
        self.forget();
    }

    /// The configuration of the source cannot be used: the one before it is followed again.
    pub(crate) fn revert(&mut self) {
        if let Some(config) = self.last_good.take() {
            self.follow(config);
            self.forget();
        }
    }

    /// Finds what `config` asks for too; returns the configuration before. What that asks for is not let go of yet: it may
    /// be needed again.
    fn follow(&mut self, config: Arc<Config>) -> Arc<Config> {
        let before = std::mem::replace(&mut self.base, config);
        self.sources.dns.configure(self.base.settings.dns);
        if self.base.settings.defaults != before.settings.defaults {
            self.remake();
        }
        self.watch();
        before
    }

    /// Makes the demanded services anew: the defaults they are made of are others now.
    fn remake(&mut self) {
        for (key, demanded) in &mut self.demanded {
            if let Ok((host, backend)) = demand::service(key, &self.base.settings) {
                *demanded = Demanded { host: Arc::new(host), backend: Arc::new(backend) };
            }
        }
    }

    fn demand(&mut self, demand: Demand) -> bool {
        let Demand { key, reply } = demand;
        if let Some(waiting) = self.fresh.get_mut(&key) {
            waiting.push(reply);
            return false;
        }
        let refused = if self.demanded.contains_key(&key) {
            Ok(())
        } else if self.demanded.len() >= MAX_DEMANDED {
            let text = format!(
                "{MAX_DEMANDED} services are in use that no configuration names, and {key} would be one more; configure \
                 what is called often"
            );
            Err(Error::new(ErrorKind::Overflow, text))
        } else {
            match demand::service(&key, &self.base.settings) {
                Ok((host, backend)) => {
                    let demanded = Demanded { host: Arc::new(host), backend: Arc::new(backend) };
                    self.demanded.insert(Arc::clone(&key), demanded);
                    self.fresh.insert(key, vec![reply]);
                    self.watch();
                    return true;
                }
                Err(error) => Err(error),
            }
        };
        // Whoever asked may have lost interest.
        let _ = reply.send(refused);
        false
    }

    /// Lets go of the services of which no snapshot can be made, and tells those who asked; returns whether there are any.
    pub(crate) fn reject(&mut self, why: &BuildError) -> bool {
        let fresh = std::mem::take(&mut self.fresh);
        let any = !fresh.is_empty();
        for (key, waiting) in fresh {
            self.demanded.remove(&key);
            for reply in waiting {
                let text = format!("the service {key} cannot be made on demand: {why}");
                let _ = reply.send(Err(Error::new(ErrorKind::InvalidRequest, text)));
            }
        }
        if any {
            self.forget();
        }
        any
    }

    /// Whoever asked for a service that is there now may look.
    pub(crate) fn answer(&mut self) {
        for reply in self.fresh.drain().flat_map(|(_, waiting)| waiting) {
            let _ = reply.send(Ok(()));
        }
    }

    /// `published` with the services on demand that it does not know, or knows without endpoints; `None` if there are none.
    pub(crate) fn with_demanded(&self, published: &Config) -> Option<Config> {
        let mut config = None;
        for demanded in self.demanded.values() {
            let backend = self.filled(&demanded.backend);
            // One that has endpoints goes the way of all updates: its new ones are connected before they are used.
            let is_served = |known: &Arc<model::Backend>| *known == backend || !known.endpoints.is_empty();
            if published.backends.get(&backend.id).is_some_and(is_served) {
                continue;
            }
            let config = config.get_or_insert_with(|| published.clone());
            if config.backends.insert(backend.id.clone(), backend).is_none() {
                config.virtual_hosts.push(Arc::clone(&demanded.host));
            }
        }
        config
    }

    /// `backend` with what is known of its endpoints.
    fn filled(&self, backend: &Arc<model::Backend>) -> Arc<model::Backend> {
        let Some(watch) = backend.discovery.as_ref().and_then(|discovery| self.watches.get(&discovery.of)) else {
            return Arc::clone(backend);
        };
        let mut backend = (**backend).clone();
        backend.endpoints.clone_from(&watch.endpoints);
        if let Some(discovery) = &mut backend.discovery {
            discovery.found = watch.found.clone();
        }
        Arc::new(backend)
    }

    fn report(&mut self, finder: &Finder, report: Report) -> bool {
        let (Some(watch), Some(report)) = (self.watches.get_mut(finder), report) else { return false };
        match report {
            Ok(endpoints) => {
                watch.endpoints = endpoints;
                watch.found = Discovered::Found;
                true
            }
            // The last good ones stay.
            Err(_) if watch.found == Discovered::Found => false,
            Err(error) => {
                watch.found = Discovered::Failed(error);
                true
            }
        }
    }

    /// Lets go of the demanded services that nobody used since the last look.
    fn sweep(&mut self, core: &Core) -> bool {
        let before = self.demanded.len();
        let snapshot = core.snapshot.load();
        self.demanded.retain(|_, demanded| {
            snapshot
                .backend_by_id(&demanded.backend.id)
                .is_none_or(|backend| backend.transport().take_recent() || backend.budget().in_flight() > 0)
        });
        drop(snapshot);
        let changed = self.demanded.len() < before;
        if changed {
            self.forget();
        }
        changed
    }

    /// What is asked for.
    fn wanted(&self) -> HashSet<Finder> {
        let backends = self.base.backends.values().chain(self.demanded.values().map(|demanded| &demanded.backend));
        backends.filter_map(|backend| Some(backend.discovery.as_ref()?.of.clone())).collect()
    }

    /// Watches all that is asked for.
    fn watch(&mut self) {
        for finder in self.wanted() {
            if let hash_map::Entry::Vacant(place) = self.watches.entry(finder) {
                let task = find(&self.tasks, &self.sources, place.key().clone(), self.reports.clone());
                place.insert(Watch { task, endpoints: Vec::new(), found: Discovered::Pending });
            }
        }
    }

    /// Lets go of what is no longer asked for.
    fn forget(&mut self) {
        let wanted = self.wanted();
        self.watches.retain(|finder, watch| {
            let wanted = wanted.contains(finder);
            if !wanted {
                watch.task.abort();
            }
            wanted
        });
    }
}

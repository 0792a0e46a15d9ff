//! A server of a mesh: what it goes by, whichever way it is served.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use mesh_core::identity::SanMatch;
use mesh_core::model::{self, ServerTls};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use super::acceptor::AcceptError;
use super::count::Count;
use crate::identity::Identity;
use crate::net::{Shared, Snapshot};
use crate::observe::TARGET;
use crate::telemetry::metrics::ServerSeries;

/// The server that needs no configuration.
pub(crate) const DEFAULT: &str = "default";

/// Where the servers of a mesh are on their way to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Phase {
    #[default]
    Serving,
    /// Not ready any more; each server still accepts for its delay, then lets its requests end within its grace.
    Draining,
    /// Everything ends at once.
    Forced,
}

/// What a server goes by: one configuration's word on it.
#[derive(Debug)]
pub(crate) struct ServerSettings {
    pub(crate) server: Arc<model::Server>,
    /// What holds for the mesh.
    pub(crate) mesh: Arc<model::Settings>,
}

impl ServerSettings {
    /// Who gets in.
    pub(crate) fn tls(&self) -> ServerTls {
        let default = if self.mesh.identity.is_some() { ServerTls::Strict } else { ServerTls::Disabled };
        self.server.tls.unwrap_or(default)
    }

    /// Whether whoever got in by `self` may stay by `new`.
    fn lets_in_as(&self, new: &Self) -> bool {
        self.tls() == new.tls() && self.server.identities == new.server.identities
    }
}

/// A server, as long as its mesh lives.
pub(crate) struct ServerState {
    pub(crate) name: Arc<str>,
    pub(crate) shared: Arc<Shared>,
    settings: ArcSwap<ServerSettings>,
    /// Counts the changes of whom it lets in.
    pub(crate) entry: watch::Sender<u64>,
    pub(crate) phase: watch::Receiver<Phase>,
    /// What is counted of it.
    pub(crate) series: Arc<ServerSeries>,
    /// What TLS goes by, for as long as it holds.
    tls: ArcSwapOption<Handshake>,
    pub(crate) connections: Count,
    /// What the drain of the mesh waits for.
    pub(crate) running: TaskTracker,
    /// How many serve it.
    served_by: AtomicUsize,
    /// Tells when somebody begins to serve a server, or ends.
    news: watch::Sender<()>,
}

/// Somebody serves a server, until this is dropped.
#[derive(Debug)]
pub(crate) struct Served(Arc<ServerState>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.served_by.fetch_sub(1, Ordering::AcqRel);
        self.0.news.send_replace(());
    }
}

/// What a TLS handshake goes by: one identity, and one word on who may connect.
#[derive(Clone)]
pub(crate) struct Handshake {
    pub(crate) acceptor: TlsAcceptor,
    pub(crate) identity: Arc<Identity>,
    expected: Arc<ServerSettings>,
}

impl ServerState {
    /// A server that no configuration has: its settings do not change, and `phase` is its own. It is not counted.
    #[cfg(feature = "admin")]
    pub(crate) fn apart(server: model::Server, shared: Arc<Shared>, phase: watch::Receiver<Phase>) -> Arc<Self> {
        let name = Arc::clone(&server.name);
        let settings = ServerSettings { server: Arc::new(server), mesh: Arc::default() };
        let series = Arc::new(ServerSeries::new(name));
        Arc::new(Self::new(settings, shared, phase, series, TaskTracker::new(), watch::Sender::default()))
    }

    fn new(
        settings: ServerSettings,
        shared: Arc<Shared>,
        phase: watch::Receiver<Phase>,
        series: Arc<ServerSeries>,
        running: TaskTracker,
        news: watch::Sender<()>,
    ) -> Self {
        Self {
            name: Arc::clone(&settings.server.name),
            shared,
            settings: ArcSwap::from_pointee(settings),
            entry: watch::Sender::default(),
            phase,
            tls: ArcSwapOption::empty(),
            connections: Count::default(),
            running,
            served_by: AtomicUsize::new(0),
            series,
            news,
        }
    }

    /// Somebody serves it, as long as what is returned is kept.
    pub(crate) fn serve(self: &Arc<Self>) -> Served {
        self.served_by.fetch_add(1, Ordering::AcqRel);
        self.news.send_replace(());
        Served(Arc::clone(self))
    }

    fn is_served(&self) -> bool {
        self.served_by.load(Ordering::Acquire) > 0
    }

    /// What it goes by now.
    pub(crate) fn settings(&self) -> arc_swap::Guard<Arc<ServerSettings>> {
        self.settings.load()
    }

    /// What the next handshake goes by. Sessions are resumed only among those that went by the same: their tickets are
    /// of no use to others (MT-09).
    pub(crate) fn handshake(&self, settings: &Arc<ServerSettings>) -> Result<Handshake, AcceptError> {
        let identity = self.shared.identities.current().ok_or(AcceptError::NoIdentity)?;
        if let Some(kept) = &*self.tls.load()
            && Arc::ptr_eq(&kept.identity, &identity)
            && kept.expected.lets_in_as(settings)
        {
            return Ok(Handshake::clone(kept));
        }
        let expected: Arc<[SanMatch]> = settings.server.identities.as_slice().into();
        let config = identity.server_config(&expected, true).map_err(|error| AcceptError::Settings(Arc::new(error)))?;
        let made = Handshake { acceptor: Arc::new(config).into(), identity, expected: Arc::clone(settings) };
        self.tls.store(Some(Arc::new(made.clone())));
        Ok(made)
    }

    fn update(&self, settings: ServerSettings) {
        let old = self.settings.swap(Arc::new(settings));
        if !old.lets_in_as(&self.settings.load()) {
            self.entry.send_modify(|count| *count += 1);
        }
    }
}

impl fmt::Debug for ServerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerState").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The servers of a mesh that are in use, by name.
pub(crate) struct Servers {
    shared: Arc<Shared>,
    phase: watch::Sender<Phase>,
    used: Mutex<HashMap<Arc<str>, Arc<ServerState>>>,
    /// Those that serve.
    running: TaskTracker,
    news: watch::Sender<()>,
}

impl Servers {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            phase: watch::Sender::default(),
            used: Mutex::default(),
            running: TaskTracker::new(),
            news: watch::Sender::default(),
        }
    }

    /// The server `name` of `snapshot`, or [`DEFAULT`] with the defaults if it has none of that name; it is followed from
    /// now on. `None` if there is none.
    pub(crate) fn get(&self, name: &str, snapshot: &Snapshot) -> Option<Arc<ServerState>> {
        let mut used = self.lock();
        if let Some(state) = used.get(name) {
            return Some(Arc::clone(state));
        }
        let server = match snapshot.servers().get(name) {
            Some(server) => Arc::clone(server),
            None if name == DEFAULT => Arc::new(model::Server::new(name)),
            None => return None,
        };
        let name = Arc::clone(&server.name);
        let settings = ServerSettings { server, mesh: Arc::clone(snapshot.settings()) };
        let series = match &self.shared.telemetry.metrics {
            Some(metrics) => metrics.server(&name),
            None => Arc::new(ServerSeries::new(Arc::clone(&name))),
        };
        let (shared, phase) = (Arc::clone(&self.shared), self.phase.subscribe());
        let (running, news) = (self.running.clone(), self.news.clone());
        let state = Arc::new(ServerState::new(settings, shared, phase, series, running, news));
        used.insert(name, Arc::clone(&state));
        Some(state)
    }

    /// A configuration is in force. A server that it does not have goes on by what it had.
    ///
    /// What a running process cannot follow is said: a socket elsewhere, and a server that nobody was told to serve.
    pub(crate) fn published(&self, before: &Snapshot, snapshot: &Snapshot) {
        let used = self.lock();
        for (name, state) in &*used {
            let had = Arc::clone(&state.settings().server);
            let server = snapshot.servers().get(name).unwrap_or(&had);
            if server.addresses != had.addresses && state.is_served() {
                tracing::warn!(
                    target: TARGET, server = &**name, addresses = ?server.addresses,
                    "the server stays where it listens: other addresses need a new process"
                );
            }
            state.update(ServerSettings { server: Arc::clone(server), mesh: Arc::clone(snapshot.settings()) });
        }
        if !used.values().any(|state| state.is_served()) {
            return;
        }
        for name in snapshot.servers().keys().filter(|name| !before.servers().contains_key(*name)) {
            if !used.get(name).is_some_and(|state| state.is_served()) {
                tracing::warn!(
                    target: TARGET, server = &**name,
                    "nobody serves a server that is new in the configuration: this process is not ready until somebody does"
                );
            }
        }
    }

    /// Tells each step on the way to the end.
    pub(crate) fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Where they are on their way to the end.
    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Whether somebody serves the server `name`.
    pub(crate) fn is_served(&self, name: &str) -> bool {
        self.lock().get(name).is_some_and(|state| state.is_served())
    }

    /// Tells when somebody begins to serve a server, or ends.
    pub(crate) fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    /// Goes on to `phase`, never back.
    pub(crate) fn advance(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let later = phase > *now;
            if later {
                *now = phase;
            }
            later
        });
    }

    /// Waits until none serves any more.
    pub(crate) async fn ended(&self) {
        self.running.close();
        self.running.wait().await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<ServerState>>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

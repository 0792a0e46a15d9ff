//! The handle users hold, and the task that applies configurations.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::uri::Authority;
use mesh_core::balance::State;
use mesh_core::model::{self, Config};
use mesh_core::snapshot::{self, Compiler};
use rustls::crypto::CryptoProvider;
use tokio::sync::watch;

use crate::client::unknown_service;
use crate::error::{Error, ErrorKind};
use crate::http_client::{HttpClient, ServiceClient};
use crate::net::{Backend, Connect, Net, Shared, Snapshot, Tasks, Wanted, pool};
use crate::observe::{Observer, Observers};
use crate::source::{BuildError, Update, env, file};

/// How long requests under way may go on after [`Mesh::shutdown`].
const SHUTDOWN_GRACE: Duration = Duration::from_millis(750);

/// A service mesh inside this process.
///
/// Cheap to clone; all clones and clients share one set of connections and one configuration. When the last of them
/// (and the last response body) is dropped, every task and connection of the mesh ends.
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let mesh = mesh_tower::Mesh::from_env().await?; // MESH_CONFIG=mesh.yaml
/// let response = mesh.http_client().get("http://catalog/items").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Mesh {
    handle: Arc<Handle>,
}

/// Ends the mesh when the last holder lets go.
pub(crate) struct Handle {
    pub(crate) core: Arc<Core>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.core.stop();
        self.core.shared.tasks.end_within(SHUTDOWN_GRACE);
    }
}

/// What the tasks of a mesh share with its handle.
pub(crate) struct Core {
    pub(crate) shared: Arc<Shared>,
    pub(crate) snapshot: ArcSwap<Snapshot>,
    status: watch::Sender<ConfigStatus>,
}

/// Which configuration is in force, and what became of the last attempt to change it.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ConfigStatus {
    /// The version in force, counted from 1.
    pub version: u64,
    /// Why the newest configuration is not in force; `None` if it is.
    pub error: Option<Arc<BuildError>>,
}

impl Mesh {
    /// A mesh of the configuration file at `path`, which is followed while it changes.
    ///
    /// # Errors
    /// If the file cannot be read or has problems; all of them are told at once.
    pub async fn from_file(path: impl AsRef<Path>) -> Result<Self, BuildError> {
        Self::builder().file(path).build().await
    }

    /// A mesh of the configuration file that the environment variable `MESH_CONFIG` names.
    ///
    /// # Errors
    /// If the variable is unset or empty, or the file cannot be read or has problems.
    pub async fn from_env() -> Result<Self, BuildError> {
        Self::builder().env().build().await
    }

    /// A mesh to be told more about.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// An HTTP client for every service of the mesh.
    pub fn http_client(&self) -> HttpClient {
        HttpClient::new(Arc::clone(&self.handle))
    }

    /// A client of the service `name`: a name or host of the configuration, with or without a port.
    ///
    /// # Errors
    /// If `name` is no authority, or no service has it.
    pub fn service(&self, name: &str) -> Result<ServiceClient, Error> {
        let authority: Authority = name.parse().map_err(|error| {
            Error::new(ErrorKind::InvalidRequest, format!("{name:?} is not a service name or host:port: {error}"))
        })?;
        let snapshot = self.handle.core.snapshot.load();
        if snapshot.virtual_host(authority.as_str()).is_none() {
            return Err(unknown_service(name, snapshot.nearest_host(name)));
        }
        Ok(ServiceClient::new(Arc::clone(&self.handle), authority))
    }

    /// Which configuration is in force. The receiver also tells each change; its first value is the present one.
    pub fn config_status(&self) -> watch::Receiver<ConfigStatus> {
        self.handle.core.status.subscribe()
    }

    /// Ends the mesh: new requests fail at once with [`ErrorKind::Shutdown`], those under way have 750 ms, then every
    /// connection and task is gone. Returns within a second.
    pub async fn shutdown(&self) {
        self.handle.core.stop();
        self.handle.core.shared.tasks.shutdown(SHUTDOWN_GRACE).await;
    }

    /// How many tasks of this mesh are alive: connections, connection attempts, the configuration's watchers.
    pub fn live_tasks(&self) -> usize {
        self.handle.core.shared.tasks.len()
    }
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let snapshot = self.handle.core.snapshot.load();
        f.debug_struct("Mesh").field("config_version", &snapshot.version()).finish_non_exhaustive()
    }
}

impl Core {
    fn stop(&self) {
        self.shared.tasks.stop();
        for backend in self.snapshot.load().backends() {
            backend.picker().endpoints().iter().for_each(|endpoint| pool::close(endpoint));
        }
    }

    /// Puts `update` into force. `refused`: why a newer one is not.
    fn publish(&self, update: snapshot::Update<Net>, source: &str, refused: Option<Arc<BuildError>>) {
        let version = update.snapshot.version();
        self.snapshot.store(Arc::clone(&update.snapshot));
        update.removed.iter().for_each(|endpoint| pool::close(endpoint));
        for backend in touched(&update) {
            if let Some(wanted) = backend.transport().used() {
                pool::connect_all(backend.picker().endpoints(), wanted);
            }
            backend.transport().queue.wake();
        }
        self.shared.observers.config(version, source, None);
        self.status.send_replace(ConfigStatus { version, error: refused });
        if self.shared.tasks.is_stopping() {
            self.stop();
        }
    }

    fn refuse(&self, error: Arc<BuildError>, source: &str) {
        let version = self.snapshot.load().version();
        self.shared.observers.config(version, source, Some(&*error));
        self.status.send_replace(ConfigStatus { version, error: Some(error) });
    }
}

fn touched(update: &snapshot::Update<Net>) -> impl Iterator<Item = &Arc<Backend>> {
    update.touched.iter().filter_map(|index| update.snapshot.backend(*index))
}

/// The one writer of snapshots.
struct Applier {
    core: Arc<Core>,
    compiler: Compiler<Net>,
    updates: watch::Receiver<Update>,
    source: String,
    /// Why the newest configuration was refused, if it was.
    refused: Option<Arc<BuildError>>,
}

impl Applier {
    async fn run(mut self) {
        while self.updates.changed().await.is_ok() {
            let published = self.core.snapshot.load_full();
            let Some(mut pending) = self.compile(&published) else { continue };
            // Backends that gain traffic are connected before they get it. A newer configuration that comes meanwhile
            // is built on top of the one that waits, and the two are published as one.
            loop {
                tokio::select! {
                    () = warm(&published, &pending) => break,
                    changed = self.updates.changed() => {
                        if changed.is_err() {
                            break;
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
/// timeout. Services that nobody uses are left alone.
async fn warm(published: &Snapshot, update: &snapshot::Update<Net>) {
    let tasks = touched(update).filter_map(|backend| Some((backend, wanted(published, update, backend)?)));
    let mut waiting = Vec::new();
    for (backend, wanted) in tasks {
        backend.transport().mark_used(wanted);
        pool::connect_all(backend.picker().endpoints(), wanted);
        waiting.push(async move {
            // That it is not ready in time is no reason to hold the configuration back.
            let _ = tokio::time::timeout(backend.transport().connect_timeout, settled(backend)).await;
        });
    }
    for ready in waiting {
        ready.await;
    }
}

/// What requests to `backend` will need, if its service is in use.
fn wanted(published: &Snapshot, update: &snapshot::Update<Net>, backend: &Backend) -> Option<Wanted> {
    let used = |id: &model::BackendId| published.backend_by_id(id).and_then(|backend| backend.transport().used());
    let siblings = update
        .snapshot
        .virtual_hosts()
        .iter()
        .filter(|virtual_host| virtual_host.targets().any(|target| target.index() == Some(backend.index())));
    used(backend.id()).or_else(|| {
        let names = siblings.map(|virtual_host| virtual_host.name());
        let before = names.flat_map(|name| published.virtual_hosts().iter().filter(move |old| old.name() == name));
        before.flat_map(|virtual_host| virtual_host.targets()).find_map(|target| used(target.backend()))
    })
}

/// Resolves when `backend` has a ready endpoint, or none that may become so soon.
async fn settled(backend: &Backend) {
    loop {
        let changed = backend.transport().changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let mut open = false;
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

enum Source {
    /// `None`: the file that the environment names.
    File(Option<PathBuf>),
    Text(String),
    Config(Config),
    Watch(watch::Receiver<Arc<Config>>),
}

/// Builds a [`Mesh`].
#[derive(Default)]
pub struct Builder {
    source: Option<Source>,
    observer: Option<Arc<dyn Observer>>,
    connector: Option<Arc<dyn Connect>>,
    provider: Option<Arc<CryptoProvider>>,
}

impl Builder {
    /// Takes the configuration from a file, and follows it while it changes.
    #[must_use]
    pub fn file(mut self, path: impl AsRef<Path>) -> Self {
        self.source = Some(Source::File(Some(path.as_ref().to_owned())));
        self
    }

    /// Takes the configuration from the file that the environment variable `MESH_CONFIG` names when the mesh is built,
    /// and follows it while it changes.
    #[must_use]
    pub fn env(mut self) -> Self {
        self.source = Some(Source::File(None));
        self
    }

    /// Takes the configuration from a text in the file's format.
    #[must_use]
    pub fn text(mut self, yaml: impl Into<String>) -> Self {
        self.source = Some(Source::Text(yaml.into()));
        self
    }

    /// Takes a configuration made in code.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.source = Some(Source::Config(config));
        self
    }

    /// Takes configurations made in code, and follows them while they change.
    #[must_use]
    pub fn configs(mut self, configs: watch::Receiver<Arc<Config>>) -> Self {
        self.source = Some(Source::Watch(configs));
        self
    }

    /// Tells `observer` what happens.
    #[must_use]
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Opens byte streams by `connector` in place of TCP.
    #[must_use]
    pub fn connector(mut self, connector: impl Connect) -> Self {
        self.connector = Some(Arc::new(connector));
        self
    }

    /// Uses `provider` for TLS. Default: rustls' `ring` provider; the process default is neither read nor set.
    #[must_use]
    pub fn crypto_provider(mut self, provider: Arc<CryptoProvider>) -> Self {
        self.provider = Some(provider);
        self
    }

    /// Builds the mesh on the current tokio runtime. Nothing is connected before the first request.
    ///
    /// # Errors
    /// If there is no configuration, or it cannot be read, or has problems.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn build(self) -> Result<Mesh, BuildError> {
        let mut watcher = None;
        let mut configs = None;
        let mut name = "config".to_owned();
        let config = match self.source.ok_or(BuildError::NoSource)? {
            Source::File(path) => {
                let path = path.map_or_else(env::config_path, Ok)?;
                let (opened, config) = file::open(path).await?;
                name = opened.path().display().to_string();
                watcher = Some(opened);
                config
            }
            Source::Text(text) => Arc::new(mesh_core::config::parse(text.as_bytes(), "config", Path::new(""))?),
            Source::Config(config) => Arc::new(config),
            Source::Watch(mut receiver) => {
                let first = receiver.borrow_and_update().clone();
                configs = Some(receiver);
                first
            }
        };
        let provider = self.provider.unwrap_or_else(|| Arc::new(rustls::crypto::ring::default_provider()));
        let shared = Arc::new(Shared {
            tasks: Tasks::new(),
            observers: Observers::new(self.observer),
            connector: self.connector,
            provider,
        });
        let compiler = Compiler::new(Net { shared: Arc::clone(&shared) });
        let first = compiler.compile(&Snapshot::empty(), &config, &mut rand::rng())?;
        let core = Arc::new(Core {
            shared: Arc::clone(&shared),
            snapshot: ArcSwap::from_pointee(Snapshot::empty()),
            status: watch::Sender::new(ConfigStatus::default()),
        });
        core.publish(first, &name, None);
        let tasks = &shared.tasks;
        if watcher.is_some() || configs.is_some() {
            let (sender, updates) = watch::channel(Ok(config));
            let applier = Applier { core: Arc::clone(&core), compiler, updates, source: name, refused: None };
            tasks.spawn_until_stop(applier.run());
            if let Some(watcher) = watcher {
                tasks.spawn_until_stop(watcher.run(sender));
            } else if let Some(configs) = configs {
                tasks.spawn_until_stop(forward(configs, sender));
            }
        }
        Ok(Mesh { handle: Arc::new(Handle { core }) })
    }
}

async fn forward(mut configs: watch::Receiver<Arc<Config>>, updates: watch::Sender<Update>) {
    while configs.changed().await.is_ok() {
        let config = configs.borrow_and_update().clone();
        // The replaced one is of no interest.
        let _ = updates.send_replace(Ok(config));
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Builder")
    }
}

//! The handle users hold.

use std::fmt;
#[cfg(feature = "admin")]
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
#[cfg(feature = "admin")]
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use mesh_core::config::Effective;
use mesh_core::model::UnknownServices;
use mesh_core::snapshot;
use tokio::sync::watch;

use crate::apply::touched;
use crate::builder::Builder;
use crate::client::unknown_service;
use crate::connector::MeshConnector;
use crate::demand;
use crate::discover::Demands;
use crate::error::Error;
use crate::http_client::{HttpClient, ServiceClient};
use crate::identity::{Identity, IdentityStatus};
use crate::net::{Net, Shared, Snapshot, pool};
use crate::observe::TARGET;
use crate::server::{Phase, Servers};
use crate::source::BuildError;
use crate::source::reading::Readings;
#[cfg(feature = "prometheus")]
use crate::telemetry::prometheus;
use crate::upkeep;

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
    pub(crate) handle: Arc<Handle>,
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
    /// What this process serves.
    pub(crate) servers: Servers,
    /// Asks for services that nobody configured.
    pub(crate) demands: Demands,
    readings: Arc<Readings>,
    status: watch::Sender<ConfigStatus>,
    #[cfg(feature = "admin")]
    admin_address: Mutex<Option<SocketAddr>>,
}

/// Which configuration is in force, and what became of the last attempt to change it.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ConfigStatus {
    /// The version in force, counted from 1. It also counts changes of endpoints that were found, and services that were
    /// made on demand or let go.
    pub version: u64,
    /// Why the newest configuration is not in force; `None` if it is.
    pub error: Option<Arc<BuildError>>,
}

impl Mesh {
    pub(crate) fn of(core: Arc<Core>) -> Self {
        Self { handle: Arc::new(Handle { core }) }
    }

    /// A mesh of the configuration file at `path`, which is followed while it changes.
    ///
    /// # Errors
    /// If the file cannot be read or has problems; all of them are told at once.
    pub async fn from_file(path: impl AsRef<Path>) -> Result<Self, BuildError> {
        Self::builder().file(path).build().await
    }

    /// A mesh of what the environment says: `MESH_CONFIG` names the configuration file, which is followed while it
    /// changes, and the other [variables](mesh_core::config#the-environment) replace single fields of it.
    ///
    /// With none of them set there is a mesh all the same: it looks the name of each service up in DNS, and neither
    /// retries nor times anything out.
    ///
    /// # Errors
    /// If the file cannot be read, or it or a variable has problems; all of them are told at once.
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

    /// Opens byte streams as this mesh does, for other HTTP clients; what they lack then is told
    /// [there](MeshConnector).
    pub fn connector(&self) -> MeshConnector {
        MeshConnector::new(Arc::clone(&self.handle))
    }

    /// A client of one service.
    ///
    /// | `target` | goes to |
    /// | --- | --- |
    /// | `greeter`, `greeter:8080` | the service of the configuration that has this name or host |
    /// | `http://greeter:8080`, `https://greeter` | the same; `https` insists on TLS |
    /// | `dns:///greeter:8080` | the addresses of the host by DNS, whatever the configuration says of the name |
    /// | `unix:/run/greeter.sock` | the socket |
    ///
    /// A name that no service has is looked up in DNS where `unknown_services` is `dns`. Its port is then 80, for
    /// `https` 443, unless one is written; the first request looks it up.
    ///
    /// # Errors
    /// If `target` cannot be read, or no service has the name and DNS is not to be asked.
    pub fn service(&self, target: &str) -> Result<ServiceClient, Error> {
        let named = demand::parse(target)?;
        if named.key.is_none() {
            let snapshot = self.handle.core.snapshot.load();
            let name = named.authority.as_str();
            let known = snapshot.virtual_host(name).is_some();
            if !known && snapshot.settings().unknown_services == UnknownServices::Refuse {
                return Err(unknown_service(name, snapshot.nearest_host(name)));
            }
        }
        Ok(ServiceClient::new(Arc::clone(&self.handle), named))
    }

    /// Which configuration is in force. The receiver also tells each change; its first value is the present one.
    pub fn config_status(&self) -> watch::Receiver<ConfigStatus> {
        self.handle.core.subscribe()
    }

    /// Every metric in Prometheus' text format 0.0.4, to be served with its
    /// [content type](crate::telemetry::prometheus::CONTENT_TYPE). Empty unless [`Builder::prometheus`] asked for it.
    ///
    /// [`telemetry`](crate::telemetry) lists the metrics. The page is made when it is asked for, and takes no lock that a
    /// request waits for.
    #[cfg(feature = "prometheus")]
    pub fn prometheus_text(&self) -> String {
        self.handle.core.metrics_page(prometheus::Format::Text).unwrap_or_default()
    }

    /// Every metric, in the format that an `Accept` header asks for, with its content type: OpenMetrics 1.0 where that is
    /// named and nothing is preferred to it, else Prometheus' text format 0.0.4. `None` stands for a request without the
    /// header. Nothing is listed unless [`Builder::prometheus`] asked for it.
    ///
    /// ```
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// let mesh = mesh_tower::Mesh::builder().env().prometheus().build().await?;
    /// let (content_type, page) = mesh.metrics_page(Some("application/openmetrics-text; version=1.0.0"));
    /// assert!(content_type.starts_with("application/openmetrics-text"));
    /// assert!(page.ends_with("# EOF\n"));
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "prometheus")]
    pub fn metrics_page(&self, accept: Option<&str>) -> (&'static str, String) {
        let format = prometheus::Format::wanted(accept);
        let page = self.handle.core.metrics_page(format);
        (format.content_type(), page.unwrap_or_else(|| format.empty().to_owned()))
    }

    /// The configuration in force with all its defaults, and who said each value: the file, a variable of the
    /// environment, the builder, or nobody. `None` if it was made in code. What a match compares with a credential is
    /// [redacted](Effective).
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// let mesh = mesh_tower::Mesh::from_env().await?;
    /// if let Some(config) = mesh.effective_config() {
    ///     println!("{config}"); // YAML with a comment behind each value: `timeout: 2s  # environment MESH_TIMEOUT`
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn effective_config(&self) -> Option<Arc<Effective>> {
        self.handle.core.effective_config()
    }

    /// The identity of this process, if it has one. It changes as its source renews it.
    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.handle.core.shared.identities.current()
    }

    /// What became of the last attempts to renew the identity. The receiver also tells each change.
    pub fn identity_status(&self) -> watch::Receiver<IdentityStatus> {
        self.handle.core.shared.identities.status()
    }

    /// Ends the mesh: new requests fail at once with [`ErrorKind::Shutdown`](crate::ErrorKind::Shutdown), those under
    /// way have 750 ms, then every connection and task is gone. Returns within a second.
    pub async fn shutdown(&self) {
        self.handle.core.stop();
        self.handle.core.shared.tasks.shutdown(SHUTDOWN_GRACE).await;
    }

    /// Where the [admin pages](crate::admin) are served: with port 0 in the configuration, the port that was given.
    #[cfg(feature = "admin")]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        *self.handle.core.admin_address.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// A core without a configuration.
    pub(crate) fn new(shared: Arc<Shared>, demands: Demands, readings: Arc<Readings>) -> Self {
        Self {
            servers: Servers::new(Arc::clone(&shared)),
            shared,
            demands,
            readings,
            snapshot: ArcSwap::from_pointee(Snapshot::empty()),
            status: watch::Sender::new(ConfigStatus::default()),
            #[cfg(feature = "admin")]
            admin_address: Mutex::default(),
        }
    }

    #[cfg(feature = "admin")]
    pub(crate) fn set_admin_address(&self, address: Option<SocketAddr>) {
        *self.admin_address.lock().unwrap_or_else(PoisonError::into_inner) = address;
    }

    /// The configuration in force, unless it was made in code.
    pub(crate) fn effective_config(&self) -> Option<Arc<Effective>> {
        self.readings.of(self.snapshot.load().settings())
    }

    /// A page of metrics; `None` if none are kept for pages.
    #[cfg(feature = "prometheus")]
    pub(crate) fn metrics_page(&self, format: prometheus::Format) -> Option<String> {
        let metrics = self.shared.telemetry.metrics.as_ref().filter(|metrics| metrics.keeps_pages());
        metrics.map(|metrics| prometheus::page(metrics, format))
    }

    /// Tells each change of what is in force.
    pub(crate) fn subscribe(&self) -> watch::Receiver<ConfigStatus> {
        self.status.subscribe()
    }

    fn stop(&self) {
        self.servers.advance(Phase::Forced);
        self.shared.tasks.stop();
        for backend in self.snapshot.load().backends() {
            backend.picker().endpoints().iter().for_each(|endpoint| pool::close(endpoint));
            // Also of those who wait where there is no endpoint.
            backend.transport().queue.wake_all();
        }
    }

    /// Puts `update` into force. `source`: where a new configuration came from, if there is one in it. `refused`: why a
    /// newer one is not in force.
    pub(crate) fn publish(
        &self,
        update: snapshot::Update<Net>,
        source: Option<&str>,
        refused: Option<Arc<BuildError>>,
    ) {
        let version = update.snapshot.version();
        let identity = &update.snapshot.settings().identity;
        if *identity != self.snapshot.load().settings().identity
            && let Err(error) = self.shared.identify(identity.as_ref())
        {
            // What a configuration may ask for was checked before it was compiled.
            tracing::error!(target: TARGET, %error, "the identity stays what it was");
        }
        let before = self.snapshot.swap(Arc::clone(&update.snapshot));
        self.servers.published(&before, &update.snapshot);
        self.readings.published(update.snapshot.settings());
        for endpoint in &update.removed {
            endpoint.leave();
            pool::close(endpoint);
        }
        for backend in touched(&update) {
            backend.fleet().set_size(backend.picker().endpoints().len());
            upkeep::forgive(backend);
            if let Some(wanted) = backend.transport().used() {
                pool::connect(backend.picker(), wanted);
            }
            backend.transport().queue.wake_all();
        }
        if let Some(source) = source {
            self.shared.observers.config(version, source, None);
        }
        if let Some(metrics) = &self.shared.telemetry.metrics {
            metrics.published(&update.snapshot, source.is_some(), refused.is_some(), std::time::Instant::now());
        }
        self.status.send_replace(ConfigStatus { version, error: refused });
        if self.shared.tasks.is_stopping() {
            self.stop();
        }
    }

    pub(crate) fn refuse(&self, error: Arc<BuildError>, source: &str) {
        let version = self.snapshot.load().version();
        self.shared.observers.config(version, source, Some(&*error));
        if let Some(metrics) = &self.shared.telemetry.metrics {
            metrics.refused();
        }
        self.status.send_replace(ConfigStatus { version, error: Some(error) });
    }
}

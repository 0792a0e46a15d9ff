//! A configuration compiled for the request path.
//!
//! A [`Snapshot`] is immutable and read once per request, so a request can never see half of an update. The
//! [`Compiler`] makes the next one from a [`Config`](crate::model::Config) and the one before:
//!
//! * what did not change is shared, so the work follows the change and not the size of the mesh;
//! * backends keep their index, so that routes compiled earlier stay valid;
//! * [endpoints](crate::balance::Endpoint) and counters are found again by identity and keep their state; the endpoints
//!   that left are listed in the [`Update`], and closing them is the caller's task.
//!
//! The compiler is the only writer. It runs on one task of the transport, which decides when to publish.

mod compile;
mod describe;
mod explain;
mod hosts;
mod members;
mod route;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

pub use compile::{CompileError, Compiler, UnusableBackend, Update};
pub use explain::{BackendShare, Explanation, RequestDescription, explain};
pub use route::{RouteError, Routed};

use crate::balance::{Fleet, Picker};
use crate::matching::{HostTable, RouteTable};
use crate::model::{self, BackendId, Metadata, RoutePolicy};
use crate::resilience::admission::Admission;
use crate::resilience::budget::RetryBudgetState;
use crate::resilience::limits::Limits;
use crate::resilience::throttle::Throttle;

/// What the layer that moves bytes hangs on backends and endpoints.
pub trait Transport: Send + Sync + 'static {
    /// What all endpoints of a backend share. Made anew when a setting changes that a connection depends on.
    type Backend: Send + Sync + 'static;
    /// What belongs to one endpoint.
    type Endpoint: Send + Sync + 'static;
    /// Why a backend's settings cannot be used.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Prepares a backend. `previous` is what it had until now, if its identity is not new.
    ///
    /// # Errors
    /// If its settings cannot be used, such as a certificate file that cannot be read. The whole update is then refused.
    fn backend(
        &self,
        config: &model::Backend,
        previous: Option<&Arc<Self::Backend>>,
    ) -> Result<Self::Backend, Self::Error>;

    /// A backend that had other settings until now has those of `config`. Called where nothing can be refused any more,
    /// for what may change without a new [`Backend`](Self::Backend): connections are kept.
    fn update(&self, backend: &Arc<Self::Backend>, config: &model::Backend) {
        let _ = (backend, config);
    }

    /// Prepares an endpoint, without connecting it.
    fn endpoint(&self, backend: &Arc<Self::Backend>, config: &model::Endpoint) -> Self::Endpoint;

    /// Whether an endpoint of an unchanged [`Backend`](Self::Backend), with its connections, serves as `config` says of
    /// its address now. If not, another one takes its place.
    fn keeps(&self, endpoint: &Self::Endpoint, config: &model::Endpoint) -> bool {
        let _ = (endpoint, config);
        true
    }
}

/// No transport: for deciding without sending.
impl Transport for () {
    type Backend = ();
    type Endpoint = ();
    type Error = std::convert::Infallible;

    fn backend(&self, _: &model::Backend, _: Option<&Arc<()>>) -> Result<(), Self::Error> {
        Ok(())
    }

    fn endpoint(&self, _: &Arc<()>, _: &model::Endpoint) {}
}

/// A compiled configuration.
pub struct Snapshot<T: Transport = ()> {
    version: u64,
    hosts: Arc<HostTable>,
    virtual_hosts: Vec<Arc<VirtualHost>>,
    /// Those without a host, by their names.
    named: Arc<HashMap<Arc<str>, u32>>,
    backends: Vec<Option<Arc<Backend<T>>>>,
    indices: Arc<HashMap<BackendId, u32>>,
    servers: BTreeMap<Arc<str>, Arc<model::Server>>,
    settings: Arc<model::Settings>,
}

impl<T: Transport> Snapshot<T> {
    /// The snapshot before the first configuration: it knows no name.
    pub fn empty() -> Self {
        Self {
            version: 0,
            hosts: Arc::new(HostTable::new([]).expect("without hosts there is no conflict")),
            virtual_hosts: Vec::new(),
            named: Arc::default(),
            backends: Vec::new(),
            indices: Arc::default(),
            servers: BTreeMap::new(),
            settings: Arc::default(),
        }
    }

    /// How many configurations were applied up to this one.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What holds for the mesh as a whole.
    pub fn settings(&self) -> &Arc<model::Settings> {
        &self.settings
    }

    /// The servers by name.
    pub fn servers(&self) -> &BTreeMap<Arc<str>, Arc<model::Server>> {
        &self.servers
    }

    /// The backend at `index`, if it still exists.
    pub fn backend(&self, index: u32) -> Option<&Arc<Backend<T>>> {
        self.backends.get(index as usize)?.as_ref()
    }

    /// The backend called `id`.
    pub fn backend_by_id(&self, id: &BackendId) -> Option<&Arc<Backend<T>>> {
        self.backend(*self.indices.get(id)?)
    }

    /// All backends.
    pub fn backends(&self) -> impl Iterator<Item = &Arc<Backend<T>>> {
        self.backends.iter().flatten()
    }

    /// All virtual hosts, in the order of the configuration.
    pub fn virtual_hosts(&self) -> &[Arc<VirtualHost>] {
        &self.virtual_hosts
    }

    /// The virtual host that `authority` selects.
    pub fn virtual_host(&self, authority: &str) -> Option<&Arc<VirtualHost>> {
        self.hosts.lookup(authority).map(|index| &self.virtual_hosts[index as usize])
    }

    /// The virtual host that has no hosts and is called exactly `name`: no authority selects it, but whoever knows its
    /// name.
    pub fn named_virtual_host(&self, name: &str) -> Option<&Arc<VirtualHost>> {
        self.named.get(name).map(|index| &self.virtual_hosts[*index as usize])
    }

    /// The known name nearest to `authority`, for error texts.
    pub fn nearest_host(&self, authority: &str) -> Option<&str> {
        self.hosts.nearest(authority)
    }
}

/// A compiled virtual host.
#[derive(Debug)]
pub struct VirtualHost {
    config: Arc<model::VirtualHost>,
    table: RouteTable,
    routes: Vec<Route>,
    throttle: Option<Arc<Throttle>>,
}

impl VirtualHost {
    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.config.name
    }

    /// The name of the route at `index`, if it has one.
    pub fn route_name(&self, index: u32) -> Option<&Arc<str>> {
        self.routes.get(index as usize)?.name()
    }

    /// Its routes, in the order of the configuration.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Its retry throttling, with the tokens as they stand.
    pub fn throttle(&self) -> Option<&Arc<Throttle>> {
        self.throttle.as_ref()
    }
}

/// A compiled route.
#[derive(Debug)]
pub struct Route {
    name: Option<Arc<str>>,
    action: Action,
}

impl Route {
    /// Its name, if it has one.
    pub fn name(&self) -> Option<&Arc<str>> {
        self.name.as_ref()
    }
}

#[derive(Debug)]
enum Action {
    Forward(Split),
    Unsupported(Arc<str>),
}

/// Backends with their shares, ready to be drawn from.
#[derive(Debug)]
struct Split {
    targets: Box<[Target]>,
    /// The sum of the weights up to and including each target.
    bounds: Box<[u64]>,
}

/// A backend of a route and what holds for requests that go there.
#[derive(Debug)]
pub struct Target {
    backend: BackendId,
    index: Option<u32>,
    weight: u32,
    subset: Option<Arc<Metadata>>,
    policy: Arc<RoutePolicy>,
}

impl Target {
    /// The backend's identity.
    pub fn backend(&self) -> &BackendId {
        &self.backend
    }

    /// Where the snapshot keeps it; `None` if the configuration does not hold it.
    pub fn index(&self) -> Option<u32> {
        self.index
    }

    /// Which part of the backend serves; `None` is all of it.
    pub fn subset(&self) -> Option<&Arc<Metadata>> {
        self.subset.as_ref()
    }

    /// The route's policies with this backend's own put over them.
    pub fn policy(&self) -> &Arc<RoutePolicy> {
        &self.policy
    }
}

/// A compiled backend.
pub struct Backend<T: Transport> {
    index: u32,
    config: Arc<model::Backend>,
    picker: Picker<T::Endpoint>,
    /// Of those parts that routes name.
    subsets: Vec<(Arc<Metadata>, Picker<T::Endpoint>)>,
    transport: Arc<T::Backend>,
    state: Arc<BackendState>,
}

/// What is kept of a backend through all updates.
#[derive(Debug)]
pub struct BackendState {
    fleet: Arc<Fleet>,
    budget: Arc<RetryBudgetState>,
    admission: Admission,
    /// Which endpoints are used, where that is not all of them.
    seed: u64,
}

impl AsRef<Limits> for BackendState {
    fn as_ref(&self) -> &Limits {
        self.fleet.limits()
    }
}

impl BackendState {
    fn new(now: Instant, seed: u64) -> Self {
        Self {
            fleet: Arc::new(Fleet::new(now)),
            budget: Arc::new(RetryBudgetState::new()),
            admission: Admission::new(now),
            seed,
        }
    }

    /// How its requests went.
    pub fn admission(&self) -> &Admission {
        &self.admission
    }
}

impl<T: Transport> Backend<T> {
    /// Its place in the snapshot, the same in every snapshot that holds it.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Its identity.
    pub fn id(&self) -> &BackendId {
        &self.config.id
    }

    /// Its configuration.
    pub fn config(&self) -> &Arc<model::Backend> {
        &self.config
    }

    /// Its balancer.
    pub fn picker(&self) -> &Picker<T::Endpoint> {
        &self.picker
    }

    /// The balancer of a part of it: of the endpoints whose metadata holds all of `subset`. `None` if no route names
    /// that part.
    pub fn picker_of(&self, subset: Option<&Arc<Metadata>>) -> Option<&Picker<T::Endpoint>> {
        let Some(subset) = subset else { return Some(&self.picker) };
        let same = |other: &Arc<Metadata>| Arc::ptr_eq(other, subset) || other == subset;
        self.subsets.iter().find(|(other, _)| same(other)).map(|(_, picker)| picker)
    }

    /// All balancers: of the whole, and of the parts that routes name.
    pub fn pickers(&self) -> impl Iterator<Item = &Picker<T::Endpoint>> {
        std::iter::once(&self.picker).chain(self.subsets.iter().map(|(_, picker)| picker))
    }

    /// What the transport keeps for it.
    pub fn transport(&self) -> &Arc<T::Backend> {
        &self.transport
    }

    /// What is kept of it through all updates.
    pub fn state(&self) -> &Arc<BackendState> {
        &self.state
    }

    /// Its requests and retries in flight.
    pub fn budget(&self) -> &Arc<RetryBudgetState> {
        &self.state.budget
    }

    /// What its endpoints have in common.
    pub fn fleet(&self) -> &Arc<Fleet> {
        &self.state.fleet
    }
}

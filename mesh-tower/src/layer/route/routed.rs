use std::fmt;
use std::sync::Arc;

use mesh_core::model::{self, BackendId, RoutePolicy};
use mesh_core::snapshot::{self, VirtualHost};
use tokio::time::Instant;

/// Where a [`RouteLayer`](super::RouteLayer) sent a request, and what holds for it: found in the request's extensions
/// by the layers inside.
#[derive(Clone)]
pub struct Routed {
    virtual_host: Arc<VirtualHost>,
    route: u32,
    backend: Arc<snapshot::Backend<()>>,
    policy: Arc<RoutePolicy>,
    started: Instant,
}

impl Routed {
    pub(super) fn new(routed: &snapshot::Routed<'_>, backend: &Arc<snapshot::Backend<()>>) -> Self {
        Self {
            virtual_host: Arc::clone(routed.virtual_host),
            route: routed.route_index,
            backend: Arc::clone(backend),
            policy: Arc::clone(routed.target.policy()),
            started: Instant::now(),
        }
    }

    /// The service: the name of the virtual host.
    pub fn service(&self) -> &str {
        self.virtual_host.name()
    }

    /// The route's name, if it has one.
    pub fn route(&self) -> Option<&str> {
        self.virtual_host.route_name(self.route).map(|name| &**name)
    }

    /// The backend that was drawn.
    pub fn backend(&self) -> &BackendId {
        self.backend.id()
    }

    /// The policies of the route, with those of the backend put over them.
    pub fn policy(&self) -> &RoutePolicy {
        &self.policy
    }

    /// When the request was routed. A route's timeout begins here.
    pub fn started(&self) -> Instant {
        self.started
    }

    pub(super) fn config(&self) -> &Arc<model::Backend> {
        self.backend.config()
    }

    /// Whether there is something for a layer inside to obey.
    pub(super) fn has_policies(&self) -> bool {
        self.policy.timeout.is_some() || self.policy.retry.is_some()
    }

    pub(in crate::layer) fn snapshot(&self) -> (&VirtualHost, &snapshot::Backend<()>) {
        (&self.virtual_host, &self.backend)
    }
}

/// As the errors of a mesh say it.
impl fmt::Display for Routed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "backend {} of service {}", self.backend().name, self.service())
    }
}

impl fmt::Debug for Routed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routed")
            .field("service", &self.service())
            .field("route", &self.route)
            .field("backend", self.backend())
            .finish_non_exhaustive()
    }
}

//! What holds for one request from its routing to its end.

use std::sync::Arc;
use std::time::Duration;

use mesh_core::model::RoutePolicy;
use mesh_core::observe::{self, Next, Outcome};
use mesh_core::snapshot::{RouteError, Routed, VirtualHost};
use tokio::time::Instant;

use super::head::Head;
use crate::error::{Error, ErrorKind};
use crate::mesh::Handle;
use crate::net::{Backend, Endpoint, Snapshot, Wanted};

/// What holds for one request from its routing to its end.
pub(crate) struct Context {
    pub(crate) handle: Arc<Handle>,
    pub(super) virtual_host: Arc<VirtualHost>,
    route: u32,
    /// The backend as it was drawn.
    pub(super) backend: Arc<Backend>,
    pub(super) policy: Arc<RoutePolicy>,
    version: u64,
    pub(super) started: Instant,
    /// Attempts that went out.
    pub(super) attempts: u32,
    finished: bool,
}

impl Context {
    pub(super) fn route(handle: Arc<Handle>, head: &Head) -> Result<Self, Error> {
        let core = &handle.core;
        if core.shared.tasks.is_stopping() {
            return Err(Error::new(ErrorKind::Shutdown, "the mesh is shut down"));
        }
        let snapshot = core.snapshot.load();
        let error = match draw(&snapshot, head) {
            Ok((routed, backend)) => {
                backend.budget().enter();
                let (virtual_host, policy) = (Arc::clone(routed.virtual_host), Arc::clone(routed.target.policy()));
                let (route, version, backend) = (routed.route_index, snapshot.version(), Arc::clone(backend));
                drop(snapshot);
                let started = Instant::now();
                return Ok(Self {
                    handle,
                    virtual_host,
                    route,
                    backend,
                    policy,
                    version,
                    started,
                    attempts: 0,
                    finished: false,
                });
            }
            Err(error) => error,
        };
        let mut event = observe::Request::new(Outcome::Failed(error.kind()), Duration::ZERO);
        event.config_version = snapshot.version();
        if core.shared.observers.watches_requests() {
            core.shared.observers.request(event);
        }
        drop(snapshot);
        Err(error)
    }

    /// Draws a backend anew: the one that was drawn left the configuration before it took the request. The policies are
    /// those the request began with.
    pub(super) fn redraw(&mut self, head: &Head) -> Result<Wanted, Error> {
        let backend = {
            let snapshot = self.handle.core.snapshot.load();
            let backend = Arc::clone(draw(&snapshot, head)?.1);
            self.version = snapshot.version();
            backend
        };
        backend.budget().enter();
        std::mem::replace(&mut self.backend, backend).budget().exit();
        self.wanted(head)
    }

    /// What the request needs of a connection to its backend.
    pub(super) fn wanted(&self, head: &Head) -> Result<Wanted, Error> {
        let cluster = self.backend.transport();
        let wanted = cluster.wanted(head.is_grpc()).ok_or_else(|| {
            let text = format!("gRPC needs HTTP/2 and {} is configured as `protocol: http1`", self.place());
            Error::new(ErrorKind::Protocol, text)
        })?;
        if head.is_secure() && cluster.tls.is_none() {
            let text = format!("https was asked for and {} has no `tls`; add it, or write http://", self.place());
            return Err(Error::new(ErrorKind::InvalidRequest, text));
        }
        cluster.mark_used(head.is_grpc());
        Ok(wanted)
    }

    /// `backend v1 of service greeter`.
    pub(super) fn place(&self) -> String {
        format!("backend {} of service {}", self.backend.id().name, self.virtual_host.name())
    }

    /// The request ended; tells the observers.
    pub(super) fn finish(mut self, outcome: Outcome) {
        self.tell(outcome);
    }

    pub(super) fn fail(mut self, error: Error) -> Error {
        self.tell(Outcome::Failed(error.kind()));
        error.with_attempts(self.attempts)
    }

    fn tell(&mut self, outcome: Outcome) {
        self.finished = true;
        let observers = &self.handle.core.shared.observers;
        if observers.watches_requests() {
            let mut event = observe::Request::new(outcome, self.started.elapsed());
            event.service = Some(self.virtual_host.name());
            event.route = self.virtual_host.route_name(self.route).map(|name| &**name);
            event.backend = Some(self.backend.id());
            event.attempts = self.attempts;
            event.config_version = self.version;
            observers.request(event);
        }
    }

    pub(super) fn tell_attempt(&self, endpoint: Option<&Arc<Endpoint>>, outcome: Outcome, took: Duration, next: Next) {
        let observers = &self.handle.core.shared.observers;
        if observers.watches_requests() {
            let mut event = observe::Attempt::new(self.virtual_host.name(), self.backend.id(), self.attempts, outcome);
            event.endpoint = endpoint.map(|endpoint| endpoint.address());
            event.duration = took;
            event.next = next;
            event.config_version = self.version;
            observers.attempt(event);
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.backend.budget().exit();
        if !self.finished {
            self.tell(Outcome::Cancelled);
        }
    }
}

/// Where `snapshot` sends the request.
fn draw<'a>(snapshot: &'a Snapshot, head: &Head) -> Result<(Routed<'a>, &'a Arc<Backend>), Error> {
    let error = match snapshot.route(&head.request_head(), &mut rand::rng()) {
        Ok(routed) => match routed.target.index().and_then(|index| snapshot.backend(index)) {
            Some(backend) => return Ok((routed, backend)),
            None => {
                let (name, missing) = (routed.virtual_host.name(), routed.target.backend());
                let text = format!("the route of service {name} names the backend {missing}, which does not exist");
                Error::new(ErrorKind::BackendNotFound, text)
            }
        },
        Err(RouteError::UnknownService) => unknown_service(head.authority(), snapshot.nearest_host(head.authority())),
        Err(RouteError::NoRoute(virtual_host)) => {
            let (name, method, path) = (virtual_host.name(), head.method(), head.path());
            let text = format!(
                "no route of service {name} matches {method} {path}; a last route without `matches` takes what is left"
            );
            Error::new(ErrorKind::NoRoute, text)
        }
        Err(RouteError::Unsupported(virtual_host, what)) => {
            let name = virtual_host.name();
            let text = format!("the route of service {name} asks for {what}, which is not supported in this version");
            Error::new(ErrorKind::UnsupportedRoute, text)
        }
        Err(_) => Error::new(ErrorKind::NoRoute, "the request cannot be routed"),
    };
    Err(error)
}

pub(crate) fn unknown_service(authority: &str, nearest: Option<&str>) -> Error {
    let hint = match nearest {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => "add it to `services`, or to the `hosts` of one".to_owned(),
    };
    Error::new(ErrorKind::UnknownService, format!("no service has the host {authority:?}; {hint}"))
}

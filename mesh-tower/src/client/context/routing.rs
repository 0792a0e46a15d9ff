//! Where a request goes, and what is told of one that goes nowhere.

use std::sync::Arc;

use mesh_core::model::UnknownServices;
use mesh_core::observe::{self, Outcome};
use mesh_core::snapshot::{RouteError, Routed};
use tokio::time::Instant;

use crate::client::head::Head;
use crate::error::{Error, ErrorKind};
use crate::mesh::Core;
use crate::net::{Backend, Snapshot};
use crate::{demand, discover};

/// What there is to tell of a request that was not routed.
pub(super) fn unrouted(core: &Core, outcome: Outcome, started: Instant) -> observe::Request<'static> {
    let mut event = observe::Request::new(outcome, started.elapsed());
    event.config_version = core.snapshot.load().version();
    event
}

/// Tells of a request that is given up while its service is made.
pub(super) struct Untold<'a> {
    pub(super) core: &'a Core,
    pub(super) started: Instant,
    pub(super) armed: bool,
}

impl Drop for Untold<'_> {
    fn drop(&mut self) {
        if self.armed && self.core.shared.observers.watches_requests() {
            self.core.shared.observers.request(unrouted(self.core, Outcome::Cancelled, self.started));
        }
    }
}

/// Makes the service that the request is for, if it may be made on demand; otherwise `unknown` stays.
pub(in crate::client) async fn demand(core: &Core, head: &Head, unknown: Error) -> Result<(), Error> {
    let settings = Arc::clone(core.snapshot.load().settings());
    match head.with_demand(&settings, |key| key.map(str::to_owned)) {
        Some(key) => discover::demand(core, &key, head.caller_timeout()).await,
        None if settings.unknown_services == UnknownServices::Dns && !head.names_a_port() => {
            Err(Error::new(ErrorKind::InvalidRequest, format!("the authority {:?} {}", head.key(), demand::PORT)))
        }
        None => Err(unknown),
    }
}

/// Where `snapshot` sends the request.
pub(in crate::client) fn draw<'a>(
    snapshot: &'a Snapshot,
    head: &Head,
) -> Result<(Routed<'a>, &'a Arc<Backend>), Error> {
    let configured = if head.has_key() { None } else { snapshot.virtual_host(head.key()) };
    // One that was made on demand goes by a name of its own.
    let demanded = || head.with_demand(snapshot.settings(), |key| snapshot.named_virtual_host(key?));
    let routed = match configured.or_else(demanded) {
        Some(virtual_host) => virtual_host.route(&head.request_head(), &mut rand::rng()),
        None => Err(RouteError::UnknownService),
    };
    let error = match routed {
        Ok(routed) => match routed.target.index().and_then(|index| snapshot.backend(index)) {
            Some(backend) => return Ok((routed, backend)),
            None => {
                let (name, missing) = (routed.virtual_host.name(), routed.target.backend());
                let text = format!("the route of service {name} names the backend {missing}, which does not exist");
                Error::new(ErrorKind::BackendNotFound, text)
            }
        },
        Err(RouteError::UnknownService) => unknown_service(head.key(), snapshot.nearest_host(head.key())),
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

//! What holds for one request from its routing to its end.

mod limits;
mod routing;
mod telling;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::HeaderMap;
use mesh_core::classify::Attempt;
use mesh_core::model::{Address, Metadata, RetryPolicy, RoutePolicy, Settings};
use mesh_core::observe::{self, Next, Outcome};
use mesh_core::resilience::retry::Attempted;
use mesh_core::snapshot::VirtualHost;
use tokio::time::Instant;

use self::limits::is_success;
pub(crate) use self::routing::unknown_service;
use self::routing::{Untold, unrouted};
pub(super) use self::routing::{demand, draw};
use self::telling::Tally;
pub(super) use self::telling::Underway;
use super::affinity::{self, Affinity};
use super::head::Head;
use crate::error::{Error, ErrorKind};
use crate::mesh::{Core, Handle};
use crate::net::{Backend, Endpoint, MAX_WAIT, Wanted};
use crate::telemetry::metrics::{Call, Ended, Series};
use crate::telemetry::spans::{Caller, RequestSpan};

/// What holds for one request from its routing to its end.
pub(crate) struct Context {
    pub(crate) handle: Arc<Handle>,
    pub(super) virtual_host: Arc<VirtualHost>,
    route: u32,
    /// The backend as it was drawn.
    pub(super) backend: Arc<Backend>,
    pub(super) policy: Arc<RoutePolicy>,
    pub(super) settings: Arc<Settings>,
    /// Which part of the backend serves it.
    pub(super) subset: Option<Arc<Metadata>>,
    /// What balancers know of the request.
    pub(super) hash: Option<u64>,
    /// What its response tells the caller, so that further requests find the same endpoint.
    affinity: Option<Box<Affinity>>,
    pub(super) wait_for_ready: bool,
    /// When it is over.
    pub(super) deadline: Option<Instant>,
    /// How long it may wait for an endpoint.
    pub(super) max_wait: Duration,
    grpc: bool,
    span: RequestSpan,
    /// The attempt that is under way.
    underway: Option<Underway>,
    series: Option<Arc<Series>>,
    tally: Tally,
    version: u64,
    pub(super) started: Instant,
    /// Attempts that went out. Those of one request share its context; they run in one task.
    attempts: AtomicU32,
    finished: bool,
}

impl Context {
    /// Routes a request, and begins to tell of it.
    pub(super) async fn begin(handle: Arc<Handle>, caller: Caller, head: &mut Head) -> Result<Self, Error> {
        let core = &handle.core;
        let telemetry = &core.shared.telemetry;
        let started = Instant::now();
        let mut span = match &telemetry.spans {
            None => RequestSpan::default(),
            spans => RequestSpan::start(spans.as_ref(), caller, head, core.snapshot.load().settings()),
        };
        let error = match Self::route(&handle, head, &mut span, started) {
            Ok(context) => return Ok(context),
            // In a box: few requests come here, and all would carry its state.
            Err(error) if error.kind() == ErrorKind::UnknownService => {
                let mut untold = Untold { core, started, armed: true };
                let made = Box::pin(demand(core, head, error)).await;
                untold.armed = false;
                match made {
                    Ok(()) => {
                        span.resolved();
                        match Self::route(&handle, head, &mut span, started) {
                            Ok(context) => return Ok(context),
                            Err(error) => error,
                        }
                    }
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        if let Some(metrics) = &telemetry.metrics {
            metrics.unrouted(error.kind());
        }
        let event = unrouted(core, Outcome::Failed(error.kind()), started);
        span.end(&event, None);
        if core.shared.observers.watches_requests() {
            core.shared.observers.request(event);
        }
        Err(error)
    }

    fn route(handle: &Arc<Handle>, head: &Head, span: &mut RequestSpan, started: Instant) -> Result<Self, Error> {
        let core = &handle.core;
        if core.shared.tasks.is_stopping() {
            return Err(Error::new(ErrorKind::Shutdown, "the mesh is shut down"));
        }
        let snapshot = core.snapshot.load();
        let (routed, backend) = draw(&snapshot, head)?;
        let policy = routed.target.policy();
        let (hash, affinity) = affinity::of(head, policy, backend, &core.shared);
        let series = core.shared.telemetry.metrics.as_ref().map(|metrics| {
            let call = if head.is_grpc() { Call::Grpc(head.generated_path()) } else { Call::Http(head.method()) };
            metrics.series(routed.virtual_host, routed.route_index, call)
        });
        backend.budget().enter();
        Ok(Self {
            handle: Arc::clone(handle),
            virtual_host: Arc::clone(routed.virtual_host),
            route: routed.route_index,
            backend: Arc::clone(backend),
            policy: Arc::clone(policy),
            settings: Arc::clone(snapshot.settings()),
            subset: routed.target.subset().cloned(),
            hash,
            affinity,
            wait_for_ready: head.options().wait_for_ready,
            deadline: None,
            max_wait: MAX_WAIT,
            grpc: head.is_grpc(),
            span: std::mem::take(span),
            underway: None,
            series,
            tally: Tally::default(),
            version: snapshot.version(),
            started,
            attempts: AtomicU32::new(0),
            finished: false,
        })
    }

    /// Draws a backend anew: the one that was drawn left the configuration before it took the request. The policies are
    /// those the request began with.
    pub(super) async fn redraw(&mut self, head: &Head) -> Result<Wanted, Error> {
        let draw = |core: &Core| {
            let snapshot = core.snapshot.load();
            draw(&snapshot, head)
                .map(|(routed, backend)| (Arc::clone(backend), routed.target.subset().cloned(), snapshot.version()))
        };
        let (backend, subset, version) = match draw(&self.handle.core) {
            // It was made on demand, and nobody seemed to need it any more.
            Err(error) if error.kind() == ErrorKind::UnknownService => {
                Box::pin(demand(&self.handle.core, head, error)).await?;
                draw(&self.handle.core)?
            }
            drawn => drawn?,
        };
        (self.version, self.subset) = (version, subset);
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
        if head.is_secure() && !cluster.is_secure() {
            let why = match cluster.tls {
                None => "has no `tls`; add it",
                Some(_) => "speaks plaintext with some endpoints; set its `tls` to mutual",
            };
            let text = format!("https was asked for and {} {why}, or write http://", self.place());
            return Err(Error::new(ErrorKind::InvalidRequest, text));
        }
        cluster.mark_used(head.is_grpc());
        Ok(wanted)
    }

    /// The route's retry policy; a hedging policy takes its place.
    pub(super) fn retry(&self) -> Option<&Arc<RetryPolicy>> {
        self.policy.retry.as_ref().filter(|_| self.policy.hedge.is_none())
    }

    /// The endpoint that the request's session is bound to.
    pub(super) fn bound_to(&self) -> Option<&Address> {
        self.affinity.as_ref()?.endpoint()
    }

    /// That endpoint had no room for too long: any other one serves.
    pub(super) fn unbind(&self) {
        if let Some(affinity) = &self.affinity {
            affinity.give_up();
        }
    }

    /// Tells the caller what leads further requests to the endpoint that `served` this one.
    pub(super) fn tell_affinity(&mut self, served: &Endpoint, headers: &mut HeaderMap) {
        if let Some(affinity) = self.affinity.take() {
            affinity.tell(served.address(), headers);
        }
    }

    /// The time to its deadline, if it has one.
    pub(super) fn remaining(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// How many attempts went out.
    pub(super) fn attempts(&self) -> u32 {
        self.attempts.load(Ordering::Relaxed)
    }

    /// An attempt goes out.
    pub(super) fn attempt_sent(&self) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
    }

    /// `backend v1 of service greeter`.
    pub(super) fn place(&self) -> String {
        format!("backend {} of service {}", self.backend.id().name, self.virtual_host.name())
    }

    pub(super) fn is_grpc(&self) -> bool {
        self.grpc
    }

    /// The request ended; tells the observers.
    pub(super) fn finish(mut self, outcome: Outcome, headers: Option<&HeaderMap>) {
        self.tell(outcome, headers);
    }

    pub(super) fn fail(mut self, error: Error) -> Error {
        self.tell(Outcome::Failed(error.kind()), None);
        error.with_attempts(self.attempts())
    }

    fn tell(&mut self, outcome: Outcome, headers: Option<&HeaderMap>) {
        self.finished = true;
        if let (Some(policy), Some(success)) = (&self.backend.config().admission_control, is_success(&outcome)) {
            self.backend.state().admission().record(policy, success, Instant::now().into_std());
        }
        // An attempt whose future was dropped, by the deadline or with the request, or one that ends with the call.
        self.end_attempt(None, outcome, headers, Next::Return);
        let observers = &self.handle.core.shared.observers;
        let watched = observers.watches_requests();
        if !watched && self.series.is_none() && !self.span.is_recorded() {
            return;
        }
        let mut event = observe::Request::new(outcome, self.started.elapsed());
        event.service = Some(self.virtual_host.name());
        event.route = self.virtual_host.route_name(self.route).map(|name| &**name);
        event.backend = Some(self.backend.id());
        event.attempts = self.attempts();
        event.config_version = self.version;
        self.span.end(&event, headers);
        if let Some(series) = &self.series {
            let Tally { retries, resends, hedges, idle, .. } = &mut self.tally;
            let (retries, resends, hedges) = (*retries.get_mut(), *resends.get_mut(), *hedges.get_mut());
            series.request_ended(&Ended { outcome, duration: event.duration, retries, resends, hedges, idle: *idle });
        }
        if watched {
            observers.request(event);
        }
    }

    /// What an application's classifier is told of an attempt.
    pub(super) fn attempted<'a>(&'a self, head: &'a Head, attempt: &'a Attempt<'a>) -> Attempted<'a> {
        let mut attempted =
            Attempted::new(self.virtual_host.name(), self.backend.id(), head.method(), head.path(), attempt);
        attempted.route = self.virtual_host.route_name(self.route).map(|name| &**name);
        attempted
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.backend.budget().exit();
        if !self.finished {
            self.tell(Outcome::Cancelled, None);
        }
    }
}

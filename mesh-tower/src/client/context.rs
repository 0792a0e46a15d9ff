//! What holds for one request from its routing to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::HeaderMap;
use mesh_core::classify::Attempt;
use mesh_core::model::{Address, GrpcFailures, Metadata, RetryPolicy, RoutePolicy, Settings, UnknownServices};
use mesh_core::observe::{self, Next, Outcome};
use mesh_core::resilience::limits::Limit;
use mesh_core::resilience::outlier;
use mesh_core::resilience::retry::Attempted;
use mesh_core::snapshot::{RouteError, Routed, VirtualHost};
use tokio::time::Instant;

use super::affinity::{self, Affinity};
use super::head::Head;
use crate::error::{Error, ErrorKind};
use crate::mesh::{Core, Handle};
use crate::net::{Backend, Endpoint, MAX_WAIT, Queue, Snapshot, Wanted};
use crate::telemetry::metrics::{Call, Ended, Picked, Series};
use crate::telemetry::spans::{AttemptSpan, Caller, RequestSpan, Sent};
use crate::{demand, discover};

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
        if head.is_secure() && cluster.tls.is_none() {
            let text = format!("https was asked for and {} has no `tls`; add it, or write http://", self.place());
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

    /// Tells the caller what leads further requests to the endpoint that `served` this one.
    pub(super) fn tell_affinity(&mut self, served: &Endpoint, headers: &mut HeaderMap) {
        if let Some(affinity) = self.affinity.take() {
            affinity.tell(served.address(), headers);
        }
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

    /// A limit of ours is reached.
    pub(super) fn overflow(&self, limit: Limit) -> Error {
        let breaker = &self.backend.config().circuit_breaker;
        let (kind, place) = (ErrorKind::Overflow, self.place());
        let text = match limit {
            Limit::Requests => {
                let max = breaker.max_requests.unwrap_or_default();
                format!("{place} serves as many requests as its `max_requests` of {max} allows")
            }
            Limit::PendingRequests => {
                let max = breaker.max_pending_requests.unwrap_or(Queue::CAPACITY).min(Queue::CAPACITY);
                format!("{max} requests already wait for {place}, which is as many as may")
            }
            _ => format!("{place} is at its limit: {}", limit.as_str()),
        };
        self.backend.transport().overflow(limit);
        Error::new(kind, text)
    }

    /// The request ended; tells the observers.
    pub(super) fn finish(mut self, outcome: Outcome, headers: Option<&HeaderMap>) {
        self.tell(outcome, headers);
    }

    pub(super) fn fail(mut self, error: Error) -> Error {
        self.tell(Outcome::Failed(error.kind()), None);
        error.with_attempts(self.attempts())
    }

    /// Asks admission control.
    pub(super) fn admit(&self) -> Result<(), Error> {
        let Some(policy) = &self.backend.config().admission_control else { return Ok(()) };
        if self.backend.state().admission().admit(policy, self.started.into_std(), &mut rand::rng()) {
            return Ok(());
        }
        self.backend.transport().overflow(Limit::Admission);
        let text = format!("{} is not asked: too many requests to it failed lately", self.place());
        Err(Error::new(ErrorKind::AdmissionRejected, text))
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

    /// An attempt begins.
    pub(super) fn attempt_started(&mut self, head: &Head, sent: Sent) {
        let since = Instant::now();
        if let Some(series) = &self.series {
            series.attempt_started();
            if let Some(ended) = self.tally.ended.take() {
                self.tally.idle += since.saturating_duration_since(ended);
            }
        }
        self.underway = Some(self.begin_attempt(head, &sent, since));
    }

    fn begin_attempt(&self, head: &Head, sent: &Sent, since: Instant) -> Underway {
        let spans = self.handle.core.shared.telemetry.spans.as_ref();
        let span = self.span.attempt(spans, head, sent);
        Underway { number: sent.number, span, since, answered: false }
    }

    /// An attempt begins that belongs to whoever asked for it, and not to the context.
    pub(super) fn attempt_started_beside(&self, head: &Head, sent: &Sent) -> Underway {
        if let Some(series) = &self.series {
            series.attempt_started();
        }
        self.begin_attempt(head, sent, Instant::now())
    }

    /// A hedge is sent.
    pub(super) fn hedged(&self) {
        self.tally.hedges.fetch_add(1, Ordering::Relaxed);
        if let Some(series) = &self.series {
            series.hedged();
        }
    }

    /// The budget had no place for a hedge, which no attempt's end tells.
    pub(super) fn hedge_denied(&self) {
        if let Some(series) = &self.series {
            series.denied();
        }
    }

    /// The attempt that is under way, to go on beside others.
    pub(super) fn take_underway(&mut self) -> Option<Underway> {
        self.underway.take()
    }

    /// `underway` is the one whose answer goes to the caller.
    pub(super) fn put_underway(&mut self, underway: Underway) {
        self.underway = Some(underway);
    }

    /// An endpoint was asked for.
    pub(super) fn picked(&self, head: &Head, result: Picked) {
        if let Some(series) = &self.backend.transport().series {
            series.picked(result, head.is_grpc());
        }
    }

    /// The span of the attempt that is under way.
    pub(super) fn attempt_span(&self) -> &AttemptSpan {
        self.underway.as_ref().map_or(AttemptSpan::NONE, |underway| &underway.span)
    }

    /// The attempt ended, or has an answer whose status is still to come. `headers` are those of a response that ended
    /// with its head.
    pub(super) fn tell_attempt(
        &mut self,
        endpoint: Option<&Arc<Endpoint>>,
        outcome: Outcome,
        headers: Option<&HeaderMap>,
        next: Next,
    ) {
        let open = matches!(outcome, Outcome::Response { grpc: None, .. }) && headers.is_none();
        if self.grpc && open && next == Next::Return {
            // gRPC's status follows the messages: this attempt ends with the call.
            if let Some(Underway { number, since, answered, .. }) = &mut self.underway {
                *answered = true;
                let (number, since) = (*number, *since);
                self.observe_attempt(number, endpoint, outcome, since, next);
            }
            return;
        }
        self.end_attempt(endpoint, outcome, headers, next);
    }

    fn end_attempt(
        &mut self,
        endpoint: Option<&Arc<Endpoint>>,
        outcome: Outcome,
        headers: Option<&HeaderMap>,
        next: Next,
    ) {
        let Some(underway) = self.underway.take() else { return };
        self.tell_end(&underway, endpoint, outcome, headers, next);
        if matches!(next, Next::Retry | Next::Resend) && self.series.is_some() {
            self.tally.ended = Some(Instant::now());
        }
    }

    /// `underway` ended.
    pub(super) fn tell_end(
        &self,
        underway: &Underway,
        endpoint: Option<&Arc<Endpoint>>,
        outcome: Outcome,
        headers: Option<&HeaderMap>,
        next: Next,
    ) {
        underway.span.end(outcome, headers);
        if let Some(series) = &self.series {
            series.attempt_ended(outcome, underway.since.elapsed(), next);
            self.tally.count(next);
        }
        if !underway.answered {
            self.observe_attempt(underway.number, endpoint, outcome, underway.since, next);
        }
    }

    fn observe_attempt(
        &self,
        number: u32,
        endpoint: Option<&Arc<Endpoint>>,
        outcome: Outcome,
        since: Instant,
        next: Next,
    ) {
        let observers = &self.handle.core.shared.observers;
        if observers.watches_requests() {
            let mut event = observe::Attempt::new(self.virtual_host.name(), self.backend.id(), number, outcome);
            event.endpoint = endpoint.map(|endpoint| endpoint.address());
            event.duration = since.elapsed();
            event.next = next;
            event.config_version = self.version;
            observers.attempt(event);
        }
    }
}

/// What `outcome` says about the backend; nothing if it is not the backend's.
fn is_success(outcome: &Outcome) -> Option<bool> {
    match outcome {
        Outcome::Response { grpc: Some(code), .. } => {
            Some(outlier::Outcome::of_code(GrpcFailures::ServerErrors, *code) == outlier::Outcome::Success)
        }
        Outcome::Response { status, .. } => Some(!status.is_server_error()),
        Outcome::Failed(
            ErrorKind::NoHealthyEndpoint
            | ErrorKind::DeadlineExceeded
            | ErrorKind::PerTryTimeout
            | ErrorKind::Refused
            | ErrorKind::Reset
            | ErrorKind::Protocol,
        ) => Some(false),
        _ => None,
    }
}

/// What metrics tell of a request when it ends.
#[derive(Debug, Default)]
struct Tally {
    retries: AtomicU32,
    resends: AtomicU32,
    hedges: AtomicU32,
    /// When the last attempt ended that another one follows.
    ended: Option<Instant>,
    /// How long no attempt was under way.
    idle: Duration,
}

impl Tally {
    fn count(&self, next: Next) {
        match next {
            Next::Retry => &self.retries,
            Next::Resend => &self.resends,
            _ => return,
        }
        .fetch_add(1, Ordering::Relaxed);
    }
}

/// An attempt that is under way.
pub(super) struct Underway {
    /// 1 for the first.
    number: u32,
    pub(super) span: AttemptSpan,
    since: Instant,
    /// Whether its head went to the caller, and the observers were told.
    answered: bool,
}

impl Drop for Context {
    fn drop(&mut self) {
        self.backend.budget().exit();
        if !self.finished {
            self.tell(Outcome::Cancelled, None);
        }
    }
}

/// What there is to tell of a request that was not routed.
fn unrouted(core: &Core, outcome: Outcome, started: Instant) -> observe::Request<'static> {
    let mut event = observe::Request::new(outcome, started.elapsed());
    event.config_version = core.snapshot.load().version();
    event
}

/// Tells of a request that is given up while its service is made.
struct Untold<'a> {
    core: &'a Core,
    started: Instant,
    armed: bool,
}

impl Drop for Untold<'_> {
    fn drop(&mut self) {
        if self.armed && self.core.shared.observers.watches_requests() {
            self.core.shared.observers.request(unrouted(self.core, Outcome::Cancelled, self.started));
        }
    }
}

/// Makes the service that the request is for, if it may be made on demand; otherwise `unknown` stays.
async fn demand(core: &Core, head: &Head, unknown: Error) -> Result<(), Error> {
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
fn draw<'a>(snapshot: &'a Snapshot, head: &Head) -> Result<(Routed<'a>, &'a Arc<Backend>), Error> {
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

//! Requests to services by the routes of a configuration.

mod future;
mod routed;
mod source;
mod table;

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::HOST;
use http::{Method, Request};
use mesh_core::matching::RequestHead;
use mesh_core::model::{self, Config};
use mesh_core::snapshot::{CompileError, RouteError};
use tokio::sync::watch;
use tower_layer::Layer;
use tower_service::Service;

pub use future::RouteFuture;
pub use routed::Routed;

use self::source::Source;
use self::table::{Making, Snapshot, Table, View};
use crate::error::{BoxError, Error, ErrorKind};

/// Sends each request to the backend that a configuration's routes choose for it.
///
/// Put around a maker: a service that makes the inner service of a backend from its [`model::Backend`], as
/// `tower::make::MakeService` has it. A request selects a virtual host by its authority and the first of its routes
/// that matches by path, method, headers, query and fraction; the backend is drawn by weight. It is the decision of a
/// [`Mesh`](crate::Mesh)'s own clients, by the same code.
///
/// The authority is that of the request's URI, without one that of its `Host` header, or always
/// [the same](Self::with_authority).
///
/// # Inner services
/// A backend's service is made when a request first needs it, once for all that wait for it, and kept; requests go to
/// clones of it. There are never more of them than backends in the configuration. When an update takes a backend away
/// or changes its settings (endpoints included), what was made for it is dropped, as far as no request holds it any
/// more; one that comes back is made anew.
///
/// A `Route` is always ready: which inner service a request needs is known only once it is here. Each request waits for
/// the readiness of its own clone before that is called, and nothing is reserved for a request that is dropped.
///
/// # Policies
/// This layer routes; timeouts and retries are the business of layers inside, which the maker puts around what it
/// makes. A route's `timeout` and `retry` reach them as [`Routed`], in the extensions of just those requests whose
/// route has one of them: [`DeadlineLayer`](super::DeadlineLayer) and [`RetryLayer`](super::RetryLayer) obey it.
/// **Without these layers inside, a timeout or retry policy of the configuration is without effect**, and so are hash
/// policies in any case: balancing within a backend is the inner service's.
///
/// # Under failure
/// - No virtual host, no route, a route to a backend that does not exist: an [`Error`] that names the authority or the
///   service, and the way out. `CONNECT` is refused, as by a mesh.
/// - The maker failed, or the inner service did in `poll_ready`: the requests that waited for it get an [`Error`] of
///   kind [`NoHealthyEndpoint`](ErrorKind::NoHealthyEndpoint) that names service and backend, with the cause as its
///   source; the next request has it made anew. Nothing was sent.
/// - No service within 30 seconds, or the request's own time: [`Overflow`](ErrorKind::Overflow) or
///   [`DeadlineExceeded`](ErrorKind::DeadlineExceeded).
/// - Errors of the inner service in `call` come through unchanged.
/// - An update that cannot be compiled leaves the last good one in force, and a `tracing` event at level `WARN` under
///   the target `mesh` says why.
///
/// # Order
/// The outermost: a request keeps its route and its backend through all retries.
///
/// ```
/// use std::sync::Arc;
///
/// use http::{Request, Response};
/// use mesh_tower::core::model::{Backend, BackendId, Config, Forward, HostPattern, Route, VirtualHost};
/// use mesh_tower::layer::RouteLayer;
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let v1 = BackendId::new("catalog", "v1");
/// let host = VirtualHost::new("catalog", vec![HostPattern::parse("catalog")?])
///     .with_route(Route::new(Forward::to(v1.clone())));
/// let config = Config::new().with_virtual_host(host).with_backend(Backend::new(v1, vec![]));
///
/// // Whatever speaks to a backend: here a function that answers with the backend's name.
/// let maker = service_fn(|backend: Arc<Backend>| async move {
///     let name = backend.id.to_string();
///     Ok::<_, std::io::Error>(service_fn(move |_: Request<String>| {
///         std::future::ready(Ok::<_, std::io::Error>(Response::new(name.clone())))
///     }))
/// });
/// let service = RouteLayer::new(&config)?.layer(maker);
///
/// let answer = service.clone().oneshot(Request::get("http://catalog/items").body(String::new())?).await?;
/// assert_eq!(answer.into_body(), "catalog/v1");
/// let error = service.oneshot(Request::get("http://catalogue/").body(String::new())?).await.unwrap_err();
/// assert_eq!(error.to_string(), "no service has the host \"catalogue\"; did you mean `catalog`?");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RouteLayer {
    source: Arc<Source>,
    settings: Settings,
}

#[derive(Debug, Clone, Default)]
struct Settings {
    authority: Option<Arc<str>>,
    announced: bool,
}

impl RouteLayer {
    /// Routes by `config`.
    ///
    /// # Errors
    /// If `config` cannot be compiled: two virtual hosts claim the same host, or the weights of a route sum to 0.
    pub fn new(config: &Config) -> Result<Self, CompileError<std::convert::Infallible>> {
        Ok(Self { source: Source::new(config)?, settings: Settings::default() })
    }

    /// Routes by the newest of `configs`. The first is the one that is there now; the layer is ready when this returns.
    ///
    /// A task of the runtime that this is called in applies the updates. It ends with the sender, after which the last
    /// configuration stays in force, or with the last clone of this layer and of the services it made.
    ///
    /// # Errors
    /// If the first configuration cannot be compiled.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn watch(configs: watch::Receiver<Arc<Config>>) -> Result<Self, CompileError<std::convert::Infallible>> {
        Ok(Self { source: Source::watch(configs)?, settings: Settings::default() })
    }

    /// Takes every request for one to `authority`, whatever its URI and its `Host` say. For clients that write no
    /// authority, such as tonic's.
    #[must_use]
    pub fn with_authority(mut self, authority: impl Into<Arc<str>>) -> Self {
        self.settings.authority = Some(authority.into());
        self
    }

    /// Leaves [`Routed`] in the extensions of every request, for layers of one's own that want to know. Costs up to
    /// three small allocations a request.
    #[must_use]
    pub fn announced(mut self) -> Self {
        self.settings.announced = true;
        self
    }

    /// How many configurations were applied so far; the first counts.
    pub fn version(&self) -> u64 {
        self.source.version()
    }
}

impl<M> Layer<M> for RouteLayer
where
    M: Service<Arc<model::Backend>>,
    M::Response: Send + Sync + 'static,
{
    type Service = Route<M, M::Response>;

    fn layer(&self, maker: M) -> Self::Service {
        Route { maker, table: self.source.table(), source: Arc::clone(&self.source), settings: self.settings.clone() }
    }
}

impl fmt::Debug for RouteLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteLayer")
            .field("version", &self.version())
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// The service of a [`RouteLayer`]. Always ready; its clones share the inner services.
pub struct Route<M, S> {
    maker: M,
    table: Arc<Table<S>>,
    /// Whoever applies updates lives as long as somebody routes by them.
    source: Arc<Source>,
    settings: Settings,
}

impl<M, S> Route<M, S>
where
    S: Clone + Send + Sync + 'static,
{
    fn decide<B>(&self, view: &View<S>, request: &Request<B>) -> Result<(Routed, Arc<Making<S>>), Error> {
        let authority = authority(self.settings.authority.as_deref(), request)?;
        let head = RequestHead::new(request.method(), request.uri(), authority, request.headers());
        let snapshot = view.snapshot();
        let routed = snapshot.route(&head, &mut rand::rng()).map_err(|error| no_route(&error, &head, snapshot))?;
        let slot = routed.target.index().and_then(|index| view.slot(index).zip(snapshot.backend(index)));
        let Some((slot, backend)) = slot else {
            let (name, missing) = (routed.virtual_host.name(), routed.target.backend());
            let text = format!("the route of service {name} names the backend {missing}, which does not exist");
            return Err(Error::new(ErrorKind::BackendNotFound, text));
        };
        Ok((Routed::new(&routed, backend), slot.current()))
    }
}

impl<M, S, B> Service<Request<B>> for Route<M, S>
where
    M: Service<Arc<model::Backend>, Response = S> + Clone + Send + 'static,
    M::Error: Into<BoxError>,
    M::Future: Send,
    S: Service<Request<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = RouteFuture<S, B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> RouteFuture<S, B> {
        let (routed, making) = match self.decide(&self.table.view(), &request) {
            Ok(decided) => decided,
            Err(error) => return RouteFuture::failed(error),
        };
        if self.settings.announced || routed.has_policies() {
            request.extensions_mut().insert(routed.clone());
        }
        match making.service() {
            Some(service) => RouteFuture::ready(request, routed, making, service),
            None => {
                let made = Making::made(Arc::clone(&making), self.maker.clone(), Arc::clone(routed.config()));
                RouteFuture::making(request, routed, making, Box::pin(made))
            }
        }
    }
}

impl<M: Clone, S> Clone for Route<M, S> {
    fn clone(&self) -> Self {
        Self {
            maker: self.maker.clone(),
            table: Arc::clone(&self.table),
            source: Arc::clone(&self.source),
            settings: self.settings.clone(),
        }
    }
}

impl<M, S> fmt::Debug for Route<M, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The name that selects the virtual host.
fn authority<'a, B>(fixed: Option<&'a str>, request: &'a Request<B>) -> Result<&'a str, Error> {
    let invalid = |text: &str| Err(Error::new(ErrorKind::InvalidRequest, text));
    if *request.method() == Method::CONNECT {
        let text = "\"CONNECT\" asks to leave HTTP, which cannot be routed; connect to the server directly";
        return Err(Error::new(ErrorKind::UpgradeRefused, text));
    }
    if let Some(fixed) = fixed {
        return Ok(fixed);
    }
    let authority = match request.uri().authority() {
        Some(authority) => authority.as_str(),
        None => match request.headers().get(HOST).map(|host| host.to_str()) {
            Some(Ok(host)) => host,
            Some(Err(_)) => return invalid("the `host` header is no text"),
            None => {
                return invalid(
                    "neither the URI nor a `host` header names a service; write http://SERVICE/, or give the layer an \
                     authority",
                );
            }
        },
    };
    if authority.contains('@') {
        return invalid("the authority holds user information; send an `authorization` header instead");
    }
    Ok(authority)
}

fn no_route(error: &RouteError<'_>, head: &RequestHead<'_>, snapshot: &Snapshot) -> Error {
    let (kind, text) = match error {
        RouteError::UnknownService => {
            return crate::client::unknown_service(head.authority, snapshot.nearest_host(head.authority));
        }
        RouteError::NoRoute(virtual_host) => {
            let (name, method, path) = (virtual_host.name(), head.method, head.path);
            let way_out = "a last route without `matches` takes what is left";
            (ErrorKind::NoRoute, format!("no route of service {name} matches {method} {path}; {way_out}"))
        }
        RouteError::Unsupported(virtual_host, what) => {
            let name = virtual_host.name();
            let text = format!("the route of service {name} asks for {what}, which is not supported in this version");
            (ErrorKind::UnsupportedRoute, text)
        }
        _ => (ErrorKind::NoRoute, "the request cannot be routed".to_owned()),
    };
    Error::new(kind, text)
}

//! A bound of the whole request, told to the server.

mod body;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use mesh_core::grpc;
use mesh_core::resilience::deadline;
use pin_project::pin_project;
use tokio::time::{Instant, Sleep};
use tower_layer::Layer;
use tower_service::Service;

pub use body::DeadlineBody;

use super::route::Routed;
use crate::error::{BoxError, Error, ErrorKind};
use crate::net::after;
use crate::options::RequestOptions;

/// Bounds the whole of a request, response body included, and tells the server what is left.
///
/// The bound is the earliest of
///
/// - the caller's: the `grpc-timeout` of a gRPC call (tonic's `Request::set_timeout`), and the
///   [`timeout`](RequestOptions::timeout) of the [`RequestOptions`] in the request's extensions, which stay there,
/// - the route's `timeout`, if a [`RouteLayer`](super::RouteLayer) around this layer found one, counted from the
///   routing; otherwise [the layer's own](Self::new).
///
/// Zero is no bound where it is the route's or the layer's (gRFC A31); the caller's is a deadline that has passed.
/// With none of them, the request goes through untouched. A gRPC call goes on with a `grpc-timeout` of what is left.
///
/// # Under failure
/// When the time is up, the result - or, after the head, the next frame of the body - is an [`Error`] of kind
/// [`DeadlineExceeded`](ErrorKind::DeadlineExceeded) (504, gRPC's DEADLINE_EXCEEDED) that names the service and the
/// backend if they are known. Whatever runs for the request is cancelled; the peer may have processed it. A deadline
/// that has passed before the call fails at once, without a call of the inner service, and a `grpc-timeout` that is
/// none as [`InvalidRequest`](ErrorKind::InvalidRequest). Errors of the inner service come through unchanged, except
/// that one that comes when the time is up is the source of the deadline's.
///
/// # Order
/// Inside of [`RouteLayer`](super::RouteLayer), whose timeouts it enforces, and outside of
/// [`RetryLayer`](super::RetryLayer), whose attempts and pauses it bounds together.
///
/// ```
/// use std::time::Duration;
///
/// use http::{Request, Response};
/// use mesh_tower::ErrorKind;
/// use mesh_tower::layer::{DeadlineLayer, find_error};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), http::Error> {
/// let server = service_fn(|request: Request<String>| async move {
///     assert_ne!(request.headers()["grpc-timeout"], "5S", "the server is told what is left of the shorter one");
///     std::future::pending::<Result<Response<String>, std::io::Error>>().await
/// });
/// let service = ServiceBuilder::new().layer(DeadlineLayer::new(Duration::from_millis(20))).service(server);
///
/// let call = Request::post("http://greeter/greeter.v1.Greeter/SayHello")
///     .header("content-type", "application/grpc")
///     .header("grpc-timeout", "5S")
///     .body(String::new())?;
/// let error = service.oneshot(call).await.unwrap_err();
/// assert_eq!(find_error(&*error).unwrap().kind(), ErrorKind::DeadlineExceeded);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct DeadlineLayer {
    settings: Settings,
}

#[derive(Debug, Clone, Copy, Default)]
struct Settings {
    limit: Option<Duration>,
    announced: bool,
}

/// When the request has to be done, in its extensions: see [`DeadlineLayer::announced`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeadlineAt(pub Instant);

impl DeadlineLayer {
    /// At most `limit` for each request whose route has no timeout of its own.
    pub fn new(limit: Duration) -> Self {
        Self { settings: Settings { limit: Some(limit), announced: false } }
    }

    /// Only what the caller and the route ask for.
    pub fn from_request() -> Self {
        Self::default()
    }

    /// Leaves a [`DeadlineAt`] in the extensions of each request that has a deadline, for layers inside that plan
    /// ahead: with it [`RetryLayer`](super::RetryLayer) begins no pause that the deadline would cut short. gRPC calls
    /// and timeouts of routes tell it without, so that this matters to plain HTTP with a [limit of the
    /// layer](Self::new). Costs up to three small allocations a request.
    #[must_use]
    pub fn announced(mut self) -> Self {
        self.settings.announced = true;
        self
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline { inner, settings: self.settings }
    }
}

/// The service of a [`DeadlineLayer`]. Ready when the inner one is.
#[derive(Debug, Clone)]
pub struct Deadline<S> {
    inner: S,
    settings: Settings,
}

impl<S, B, RB> Service<Request<B>> for Deadline<S>
where
    S: Service<Request<B>, Response = Response<RB>>,
    S::Error: Into<BoxError>,
    RB: http_body::Body,
    RB::Error: Into<BoxError>,
{
    type Response = Response<DeadlineBody<RB>>;
    type Error = BoxError;
    type Future = DeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> DeadlineFuture<S::Future> {
        let now = Instant::now();
        let at = match until(&request, self.settings.limit, now) {
            Ok(at) => at,
            Err(error) => return DeadlineFuture { state: State::Refused(Some(error)), bound: None },
        };
        let bound = at.map(|(at, limit)| Bound { at, limit, routed: request.extensions().get().cloned() });
        if let Some(bound) = &bound {
            let left = bound.at.saturating_duration_since(now);
            if left.is_zero() {
                let error = bound.exceeded("before it was sent");
                return DeadlineFuture { state: State::Refused(Some(error)), bound: None };
            }
            if grpc::is_grpc(request.headers()) {
                request.headers_mut().insert(grpc::GRPC_TIMEOUT, grpc::encode_timeout(left));
            }
            if self.settings.announced {
                request.extensions_mut().insert(DeadlineAt(bound.at));
            }
        }
        let sleep = bound.as_ref().map(|bound| tokio::time::sleep_until(bound.at));
        DeadlineFuture { state: State::Sent { inner: self.inner.call(request), sleep }, bound }
    }
}

/// When `request` has to be done and the time it was given; `None` if there is no bound.
fn until<B>(request: &Request<B>, limit: Option<Duration>, now: Instant) -> Result<Option<(Instant, Duration)>, Error> {
    let caller = caller_timeout(request)?.map(|timeout| (after(now, timeout), timeout));
    let routed = request.extensions().get::<Routed>();
    let (started, limit) = match routed.and_then(|routed| Some((routed.started(), routed.policy().timeout?))) {
        Some((started, timeout)) => (started, Some(timeout)),
        None => (now, limit),
    };
    let limit = deadline::effective(None, limit).map(|limit| (after(started, limit), limit));
    Ok([caller, limit].into_iter().flatten().min())
}

/// The time that the caller gives the request, by the options or, of a gRPC call, by the header.
pub(super) fn caller_timeout<B>(request: &Request<B>) -> Result<Option<Duration>, Error> {
    let option = request.extensions().get::<RequestOptions>().and_then(|options| options.timeout);
    Ok([header_timeout(request.headers())?, option].into_iter().flatten().min())
}

/// The time that the header of a gRPC call gives it.
pub(super) fn header_timeout(headers: &HeaderMap) -> Result<Option<Duration>, Error> {
    let Some(value) = headers.get(grpc::GRPC_TIMEOUT).filter(|_| grpc::is_grpc(headers)) else { return Ok(None) };
    let timeout = grpc::parse_timeout(value.as_bytes());
    timeout
        .map(Some)
        .map_err(|error| Error::new(ErrorKind::InvalidRequest, format!("grpc-timeout: {value:?}: {error}")))
}

/// The bound of one request.
#[derive(Debug)]
pub(super) struct Bound {
    at: Instant,
    limit: Duration,
    routed: Option<Routed>,
}

impl Bound {
    fn exceeded(&self, state: &str) -> Error {
        let place = super::from_place(self.routed.as_ref());
        let text = format!("no response{place} within {:?}: the time was up {state}", self.limit);
        Error::new(ErrorKind::DeadlineExceeded, text)
    }
}

/// The response of a [`Deadline`] on its way.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct DeadlineFuture<F> {
    #[pin]
    state: State<F>,
    bound: Option<Bound>,
}

#[pin_project(project = StateProj)]
enum State<F> {
    Refused(Option<Error>),
    Sent {
        #[pin]
        inner: F,
        #[pin]
        sleep: Option<Sleep>,
    },
}

impl<F, RB, E> Future for DeadlineFuture<F>
where
    F: Future<Output = Result<Response<RB>, E>>,
    E: Into<BoxError>,
    RB: http_body::Body,
{
    type Output = Result<Response<DeadlineBody<RB>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.state.project() {
            StateProj::Refused(error) => {
                Poll::Ready(Err(error.take().expect("a future is not polled after its end").into()))
            }
            StateProj::Sent { inner, sleep } => {
                if let Poll::Ready(result) = inner.poll(cx) {
                    let bound = this.bound.take();
                    return Poll::Ready(match (result, bound) {
                        (Ok(response), bound) => Ok(response.map(|body| DeadlineBody::new(body, bound))),
                        // A client that knows the deadline, as tonic's does, may notice first.
                        (Err(error), Some(bound)) if Instant::now() >= bound.at => {
                            Err(bound.exceeded("before its head").with_source(error).into())
                        }
                        (Err(error), _) => Err(error.into()),
                    });
                }
                let Some(sleep) = sleep.as_pin_mut() else { return Poll::Pending };
                ready!(sleep.poll(cx));
                let bound = this.bound.as_ref().expect("it is there as long as the sleep is");
                Poll::Ready(Err(bound.exceeded("before its head").into()))
            }
        }
    }
}

impl<F> fmt::Debug for DeadlineFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadlineFuture").field("bound", &self.bound).finish_non_exhaustive()
    }
}

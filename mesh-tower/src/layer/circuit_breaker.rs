//! A bound of the requests under way.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{HeaderMap, Request, Response};
use http_body::Body;
use mesh_core::resilience::limits::{Limits, Permit, Resource};
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::watch::{Watch, Watched, watched_body};
use crate::error::{BoxError, Error, ErrorKind};

/// Lets so many requests be under way at once and refuses the others (Envoy's circuit breaker, gRFC A32).
///
/// A request is under way until its response is read to the end, broken or dropped. One layer stands for one backend: all
/// services that it makes, and their clones, share its limit, whether there is one for the backend or one for each
/// endpoint.
///
/// # Readiness
/// The place is taken when a caller asks for readiness, before the inner service is asked, and is given back by a service
/// that is dropped without a call. Where there is none the service is ready all the same and the next call is refused: a
/// breaker does not queue. The inner service is not asked then, so that it reserves nothing for a request that it never
/// gets.
///
/// # Under failure
/// A refused call ends at once in an [`Error`] of kind [`Overflow`](ErrorKind::Overflow) (503; gRPC: UNAVAILABLE), which
/// no [`RetryLayer`](super::RetryLayer) tries again and no [`OutlierLayer`](super::OutlierLayer) holds against an
/// endpoint. Errors of the inner service come through unchanged.
///
/// # Order
/// Inside of [`RetryLayer`](super::RetryLayer) it counts attempts, as a [`Mesh`](crate::Mesh) does; outside of it,
/// requests.
///
/// ```
/// use http::{Request, Response};
/// use mesh_tower::ErrorKind;
/// use mesh_tower::layer::{CircuitBreakerLayer, find_error};
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let client = service_fn(|_: Request<String>| async { Ok::<_, std::io::Error>(Response::new("ok".to_owned())) });
/// let breaker = CircuitBreakerLayer::new(1);
/// let service = breaker.layer(client);
///
/// let first = service.clone().oneshot(Request::new(String::new())).await?;
/// let error = service.clone().oneshot(Request::new(String::new())).await.unwrap_err();
/// assert_eq!(find_error(&*error).map(|error| error.kind()), Some(ErrorKind::Overflow));
///
/// drop(first); // with its body, which was not read
/// assert_eq!(breaker.under_way(), 0);
/// service.oneshot(Request::new(String::new())).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct CircuitBreakerLayer {
    limits: Arc<Limits>,
    max_requests: u32,
}

impl CircuitBreakerLayer {
    /// At most `max_requests` at once, 0 or more.
    pub fn new(max_requests: u32) -> Self {
        Self { limits: Arc::default(), max_requests }
    }

    /// How many requests are under way, those counted that are about to be sent.
    pub fn under_way(&self) -> u64 {
        self.limits.used(Resource::Requests)
    }

    fn enter(&self) -> Result<Place, Error> {
        let permit = Permit::acquire(&self.limits, Resource::Requests, Some(self.max_requests));
        permit.map(|permit| Place { _permit: permit }).ok_or_else(|| {
            let text = format!("the circuit breaker's max_requests of {} are under way", self.max_requests);
            Error::new(ErrorKind::Overflow, text)
        })
    }
}

impl<S> Layer<S> for CircuitBreakerLayer {
    type Service = CircuitBreaker<S>;

    fn layer(&self, inner: S) -> CircuitBreaker<S> {
        CircuitBreaker { inner, breaker: self.clone(), entered: None }
    }
}

/// The service of a [`CircuitBreakerLayer`]. Ready when the inner one is, and where there is no place for a request.
pub struct CircuitBreaker<S> {
    inner: S,
    breaker: CircuitBreakerLayer,
    /// What came of it when readiness was asked for.
    entered: Option<Result<Place, Error>>,
}

impl<S, B, RB> Service<Request<B>> for CircuitBreaker<S>
where
    S: Service<Request<B>, Response = Response<RB>>,
    S::Error: Into<BoxError>,
    RB: Body,
{
    type Response = Response<CircuitBreakerBody<RB>>;
    type Error = BoxError;
    type Future = CircuitBreakerFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self.entered.get_or_insert_with(|| self.breaker.enter()) {
            Ok(_) => self.inner.poll_ready(cx).map_err(Into::into),
            Err(_) => Poll::Ready(Ok(())),
        }
    }

    /// # Panics
    /// If `poll_ready` has not returned `Ready(Ok(()))` since the last call.
    fn call(&mut self, request: Request<B>) -> CircuitBreakerFuture<S::Future> {
        match self.entered.take().expect("poll_ready comes before call, as Tower asks") {
            Ok(place) => CircuitBreakerFuture(State::Sent { inner: self.inner.call(request), place: Some(place) }),
            Err(error) => CircuitBreakerFuture(State::Refused(Some(error))),
        }
    }
}

impl<S: Clone> Clone for CircuitBreaker<S> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), breaker: self.breaker.clone(), entered: None }
    }
}

impl<S: fmt::Debug> fmt::Debug for CircuitBreaker<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inner, breaker, entered } = self;
        f.debug_struct("CircuitBreaker")
            .field("inner", inner)
            .field("breaker", breaker)
            .field("entered", &entered.as_ref().map(Result::is_ok))
            .finish()
    }
}

/// The response of a [`CircuitBreaker`] on its way.
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct CircuitBreakerFuture<F>(#[pin] State<F>);

#[pin_project(project = StateProj)]
#[derive(Debug)]
enum State<F> {
    Refused(Option<Error>),
    Sent {
        #[pin]
        inner: F,
        place: Option<Place>,
    },
}

impl<F, RB, E> Future for CircuitBreakerFuture<F>
where
    F: Future<Output = Result<Response<RB>, E>>,
    E: Into<BoxError>,
    RB: Body,
{
    type Output = Result<Response<CircuitBreakerBody<RB>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().0.project() {
            StateProj::Refused(error) => {
                Poll::Ready(Err(error.take().expect("a future is not polled after its end").into()))
            }
            StateProj::Sent { inner, place } => {
                let result = ready!(inner.poll(cx)).map_err(Into::into);
                let place = place.take();
                Poll::Ready(result.map(|response| Watched::response(response, place).map(CircuitBreakerBody)))
            }
        }
    }
}

/// What a request under way holds.
#[derive(Debug)]
struct Place {
    _permit: Permit<Arc<Limits>>,
}

/// However it ends, its place is free.
impl Watch for Place {
    fn complete(self, _: Option<&HeaderMap>) {}

    fn broken(self, _: &(dyn StdError + 'static)) {}
}

watched_body! {
    /// A response body that counts as under way until it is read to its end or dropped.
    CircuitBreakerBody, Place
}

//! A bound of each call up to its response head.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use pin_project::pin_project;
use tokio::time::Sleep;
use tower_layer::Layer;
use tower_service::Service;

use super::route::Routed;
use crate::error::{BoxError, Error, ErrorKind};

/// Bounds each call of the inner service from `call` to the response head.
///
/// It is the bound of one attempt. Neither the wait for the inner service's readiness nor the response body is
/// covered: for the whole of a request there is [`DeadlineLayer`](super::DeadlineLayer). A limit of zero is no bound,
/// as in a route.
///
/// # Under failure
/// When the time is up, the result is an [`Error`] of kind [`PerTryTimeout`](ErrorKind::PerTryTimeout) (504; gRPC:
/// UNAVAILABLE, as the peer never said that the deadline passed). The exchange is cancelled with the future; the peer
/// may have processed the request. Errors of the inner service come through unchanged.
///
/// # Order
/// Inside of [`RetryLayer`](super::RetryLayer), which takes the error for a reason to try again, for methods that
/// may be sent again and for gRPC. A retry policy's `per_try_timeout` does the same where there is a policy.
///
/// ```
/// use std::time::Duration;
///
/// use http::{Request, Response};
/// use mesh_tower::ErrorKind;
/// use mesh_tower::layer::{TimeoutLayer, find_error};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let stuck = service_fn(|_: Request<String>| std::future::pending::<Result<Response<String>, std::io::Error>>());
/// let service = ServiceBuilder::new().layer(TimeoutLayer::new(Duration::from_millis(10))).service(stuck);
///
/// let error = service.oneshot(Request::new(String::new())).await.unwrap_err();
/// assert_eq!(find_error(&*error).unwrap().kind(), ErrorKind::PerTryTimeout);
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct TimeoutLayer {
    limit: Duration,
}

impl TimeoutLayer {
    /// At most `limit` for each call.
    pub fn new(limit: Duration) -> Self {
        Self { limit }
    }
}

impl<S> Layer<S> for TimeoutLayer {
    type Service = Timeout<S>;

    fn layer(&self, inner: S) -> Timeout<S> {
        Timeout { inner, limit: self.limit }
    }
}

/// The service of a [`TimeoutLayer`]. Ready when the inner one is.
#[derive(Debug, Clone)]
pub struct Timeout<S> {
    inner: S,
    limit: Duration,
}

impl<S, B, RB> Service<Request<B>> for Timeout<S>
where
    S: Service<Request<B>, Response = Response<RB>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<RB>;
    type Error = BoxError;
    type Future = TimeoutFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> TimeoutFuture<S::Future> {
        let routed = request.extensions().get().cloned();
        let sleep = (!self.limit.is_zero()).then(|| tokio::time::sleep(self.limit));
        TimeoutFuture { inner: self.inner.call(request), sleep, limit: self.limit, routed }
    }
}

/// The response of a [`Timeout`] on its way.
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct TimeoutFuture<F> {
    #[pin]
    inner: F,
    #[pin]
    sleep: Option<Sleep>,
    limit: Duration,
    routed: Option<Routed>,
}

impl<F, T, E> Future for TimeoutFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(result) = this.inner.poll(cx) {
            return Poll::Ready(result.map_err(Into::into));
        }
        let Some(sleep) = this.sleep.as_pin_mut() else { return Poll::Pending };
        ready!(sleep.poll(cx));
        let place = super::from_place(this.routed.as_ref());
        let text = format!("no response{place} within the timeout of {:?}", this.limit);
        Poll::Ready(Err(Error::new(ErrorKind::PerTryTimeout, text).into()))
    }
}

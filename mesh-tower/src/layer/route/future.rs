use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Request;
use mesh_core::grpc;
use mesh_core::resilience::deadline;
use pin_project::pin_project;
use tokio::time::{Instant, Sleep};
use tower_service::Service;

use super::Routed;
use super::table::{MakeError, Making};
use crate::error::{BoxError, Error, ErrorKind};
use crate::layer::deadline::{caller_timeout, header_timeout};
use crate::net::{MAX_WAIT, after};
use crate::options::RequestOptions;

/// A service on its way; boxed, which only the first requests of a backend pay.
type Made<S> = Pin<Box<dyn Future<Output = Result<S, MakeError>> + Send>>;

/// The response of a [`Route`](super::Route) on its way. Dropping it cancels the request.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct RouteFuture<S: Service<Request<B>>, B> {
    #[pin]
    state: State<S, S::Future>,
    /// What is to be sent once the service is ready.
    waiting: Option<Waiting<S, B>>,
}

#[pin_project(project = StateProj)]
enum State<S, F> {
    Failed(Option<Error>),
    Making(Made<S>),
    Readying(S),
    Called(#[pin] F),
}

struct Waiting<S, B> {
    request: Request<B>,
    routed: Routed,
    making: Arc<Making<S>>,
    /// Made when there is something to wait for.
    limit: Option<Limit>,
}

struct Limit {
    sleep: Pin<Box<Sleep>>,
    duration: Duration,
    kind: ErrorKind,
}

impl<S: Service<Request<B>>, B> RouteFuture<S, B> {
    pub(super) fn failed(error: Error) -> Self {
        Self { state: State::Failed(Some(error)), waiting: None }
    }

    pub(super) fn ready(request: Request<B>, routed: Routed, making: Arc<Making<S>>, service: S) -> Self {
        Self { state: State::Readying(service), waiting: Some(Waiting { request, routed, making, limit: None }) }
    }

    pub(super) fn making(request: Request<B>, routed: Routed, making: Arc<Making<S>>, made: Made<S>) -> Self {
        Self { state: State::Making(made), waiting: Some(Waiting { request, routed, making, limit: None }) }
    }
}

impl<S, B> Future for RouteFuture<S, B>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        const GONE: &str = "the request is there until the service is called";
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Failed(error) => {
                    return Poll::Ready(Err(error.take().expect("a future is not polled after its end").into()));
                }
                StateProj::Making(made) => {
                    let waiting = this.waiting.as_mut().expect(GONE);
                    let next = match made.as_mut().poll(cx) {
                        Poll::Ready(Ok(service)) => State::Readying(service),
                        Poll::Ready(Err(error)) => State::Failed(Some(waiting.failed(error))),
                        Poll::Pending => State::Failed(Some(ready!(waiting.poll_limit(cx)))),
                    };
                    this.state.set(next);
                }
                StateProj::Readying(service) => {
                    let waiting = this.waiting.as_mut().expect(GONE);
                    let next = match service.poll_ready(cx) {
                        Poll::Ready(Ok(())) => {
                            let request = this.waiting.take().expect(GONE).into_request();
                            State::Called(service.call(request))
                        }
                        Poll::Ready(Err(error)) => {
                            waiting.making.fail();
                            State::Failed(Some(waiting.failed(error)))
                        }
                        Poll::Pending => State::Failed(Some(ready!(waiting.poll_limit(cx)))),
                    };
                    this.state.set(next);
                }
                StateProj::Called(response) => return response.poll(cx).map_err(Into::into),
            }
        }
    }
}

impl<S, B> Waiting<S, B> {
    /// Resolves when the request has waited long enough.
    fn poll_limit(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        let (request, routed) = (&self.request, &self.routed);
        let limit = self.limit.get_or_insert_with(|| {
            // What is no timeout is the business of whoever enforces it.
            let caller = caller_timeout(request).unwrap_or_default();
            let (duration, kind) = match deadline::effective(caller, routed.policy().timeout) {
                Some(own) if own < MAX_WAIT => (own, ErrorKind::DeadlineExceeded),
                _ => (MAX_WAIT, ErrorKind::Overflow),
            };
            let sleep = Box::pin(tokio::time::sleep_until(after(routed.started(), duration)));
            Limit { sleep, duration, kind }
        });
        ready!(limit.sleep.as_mut().poll(cx));
        let text = format!("{routed} was not ready for the request within {:?}", limit.duration);
        Poll::Ready(Error::new(limit.kind, text))
    }

    fn failed(&self, error: impl Into<BoxError>) -> Error {
        let error = error.into();
        let text = format!("{} cannot take the request: {error}", self.routed);
        Error::new(ErrorKind::NoHealthyEndpoint, text).with_source(error)
    }

    /// The request, less the time it has waited.
    fn into_request(mut self) -> Request<B> {
        if self.limit.is_some() {
            let waited = Instant::now().saturating_duration_since(self.routed.started());
            if let Ok(Some(timeout)) = header_timeout(self.request.headers()) {
                let left = grpc::encode_timeout(timeout.saturating_sub(waited));
                self.request.headers_mut().insert(grpc::GRPC_TIMEOUT, left);
            }
            let options = self.request.extensions_mut().get_mut::<RequestOptions>();
            if let Some(timeout) = options.and_then(|options| options.timeout.as_mut()) {
                *timeout = timeout.saturating_sub(waited);
            }
        }
        self.request
    }
}

impl<S: Service<Request<B>>, B> fmt::Debug for RouteFuture<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteFuture")
            .field("routed", &self.waiting.as_ref().map(|waiting| &waiting.routed))
            .finish_non_exhaustive()
    }
}

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::{Request, Response};
use http_body::Body as HttpBody;
use pin_project::pin_project;
use tokio::time::{Instant, Sleep};
use tower_service::Service;

use super::body::{ReplayBody, RetryBody};
use super::call::{Call, Next, Outcome};
use crate::error::BoxError;
use crate::layer::ClassifyFailure;

/// How much of a response that nobody wants is read so that its connection can go on.
const DRAIN_BYTES: usize = 64 * 1024;

/// The response of a [`Retry`](super::Retry) on its way. Dropping it cancels the attempt that runs and makes no other.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct RetryFuture<S, B, RB, C>
where
    S: Service<Request<ReplayBody<B>>>,
{
    #[pin]
    state: State<S::Future, RB>,
    inner: S,
    call: Call<B, C>,
}

/// ```text
///   Attempt ──> (caller)
///    ^   │ ├──────────────> PutOff ──> (caller)
///    │   │ └──> Pause <───────┘
///    │   v        │
///   Unready <─────┘
/// ```
#[pin_project(project = StateProj)]
enum State<F, RB> {
    /// The inner service has to become ready for a further attempt.
    Unready,
    Attempt {
        #[pin]
        response: F,
        #[pin]
        limit: Option<Sleep>,
    },
    /// The budget is full.
    PutOff {
        #[pin]
        sleep: Sleep,
        delay: Duration,
        outcome: Option<Outcome<RB>>,
    },
    Pause {
        #[pin]
        sleep: Sleep,
        /// The response that is replaced.
        #[pin]
        replaced: Option<RB>,
        left: usize,
    },
}

impl<S, B, RB, C> RetryFuture<S, B, RB, C>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<RB>>,
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
    C: ClassifyFailure,
{
    /// `inner` is ready.
    pub(super) fn new(mut inner: S, mut call: Call<B, C>) -> Self {
        Self { state: State::attempt(&mut inner, &mut call), inner, call }
    }
}

impl<F, RB> State<F, RB> {
    fn attempt<S, B, C>(inner: &mut S, call: &mut Call<B, C>) -> Self
    where
        S: Service<Request<ReplayBody<B>>, Future = F>,
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
        C: ClassifyFailure,
    {
        // Before the call, so that no clock of the inner service began earlier.
        let limit = call.per_try_timeout().map(tokio::time::sleep);
        Self::Attempt { response: inner.call(call.request()), limit }
    }

    fn pause(delay: Duration, outcome: Outcome<RB>) -> Self {
        let replaced = outcome.ok().map(Response::into_body);
        Self::Pause { sleep: tokio::time::sleep(delay), replaced, left: DRAIN_BYTES }
    }
}

impl<S, B, RB, C> Future for RetryFuture<S, B, RB, C>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<RB>>,
    S::Error: Into<BoxError>,
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
    C: ClassifyFailure,
    RB: HttpBody,
{
    type Output = Result<Response<RetryBody<RB>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.state.as_mut().project() {
                StateProj::Unready => match ready!(this.inner.poll_ready(cx)) {
                    Ok(()) => State::attempt(this.inner, this.call),
                    Err(error) => return Poll::Ready(this.call.finish(Err(error.into()))),
                },
                StateProj::Attempt { response, limit } => {
                    let outcome = match response.poll(cx) {
                        // A client that knows the timeout from `grpc-timeout`, as tonic's does, may notice first.
                        Poll::Ready(Err(error)) if limit.as_ref().get_ref().as_ref().is_some_and(is_over) => {
                            Err(this.call.late(Some(error.into())))
                        }
                        Poll::Ready(result) => result.map_err(Into::into),
                        Poll::Pending => {
                            let Some(limit) = limit.as_pin_mut() else { return Poll::Pending };
                            ready!(limit.poll(cx));
                            Err(this.call.late(None))
                        }
                    };
                    match this.call.next(&outcome) {
                        Next::Return => return Poll::Ready(this.call.finish(outcome)),
                        Next::Resend => State::Unready,
                        Next::Retry(delay) => State::pause(delay, outcome),
                        Next::PutOff(delay) => {
                            State::PutOff { sleep: tokio::time::sleep(delay), delay, outcome: Some(outcome) }
                        }
                    }
                }
                StateProj::PutOff { sleep, delay, outcome } => {
                    ready!(sleep.poll(cx));
                    let outcome = outcome.take().expect("a future is not polled after its end");
                    if !this.call.claim_again() {
                        return Poll::Ready(this.call.finish(outcome));
                    }
                    State::pause(*delay, outcome)
                }
                StateProj::Pause { sleep, mut replaced, left } => {
                    if let Some(body) = replaced.as_mut().as_pin_mut()
                        && poll_drained(body, left, cx).is_ready()
                    {
                        replaced.set(None);
                    }
                    ready!(sleep.poll(cx));
                    State::Unready
                }
            };
            this.state.set(next);
        }
    }
}

fn is_over(limit: &Sleep) -> bool {
    Instant::now() >= limit.deadline()
}

/// Resolves when `body` is read to its end, or enough of it.
fn poll_drained<RB: HttpBody>(mut body: Pin<&mut RB>, left: &mut usize, cx: &mut Context<'_>) -> Poll<()> {
    while let Some(Ok(frame)) = ready!(body.as_mut().poll_frame(cx)) {
        let read = frame.data_ref().map_or(0, Buf::remaining);
        match left.checked_sub(read) {
            Some(rest) => *left = rest,
            None => break,
        }
    }
    Poll::Ready(())
}

impl<S, B, RB, C> fmt::Debug for RetryFuture<S, B, RB, C>
where
    S: Service<Request<ReplayBody<B>>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryFuture").finish_non_exhaustive()
    }
}

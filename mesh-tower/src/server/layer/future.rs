//! A handler on its way to its answer.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project::pin_project;
use tokio::time::{Instant, Sleep};

use super::answer::Answer;
use super::body::ServerBody;
use super::serving::{Call, Serving};
use crate::contain::contained;
use crate::telemetry::server::Refusal;

/// The answer of a [`ServerService`](super::ServerService) on its way. Dropping it drops the handler's future, and with
/// it whatever that waits for.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct ServerFuture<F>(#[pin] State<F>);

#[pin_project(project = StateProj)]
enum State<F> {
    Refused(Option<(Answer, Serving, Call)>),
    Handled(#[pin] Handled<F>),
    Over,
}

#[pin_project]
struct Handled<F> {
    #[pin]
    inner: F,
    /// Made on the first wait.
    #[pin]
    timer: Option<Sleep>,
    /// Until when there must be an answer, and why.
    until: Option<(Instant, Refusal)>,
    /// `None`: there was one.
    serving: Option<Serving>,
    call: Call,
}

impl<F> ServerFuture<F> {
    pub(super) fn refused(answer: Answer, serving: Serving, call: Call) -> Self {
        Self(State::Refused(Some((answer, serving, call))))
    }

    pub(super) fn handled(inner: F, until: Option<(Instant, Refusal)>, serving: Serving, call: Call) -> Self {
        Self(State::Handled(Handled { inner, timer: None, until, serving: Some(serving), call }))
    }
}

impl<F, B, E> Future for ServerFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
{
    type Output = Result<Response<ServerBody<B>>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = match self.as_mut().project().0.project() {
            StateProj::Refused(refused) => {
                let (answer, serving, call) = refused.take().expect("a future is not polled after its end");
                Ok(ServerBody::refusal(&answer, serving, &call))
            }
            StateProj::Handled(handled) => std::task::ready!(handled.poll(cx)),
            StateProj::Over => panic!("a future is not polled after its end"),
        };
        // What the handler leaves behind may panic once more.
        let _ = contained("the handler", || self.project().0.set(State::Over));
        Poll::Ready(result)
    }
}

impl<F> Handled<F> {
    fn poll<B, E>(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Response<ServerBody<B>>, E>>
    where
        F: Future<Output = Result<Response<B>, E>>,
        B: Body<Data = Bytes>,
    {
        let mut this = self.project();
        let serving = this.serving.as_mut().expect("a future is not polled after its end");
        let polled = serving.poll(|| this.inner.poll(cx));
        let refusal = match (&polled, serving.scope.verdict.take(), *this.until) {
            (None, ..) => Some(Refusal::Panic),
            (_, Some(why), _) => Some(why),
            (Some(Poll::Pending), None, Some((at, why))) => {
                if this.timer.is_none() {
                    this.timer.set(Some(tokio::time::sleep_until(at)));
                }
                let is_late = this.timer.as_pin_mut().is_some_and(|timer| timer.poll(cx).is_ready());
                is_late.then_some(why)
            }
            _ => None,
        };
        let finished = |serving: &mut Option<Serving>| serving.take().expect("it was there a moment ago");
        Poll::Ready(match (refusal, polled) {
            (Some(why), _) => Ok(ServerBody::refusal(&why.into(), finished(this.serving), this.call)),
            (None, Some(Poll::Ready(Ok(response)))) => {
                Ok(ServerBody::response(response, finished(this.serving), this.call))
            }
            (None, Some(Poll::Ready(Err(error)))) => Err(error),
            (None, Some(Poll::Pending) | None) => return Poll::Pending,
        })
    }
}

impl<F> fmt::Debug for ServerFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerFuture")
    }
}

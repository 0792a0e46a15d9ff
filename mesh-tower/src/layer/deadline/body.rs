use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;
use tokio::time::{Instant, Sleep};

use super::Bound;
use crate::error::BoxError;

/// A response body that fails when the request's deadline passes, and then lets go of the inner one.
#[pin_project]
pub struct DeadlineBody<B> {
    /// Gone once it is read to its end, failed or late.
    #[pin]
    inner: Option<B>,
    bound: Option<Bound>,
    /// Made on the first wait: most bodies are here with their heads.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl<B: Body> DeadlineBody<B> {
    pub(super) fn new(inner: B, bound: Option<Bound>) -> Self {
        Self { inner: Some(inner), bound, sleep: None }
    }
}

impl<B> Body for DeadlineBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let mut this = self.project();
        let Some(mut inner) = this.inner.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        let poll = inner.as_mut().poll_frame(cx);
        let ended = match &poll {
            Poll::Ready(None | Some(Err(_))) => true,
            Poll::Ready(Some(Ok(frame))) => frame.is_trailers() || inner.is_end_stream(),
            Poll::Pending => false,
        };
        if ended {
            // Kept until it says so itself: a body of trailers may have one more `None` to give.
            *this.bound = None;
            *this.sleep = None;
        }
        let Some(bound) = this.bound.as_ref() else { return poll.map_err(Into::into) };
        let passed = if poll.is_pending() {
            let sleep = this.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(bound.at)));
            sleep.as_mut().poll(cx).is_ready()
        } else {
            // A reader slower than the peer never waits.
            Instant::now() >= bound.at
        };
        if !passed {
            return poll.map_err(Into::into);
        }
        let error = bound.exceeded("before the end of the response");
        this.inner.set(None);
        Poll::Ready(Some(Err(error.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B: Default> Default for DeadlineBody<B> {
    /// The inner body's default, without a deadline: tonic's clients with an interceptor ask for one.
    fn default() -> Self {
        Self { inner: Some(B::default()), bound: None, sleep: None }
    }
}

impl<B> fmt::Debug for DeadlineBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadlineBody").field("bound", &self.bound).finish_non_exhaustive()
    }
}

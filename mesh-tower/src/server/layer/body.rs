//! The body of an answer.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::response::Parts;
use http::{HeaderMap, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use mesh_core::grpc;
use pin_project::pin_project;
use tokio::time::{Instant, Sleep};

use super::answer::Answer;
use super::serving::{Call, Serving};
use crate::error::BoxError;
use crate::telemetry::server::Refusal;

/// The body of an answer that went through a [`ServerLayer`](super::ServerLayer): the handler's, or a few bytes of the
/// layer's own.
///
/// A gRPC answer ends in the trailers of a status where its caller's deadline passes, its handler panics, or a message
/// of the call is too large; any other breaks with an error if its handler panics.
#[pin_project]
pub struct ServerBody<B>(#[pin] Kind<B>);

#[pin_project(project = KindProj)]
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is the common one, and boxing it would cost an allocation"
)]
enum Kind<B> {
    Handlers(#[pin] Handlers<B>),
    Ours(Bytes),
    Ended,
}

#[pin_project]
struct Handlers<B> {
    #[pin]
    inner: B,
    /// Made on the first wait.
    #[pin]
    timer: Option<Sleep>,
    /// When a gRPC call is over.
    until: Option<Instant>,
    /// `None`: its end was told.
    serving: Option<Serving>,
    /// What is left of a body whose length is known. Whoever sends it may stop asking once it is there.
    left: Option<u64>,
    is_grpc: bool,
}

/// The handler panicked while its answer was on its way.
#[derive(Debug, thiserror::Error)]
#[error("the handler panicked; its answer is cut")]
struct Cut;

impl<B> ServerBody<B> {
    /// An answer of our own.
    pub(super) fn refusal(answer: &Answer, mut serving: Serving, call: &Call) -> Response<Self> {
        let (head, text) = answer.response(call.is_grpc).into_parts();
        let received = &mut serving.received;
        received.refused(answer.why);
        received.answered(&head);
        received.sent(text.len());
        received.ended(None);
        Response::from_parts(head, Self(Kind::Ours(text)))
    }
}

impl<B: Body> ServerBody<B> {
    /// The handler's answer.
    pub(super) fn response(response: Response<B>, mut serving: Serving, call: &Call) -> Response<Self> {
        let (head, inner) = response.into_parts();
        serving.received.answered(&head);
        if serving.claim.is_some() && grpc::is_grpc(&head.headers) {
            serving.confirm();
        }
        let left = if call.is_grpc { None } else { length(&head, &inner) };
        let ended = inner.is_end_stream() || left == Some(0) || call.is_head || has_no_body(head.status);
        if ended {
            serving.received.ended(None);
        }
        let until = call.deadline.filter(|_| !ended);
        // What it sends from now on has the caller's deadline alone.
        serving.scope.deadline = serving.scope.deadline.and(until);
        let serving = (!ended).then_some(serving);
        let handlers = Handlers { inner, timer: None, until, serving, left, is_grpc: call.is_grpc };
        Response::from_parts(head, Self(Kind::Handlers(handlers)))
    }
}

/// How long the body will be, if that is known.
fn length<B: Body>(head: &Parts, body: &B) -> Option<u64> {
    let told = || head.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok();
    body.size_hint().exact().or_else(told)
}

/// RFC 9110 6.4.1.
fn has_no_body(status: StatusCode) -> bool {
    status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

/// How the answer goes on in place of the handler's next frame.
enum Instead {
    Trailers(HeaderMap),
    Error(BoxError),
}

impl<B> Body for ServerBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let instead = match self.as_mut().project().0.project() {
            KindProj::Handlers(handlers) => match handlers.poll_frame(cx) {
                Ok(poll) => return poll,
                Err(instead) => instead,
            },
            KindProj::Ours(text) => {
                let text = std::mem::take(text);
                self.project().0.set(Kind::Ended);
                return Poll::Ready((!text.is_empty()).then(|| Ok(Frame::data(text))));
            }
            KindProj::Ended => return Poll::Ready(None),
        };
        self.project().0.set(Kind::Ended);
        Poll::Ready(Some(match instead {
            Instead::Trailers(trailers) => Ok(Frame::trailers(trailers)),
            Instead::Error(error) => Err(error),
        }))
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Handlers(handlers) => handlers.inner.is_end_stream(),
            Kind::Ours(text) => text.is_empty(),
            Kind::Ended => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Handlers(handlers) => handlers.inner.size_hint(),
            Kind::Ours(text) => SizeHint::with_exact(text.len() as u64),
            Kind::Ended => SizeHint::with_exact(0),
        }
    }
}

impl<B> Handlers<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    #[expect(clippy::type_complexity, reason = "it is what a body says")]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Result<Poll<Option<Result<Frame<Bytes>, BoxError>>>, Instead> {
        let mut this = self.project();
        let Some(serving) = this.serving else {
            return Ok(this.inner.poll_frame(cx).map_err(Into::into));
        };
        let Some(polled) = serving.poll(|| this.inner.as_mut().poll_frame(cx)) else {
            return Err(cut(this.serving.take(), Refusal::Panic, *this.is_grpc));
        };
        if let Some(why) = serving.scope.verdict.take() {
            if *this.is_grpc {
                return Err(cut(this.serving.take(), why, true));
            }
            // The handler has answered: it has been told, and may make of it what it likes.
            serving.received.refused(why);
        }
        let ended = match &polled {
            Poll::Ready(None) => Some(None),
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    serving.received.sent(data.len());
                    *this.left = this.left.map(|left| left.saturating_sub(data.len() as u64));
                }
                let over = frame.is_trailers() || this.inner.is_end_stream() || *this.left == Some(0);
                over.then(|| frame.trailers_ref())
            }
            Poll::Ready(Some(Err(_))) => {
                // Nobody knows how it would have ended.
                *this.serving = None;
                return Ok(polled.map_err(Into::into));
            }
            Poll::Pending => None,
        };
        if let Some(trailers) = ended {
            serving.received.ended(trailers);
            *this.serving = None;
            return Ok(polled.map_err(Into::into));
        }
        let Some(until) = *this.until else { return Ok(polled.map_err(Into::into)) };
        let is_late = if polled.is_pending() {
            if this.timer.is_none() {
                this.timer.set(Some(tokio::time::sleep_until(until)));
            }
            this.timer.as_pin_mut().is_some_and(|timer| timer.poll(cx).is_ready())
        } else {
            // A reader slower than the handler never waits.
            Instant::now() >= until
        };
        if is_late {
            return Err(cut(this.serving.take(), Refusal::Deadline, *this.is_grpc));
        }
        Ok(polled.map_err(Into::into))
    }
}

/// Ends an answer whose head is out.
fn cut(serving: Option<Serving>, why: Refusal, is_grpc: bool) -> Instead {
    let trailers = is_grpc.then(|| Answer::from(why).trailers());
    if let Some(mut serving) = serving {
        serving.received.refused(why);
        if trailers.is_some() {
            serving.received.ended(trailers.as_ref());
        }
    }
    trailers.map_or_else(|| Instead::Error(Cut.into()), Instead::Trailers)
}

impl<B> fmt::Debug for ServerBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.0 {
            Kind::Handlers(_) => "of the handler",
            Kind::Ours(_) => "of the layer",
            Kind::Ended => "ended",
        };
        f.debug_tuple("ServerBody").field(&kind).finish()
    }
}

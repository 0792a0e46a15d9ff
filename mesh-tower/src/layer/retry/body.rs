use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use mesh_core::grpc::{self, Code};
use mesh_core::resilience::throttle::Throttle;
use pin_project::pin_project;

use super::limits::InFlight;
use crate::error::BoxError;
use crate::net::h1::Attempt;

/// The body of one attempt: the caller's, read from its first byte each time.
///
/// What an attempt reads is kept for the next one, up to the policy's cap. Once the next attempt has begun, the body of
/// the one before gives only an error, so that whoever still sends it gives up.
pub struct ReplayBody<B>(Option<Attempt<B>>);

impl<B> ReplayBody<B> {
    /// `None` if there is not a byte.
    pub(super) fn new(attempt: Option<Attempt<B>>) -> Self {
        Self(attempt)
    }
}

impl<B> Body for ReplayBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.get_mut().0 {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B> fmt::Debug for ReplayBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayBody").field("is_empty", &self.0.is_none()).finish_non_exhaustive()
    }
}

/// A response body that counts its request until it is read to its end or dropped.
#[pin_project]
pub struct RetryBody<B> {
    #[pin]
    inner: B,
    guard: Option<Guard>,
}

/// What a response holds on to.
pub(super) struct Guard {
    pub(super) in_flight: Option<InFlight>,
    pub(super) throttle: Option<Arc<Throttle>>,
    pub(super) status: StatusCode,
    pub(super) grpc: bool,
}

impl Guard {
    /// The response was received whole.
    fn complete(self, code: Option<Code>) {
        let succeeded = if self.grpc { code == Some(Code::Ok) } else { !self.status.is_server_error() };
        if let Some(throttle) = self.throttle.filter(|_| succeeded) {
            throttle.succeeded();
        }
        drop(self.in_flight);
    }
}

impl<B: Body> RetryBody<B> {
    /// `code`: gRPC's, if the head settled it.
    pub(super) fn new(inner: B, guard: Guard, code: Option<Code>) -> Self {
        if inner.is_end_stream() {
            guard.complete(code);
            return Self { inner, guard: None };
        }
        Self { inner, guard: Some(guard) }
    }
}

impl<B: Body> Body for RetryBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.inner.as_mut().poll_frame(cx));
        let guard = match &frame {
            Some(Ok(frame)) if frame.is_trailers() || this.inner.is_end_stream() => this.guard.take(),
            Some(Ok(_)) => None,
            None | Some(Err(_)) => this.guard.take(),
        };
        match (guard, &frame) {
            (Some(guard), Some(Ok(frame))) => guard.complete(frame.trailers_ref().and_then(grpc::status)),
            (Some(guard), None) => guard.complete(None),
            // Broken: no success, and no longer under way.
            (guard, _) => drop(guard),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B: Default> Default for RetryBody<B> {
    /// The inner body's default: tonic's clients with an interceptor ask for one.
    fn default() -> Self {
        Self { inner: B::default(), guard: None }
    }
}

impl<B> fmt::Debug for RetryBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryBody").finish_non_exhaustive()
    }
}

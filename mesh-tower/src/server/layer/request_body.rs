//! The body of a request, within the limits of its server.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use mesh_core::inbound::{MessageMeter, remove_identity_headers};
use mesh_core::model::{ForwardedIdentity, ServerLimits};
use pin_project::pin_project;
use tokio::time::{Instant, Sleep};

use super::claim::Claim;
use super::scope;
use crate::error::BoxError;
use crate::net::after;
use crate::telemetry::server::Refusal;

/// The body of a request, as a handler behind a [`ServerLayer`](super::ServerLayer) gets it.
///
/// It ends in a [`RequestBodyError`] where a limit of the server is reached. As long as the handler has not answered, its
/// caller is told by the layer (413, 408, or RESOURCE_EXHAUSTED); only where the body is read by a task that the handler
/// spawned, that is left to the handler.
#[pin_project]
pub struct RequestBody<B = Incoming> {
    #[pin]
    inner: B,
    /// Made on the first wait, and kept: most bodies are here at once, and those that are not wait more than once.
    #[pin]
    timer: Option<Sleep>,
    /// Since when its next piece is waited for.
    since: Option<Instant>,
    timeout: Option<Duration>,
    meter: Meter,
    /// Of a gRPC call that is bound as HTTP is until its handler is known.
    claim: Option<Claim>,
    /// Which request it is of.
    request: u64,
    forwarded: Forwarded,
    failed: bool,
}

/// Why the body of a request ends before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestBodyError {
    /// It has more bytes than the server takes.
    #[error("the body of the request has more bytes than the server's `max_body_bytes` allows")]
    TooLarge,
    /// A message in it is longer than the server takes.
    #[error("a message has more bytes than the server's `max_message_bytes` allows")]
    MessageTooLarge,
    /// Its next piece did not come in time.
    #[error("the next piece of the request's body did not come within the server's `body_timeout`")]
    Timeout,
}

/// What becomes of trailers that say who the caller is.
pub(super) enum Forwarded {
    Believed,
    Removed,
    /// These too.
    RemovedWith(Arc<[HeaderName]>),
}

impl Forwarded {
    pub(super) fn new(forwarded: &ForwardedIdentity, is_trusted: bool) -> Self {
        match (is_trusted, forwarded.headers.is_empty()) {
            (true, _) => Self::Believed,
            (false, true) => Self::Removed,
            (false, false) => Self::RemovedWith(Arc::clone(&forwarded.headers)),
        }
    }

    fn remove_from(&self, trailers: &mut HeaderMap) {
        match self {
            Self::Believed => {}
            Self::Removed => remove_identity_headers(trailers, &[]),
            Self::RemovedWith(more) => remove_identity_headers(trailers, more),
        }
    }
}

/// What is counted of a body.
struct Meter {
    /// How many bytes may still come.
    left: Option<u64>,
    messages: Option<MessageMeter>,
}

/// Whose limits hold for a body.
pub(super) enum Bounds {
    Http,
    Grpc,
    /// Both, until the claim is confirmed.
    Either(Claim),
}

impl<B> RequestBody<B> {
    pub(super) fn new(inner: B, request: u64, bounds: Bounds, forwarded: Forwarded, limits: &ServerLimits) -> Self {
        let (is_http, is_grpc) = match &bounds {
            Bounds::Http => (true, false),
            Bounds::Grpc => (false, true),
            Bounds::Either(_) => (true, true),
        };
        let claim = if let Bounds::Either(claim) = bounds { Some(claim) } else { None };
        Self {
            inner,
            timer: None,
            since: None,
            timeout: limits.body_timeout.filter(|_| is_http),
            meter: Meter {
                left: limits.max_body_bytes.filter(|_| is_http),
                messages: limits.max_message_bytes.filter(|_| is_grpc).map(MessageMeter::new),
            },
            claim,
            request,
            forwarded,
            failed: false,
        }
    }
}

/// Whether the limits of HTTP hold no longer, which is asked when one of them is reached.
fn is_confirmed(claim: Option<&Claim>, request: u64) -> bool {
    claim.is_some_and(|claim| claim.is_confirmed() || scope::is_confirmed(request))
}

impl Meter {
    fn push(&mut self, piece: &[u8], is_confirmed: impl FnOnce() -> bool) -> Result<(), RequestBodyError> {
        let length = piece.len() as u64;
        if let Some(left) = &mut self.left {
            match left.checked_sub(length) {
                Some(rest) => *left = rest,
                None if is_confirmed() => self.left = None,
                None => return Err(RequestBodyError::TooLarge),
            }
        }
        let Some(messages) = &mut self.messages else { return Ok(()) };
        messages.push(piece).map_err(|_| RequestBodyError::MessageTooLarge)
    }
}

impl RequestBodyError {
    fn refusal(self) -> Refusal {
        match self {
            Self::TooLarge => Refusal::BodySize,
            Self::MessageTooLarge => Refusal::MessageSize,
            Self::Timeout => Refusal::BodyTimeout,
        }
    }
}

impl<B> Body for RequestBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        if *this.failed {
            return Poll::Ready(None);
        }
        let result = match this.inner.poll_frame(cx) {
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(Some(Ok(mut frame))) => {
                *this.since = None;
                match frame.data_ref() {
                    Some(data) => {
                        scope::received(*this.request, data.len());
                        let is_confirmed = || is_confirmed(this.claim.as_ref(), *this.request);
                        this.meter.push(data, is_confirmed).map(|()| frame)
                    }
                    None => {
                        frame.trailers_mut().into_iter().for_each(|trailers| this.forwarded.remove_from(trailers));
                        Ok(frame)
                    }
                }
            }
            Poll::Pending => {
                let Some(timeout) = *this.timeout else { return Poll::Pending };
                let at = after(*this.since.get_or_insert_with(Instant::now), timeout);
                if this.timer.is_none() {
                    this.timer.set(Some(tokio::time::sleep_until(at)));
                }
                loop {
                    let Some(mut timer) = this.timer.as_mut().as_pin_mut() else { return Poll::Pending };
                    std::task::ready!(timer.as_mut().poll(cx));
                    if timer.deadline() >= at {
                        if is_confirmed(this.claim.as_ref(), *this.request) {
                            *this.timeout = None;
                            return Poll::Pending;
                        }
                        break Err(RequestBodyError::Timeout);
                    }
                    // It was for an earlier piece.
                    timer.reset(at);
                }
            }
        };
        Poll::Ready(Some(result.map_err(|error| {
            *this.failed = true;
            scope::refuse(*this.request, error.refusal());
            error.into()
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.failed || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.failed { SizeHint::with_exact(0) } else { self.inner.size_hint() }
    }
}

impl<B> fmt::Debug for RequestBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody").field("failed", &self.failed).finish_non_exhaustive()
    }
}

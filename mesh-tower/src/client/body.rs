use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use mesh_core::classify::{Attempt, Failure};
use mesh_core::grpc::{self, Code};
use mesh_core::observe::Outcome;
use tokio::time::{Instant, Sleep};

use super::attempt::Rest;
use super::context::Context;
use super::serving::Serving;
use crate::error::{Error, ErrorKind};
use crate::net::pool::Slot;

/// The body of a response.
///
/// It holds the request's place on its connection until it is read to its end or dropped. Dropping it early cancels
/// the exchange: over HTTP/2 the stream is reset, over HTTP/1.1 the connection is closed. The request's deadline holds
/// for it too.
pub struct Body {
    inner: Inner,
    guard: Option<Guard>,
    deadline: Option<Deadline>,
    /// Whether anybody asked for a byte of it.
    begun: bool,
}

/// Why there is no whole response.
const LATE: &str = "the deadline passed before the end of the response";

/// Where the bytes come from.
pub(super) enum Inner {
    Done,
    Text(Bytes),
    H2 { stream: RecvStream, remaining: Option<u64> },
    H1(Incoming),
}

impl Inner {
    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Done => true,
            Self::Text(text) => text.is_empty(),
            Self::H2 { stream, .. } => stream.is_end_stream(),
            Self::H1(incoming) => incoming.is_end_stream(),
        }
    }
}

/// What a response holds on to.
pub(super) struct Guard {
    pub(super) context: Context,
    pub(super) serving: Serving,
    pub(super) slot: Slot,
    pub(super) status: StatusCode,
    pub(super) grpc: bool,
    /// The rest of the request body on its way.
    pub(super) upload: Option<Rest>,
}

impl Guard {
    /// The response was received whole.
    ///
    /// `headers` hold gRPC's status: trailers, or those of a head without a body.
    pub(super) fn complete(mut self, headers: Option<&HeaderMap>) {
        let code = headers.and_then(grpc::status);
        if let Some(upload) = self.upload.take() {
            // Once gRPC's status is here nobody reads what the caller still sends.
            if self.grpc { upload.abort() } else { upload.linger() }
        }
        let succeeded = if self.grpc { code == Some(Code::Ok) } else { !self.status.is_server_error() };
        if succeeded && let Some(throttle) = self.context.virtual_host.throttle() {
            throttle.succeeded();
        }
        let none = HeaderMap::new();
        let headers_seen = headers.unwrap_or(&none);
        self.serving.judge(&Attempt::Response { status: self.status, headers: headers_seen, end_of_stream: true });
        drop(self.serving);
        match self.slot {
            Slot::H1(lease) => lease.finish(),
            Slot::H2(permit) => drop(permit),
        }
        self.context.finish(Outcome::Response { status: self.status, grpc: code }, headers);
    }

    /// The response broke off.
    fn fail(mut self, kind: ErrorKind, failure: Failure) {
        self.serving.judge(&Attempt::Failed(failure));
        self.abandon();
        self.context.finish(Outcome::Failed(kind), None);
    }

    fn abandon(&self) {
        if let Some(upload) = &self.upload {
            upload.abort();
        }
    }
}

struct Deadline {
    at: Instant,
    /// Made on the first wait: most bodies are here with their heads.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Body {
    pub(super) fn new(inner: Inner, guard: Guard, deadline: Option<Instant>) -> Self {
        let deadline = deadline.map(|at| Deadline { at, sleep: None });
        Self { inner, guard: Some(guard), deadline, begun: false }
    }

    /// A body of one text.
    pub(crate) fn text(text: impl Into<Bytes>) -> Self {
        Self { inner: Inner::Text(text.into()), guard: None, deadline: None, begun: false }
    }

    /// A body without a byte.
    pub(super) fn empty() -> Self {
        Self { inner: Inner::Done, guard: None, deadline: None, begun: false }
    }

    /// The rest of the body in one piece, however large it is; trailers are dropped. Wrap the body in
    /// `http_body_util::Limited` where the peer is not trusted.
    ///
    /// # Errors
    /// If the body breaks off, or the deadline passes.
    pub async fn bytes(self) -> Result<Bytes, Error> {
        http_body_util::BodyExt::collect(self).await.map(http_body_util::Collected::to_bytes)
    }

    /// The rest of the body as text; what is not UTF-8 is replaced by U+FFFD.
    ///
    /// # Errors
    /// If the body breaks off, or the deadline passes.
    pub async fn string(self) -> Result<String, Error> {
        let bytes = self.bytes().await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn complete(&mut self, trailers: Option<&HeaderMap>) {
        self.inner = Inner::Done;
        self.deadline = None;
        if let Some(guard) = self.guard.take() {
            guard.complete(trailers);
        }
    }

    fn fail(&mut self, kind: ErrorKind, failure: Failure, text: &str) -> Error {
        let place = self.guard.as_ref().map(|guard| {
            let endpoint = guard.serving.endpoint().address();
            format!(" from {} at {endpoint}", guard.context.place())
        });
        self.inner = Inner::Done;
        self.deadline = None;
        if let Some(guard) = self.guard.take() {
            guard.fail(kind, failure);
        }
        Error::new(kind, format!("{text}{}", place.unwrap_or_default()))
    }

    fn poll_inner(&mut self, cx: &mut TaskContext<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match &mut self.inner {
            Inner::Done => Poll::Ready(None),
            Inner::Text(text) => {
                let text = std::mem::take(text);
                self.inner = Inner::Done;
                Poll::Ready((!text.is_empty()).then(|| Ok(Frame::data(text))))
            }
            Inner::H2 { stream, remaining } => match ready!(stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // An error here means that the stream is gone; the next poll tells.
                    let _ = stream.flow_control().release_capacity(data.len());
                    if let Some(remaining) = remaining {
                        *remaining = remaining.saturating_sub(data.len() as u64);
                    }
                    let grpc = self.guard.as_ref().is_some_and(|guard| guard.grpc);
                    if !grpc && stream.is_end_stream() {
                        self.complete(None);
                    }
                    Poll::Ready(Some(Ok(Frame::data(data))))
                }
                Some(Err(error)) => Poll::Ready(Some(Err(self.h2_error(error)))),
                None => match ready!(stream.poll_trailers(cx)) {
                    Ok(trailers) => {
                        self.complete(trailers.as_ref());
                        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
                    }
                    Err(error) => Poll::Ready(Some(Err(self.h2_error(error)))),
                },
            },
            Inner::H1(incoming) => match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    let ended = incoming.is_end_stream();
                    if let Some(trailers) = frame.trailers_ref() {
                        let trailers = trailers.clone();
                        self.complete(Some(&trailers));
                    } else if ended {
                        self.complete(None);
                    }
                    Poll::Ready(Some(Ok(frame)))
                }
                Some(Err(error)) => {
                    let failed = self.fail(ErrorKind::Reset, Failure::Reset(None), "the response broke off");
                    Poll::Ready(Some(Err(failed.with_source(error))))
                }
                None => {
                    self.complete(None);
                    Poll::Ready(None)
                }
            },
        }
    }

    fn h2_error(&mut self, error: h2::Error) -> Error {
        let kind = if error.is_library() { ErrorKind::Protocol } else { ErrorKind::Reset };
        let code = super::attempt::h2_code(&error);
        // A server keeps the deadline by its own clock and then resets with CANCEL, which may be heard before our timer
        // rings. It is no cancellation (`grpc_http2_error_to_grpc_status` in gRPC's core).
        if code == Code::Cancelled && self.deadline.as_ref().is_some_and(|deadline| Instant::now() >= deadline.at) {
            let failed = self.fail(ErrorKind::DeadlineExceeded, Failure::PerTryTimeout, LATE);
            return failed.with_source(error);
        }
        let failed = self.fail(kind, Failure::Reset(None), "the response broke off");
        failed.with_code(code).with_source(error)
    }
}

impl Default for Body {
    /// A body without a byte.
    fn default() -> Self {
        Self::empty()
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        this.begun = true;
        let poll = this.poll_inner(cx);
        // There is none any more once the response is whole or broken.
        let Some(deadline) = &mut this.deadline else { return poll };
        let at = deadline.at;
        let (passed, failure) = if poll.is_pending() {
            let sleep = deadline.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
            (sleep.as_mut().poll(cx).is_ready(), Failure::PerTryTimeout)
        } else {
            // A reader slower than the peer never waits, and is to blame.
            (Instant::now() >= at, Failure::Local)
        };
        if passed {
            let error = this.fail(ErrorKind::DeadlineExceeded, failure, LATE);
            return Poll::Ready(Some(Err(error)));
        }
        poll
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Done => SizeHint::with_exact(0),
            Inner::Text(text) => SizeHint::with_exact(text.len() as u64),
            Inner::H2 { remaining: Some(remaining), .. } => SizeHint::with_exact(*remaining),
            Inner::H2 { .. } => SizeHint::default(),
            Inner::H1(incoming) => incoming.size_hint(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let Some(guard) = self.guard.take() else { return };
        guard.abandon();
        // Whoever looks at the status of an HTTP response alone has what they asked for. Of gRPC nothing is known yet.
        if !guard.grpc && !self.begun {
            guard.context.finish(Outcome::Response { status: guard.status, grpc: None }, None);
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("is_end_stream", &self.is_end_stream()).finish_non_exhaustive()
    }
}

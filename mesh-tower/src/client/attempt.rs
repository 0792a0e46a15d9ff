//! One attempt: a head and a body go out on a place, a response head or a failure comes back.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, header};
use http_body::Body as HttpBody;
use mesh_core::classify::Failure;
use mesh_core::grpc::{self, Code};
use mesh_core::resilience::replay::Replay;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::body::Inner;
use super::head::{Head, PerAttempt};
use super::pick::Place;
use crate::error::{BoxError, Error, ErrorKind};
use crate::net::h1::{self, Lease, SharedBody};
use crate::net::h2::{self, Permit, Upload};
use crate::net::pool::Slot;
use crate::net::{Tasks, pool};

/// The request body through all attempts.
pub(super) enum RequestBody<B> {
    /// Read by the request itself.
    Own(Replay<B>),
    /// Shared with the HTTP/1.1 connection that hyper reads it for.
    Shared(SharedBody<B>),
    /// On its way with a response that the caller has.
    Gone,
}

impl<B> RequestBody<B>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Whether it can be sent once more.
    pub(super) fn is_replayable(&self) -> bool {
        match self {
            Self::Own(body) => body.is_replayable(),
            Self::Shared(body) => body.with(|body| body.is_replayable()),
            Self::Gone => false,
        }
    }

    /// Begins again from the first byte.
    pub(super) fn rewind(&mut self) -> bool {
        match self {
            Self::Own(body) => body.rewind(),
            Self::Shared(body) => body.rewind(),
            Self::Gone => false,
        }
    }

    fn share(&mut self) -> Option<&SharedBody<B>> {
        if let Self::Own(_) = self
            && let Self::Own(body) = std::mem::replace(self, Self::Gone)
        {
            *self = Self::Shared(SharedBody::new(body));
        }
        match self {
            Self::Shared(body) => Some(body),
            _ => None,
        }
    }

    /// Lets go of what was kept for a resend: the response that just came is the caller's.
    pub(super) fn commit(&mut self) {
        match self {
            Self::Own(body) => body.commit(),
            Self::Shared(body) => body.with(Replay::commit),
            Self::Gone => {}
        }
    }
}

/// A response head with its body, and the rest of the request body where that is still on its way.
pub(super) struct Received {
    pub(super) parts: Parts,
    pub(super) body: Inner,
    pub(super) upload: Option<Upload>,
}

/// Why there is none.
pub(super) struct Failed {
    pub(super) failure: Failure,
    pub(super) error: Error,
}

impl Failed {
    pub(super) fn new(failure: Failure, error: Error) -> Self {
        Self { failure, error }
    }

    /// Whether the HTTP/2 connection it happened on takes no more requests.
    pub(super) fn is_going_away(&self) -> bool {
        let source = std::error::Error::source(&self.error).and_then(|source| source.downcast_ref::<::h2::Error>());
        self.failure == Failure::NotSent || source.is_some_and(|error| error.is_go_away() || error.is_io())
    }
}

/// Sends one attempt.
pub(super) async fn send<B>(
    head: &Head,
    per_attempt: &PerAttempt<'_>,
    body: &mut RequestBody<B>,
    place: &mut Place,
    tls: bool,
) -> Result<Received, Failed>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    match &mut place.slot {
        Slot::H2(permit) => {
            let result = send_h2(head, per_attempt, body, permit, tls).await;
            if matches!(&result, Err(failed) if failed.is_going_away()) {
                pool::retire(place.serving.endpoint(), permit.conn());
            }
            result
        }
        Slot::H1(lease) => send_h1(head, per_attempt, body, lease).await,
    }
}

async fn send_h2<B>(
    head: &Head,
    per_attempt: &PerAttempt<'_>,
    body: &mut RequestBody<B>,
    permit: &Permit,
    tls: bool,
) -> Result<Received, Failed>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let request = head.http2(tls, per_attempt);
    let result = match body {
        RequestBody::Own(body) => permit.exchange(request, body).await.map_err(h2_failed),
        RequestBody::Shared(body) => permit.exchange(request, &mut body.attempt()).await.map_err(h2_failed),
        RequestBody::Gone => Err(body_failed("the body is gone")),
    };
    let (response, upload) = result?;
    let (parts, stream) = response.into_parts();
    let remaining = content_length(&parts.headers);
    Ok(Received { parts, body: Inner::H2 { stream, remaining }, upload })
}

/// The caller's own body is at fault.
fn body_failed(error: impl Into<BoxError>) -> Failed {
    Failed::new(Failure::Local, Error::new(ErrorKind::RequestBody, "the request body failed").with_source(error))
}

fn h2_failed<E: Into<BoxError>>(error: h2::ExchangeError<E>) -> Failed {
    let (failure, kind, error) = match error {
        h2::ExchangeError::Body(error) => {
            return body_failed(error);
        }
        h2::ExchangeError::Invalid(error) => (Failure::Local, ErrorKind::InvalidRequest, error),
        h2::ExchangeError::NotSent(error) => (Failure::NotSent, ErrorKind::Refused, error),
        h2::ExchangeError::Failed(error) if h2::is_refused(&error) => (Failure::Refused, ErrorKind::Refused, error),
        h2::ExchangeError::Failed(error) => {
            let kind = if error.is_library() { ErrorKind::Protocol } else { ErrorKind::Reset };
            let code = error.is_reset().then(|| h2_code(&error));
            (Failure::Reset(code), kind, error)
        }
    };
    let text = match failure {
        Failure::NotSent => "the connection was closing before the request could be put on it",
        Failure::Refused => "the peer refused the request unprocessed",
        Failure::Local => "the request cannot be sent as HTTP/2",
        _ => "the stream broke before a response",
    };
    let code = if let Failure::Reset(_) = failure { h2_code(&error) } else { kind.grpc_code() };
    Failed::new(failure, Error::new(kind, text).with_code(code).with_source(error))
}

/// gRPC's code for a broken stream: by the reason of a reset, UNAVAILABLE for a broken connection.
pub(super) fn h2_code(error: &::h2::Error) -> Code {
    match error.reason() {
        Some(reason) if error.is_reset() => grpc::code_of_h2_reason(reason.into()),
        _ => Code::Unavailable,
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn send_h1<B>(
    head: &Head,
    per_attempt: &PerAttempt<'_>,
    body: &mut RequestBody<B>,
    lease: &mut Lease,
) -> Result<Received, Failed>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let (wire, shared) = match body {
        // Nothing to send, nothing to share.
        RequestBody::Own(body) if body.is_end_stream() => (h1::empty_body(), None),
        body => match body.share() {
            Some(shared) => (shared.attempt(), Some(shared)),
            None => return Err(body_failed("the body is gone")),
        },
    };
    let request = head.http1(per_attempt).map(|()| wire);
    let reused = lease.is_reused();
    let body_error = || shared.and_then(SharedBody::take_error);
    let response = lease.exchange(request).await.map_err(|error| match (error, body_error()) {
        (_, Some(error)) => body_failed(error),
        (h1::ExchangeError::NotSent(error), None) => {
            let failed = match error.as_ref().and_then(h1::alert) {
                Some(alert) => format!("the peer did not let us in, by the TLS alert {alert:?}"),
                None => "the connection closed before the request was written".to_owned(),
            };
            let failed = Error::new(ErrorKind::Refused, failed);
            let failed = match error {
                Some(error) => failed.with_source(error),
                None => failed,
            };
            Failed::new(Failure::NotSent, failed)
        }
        (h1::ExchangeError::Failed(error), None) => h1_failed(error, reused && head.method().is_idempotent()),
    })?;
    let (mut parts, incoming) = response.into_parts();
    if parts.status == http::StatusCode::SWITCHING_PROTOCOLS {
        let text = "the server answered 101 to a request that did not ask for an upgrade";
        return Err(Failed::new(Failure::Reset(None), Error::new(ErrorKind::Protocol, text)));
    }
    super::head::remove_hop_by_hop(&mut parts.headers);
    Ok(Received { parts, body: Inner::H1(incoming), upload: None })
}

/// `stale`: the connection had served before and the method is idempotent. A server may close an idle connection just
/// as we write; then the request may go out again on another one (RFC 9110 9.2.2, RFC 9112 9.3.1).
fn h1_failed(error: hyper::Error, stale: bool) -> Failed {
    if error.is_parse() {
        let failed = Error::new(ErrorKind::Protocol, "the response is not HTTP/1.1").with_source(error);
        return Failed::new(Failure::Reset(None), failed);
    }
    // hyper counts a connection task that is gone among the user's errors.
    let gone = error.to_string().contains("dispatch task is gone");
    if error.is_user() && !error.is_body_write_aborted() && !gone {
        let failed = Error::new(ErrorKind::InvalidRequest, "the request cannot be sent as HTTP/1.1").with_source(error);
        return Failed::new(Failure::Local, failed);
    }
    let failure = if stale { Failure::Refused } else { Failure::Reset(None) };
    Failed::new(failure, Error::new(ErrorKind::Reset, "the connection broke before a response").with_source(error))
}

/// How long a request body may go on to be sent after its response has ended, where no deadline says so.
const LINGER: Duration = Duration::from_secs(30);

/// The rest of a request body on its way, after the response head.
pub(super) struct Rest {
    task: AbortHandle,
    ended: oneshot::Sender<()>,
}

impl Rest {
    /// The response has ended: in HTTP somebody may still read what is sent, but not for ever.
    pub(super) fn linger(self) {
        // It may have ended by itself.
        let _ = self.ended.send(());
    }

    /// Nobody reads it any more.
    pub(super) fn abort(&self) {
        self.task.abort();
    }
}

/// Sends the rest of a request body whose response the caller already has, until `deadline`.
pub(super) fn spawn_upload<B>(
    tasks: &Tasks,
    upload: Upload,
    body: &mut RequestBody<B>,
    deadline: Option<Instant>,
) -> Option<Rest>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let (sender, ended) = oneshot::channel();
    let task = match std::mem::replace(body, RequestBody::Gone) {
        RequestBody::Own(body) => tasks.spawn(send_rest(upload, body, deadline, ended)),
        RequestBody::Shared(body) => tasks.spawn(send_rest(upload, body.attempt(), deadline, ended)),
        RequestBody::Gone => return None,
    };
    Some(Rest { task, ended: sender })
}

async fn send_rest<B: HttpBody<Data = Bytes> + Unpin>(
    mut upload: Upload,
    mut body: B,
    deadline: Option<Instant>,
    ended: oneshot::Receiver<()>,
) {
    let bound = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            // Without a word the response goes on, or takes this task with it.
            None if ended.await.is_ok() => tokio::time::sleep(LINGER).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        // An error resets the stream, and the response tells.
        _ = poll_fn(|cx| upload.poll_send(cx, &mut body)) => {}
        () = bound => {}
    }
}

/// How much of a response that nobody wants is read so that its connection can go on.
const DRAIN_BYTES: usize = 64 * 1024;
/// How long that may take.
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// Reads a response that a retry replaced, so that an HTTP/1.1 connection can be used again and an HTTP/2 peer is not
/// sent a reset for each of them. Past the bounds the exchange is cancelled.
pub(super) fn discard(tasks: &Tasks, mut body: Inner, slot: Slot) {
    if body.is_end_stream() {
        if let Slot::H1(lease) = slot {
            lease.finish();
        }
        return;
    }
    tasks.spawn(async move {
        let drained = tokio::time::timeout(DRAIN_TIME, drain(&mut body)).await.unwrap_or(false);
        if drained && let Slot::H1(lease) = slot {
            lease.finish();
        }
    });
}

async fn drain(body: &mut Inner) -> bool {
    let mut left = DRAIN_BYTES;
    loop {
        let read = match body {
            Inner::H2 { stream, .. } => match stream.data().await {
                Some(Ok(data)) => {
                    let _ = stream.flow_control().release_capacity(data.len());
                    data.len()
                }
                Some(Err(_)) => return false,
                None => return stream.trailers().await.is_ok(),
            },
            Inner::H1(incoming) => match http_body_util::BodyExt::frame(incoming).await {
                Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
                Some(Err(_)) => return false,
                None => return true,
            },
            Inner::Done | Inner::Text(_) => return true,
        };
        match left.checked_sub(read) {
            Some(rest) => left = rest,
            None => return false,
        }
    }
}

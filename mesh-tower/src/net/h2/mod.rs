//! One HTTP/2 connection.
//!
//! We drive `h2` itself and not hyper's client on top of it, for three reasons. A request goes onto the connection from
//! the caller's own task: no dispatch queue, no task and no channel per request. What the peer never processed is told
//! exactly: an error of `send_request` means that nothing left, a remote `REFUSED_STREAM` or `GOAWAY` on the stream
//! means that it was refused, everything else may have been processed. And the peer's stream limit is known, so
//! that a stream is only opened where it can be opened now (RFC 9113 5.1.2).

mod driver;
mod life;
mod upload;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll};

use ::h2::client::{Builder, ResponseFuture, SendRequest};
use ::h2::{Reason, RecvStream};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use mesh_core::model::Address;
use tokio::sync::Notify;
use tokio::time::Instant;

pub(crate) use self::driver::Driver;
pub(super) use self::driver::Leaving;
use self::driver::limit_of;
use self::life::{Life, calmed};
pub(crate) use self::upload::Upload;
use super::account::count_below;
use super::connect::Connected;
use super::io::Stream;
use super::pulse::{Pulse, Watched};
use super::{Cluster, ConnectError, Room};

/// Flow-control window of a stream, in bytes: enough for 2 MiB in flight, hyper's value.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
/// Flow-control window of a connection, in bytes.
const CONNECTION_WINDOW: u32 = 5 * 1024 * 1024;
/// The largest header block we accept, in bytes: Envoy's 60 KiB, rounded up.
const MAX_HEADER_LIST: u32 = 64 * 1024;
/// What may be buffered per stream before the peer's window is asked.
const MAX_SEND_BUFFER: usize = 1024 * 1024;
/// A connection that requests can be put on.
pub(crate) struct Conn {
    send: SendRequest<Bytes>,
    status: Arc<Status>,
    cluster: Arc<Cluster>,
    room: Arc<Room>,
    /// When it became usable.
    pub(super) since: Instant,
    max_requests: Option<u32>,
}

/// What the driver tells about the connection, and how many requests are on it.
struct Status {
    /// The peer's `SETTINGS_MAX_CONCURRENT_STREAMS`.
    limit: AtomicU32,
    in_flight: AtomicU32,
    /// How many of them are our own: no reason to keep the connection.
    aside: AtomicU32,
    /// How many requests were put on it; counted where they are limited.
    admitted: AtomicU32,
    /// Whether a request was put on it since its timer looked.
    used: AtomicBool,
    /// Whether it is to be replaced.
    aged: AtomicBool,
    /// Whether it takes no more requests.
    draining: AtomicBool,
    /// Woken when that begins.
    drained: Notify,
    /// Whether it ever brought a response.
    served: AtomicBool,
}

/// Speaks the preface on `stream` and waits for the peer's SETTINGS: only then is it an HTTP/2 peer (CL-04).
/// `complaints`: how often the peer has had too many pings. `room`: where requests wait for its streams.
pub(super) async fn handshake(
    connected: Connected,
    cluster: &Arc<Cluster>,
    address: &Address,
    deadline: Instant,
    complaints: u32,
    room: &Arc<Room>,
) -> Result<(Conn, Driver), ConnectError> {
    let policy = cluster.account.policy().kept;
    let pulse = policy.keepalive.map(|_| Arc::new(Pulse::default()));
    let Connected { stream, replace_at, .. } = connected;
    let secure = matches!(stream, Stream::Tls(_));
    let stream = Watched::new(stream, pulse.clone());
    let h2_error = |error: ::h2::Error| handshake_failed(address, error, secure);
    let timeout = |_| ConnectError::Timeout {
        address: address.clone(),
        phase: "answered as an HTTP/2 server",
        timeout: cluster.connect_timeout,
    };
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buffer_size(MAX_SEND_BUFFER)
        .enable_push(false)
        // Frames that cross with our cancellations count as errors of the peer once h2 has forgotten the stream, and
        // the count never falls: any limit here is the number of cancellations after which a sound connection dies.
        .max_local_error_reset_streams(None)
        // No stream before the peer's SETTINGS; that the limit is no longer 0 shows that they have come.
        .initial_max_send_streams(0);
    let handshake = async {
        let (send, mut connection) = builder.handshake(stream).await.map_err(h2_error)?;
        poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
            // It was closed without a word; `h2` has no public way from an I/O error, so the reason tells.
            Poll::Ready(Ok(())) => Poll::Ready(Err(h2_error(Reason::CONNECT_ERROR.into()))),
            Poll::Ready(Err(error)) => Poll::Ready(Err(h2_error(error))),
            Poll::Pending if connection.max_concurrent_send_streams() == 0 => Poll::Pending,
            Poll::Pending => Poll::Ready(Ok(())),
        })
        .await?;
        Ok((send, connection))
    };
    let (send, mut connection) = tokio::time::timeout_at(deadline, handshake).await.map_err(timeout)??;
    let status = Arc::new(Status {
        limit: AtomicU32::new(limit_of(&connection)),
        in_flight: AtomicU32::new(0),
        aside: AtomicU32::new(0),
        admitted: AtomicU32::new(0),
        used: AtomicBool::new(false),
        aged: AtomicBool::new(false),
        draining: AtomicBool::new(false),
        drained: Notify::new(),
        served: AtomicBool::new(false),
    });
    let pings = pulse.zip(policy.keepalive).zip(connection.ping_pong());
    let pings = pings.map(|((pulse, keepalive), ping)| (calmed(keepalive, complaints), ping, pulse));
    let life = Life::new(&policy, replace_at, pings, cluster.connect_timeout);
    let conn = Conn {
        send,
        status: Arc::clone(&status),
        cluster: Arc::clone(cluster),
        room: Arc::clone(room),
        since: Instant::now(),
        max_requests: policy.max_requests,
    };
    Ok((conn, Driver { connection, status, cluster: Arc::clone(cluster), life }))
}

/// A server that refuses our certificate says so by an alert, in TLS 1.3 after the handshake, where we read for the first
/// time.
fn handshake_failed(address: &Address, error: ::h2::Error, secure: bool) -> ConnectError {
    let address = address.clone();
    // What rustls finds wrong has this kind; `h2` keeps nothing else of it but the text.
    match error.get_io().filter(|error| secure && error.kind() == io::ErrorKind::InvalidData) {
        Some(refused) => {
            let error = io::Error::new(refused.kind(), refused.to_string());
            ConnectError::Tls { address, error: Arc::new(error) }
        }
        None => ConnectError::Http2 { address, error: Arc::new(error) },
    }
}

impl Conn {
    /// A place for one request, if the peer allows one more stream now.
    pub(super) fn admit(self: &Arc<Self>) -> Option<Permit> {
        if self.is_spent() || !self.enter() {
            return None;
        }
        // From here on it is given back with a word to those who were refused meanwhile.
        let permit = Permit { conn: Arc::clone(self), aside: false };
        if self.max_requests.is_some_and(|max| !count_below(&self.status.admitted, max)) {
            return None;
        }
        self.status.used.store(true, Ordering::Release);
        Some(permit)
    }

    /// A place for a request of our own, which is no use of the connection: it counts as a stream, and otherwise neither
    /// against `max_requests` nor the idle timeout.
    pub(super) fn admit_aside(self: &Arc<Self>) -> Option<Permit> {
        if !self.enter() {
            return None;
        }
        self.status.aside.fetch_add(1, Ordering::AcqRel);
        Some(Permit { conn: Arc::clone(self), aside: true })
    }

    /// Counts one more stream, if the peer allows it.
    fn enter(&self) -> bool {
        if self.is_draining() {
            return false;
        }
        count_below(&self.status.in_flight, self.status.limit.load(Ordering::Acquire))
    }

    /// Requests on it.
    pub(super) fn in_flight(&self) -> u32 {
        self.status.in_flight.load(Ordering::Acquire)
    }

    /// Whether four fifths of the peer's limit are in use, or of the requests it may serve: time for another connection.
    pub(super) fn is_nearly_full(&self) -> bool {
        let nearly = |used: u32, limit: u32| u64::from(used) * 5 >= u64::from(limit) * 4;
        nearly(self.in_flight(), self.status.limit.load(Ordering::Acquire))
            || self.max_requests.is_some_and(|max| nearly(self.status.admitted.load(Ordering::Acquire), max))
    }

    /// Whether it has had all requests it may serve.
    pub(super) fn is_spent(&self) -> bool {
        self.max_requests.is_some_and(|max| self.status.admitted.load(Ordering::Acquire) >= max)
    }

    /// Marks it as one to be replaced.
    pub(super) fn age(&self) {
        self.status.aged.store(true, Ordering::Release);
    }

    /// Whether it is to be replaced.
    pub(super) fn is_aged(&self) -> bool {
        self.status.aged.load(Ordering::Acquire)
    }

    /// Whether it takes no more requests.
    pub(super) fn is_draining(&self) -> bool {
        self.status.draining.load(Ordering::Acquire)
    }

    /// Why h2 would put no more requests on it.
    fn refusal(&self, cx: &mut Context<'_>) -> Option<::h2::Error> {
        match self.send.clone().poll_ready(cx) {
            Poll::Ready(Err(error)) => Some(error),
            Poll::Ready(Ok(())) | Poll::Pending => None,
        }
    }

    /// Whether it ever brought a response.
    pub(super) fn has_served(&self) -> bool {
        self.status.served.load(Ordering::Acquire)
    }

    /// Takes no more requests; returns whether this call changed that.
    pub(super) fn drain(&self) -> bool {
        let began = !self.status.draining.swap(true, Ordering::AcqRel);
        if began {
            self.status.drained.notify_waiters();
        }
        began
    }

    /// Resolves once it takes no more requests.
    pub(super) async fn drained(&self) {
        let drained = self.status.drained.notified();
        let mut drained = pin!(drained);
        drained.as_mut().enable();
        if !self.is_draining() {
            drained.await;
        }
    }
}

/// A place for one request on a connection; given back when dropped.
pub(crate) struct Permit {
    conn: Arc<Conn>,
    /// Whether it is for a request of our own.
    aside: bool,
}

impl Permit {
    /// The connection.
    pub(crate) fn conn(&self) -> &Arc<Conn> {
        &self.conn
    }

    /// Opens a stream for `request` and sends as much of `body` as it takes until the response head is here.
    ///
    /// The body may not be at its end then: what is left is to be sent by the returned [`Upload`].
    pub(crate) async fn exchange<B>(
        &self,
        request: Request<()>,
        body: &mut B,
    ) -> Result<(Response<RecvStream>, Option<Upload>), ExchangeError<B::Error>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let ended = body.is_end_stream();
        // A clone of its own: `send_request` needs one exclusively.
        let (response, stream) =
            self.conn.send.clone().send_request(request, ended).map_err(ExchangeError::not_sent)?;
        let mut upload = (!ended).then(|| Upload::new(stream));
        let mut response = pin!(response);
        let response = poll_fn(|cx| poll_exchange(cx, &mut upload, body, response.as_mut())).await?;
        self.conn.status.served.store(true, Ordering::Release);
        Ok((response, upload))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.aside {
            self.conn.status.aside.fetch_sub(1, Ordering::AcqRel);
        }
        self.conn.status.in_flight.fetch_sub(1, Ordering::AcqRel);
        self.conn.cluster.queue.wake();
        self.conn.room.freed();
    }
}

fn poll_exchange<B>(
    cx: &mut Context<'_>,
    upload: &mut Option<Upload>,
    body: &mut B,
    response: Pin<&mut ResponseFuture>,
) -> Poll<Result<Response<RecvStream>, ExchangeError<B::Error>>>
where
    B: Body<Data = Bytes> + Unpin,
{
    if let Some(running) = upload {
        match running.poll_send(cx, body) {
            Poll::Ready(Ok(())) => *upload = None,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(ExchangeError::Body(error))),
            Poll::Pending => {}
        }
    }
    response.poll(cx).map_err(ExchangeError::Failed)
}

/// Why an exchange brought no response head.
#[derive(Debug)]
pub(crate) enum ExchangeError<E> {
    /// The connection took no stream: nothing left this process.
    NotSent(::h2::Error),
    /// h2 does not take this request on any connection.
    Invalid(::h2::Error),
    /// The stream failed.
    Failed(::h2::Error),
    /// The caller's body failed.
    Body(E),
}

impl<E> ExchangeError<E> {
    fn not_sent(error: ::h2::Error) -> Self {
        // An error without a reason that is no I/O error is one of h2's user errors: it speaks of this request, except
        // that the stream ids of a connection can be used up.
        let user = !error.is_io() && error.reason().is_none();
        if user && !error.to_string().contains("stream ID") { Self::Invalid(error) } else { Self::NotSent(error) }
    }
}

/// Whether the peer says that it did not process the stream: also safe to resend for a POST (RFC 9113 8.7).
///
/// h2 fails a stream by a remote GOAWAY only if its id is above the last one the peer will process.
pub(crate) fn is_refused(error: &::h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_refused_takes_no_place_for_a_moment() {
        // Given one place, and threads that take it, find it taken, or give it back:
        let (count, failures) = (AtomicU32::new(1), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..100_000).for_each(|_| assert!(!count_below(&count, 1))));
            }
            // nobody but the holder changes the count.
            for _ in 0..100_000 {
                failures.fetch_add(u32::from(count.load(Ordering::Acquire) != 1), Ordering::Relaxed);
            }
        });
        assert_eq!(failures.into_inner(), 0);
    }
}

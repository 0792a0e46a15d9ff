//! One HTTP/1.1 connection, over hyper.

use std::error::Error as _;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use mesh_core::model::Address;
use mesh_core::resilience::replay::Replay;
use rustls::AlertDescription;
use tokio::time::Instant;

use super::account::jittered;
use super::connect::Connected;
use super::io::Stream;
use super::pool::give_back;
use super::{Cluster, ConnectError, Endpoint, after};
use crate::error::BoxError;

/// The request body of every HTTP/1.1 connection: erased, so that all clients of a mesh share its connections.
pub(crate) type WireBody = UnsyncBoxBody<Bytes, BoxError>;

/// A connection that can take a request.
pub(crate) struct Conn {
    pub(super) send: SendRequest<WireBody>,
    /// When it last became idle.
    pub(super) since: Instant,
    /// Which one of its endpoint's connections it is.
    pub(super) number: u64,
    /// How many requests it has served: the peer may have closed it since the last one.
    served: u32,
    /// Whether it served a request of our own: the peer may have closed it since.
    asked: bool,
    /// Whether that was what it did last.
    pub(super) aside: bool,
    max_requests: Option<u32>,
    /// When it is too old.
    expires: Option<Instant>,
}

impl Conn {
    /// Whether it has served long enough, or enough requests.
    pub(super) fn is_spent(&self, now: Instant) -> bool {
        self.max_requests.is_some_and(|max| self.served >= max) || self.expires.is_some_and(|expires| now >= expires)
    }
}

/// The most bytes of a response head, and of what is read at a time. A peer that sends more than it should is parsed in
/// pieces of this size, between which others have their turn.
const MAX_BUFFER: usize = 64 * 1024;

/// The task side of a connection.
pub(super) type Driver = http1::Connection<TokioIo<Stream>, WireBody>;

pub(super) async fn handshake(
    connected: Connected,
    cluster: &Cluster,
    address: &Address,
) -> Result<(Conn, Driver), ConnectError> {
    let (send, driver) = http1::Builder::new()
        .max_buf_size(MAX_BUFFER)
        .handshake(TokioIo::new(connected.stream))
        .await
        .map_err(|error| ConnectError::Http1 { address: address.clone(), error: Arc::new(error) })?;
    let policy = cluster.account.policy().kept;
    let since = Instant::now();
    let aged = policy.max_age.map(|age| after(since, jittered(age, &mut rand::rng())));
    let expires = aged.into_iter().chain(connected.replace_at).min();
    let max_requests = policy.max_requests;
    Ok((Conn { send, since, number: 0, served: 0, asked: false, aside: false, max_requests, expires }, driver))
}

/// A connection taken out of its pool for one request.
///
/// [`finish`](Lease::finish) gives it back; dropping it closes it, because the exchange was not brought to its end.
pub(crate) struct Lease {
    conn: Option<Conn>,
    endpoint: Arc<Endpoint>,
}

impl Lease {
    pub(super) fn new(conn: Conn, endpoint: Arc<Endpoint>) -> Self {
        Self { conn: Some(conn), endpoint }
    }

    /// For a request of our own.
    pub(super) fn aside(mut self) -> Self {
        self.conn.iter_mut().for_each(|conn| conn.aside = true);
        self
    }

    /// Whether it has served a request before: the peer may have closed it as we wrote.
    pub(crate) fn is_reused(&self) -> bool {
        self.conn.as_ref().is_some_and(|conn| conn.served > 0 || conn.asked)
    }

    /// Sends a request and waits for the response head.
    pub(crate) async fn exchange(&mut self, request: Request<WireBody>) -> Result<Response<Incoming>, ExchangeError> {
        let Some(conn) = &mut self.conn else { return Err(ExchangeError::NotSent(None)) };
        let is_new = conn.served == 0 && !conn.asked;
        conn.send.try_send_request(request).await.map_err(|mut error| {
            let returned = error.take_message().is_some();
            let error = error.into_error();
            if returned || is_new && alert(&error).is_some() {
                ExchangeError::NotSent(Some(error))
            } else {
                ExchangeError::Failed(error)
            }
        })
    }

    /// Gives the connection back: the response was read to its end.
    pub(crate) fn finish(mut self) {
        if let Some(mut conn) = self.conn.take() {
            if conn.aside {
                conn.asked = true;
            } else {
                conn.served = conn.served.saturating_add(1);
            }
            give_back(&self.endpoint, conn);
        }
    }
}

/// The alert by which the peer ended the connection, if it did. One that comes before any response means that the client
/// was not let in, and nobody saw the request.
pub(crate) fn alert(error: &hyper::Error) -> Option<AlertDescription> {
    let error = error.source()?.downcast_ref::<io::Error>()?;
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

/// Why an exchange brought no response head.
#[derive(Debug)]
pub(crate) enum ExchangeError {
    /// The connection was gone, or the peer did not let us in: nobody has read the request.
    NotSent(Option<hyper::Error>),
    /// The connection failed.
    Failed(hyper::Error),
}

/// A replayable body that hyper may hold while the request keeps it for a resend.
pub(crate) struct SharedBody<B>(Arc<Mutex<Shared<B>>>);

struct Shared<B> {
    body: Replay<B>,
    /// Which attempt may read; a connection that an earlier attempt left behind may still try.
    attempt: u32,
    /// The connection that waits for more of it.
    reader: Option<Waker>,
    error: Option<BoxError>,
}

impl<B> SharedBody<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    pub(crate) fn new(body: Replay<B>) -> Self {
        Self(Arc::new(Mutex::new(Shared { body, attempt: 0, reader: None, error: None })))
    }

    /// The body for one more attempt, erased.
    pub(crate) fn attempt(&self) -> WireBody {
        WireBody::new(self.reader())
    }

    /// The body for one more attempt.
    pub(crate) fn reader(&self) -> Attempt<B> {
        let mut shared = self.lock();
        shared.attempt += 1;
        Attempt { shared: Arc::clone(&self.0), attempt: shared.attempt }
    }

    /// Runs `f` on the body.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut Replay<B>) -> R) -> R {
        f(&mut self.lock().body)
    }

    /// Begins again from the first byte, if that can be. A connection that still reads for the running attempt gets an
    /// error and closes; it is woken for that, or it would wait for good with half a request on it.
    pub(crate) fn rewind(&self) -> bool {
        let mut shared = self.lock();
        if !shared.body.rewind() {
            return false;
        }
        shared.attempt += 1;
        let reader = shared.reader.take();
        drop(shared);
        if let Some(reader) = reader {
            reader.wake();
        }
        true
    }

    /// The error of the caller's body, if that is what failed.
    pub(crate) fn take_error(&self) -> Option<BoxError> {
        self.lock().error.take()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared<B>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body without a byte; takes no allocation.
pub(crate) fn empty_body() -> WireBody {
    WireBody::new(Empty::new().map_err(|never| match never {}))
}

/// What one attempt reads of a shared body. Once the next attempt has begun there is only an error.
pub(crate) struct Attempt<B> {
    shared: Arc<Mutex<Shared<B>>>,
    attempt: u32,
}

impl<B> Attempt<B> {
    fn with<R>(&self, f: impl FnOnce(&mut Shared<B>) -> R) -> Option<R> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        (shared.attempt == self.attempt).then(|| f(&mut shared))
    }
}

impl<B> Body for Attempt<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let poll = self.with(|shared| match Pin::new(&mut shared.body).poll_frame(cx) {
            Poll::Ready(Some(Err(error))) => {
                shared.error = Some(error.into());
                Poll::Ready(Some(Err("the request body failed".into())))
            }
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(frame))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                shared.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        });
        poll.unwrap_or_else(|| Poll::Ready(Some(Err("the attempt was given up".into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.with(|shared| shared.body.is_end_stream()).unwrap_or(false)
    }

    fn size_hint(&self) -> SizeHint {
        self.with(|shared| shared.body.size_hint()).unwrap_or_default()
    }
}

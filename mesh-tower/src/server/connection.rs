//! Serving HTTP on one connection.

use std::future::{Future, poll_fn};
use std::mem;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::Service as HyperService;
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh_core::model::ServerLimits;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use super::entry::Changes;
use super::life::{Bounds, Cut, Leave, Life};
use super::metered::Metered;
use super::requests::Requests;
use super::state::ServerState;
use super::stream::{ServerStream, Version};
use super::taking::Taking;
use crate::error::BoxError;
use crate::net::seldom::{Seldom, Signal};
use crate::net::{Tasks, after};
use crate::observe::TARGET;
use crate::telemetry::server::ConnectionRefusal;

/// So many headers hyper takes if nothing is said, and then it has room for them on its stack.
const HYPERS_HEADERS: usize = 100;
/// The smallest buffer that hyper takes for HTTP/1.1.
const MIN_BUFFER: usize = 8192;

/// How much of an answer over HTTP/2 is handed over before it has left. Hyper would take 400 KiB of each stream for a caller
/// that opens its windows and reads nothing.
const SEND_BUFFER: usize = 64 * 1024;

/// What ends connections from outside.
#[derive(Debug, Clone)]
pub(super) struct Leaving {
    /// They take no more requests.
    pub(super) gracefully: CancellationToken,
    /// They end at once.
    pub(super) now: CancellationToken,
}

/// Serves the requests of `stream` by `service`, until the connection ends. `began`: when it was accepted.
pub(super) async fn serve<S, B>(
    stream: ServerStream,
    state: &Arc<ServerState>,
    service: S,
    began: Instant,
    leaving: &Leaving,
) where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let settings = Arc::clone(&state.settings());
    let limits = &settings.server.limits;
    let life = Arc::new(Life::new(Arc::clone(&stream.peer), stream.version == Version::Http1, began));
    let mut bounds = Bounds::new(limits, began, &mut rand::rng());
    if let Some(certified) = stream.peer.certified() {
        let left = certified.valid_until().duration_since(SystemTime::now()).unwrap_or_default();
        bounds.expire(after(Instant::now(), left));
    }
    let requests = Requests { service, life: Arc::clone(&life) };
    let driven = Driven { state, life: &life, bounds, leaving, changes: stream.changes.clone() };
    let result = match stream.version {
        Version::Http2 => {
            let stream = Metered::http2(stream, limits.max_control_frames, Arc::clone(&life));
            let (tasks, send_timeout) = (state.shared.tasks.clone(), limits.send_timeout);
            let executor = Executor { tasks, life: Arc::clone(&life), send_timeout };
            driven.drive(Box::pin(http2(limits, executor).serve_connection(TokioIo::new(stream), requests))).await
        }
        Version::Http1 => {
            let stream = Metered::http1(stream, Arc::clone(&life));
            let connection = http1(limits).serve_connection(TokioIo::new(stream), requests);
            driven.drive(Box::pin(connection.with_upgrades())).await
        }
    };
    let Err(ended) = result else { return };
    if let Some(why) = ended.refusal(&life) {
        state.series.refused(why);
    }
    tracing::debug!(target: TARGET, server = &*state.name, peer = ?life.remote(), %ended, "a connection ended");
}

fn http1(limits: &ServerLimits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    let header_bytes = limits.max_header_bytes as usize;
    // Hyper's own bound for heads would also close connections that are idle between two requests: `Life` has ours.
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_header_size(header_bytes)
        .max_buf_size((2 * header_bytes).max(MIN_BUFFER));
    let headers = limits.max_headers as usize;
    if headers != HYPERS_HEADERS {
        builder.max_headers(headers);
    }
    builder
}

fn http2(limits: &ServerLimits, executor: Executor) -> http2::Builder<Executor> {
    let mut builder = http2::Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        .max_header_list_size(limits.max_header_bytes)
        .max_concurrent_streams(limits.max_concurrent_streams)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(limits.max_pending_resets as usize)
        .max_local_error_reset_streams(limits.max_local_resets as usize)
        .keep_alive_interval(limits.keepalive_time)
        .keep_alive_timeout(limits.keepalive_timeout);
    builder
}

/// A connection of hyper.
trait Connection: Future<Output = hyper::Result<()>> {
    fn leave(self: Pin<&mut Self>);
}

impl<I, S, B, E> Connection for http2::Connection<I, S, E>
where
    S: HyperService<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    B: Body + 'static,
    B::Error: Into<BoxError>,
    E: hyper::rt::bounds::Http2ServerConnExec<S::Future, B>,
{
    fn leave(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, S, B> Connection for http1::UpgradeableConnection<I, S>
where
    S: HyperService<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    B: Body + 'static,
    B::Error: Into<BoxError>,
{
    fn leave(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// How a connection ended that did not end well.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Http(hyper::Error),
    #[error("it is cut: {0}")]
    Cut(Cut),
}

impl Ended {
    /// What its caller did to have it closed.
    fn refusal(&self, life: &Life) -> Option<ConnectionRefusal> {
        match self {
            // `h2` has forgotten what broke its reading.
            Self::Http(_) if life.is_flooded() => Some(ConnectionRefusal::ControlFrames),
            Self::Http(error) if error.is_parse_too_large() => Some(ConnectionRefusal::Headers),
            Self::Http(error) if error.is_parse() => Some(ConnectionRefusal::Malformed),
            Self::Cut(Cut::NoRequest) => Some(ConnectionRefusal::FirstRequestTimeout),
            Self::Cut(Cut::SlowHead) => Some(ConnectionRefusal::HeaderTimeout),
            Self::Cut(Cut::Stalled) => Some(ConnectionRefusal::SendTimeout),
            Self::Cut(Cut::Distrusted) => Some(ConnectionRefusal::Identity),
            Self::Http(_) | Self::Cut(Cut::Lingering | Cut::Ending) => None,
        }
    }
}

struct Driven<'a> {
    state: &'a ServerState,
    life: &'a Arc<Life>,
    bounds: Bounds,
    leaving: &'a Leaving,
    changes: Changes,
}

impl Driven<'_> {
    /// Over HTTP/2 it lets the tasks that are ready go first, once each time it is woken: their answers then leave in one
    /// write, where each would have cost a system call.
    ///
    /// `connection` is in a box of its own: as an argument it would be in the task twice, of both versions.
    async fn drive(mut self, mut connection: Pin<Box<impl Connection>>) -> Result<(), Ended> {
        let grace = || self.state.settings().server.drain.grace;
        let signal = Arc::new(Signal::default());
        let waker = Waker::from(Arc::clone(&signal));
        let mut wake_at = self.bounds.next(self.life, Instant::now());
        let mut timer = pin!(sleep_until(wake_at));
        // It is to leave as soon as hyper can be told.
        let mut to_leave = self.leaving.gracefully.is_cancelled();
        if to_leave {
            self.bounds.leave(Instant::now(), None);
            self.life.leave();
        }
        let mut lets_others_go = true;
        let result = loop {
            let leave = {
                let is_leaving = self.bounds.is_leaving();
                let told = async {
                    tokio::select! {
                        () = self.leaving.now.cancelled() => (Leave::Now(Cut::Ending), None),
                        () = self.leaving.gracefully.cancelled(), if !is_leaving => (Leave::Gracefully, None),
                        leave = self.changes.end(self.state, &self.life.peer) => (leave, Some(grace())),
                    }
                };
                let mut told = pin!(Seldom::new(&signal, &waker, told));
                poll_fn(|cx| {
                    if mem::take(&mut lets_others_go) && !self.life.is_http1() && self.life.in_flight() > 0 {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    lets_others_go = true;
                    if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                        return Poll::Ready(Err(result.map_err(Ended::Http)));
                    }
                    if to_leave && self.life.can_leave() {
                        return Poll::Ready(Ok(None));
                    }
                    if let Poll::Ready(leave) = told.as_mut().poll(cx) {
                        return Poll::Ready(Ok(Some(leave)));
                    }
                    // The head of a request that began meanwhile has its own time.
                    if self.life.is_within_head() {
                        let now = Instant::now();
                        let next = self.bounds.next(self.life, now);
                        if next < wake_at {
                            wake_at = next;
                            timer.as_mut().reset(next);
                        }
                    }
                    timer.as_mut().poll(cx).map(|()| Ok(None))
                })
                .await
            };
            let now = Instant::now();
            let leave = match leave {
                Err(result) => break result,
                Ok(Some((Leave::Gracefully, grace))) => {
                    let first = !self.bounds.is_leaving();
                    self.bounds.leave(now, grace.map(|grace| after(now, grace)));
                    first.then_some(Leave::Gracefully)
                }
                Ok(Some((leave, _))) => Some(leave),
                Ok(None) => self.bounds.judge(self.life, now),
            };
            match leave {
                Some(Leave::Now(reason)) => return Err(Ended::Cut(reason)),
                Some(Leave::Gracefully) => {
                    self.life.leave();
                    to_leave = true;
                }
                None => {}
            }
            if to_leave && self.life.can_leave() {
                connection.as_mut().leave();
                to_leave = false;
            }
            wake_at = self.bounds.next(self.life, now);
            timer.as_mut().reset(wake_at);
        };
        let upgrade = match &result {
            Ok(()) => self.life.upgraded(),
            Err(_) => None,
        };
        let Some(upgrade) = upgrade else { return result };
        // It speaks another protocol, and cannot be told to leave.
        let why = tokio::select! {
            () = upgrade.gone.cancelled() => return result,
            () = self.leaving.now.cancelled() => Cut::Ending,
            leave = self.changes.end(self.state, &self.life.peer) => match leave {
                Leave::Now(cut) => cut,
                Leave::Gracefully => {
                    let until = after(Instant::now(), grace());
                    tokio::select! {
                        () = upgrade.gone.cancelled() => return result,
                        () = self.leaving.now.cancelled() => Cut::Ending,
                        () = sleep_until(until) => Cut::Distrusted,
                    }
                }
            },
            () = sleep_until(self.bounds.last()) => Cut::Lingering,
        };
        upgrade.cut.cancel();
        Err(Ended::Cut(why))
    }
}

/// Hyper's tasks, one for each stream and one for each tunnel, as tasks of the mesh.
#[derive(Clone)]
struct Executor {
    tasks: Tasks,
    life: Arc<Life>,
    send_timeout: Option<Duration>,
}

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        // It ends with its connection, which is ended with the mesh.
        self.tasks.spawn_tracked(Taking::new(future, self.send_timeout, self.life.enter()));
    }
}

//! Serving HTTP on one connection.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::SystemTime;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::Service as HyperService;
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh_core::model::ServerLimits;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use super::life::{Bounds, Cut, Leave, Life, Upgrade};
use super::metered::Metered;
use super::peer::Peer;
use super::requests::Requests;
use super::state::ServerState;
use super::stream::{self, ServerStream, Version};
use crate::error::BoxError;
use crate::identity::Identity;
use crate::net::seldom::{Seldom, Signal};
use crate::net::{Tasks, after};
use crate::observe::TARGET;
use crate::telemetry::server::ConnectionRefusal;

/// So many headers hyper takes if nothing is said, and then it has room for them on its stack.
const HYPERS_HEADERS: usize = 100;
/// The smallest buffer that hyper takes for HTTP/1.1.
const MIN_BUFFER: usize = 8192;

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
        let left = certified.not_after().duration_since(SystemTime::now()).unwrap_or_default();
        bounds.expire(after(Instant::now(), left));
    }
    let requests = Requests { service, life: Arc::clone(&life) };
    let driven = Driven { state, life: &life, bounds, leaving, changes: stream.leave.clone() };
    let result = match stream.version {
        Version::Http2 => {
            let stream = Metered::http2(stream, limits.max_control_frames, Arc::clone(&life));
            let tasks = Executor(state.shared.tasks.clone());
            driven.drive(Box::pin(http2(limits, tasks).serve_connection(TokioIo::new(stream), requests))).await
        }
        Version::Http1 => {
            let stream = Metered::http1(stream, Arc::clone(&life));
            let connection = http1(limits).serve_connection(TokioIo::new(stream), requests);
            driven.drive(Box::pin(connection.with_upgrades())).await
        }
    };
    match result {
        Ok(()) => {}
        Err(Ended::Http(error)) => {
            tracing::debug!(target: TARGET, server = &*state.name, peer = ?life.remote(), %error, "a connection ended");
        }
        Err(Ended::Cut(reason)) => {
            if reason == Cut::NoRequest {
                state.series.refused(ConnectionRefusal::FirstRequestTimeout);
            }
            tracing::debug!(target: TARGET, server = &*state.name, peer = ?life.remote(), %reason, "a connection is cut");
        }
    }
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

fn http2(limits: &ServerLimits, tasks: Executor) -> http2::Builder<Executor> {
    let mut builder = http2::Builder::new(tasks);
    builder
        .timer(TokioTimer::new())
        .max_header_list_size(limits.max_header_bytes)
        .max_concurrent_streams(limits.max_concurrent_streams)
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
enum Ended {
    Http(hyper::Error),
    Cut(Cut),
}

struct Driven<'a> {
    state: &'a ServerState,
    life: &'a Arc<Life>,
    bounds: Bounds,
    leaving: &'a Leaving,
    changes: stream::Leave,
}

impl Driven<'_> {
    /// `connection` is in a box of its own: as an argument it would be in the task twice, of both versions.
    async fn drive(mut self, mut connection: Pin<Box<impl Connection>>) -> Result<(), Ended> {
        let stream::Leave { mut entry, mut identities } = self.changes;
        let signal = Arc::new(Signal::default());
        let waker = Waker::from(Arc::clone(&signal));
        let mut wake_at = self.bounds.next(self.life, Instant::now());
        let mut timer = pin!(sleep_until(wake_at));
        // It is to leave as soon as hyper can be told.
        let mut to_leave = self.leaving.gracefully.is_cancelled();
        if to_leave {
            self.bounds.leave(Instant::now());
            self.life.leave();
        }
        let result = loop {
            let leave = {
                let is_leaving = self.bounds.is_leaving();
                let told = async {
                    tokio::select! {
                        () = self.leaving.now.cancelled() => Leave::Now(Cut::Ending),
                        () = self.leaving.gracefully.cancelled(), if !is_leaving => Leave::Gracefully,
                        Ok(()) = entry.changed() => Leave::Gracefully,
                        () = distrust(&mut identities, self.state, &self.life.peer) => Leave::Now(Cut::Distrusted),
                    }
                };
                let mut told = pin!(Seldom::new(&signal, &waker, told));
                poll_fn(|cx| {
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
                Ok(Some(Leave::Gracefully)) => {
                    let first = !self.bounds.is_leaving();
                    self.bounds.leave(now);
                    first.then_some(Leave::Gracefully)
                }
                Ok(Some(leave)) => Some(leave),
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
        if let Some(upgrade) = upgrade {
            let distrusted = distrust(&mut identities, self.state, &self.life.peer);
            let ending = self.leaving.now.cancelled();
            return upgraded(upgrade, distrusted, ending, self.bounds.last())
                .await
                .map_or(Ok(()), |why| Err(Ended::Cut(why)));
        }
        result
    }
}

/// Waits until a connection has ended that speaks another protocol, or ends it; tells why.
async fn upgraded(
    upgrade: &Upgrade,
    distrusted: impl Future<Output = ()>,
    ending: impl Future<Output = ()>,
    last: Instant,
) -> Option<Cut> {
    let why = tokio::select! {
        () = upgrade.gone.cancelled() => return None,
        () = ending => Cut::Ending,
        () = distrusted => Cut::Distrusted,
        () = sleep_until(last) => Cut::Lingering,
    };
    upgrade.cut.cancel();
    Some(why)
}

/// Resolves once the caller would no longer be let in: its certificate was revoked, or who vouched for it is not trusted
/// any more (MT-10).
async fn distrust(identities: &mut watch::Receiver<Option<Arc<Identity>>>, state: &ServerState, peer: &Peer) {
    if !peer.is_mutual() {
        return std::future::pending().await;
    }
    loop {
        if identities.changed().await.is_err() {
            return std::future::pending().await;
        }
        let Some(identity) = identities.borrow_and_update().clone() else { continue };
        let settings = Arc::clone(&state.settings());
        let expected = &settings.server.identities;
        if let Err(refused) = peer.check(&identity, expected) {
            tracing::info!(target: TARGET, server = &*state.name, peer = ?peer.remote_address(), %refused, "a caller is no longer trusted");
            return;
        }
    }
}

/// Hyper's tasks, as tasks of the mesh.
#[derive(Clone)]
struct Executor(Tasks);

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        // It ends with its connection, which is ended with the mesh.
        self.0.spawn_tracked(future);
    }
}

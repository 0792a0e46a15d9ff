//! A service that asks for Tower's contract to be kept, answers by a script, and remembers what it was asked.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use mesh_tower::BoxError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::PollSemaphore;
use tower::Service;

/// What the service does with one request.
pub(crate) struct Answer {
    /// How long it takes for the head.
    pub(crate) after: Duration,
    /// What it then says; `None` is nothing, for ever.
    pub(crate) result: Option<Result<Response<Script>, BoxError>>,
}

impl Answer {
    pub(crate) fn response(response: Response<Script>) -> Self {
        Self { after: Duration::ZERO, result: Some(Ok(response)) }
    }

    pub(crate) fn status(status: u16) -> Self {
        Self::response(Response::builder().status(status).body(Script::of("")).unwrap())
    }

    pub(crate) fn ok() -> Self {
        Self::response(Response::new(Script::of("ok")))
    }

    /// A gRPC answer of a head alone.
    pub(crate) fn grpc(code: u16) -> Self {
        let head = Response::builder().header("content-type", "application/grpc").header("grpc-status", code);
        Self::response(head.body(Script::of("")).unwrap())
    }

    pub(crate) fn error(error: impl Into<BoxError>) -> Self {
        Self { after: Duration::ZERO, result: Some(Err(error.into())) }
    }

    pub(crate) fn silence() -> Self {
        Self { after: Duration::ZERO, result: None }
    }

    pub(crate) fn after(mut self, after: Duration) -> Self {
        self.after = after;
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        let Some(Ok(response)) = &mut self.result else { panic!("there is no head") };
        response.headers_mut().insert(name, value.parse().unwrap());
        self
    }
}

/// A response body.
#[derive(Debug, Default)]
pub(crate) struct Script {
    frames: VecDeque<Frame<Bytes>>,
    /// Never ends, once its frames are read.
    stuck: bool,
    error: Option<BoxError>,
    alive: Option<Arc<()>>,
}

impl Script {
    pub(crate) fn of(text: &'static str) -> Self {
        let frames = if text.is_empty() { VecDeque::new() } else { [Frame::data(Bytes::from(text))].into() };
        Self { frames, ..Self::default() }
    }

    pub(crate) fn trailer(mut self, name: &'static str, value: &str) -> Self {
        let mut trailers = HeaderMap::new();
        trailers.insert(name, value.parse().unwrap());
        self.frames.push_back(Frame::trailers(trailers));
        self
    }

    pub(crate) fn stuck(mut self) -> Self {
        self.stuck = true;
        self
    }

    pub(crate) fn broken(mut self, error: impl Into<BoxError>) -> Self {
        self.error = Some(error.into());
        self
    }

    /// Holds on to `alive` until it is dropped.
    pub(crate) fn alive(mut self, alive: &Arc<()>) -> Self {
        self.alive = Some(Arc::clone(alive));
        self
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(frame) = self.frames.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        match self.error.take() {
            Some(error) => Poll::Ready(Some(Err(error))),
            None if self.stuck => Poll::Pending,
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && !self.stuck && self.error.is_none()
    }
}

type Answers = dyn Fn(usize, &Parts) -> Answer + Send + Sync;

/// What the clones of a [`Mock`] share.
pub(crate) struct World {
    permits: Arc<Semaphore>,
    all_permits: usize,
    answers: Box<Answers>,
    seen: Mutex<Vec<(Parts, Bytes)>>,
    calls: AtomicUsize,
    /// Whether the service fails in `poll_ready`.
    dead: AtomicBool,
}

impl World {
    /// A service that takes `permits` requests at once and answers the n-th, from 0, by `answers`.
    pub(crate) fn new(permits: usize, answers: impl Fn(usize, &Parts) -> Answer + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(permits)),
            all_permits: permits,
            answers: Box::new(answers),
            seen: Mutex::default(),
            calls: AtomicUsize::new(0),
            dead: AtomicBool::new(false),
        })
    }

    pub(crate) fn mock(self: &Arc<Self>) -> Mock {
        Mock { world: Arc::clone(self), semaphore: PollSemaphore::new(Arc::clone(&self.permits)), permit: None }
    }

    /// How many permits are reserved or used.
    pub(crate) fn held(&self) -> usize {
        self.all_permits - self.permits.available_permits()
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// The requests that were read to their ends.
    pub(crate) fn seen(&self) -> Vec<(Parts, Bytes)> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn kill(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }
}

/// A client that insists: it panics if it is called without having said that it is ready, and what it reserves when it
/// becomes ready is free again only after the call, or when it is dropped.
pub(crate) struct Mock {
    world: Arc<World>,
    semaphore: PollSemaphore,
    permit: Option<OwnedSemaphorePermit>,
}

impl Clone for Mock {
    fn clone(&self) -> Self {
        self.world.mock()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the mock is dead")]
pub(crate) struct Dead;

impl<B> Service<Request<B>> for Mock
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<Script>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Script>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.world.dead.load(Ordering::Relaxed) {
            return Poll::Ready(Err(Dead.into()));
        }
        if self.permit.is_none() {
            self.permit = ready!(self.semaphore.poll_acquire(cx));
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let permit = self.permit.take().expect("Tower: call only after this very instance was ready");
        let world = Arc::clone(&self.world);
        let number = world.calls.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            let _permit = permit;
            let (parts, body) = request.into_parts();
            let answer = (world.answers)(number, &parts);
            let body = body.collect().await.map_err(Into::into)?.to_bytes();
            world.seen.lock().unwrap().push((parts, body));
            if !answer.after.is_zero() {
                tokio::time::sleep(answer.after).await;
            }
            match answer.result {
                Some(result) => result,
                None => std::future::pending().await,
            }
        })
    }
}

pub(crate) fn get(uri: &str) -> Request<Full<Bytes>> {
    Request::get(uri).body(Full::default()).unwrap()
}

pub(crate) fn post(uri: &str, body: &'static str) -> Request<Full<Bytes>> {
    Request::post(uri).body(Full::from(body)).unwrap()
}

/// A gRPC call.
pub(crate) fn call(timeout: Option<&str>) -> Request<Full<Bytes>> {
    let mut request = post("http://greeter/greeter.v1.Greeter/SayHello", "hello");
    request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    if let Some(timeout) = timeout {
        request.headers_mut().insert("grpc-timeout", timeout.parse().unwrap());
    }
    request
}

/// Asks `service` whether it is ready for a request of [`get`].
pub(crate) fn poll_ready<S>(service: &mut S, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>>
where
    S: Service<Request<Full<Bytes>>>,
{
    service.poll_ready(cx)
}

/// One poll of `future`.
pub(crate) async fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    let mut future = Some(future);
    poll_fn(|cx| Poll::Ready(future.take().expect("polled once").poll(cx))).await
}

/// Reads a body to its end.
pub(crate) async fn text<B>(response: Response<B>) -> Result<String, BoxError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let bytes = response.into_body().collect().await.map_err(Into::into)?.to_bytes();
    Ok(String::from_utf8(bytes.to_vec())?)
}

/// The error of this crate in `error`.
#[track_caller]
pub(crate) fn mesh_error(error: &BoxError) -> &mesh_tower::Error {
    mesh_tower::layer::find_error(&**error).unwrap_or_else(|| panic!("an error of a layer, not {error:?}"))
}

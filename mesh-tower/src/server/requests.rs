//! The requests of a connection, on their way through a service and back.

use std::future::Future;
use std::io::IoSlice;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::header::CONNECTION;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::Service as HyperService;
use pin_project::pin_project;
use tower_service::Service;

use super::life::{InFlight, Life, Unsent};
use super::taking::{Turn, say};

/// The requests of a connection.
#[derive(Clone)]
pub(super) struct Requests<S> {
    pub(super) service: S,
    pub(super) life: Arc<Life>,
}

impl<S, B> HyperService<Request<Incoming>> for Requests<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone,
{
    type Response = Response<Counted<B>>;
    type Error = S::Error;
    type Future = Answering<S>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.life.asked();
        let of = if self.life.is_http1() { Of::Own(self.life.enter()) } else { Of::Task(Arc::clone(&self.life)) };
        let is_connect = request.method() == Method::CONNECT;
        request.extensions_mut().insert(Arc::clone(&self.life.peer));
        Answering { step: Step::Waiting(self.service.clone(), Some(request)), is_connect, of: Some(of) }
    }
}

/// A request on its way through the service.
#[pin_project]
pub(super) struct Answering<S: Service<Request<Incoming>>> {
    #[pin]
    step: Step<S>,
    is_connect: bool,
    of: Option<Of>,
}

/// Who sees to it that a request counts as under way.
enum Of {
    /// It does: HTTP/1.1 has no tasks for requests.
    Own(InFlight),
    /// The task of its stream, which also outlives it where a tunnel follows.
    Task(Arc<Life>),
}

impl Of {
    fn life(&self) -> &Arc<Life> {
        match self {
            Self::Own(in_flight) => in_flight.life(),
            Self::Task(life) => life,
        }
    }
}

#[pin_project(project = StepProject)]
#[expect(clippy::large_enum_variant, reason = "one turns into the other; a box would be an allocation of each request")]
enum Step<S: Service<Request<Incoming>>> {
    /// For the service to be ready.
    Waiting(S, Option<Request<Incoming>>),
    Called(#[pin] S::Future),
}

impl<S, B> Future for Answering<S>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
{
    type Output = Result<Response<Counted<B>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let mut response = loop {
            let answer = match this.step.as_mut().project() {
                StepProject::Waiting(service, request) => {
                    std::task::ready!(service.poll_ready(cx))?;
                    let Some(request) = request.take() else { return Poll::Pending };
                    service.call(request)
                }
                StepProject::Called(answer) => break std::task::ready!(answer.poll(cx))?,
            };
            this.step.set(Step::Called(answer));
        };
        let of = this.of.take().expect("a future is not polled after its end");
        let life = of.life();
        let status = response.status();
        if status == StatusCode::SWITCHING_PROTOCOLS || (*this.is_connect && status.is_success()) {
            life.upgrade();
        } else if life.is_last_answer() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        say(Turn::Caller);
        Poll::Ready(Ok(response.map(|body| Counted { body, rest: Bytes::new(), of })))
    }
}

/// The most bytes of a piece of an answer over HTTP/2: hyper hands it over whole, however few of its bytes the window lets
/// through, and asks for the next when it has left.
const PIECE: usize = 16 * 1024;

/// The body of an answer: a request of HTTP/1.1 is under way until it is dropped.
#[pin_project]
pub(super) struct Counted<B> {
    #[pin]
    body: B,
    /// Of a frame that was longer than a piece.
    rest: Bytes,
    of: Of,
}

impl<B: Body<Data = Bytes>> Body for Counted<B> {
    type Data = Piece;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, Self::Error>>> {
        let this = self.project();
        let (life, rest) = (this.of.life(), this.rest);
        let polled = match rest.is_empty() {
            true => this.body.poll_frame(cx),
            false => Poll::Ready(Some(Ok(Frame::data(mem::take(rest))))),
        };
        let polled = polled.map_ok(|frame| {
            frame.map_data(|mut bytes| {
                if bytes.len() > PIECE && !life.is_http1() {
                    *rest = bytes.split_off(PIECE);
                }
                Piece { bytes, _unsent: life.unsent() }
            })
        });
        say(if polled.is_ready() { Turn::Caller } else { Turn::Handler });
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        let rest = self.rest.len() as u64;
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}

/// A piece of an answer: hyper lets go of the body once it has all of it, and of this once it was written.
pub(super) struct Piece {
    bytes: Bytes,
    _unsent: Unsent,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.bytes.chunks_vectored(slices)
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }

    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        self.bytes.copy_to_bytes(length)
    }
}

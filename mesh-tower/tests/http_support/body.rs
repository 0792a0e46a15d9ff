//! Bodies to send.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use mesh_tower::BoxError;
use tokio::sync::mpsc;

/// Why a body or a handler fails.
#[derive(Debug, thiserror::Error)]
#[error("broken on purpose")]
pub struct Broken(#[source] pub BoxError);

impl From<hyper::Error> for Broken {
    fn from(error: hyper::Error) -> Self {
        Self(error.into())
    }
}

impl From<h2::Reason> for Broken {
    fn from(reason: h2::Reason) -> Self {
        Self(h2::Error::from(reason).into())
    }
}

/// A body of any kind.
pub type Payload = UnsyncBoxBody<Bytes, Broken>;

pub fn empty() -> Payload {
    Empty::new().map_err(|never: Infallible| match never {}).boxed_unsync()
}

pub fn full(data: impl Into<Bytes>) -> Payload {
    Full::new(data.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body of these pieces whose length nobody is told; ready at once.
pub struct Pieces(VecDeque<Frame<Bytes>>);

impl Pieces {
    pub fn new<D: Into<Bytes>>(data: impl IntoIterator<Item = D>) -> Self {
        Self(data.into_iter().map(|data| Frame::data(data.into())).collect())
    }

    pub fn with_trailers(mut self, trailers: HeaderMap) -> Self {
        self.0.push_back(Frame::trailers(trailers));
        self
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}

/// The sending end of a body that is made while it is sent. Dropping it ends the body.
pub struct Feed(mpsc::Sender<Result<Frame<Bytes>, Broken>>);

impl Feed {
    pub fn data(&self, data: impl Into<Bytes>) {
        self.give(Ok(Frame::data(data.into())));
    }

    pub fn trailers(&self, trailers: HeaderMap) {
        self.give(Ok(Frame::trailers(trailers)));
    }

    pub fn fail(&self, error: impl Into<BoxError>) {
        self.give(Err(Broken(error.into())));
    }

    fn give(&self, frame: Result<Frame<Bytes>, Broken>) {
        // A reader that is gone is what some tests are about.
        let full = matches!(self.0.try_send(frame), Err(mpsc::error::TrySendError::Full(_)));
        assert!(!full, "more than the feed holds");
    }

    /// Resolves when nobody reads the body any more.
    pub async fn abandoned(&self) {
        self.0.closed().await;
    }
}

/// A body that is made while it is sent.
pub fn feed() -> (Feed, Payload) {
    let (sender, receiver) = mpsc::channel(1024);
    (Feed(sender), Fed(receiver).boxed_unsync())
}

struct Fed(mpsc::Receiver<Result<Frame<Bytes>, Broken>>);

impl Body for Fed {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.0.poll_recv(cx)
    }
}

//! Bodies to send: whole, in pieces, or made while they are sent.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use tokio::sync::mpsc;

use crate::error::BoxError;

/// A body of any kind, for requests and for replies.
pub type Payload = UnsyncBoxBody<Bytes, BoxError>;

/// A body without a byte.
pub fn empty() -> Payload {
    full(Bytes::new())
}

/// A body whose length is known.
pub fn full(data: impl Into<Bytes>) -> Payload {
    Full::new(data.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// A body of these pieces, whose length nobody is told: chunked over HTTP/1.1, one DATA frame each over HTTP/2.
///
/// ```
/// use mesh_tower::testing::Pieces;
///
/// let body = Pieces::new(["one", "two"]);
/// ```
#[derive(Debug)]
pub struct Pieces(VecDeque<Frame<Bytes>>);

impl Pieces {
    /// All pieces are ready at once; empty ones are sent too.
    pub fn new<D: Into<Bytes>>(data: impl IntoIterator<Item = D>) -> Self {
        Self(data.into_iter().map(|data| Frame::data(data.into())).collect())
    }

    /// Ends in `trailers`. HTTP/1.1 sends only those that the header `trailer` announces (RFC 9110 6.6.2).
    #[must_use]
    pub fn with_trailers(mut self, trailers: HeaderMap) -> Self {
        self.0.push_back(Frame::trailers(trailers));
        self
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}

/// What a [`Feed`] holds that was not read yet.
const FEED: usize = 1024;

/// The near end of a body that a test makes while it is sent. Dropping it ends the body.
pub struct Feed(mpsc::Sender<Result<Frame<Bytes>, BoxError>>);

impl Feed {
    /// A feed and the body that it makes.
    pub fn new() -> (Self, Payload) {
        let (sender, receiver) = mpsc::channel(FEED);
        (Self(sender), Fed(receiver).boxed_unsync())
    }

    /// Sends a piece.
    ///
    /// # Panics
    /// If 1024 pieces were not read yet.
    pub fn data(&self, data: impl Into<Bytes>) {
        self.give(Ok(Frame::data(data.into())));
    }

    /// Sends trailers; nothing follows them.
    pub fn trailers(&self, trailers: HeaderMap) {
        self.give(Ok(Frame::trailers(trailers)));
    }

    /// Breaks the body off.
    pub fn fail(&self, error: impl Into<BoxError>) {
        self.give(Err(error.into()));
    }

    fn give(&self, frame: Result<Frame<Bytes>, BoxError>) {
        // A reader that is gone is what some tests are about.
        let full = matches!(self.0.try_send(frame), Err(mpsc::error::TrySendError::Full(_)));
        assert!(!full, "the feed holds {FEED} pieces that nobody has read");
    }

    /// Resolves when nobody reads the body any more.
    pub async fn abandoned(&self) {
        self.0.closed().await;
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Feed")
    }
}

struct Fed(mpsc::Receiver<Result<Frame<Bytes>, BoxError>>);

impl Body for Fed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.poll_recv(cx)
    }
}

//! A request body that can be sent again.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::{fmt, mem};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// A request body together with what was already read of it.
///
/// It reads the body as it is polled and keeps what it hands out, up to a cap; [`rewind`](Self::rewind) begins again
/// from the first byte: first what was kept, then on with the body. It has one owner, who gives it to one attempt after
/// the other, and shares nothing. Data is kept by reference count, not copied; a body of one frame costs no allocation.
///
/// ```text
///   kept:  [frame][frame][frame]           inner:  ......
///                  ^ next                          ^ read on from here once `next` is at the end of `kept`
/// ```
pub struct Replay<B> {
    inner: B,
    /// Nothing is read from `inner` any more: it ended or failed.
    ended: bool,
    kept: Frames,
    kept_bytes: usize,
    /// Boxed, because few requests have trailers and every request carries this.
    trailers: Option<Box<HeaderMap>>,
    trailers_served: bool,
    /// The kept frame that is served next.
    next: usize,
    /// The bytes of the kept frames that are still to be served.
    ahead: usize,
    max_bytes: usize,
    /// Whether what is read from now on is kept.
    keep: bool,
    /// Whether everything that was read is kept.
    whole: bool,
}

/// Data frames; the first lies inline.
#[derive(Default)]
enum Frames {
    #[default]
    None,
    One(Bytes),
    Many(Vec<Bytes>),
}

impl<B> Replay<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// Keeps up to `max_bytes` bytes of the data of `body`, and its trailers. A body that announces more than that is
    /// not kept at all.
    pub fn new(body: B, max_bytes: usize) -> Self {
        let keep = usize::try_from(body.size_hint().lower()).is_ok_and(|lower| lower <= max_bytes);
        Self {
            inner: body,
            ended: false,
            kept: Frames::None,
            kept_bytes: 0,
            trailers: None,
            trailers_served: false,
            next: 0,
            ahead: 0,
            max_bytes,
            keep,
            whole: true,
        }
    }

    /// Begins again from the first byte. Returns `false`, and changes nothing, if [`is_replayable`](Self::is_replayable)
    /// does not hold.
    pub fn rewind(&mut self) -> bool {
        if self.whole {
            self.next = 0;
            self.ahead = self.kept_bytes;
            self.trailers_served = false;
        }
        self.whole
    }

    /// Whether everything that was read so far can be read again: the body has neither outgrown the cap nor failed nor
    /// been committed. Also true of a body too large to keep of which nothing has been read.
    pub fn is_replayable(&self) -> bool {
        self.whole
    }

    /// Ends the replaying: nothing is kept from here on and what was kept is freed as soon as it has been served.
    pub fn commit(&mut self) {
        self.keep = false;
        self.whole = false;
        self.kept.drop_first(self.next);
        self.next = 0;
        if self.trailers_served {
            self.trailers = None;
        }
    }

    fn next_kept(&mut self) -> Option<Frame<Bytes>> {
        if let Some(frame) = self.kept.get_mut(self.next) {
            let data = if self.whole { frame.clone() } else { mem::take(frame) };
            self.next += 1;
            self.ahead -= data.len();
            return Some(Frame::data(data));
        }
        if !self.whole {
            self.kept = Frames::None;
            self.next = 0;
        }
        if self.trailers_served {
            return None;
        }
        let trailers = if self.whole { self.trailers.clone() } else { self.trailers.take() }?;
        self.trailers_served = true;
        Some(Frame::trailers(*trailers))
    }

    fn keep_data(&mut self, data: &Bytes) {
        // Nothing of the body is in an empty frame, and there may be any number of them.
        if data.is_empty() {
            return;
        }
        if !self.keep || data.len() > self.max_bytes - self.kept_bytes {
            self.lose();
            return;
        }
        self.kept.push(data.clone());
        self.kept_bytes += data.len();
        self.next += 1;
    }

    fn keep_trailers(&mut self, trailers: &HeaderMap) {
        self.ended = true;
        self.trailers_served = true;
        if self.keep {
            self.trailers = Some(Box::new(trailers.clone()));
        } else {
            self.whole = false;
        }
    }

    fn lose(&mut self) {
        self.commit();
        self.kept = Frames::None;
    }
}

impl<B> Body for Replay<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        if let Some(frame) = this.next_kept() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if this.ended {
            return Poll::Ready(None);
        }
        let polled = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        match &polled {
            None => this.ended = true,
            Some(Err(_)) => {
                this.ended = true;
                this.lose();
            }
            Some(Ok(frame)) => match (frame.data_ref(), frame.trailers_ref()) {
                (Some(data), _) => this.keep_data(data),
                (None, Some(trailers)) => this.keep_trailers(trailers),
                // A kind of frame that does not exist yet cannot be cloned.
                (None, None) => this.lose(),
            },
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        let served = self.next >= self.kept.len() && (self.trailers.is_none() || self.trailers_served);
        served && (self.ended || self.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let rest = if self.ended { SizeHint::with_exact(0) } else { self.inner.size_hint() };
        let ahead = self.ahead as u64;
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(ahead));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(ahead)) {
            hint.set_upper(upper);
        }
        hint
    }
}

impl<B> fmt::Debug for Replay<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay")
            .field("kept_bytes", &self.kept_bytes)
            .field("max_bytes", &self.max_bytes)
            .field("replayable", &self.whole)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl Frames {
    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(_) => 1,
            Self::Many(frames) => frames.len(),
        }
    }

    fn get_mut(&mut self, index: usize) -> Option<&mut Bytes> {
        match self {
            Self::None => None,
            Self::One(frame) => (index == 0).then_some(frame),
            Self::Many(frames) => frames.get_mut(index),
        }
    }

    fn push(&mut self, frame: Bytes) {
        match self {
            Self::None => *self = Self::One(frame),
            Self::One(first) => *self = Self::Many(vec![mem::take(first), frame]),
            Self::Many(frames) => frames.push(frame),
        }
    }

    fn drop_first(&mut self, count: usize) {
        if count >= self.len() {
            *self = Self::None;
        } else if let Self::Many(frames) = self {
            frames.drain(..count);
        }
    }
}

#[cfg(test)]
mod tests;

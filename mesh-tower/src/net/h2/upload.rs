//! A request body on its way over HTTP/2.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::h2::{Reason, SendStream};
use bytes::Bytes;
use http::HeaderMap;
use http_body::Body;

/// A final chunk up to this size is handed to h2 without asking for window first: h2 keeps it until there is some.
/// Streams are admitted by number, so this bounds what a connection can buffer.
const UNASKED: usize = 16 * 1024;

/// The request body on its way.
pub(crate) struct Upload {
    stream: SendStream<Bytes>,
    /// What was read and not yet sent.
    chunk: Bytes,
    /// What was read behind it.
    next: Option<Bytes>,
    /// What follows the chunk.
    then: Then,
    reserved: bool,
}

enum Then {
    More,
    End,
    Trailers(Box<HeaderMap>),
}

impl Upload {
    pub(super) fn new(stream: SendStream<Bytes>) -> Self {
        Self { stream, chunk: Bytes::new(), next: None, then: Then::More, reserved: false }
    }

    /// Sends `body` to its end, or until the peer needs no more of it.
    pub(crate) fn poll_send<B>(&mut self, cx: &mut Context<'_>, body: &mut B) -> Poll<Result<(), B::Error>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        loop {
            if !self.chunk.is_empty() {
                if !ready!(self.poll_send_chunk(cx)) {
                    return Poll::Ready(Ok(()));
                }
                if !self.chunk.is_empty() {
                    continue;
                }
                if matches!(self.then, Then::End) {
                    return Poll::Ready(Ok(()));
                }
            }
            if let Some(next) = self.next.take() {
                self.chunk = next;
                self.look_ahead(cx, body)?;
                continue;
            }
            match std::mem::replace(&mut self.then, Then::More) {
                // An error means that the stream is gone; the response side tells why.
                Then::End => {
                    let _ = self.stream.send_data(Bytes::new(), true);
                    return Poll::Ready(Ok(()));
                }
                Then::Trailers(trailers) => {
                    let _ = self.stream.send_trailers(*trailers);
                    return Poll::Ready(Ok(()));
                }
                Then::More => {}
            }
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        self.chunk = data;
                        self.look_ahead(cx, body)?;
                    }
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            self.then = Then::Trailers(Box::new(trailers));
                        }
                    }
                },
                Poll::Ready(Some(Err(error))) => {
                    self.stream.send_reset(Reason::CANCEL);
                    return Poll::Ready(Err(error));
                }
                Poll::Ready(None) => self.then = Then::End,
                Poll::Pending => {
                    // The peer may have had enough: it ended the stream, with an answer or without.
                    let gone = self.stream.poll_reset(cx).is_ready();
                    return if gone { Poll::Ready(Ok(())) } else { Poll::Pending };
                }
            }
        }
    }

    /// Learns whether the chunk is the last one, so that a body of one chunk (every unary call) ends with the frame
    /// that carries it, and not with an empty frame of its own.
    fn look_ahead<B>(&mut self, cx: &mut Context<'_>, body: &mut B) -> Result<(), B::Error>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        if body.is_end_stream() {
            self.then = Then::End;
        } else if body.size_hint().exact().is_none() {
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(None) => self.then = Then::End,
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.next = Some(data),
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            self.then = Then::Trailers(Box::new(trailers));
                        }
                    }
                },
                Poll::Ready(Some(Err(error))) => {
                    self.stream.send_reset(Reason::CANCEL);
                    return Err(error);
                }
                Poll::Pending => {}
            }
        }
        Ok(())
    }

    /// Sends what the peer's window allows of the chunk; `false` if the stream is gone.
    fn poll_send_chunk(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let last = matches!(self.then, Then::End);
        if last && !self.reserved && self.chunk.len() <= UNASKED {
            return Poll::Ready(self.stream.send_data(std::mem::take(&mut self.chunk), true).is_ok());
        }
        if !self.reserved {
            self.stream.reserve_capacity(self.chunk.len());
            self.reserved = true;
        }
        let capacity = match self.stream.capacity() {
            0 => match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(capacity)) => capacity,
                Some(Err(_)) | None => return Poll::Ready(false),
            },
            capacity => capacity,
        };
        let part = self.chunk.split_to(capacity.min(self.chunk.len()));
        self.reserved = !self.chunk.is_empty();
        let end = last && self.chunk.is_empty();
        Poll::Ready(self.stream.send_data(part, end).is_ok())
    }
}

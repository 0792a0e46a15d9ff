//! Streams that were read a little already, and those into which a frame can be slipped.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::net::Io;
use crate::testing::lock;

/// What a client of HTTP/2 says first (RFC 9113 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What was read to find out, and whether it is HTTP/2's preface; `None` if the client left without a word.
pub(super) async fn detect(io: &mut impl Io) -> Option<(Bytes, bool)> {
    let mut start = Vec::with_capacity(PREFACE.len());
    while PREFACE.starts_with(&start) && start.len() < PREFACE.len() {
        let mut rest = vec![0; PREFACE.len() - start.len()];
        let read = io.read(&mut rest).await.ok().filter(|read| *read > 0)?;
        start.extend_from_slice(&rest[..read]);
    }
    let is_h2 = start == PREFACE;
    Some((start.into(), is_h2))
}

/// A stream that begins with what was read of it.
pub(super) struct Prefixed<I> {
    start: Bytes,
    io: I,
}

impl<I> Prefixed<I> {
    pub(super) fn new(start: Bytes, io: I) -> Self {
        Self { start, io }
    }
}

impl<I: Io> AsyncRead for Prefixed<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.start.has_remaining() {
            let len = self.start.len().min(buf.remaining());
            buf.put_slice(&self.start.split_to(len));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<I: Io> AsyncWrite for Prefixed<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The server's side of an HTTP/2 connection into which a frame can be slipped that `h2` would not send: between two of
/// its own, and as soon as the connection is polled.
pub(super) struct Slipping<I> {
    io: I,
    slipped: Arc<Mutex<Bytes>>,
    /// The head of the frame that is being written, as far as it was.
    head: Vec<u8>,
    /// What is left of its payload.
    payload: usize,
}

/// Slips frames into a [`Slipping`].
#[derive(Clone)]
pub(super) struct Slip(Arc<Mutex<Bytes>>);

/// Length, type, flags and stream of a frame (RFC 9113 4.1).
const HEAD: usize = 9;

impl Slip {
    /// A GOAWAY that names `last` as the last stream that is processed. The connection must be polled after it.
    pub(super) fn go_away(&self, last: u32) {
        let head = [0, 0, 8, 7, 0, 0, 0, 0, 0];
        let no_error = 0u32.to_be_bytes();
        let frame = [&head[..], &last.to_be_bytes(), &no_error].concat();
        *lock(&self.0) = frame.into();
    }
}

impl<I: Io> Slipping<I> {
    pub(super) fn new(io: I) -> (Self, Slip) {
        let slipped = Arc::new(Mutex::new(Bytes::new()));
        (Self { io, slipped: Arc::clone(&slipped), head: Vec::with_capacity(HEAD), payload: 0 }, Slip(slipped))
    }

    fn is_between_frames(&self) -> bool {
        self.head.is_empty() && self.payload == 0
    }

    /// How many bytes are left of the frame that is being written, as far as its head tells.
    fn left_of_frame(&self) -> usize {
        if self.payload > 0 { self.payload } else { HEAD - self.head.len() }
    }

    /// Takes note of what was written.
    fn wrote(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.payload > 0 {
                let len = self.payload.min(bytes.len());
                self.payload -= len;
                bytes.advance(len);
                continue;
            }
            let len = (HEAD - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..len]);
            bytes.advance(len);
            if let [a, b, c, ..] = self.head[..]
                && self.head.len() == HEAD
            {
                self.payload = u32::from_be_bytes([0, a, b, c]) as usize;
                self.head.clear();
            }
        }
    }

    /// Ready when nothing is to be slipped in, or it cannot be now.
    fn poll_slip(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let slipped = Arc::clone(&self.slipped);
        let mut slipped = lock(&slipped);
        while !slipped.is_empty() && self.is_between_frames() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &slipped))?;
            slipped.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: Io> AsyncRead for Slipping<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // A connection that has nothing to write waits here.
        if let Poll::Ready(result) = self.poll_slip(cx) {
            result?;
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<I: Io> AsyncWrite for Slipping<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_slip(cx))?;
        let has_more = !lock(&self.slipped).is_empty();
        let len = if has_more { buf.len().min(self.left_of_frame()) } else { buf.len() };
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, &buf[..len]))?;
        self.wrote(&buf[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

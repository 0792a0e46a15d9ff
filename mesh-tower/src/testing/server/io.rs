//! Streams that were read a little already, and those whose frames are told apart.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::sync::watch;

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

/// A stream that begins with what was read of it, and tells whenever all that was written is flushed.
pub(super) struct Prefixed<I> {
    start: Bytes,
    io: I,
    flushes: watch::Sender<u64>,
}

impl<I> Prefixed<I> {
    pub(super) fn new(start: Bytes, io: I) -> Self {
        Self { start, io, flushes: watch::Sender::new(0) }
    }

    /// How often it was flushed.
    pub(super) fn flushes(&self) -> watch::Receiver<u64> {
        self.flushes.subscribe()
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
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        if flushed.is_ready() {
            self.flushes.send_modify(|flushes| *flushes += 1);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The server's side of an HTTP/2 connection, where frames are told apart: one can be slipped in between two that `h2`
/// writes, and it is known how much of a stream was written.
pub(super) struct Framed<I> {
    io: I,
    shared: Arc<Shared>,
    /// The head of the frame that is being written, as far as it was.
    head: Vec<u8>,
    /// What is left of its payload.
    payload: usize,
}

#[derive(Default)]
struct Shared {
    /// What is to be slipped in.
    slipped: Mutex<Bytes>,
    /// How much of each stream that is followed was written.
    written: watch::Sender<HashMap<u32, usize>>,
}

/// Length, type, flags and stream of a frame (RFC 9113 4.1).
const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const GOAWAY: u8 = 7;

/// What can be done to a [`Framed`] while `h2` has it.
#[derive(Clone)]
pub(super) struct Frames(Arc<Shared>);

impl Frames {
    /// Slips in a GOAWAY that names `last` as the last stream that is processed. The connection must be polled after it.
    pub(super) fn go_away(&self, last: u32) {
        let head = [0, 0, 8, GOAWAY, 0, 0, 0, 0, 0];
        let no_error = 0u32.to_be_bytes();
        let frame = [&head[..], &last.to_be_bytes(), &no_error].concat();
        *lock(&self.0.slipped) = frame.into();
    }

    /// Follows what is written of `stream` from now on.
    pub(super) fn follow(&self, stream: u32) -> Followed {
        self.0.written.send_if_modified(|written| written.insert(stream, 0).is_some());
        Followed { stream, shared: Arc::clone(&self.0) }
    }
}

/// A stream that is followed.
pub(super) struct Followed {
    stream: u32,
    shared: Arc<Shared>,
}

impl Followed {
    /// Resolves when so much was written of it: each block of headers counts 1, data by bytes.
    pub(super) async fn written(&self, enough: usize) {
        let mut written = self.shared.written.subscribe();
        let reached = written.wait_for(|written| written.get(&self.stream).is_some_and(|now| *now >= enough)).await;
        drop(reached.expect("this holds the sender"));
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.shared.written.send_if_modified(|written| {
            written.remove(&self.stream);
            false
        });
    }
}

impl<I: Io> Framed<I> {
    pub(super) fn new(io: I) -> (Self, Frames) {
        let shared = Arc::<Shared>::default();
        (Self { io, shared: Arc::clone(&shared), head: Vec::with_capacity(HEAD), payload: 0 }, Frames(shared))
    }

    /// How many bytes are left of the frame that is being written, as far as its head tells.
    fn left_of_frame(&self) -> usize {
        if self.head.len() == HEAD { self.payload } else { HEAD - self.head.len() }
    }

    /// Takes note of what was written.
    fn wrote(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let len = self.left_of_frame().min(bytes.len());
            if self.head.len() == HEAD {
                self.payload -= len;
            } else {
                self.head.extend_from_slice(&bytes[..len]);
                self.payload = self.payload_of_head();
            }
            bytes.advance(len);
            if self.head.len() == HEAD && self.payload == 0 {
                self.wrote_frame();
                self.head.clear();
            }
        }
    }

    fn payload_of_head(&self) -> usize {
        match self.head[..] {
            [a, b, c, ..] => u32::from_be_bytes([0, a, b, c]) as usize,
            _ => 0,
        }
    }

    fn wrote_frame(&self) {
        let [.., kind, _, a, b, c, d] = self.head[..] else { return };
        let amount = match kind {
            DATA => self.payload_of_head(),
            HEADERS => 1,
            _ => return,
        };
        let stream = u32::from_be_bytes([a, b, c, d]);
        self.shared.written.send_if_modified(|written| {
            let followed = written.get_mut(&stream).map(|written| *written += amount);
            followed.is_some()
        });
    }

    /// Ready when nothing is to be slipped in, or it cannot be now.
    fn poll_slip(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut slipped = lock(&self.shared.slipped);
        while !slipped.is_empty() && self.head.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &slipped))?;
            slipped.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: Io> AsyncRead for Framed<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // A connection that has nothing to write waits here.
        if let Poll::Ready(result) = self.poll_slip(cx) {
            result?;
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<I: Io> AsyncWrite for Framed<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_slip(cx))?;
        let has_more = !lock(&self.shared.slipped).is_empty();
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

//! A connection whose caller is watched: how long the heads of requests take, and how much it sends for nothing.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use mesh_core::inbound::{FrameMeter, PREFACE};
use pin_project::{pin_project, pinned_drop};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::life::Life;
use super::stream::ServerStream;

/// See the module.
#[pin_project(PinnedDrop)]
pub(super) struct Metered {
    #[pin]
    stream: ServerStream,
    /// Of HTTP/2.
    frames: Option<Frames>,
    life: Arc<Life>,
    /// Of a connection that speaks another protocol: whoever reads, and whoever writes, hears that it is cut.
    cut_read: Cut,
    cut_write: Cut,
}

/// Tells that a connection that speaks another protocol is to end.
type Cut = Option<Pin<Box<WaitForCancellationFutureOwned>>>;

struct Frames {
    meter: FrameMeter,
    /// What is left of the preface.
    preface: usize,
}

impl Metered {
    pub(super) fn http1(stream: ServerStream, life: Arc<Life>) -> Self {
        Self::new(stream, None, life)
    }

    /// It breaks when the caller sends more than `most` frames a second that carry nothing of a request.
    pub(super) fn http2(stream: ServerStream, most: u32, life: Arc<Life>) -> Self {
        let frames = Frames { meter: FrameMeter::new(most), preface: PREFACE.len() };
        Self::new(stream, Some(frames), life)
    }

    fn new(stream: ServerStream, frames: Option<Frames>, life: Arc<Life>) -> Self {
        Self { stream, frames, life, cut_read: None, cut_write: None }
    }
}

/// An error if the connection speaks another protocol, and is cut.
fn uncut(life: &Life, cut: &mut Cut, cx: &mut Context<'_>) -> io::Result<()> {
    let Some(upgrade) = life.upgraded() else { return Ok(()) };
    let cut = cut.get_or_insert_with(|| Box::pin(upgrade.cut.clone().cancelled_owned()));
    match cut.as_mut().poll(cx) {
        Poll::Ready(()) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the server ended the connection")),
        Poll::Pending => Ok(()),
    }
}

#[pinned_drop]
impl PinnedDrop for Metered {
    fn drop(self: Pin<&mut Self>) {
        if let Some(upgrade) = self.life.upgraded() {
            upgrade.gone.cancel();
        }
    }
}

impl AsyncRead for Metered {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        uncut(this.life, this.cut_read, cx)?;
        let before = buf.filled().len();
        std::task::ready!(this.stream.poll_read(cx, buf))?;
        let read = &buf.filled()[before..];
        let Some(Frames { meter, preface }) = this.frames else {
            // What comes while no request is under way is the head of the next one.
            if !read.is_empty() && this.life.in_flight() == 0 {
                this.life.within_head(true);
            }
            return Poll::Ready(Ok(()));
        };
        let of_preface = read.len().min(*preface);
        *preface -= of_preface;
        let ended = meter.ended();
        if let Err(flood) = meter.read(&read[of_preface..], || Instant::now().into_std()) {
            this.life.flood();
            return Poll::Ready(Err(io::Error::other(flood)));
        }
        if meter.ended() != ended {
            // What is within now has begun just now.
            this.life.within_head(false);
        }
        this.life.within_head(meter.is_within());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.project();
        uncut(this.life, this.cut_write, cx)?;
        let written = this.stream.poll_write(cx, buf);
        this.life.blocked(written.is_pending());
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        let flushed = this.stream.poll_flush(cx);
        this.life.blocked(flushed.is_pending());
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().stream.poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        uncut(this.life, this.cut_write, cx)?;
        let written = this.stream.poll_write_vectored(cx, bufs);
        this.life.blocked(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

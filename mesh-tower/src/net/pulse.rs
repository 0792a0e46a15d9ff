//! Whether the peer of a connection gives a sign of life.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::io::Stream;

/// Whether the peer was heard of, and whether it is given up.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    heard: AtomicBool,
    /// How long its answer to a ping was waited for, in vain.
    stopped: OnceLock<Duration>,
}

impl Pulse {
    /// Whether anything was read since this was asked last.
    pub(crate) fn take_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed) && self.heard.swap(false, Ordering::Relaxed)
    }

    /// From now on the stream fails.
    pub(crate) fn stop(&self, waited: Duration) {
        // Whoever was first has said why.
        let _ = self.stopped.set(waited);
    }

    fn check(&self) -> io::Result<()> {
        self.stopped.get().map_or(Ok(()), |waited| {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("the peer did not answer a ping within {waited:?}")))
        })
    }
}

/// A stream that tells whether its peer was heard of, where somebody wants to know.
#[pin_project]
pub(crate) struct Watched {
    #[pin]
    stream: Stream,
    pulse: Option<Arc<Pulse>>,
}

impl Watched {
    pub(crate) fn new(stream: Stream, pulse: Option<Arc<Pulse>>) -> Self {
        Self { stream, pulse }
    }
}

fn check(pulse: Option<&Arc<Pulse>>) -> io::Result<()> {
    pulse.map_or(Ok(()), |pulse| pulse.check())
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        check(this.pulse.as_ref())?;
        let before = buf.filled().len();
        let poll = this.stream.poll_read(cx, buf);
        if let Some(pulse) = this.pulse
            && buf.filled().len() > before
        {
            pulse.heard.store(true, Ordering::Relaxed);
        }
        poll
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        check(self.pulse.as_ref())?;
        self.project().stream.poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        check(self.pulse.as_ref())?;
        self.project().stream.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().stream.poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        check(self.pulse.as_ref())?;
        self.project().stream.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

//! What a server speaks over.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use mesh_core::inbound::{Detected, MAX_DETECT};
use pin_project::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::count::Place;
use super::entry::Changes;
use super::peer::Peer;
use super::state::ServerState;
use super::staying::Staying;
use crate::net::io::{Raw, forward};
use crate::telemetry::metrics::OpenServed;

/// A byte stream whose first bytes have been looked at.
#[pin_project]
pub(crate) struct Rewound<T> {
    #[pin]
    inner: T,
    /// Read, and not handed on.
    first: First,
}

/// The first bytes of a connection.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct First {
    bytes: [u8; MAX_DETECT],
    from: u8,
    to: u8,
}

impl First {
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[usize::from(self.from)..usize::from(self.to)]
    }

    /// Where further bytes go.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[usize::from(self.to)..]
    }

    pub(crate) fn filled(&mut self, count: usize) {
        // There is room for no more than `MAX_DETECT`.
        self.to += count as u8;
    }

    fn take(&mut self, buf: &mut ReadBuf<'_>) {
        let taken = self.as_slice().len().min(buf.remaining());
        buf.put_slice(&self.as_slice()[..taken]);
        self.from += taken as u8;
    }
}

impl<T> Rewound<T> {
    pub(crate) fn new(inner: T, first: First) -> Self {
        Self { inner, first }
    }
}

impl<T: AsyncRead> AsyncRead for Rewound<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        if this.first.as_slice().is_empty() {
            return this.inner.poll_read(cx, buf);
        }
        this.first.take(buf);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite> AsyncWrite for Rewound<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.project().inner.poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.project().inner.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[pin_project(project = TransportProject)]
pub(crate) enum Transport {
    Plain(#[pin] Rewound<Raw>),
    Tls(#[pin] Box<Rewound<TlsStream<Rewound<Raw>>>>),
}

forward!(Transport, TransportProject, Plain, Tls);

/// Which version of HTTP a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    Http1,
    Http2,
}

impl Version {
    pub(crate) fn of(detected: Detected) -> Self {
        if detected == Detected::Http2 { Self::Http2 } else { Self::Http1 }
    }
}

/// A connection that an [`Acceptor`](super::Acceptor) let in: decrypted, and of a known caller.
#[pin_project]
pub struct ServerStream {
    #[pin]
    pub(crate) transport: Transport,
    pub(crate) peer: Arc<Peer>,
    pub(crate) version: Version,
    pub(super) changes: Changes,
    pub(super) held: Option<Held>,
    /// Where nobody else ends it.
    pub(super) staying: Option<Staying>,
    /// Until it is read from: whoever serves it has not looked at it.
    pub(super) fresh: Option<TaskTrackerToken>,
}

/// What a connection counts as, until it is dropped.
pub(super) struct Held {
    pub(super) _place: Place,
    pub(super) _open: OpenServed,
}

impl ServerStream {
    /// Who is at the other end.
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// Has it end by itself: when its caller would no longer be let in, and when a drain is over.
    pub(super) fn watched(mut self, state: &Arc<ServerState>) -> Self {
        self.staying = Some(Staying::new(state, &self.peer, &self.changes));
        self
    }

    /// Whether it speaks HTTP/2. Otherwise it speaks HTTP/1.1, or something that its parser will refuse.
    pub fn is_http2(&self) -> bool {
        self.version == Version::Http2
    }
}

impl std::fmt::Debug for ServerStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerStream").field("peer", &self.peer).field("version", &self.version).finish_non_exhaustive()
    }
}

impl AsyncRead for ServerStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        if let Some(staying) = this.staying {
            staying.poll(cx)?;
        }
        let read = this.transport.poll_read(cx, buf);
        if read.is_ready() && this.fresh.is_some() {
            *this.fresh = None;
        }
        read
    }
}

impl AsyncWrite for ServerStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.project();
        if let Some(staying) = this.staying {
            staying.check()?;
        }
        this.transport.poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().transport.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().transport.poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        if let Some(staying) = this.staying {
            staying.check()?;
        }
        this.transport.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }
}

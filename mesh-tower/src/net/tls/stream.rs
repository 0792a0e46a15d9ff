//! What is spoken over TLS, for as long as the peer is trusted.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project::pin_project;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;

use super::session::Held;
use crate::identity::PeerRefused;
use crate::net::io::Raw;

/// A TLS stream. Once its peer is not trusted any more it fails, for whoever reads or writes.
#[pin_project]
pub(crate) struct Guarded {
    #[pin]
    stream: TlsStream<Raw>,
    held: Option<Held>,
    refused: Option<PeerRefused>,
}

impl Guarded {
    pub(in crate::net) fn new(stream: TlsStream<Raw>, held: Option<Held>) -> Self {
        Self { stream, held, refused: None }
    }

    /// Resolves when the peer has said something: sent tickets, as servers do that have let a client in, or more.
    ///
    /// # Errors
    /// If it refuses the client, or is gone.
    pub(in crate::net) async fn hear(&mut self) -> io::Result<()> {
        poll_fn(|cx| {
            let read = Pin::new(&mut self.stream).poll_fill_buf(cx).map_ok(<[u8]>::is_empty);
            match read {
                Poll::Ready(Ok(true)) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Poll::Ready(Ok(false)) => Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Pending if self.stream.get_ref().1.tls13_tickets_received() > 0 => Poll::Ready(Ok(())),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Fails once the peer is refused; until then wakes whoever reads when that changes.
    fn poll_trust(self: Pin<&mut Self>, cx: &mut Context<'_>) -> io::Result<()> {
        let this = self.project();
        if let Some(held) = this.held
            && let Poll::Ready(refused) = held.poll_refused(cx)
        {
            *this.refused = Some(refused);
        }
        trusted(this.refused.as_ref())
    }
}

fn trusted(refused: Option<&PeerRefused>) -> io::Result<()> {
    refused.map_or(Ok(()), |refused| {
        let text = format!("the peer is not trusted any more: {refused}");
        Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
    })
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.as_mut().poll_trust(cx)?;
        self.project().stream.poll_read(cx, buf)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.project();
        trusted(this.refused.as_ref())?;
        this.stream.poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        trusted(this.refused.as_ref())?;
        this.stream.poll_flush(cx)
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
        trusted(this.refused.as_ref())?;
        this.stream.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

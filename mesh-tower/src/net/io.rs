//! Byte streams of a connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::tls::Guarded;

/// A byte stream to a peer, such as [`TcpStream`] or one end of [`tokio::io::duplex`].
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// What a connector may give.
#[pin_project(project = RawProject)]
pub(crate) enum Raw {
    Tcp(#[pin] TcpStream),
    Other(#[pin] Box<dyn Io>),
}

/// What HTTP is spoken over.
#[pin_project(project = StreamProject)]
pub(crate) enum Stream {
    Plain(#[pin] Raw),
    Tls(#[pin] Box<Guarded>),
}

macro_rules! forward {
    ($type:ident, $project:ident, $($variant:ident),+) => {
        impl AsyncRead for $type {
            fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
                match self.project() {
                    $($project::$variant(io) => io.poll_read(cx, buf),)+
                }
            }
        }

        impl AsyncWrite for $type {
            fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                match self.project() {
                    $($project::$variant(io) => io.poll_write(cx, buf),)+
                }
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.project() {
                    $($project::$variant(io) => io.poll_flush(cx),)+
                }
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.project() {
                    $($project::$variant(io) => io.poll_shutdown(cx),)+
                }
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                match self.project() {
                    $($project::$variant(io) => io.poll_write_vectored(cx, bufs),)+
                }
            }

            fn is_write_vectored(&self) -> bool {
                match self {
                    $(Self::$variant(io) => io.is_write_vectored(),)+
                }
            }
        }
    };
}

pub(crate) use forward;

forward!(Raw, RawProject, Tcp, Other);
forward!(Stream, StreamProject, Plain, Tls);

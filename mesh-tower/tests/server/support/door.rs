use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use mesh_tower::core::model::Address;
use mesh_tower::server::{Accept, Accepted};
use mesh_tower::{Connect, Connecting, Io};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::mpsc;

/// Leads to a server in memory.
#[derive(Clone)]
pub(crate) struct Door(mpsc::Sender<Accepted>);

impl Door {
    /// A door, and what accepts those who come through it.
    pub(super) fn new() -> (Self, impl Accept) {
        let (sender, mut receiver) = mpsc::channel::<Accepted>(1024);
        let accept = move |cx: &mut Context<'_>| match receiver.poll_recv(cx) {
            Poll::Ready(Some(accepted)) => Poll::Ready(Ok(accepted)),
            _ => Poll::Pending,
        };
        (Self(sender), accept)
    }

    /// Where the server is, for those who must say so.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], 8080))
    }

    /// A connection, from the same address as all others. It holds 64 KiB in each direction.
    pub(crate) fn enter(&self) -> DuplexStream {
        self.enter_from([198, 51, 100, 1], 64 * 1024)
    }

    /// A connection from the host `from` that holds `room` bytes in each direction.
    pub(crate) fn enter_from(&self, from: [u8; 4], room: usize) -> DuplexStream {
        self.try_enter(from, room).unwrap()
    }

    /// A connection of which the server gets a byte at a time, and sends a byte at a time.
    pub(crate) fn enter_in_crumbs(&self) -> DuplexStream {
        let (near, far) = tokio::io::duplex(64 * 1024);
        self.open(Box::new(Crumbs { stream: far, rests: false }), [198, 51, 100, 1]).unwrap();
        near
    }

    fn try_enter(&self, from: [u8; 4], room: usize) -> io::Result<DuplexStream> {
        let (near, far) = tokio::io::duplex(room);
        self.open(Box::new(far), from)?;
        Ok(near)
    }

    fn open(&self, stream: Box<dyn Io>, from: [u8; 4]) -> io::Result<()> {
        let remote = Some(SocketAddr::from((from, 4711)));
        let accepted = Accepted { stream, remote, local: Some(self.address()) };
        self.0.try_send(accepted).map_err(|_| io::ErrorKind::ConnectionRefused.into())
    }
}

impl Connect for Door {
    fn connect(&self, _: &Address) -> Connecting {
        let stream = self.try_enter([198, 51, 100, 1], 64 * 1024);
        Box::pin(std::future::ready(stream.map(|stream| Box::new(stream) as Box<dyn Io>)))
    }
}

/// Lets a byte through at a time, and nothing every other time.
struct Crumbs {
    stream: DuplexStream,
    rests: bool,
}

impl AsyncRead for Crumbs {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.rests = !self.rests;
        if self.rests {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut crumb = [0];
        let mut one = ReadBuf::new(&mut crumb);
        std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, &mut one))?;
        buf.put_slice(one.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Crumbs {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let crumb = &buf[..buf.len().min(1)];
        Pin::new(&mut self.stream).poll_write(cx, crumb)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

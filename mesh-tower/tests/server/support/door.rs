use std::io;
use std::net::SocketAddr;
use std::task::Poll;

use mesh_tower::core::model::Address;
use mesh_tower::server::{Accept, Accepted};
use mesh_tower::{Connect, Connecting, Io};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;

/// Leads to a server in memory.
#[derive(Clone)]
pub(crate) struct Door(mpsc::Sender<Accepted>);

impl Door {
    /// A door, and what accepts those who come through it.
    pub(super) fn new() -> (Self, impl Accept) {
        let (sender, mut receiver) = mpsc::channel::<Accepted>(1024);
        let accept = move |cx: &mut std::task::Context<'_>| match receiver.poll_recv(cx) {
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

    fn try_enter(&self, from: [u8; 4], room: usize) -> io::Result<DuplexStream> {
        let (near, far) = tokio::io::duplex(room);
        let remote = Some(SocketAddr::from((from, 4711)));
        let accepted = Accepted { stream: Box::new(far), remote, local: Some(self.address()) };
        self.0.try_send(accepted).map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
        Ok(near)
    }
}

impl Connect for Door {
    fn connect(&self, _: &Address) -> Connecting {
        let stream = self.try_enter([198, 51, 100, 1], 64 * 1024);
        Box::pin(std::future::ready(stream.map(|stream| Box::new(stream) as Box<dyn Io>)))
    }
}

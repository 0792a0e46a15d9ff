//! The loopback port of a backend.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::task::Poll;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;

use super::lock;

/// A loopback port that can be closed and opened again.
pub(super) struct Port {
    pub(super) address: SocketAddr,
    state: Mutex<PortState>,
    changed: Notify,
}

enum PortState {
    Open(TcpListener),
    /// Connections are refused. Bound all the same, if possible, so that the kernel gives the port to nobody else.
    Closed(Option<TcpSocket>),
}

impl Port {
    pub(super) fn open(address: SocketAddr) -> Self {
        let socket = bind(address).unwrap_or_else(|error| panic!("{address} cannot be bound: {error}"));
        let address = socket.local_addr().expect("it is bound");
        let port = Self { address, state: Mutex::new(PortState::Closed(Some(socket))), changed: Notify::new() };
        port.open_if(true);
        port
    }

    pub(super) fn open_if(&self, open: bool) {
        let mut state = lock(&self.state);
        match &mut *state {
            PortState::Closed(socket) if open => {
                let socket = socket.take().map_or_else(|| bind(self.address), Ok);
                let listener = socket.and_then(|socket| socket.listen(1024));
                *state = PortState::Open(listener.unwrap_or_else(|error| panic!("{}: {error}", self.address)));
            }
            PortState::Open(_) if !open => {
                *state = PortState::Closed(None);
                *state = PortState::Closed(bind(self.address).ok());
            }
            _ => return,
        }
        self.changed.notify_one();
    }

    pub(super) fn close(&self) {
        *lock(&self.state) = PortState::Closed(None);
    }

    pub(super) async fn accept(&self) -> TcpStream {
        loop {
            let accepted = poll_fn(|cx| match &*lock(&self.state) {
                PortState::Open(listener) => listener.poll_accept(cx),
                PortState::Closed(_) => Poll::Pending,
            });
            tokio::select! {
                accepted = accepted => if let Ok((stream, _)) = accepted {
                    return stream;
                },
                () = self.changed.notified() => {}
            }
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Connections of the life before may still linger on the port.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

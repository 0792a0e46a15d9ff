//! Connections that live in memory.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use mesh_core::model::Address;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;

use super::lock;
use crate::net::{Connect, Connecting, Io};

/// One end of a connection of a [`MemoryNetwork`].
pub type MemoryStream = DuplexStream;

/// What a connection holds in each direction that its reader has not read: like the buffers of a socket.
const BUFFER: usize = 64 * 1024;
/// Connections that wait to be accepted; a further one is refused.
const BACKLOG: usize = 1024;

/// A network inside the process: the transport of a mesh under test, by
/// [`Builder::connector`](crate::Builder::connector).
///
/// Addresses are ordinary socket addresses that mean nothing outside of it. Where nobody listens, a connection is
/// refused at once, as by a host whose process is down. There is no latency and no loss, and nothing but tasks to wait
/// for: a paused clock (`#[tokio::test(start_paused = true)]`, tokio's feature `test-util`) jumps from timer to timer
/// and never ahead of a byte. Clones are the same network.
///
/// ```
/// use mesh_tower::testing::MemoryNetwork;
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let network = MemoryNetwork::new();
/// let address = network.unused_address();
/// assert!(network.connect(address).is_err());
///
/// let mut listener = network.listen(address);
/// let mut near = network.connect(address)?;
/// let mut far = listener.accept().await;
/// near.write_all(b"hello").await?;
/// let mut text = [0; 5];
/// far.read_exact(&mut text).await?;
/// assert_eq!(&text, b"hello");
/// assert_eq!(network.connects_to(address), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct MemoryNetwork(Arc<Mutex<Hosts>>);

#[derive(Default)]
struct Hosts {
    listeners: HashMap<SocketAddr, Box<dyn Listen>>,
    connects: HashMap<SocketAddr, usize>,
    given: u16,
}

/// Somebody who takes connections at an address.
pub(super) trait Listen: Send + Sync {
    /// The near end of a new connection.
    fn connect(&self) -> io::Result<MemoryStream>;
    /// Whether the address is taken.
    fn is_open(&self) -> bool;
}

impl MemoryNetwork {
    /// A network where nobody listens.
    pub fn new() -> Self {
        Self::default()
    }

    /// An address that this network has not given before (of 192.0.2.0/24, which RFC 5737 keeps for documentation:
    /// should it ever reach a real network, nobody is there).
    ///
    /// # Panics
    /// If it has given all of them: 65,535.
    pub fn unused_address(&self) -> SocketAddr {
        let mut hosts = lock(&self.0);
        let [high, low] = hosts.given.to_be_bytes();
        hosts.given = hosts.given.checked_add(1).expect("a test needs less than 65,535 addresses");
        SocketAddr::from(([192, 0, 2, low], 8000 + u16::from(high)))
    }

    /// Takes the connections to `address` until the listener is dropped.
    ///
    /// # Panics
    /// If somebody listens there already.
    pub fn listen(&self, address: SocketAddr) -> MemoryListener {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        self.register(address, sender);
        MemoryListener { address, receiver }
    }

    pub(super) fn register(&self, address: SocketAddr, listener: impl Listen + 'static) {
        let mut hosts = lock(&self.0);
        let taken = hosts.listeners.get(&address).is_some_and(|listener| listener.is_open());
        // The lock is not poisoned by what is only a mistake of the test.
        if taken {
            drop(hosts);
            panic!("somebody listens at {address} of this network already");
        }
        hosts.listeners.insert(address, Box::new(listener));
    }

    /// Connects to `address`, as a mesh does; for other clients.
    ///
    /// # Errors
    /// [`io::ErrorKind::ConnectionRefused`] if nobody listens there.
    pub fn connect(&self, address: SocketAddr) -> io::Result<MemoryStream> {
        let mut hosts = lock(&self.0);
        *hosts.connects.entry(address).or_default() += 1;
        match hosts.listeners.get(&address) {
            Some(listener) => listener.connect(),
            None => Err(refused()),
        }
    }

    /// How many connections were tried so far, refused ones included.
    pub fn connects(&self) -> usize {
        lock(&self.0).connects.values().sum()
    }

    /// How many connections to `address` were tried so far, refused ones included.
    pub fn connects_to(&self, address: SocketAddr) -> usize {
        lock(&self.0).connects.get(&address).copied().unwrap_or(0)
    }
}

/// A connection, halved.
pub(super) fn pair() -> (MemoryStream, MemoryStream) {
    tokio::io::duplex(BUFFER)
}

pub(super) fn refused() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused")
}

impl Listen for mpsc::Sender<MemoryStream> {
    fn connect(&self) -> io::Result<MemoryStream> {
        let (near, far) = pair();
        self.try_send(far).map_err(|_| refused())?;
        Ok(near)
    }

    fn is_open(&self) -> bool {
        !self.is_closed()
    }
}

impl Connect for MemoryNetwork {
    fn connect(&self, address: &Address) -> Connecting {
        let stream = match address {
            Address::Socket(address) => self.connect(*address),
            #[allow(unreachable_patterns, reason = "addresses may get further kinds")]
            other => Err(io::Error::new(io::ErrorKind::Unsupported, format!("{other} is not a socket address"))),
        };
        Box::pin(std::future::ready(stream.map(|stream| Box::new(stream) as Box<dyn Io>)))
    }
}

impl fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = lock(&self.0);
        f.debug_struct("MemoryNetwork").field("connects", &hosts.connects).finish_non_exhaustive()
    }
}

/// Takes the connections to one address of a [`MemoryNetwork`]. When it is dropped, those that were not accepted are
/// closed and further ones refused.
#[derive(Debug)]
pub struct MemoryListener {
    address: SocketAddr,
    receiver: mpsc::Receiver<MemoryStream>,
}

impl MemoryListener {
    /// The next connection. Cancel safe.
    pub async fn accept(&mut self) -> MemoryStream {
        match self.receiver.recv().await {
            Some(stream) => stream,
            // The network is gone, so nobody can connect any more.
            None => std::future::pending().await,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

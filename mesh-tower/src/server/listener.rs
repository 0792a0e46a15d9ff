//! Where connections come from.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use mesh_core::model::Listen;
use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::net::UnixListener;

use super::probe::probe;
use super::state::ServerState;
use crate::net::io::{Io, Raw};
use crate::observe::TARGET;

/// The longest queue of connections that nobody has accepted yet; the kernel may make it shorter.
pub(super) const BACKLOG: i32 = 4096;
/// The first and the longest pause after the operating system had no resources for a connection.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The sockets of a server, bound and listening: made by [`Mesh::listener`](crate::Mesh::listener), served by
/// [`Mesh::serve`](crate::Mesh::serve).
///
/// Callers that connect before it is served wait in the kernel's queue.
pub struct Listener {
    pub(crate) state: Arc<ServerState>,
    sockets: Vec<Socket>,
    /// Which socket is asked first, so that none starves the others.
    next: usize,
    pause: Option<Duration>,
    /// Whether all that serves it speaks gRPC.
    pub(crate) is_grpc: bool,
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The configuration has no such server.
    #[error("the configuration has no server {name:?}; it has {known:?}")]
    UnknownServer {
        /// The name.
        name: Arc<str>,
        /// The names it has.
        known: Vec<Arc<str>>,
    },
    /// The server has no address.
    #[error("server {name:?} has no address: write `address:`, or bring a socket of your own by `Mesh::adopt`")]
    NoAddress {
        /// The server.
        name: Arc<str>,
    },
    /// The operating system refused.
    #[error("server {name:?} cannot listen on {address}: {error}")]
    Bind {
        /// The server.
        name: Arc<str>,
        /// The address as it was written.
        address: String,
        /// The reason.
        #[source]
        error: io::Error,
    },
}

/// A source of connections other than TCP and Unix sockets: in tests memory, in an application whatever it has.
pub trait Accept: Send + 'static {
    /// The next connection, with the addresses of both ends as far as there are any. An error does not end it: it is
    /// asked again, after a pause.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>>;
}

/// A connection of an [`Accept`].
pub struct Accepted {
    /// The bytes.
    pub stream: Box<dyn Io>,
    /// Where it comes from.
    pub remote: Option<SocketAddr>,
    /// Where it goes to.
    pub local: Option<SocketAddr>,
}

/// A connection as it was accepted.
pub(crate) struct Arrival {
    pub(crate) raw: Raw,
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) local: Option<SocketAddr>,
}

enum Socket {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixSocket),
    Custom(Box<dyn Accept>),
}

/// A Unix socket whose file is ours.
#[cfg(unix)]
struct UnixSocket {
    listener: UnixListener,
    /// `None`: whoever started this process made it.
    file: Option<Arc<Path>>,
}

#[cfg(unix)]
impl Drop for UnixSocket {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // Somebody may have been quicker.
            let _ = std::fs::remove_file(file);
        }
    }
}

impl Listener {
    /// Listens wherever the server says.
    pub(crate) async fn bind(state: Arc<ServerState>) -> Result<Self, ListenError> {
        let server = Arc::clone(&state.settings().server);
        if server.addresses.is_empty() {
            return Err(ListenError::NoAddress { name: Arc::clone(&state.name) });
        }
        Self::bind_to(state, &server.addresses).await
    }

    /// Listens on `addresses`.
    pub(crate) async fn bind_to(state: Arc<ServerState>, addresses: &[Listen]) -> Result<Self, ListenError> {
        let mut sockets = Vec::with_capacity(addresses.len());
        for address in addresses {
            let socket = bind(address).await.map_err(|error| ListenError::Bind {
                name: Arc::clone(&state.name),
                address: describe(address),
                error,
            })?;
            sockets.push(socket);
        }
        Ok(Self { state, sockets, next: 0, pause: None, is_grpc: false })
    }

    fn of(state: Arc<ServerState>, socket: Socket) -> Self {
        Self { state, sockets: vec![socket], next: 0, pause: None, is_grpc: false }
    }

    pub(crate) fn tcp(state: Arc<ServerState>, listener: TcpListener) -> Self {
        Self::of(state, Socket::Tcp(listener))
    }

    pub(crate) fn custom(state: Arc<ServerState>, accept: impl Accept) -> Self {
        Self::of(state, Socket::Custom(Box::new(accept)))
    }

    /// The name of the server.
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// Says that all it is served by speaks gRPC, such as tonic's `Routes`: a gRPC call is then bound by
    /// `max_message_bytes` from its first byte on. Without this word it is bound by `max_body_bytes` and `body_timeout`
    /// as any other request until the head of its answer shows that its handler speaks gRPC; with it a handler for HTTP
    /// would have no bound where a caller pretends to speak gRPC. For a part of a router there is
    /// [`GrpcLayer`](super::GrpcLayer).
    #[must_use]
    pub fn grpc(mut self) -> Self {
        self.is_grpc = true;
        self
    }

    /// The TCP addresses it listens on: with port 0 in the configuration, the ports that were given.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        let address = |socket: &Socket| match socket {
            Socket::Tcp(listener) => listener.local_addr().ok(),
            _ => None,
        };
        self.sockets.iter().filter_map(address).collect()
    }

    /// The first of them.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.local_addresses().first().copied()
    }

    /// The next connection. Errors of the operating system are told to the log and waited out, longer each time: a
    /// server that has no descriptor left goes on once it has one (RL-08). Loses nothing when dropped.
    pub(crate) async fn accept(&mut self) -> Arrival {
        loop {
            if let Some(pause) = self.pause {
                tokio::time::sleep(pause).await;
            }
            match std::future::poll_fn(|cx| self.poll_accept(cx)).await {
                Ok(arrival) => {
                    self.pause = None;
                    return arrival;
                }
                // The caller is gone already; the next one has nothing to do with it.
                Err(error) if is_of_one_connection(&error) => {
                    self.pause = None;
                    tracing::debug!(target: TARGET, server = &*self.state.name, %error, "a connection was not accepted");
                    tokio::task::yield_now().await;
                }
                Err(error) => {
                    let pause = self.pause.map_or(FIRST_PAUSE, |pause| (2 * pause).min(LONGEST_PAUSE));
                    self.pause = Some(pause);
                    tracing::warn!(
                        target: TARGET,
                        server = &*self.state.name,
                        %error,
                        ?pause,
                        "no connection can be accepted; it is tried again"
                    );
                }
            }
        }
    }

    /// A connection that is there already, if there is one.
    pub(crate) async fn accept_now(&mut self) -> Option<Arrival> {
        // Tokio lets a task take so many and then says that there are none, so that others have their turn.
        tokio::task::coop::unconstrained(async { self.poll_accept_now() }).await
    }

    fn poll_accept_now(&mut self) -> Option<Arrival> {
        loop {
            match self.poll_accept(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok(arrival)) => return Some(arrival),
                // There may be others behind it.
                Poll::Ready(Err(error)) if is_of_one_connection(&error) => {}
                Poll::Ready(Err(_)) | Poll::Pending => return None,
            }
        }
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Arrival>> {
        for turn in 0..self.sockets.len() {
            let at = (self.next + turn) % self.sockets.len();
            if let Poll::Ready(result) = self.sockets[at].poll_accept(cx) {
                self.next = at + 1;
                if let Ok(Arrival { raw: Raw::Tcp(stream), .. }) = &result {
                    probe(stream, &self.state.settings().server.limits);
                }
                return Poll::Ready(result);
            }
        }
        Poll::Pending
    }
}

impl Socket {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Arrival>> {
        match self {
            Self::Tcp(listener) => listener.poll_accept(cx).map_ok(|(stream, remote)| {
                // An answer waits for no acknowledgement. It is only slower if this fails.
                let _ = stream.set_nodelay(true);
                let local = stream.local_addr().ok();
                Arrival { raw: Raw::Tcp(stream), remote: Some(remote), local }
            }),
            #[cfg(unix)]
            Self::Unix(socket) => socket.listener.poll_accept(cx).map_ok(|(stream, _)| Arrival {
                raw: Raw::Other(Box::new(stream)),
                remote: None,
                local: None,
            }),
            Self::Custom(accept) => accept.poll_accept(cx).map_ok(|Accepted { stream, remote, local }| Arrival {
                raw: Raw::Other(stream),
                remote,
                local,
            }),
        }
    }
}

/// Errors that say nothing about the next connection.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn describe(address: &Listen) -> String {
    match address {
        Listen::Socket(address) => address.to_string(),
        Listen::Unix(path) => format!("unix:{}", path.display()),
        Listen::Inherited(place) => format!("fd:{place}"),
        other => format!("{other:?}"),
    }
}

async fn bind(address: &Listen) -> io::Result<Socket> {
    match address {
        Listen::Socket(address) => bind_tcp(*address).map(Socket::Tcp),
        #[cfg(unix)]
        Listen::Unix(path) => bind_unix(path).await.map(Socket::Unix),
        Listen::Inherited(place) => inherited(*place),
        other => Err(io::Error::new(io::ErrorKind::Unsupported, format!("no sockets of this kind here: {other:?}"))),
    }
}

pub(crate) fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` takes IPv4 too, whatever the system's default is.
        socket.set_only_v6(false)?;
    }
    // A restarted process gets the port although connections of the old one linger. Elsewhere than on Unix it would
    // take the port from a process that lives.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Listens on `path`. A file that nobody listens on any more is replaced.
#[cfg(unix)]
async fn bind_unix(path: &Arc<Path>) -> io::Result<UnixSocket> {
    use std::os::unix::fs::FileTypeExt as _;

    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
            let nobody = match tokio::net::UnixStream::connect(path).await {
                Ok(_) => false,
                Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
            };
            if !is_socket || !nobody {
                return Err(error);
            }
            std::fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        other => other?,
    };
    Ok(UnixSocket { listener, file: Some(Arc::clone(path)) })
}

/// Takes the socket at `place` of those that this process was started with. Each can be taken once.
fn inherited(place: u32) -> io::Result<Socket> {
    // The variables that tell of them are read once, and the descriptors have one owner.
    static STARTED_WITH: OnceLock<Mutex<listenfd::ListenFd>> = OnceLock::new();
    let sockets = STARTED_WITH.get_or_init(|| Mutex::new(listenfd::ListenFd::from_env()));
    let mut sockets = sockets.lock().unwrap_or_else(PoisonError::into_inner);
    let (place, count) = (place as usize, sockets.len());
    let missing = || {
        let text = format!(
            "there is no socket {place} that is not in use: the process was started with {count} (LISTEN_FDS, LISTEN_PID)"
        );
        io::Error::new(io::ErrorKind::NotFound, text)
    };
    if place >= count {
        return Err(missing());
    }
    #[cfg(unix)]
    if let Ok(Some(listener)) = sockets.take_unix_listener(place) {
        listener.set_nonblocking(true)?;
        return Ok(Socket::Unix(UnixSocket { listener: UnixListener::from_std(listener)?, file: None }));
    }
    let listener = sockets.take_tcp_listener(place)?.ok_or_else(missing)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener).map(Socket::Tcp)
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("server", &self.state.name)
            .field("addresses", &self.local_addresses())
            .finish()
    }
}

impl<F> Accept for F
where
    F: FnMut(&mut Context<'_>) -> Poll<io::Result<Accepted>> + Send + 'static,
{
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        self(cx)
    }
}

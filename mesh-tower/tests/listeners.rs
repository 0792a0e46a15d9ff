//! Where servers listen: Unix sockets, sockets that were there before the process, several at once, and what happens when
//! the operating system has none to give.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Response;
use mesh_tower::Mesh;
use mesh_tower::core::model::{Config, Listen, Server};
use mesh_tower::server::{Accepted, Drained, ListenError};
use mesh_tower::testing::watched;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tower::service_fn;

async fn mesh(addresses: Vec<Listen>) -> Mesh {
    let mut server = Server::new("public");
    server.addresses = addresses;
    server.drain.delay = Duration::ZERO;
    Mesh::builder().config(Config::new().with_server(server)).build().await.unwrap()
}

fn serve(mesh: &Mesh, listener: mesh_tower::server::Listener) -> JoinHandle<Drained> {
    let hello = service_fn(async |_: http::Request<_>| Ok::<_, Infallible>(Response::new("hello".to_owned())));
    tokio::spawn(mesh.serve(listener, hello))
}

/// Asks over `stream`, and is answered.
async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    watched(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer}");
}

fn unix(path: &Path) -> Vec<Listen> {
    vec![Listen::Unix(path.into())]
}

#[tokio::test]
async fn a_unix_socket_is_served_and_its_file_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("it.sock");
    let mesh = mesh(unix(&path)).await;
    let serving = serve(&mesh, mesh.listener("public").await.unwrap());
    ask(UnixStream::connect(&path).await.unwrap()).await;
    mesh.start_drain();
    watched(serving).await.unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn the_file_of_a_process_that_is_gone_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("it.sock");
    // The file stays when a listener is dropped.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists() && UnixStream::connect(&path).await.is_err());
    let mesh = mesh(unix(&path)).await;
    let _serving = serve(&mesh, mesh.listener("public").await.unwrap());
    ask(UnixStream::connect(&path).await.unwrap()).await;
}

#[tokio::test]
async fn what_is_somebody_elses_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("it.sock");
    let refused = async || match mesh(unix(&path)).await.listener("public").await.unwrap_err() {
        ListenError::Bind { name, address, error } => {
            assert_eq!((&*name, address), ("public", format!("unix:{}", path.display())));
            error
        }
        other => panic!("{other}"),
    };
    let alive = UnixListener::bind(&path).unwrap();
    assert_eq!(refused().await.kind(), io::ErrorKind::AddrInUse);
    assert!(UnixStream::connect(&path).await.is_ok());
    drop(alive);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "a file").unwrap();
    assert_eq!(refused().await.kind(), io::ErrorKind::AddrInUse);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "a file");
}

#[tokio::test]
async fn one_address_serves_both_versions_of_ip() {
    // Machines without IPv6 have nothing to show.
    if TcpListener::bind("[::1]:0").await.is_err() {
        return;
    }
    let mesh = mesh(vec![Listen::Socket("[::]:0".parse().unwrap())]).await;
    let listener = mesh.listener("public").await.unwrap();
    let port = listener.local_address().unwrap().port();
    let _serving = serve(&mesh, listener);
    for host in ["127.0.0.1", "[::1]"] {
        ask(TcpStream::connect(format!("{host}:{port}")).await.unwrap()).await;
    }
}

/// A process in this one's place gets the socket: whoever connected in between waits, and is served.
#[tokio::test]
async fn a_socket_is_inherited() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let waits = TcpStream::connect(address).await.unwrap();
    let socket = OwnedFd::from(listener.into_std().unwrap());
    // As systemd hands it over: descriptor 3. The shell keeps its process id for what it becomes.
    let script = "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\" 3<&0 </dev/null";
    let mut child = Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["the_process_that_inherits", "--exact", "--ignored"])
        .stdin(Stdio::from(socket))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    ask(waits).await;
    ask(TcpStream::connect(address).await.unwrap()).await;
    // The second answer was its last.
    let ended = tokio::task::spawn_blocking(move || child.wait()).await.unwrap().unwrap();
    assert!(ended.success(), "{ended}");
    assert!(TcpStream::connect(address).await.is_err());
}

/// The other half of [`a_socket_is_inherited`], which starts it.
#[tokio::test]
#[ignore = "it is started with a socket by another test"]
async fn the_process_that_inherits() {
    if std::env::var_os("LISTEN_FDS").is_none() {
        return;
    }
    let mesh = mesh(vec![Listen::Inherited(0)]).await;
    let listener = mesh.listener("public").await.unwrap();
    // Each has one owner.
    let again = mesh.listener("public").await.unwrap_err().to_string();
    assert!(again.contains("fd:0") && again.contains("LISTEN_FDS"), "{again}");
    let answered = Arc::new(tokio::sync::Semaphore::new(0));
    let count = Arc::clone(&answered);
    let hello = service_fn(move |_: http::Request<_>| {
        count.add_permits(1);
        async { Ok::<_, Infallible>(Response::new("hello".to_owned())) }
    });
    let serving = tokio::spawn(mesh.serve(listener, hello));
    let _two = watched(answered.acquire_many(2)).await.unwrap();
    watched(mesh.drain()).await;
    serving.await.unwrap();
}

#[tokio::test]
async fn what_was_not_inherited_is_an_error_that_says_so() {
    let error = mesh(vec![Listen::Inherited(0)]).await.listener("public").await.unwrap_err().to_string();
    assert!(error.contains("\"public\"") && error.contains("fd:0") && error.contains("LISTEN_FDS"), "{error}");
}

/// What is accepted next, and when that was asked for.
type Steps = (VecDeque<io::Result<tokio::io::DuplexStream>>, Vec<Instant>);

/// Accepts what a test says, and remembers when it was asked.
#[derive(Clone, Default)]
struct Script(Arc<Mutex<Steps>>);

impl Script {
    fn say(&self, result: io::Result<tokio::io::DuplexStream>) {
        self.0.lock().unwrap().0.push_back(result);
    }

    fn accept(&self) -> impl mesh_tower::server::Accept + use<> {
        let script = self.clone();
        move |_: &mut Context<'_>| {
            let mut script = script.0.lock().unwrap();
            let Some(next) = script.0.pop_front() else { return Poll::Pending };
            script.1.push(Instant::now());
            Poll::Ready(next.map(|stream| Accepted { stream: Box::new(stream), remote: None, local: None }))
        }
    }

    /// The pauses between two of its words, in milliseconds.
    fn pauses(&self) -> Vec<u128> {
        let script = self.0.lock().unwrap();
        script.1.windows(2).map(|two| (two[1] - two[0]).as_millis()).collect()
    }
}

/// RL-08: a process without descriptors waits longer and longer, at most a second, and serves on once it has one.
#[tokio::test(start_paused = true)]
async fn rl_08_errors_of_accept_are_waited_out() {
    const EMFILE: i32 = 24;
    let script = Script::default();
    for _ in 0..10 {
        script.say(Err(io::Error::from_raw_os_error(EMFILE)));
    }
    let (client, server) = tokio::io::duplex(1024);
    script.say(Ok(server));
    // After one that came the pauses are short again.
    script.say(Err(io::Error::from_raw_os_error(EMFILE)));
    let (second, server) = tokio::io::duplex(1024);
    script.say(Ok(server));
    let mesh = mesh(Vec::new()).await;
    let _serving = serve(&mesh, mesh.adopt_accept("public", script.accept()).unwrap());
    ask(client).await;
    ask(second).await;
    assert_eq!(script.pauses(), [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000, 0, 5]);
}

/// RL-08: a caller that went away before it was accepted keeps nobody waiting.
#[tokio::test(start_paused = true)]
async fn rl_08_callers_that_are_gone_cost_no_pause() {
    let script = Script::default();
    for kind in [io::ErrorKind::ConnectionAborted, io::ErrorKind::ConnectionReset, io::ErrorKind::Interrupted] {
        script.say(Err(kind.into()));
    }
    let (client, server) = tokio::io::duplex(1024);
    script.say(Ok(server));
    let mesh = mesh(Vec::new()).await;
    let _serving = serve(&mesh, mesh.adopt_accept("public", script.accept()).unwrap());
    ask(client).await;
    assert_eq!(script.pauses(), [0, 0, 0]);
}

/// A socket with many callers does not starve another.
#[tokio::test]
async fn sockets_take_turns() {
    const MANY: usize = 60;
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let mesh = mesh(vec![Listen::Socket(any), Listen::Socket(any)]).await;
    let listener = mesh.listener("public").await.unwrap();
    let [busy, quiet] = listener.local_addresses()[..] else { panic!("{listener:?}") };
    let mut callers = Vec::new();
    for address in std::iter::repeat_n(busy, MANY).chain([quiet]) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        callers.push(stream);
    }
    let mut incoming = mesh.incoming(listener);
    for place in 0.. {
        let stream = watched(incoming.accept()).await.unwrap();
        if stream.peer().local_address() == Some(quiet) {
            // Accepted second; handshakes run beside one another, so that it may be handed on a little later.
            assert!(place < MANY / 2, "{place}");
            return;
        }
    }
}

//! Servers over sockets that keep nothing of what they see, and are well, slow, failing, or down, as they are told.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use mesh_tower::BoxError;
use mesh_tower::core::grpc::Code;
use mesh_tower::testing::{empty, full, grpc};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What is the matter with a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Well,
    /// Takes 100 ms.
    Slow,
    /// 503 and UNAVAILABLE.
    Failing,
    /// Resets streams, and closes connections of HTTP/1.1.
    Resetting,
    /// Never answers.
    Hanging,
    /// Refuses connections, and has closed those that there were.
    Down,
}

impl Mode {
    pub(crate) const BAD: [Self; 4] = [Self::Failing, Self::Resetting, Self::Hanging, Self::Down];
}

pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    mode: watch::Sender<Mode>,
    served: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Peer {
    pub(crate) fn start() -> Self {
        let socket = bound("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        let (mode, modes) = watch::channel(Mode::Well);
        let served = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(run(socket, address, modes, Arc::clone(&served)));
        Self { address, mode, served, task }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    pub(crate) fn mode(&self) -> Mode {
        *self.mode.borrow()
    }

    /// Requests that arrived.
    pub(crate) fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A socket that holds its port and refuses connections.
fn bound(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn run(mut socket: TcpSocket, address: SocketAddr, mut modes: watch::Receiver<Mode>, served: Arc<AtomicU64>) {
    loop {
        if modes.wait_for(|mode| *mode != Mode::Down).await.is_err() {
            return;
        }
        let listener = socket.listen(1024).unwrap();
        let mut connections = JoinSet::new();
        let serving = serve(listener, &mut connections, &modes, &served);
        let mut until = modes.clone();
        tokio::select! {
            () = serving => {}
            down = until.wait_for(|mode| *mode == Mode::Down) => if down.is_err() { return },
        }
        connections.shutdown().await;
        // Somebody may have been given the port in between.
        socket = loop {
            match bound(address) {
                Ok(socket) => break socket,
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        };
    }
}

async fn serve(
    listener: TcpListener,
    connections: &mut JoinSet<()>,
    modes: &watch::Receiver<Mode>,
    served: &Arc<AtomicU64>,
) {
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let _ = stream.set_nodelay(true);
                let (modes, served) = (modes.clone(), Arc::clone(served));
                connections.spawn(async move {
                    let service = service_fn(move |request| {
                        served.fetch_add(1, Ordering::Relaxed);
                        let mode = *modes.borrow();
                        answer(mode, request)
                    });
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

type Payload = UnsyncBoxBody<Bytes, BoxError>;

async fn answer(mode: Mode, request: Request<Incoming>) -> Result<Response<Payload>, BoxError> {
    let is_grpc = request.headers().contains_key("te");
    request.into_body().collect().await?;
    match mode {
        Mode::Well => {}
        Mode::Slow => tokio::time::sleep(Duration::from_millis(100)).await,
        Mode::Failing if is_grpc => return Ok(grpc::trailers_only(Code::Unavailable, "a bad day")),
        Mode::Failing => {
            let mut response = Response::new(empty());
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            return Ok(response);
        }
        Mode::Resetting => return Err("a bad day".into()),
        Mode::Hanging | Mode::Down => match std::future::pending::<Infallible>().await {},
    }
    Ok(if is_grpc { grpc::answer([[7; 100]], Code::Ok, "") } else { Response::new(full(vec![7; 1000])) })
}

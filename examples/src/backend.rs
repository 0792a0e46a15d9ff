//! A server for the examples to call, which can be killed and started again.
//!
//! Each has a thread and a runtime of its own, as if it were another process. Killing it drops the runtime: the
//! listener and every connection close at once, in the middle of whatever they were doing, as when a process dies.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;
use tonic::body::Body;
use tonic::codegen::tokio_stream::StreamExt;
use tonic::codegen::{BoxStream, Service, tokio_stream};
use tonic::{Status, Streaming};

use crate::greeter::greeter_server::{Greeter, GreeterServer};
use crate::greeter::{HelloReply, HelloRequest};

/// A backend on a loopback port that the kernel chose. It answers the calls of `greeter.v1.Greeter` and, on every path
/// that is no gRPC method, HTTP/1.1 and HTTP/2 with its name. Ends when dropped.
#[derive(Debug)]
pub struct Backend {
    hello: Hello,
    address: SocketAddr,
    state: State,
}

#[derive(Debug)]
enum State {
    Serving {
        /// Dropping it ends the server.
        stop: oneshot::Sender<Infallible>,
        stopped: oneshot::Receiver<()>,
    },
    /// Connections are refused. Bound all the same, so that the kernel gives the port to nobody else.
    Dead(Option<TcpSocket>),
}

impl Backend {
    /// Starts a backend called `name` that takes `delay` for each answer. Needs a tokio runtime.
    ///
    /// # Errors
    /// If no loopback port can be bound, or no thread started.
    pub fn start(name: &str, delay: Duration) -> io::Result<Self> {
        let socket = bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let address = socket.local_addr()?;
        let hello = Hello { name: name.into(), delay: Arc::default(), broken: Arc::default() };
        let mut backend = Self { hello, address, state: State::Dead(Some(socket)) };
        backend.set_delay(delay);
        backend.restart()?;
        Ok(backend)
    }

    /// Where it listens, before and after it was killed.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it calls itself in its answers.
    pub fn name(&self) -> &str {
        &self.hello.name
    }

    /// Lets it take `delay`, in whole milliseconds, for each answer to a request that comes from now on.
    pub fn set_delay(&self, delay: Duration) {
        self.hello.delay.store(delay.as_millis().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Lets it answer every request that comes from now on with an error, or with errors no longer: `UNAVAILABLE` in gRPC,
    /// 503 in HTTP.
    pub fn set_broken(&self, broken: bool) {
        self.hello.broken.store(broken, Ordering::Relaxed);
    }

    /// Closes its port and every connection at once. Done when it returns.
    pub async fn kill(&mut self) {
        if let State::Serving { stop, stopped } = std::mem::replace(&mut self.state, State::Dead(None)) {
            drop(stop);
            // This one's sender goes when the runtime is gone.
            let _ = stopped.await;
            self.state = State::Dead(bind(self.address).ok());
        }
    }

    /// Starts it again on its old port, if it was killed.
    ///
    /// # Errors
    /// If somebody else has taken the port, or no thread can be started.
    pub fn restart(&mut self) -> io::Result<()> {
        let State::Dead(socket) = &mut self.state else { return Ok(()) };
        let socket = socket.take().map_or_else(|| bind(self.address), Ok)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = socket.listen(1024)?.into_std()?;
        let listener = {
            let _entered = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let (stop, stopping) = oneshot::channel();
        let (ended, stopped) = oneshot::channel();
        let app = App { hello: self.hello.clone(), greeter: GreeterServer::new(self.hello.clone()) };
        std::thread::Builder::new().name(self.hello.name.to_string()).spawn(move || {
            runtime.spawn(serve(listener, app));
            // Whoever holds the sender lets it go, and never sends.
            let _ = runtime.block_on(stopping);
            drop(runtime);
            drop(ended);
        })?;
        self.state = State::Serving { stop, stopped };
        Ok(())
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // Connections of the life before may still linger on the port.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn serve(listener: TcpListener, app: App) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file handles, perhaps: it would fail again at once.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        // Without it small answers wait for the peer's delayed acknowledgements.
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let app = app.clone();
        tokio::spawn(async move {
            // A connection that breaks is the client's to report.
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), app).await;
        });
    }
}

/// gRPC for the greeter's paths, plain HTTP for all others.
#[derive(Clone)]
struct App {
    hello: Hello,
    greeter: GreeterServer<Hello>,
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl hyper::service::Service<Request<Incoming>> for App {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        if request.uri().path().starts_with("/greeter.v1.Greeter/") {
            return self.greeter.clone().call(request);
        }
        let hello = self.hello.clone();
        Box::pin(async move {
            let (status, text) = match hello.answer().await {
                Ok(name) => (StatusCode::OK, name),
                Err(Broken) => (StatusCode::SERVICE_UNAVAILABLE, Broken.to_string()),
            };
            let mut response = Response::new(Body::new(Full::from(format!("{text}\n"))));
            *response.status_mut() = status;
            Ok(response)
        })
    }
}

#[derive(Debug, Clone)]
struct Hello {
    name: Arc<str>,
    /// In milliseconds.
    delay: Arc<AtomicU64>,
    broken: Arc<AtomicBool>,
}

/// It was told to answer with errors.
struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("out of order")
    }
}

impl From<Broken> for Status {
    fn from(broken: Broken) -> Self {
        Self::unavailable(broken.to_string())
    }
}

impl Hello {
    async fn answer(&self) -> Result<String, Broken> {
        let delay = self.delay.load(Ordering::Relaxed);
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        if self.broken.load(Ordering::Relaxed) { Err(Broken) } else { Ok(self.name.to_string()) }
    }

    async fn greet(&self, request: HelloRequest) -> Result<HelloReply, Status> {
        let served_by = self.answer().await?;
        Ok(HelloReply { message: format!("Hello, {}!", request.name), served_by })
    }
}

#[tonic::async_trait]
impl Greeter for Hello {
    async fn say_hello(&self, request: tonic::Request<HelloRequest>) -> Result<tonic::Response<HelloReply>, Status> {
        let reply = self.greet(request.into_inner()).await?;
        Ok(tonic::Response::new(reply))
    }

    type WatchStream = BoxStream<HelloReply>;

    async fn watch(&self, request: tonic::Request<HelloRequest>) -> Result<tonic::Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        let hello = self.clone();
        let replies = tokio_stream::iter(0..request.count).then(move |_| {
            let (hello, request) = (hello.clone(), request.clone());
            async move { hello.greet(request).await }
        });
        Ok(tonic::Response::new(Box::pin(replies)))
    }

    async fn collect(
        &self,
        request: tonic::Request<Streaming<HelloRequest>>,
    ) -> Result<tonic::Response<HelloReply>, Status> {
        let mut requests = request.into_inner();
        let mut names = Vec::new();
        while let Some(request) = requests.message().await? {
            names.push(request.name);
        }
        let everybody = HelloRequest { name: names.join(", "), count: 0 };
        Ok(tonic::Response::new(self.greet(everybody).await?))
    }

    type ChatStream = BoxStream<HelloReply>;

    async fn chat(
        &self,
        request: tonic::Request<Streaming<HelloRequest>>,
    ) -> Result<tonic::Response<Self::ChatStream>, Status> {
        let hello = self.clone();
        let replies = request.into_inner().then(move |request| {
            let hello = hello.clone();
            async move { hello.greet(request?).await }
        });
        Ok(tonic::Response::new(Box::pin(replies)))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn get(address: SocketAddr) -> io::Result<String> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    #[tokio::test]
    async fn a_killed_backend_refuses_until_it_is_started_again_on_its_port() {
        let mut backend = Backend::start("v1-a", Duration::ZERO).unwrap();
        let address = backend.address();
        assert!(get(address).await.unwrap().ends_with("v1-a\n"));

        let mut open = TcpStream::connect(address).await.unwrap();
        backend.kill().await;
        let ended = open.read(&mut [0]).await;
        assert!(matches!(ended, Ok(0) | Err(_)), "the connection outlived its server");
        assert_eq!(get(address).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);

        backend.restart().unwrap();
        assert_eq!(backend.address(), address);
        assert!(get(address).await.unwrap().ends_with("v1-a\n"));
    }

    #[tokio::test]
    async fn a_broken_backend_answers_with_errors_until_it_is_well_again() {
        let backend = Backend::start("v1-a", Duration::ZERO).unwrap();
        backend.set_broken(true);
        assert!(get(backend.address()).await.unwrap().starts_with("HTTP/1.1 503 "));
        let hello = HelloRequest { name: "mesh".to_owned(), count: 0 };
        let status = backend.hello.say_hello(tonic::Request::new(hello)).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unavailable);
        backend.set_broken(false);
        assert!(get(backend.address()).await.unwrap().starts_with("HTTP/1.1 200 "));
    }
}

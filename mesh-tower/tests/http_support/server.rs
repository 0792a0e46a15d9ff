//! Servers over hyper.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Collected};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use mesh_tower::core::model::Address;
use mesh_tower::{Connecting, Io};
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};

use super::body::{Broken, Payload, full};

/// What a handler gives; an error closes an HTTP/1.1 connection and resets an HTTP/2 stream, by the reason of an
/// `h2::Error` in it.
pub type Answer = Result<Response<Payload>, Broken>;

type Handler = Arc<dyn Fn(Request<Incoming>) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync>;

/// A server of HTTP/1.1 and HTTP/2 (by prior knowledge) on one port. It ends when dropped.
pub struct Server {
    pub address: SocketAddr,
    handler: Handler,
    accepts: Arc<AtomicUsize>,
    task: Option<AbortHandle>,
}

impl Server {
    /// On a port of its own.
    pub async fn start<F, Fut>(handler: F) -> Self
    where
        F: Fn(Request<Incoming>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Answer> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut server = Self::in_memory(handler);
        server.address = listener.local_addr().unwrap();
        let (handler, accepts) = (Arc::clone(&server.handler), Arc::clone(&server.accepts));
        let accept = async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                accepts.fetch_add(1, Ordering::SeqCst);
                connections.spawn(serve(stream, Arc::clone(&handler)));
            }
        };
        server.task = Some(tokio::spawn(accept).abort_handle());
        server
    }

    /// Without a port; see [`connector`](Self::connector).
    pub fn in_memory<F, Fut>(handler: F) -> Self
    where
        F: Fn(Request<Incoming>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Answer> + Send + 'static,
    {
        Self {
            address: super::nowhere(),
            handler: Arc::new(move |request| Box::pin(handler(request))),
            accepts: Arc::default(),
            task: None,
        }
    }

    /// Always the same answer.
    pub async fn saying(text: &'static str) -> Self {
        Self::start(move |_| async move { Ok(Response::new(full(text))) }).await
    }

    /// Leads every connection of a mesh to this server, through memory.
    pub fn connector(&self) -> impl Fn(&Address) -> Connecting + Send + Sync + 'static + use<> {
        let (handler, accepts) = (Arc::clone(&self.handler), Arc::clone(&self.accepts));
        move |_| {
            let (handler, accepts) = (Arc::clone(&handler), Arc::clone(&accepts));
            Box::pin(async move {
                let (near, far) = tokio::io::duplex(64 * 1024);
                accepts.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(far, handler));
                Ok(Box::new(near) as Box<dyn Io>)
            })
        }
    }

    /// How many connections there were.
    pub fn accepts(&self) -> usize {
        self.accepts.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn serve(io: impl Io, handler: Handler) {
    let service = service_fn(move |request| handler(request));
    // A connection that breaks is what some tests are about.
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(io), service).await;
}

/// What a server was sent.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<Vec<(Parts, Whole)>>>);

/// A body that was read to its end.
#[derive(Debug, Clone, Default)]
pub struct Whole {
    pub data: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl From<Collected<Bytes>> for Whole {
    fn from(body: Collected<Bytes>) -> Self {
        Self { trailers: body.trailers().cloned(), data: body.to_bytes() }
    }
}

impl Seen {
    /// Reads a request to its end and keeps it.
    pub async fn take(&self, request: Request<Incoming>) {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.expect("the request is whole");
        self.0.lock().unwrap().push((parts, body.into()));
    }

    /// Keeps a request's head.
    pub fn take_head(&self, request: &Request<Incoming>) {
        let mut parts = Request::new(()).into_parts().0;
        parts.method = request.method().clone();
        parts.uri = request.uri().clone();
        parts.version = request.version();
        parts.headers = request.headers().clone();
        self.0.lock().unwrap().push((parts, Whole::default()));
    }

    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// The only request.
    pub fn only(&self) -> (Parts, Whole) {
        let mut all = self.all();
        assert_eq!(all.len(), 1, "one request: {:?}", all.iter().map(|(parts, _)| parts).collect::<Vec<_>>());
        all.remove(0)
    }

    pub fn all(&self) -> Vec<(Parts, Whole)> {
        self.0.lock().unwrap().clone()
    }

    /// One header of every request.
    pub fn header(&self, name: &str) -> Vec<Option<String>> {
        let text = |parts: &Parts| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        self.0.lock().unwrap().iter().map(|(parts, _)| text(parts)).collect()
    }
}

//! A greeter to call, and meshes that lead to it.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use examples::greeter::greeter_server::{Greeter, GreeterServer};
use examples::greeter::{HelloReply, HelloRequest};
use mesh_tonic::testing::{ServiceConfig, TestMesh};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

/// A service `greeter` at `address`; `route` and `backend` are further fields, or empty.
pub async fn mesh_to(address: SocketAddr, route: &str, backend: &str) -> TestMesh {
    let config = ServiceConfig::new("greeter", [address]).service("hosts: [greeter.default.svc]");
    config.route(route).backend(backend).mesh().await
}

/// How long the answer to a `bomb` is. Compressed it is small.
pub const BOMB: usize = 20 << 20;

/// What the greeter does with a call: `Err` is its status.
type Script = Arc<dyn Fn(usize, &MetadataMap) -> Result<(), Status> + Send + Sync>;

/// The service of `examples`, as the tests need it.
#[derive(Clone)]
pub struct TestGreeter {
    script: Script,
    calls: Arc<Mutex<Vec<MetadataMap>>>,
    /// One message for each call that its caller let go of.
    gone: mpsc::Sender<()>,
}

impl TestGreeter {
    /// One that does what it is asked to, for servers that a test starts itself.
    pub fn willing() -> Self {
        Self { script: Arc::new(|_, _| Ok(())), calls: Arc::default(), gone: mpsc::channel(1024).0 }
    }

    fn begin(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let mut calls = self.calls.lock().unwrap();
        calls.push(metadata.clone());
        (self.script)(calls.len(), metadata)
    }
}

/// Tells when it is dropped.
struct OnDrop(mpsc::Sender<()>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        let _ = self.0.try_send(());
    }
}

fn reply(message: impl Into<String>) -> HelloReply {
    HelloReply { message: message.into(), served_by: "test".into() }
}

type Replies = Pin<Box<dyn Stream<Item = Result<HelloReply, Status>> + Send>>;

#[tonic::async_trait]
impl Greeter for TestGreeter {
    type WatchStream = Replies;
    type ChatStream = Replies;

    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        self.begin(request.metadata())?;
        if request.get_ref().name == "nobody" {
            let _gone = OnDrop(self.gone.clone());
            std::future::pending::<()>().await;
        }
        if request.get_ref().name == "bomb" {
            return Ok(Response::new(reply("x".repeat(BOMB))));
        }
        let mut response = Response::new(reply(format!("hello {}", request.get_ref().name)));
        for name in ["x-text", "x-data-bin"] {
            copy(name, request.metadata(), response.metadata_mut());
        }
        Ok(response)
    }

    async fn watch(&self, request: Request<HelloRequest>) -> Result<Response<Replies>, Status> {
        self.begin(request.metadata())?;
        let HelloRequest { name, count } = request.into_inner();
        if name == "nobody" {
            let gone = OnDrop(self.gone.clone());
            let first = tokio_stream::once(Ok(reply("first")));
            let never = tokio_stream::pending().map(move |item: Result<HelloReply, Status>| {
                let _ = &gone;
                item
            });
            return Ok(Response::new(Box::pin(first.chain(never))));
        }
        let replies = tokio_stream::iter(0..count).map(move |n| Ok(reply(format!("{name} {n}"))));
        Ok(Response::new(Box::pin(replies)))
    }

    async fn collect(&self, request: Request<Streaming<HelloRequest>>) -> Result<Response<HelloReply>, Status> {
        self.begin(request.metadata())?;
        let mut names = Vec::new();
        let mut requests = request.into_inner();
        while let Some(request) = requests.next().await {
            names.push(request?.name);
        }
        Ok(Response::new(reply(names.join("+"))))
    }

    async fn chat(&self, request: Request<Streaming<HelloRequest>>) -> Result<Response<Replies>, Status> {
        self.begin(request.metadata())?;
        let replies = request.into_inner().map(|request| request.map(|request| reply(format!("re: {}", request.name))));
        Ok(Response::new(Box::pin(replies)))
    }
}

fn copy(name: &'static str, from: &MetadataMap, to: &mut MetadataMap) {
    if name.ends_with("-bin") {
        for value in from.get_all_bin(name) {
            to.append_bin(name, value.clone());
        }
    } else {
        for value in from.get_all(name) {
            to.append(name, value.clone());
        }
    }
}

/// A tonic server of [`TestGreeter`] on a port of its own. It ends when dropped.
pub struct Server {
    pub address: SocketAddr,
    calls: Arc<Mutex<Vec<MetadataMap>>>,
    accepts: Arc<AtomicUsize>,
    gone: mpsc::Receiver<()>,
    task: AbortHandle,
}

impl Server {
    pub async fn start() -> Self {
        Self::scripted(|_, _| Ok(())).await
    }

    /// `script` gets each call's number, from 1, and its metadata.
    pub async fn scripted(script: impl Fn(usize, &MetadataMap) -> Result<(), Status> + Send + Sync + 'static) -> Self {
        let calls = Arc::default();
        let (told, gone) = mpsc::channel(1024);
        let greeter = TestGreeter { script: Arc::new(script), calls: Arc::clone(&calls), gone: told };
        let router =
            tonic::service::Routes::new(GreeterServer::new(greeter).send_compressed(CompressionEncoding::Gzip));
        Self::serving(router, calls, gone).await
    }

    /// A gRPC server without any service.
    pub async fn without_services() -> Self {
        let (_, gone) = mpsc::channel(1024);
        Self::serving(tonic::service::Routes::default(), Arc::default(), gone).await
    }

    async fn serving(
        routes: tonic::service::Routes,
        calls: Arc<Mutex<Vec<MetadataMap>>>,
        gone: mpsc::Receiver<()>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepts = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepts);
        let incoming = TcpListenerStream::new(listener).map(move |stream| {
            count.fetch_add(1, Ordering::SeqCst);
            stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream))
        });
        let serving = tonic::transport::Server::builder().add_routes(routes).serve_with_incoming(incoming);
        let task = tokio::spawn(async move { serving.await.unwrap() }).abort_handle();
        Self { address, calls, accepts, gone, task }
    }

    /// The metadata of every call.
    pub fn calls(&self) -> Vec<MetadataMap> {
        self.calls.lock().unwrap().clone()
    }

    pub fn accepts(&self) -> usize {
        self.accepts.load(Ordering::SeqCst)
    }

    /// Resolves when the caller of a call that never ends has gone.
    pub async fn caller_gone(&mut self) {
        self.gone.recv().await.expect("the server lives");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn named(name: &str) -> HelloRequest {
    HelloRequest { name: name.into(), count: 0 }
}

/// A stream of requests that the test makes as it goes.
pub fn requests() -> (mpsc::Sender<HelloRequest>, ReceiverStream<HelloRequest>) {
    let (sender, receiver) = mpsc::channel(1024);
    (sender, ReceiverStream::new(receiver))
}

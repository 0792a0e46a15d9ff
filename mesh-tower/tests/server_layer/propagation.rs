//! RE-13: what a handler sends is bound by what it was sent.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use mesh_tower::core::model::{
    Backend, BackendId, Config, Endpoint, Forward, HostPattern, Protocol, Route, Server, VirtualHost,
};
use mesh_tower::server::{RequestBody, ServerLayer};
use mesh_tower::testing::{MemoryNetwork, Payload, TestBackend, empty};
use mesh_tower::{Error, ErrorKind, HttpClient, Mesh};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::support::{Told, ask, call, get};

/// A mesh with a server whose handlers call a stock that never answers.
struct World {
    stock: TestBackend,
    /// Held by the stock's handlers, and by itself.
    ended: mpsc::Receiver<()>,
    client: HttpClient,
    layer: ServerLayer,
    _mesh: Mesh,
}

impl World {
    async fn new(change: impl FnOnce(&mut Server)) -> Self {
        let network = MemoryNetwork::new();
        let (working, ended) = mpsc::channel::<()>(1);
        let stock = TestBackend::handling(move |_| {
            let working = working.clone();
            async move {
                let _working = working;
                std::future::pending::<&str>().await
            }
        });
        let stock = stock.start_in(&network);
        let mut server = Server::new("public");
        server.propagate_deadline = true;
        change(&mut server);
        let id = BackendId::new("stock", "it");
        let mut backend = Backend::new(id.clone(), vec![Endpoint::new(stock.address())]);
        backend.protocol = Protocol::Http2;
        let mut host = VirtualHost::new("stock", vec![HostPattern::parse("stock").unwrap()]);
        host.routes.push(Route::new(Forward::to(id)));
        let config = Config::new().with_server(server).with_backend(backend).with_virtual_host(host);
        let mesh = Mesh::builder().config(config).connector(network).build().await.unwrap();
        let (client, layer) = (mesh.http_client(), mesh.server_layer("public").unwrap());
        Self { stock, ended, client, layer, _mesh: mesh }
    }

    /// How many requests the stock works on, with itself.
    fn working(&self) -> usize {
        self.ended.sender_strong_count() - 1
    }

    /// The stock works on nothing any more.
    async fn idle(&mut self) {
        while self.working() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// A gRPC call to the stock.
    fn send(&self, timeout: Option<&'static str>) -> impl Future<Output = Result<(), Error>> + Send + 'static {
        let mut request = call(empty());
        *request.uri_mut() = "http://stock/stock.v1.Stock/Count".parse().unwrap();
        if let Some(timeout) = timeout {
            request.headers_mut().insert("grpc-timeout", HeaderValue::from_static(timeout));
        }
        let response = tower::Service::call(&mut self.client.clone(), request);
        async { response.await.map(drop) }
    }
}

fn timed(timeout: &'static str) -> Request<Payload> {
    let mut request = call(empty());
    request.headers_mut().insert("grpc-timeout", HeaderValue::from_static(timeout));
    request
}

fn millis(told: &HeaderValue) -> u128 {
    mesh_tower::core::grpc::parse_timeout(told.as_bytes()).unwrap().as_millis()
}

/// What the stock is told, of a handler that works for 200 ms and then calls.
#[tokio::test(start_paused = true)]
async fn re_13_what_is_left_is_what_is_sent() {
    for (propagate, limit, callers, own, told) in [
        (true, None, Some("500m"), None, Some(300)),
        (true, None, Some("500m"), Some("100m"), Some(100)),
        (true, None, Some("500m"), Some("1S"), Some(300)),
        (true, Some(400), Some("500m"), None, Some(200)),
        (true, Some(400), None, None, Some(200)),
        (true, None, None, Some("1S"), Some(1000)),
        (true, None, None, None, None),
        (false, Some(400), Some("500m"), None, None),
        (false, None, Some("500m"), Some("1S"), Some(1000)),
    ] {
        let world = World::new(|server| {
            server.propagate_deadline = propagate;
            server.limits.request_timeout = limit.map(Duration::from_millis);
        })
        .await;
        let world = &world;
        let handler = |_: Request<RequestBody<Payload>>| async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let _ = world.send(own).await;
            std::future::pending::<Response<Full<Bytes>>>().await
        };
        let request = callers.map_or_else(|| call(empty()), timed);
        let asking = tokio::time::timeout(Duration::from_secs(5), ask(&world.layer, handler, request));
        let _ = asking.await;
        let seen = world.stock.only_request().head.headers.get("grpc-timeout").map(millis);
        // What is left is rounded down.
        let lost = told.zip(seen).map_or(0, |(told, seen): (u128, u128)| told - seen);
        assert_eq!(seen.map(|seen| seen + lost), told, "{propagate} {limit:?} {callers:?} {own:?}");
        assert!(lost <= 2, "{lost} ms");
    }
}

/// With the caller goes what was sent for it.
#[tokio::test(start_paused = true)]
async fn re_13_the_caller_goes_and_what_the_handler_sent_is_cancelled() {
    let mut world = World::new(|_| {}).await;
    {
        let world = &world;
        let handler = |_: Request<RequestBody<Payload>>| async move {
            let result = world.send(None).await;
            panic!("the stock never answers: {result:?}");
        };
        let mut asking = pin!(ask::<_, _, _, Full<Bytes>>(&world.layer, handler, get("/")));
        let begun = async {
            while world.stock.request_count() == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            _ = asking.as_mut() => unreachable!("nobody answers"),
            () = begun => {}
        }
        assert!(world.working() > 0);
    }
    world.idle().await;
}

/// While an answer is sent the caller's deadline holds, and the server's own no more.
#[tokio::test(start_paused = true)]
async fn re_13_the_body_of_an_answer_is_bound_too() {
    let world = World::new(|server| server.limits.request_timeout = Some(Duration::from_millis(100))).await;
    let world = Arc::new(world);
    let handler = |_: Request<RequestBody<Payload>>| {
        let world = Arc::clone(&world);
        let sends = async move {
            let result = world.send(None).await;
            assert_eq!(result.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
        };
        std::future::ready(Response::new(Lazy(Box::pin(sends))))
    };
    let began = Instant::now();
    let told = Told::read(ask(&world.layer, handler, timed("2S")).await).await;
    // Either is first: the deadline of the answer, or that of the call that it made.
    assert!(told == Told::grpc(4) || told == Told::http(200, ""), "{told:?}");
    assert_eq!(began.elapsed().as_secs(), 2);
    let seen = millis(&world.stock.only_request().head.headers["grpc-timeout"]);
    assert!((1900..=2000).contains(&seen), "{seen}");
}

/// A body that does something before it ends.
struct Lazy(std::pin::Pin<Box<dyn Future<Output = ()> + Send>>);

impl http_body::Body for Lazy {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        self.0.as_mut().poll(cx).map(|()| None)
    }
}

/// A task of its own is cut off from whom the handler works for.
#[tokio::test(start_paused = true)]
async fn re_13_spawned_tasks_are_not_bound() {
    let world = Arc::new(World::new(|_| {}).await);
    let handler = |_: Request<RequestBody<Payload>>| {
        let world = Arc::clone(&world);
        async move {
            tokio::spawn(async move { world.send(Some("9S")).await });
            Response::new(Full::<Bytes>::default())
        }
    };
    assert_eq!(ask(&world.layer, handler, timed("500m")).await.status(), 200);
    while world.stock.request_count() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let seen = millis(&world.stock.only_request().head.headers["grpc-timeout"]);
    assert!(seen > 8000, "{seen}");
}

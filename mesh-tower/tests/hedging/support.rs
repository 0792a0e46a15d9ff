//! Servers that answer by the number of the attempt, wherever it goes.

use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use mesh_tower::core::config::{File, Reader};
use mesh_tower::core::grpc::Code;
use mesh_tower::core::model::{Config, Forward, HedgePolicy, RouteAction};
use mesh_tower::testing::grpc::{answer, trailers_only};
use mesh_tower::testing::{
    Events, Fault, MemoryNetwork, Payload, Reply, RequestBody, ServiceConfig, TestBackend, TestMesh,
};
use mesh_tower::{Body, Builder, Error, Mesh};
use tokio::sync::watch;
use tokio::time::Instant;
use tower::ServiceExt;

pub(crate) const DELAY: Duration = Duration::from_millis(100);

/// What becomes of an attempt, after its body was read.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Act {
    /// Nothing, ever.
    Hang,
    /// A good answer, at once or later.
    Good(Duration),
    /// A status of HTTP, with a text.
    Status(u16),
    /// A status of gRPC, trailers-only, with a pushback.
    Grpc(Code, Option<&'static str>),
    /// The same, later.
    Late(Duration, Code),
    /// Something worse.
    Fault(Fault),
    /// The same, later.
    LateFault(Duration, Fault),
}

pub(crate) const GOOD: Act = Act::Good(Duration::ZERO);
pub(crate) const UNAVAILABLE: Act = Act::Grpc(Code::Unavailable, None);

impl Act {
    async fn reply(self, number: usize, grpc: bool) -> Reply {
        let refusal = |code: Code, pushback: Option<&'static str>| {
            let mut response = trailers_only(code, &format!("by {number}"));
            if let Some(pushback) = pushback {
                response.headers_mut().insert("grpc-retry-pushback-ms", pushback.parse().unwrap());
            }
            Reply::from(response)
        };
        match self {
            Self::Hang => std::future::pending().await,
            Self::Good(pause) => {
                tokio::time::sleep(pause).await;
                let text = format!("by {number}");
                if grpc { answer([text], Code::Ok, "").into() } else { text.into() }
            }
            Self::Status(status) => {
                let body = mesh_tower::testing::full(format!("by {number}"));
                http::Response::builder().status(StatusCode::from_u16(status).unwrap()).body(body).unwrap().into()
            }
            Self::Grpc(code, pushback) => refusal(code, pushback),
            Self::Late(pause, code) => {
                tokio::time::sleep(pause).await;
                refusal(code, None)
            }
            Self::Fault(fault) => fault.into(),
            Self::LateFault(pause, fault) => {
                tokio::time::sleep(pause).await;
                fault.into()
            }
        }
    }
}

/// What servers have seen so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<Seen>>>, Arc<watch::Sender<usize>>);

/// Something that a server sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// An attempt by its number, when it was there.
    Arrived(usize, Duration),
    /// It was cut off before it was answered.
    Cancelled(usize, Duration),
}

impl Log {
    pub(crate) fn add(&self, seen: Seen) {
        let mut all = self.0.lock().unwrap();
        all.push(seen);
        self.1.send_replace(all.len());
    }

    pub(crate) fn all(&self) -> Vec<Seen> {
        self.0.lock().unwrap().clone()
    }

    /// When attempts arrived, in milliseconds, by their number.
    pub(crate) fn arrivals(&self) -> Vec<u128> {
        let of = |seen| if let Seen::Arrived(_, at) = seen { Some(at.as_millis()) } else { None };
        self.all().into_iter().filter_map(of).collect()
    }

    /// Which attempts were cut off, when, in order of their numbers, once there are `count` of them.
    pub(crate) async fn cancelled(&self, count: usize) -> Vec<(usize, u128)> {
        let now = || {
            let of = |seen| if let Seen::Cancelled(number, at) = seen { Some((number, at.as_millis())) } else { None };
            self.all().into_iter().filter_map(of).collect::<Vec<_>>()
        };
        let mut changes = self.1.subscribe();
        mesh_tower::testing::watched(changes.wait_for(|_| now().len() >= count)).await.unwrap();
        let mut cancelled = now();
        cancelled.sort_unstable();
        cancelled
    }
}

/// Tells that an attempt was cut off, unless it was answered.
pub(crate) struct Cut {
    log: Log,
    number: usize,
    begin: Instant,
    answered: bool,
}

impl Cut {
    pub(crate) fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        if !self.answered {
            self.log.add(Seen::Cancelled(self.number, self.begin.elapsed()));
        }
    }
}

/// A mesh with servers in memory.
pub(crate) struct World {
    pub(crate) mesh: TestMesh,
    pub(crate) servers: Vec<TestBackend>,
    pub(crate) log: Log,
    pub(crate) events: Events,
    pub(crate) begin: Instant,
}

/// How a world is made.
pub(crate) struct Plan {
    pub(crate) servers: usize,
    pub(crate) route: &'static str,
    pub(crate) service: &'static str,
    pub(crate) backend: &'static str,
    pub(crate) policy: HedgePolicy,
    pub(crate) adjust: fn(&mut Forward),
    pub(crate) build: Box<dyn FnOnce(Builder) -> Builder>,
}

impl Plan {
    pub(crate) fn new(policy: HedgePolicy) -> Self {
        Self {
            servers: 3,
            route: "",
            service: "",
            backend: "protocol: http2",
            policy,
            adjust: |_| {},
            build: Box::new(|builder| builder),
        }
    }

    pub(crate) fn config(&self, servers: &[TestBackend]) -> Config {
        let config = ServiceConfig::new("greeter", servers.iter().map(TestBackend::address));
        let yaml = config.route(self.route).service(self.service).backend(self.backend).yaml();
        let file = File { text: yaml.as_bytes(), name: "test", directory: Path::new("") };
        let mut config = Reader::new().read(Some(file)).unwrap().config;
        let host = Arc::get_mut(&mut config.virtual_hosts[0]).unwrap();
        let RouteAction::Forward(forward) = &mut host.routes[0].action else { panic!("the route forwards") };
        forward.policy.hedge = Some(Arc::new(self.policy.clone()));
        (self.adjust)(forward);
        config
    }

    /// Servers that do `acts`, each with the attempt of its number; a further attempt meets the last of them.
    pub(crate) async fn start(self, acts: &[Act]) -> World {
        let acts = acts.to_vec();
        self.serve(move |number, request, cut| {
            let act = acts.get(number).or(acts.last()).copied().unwrap_or(Act::Hang);
            async move {
                let grpc = request.headers().contains_key("te");
                // Who breaks off gets no answer anyway.
                let _ = request.into_body().collect().await;
                let reply = act.reply(number + 1, grpc).await;
                cut.answered();
                reply
            }
        })
        .await
    }

    /// Servers that call `handler` for each attempt with its number, counted from 0.
    pub(crate) async fn serve<F, Fut>(self, handler: F) -> World
    where
        F: Fn(usize, Request<RequestBody>, Cut) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: Into<Reply>> + Send + 'static,
    {
        let (network, log, begin) = (MemoryNetwork::new(), Log::default(), Instant::now());
        let (handler, count) = (Arc::new(handler), Arc::new(AtomicUsize::new(0)));
        let server = |_| {
            let (handler, count, log) = (Arc::clone(&handler), Arc::clone(&count), log.clone());
            let handling = move |request| {
                let number = count.fetch_add(1, Ordering::SeqCst);
                log.add(Seen::Arrived(number, begin.elapsed()));
                handler(number, request, Cut { log: log.clone(), number, begin, answered: false })
            };
            TestBackend::handling(handling).start_in(&network)
        };
        let servers: Vec<_> = (0..self.servers).map(server).collect();
        let events = Events::new();
        let builder = Mesh::builder().config(self.config(&servers)).observer(events.clone()).connector(network);
        let builder = (self.build)(builder);
        World { mesh: TestMesh::start(builder).await, servers, log, events, begin }
    }
}

impl World {
    pub(crate) async fn send(&self, request: Request<Payload>) -> Result<http::Response<Body>, Error> {
        self.mesh.http_client().oneshot(request).await
    }

    /// A gRPC call with a message: its code, and the message of the answer or of the status.
    pub(crate) async fn call(&self) -> (u16, String) {
        let request = mesh_tower::testing::grpc::call("http://greeter/a.B/C", "hello");
        let (head, body) = self.send(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap();
        let status = |headers: &http::HeaderMap| headers.get("grpc-status")?.to_str().ok()?.parse().ok();
        let code = body.trailers().and_then(status).or_else(|| status(&head.headers)).unwrap();
        let data = body.to_bytes();
        let text = match data.get(5..) {
            Some(message) => String::from_utf8(message.to_vec()).unwrap(),
            None => head.headers["grpc-message"].to_str().unwrap().to_owned(),
        };
        (code, text)
    }

    /// An HTTP request: the status and the text of the answer.
    pub(crate) async fn ask(&self, method: &str) -> Result<(u16, String), Error> {
        let request = Request::builder().method(method).uri("http://greeter/").body(mesh_tower::testing::empty());
        let response = self.send(request.unwrap()).await?;
        Ok((response.status().as_u16(), response.into_body().string().await?))
    }

    /// How long this world has been there, in milliseconds.
    pub(crate) fn now(&self) -> u128 {
        self.begin.elapsed().as_millis()
    }

    /// How many attempts each server has seen.
    pub(crate) fn request_counts(&self) -> Vec<usize> {
        self.servers.iter().map(TestBackend::request_count).collect()
    }
}

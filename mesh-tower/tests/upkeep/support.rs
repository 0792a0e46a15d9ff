use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use mesh_tower::Mesh;
use mesh_tower::core::grpc::Code;
use mesh_tower::core::model::{
    Backend, BackendId, Config, Endpoint, Forward, HealthCheck, HealthProbe, HostPattern, Protocol, Route, RoutePolicy,
    VirtualHost,
};
use mesh_tower::testing::{
    Events, Fault, MemoryNetwork, ReceivedRequest, Reply, RequestBody, Seen, TestBackend, TestMesh, grpc,
};
use tokio::sync::watch;

pub(crate) const CHECK: &str = "/grpc.health.v1.Health/Check";
/// The path of probes over HTTP.
pub(crate) const PATH: &str = "/healthz?deep=1";

/// How a server answers health checks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Mood {
    Serving,
    NotServing,
    Grpc(Code),
    Status(u16),
    /// A head, and no end of the body.
    Endless,
    Silent,
    Lost,
}

impl Mood {
    fn reply(self) -> Reply {
        match self {
            Self::Serving => grpc::answer([b"\x08\x01"], Code::Ok, "").into(),
            Self::NotServing => grpc::answer([b"\x08\x02"], Code::Ok, "").into(),
            Self::Grpc(code) => grpc::trailers_only(code, "").into(),
            Self::Status(status) => StatusCode::from_u16(status).unwrap().into(),
            Self::Endless => Reply::from("never to be read whole").with_fault(Fault::SlowBody { chunk: 1 }),
            Self::Silent => Fault::Stall.into(),
            Self::Lost => Fault::Disconnect(mesh_tower::testing::At::BeforeHead).into(),
        }
    }
}

/// A server whose health a test sets. Requests other than checks are answered with its name.
pub(crate) struct Patient {
    pub(crate) server: TestBackend,
    mood: Arc<Mutex<Mood>>,
}

impl Patient {
    pub(crate) fn start(network: &MemoryNetwork, name: &'static str, mood: Mood) -> Self {
        let mood = Arc::new(Mutex::new(mood));
        let shared = Arc::clone(&mood);
        let handler = move |request: Request<RequestBody>| {
            let mood = *shared.lock().unwrap();
            async move {
                let (head, body) = request.into_parts();
                // Who breaks off gets no answer anyway.
                let _ = body.collect().await;
                if is_check(head.uri.path()) { mood.reply() } else { name.into() }
            }
        };
        Self { server: TestBackend::handling(handler).start_in(network), mood }
    }

    pub(crate) fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// The checks that have arrived.
    pub(crate) fn questions(&self) -> Vec<ReceivedRequest> {
        self.server.requests().into_iter().filter(|request| is_check(request.head.uri.path())).collect()
    }

    /// How many that are.
    pub(crate) fn checks(&self) -> usize {
        self.questions().len()
    }

    /// How many other requests have.
    pub(crate) fn requests(&self) -> usize {
        self.server.request_count() - self.checks()
    }

    /// Resolves when `count` checks have arrived.
    pub(crate) async fn checked(&self, count: usize) {
        while self.checks() < count {
            self.server.arrived(self.server.request_count() + 1).await;
        }
    }
}

fn is_check(path: &str) -> bool {
    [CHECK, "/healthz"].contains(&path)
}

pub(crate) fn ask_grpc() -> HealthCheck {
    HealthCheck::new(HealthProbe::Grpc { service: "shop.Catalog".into() })
}

pub(crate) fn ask_http() -> HealthCheck {
    HealthCheck::new(HealthProbe::Http { path: PATH.into(), host: None, expected: 200..=299 })
}

/// The backend `v1` of `catalog`, over HTTP/2 and without a check.
pub(crate) fn backend(addresses: impl IntoIterator<Item = SocketAddr>) -> Backend {
    let endpoints = addresses.into_iter().map(Endpoint::new).collect();
    let mut backend = Backend::new(BackendId::new("catalog", "v1"), endpoints);
    backend.protocol = Protocol::Http2;
    backend
}

pub(crate) fn config(backend: &Backend) -> Config {
    let forward = Forward::to(backend.id.clone()).with_policy(RoutePolicy::default());
    let host = VirtualHost::new("catalog", vec![HostPattern::parse("catalog").unwrap()]);
    Config::new().with_virtual_host(host.with_route(Route::new(forward))).with_backend(backend.clone())
}

pub(crate) struct Ward {
    pub(crate) mesh: TestMesh,
    pub(crate) events: Events,
    configs: watch::Sender<Arc<Config>>,
}

impl Ward {
    pub(crate) async fn open(network: &MemoryNetwork, backend: &Backend) -> Self {
        let events = Events::new();
        let (configs, receiver) = watch::channel(Arc::new(config(backend)));
        let builder = Mesh::builder().configs(receiver).observer(events.clone()).connector(network.clone());
        Self { mesh: TestMesh::start(builder).await, events, configs }
    }

    /// Puts another configuration of the backend into force.
    pub(crate) async fn change(&self, backend: &Backend) {
        let version = self.mesh.config_status().borrow().version;
        self.configs.send_replace(Arc::new(config(backend)));
        self.mesh.config_status().wait_for(|status| status.version > version).await.unwrap();
    }

    /// The answer to a request, or the text of its error.
    pub(crate) async fn get(&self) -> Result<String, String> {
        let response = self.mesh.http_client().get("http://catalog/items").await.map_err(|error| error.to_string())?;
        response.into_body().string().await.map_err(|error| error.to_string())
    }

    /// Sends a request that connects the backend. The first check may be quicker, and forbid it.
    pub(crate) async fn knock(&self) {
        let _ = self.get().await;
    }

    /// How many of `count` requests in turn each server answered; none may fail.
    pub(crate) async fn shares(&self, count: usize) -> BTreeMap<String, usize> {
        let mut shares = BTreeMap::new();
        for _ in 0..count {
            *shares.entry(self.get().await.unwrap()).or_default() += 1;
        }
        shares
    }

    /// Resolves when `patient` becomes healthy or unhealthy after this call.
    pub(crate) async fn turns(&self, patient: &Patient, healthy: bool) {
        let wanted = move |seen: &Seen| is_turn(seen, patient.address(), healthy);
        self.events.from_now().wait_for(wanted).await;
    }

    /// How often `patient` became healthy or unhealthy so far.
    pub(crate) fn turned(&self, patient: &Patient, healthy: bool) -> usize {
        self.events.count(|seen| is_turn(seen, patient.address(), healthy))
    }
}

fn is_turn(seen: &Seen, address: SocketAddr, wanted: bool) -> bool {
    matches!(seen, Seen::Health { endpoint, healthy, .. } if *endpoint == address.into() && *healthy == wanted)
}

/// Lets what is due happen, for so long on the paused clock.
pub(crate) async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

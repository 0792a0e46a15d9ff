//! RL-13: Tower's contract, for every layer, against a model.
//!
//! Random callers, who keep the contract themselves, make clones, ask for readiness, call, poll, drop and let time pass
//! in any order. The service at the bottom panics if it is called without readiness of that very instance, and counts
//! what is reserved; the model says how much of it may be.

use std::collections::BTreeSet;
use std::error::Error as _;
use std::future::{Future, poll_fn, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use mesh_tower::core::model::{
    AdmissionControl, Backend, BackendId, Config, Consecutive, Forward, HostPattern, OutlierDetection, Recovery,
    RetryOn, RetryPolicy, Route, Server, VirtualHost,
};
use mesh_tower::layer::{
    AdmissionLayer, CircuitBreakerLayer, DeadlineLayer, OutlierLayer, RetryLayer, RouteLayer, SplitService,
    TimeoutLayer, TraceLayer,
};
use mesh_tower::server::ServerLayer;
use mesh_tower::{BoxError, Mesh};
use opentelemetry_sdk::trace::{InMemorySpanExporter, Sampler, SdkTracerProvider};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

use super::support::{Answer, Dead, Mock, Script, World, get, poll_once};

const PERMITS: usize = 3;
const STEPS: usize = 400;

/// A caller's instance of the service.
struct Caller<S> {
    service: S,
    /// Whether `poll_ready` was called since the last call, and said yes.
    polled: bool,
    ready: bool,
}

type Running<RB> = Pin<Box<dyn Future<Output = Result<Response<RB>, BoxError>> + Send>>;

fn is_a_service<S, RB>(_: &S)
where
    S: Service<Request<Full<Bytes>>, Response = Response<RB>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    RB: Send + 'static,
{
}

fn answer(seed: u64) -> impl Fn(usize, &http::request::Parts) -> Answer + Send + Sync {
    move |number, _| {
        let mut rng = StdRng::seed_from_u64(seed ^ (number as u64) << 32);
        let answer = match rng.random_range(0..6) {
            0 => Answer::silence(),
            1 => Answer::status(503),
            2 => Answer::error(std::io::Error::from(std::io::ErrorKind::ConnectionRefused)),
            3 => Answer::response(Response::builder().status(503).body(Script::of("busy").stuck()).unwrap()),
            _ => Answer::ok(),
        };
        if rng.random() { answer.after(Duration::from_millis(rng.random_range(1..200))) } else { answer }
    }
}

/// Everything, for one layer and one seed.
async fn obeys<S, RB>(name: &str, seed: u64, make: &impl Fn(Mock) -> S)
where
    S: Service<Request<Full<Bytes>>, Response = Response<RB>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    RB: Send + 'static,
{
    let world = World::new(PERMITS, answer(seed));
    let mut rng = StdRng::seed_from_u64(seed);
    let mut callers = vec![Caller { service: make(world.mock()), polled: false, ready: false }];
    is_a_service(&callers[0].service);
    let mut running: Vec<Running<RB>> = Vec::new();
    let mut answered = 0;
    for step in 0..STEPS {
        let place = format!("{name}, seed {seed}, step {step}");
        let caller = rng.random_range(0..callers.len());
        match rng.random_range(0..10) {
            0..3 => {
                let caller = &mut callers[caller];
                let polled = poll_fn(|cx| Poll::Ready(caller.service.poll_ready(cx))).await;
                caller.polled = true;
                match polled {
                    Poll::Ready(result) => {
                        result.map_err(Into::into).unwrap_or_else(|error| panic!("{place}: {error}"));
                        caller.ready = true;
                        // Asking again changes nothing.
                        let held = world.held();
                        let again = poll_fn(|cx| Poll::Ready(caller.service.poll_ready(cx))).await;
                        assert!(matches!(again, Poll::Ready(Ok(()))), "{place}: ready, and then not");
                        assert_eq!(world.held(), held, "{place}: readiness was paid for twice");
                    }
                    Poll::Pending => assert!(!caller.ready, "{place}: ready, and then not"),
                }
            }
            3..6 if callers[caller].ready => {
                let caller = &mut callers[caller];
                let response = caller.service.call(get("http://greeter/"));
                (caller.polled, caller.ready) = (false, false);
                running.push(Box::pin(async move { response.await.map_err(Into::into) }));
            }
            6 if callers.len() < 5 => {
                // The contract: not ready, whatever the original is.
                callers.push(Caller { service: callers[caller].service.clone(), polled: false, ready: false });
            }
            7 if callers.len() > 1 => drop(callers.swap_remove(caller)),
            8 if !running.is_empty() => drop(running.swap_remove(rng.random_range(0..running.len()))),
            9 => tokio::time::advance(Duration::from_millis(rng.random_range(1..100))).await,
            _ => {
                let mut left = Vec::new();
                for mut future in running.drain(..) {
                    match poll_once(future.as_mut()).await {
                        Poll::Ready(_) => answered += 1,
                        Poll::Pending => left.push(future),
                    }
                }
                running = left;
            }
        }
        let asked = callers.iter().filter(|caller| caller.polled).count();
        let held = world.held();
        assert!(held <= asked + running.len(), "{place}: {held} reserved by {asked} callers, {} calls", running.len());
    }
    assert!(answered > 0, "{name}, seed {seed}: nothing was ever answered");
    running.clear();
    callers.clear();
    assert_eq!(world.held(), 0, "{name}, seed {seed}: something was kept");
}

async fn obeys_all<S, RB>(name: &str, make: impl Fn(Mock) -> S)
where
    S: Service<Request<Full<Bytes>>, Response = Response<RB>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    RB: Send + 'static,
{
    for seed in 0..50 {
        obeys(name, seed, &make).await;
    }
    keeps_sources(name, &make).await;
    waits_and_frees(name, &make).await;
}

/// An error of the inner service, called or asked for its readiness, is found again.
async fn keeps_sources<S, RB>(name: &str, make: &impl Fn(Mock) -> S)
where
    S: Service<Request<Full<Bytes>>, Response = Response<RB>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    RB: 'static,
{
    #[derive(Debug, thiserror::Error)]
    #[error("it broke")]
    struct Broken(#[source] Dead);

    let world = World::new(PERMITS, |_, _| Answer::error(Broken(Dead)));
    let service = make(world.mock());
    let error = service.clone().oneshot(get("http://greeter/")).await.err().map(Into::into).expect("it broke");
    assert!(is_from::<Broken>(&error) && is_from::<Dead>(&error), "{name}: {error:?}");
    world.kill();
    let error = service.oneshot(get("http://greeter/")).await.err().map(Into::into).expect("it is dead");
    assert!(is_from::<Dead>(&error), "{name}: {error:?}");
}

fn is_from<E: std::error::Error + 'static>(error: &BoxError) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&**error);
    while let Some(error) = cause {
        if error.is::<E>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// A request waits for its place, and one that is dropped makes room.
async fn waits_and_frees<S, RB>(name: &str, make: &impl Fn(Mock) -> S)
where
    S: Service<Request<Full<Bytes>>, Response = Response<RB>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    RB: 'static,
{
    let world = World::new(1, |number, _| if number == 0 { Answer::silence() } else { Answer::ok() });
    let service = make(world.mock());
    let mut first = Box::pin(service.clone().oneshot(get("http://greeter/")));
    assert!(poll_once(first.as_mut()).await.is_pending());
    let mut second = Box::pin(service.oneshot(get("http://greeter/")));
    assert!(poll_once(second.as_mut()).await.is_pending());
    assert_eq!((world.calls(), world.held()), (1, 1), "{name}");
    drop(first);
    let response = second.await.map_err(Into::into).unwrap_or_else(|error| panic!("{name}: {error:?}"));
    assert_eq!((response.status().as_u16(), world.held()), (200, 0), "{name}");
}

fn policy() -> RetryPolicy {
    let mut policy = RetryPolicy::new(RetryOn::SERVER_ERROR | RetryOn::CONNECT_FAILURE).with_num_retries(3);
    policy.per_try_timeout = Some(Duration::from_millis(150));
    policy
}

/// A route to one backend, made of whatever `maker` makes.
fn route() -> RouteLayer {
    let id = BackendId::new("greeter", "v1");
    let host = VirtualHost::new("greeter", vec![HostPattern::Exact("greeter".into())]);
    let host = host.with_route(Route::new(Forward::to(id.clone())));
    RouteLayer::new(&Config::new().with_virtual_host(host).with_backend(Backend::new(id, vec![]))).unwrap()
}

#[tokio::test(start_paused = true)]
async fn rl_13_timeout() {
    obeys_all("timeout", |mock| TimeoutLayer::new(Duration::from_millis(150)).layer(mock)).await;
}

#[tokio::test(start_paused = true)]
async fn rl_13_deadline() {
    obeys_all("deadline", |mock| DeadlineLayer::new(Duration::from_millis(150)).layer(mock)).await;
}

#[tokio::test(start_paused = true)]
async fn rl_13_retry() {
    obeys_all("retry", |mock| RetryLayer::new(policy()).layer(mock)).await;
}

#[tokio::test(start_paused = true)]
async fn rl_13_split() {
    let split = |mock: Mock| SplitService::new([(mock.clone(), 1), (mock.clone(), 0), (mock, 2)]).unwrap().with_seed(7);
    obeys_all("split", split).await;
}

#[tokio::test(start_paused = true)]
async fn rl_13_route() {
    let routed = |mock: Mock| route().layer(service_fn(move |_: Arc<Backend>| ready(Ok::<_, BoxError>(mock.clone()))));
    obeys_all("route", routed).await;
}

#[tokio::test(start_paused = true)]
async fn rl_13_circuit_breaker() {
    let breaker = CircuitBreakerLayer::new(PERMITS as u32 - 1);
    obeys_all("circuit breaker", |mock| breaker.layer(mock)).await;
    assert_eq!(breaker.under_way(), 0, "CB-04, CB-05");
}

/// Refuses as soon as something failed.
fn admission() -> AdmissionLayer {
    let mut policy = AdmissionControl::default();
    policy.min_requests_per_second = 0;
    AdmissionLayer::new(policy)
}

#[tokio::test(start_paused = true)]
async fn rl_13_admission() {
    obeys_all("admission", |mock| admission().layer(mock)).await;
}

/// Endpoints that are ejected and probed all the time.
fn outliers(recovery: Recovery) -> OutlierLayer {
    let mut policy = OutlierDetection::default();
    policy.interval = Duration::from_millis(50);
    policy.base_ejection_time = Duration::from_millis(100);
    policy.max_ejection_time = Duration::from_millis(200);
    policy.max_ejection_percent = 100;
    policy.consecutive_5xx = Some(Consecutive::new(2));
    policy.recovery = recovery;
    OutlierLayer::new(policy)
}

#[tokio::test(start_paused = true)]
async fn rl_13_outlier() {
    for recovery in [Recovery::Time, Recovery::Probe] {
        let layer = outliers(recovery);
        obeys_all("outlier", |mock| layer.layer(mock)).await;
        assert_eq!(layer.ejected(), 0, "the endpoints are gone");
    }
}

/// The layer of a server, which refuses nothing here: what it is asked goes to whoever is ready for it.
#[tokio::test(start_paused = true)]
async fn rl_13_server() {
    let mut server = Server::new("public");
    server.limits.request_timeout = Some(Duration::from_millis(150));
    let mesh = Mesh::builder().config(Config::new().with_server(server)).build().await.unwrap();
    let layer = mesh.server_layer("public").unwrap();
    obeys_all("server", |mock| layer.layer(mock)).await;
}

/// A provider that records everything, and what it recorded.
fn tracing() -> (SdkTracerProvider, InMemorySpanExporter) {
    let exporter = InMemorySpanExporter::default();
    let builder = SdkTracerProvider::builder().with_simple_exporter(exporter.clone());
    (builder.with_sampler(Sampler::AlwaysOn).build(), exporter)
}

/// The names of the spans that ended, each once.
fn ended(exporter: &InMemorySpanExporter) -> BTreeSet<String> {
    exporter.get_finished_spans().unwrap().iter().map(|span| format!("{} {:?}", span.name, span.span_kind)).collect()
}

#[tokio::test(start_paused = true)]
async fn rl_13_trace() {
    let (provider, exporter) = tracing();
    obeys_all("trace", |mock| TraceLayer::attempts(&provider).layer(mock)).await;
    assert_eq!(ended(&exporter), ["GET Client".to_owned()].into());
}

#[tokio::test(start_paused = true)]
async fn rl_13_all_of_them() {
    let (provider, exporter) = tracing();
    let stack = |mock: Mock| {
        let attempts = TraceLayer::attempts(&provider);
        let maker = service_fn(move |_: Arc<Backend>| {
            let backend = outliers(Recovery::Probe);
            let endpoint =
                |mock: &Mock| backend.layer(TimeoutLayer::new(Duration::from_millis(100)).layer(mock.clone()));
            let split = SplitService::new([(endpoint(&mock), 1), (endpoint(&mock), 2)]).unwrap();
            let service = ServiceBuilder::new()
                .layer(admission())
                .layer(DeadlineLayer::new(Duration::from_millis(500)))
                .layer(RetryLayer::new(policy()))
                .layer(attempts.clone())
                .layer(CircuitBreakerLayer::new(PERMITS as u32))
                .service(split);
            ready(Ok::<_, BoxError>(service))
        });
        TraceLayer::requests(&provider).layer(route().layer(maker))
    };
    obeys_all("all", stack).await;
    assert_eq!(ended(&exporter), ["GET Client", "GET Internal"].map(str::to_owned).into());
}

#[test]
fn rl_13_layers_are_shared_freely() {
    fn is_a_layer<L: Clone + Send + Sync + std::fmt::Debug + 'static>() {}
    is_a_layer::<AdmissionLayer>();
    is_a_layer::<CircuitBreakerLayer>();
    is_a_layer::<OutlierLayer>();
    is_a_layer::<RouteLayer>();
    is_a_layer::<DeadlineLayer>();
    is_a_layer::<RetryLayer>();
    is_a_layer::<TimeoutLayer>();
    is_a_layer::<TraceLayer>();
    is_a_layer::<ServerLayer>();
    let error = SplitService::new([((), 0)]).unwrap_err();
    assert!(error.source().is_none());
}

//! What each of the separate layers adds to a call: time and allocations, next to the bare inner service in the same
//! run.
//!
//! The inner service does nothing and is ready at once, so that what remains is the layer. One thread, no socket.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io::Write;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use benches::args::Args;
use benches::measure::one_thread;
use benches::micro::{Timing, time};
use benches::{Result, report};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use mesh_core::model::{
    Backend, BackendId, Config, Forward, HostPattern, RetryOn, RetryPolicy, Route, RoutePolicy, VirtualHost,
};
use mesh_tonic::mesh_tower::layer::{DeadlineLayer, RetryLayer, RouteLayer, SplitService, TimeoutLayer};
use serde::Serialize;
use tower::{Layer, Service, ServiceBuilder, service_fn};

/// Calls whose allocations are counted.
const CALLS: u64 = 1_000;
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Serialize)]
struct Row {
    layer: &'static str,
    #[serde(flatten)]
    timing: Timing,
    /// The fastest sample by that of the bare service with the same request.
    ratio: f64,
    allocations: f64,
}

/// The inner service: answers a head without a body.
#[derive(Clone)]
struct Bare;

impl<B> Service<Request<B>> for Bare {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Full<Bytes>>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        ready(Ok(Response::new(Full::default())))
    }
}

fn main() -> Result<()> {
    let args = Args::from_env()?;
    let runtime = one_thread()?;
    let _entered = runtime.enter();
    let title = "layers around a service that does nothing, one thread: 15 samples each";
    let mut out = report::table(&args, title)?;
    writeln!(out, "{:>44} {:>10} {:>10} {:>8} {:>12}", "", "fastest", "median", "ratio", "allocations")?;
    let mut rows: Vec<Row> = Vec::new();
    let bare = [get, grpc].map(|request| measure(Bare, request));
    let mut add = |layer: &'static str, bare: Timing, (timing, allocations): (Timing, f64)| -> Result<()> {
        let ratio = timing.min_ns / bare.min_ns;
        let Timing { min_ns, median_ns, .. } = timing;
        writeln!(out, "{layer:>44} {min_ns:>7.1} ns {median_ns:>7.1} ns {ratio:>8.2} {allocations:>12.2}")?;
        rows.push(Row { layer, timing, ratio, allocations });
        Ok(())
    };
    // Always, as the others are told in terms of them.
    add("bare", bare[0].0, bare[0])?;
    add("bare, gRPC", bare[1].0, bare[1])?;

    let deadline = DeadlineLayer::new(LIMIT);
    let policy = RetryPolicy::new(RetryOn::SERVER_ERROR).with_num_retries(2);
    let retry = RetryLayer::new(policy.clone());
    let timeout = TimeoutLayer::new(LIMIT);
    let maker = service_fn(|_: Arc<Backend>| ready(Ok::<_, Infallible>(Bare)));
    let mut policies = RoutePolicy::default();
    policies.timeout = Some(LIMIT);
    policies.retry = Some(Arc::new(policy));
    let stack = service_fn(move |_: Arc<Backend>| {
        let layers = ServiceBuilder::new().layer(DeadlineLayer::from_request()).layer(RetryLayer::from_route());
        ready(Ok::<_, Infallible>(layers.layer(timeout).service(Bare)))
    });

    let mut http = |layer: &'static str, measure: &dyn Fn() -> (Timing, f64)| -> Result<()> {
        if args.wants(layer) { add(layer, bare[0].0, measure()) } else { Ok(()) }
    };
    let split = SplitService::new([(Bare, 90), (Bare, 10)])?;
    http("split", &|| measure(split.clone(), get))?;
    http("timeout", &|| measure(timeout.layer(Bare), get))?;
    http("deadline", &|| measure(deadline.layer(Bare), get))?;
    http("deadline, announced", &|| measure(deadline.announced().layer(Bare), get))?;
    http("retry", &|| measure(retry.layer(Bare), get))?;
    let routed = |policies| RouteLayer::new(&config(policies)).map_err(benches::Error::from);
    let (plain, timed) = (routed(RoutePolicy::default())?, routed(policies)?);
    http("route", &|| measure(plain.layer(maker), get))?;
    http("route with policies", &|| measure(timed.layer(maker), get))?;
    http("route with policies, deadline, retry, timeout", &|| measure(timed.layer(stack), get))?;
    let mut grpc_call = |layer: &'static str, measure: &dyn Fn() -> (Timing, f64)| -> Result<()> {
        if args.wants(layer) { add(layer, bare[1].0, measure()) } else { Ok(()) }
    };
    grpc_call("deadline, gRPC", &|| measure(deadline.layer(Bare), grpc))?;
    grpc_call("retry, gRPC with a body", &|| measure(retry.layer(Bare), grpc))?;
    report::json(&args, title, &rows)
}

fn get() -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::default());
    *request.uri_mut() = http::Uri::from_static("http://greeter/greeter.v1.Greeter/SayHello");
    request
}

fn grpc() -> Request<Full<Bytes>> {
    let mut request = get().map(|_| Full::from(Bytes::from_static(b"hello")));
    *request.method_mut() = http::Method::POST;
    request.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
    request.headers_mut().insert("te", http::HeaderValue::from_static("trailers"));
    request
}

/// One service with one route to one backend.
fn config(policies: RoutePolicy) -> Config {
    let id = BackendId::new("greeter", "v1");
    let host = VirtualHost::new("greeter", vec![HostPattern::Exact("greeter".into())]);
    let host = host.with_route(Route::new(Forward::to(id.clone()).with_policy(policies)));
    Config::new().with_virtual_host(host).with_backend(Backend::new(id, vec![]))
}

/// The time of a call, and its allocations beyond those of the request itself. The request is made anew for each call,
/// which is part of the time for every row, the bare one too.
fn measure<S, RB>(mut service: S, request: fn() -> Request<Full<Bytes>>) -> (Timing, f64)
where
    S: Service<Request<Full<Bytes>>, Response = Response<RB>>,
{
    let mut call = || {
        let mut cx = Context::from_waker(Waker::noop());
        assert!(service.poll_ready(&mut cx).is_ready(), "every layer is ready when the inner service is");
        let answer = pin!(service.call(request())).poll(&mut cx);
        assert!(matches!(&answer, Poll::Ready(Ok(_))), "the inner service answers at once");
        answer
    };
    let timing = time(&mut call);
    let of = |calls: &mut dyn FnMut()| {
        allocation_counter::measure(|| (0..CALLS).for_each(|_| calls())).count_total as f64 / CALLS as f64
    };
    let with = of(&mut || drop(std::hint::black_box(call())));
    let without = of(&mut || drop(std::hint::black_box(request())));
    (timing, with - without)
}

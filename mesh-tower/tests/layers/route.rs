use std::collections::BTreeMap;
use std::future::ready;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use mesh_tower::core::grpc;
use mesh_tower::core::model::{
    self, Address, Backend, BackendId, Config, Forward, Fraction, HeaderMatch, HostPattern, PathMatch, QueryMatch,
    RetryOn, RetryPolicy, Route, RouteMatch, RoutePolicy, StringMatch, ValueMatch, VirtualHost, WeightedBackend,
};
use mesh_tower::layer::{DeadlineLayer, RetryLayer, RouteLayer, Routed};
use mesh_tower::{BoxError, ErrorKind, RequestOptions};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

use super::support::{Answer, Dead, Mock, World, call, get, mesh_error, poll_once, post};

fn id(name: &str) -> BackendId {
    BackendId::new("shop", name)
}

fn host(routes: impl IntoIterator<Item = Route>) -> VirtualHost {
    let hosts = vec![HostPattern::parse("shop").unwrap(), HostPattern::parse("*.example.com").unwrap()];
    routes.into_iter().fold(VirtualHost::new("shop", hosts), VirtualHost::with_route)
}

/// A configuration with these backends, all without endpoints.
fn config(routes: impl IntoIterator<Item = Route>, backends: &[&str]) -> Config {
    let config = Config::new().with_virtual_host(host(routes));
    backends.iter().fold(config, |config, name| config.with_backend(Backend::new(id(name), vec![])))
}

fn to(name: &str) -> Route {
    Route::new(Forward::to(id(name)))
}

/// What was made so far, by backend.
type Made = Arc<Mutex<BTreeMap<String, Vec<Arc<World>>>>>;

fn made(made: &Made, name: &str) -> Vec<Arc<World>> {
    made.lock().unwrap().get(name).cloned().unwrap_or_default()
}

/// Makes services that answer with the name of their backend in the header `x-backend`.
fn maker(
    made: &Made,
) -> impl Service<Arc<Backend>, Response = Mock, Error = BoxError, Future: Send> + Clone + Send + Sync + 'static {
    let made = Arc::clone(made);
    service_fn(move |backend: Arc<Backend>| {
        let name = backend.id.name.to_string();
        let header = name.clone();
        let world = World::new(100, move |_, _| Answer::ok().header("x-backend", &header));
        let mock = world.mock();
        made.lock().unwrap().entry(name).or_default().push(world);
        ready(Ok(mock))
    })
}

async fn backend_of<S, RB, B>(service: &S, request: Request<B>) -> Result<String, BoxError>
where
    S: Service<Request<B>, Response = http::Response<RB>, Error = BoxError> + Clone,
{
    let response = service.clone().oneshot(request).await?;
    Ok(response.headers()["x-backend"].to_str()?.to_owned())
}

#[tokio::test]
async fn requests_go_where_the_routes_say() {
    let matching = |change: fn(&mut RouteMatch)| {
        let mut condition = RouteMatch::default();
        change(&mut condition);
        condition
    };
    let exact = |value: &str| ValueMatch::String(StringMatch::Exact { value: value.into(), ignore_case: false });
    let text = exact("yes");
    let mut header = RouteMatch::default();
    header.headers = vec![HeaderMatch::new(http::HeaderName::from_static("x-tester"), text.clone())];
    let mut query = RouteMatch::default();
    query.query = vec![QueryMatch::new("tester", text)];
    let routes = [
        to("path").with_match(matching(|condition| condition.path = Some(PathMatch::PathPrefix("/items".into())))),
        to("method").with_match(matching(|condition| condition.method = Some(Method::DELETE))),
        to("header").with_match(header),
        to("query").with_match(query),
        to("never").with_match(matching(|condition| condition.fraction = Some(Fraction::per_million(0)))),
        to("rest"),
    ];
    let backends = ["path", "method", "header", "query", "never", "rest", "idle"];
    let worlds = Made::default();
    let service = RouteLayer::new(&config(routes, &backends)).unwrap().layer(maker(&worlds));
    let request = |method: &str, uri: &str, headers: &[(&str, &str)]| {
        let request = Request::builder().method(method).uri(uri);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.body(Full::<Bytes>::default()).unwrap()
    };
    for (request, backend) in [
        (request("GET", "http://shop/items/7", &[]), "path"),
        (request("GET", "http://SHOP:80/items", &[]), "path"),
        (request("GET", "/items", &[("host", "shop")]), "path"),
        (request("GET", "http://a.example.com/items", &[("host", "elsewhere")]), "path"),
        (request("DELETE", "http://shop/", &[]), "method"),
        (request("GET", "http://shop/", &[("x-tester", "yes")]), "header"),
        (request("GET", "http://shop/?tester=yes", &[]), "query"),
        (request("GET", "http://shop/?tester=no", &[("x-tester", "no")]), "rest"),
    ] {
        let case = format!("{request:?}");
        assert_eq!(backend_of(&service, request).await.unwrap(), backend, "{case}");
    }
    let made: Vec<_> = worlds.lock().unwrap().iter().map(|(name, worlds)| (name.clone(), worlds.len())).collect();
    let once = ["header", "method", "path", "query", "rest"].map(|name| (name.to_owned(), 1));
    assert_eq!(made, once, "each is made once, and only what is used");
}

/// Five standard deviations around the share of each weight, and of a fraction.
#[tokio::test]
async fn weights_and_fractions_hold() {
    const REQUESTS: u32 = 5_000;
    let mut tenth = RouteMatch::default();
    tenth.fraction = Some(Fraction::per_million(100_000));
    let split = vec![WeightedBackend::new(id("v1"), 90), WeightedBackend::new(id("v2"), 10)];
    let routes = [to("tenth").with_match(tenth), Route::new(Forward::split(split))];
    let worlds = Made::default();
    let service = RouteLayer::new(&config(routes, &["tenth", "v1", "v2"])).unwrap().layer(maker(&worlds));
    for _ in 0..REQUESTS {
        backend_of(&service, get("http://shop/")).await.unwrap();
    }
    for (name, share) in [("tenth", 0.1), ("v1", 0.81), ("v2", 0.09)] {
        let count = made(&worlds, name)[0].calls() as f64;
        let (expected, sigma) = (f64::from(REQUESTS) * share, (f64::from(REQUESTS) * share * (1.0 - share)).sqrt());
        assert!((count - expected).abs() <= 5.0 * sigma, "{name}: {count}, not {expected} ± {sigma}");
    }
}

#[tokio::test]
async fn errors_name_the_service_and_the_way_out() {
    let mut items = RouteMatch::default();
    items.path = Some(PathMatch::Exact("/items".into()));
    let mut gone = RouteMatch::default();
    gone.path = Some(PathMatch::Exact("/gone".into()));
    let mut redirect = Route::new(model::RouteAction::Unsupported("a redirect".into()));
    redirect.matches = vec![RouteMatch::default()];
    redirect.matches[0].path = Some(PathMatch::Exact("/moved".into()));
    let config = config([to("v1").with_match(items), to("v9").with_match(gone), redirect], &["v1"]);
    let service = RouteLayer::new(&config).unwrap().layer(maker(&Made::default()));
    let connect = Request::connect("shop:443").body(Full::default()).unwrap();
    for (request, kind, text) in [
        (get("http://ship/items"), ErrorKind::UnknownService, "no service has the host \"ship\"; did you mean `shop`?"),
        (get("http://shop/else"), ErrorKind::NoRoute, "no route of service shop matches GET /else"),
        (get("http://shop/gone"), ErrorKind::BackendNotFound, "names the backend shop/v9, which does not exist"),
        (get("http://shop/moved"), ErrorKind::UnsupportedRoute, "asks for a redirect"),
        (get("/items"), ErrorKind::InvalidRequest, "write http://SERVICE/"),
        (get("http://me@shop/items"), ErrorKind::InvalidRequest, "user information"),
        (connect, ErrorKind::UpgradeRefused, "CONNECT"),
    ] {
        let error = backend_of(&service, request).await.unwrap_err();
        assert_eq!(mesh_error(&error).kind(), kind, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
    let fixed = RouteLayer::new(&config).unwrap().with_authority("shop").layer(maker(&Made::default()));
    for uri in ["/items", "http://elsewhere/items"] {
        assert_eq!(backend_of(&fixed, get(uri)).await.unwrap(), "v1", "{uri}");
    }
}

#[tokio::test]
async fn what_cannot_be_compiled_is_refused_at_once() {
    let nothing = Route::new(Forward::split(vec![WeightedBackend::new(id("v1"), 0)]));
    let error = RouteLayer::new(&config([nothing], &["v1"])).unwrap_err();
    assert!(error.to_string().contains("weights"), "{error}");
    let twice = config([to("v1")], &["v1"]).with_virtual_host(host([to("v1")]));
    assert!(RouteLayer::watch(watch::channel(Arc::new(twice)).1).is_err());
}

/// Keeps the events that are warnings or worse.
struct Warnings(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN && metadata.target() == "mesh"
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0.push_str(&format!("{field}={value:?} "));
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// The last good one stays, and a warning says why.
#[tokio::test]
async fn a_refused_update_is_told() {
    let warnings: Arc<Mutex<Vec<String>>> = Arc::default();
    let _installed = tracing::subscriber::set_default(Warnings(Arc::clone(&warnings)));
    let (sender, receiver) = watch::channel(Arc::new(config([to("v1")], &["v1"])));
    let layer = RouteLayer::watch(receiver).unwrap();
    sender.send_replace(Arc::new(config([to("v1")], &["v1"]).with_virtual_host(host([]))));
    while warnings.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    let told = warnings.lock().unwrap().join("\n");
    for part in ["configuration refused; the last good one stays in force", "version=1 ", "`shop` is claimed by both"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert_eq!(layer.version(), 1);
}

/// Resolves once the layer has applied `version` configurations.
async fn applied(layer: &RouteLayer, version: u64) {
    while layer.version() < version {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn updates_keep_what_stays_and_drop_what_leaves() {
    let endpoint = || vec![model::Endpoint::new(Address::Socket("127.0.0.1:1".parse().unwrap()))];
    let (sender, receiver) = watch::channel(Arc::new(config([to("v1")], &["v1", "v2"])));
    let layer = RouteLayer::watch(receiver).unwrap();
    let worlds = Made::default();
    let service = layer.layer(maker(&worlds));
    assert_eq!(backend_of(&service, get("http://shop/")).await.unwrap(), "v1");
    let strong = |name: &str, index: usize| Arc::strong_count(&made(&worlds, name)[index]);
    // One is `made`'s, one of the list; the others are services.
    assert_eq!(strong("v1", 0), 3, "kept");

    sender.send_replace(Arc::new(config([to("v2")], &["v1", "v2"])));
    applied(&layer, 2).await;
    assert_eq!(backend_of(&service, get("http://shop/")).await.unwrap(), "v2");
    assert_eq!(strong("v1", 0), 3, "still a backend, so still there");

    // It leaves, without a request that would tell.
    sender.send_replace(Arc::new(config([to("v2")], &["v2"])));
    applied(&layer, 3).await;
    assert_eq!((strong("v1", 0), strong("v2", 0)), (2, 3));

    // It comes back, and the other one changes: both are made anew.
    let changed = config([to("v2")], &["v1"]).with_backend(Backend::new(id("v2"), endpoint()));
    sender.send_replace(Arc::new(changed));
    applied(&layer, 4).await;
    assert_eq!(backend_of(&service, get("http://shop/")).await.unwrap(), "v2");
    assert_eq!((made(&worlds, "v1").len(), made(&worlds, "v2").len()), (1, 2));
    assert_eq!((strong("v2", 0), strong("v2", 1)), (2, 3));

    // What cannot be compiled changes nothing, and the next one is taken again.
    let twice = config([to("v1")], &["v1"]).with_virtual_host(host([]));
    sender.send_replace(Arc::new(twice));
    tokio::task::yield_now().await;
    assert_eq!(backend_of(&service, get("http://shop/")).await.unwrap(), "v2");
    assert_eq!(layer.version(), 4);
    sender.send_replace(Arc::new(config([to("v1")], &["v1"])));
    applied(&layer, 5).await;
    assert_eq!(backend_of(&service, get("http://shop/")).await.unwrap(), "v1");

    // The last one holds when no more can come.
    drop(sender);
    tokio::task::yield_now().await;
    assert_eq!(backend_of(&service, get("http://shop/")).await.unwrap(), "v1");
}

#[tokio::test]
async fn the_task_ends_with_the_last_who_routes() {
    let (sender, receiver) = watch::channel(Arc::new(config([to("v1")], &["v1"])));
    let layer = RouteLayer::watch(receiver).unwrap();
    let service = layer.layer(maker(&Made::default()));
    drop(layer);
    tokio::task::yield_now().await;
    assert_eq!(sender.receiver_count(), 1, "a service follows without its layer");
    drop(service);
    sender.closed().await;
}

/// An update is never seen by half: a request that began under the old one ends under it.
#[tokio::test]
async fn a_request_under_way_keeps_its_service() {
    let (sender, receiver) = watch::channel(Arc::new(config([to("v1")], &["v1"])));
    let layer = RouteLayer::watch(receiver).unwrap();
    let go = Arc::new(Notify::new());
    let waiting = Arc::clone(&go);
    let slow = service_fn(move |_: Arc<Backend>| {
        let waiting = Arc::clone(&waiting);
        ready(Ok::<_, BoxError>(service_fn(move |_: Request<Full<Bytes>>| {
            let waiting = Arc::clone(&waiting);
            async move {
                waiting.notified().await;
                Ok::<_, BoxError>(http::Response::new(()))
            }
        })))
    });
    let service = layer.layer(slow);
    let mut request = Box::pin(service.clone().oneshot(get("http://shop/")));
    assert!(poll_once(request.as_mut()).await.is_pending());
    sender.send_replace(Arc::new(config([], &[])));
    applied(&layer, 2).await;
    assert_eq!(mesh_error(&service.oneshot(get("http://shop/")).await.unwrap_err()).kind(), ErrorKind::NoRoute);
    go.notify_one();
    assert_eq!(request.await.unwrap().status(), 200);
}

#[derive(Debug, thiserror::Error)]
#[error("no certificate")]
struct NoCertificate;

/// Everybody who waits shares one attempt to make the service, and its failure; the next request begins again.
#[tokio::test]
async fn a_maker_that_fails_is_asked_again() {
    let (attempts, go) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
    let (counted, waiting) = (Arc::clone(&attempts), Arc::clone(&go));
    let world = World::new(100, |_, _| Answer::ok());
    let mock = world.mock();
    let maker = service_fn(move |_: Arc<Backend>| {
        let attempt = counted.fetch_add(1, Ordering::Relaxed);
        let (waiting, mock) = (Arc::clone(&waiting), mock.clone());
        async move {
            waiting.notified().await;
            if attempt == 0 { Err(NoCertificate) } else { Ok(mock) }
        }
    });
    let service = RouteLayer::new(&config([to("v1")], &["v1"])).unwrap().layer(maker);
    let mut requests: Vec<_> = (0..3).map(|_| Box::pin(service.clone().oneshot(get("http://shop/")))).collect();
    for request in &mut requests {
        assert!(poll_once(request.as_mut()).await.is_pending());
    }
    go.notify_one();
    for request in requests {
        let error = request.await.unwrap_err();
        assert_eq!(mesh_error(&error).kind(), ErrorKind::NoHealthyEndpoint);
        assert!(error.to_string().contains("backend v1 of service shop cannot take the request"), "{error}");
        let cause = error.source().and_then(|cause| cause.source()).expect("the maker's error");
        assert!(cause.is::<NoCertificate>(), "{error:?}");
    }
    assert_eq!(attempts.load(Ordering::Relaxed), 1);

    // The one who makes it leaves: the next goes on.
    let mut first = Box::pin(service.clone().oneshot(get("http://shop/")));
    let mut second = Box::pin(service.clone().oneshot(get("http://shop/")));
    assert!(poll_once(first.as_mut()).await.is_pending());
    assert!(poll_once(second.as_mut()).await.is_pending());
    drop(first);
    assert!(poll_once(second.as_mut()).await.is_pending());
    go.notify_one();
    assert_eq!(second.await.unwrap().status(), 200);
    assert_eq!(attempts.load(Ordering::Relaxed), 3);
    assert_eq!(service.oneshot(get("http://shop/")).await.unwrap().status(), 200);
    assert_eq!(attempts.load(Ordering::Relaxed), 3, "made once and for all");
}

/// By Tower's law a service that fails in `poll_ready` is done for.
#[tokio::test]
async fn a_service_that_failed_is_made_anew() {
    let worlds = Made::default();
    let service = RouteLayer::new(&config([to("v1")], &["v1"])).unwrap().layer(maker(&worlds));
    backend_of(&service, get("http://shop/")).await.unwrap();
    made(&worlds, "v1")[0].kill();
    let error = backend_of(&service, get("http://shop/")).await.unwrap_err();
    assert!(error.source().is_some_and(|cause| cause.is::<Dead>()), "{error:?}");
    backend_of(&service, get("http://shop/")).await.unwrap();
    assert_eq!(made(&worlds, "v1").len(), 2);
}

/// No wait without a bound, and what was waited is taken off the caller's time.
#[tokio::test(start_paused = true)]
async fn waits_are_bounded() {
    let stuck = |_: &Made| service_fn(|_: Arc<Backend>| std::future::pending::<Result<Mock, BoxError>>());
    let full =
        |_: &Made| service_fn(|_: Arc<Backend>| ready(Ok::<_, BoxError>(World::new(0, |_, _| Answer::ok()).mock())));
    let mut policy = RoutePolicy::default();
    policy.timeout = Some(Duration::from_secs(5));
    let timed = Route::new(Forward::to(id("v1")).with_policy(policy));
    for (route, request, kind, bound) in [
        (to("v1"), get("http://shop/"), ErrorKind::Overflow, 30),
        (timed, get("http://shop/"), ErrorKind::DeadlineExceeded, 5),
        (to("v1"), with_authority(call(Some("3S"))), ErrorKind::DeadlineExceeded, 3),
        (to("v1"), within(get("http://shop/"), 2), ErrorKind::DeadlineExceeded, 2),
    ] {
        let layer = RouteLayer::new(&config([route], &["v1"])).unwrap();
        let worlds = Made::default();
        for error in [
            timed_out(layer.layer(stuck(&worlds)), request.clone(), bound).await,
            timed_out(layer.layer(full(&worlds)), request, bound).await,
        ] {
            assert_eq!(mesh_error(&error).kind(), kind, "{error}");
            assert!(error.to_string().starts_with("backend v1 of service shop was not ready"), "{error}");
        }
    }

    for request in [call(Some("3S")), within(call(None), 3), within(call(Some("3S")), 4)] {
        let world = World::new(100, |_, _| Answer::ok());
        let mock = DeadlineLayer::from_request().layer(world.mock());
        let slow = service_fn(move |_: Arc<Backend>| {
            let mock = mock.clone();
            async move {
                tokio::time::sleep(Duration::from_secs(2)).await;
                Ok::<_, BoxError>(mock)
            }
        });
        let service = RouteLayer::new(&config([to("v1")], &["v1"])).unwrap().layer(slow);
        service.oneshot(with_authority(request)).await.unwrap();
        let left = grpc::parse_timeout(world.seen()[0].0.headers[grpc::GRPC_TIMEOUT].as_bytes()).unwrap();
        assert!((0.98..=1.0).contains(&left.as_secs_f64()), "{left:?}");
    }
}

fn within(mut request: Request<Full<Bytes>>, seconds: u64) -> Request<Full<Bytes>> {
    request.extensions_mut().insert(RequestOptions::new().timeout(Duration::from_secs(seconds)));
    request
}

fn with_authority(mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    *request.uri_mut() = "http://shop/greeter.v1.Greeter/SayHello".parse().unwrap();
    request
}

async fn timed_out<S, R>(service: S, request: R, seconds: u64) -> BoxError
where
    S: Service<R, Error = BoxError>,
{
    let began = Instant::now();
    let Err(error) = service.oneshot(request).await else { panic!("served in spite of all") };
    let took = began.elapsed();
    assert!((seconds as f64..seconds as f64 + 0.01).contains(&took.as_secs_f64()), "{took:?}: {error}");
    error
}

/// Timeout and retry of the configuration reach the layers inside, and are put above theirs.
#[tokio::test(start_paused = true)]
async fn policies_of_the_route_hold_inside() {
    let mut policy = RoutePolicy::default();
    policy.timeout = Some(Duration::from_secs(1));
    policy.retry = Some(Arc::new(RetryPolicy::new(RetryOn::SERVER_ERROR).with_num_retries(2)));
    let mut slow = RouteMatch::default();
    slow.path = Some(PathMatch::Exact("/slow".into()));
    let mut plain = RouteMatch::default();
    plain.path = Some(PathMatch::Exact("/plain".into()));
    let routes = [
        to("v1").with_match(plain),
        Route::new(Forward::to(id("v1")).with_policy(policy.clone())).with_match(slow).with_name("slow"),
        Route::new(Forward::to(id("v1")).with_policy(policy)),
    ];
    let world = World::new(100, |_, parts| match parts.uri.path() {
        "/slow" => Answer::silence(),
        _ => Answer::status(503),
    });
    let mock = world.mock();
    let maker = service_fn(move |_: Arc<Backend>| {
        let layers =
            ServiceBuilder::new().layer(DeadlineLayer::new(Duration::from_secs(60))).layer(RetryLayer::from_route());
        ready(Ok::<_, BoxError>(layers.service(mock.clone())))
    });
    let layer = RouteLayer::new(&config(routes, &["v1"])).unwrap();
    let service = layer.layer(maker.clone());

    let response = service.clone().oneshot(get("http://shop/")).await.unwrap();
    assert_eq!((response.status().as_u16(), world.calls()), (503, 3), "two retries");
    let error = service.clone().oneshot(get("http://shop/slow")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "no response from backend v1 of service shop within 1s: the time was up before its head"
    );
    let routed = world.seen()[3].0.extensions.get::<Routed>().cloned().expect("where it went");
    let place = (routed.service(), routed.route(), routed.backend(), routed.policy().timeout);
    assert_eq!(place, ("shop", Some("slow"), &id("v1"), Some(Duration::from_secs(1))));

    // A route without policies leaves no trace, unless asked.
    let response = service.oneshot(post("http://shop/plain", "")).await.unwrap();
    assert_eq!((response.status().as_u16(), world.calls()), (503, 5), "no retry");
    assert!(world.seen()[4].0.extensions.is_empty());
    layer.announced().layer(maker).oneshot(post("http://shop/plain", "")).await.unwrap();
    assert!(world.seen()[5].0.extensions.get::<Routed>().is_some());
}

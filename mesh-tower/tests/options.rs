//! What a caller asks for one request, and what an application puts in place of ours.

#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]

mod http_support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Method, Request, Response};
use http_support::{Answer, greeter, grpc, in_memory, serve, text};
use mesh_tower::core::balance::{Balance, Candidates, PickRequest};
use mesh_tower::core::classify::Attempt;
use mesh_tower::core::model::{
    Backend, BackendId, Config, Endpoint, Forward, HashPolicy, HashSource, HostPattern, LoadBalancer, Route,
    VirtualHost,
};
use mesh_tower::core::resilience::retry::{Attempted, RetryClassifier, Verdict};
use mesh_tower::observe::Outcome;
use mesh_tower::testing::{Events, Seen, TestBackend, TestMesh, empty, full};
use mesh_tower::{Connect, ErrorKind, Mesh, RequestOptions};
use tower::ServiceExt;

fn with(options: RequestOptions) -> Request<String> {
    let mut request = Request::get("http://greeter/").body(String::new()).unwrap();
    request.extensions_mut().insert(options);
    request
}

#[tokio::test]
async fn the_shortest_of_all_timeouts_holds() {
    let server = serve(|_| std::future::pending::<Answer>());
    let short = Duration::from_millis(20);
    let by_route = greeter(&[server.address()]).route("timeout: 20ms").mesh().await;
    let by_caller = greeter(&[server.address()]).route("timeout: 1h").mesh().await;
    let long = RequestOptions::new().timeout(Duration::from_secs(3600));
    let mut told = grpc("http://greeter/a.B/C").header("grpc-timeout", "20m").body(empty()).unwrap();
    told.extensions_mut().insert(long);
    let mut untold = grpc("http://greeter/a.B/C").header("grpc-timeout", "1H").body(empty()).unwrap();
    untold.extensions_mut().insert(RequestOptions::new().timeout(short));

    for (mesh, request) in [
        (&by_route, with(long).map(full)),
        (&by_caller, with(RequestOptions::new().timeout(short)).map(full)),
        (&by_caller, told),
        (&by_caller, untold),
    ] {
        let error = mesh.http_client().oneshot(request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
        assert!(error.to_string().contains("within 20ms"), "{error}");
    }
    by_route.end().await;
    by_caller.end().await;
}

#[tokio::test]
async fn a_deadline_that_has_passed_sends_nothing_even_over_a_connection_that_is_there() {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    let server = serve(move |_| {
        seen.fetch_add(1, Ordering::SeqCst);
        async { Ok(Response::new(full("hello"))) }
    });
    let mesh = greeter(&[server.address()]).mesh().await;
    mesh.http_client().oneshot(with(RequestOptions::new())).await.unwrap().into_body().string().await.unwrap();

    for _ in 0..20 {
        let late = with(RequestOptions::new().timeout(Duration::ZERO));
        let error = mesh.http_client().oneshot(late).await.unwrap_err();
        assert_eq!((error.kind(), error.attempts()), (ErrorKind::DeadlineExceeded, 0));
    }
    assert_eq!(count.load(Ordering::SeqCst), 1);
    mesh.end().await;
}

#[tokio::test]
async fn a_caller_may_do_without_retries() {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    let server = serve(move |_| {
        seen.fetch_add(1, Ordering::SeqCst);
        async { Ok(Response::builder().status(503).body(empty()).unwrap()) }
    });
    let mesh = greeter(&[server.address()]).route("retry: { num_retries: 2, on: [5xx] }").mesh().await;
    mesh.http_client().oneshot(with(RequestOptions::new().no_retry())).await.unwrap();
    assert_eq!(count.swap(0, Ordering::SeqCst), 1);
    mesh.http_client().oneshot(with(RequestOptions::new())).await.unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 3);
    mesh.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_ready_outlives_the_failures_of_its_endpoint() {
    let (network, _server) = in_memory(|_| async { Ok(Response::new(full("hello"))) });
    let left = Arc::new(AtomicUsize::new(3));
    let failures = Arc::clone(&left);
    let connector = move |address: &_| {
        let connecting = Connect::connect(&network, address);
        let fails = failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        async move { if fails { Err(std::io::ErrorKind::ConnectionRefused.into()) } else { connecting.await } }
    };
    let yaml = greeter(&[http_support::nowhere()]).yaml();
    let mesh: TestMesh = Mesh::builder().text(yaml).connector(connector).build().await.unwrap().into();
    let error = mesh.http_client().oneshot(with(RequestOptions::new())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoHealthyEndpoint);
    let patient = RequestOptions::new().wait_for_ready().timeout(Duration::from_secs(600));
    assert_eq!(text(mesh.http_client().oneshot(with(patient)).await.unwrap()).await, "hello");
    assert_eq!(left.load(Ordering::SeqCst), 0);
    mesh.end().await;
}

#[tokio::test(start_paused = true)]
async fn patience_has_an_end_and_the_error_says_what_was_waited_for() {
    let refused = |_: &_| async { Err(std::io::ErrorKind::ConnectionRefused.into()) };
    let yaml = greeter(&[http_support::nowhere()]).yaml();
    let mesh: TestMesh = Mesh::builder().text(yaml).connector(refused).build().await.unwrap().into();
    let began = tokio::time::Instant::now();
    let error = mesh.http_client().oneshot(with(RequestOptions::new().wait_for_ready())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoHealthyEndpoint, "{error}");
    assert_eq!(began.elapsed().as_secs(), 30);
    mesh.end().await;
}

/// The endpoint that the request's hash falls on.
struct Modulo;

impl Balance for Modulo {
    fn pick(&self, endpoints: &dyn Candidates, request: &PickRequest, _: &mut dyn rand::Rng) -> Option<usize> {
        let index = request.hash? % u64::try_from(endpoints.len()).ok()?;
        usize::try_from(index).ok()
    }
}

fn balanced(addresses: &[SocketAddr], hash: Vec<HashPolicy>, policy: &str) -> Config {
    let id = BackendId::new("greeter", "v1");
    let mut backend = Backend::new(id.clone(), addresses.iter().copied().map(Endpoint::new).collect());
    backend.load_balancer = LoadBalancer::Custom(policy.into());
    let mut forward = Forward::to(id);
    forward.policy.hash = hash.into();
    let host = VirtualHost::new("greeter", vec![HostPattern::Exact("greeter".into())]);
    Config::new().with_virtual_host(host.with_route(Route::new(forward))).with_backend(backend)
}

#[tokio::test]
async fn a_balancer_of_the_application_goes_by_the_hash_of_the_request() {
    let servers = [TestBackend::named("0").start(), TestBackend::named("1").start(), TestBackend::named("2").start()];
    let addresses = servers.each_ref().map(|server| server.address());
    let user = HashPolicy::new(HashSource::Header { name: "x-user".parse().unwrap(), rewrite: None });
    let make = |_: &Backend| Arc::new(Modulo) as Arc<dyn Balance>;
    let builder = Mesh::builder().config(balanced(&addresses, vec![user], "modulo")).load_balancer("modulo", make);
    let mesh: TestMesh = builder.build().await.unwrap().into();
    let client = mesh.http_client();
    let mut hit = std::collections::HashSet::new();
    for key in ["ada", "bob", "cyd", "dan", "eve", "fay", "gus", "hal"] {
        let mut said = Vec::new();
        for _ in 0..3 {
            // The route's hash policy and the caller's own key come to the same.
            let by_header = Request::get("http://greeter/").header("x-user", key).body(String::new()).unwrap();
            for request in [by_header, with(RequestOptions::new().hash_key(key))] {
                said.push(text(client.clone().oneshot(request).await.unwrap()).await);
            }
        }
        assert!(said.iter().all(|word| *word == said[0]), "{key}: {said:?}");
        hit.insert(said[0].clone());
    }
    assert!(hit.len() > 1, "{hit:?}");
    mesh.end().await;
}

#[tokio::test]
async fn a_balancer_that_is_not_registered_is_refused_by_name() {
    let builder = Mesh::builder().config(balanced(&[http_support::nowhere()], Vec::new(), "modulo"));
    let error = builder.build().await.unwrap_err();
    let text = "services.greeter.backends.v1: the load balancer \"modulo\" is not registered; none is";
    assert_eq!(error.to_string(), text);
}

/// Retries what says `again` in a header, and only that.
struct Again;

impl RetryClassifier for Again {
    fn classify(&self, attempted: &Attempted<'_>) -> Verdict {
        assert_eq!((attempted.service, attempted.method, attempted.path), ("greeter", &Method::GET, "/"));
        match attempted.attempt {
            Attempt::Response { headers, .. } if headers.contains_key("again") => Verdict::Retry,
            _ => Verdict::Return,
        }
    }
}

#[tokio::test]
async fn a_classifier_of_the_application_has_the_last_word_on_retries() {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    let server = serve(move |_| {
        let response = match seen.fetch_add(1, Ordering::SeqCst) {
            0 => Response::builder().status(200).header("again", "yes"),
            _ => Response::builder().status(503),
        };
        async { Ok(response.body(empty()).unwrap()) }
    });
    let yaml = greeter(&[server.address()]).route("retry: { num_retries: 5, on: [5xx] }").yaml();
    let mesh: TestMesh = Mesh::builder().text(yaml).retry_classifier(Again).build().await.unwrap().into();
    let response = mesh.http_client().get("http://greeter/").await.unwrap();
    assert_eq!((response.status().as_u16(), count.load(Ordering::SeqCst)), (503, 2));
    mesh.end().await;
}

#[tokio::test(start_paused = true)]
async fn patience_ends_with_the_deadline_and_says_so() {
    let refused = |_: &_| async { Err(std::io::ErrorKind::ConnectionRefused.into()) };
    let yaml = greeter(&[http_support::nowhere()]).yaml();
    let mesh = TestMesh::start(Mesh::builder().text(yaml).connector(refused)).await;
    let patient = RequestOptions::new().wait_for_ready().timeout(Duration::from_secs(2));
    let error = mesh.http_client().oneshot(with(patient)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error}");
    mesh.end().await;
}

/// Whoever looks at the status alone got what they asked for.
#[tokio::test]
async fn a_body_that_nobody_asked_for_is_no_failure() {
    let server = serve(|_| async { Ok(Response::new(full(vec![0; 1 << 20]))) });
    let events = Events::new();
    let builder = Mesh::builder().text(greeter(&[server.address()]).yaml()).observer(events.clone());
    let mesh = TestMesh::start(builder).await;
    drop(mesh.http_client().get("http://greeter/").await.unwrap());
    let mut begun = mesh.http_client().get("http://greeter/").await.unwrap().into_body();
    http_body_util::BodyExt::frame(&mut begun).await.unwrap().unwrap();
    drop(begun);
    let outcomes = events.all().into_iter().filter_map(|seen| match seen {
        Seen::Request { outcome, .. } => Some(outcome),
        _ => None,
    });
    let received = Outcome::Response { status: http::StatusCode::OK, grpc: None };
    assert_eq!(outcomes.collect::<Vec<_>>(), [received, Outcome::Cancelled]);
    mesh.end().await;
}

#[tokio::test]
async fn a_port_that_is_none_is_told_and_not_taken_for_another() {
    let yaml = "unknown_services: dns";
    let mesh = TestMesh::start(Mesh::builder().text(yaml)).await;
    let error = mesh.http_client().get("http://127.0.0.1:99999/").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert!(error.to_string().contains("it must be from 1 to 65535"), "{error}");
    mesh.end().await;
}

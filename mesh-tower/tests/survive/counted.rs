//! What counts against an endpoint, and what does not; and what becomes of it when the configuration changes.

use std::time::Duration;

use http::StatusCode;
use http_body_util::BodyExt;
use mesh_tower::ErrorKind;
use mesh_tower::core::grpc::Code;
use mesh_tower::core::resilience::outlier::{Cause, EjectionChange};
use mesh_tower::testing::{At, Fault, MemoryNetwork, Reason, Reply, Seen, TestBackend, grpc};

use crate::support::{Live, URI, World, get_within, is_ejected, seconds};

const FIVE: &str = "outlier_detection: { consecutive_5xx: 5, max_ejection_percent: 100, interval: 1h }";
const H2: &str = "protocol: http2";

/// What a caller does.
#[derive(Debug, Clone, Copy)]
enum Ask {
    /// A GET, whose answer is read to its end.
    Http,
    /// A gRPC call, whose answer is read to its end.
    Grpc,
    /// A GET with a deadline.
    Within(Duration),
    /// A gRPC call with a deadline.
    GrpcWithin(Duration),
    /// A GET that is given up once it has arrived.
    GiveUp,
    /// A gRPC call whose answer is dropped once its head is here.
    DropBody,
}

async fn ask(live: &Live, backend: &TestBackend, how: Ask) {
    let client = live.mesh.http_client();
    let call = || grpc::call("http://greeter/a.B/C", "");
    match how {
        Ask::Http => drop(live.get().await),
        Ask::Grpc => {
            if let Ok(response) = live.send(call()).await {
                drop(response.into_body().collect().await);
            }
        }
        Ask::Within(timeout) => {
            if let Ok(response) = live.send(get_within(timeout)).await {
                response.into_body().bytes().await.expect_err("the deadline passes first");
            }
        }
        Ask::GrpcWithin(timeout) => {
            let mut call = call();
            *call.extensions_mut() = get_within(timeout).extensions().clone();
            if let Ok(response) = live.send(call).await {
                response.into_body().collect().await.expect_err("the deadline passes first");
            }
        }
        Ask::GiveUp => {
            let arrives = backend.arrived(backend.request_count() + 1);
            tokio::select! {
                answer = client.get(URI) => panic!("{answer:?}"),
                _ = arrives => {}
            }
        }
        Ask::DropBody => drop(live.send(call()).await.unwrap()),
    }
}

/// One way to fail, or not to.
struct Case {
    what: &'static str,
    backend: &'static str,
    route: &'static str,
    fault: Option<Fault>,
    ask: Ask,
}

const SOON: Duration = Duration::from_millis(100);

fn case(what: &'static str, backend: &'static str, fault: impl Into<Option<Fault>>, ask: Ask) -> Case {
    Case { what, backend, route: "", fault: fault.into(), ask }
}

/// A backend that answers gRPC calls with a message and then `code`, and others with their name.
fn talkative(network: &MemoryNetwork, code: Code) -> TestBackend {
    let handler = move |request: http::Request<mesh_tower::testing::RequestBody>| async move {
        let is_grpc = request.headers().contains_key("te");
        let _ = request.into_body().collect().await;
        if is_grpc { Reply::from(grpc::answer(["message"], code, "")) } else { Reply::from("a body of some length") }
    };
    TestBackend::handling(handler).start_in(network)
}

/// OD-07, with all that counts: the fifth failure in a row ejects, at once and once.
#[tokio::test(start_paused = true)]
async fn od_07_what_counts_against_an_endpoint() {
    let reset = |at| Fault::Reset(at, Reason::INTERNAL_ERROR);
    let mut cases = vec![
        case("500 over HTTP/1.1", "", Fault::Status(StatusCode::INTERNAL_SERVER_ERROR), Ask::Http),
        case("503 over HTTP/2", H2, Fault::Status(StatusCode::SERVICE_UNAVAILABLE), Ask::Http),
        case("UNAVAILABLE without a message", "", Fault::Grpc(Code::Unavailable), Ask::Grpc),
        case("INTERNAL in the trailers of a stream", "", None, Ask::Grpc),
        case("a reset", H2, reset(At::BeforeHead), Ask::Http),
        case("a reset of a call", "", reset(At::BeforeHead), Ask::Grpc),
        case("a refusal", H2, Fault::Reset(At::BeforeHead, Reason::REFUSED_STREAM), Ask::Http),
        case("a broken connection of HTTP/1.1", "", Fault::Disconnect(At::BeforeHead), Ask::Http),
        case("a broken connection of HTTP/2", H2, Fault::Disconnect(At::BeforeHead), Ask::Http),
        case("a body that breaks off over HTTP/1.1", "", Fault::Disconnect(At::InBody(3)), Ask::Http),
        case("a body that breaks off over HTTP/2", H2, reset(At::InBody(3)), Ask::Http),
        case("a call that breaks off", "", reset(At::InBody(3)), Ask::Grpc),
        case("a deadline over HTTP/1.1", "", Fault::Stall, Ask::Within(SOON)),
        case("a deadline over HTTP/2", H2, Fault::Stall, Ask::Within(SOON)),
        case("a deadline of a call", "", Fault::Stall, Ask::GrpcWithin(SOON)),
        case("a deadline in a body", "", Fault::SlowBody { chunk: 1 }, Ask::Within(SOON)),
        case("a deadline in a stream", "", Fault::SlowBody { chunk: 1 }, Ask::GrpcWithin(SOON)),
    ];
    let mut tries = case("a per-try timeout", H2, Fault::Stall, Ask::Http);
    tries.route = "retry: { on: [cancelled], per_try_timeout: 100ms }";
    cases.push(tries);
    for Case { what, backend: fields, route, fault, ask: how } in cases {
        let network = MemoryNetwork::new();
        let backend = talkative(&network, if fault.is_none() { Code::Internal } else { Code::Ok });
        let config = crate::support::greeter([backend.address()]).backend(FIVE).backend(fields).route(route);
        let live = Live::over(&network, config.yaml()).await;
        if let Some(fault) = fault {
            backend.set(fault);
        }
        // What is refused unprocessed is sent once more, and so is what a policy with a per-try timeout gave up.
        let doubled = matches!(fault, Some(Fault::Reset(_, Reason::REFUSED_STREAM))) || !route.is_empty();
        for round in 1.. {
            assert_eq!(live.ejected(), 0, "{what}: round {round}");
            ask(&live, &backend, how).await;
            if round == if doubled { 3 } else { 5 } {
                break;
            }
        }
        let ejections = live.ejections();
        assert!(
            matches!(&*ejections, [(_, change)] if is_ejected(change, Cause::Consecutive5xx)),
            "{what}: {ejections:?}"
        );
        assert_eq!(live.metric("mesh.backend.ejections", "consecutive_5xx"), 1.0, "{what}");
        assert_eq!(live.metric("mesh.backend.ejected_endpoints", ""), 1.0, "{what}");
        let error = live.refused().await;
        assert_eq!(error.kind(), ErrorKind::NoHealthyEndpoint, "{what}");
        assert_eq!(error.attempts(), 0, "{what}: nothing is sent");
        live.end().await;
    }
}

/// What is not the endpoint's fault: however often it happens, nobody is ejected.
#[tokio::test(start_paused = true)]
async fn od_07_what_does_not_count_against_an_endpoint() {
    let cases = [
        case("404", "", Fault::Status(StatusCode::NOT_FOUND), Ask::Http),
        case("a code that is no server error", "", Fault::Grpc(Code::NotFound), Ask::Grpc),
        case("a caller that gives up", "", Fault::Stall, Ask::GiveUp),
        case("a caller that gives up over HTTP/2", H2, Fault::Stall, Ask::GiveUp),
        case("a caller that drops a stream", "", Fault::SlowBody { chunk: 1 }, Ask::DropBody),
        case("a server that leaves gracefully", H2, Fault::GoAway { processed: true }, Ask::Http),
    ];
    for Case { what, backend: fields, fault, ask: how, .. } in cases {
        let network = MemoryNetwork::new();
        let backend = talkative(&network, Code::Ok);
        let config = crate::support::greeter([backend.address()]).backend(FIVE).backend(fields);
        let live = Live::over(&network, config.yaml()).await;
        backend.set(fault.unwrap());
        for _ in 0..12 {
            ask(&live, &backend, how).await;
        }
        assert_eq!(live.ejections(), [], "{what}");
        backend.recover();
        live.get().await.unwrap();
        live.end().await;
    }
}

/// A deadline that passes while a request waits for a connection that our own limit denies it is nobody's fault; nor is
/// that limit itself, or one of requests.
#[tokio::test(start_paused = true)]
async fn od_07_our_own_limits_do_not_count_against_an_endpoint() {
    for (limits, fails) in [
        ("max_connections: 1", ErrorKind::DeadlineExceeded),
        ("max_requests: 1", ErrorKind::Overflow),
        ("max_connections: 1, max_pending_requests: 1", ErrorKind::Overflow),
    ] {
        let world = World::of(1);
        let config = world.config(FIVE).backend(&format!("circuit_breaker: {{ {limits} }}"));
        let live = world.live(config.yaml()).await;
        world.backends[0].set(Fault::Stall);
        let client = live.mesh.http_client();
        let first = tokio::spawn(client.get(URI));
        world.backends[0].arrived(1).await;
        let waits = (fails == ErrorKind::Overflow).then(|| tokio::spawn(client.get(URI)));
        tokio::task::yield_now().await;
        for _ in 0..12 {
            let error = live.send(get_within(SOON)).await.unwrap_err();
            assert_eq!((error.kind(), error.attempts()), (fails, 0), "{limits}: {error}");
        }
        assert_eq!(live.ejections(), [], "{limits}");
        world.backends[0].recover();
        first.await.unwrap().unwrap().into_body().bytes().await.unwrap();
        if let Some(waits) = waits {
            drop(waits.await.unwrap());
        }
        live.end().await;
    }
}

/// OD-07: one success begins the count anew, however often that happens.
#[tokio::test(start_paused = true)]
async fn od_07_a_success_begins_the_row_anew() {
    let world = World::of(1);
    let live = world.live(world.config(FIVE).yaml()).await;
    for _ in 0..5 {
        world.backends[0].fail_next(4, Fault::Status(StatusCode::BAD_GATEWAY));
        for _ in 0..4 {
            assert_eq!(live.get().await.unwrap().0, 502);
        }
        assert_eq!(live.name().await, "0");
    }
    assert_eq!(live.ejections(), []);
    live.end().await;
}

/// What is known of an endpoint outlives every update that keeps it, another policy included; an endpoint that leaves
/// frees its place.
#[tokio::test(start_paused = true)]
async fn ejections_are_kept_across_updates() {
    let world = World::of(3);
    let policy = "outlier_detection: { consecutive_5xx: 3, max_ejection_percent: 40, base_ejection_time: 60s }";
    let live = world.live(world.config(policy).yaml()).await;
    world.backends[0].set(Fault::Status(StatusCode::INTERNAL_SERVER_ERROR));
    while live.ejected() == 0 {
        live.get().await.unwrap();
    }
    let before = world.requests();
    for fields in ["load_balancer: random", "idle_timeout: 1h", "circuit_breaker: { max_requests: 100 }", ""] {
        live.apply(world.config(policy).backend(fields).yaml()).await;
        for _ in 0..20 {
            assert_ne!(live.name().await, "0", "after {fields:?}");
        }
    }
    assert_eq!(world.requests()[0], before[0]);
    // Once the first one has left, its place among the ejected is free.
    let rest = crate::support::greeter(world.addresses()[1..].iter().copied()).backend(policy).yaml();
    live.apply(&rest).await;
    assert_eq!(live.metric("mesh.backend.ejected_endpoints", ""), 0.0);
    world.backends[1].set(Fault::Status(StatusCode::INTERNAL_SERVER_ERROR));
    while live.ejected() == 1 {
        live.get().await.unwrap();
    }
    assert_eq!(live.metric("mesh.backend.ejected_endpoints", ""), 1.0);
    assert_eq!(live.metric("mesh.backend.ejections", ""), 2.0);
    live.end().await;
}

/// Without the policy all endpoints are back at once, and nothing is held against them if it comes again.
#[tokio::test(start_paused = true)]
async fn ejections_end_with_their_policy() {
    let world = World::of(2);
    let policy = "outlier_detection: { consecutive_5xx: 3, max_ejection_percent: 100, base_ejection_time: 60s }";
    let live = world.live(world.config(policy).yaml()).await;
    world.backends.iter().for_each(|backend| backend.set(Fault::Status(StatusCode::INTERNAL_SERVER_ERROR)));
    for _ in 0..6 {
        live.get().await.unwrap();
    }
    assert_eq!(live.ejected(), 2);
    live.refused().await;
    world.backends.iter().for_each(TestBackend::recover);
    live.apply(world.config("").yaml()).await;
    live.name().await;
    let returned = live.ejections().into_iter().filter(|(_, change)| *change == EjectionChange::Returned).count();
    assert_eq!(returned, 2, "told once each");
    assert_eq!(live.metric("mesh.backend.ejected_endpoints", ""), 0.0);
    live.apply(world.config(policy).yaml()).await;
    world.backends[0].fail_next(2, Fault::Status(StatusCode::INTERNAL_SERVER_ERROR));
    for _ in 0..4 {
        live.get().await.unwrap();
    }
    assert_eq!(live.ejected(), 2, "two failures are not three");
    live.end().await;
}

/// A request that was under way when its endpoint left ejects nobody: neither what left nor what came to its address.
#[tokio::test(start_paused = true)]
async fn an_endpoint_that_left_is_not_ejected() {
    let world = World::of(2);
    let policy = "outlier_detection: { consecutive_5xx: 1, max_ejection_percent: 100 }";
    let live = world.live(world.config(policy).yaml()).await;
    world.backends[0].set(Fault::Stall);
    let requests: Vec<_> = (0..2).map(|_| tokio::spawn(live.send(get_within(seconds(5.0))))).collect();
    world.backends[0].arrived(1).await;
    live.apply(crate::support::greeter([world.addresses()[1]]).backend(policy).yaml()).await;
    for request in requests {
        if let Ok(response) = request.await.unwrap() {
            response.into_body().bytes().await.unwrap();
        }
    }
    assert_eq!(live.ejections(), []);
    live.events.assert_none("ejections", |seen| matches!(seen, Seen::Ejection { .. }));
    live.end().await;
}

//! Limits of what may be under way: reached exactly, shared by all, refused at once, and changed without a restart.

use std::time::Duration;

use http::StatusCode;
use mesh_tower::ErrorKind;
use mesh_tower::core::resilience::limits::Limit;
use mesh_tower::testing::{Fault, TestBackend, grpc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tower::ServiceExt;

use crate::support::{Live, URI, World, assert_overflow, get_within, seconds, whole};

const BUSY: Fault = Fault::Status(StatusCode::SERVICE_UNAVAILABLE);

/// A backend whose requests end when they are told to, behind a breaker.
fn holding() -> World {
    let world = World::made(2, |number| TestBackend::named(number.to_string()).max_concurrent_streams(1000));
    world.backends.iter().for_each(|backend| backend.set(Fault::Stall));
    world
}

fn limited(world: &World, limits: &str) -> String {
    world.config("protocol: http2").backend(&format!("circuit_breaker: {{ {limits} }}")).yaml()
}

/// Requests under way, and those that a limit refused.
#[derive(Default)]
struct Calls {
    under_way: JoinSet<Result<(), mesh_tower::Error>>,
    refused: usize,
}

impl Calls {
    /// `rate` a second for `seconds`.
    async fn offer(&mut self, live: &Live, rate: u32, seconds: u32) {
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
        for _ in 0..rate * seconds {
            ticks.tick().await;
            let call = live.send(grpc::call("http://greeter/a.B/C", ""));
            self.under_way.spawn(async move { whole(call.await?).await.map(drop) });
            self.count_refused();
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.count_refused();
    }

    fn count_refused(&mut self) {
        while let Some(ended) = self.under_way.try_join_next() {
            assert_overflow(&ended.unwrap().expect_err("nobody is answered yet"));
            self.refused += 1;
        }
    }
}

/// CB-01, CB-03: a limit is reached exactly and kept, whatever is offered above it; raised and lowered by an update it
/// holds at once, without a restart, and nobody is cut off.
#[tokio::test(start_paused = true)]
async fn cb_01_the_limit_is_reached_and_kept_and_can_be_raised() {
    let world = holding();
    let live = world.live(limited(&world, "max_requests: 500")).await;
    let mut calls = Calls::default();
    calls.offer(&live, 100, 6).await;
    let arrived = || world.requests().iter().sum::<usize>();
    assert_eq!((arrived(), calls.under_way.len(), calls.refused), (500, 500, 100));
    calls.offer(&live, 100, 5).await;
    assert_eq!((arrived(), calls.refused), (500, 600), "five seconds later");
    live.apply(limited(&world, "max_requests: 800")).await;
    calls.offer(&live, 100, 5).await;
    assert_eq!((arrived(), calls.refused), (800, 800));
    live.apply(limited(&world, "max_requests: 10")).await;
    calls.offer(&live, 100, 1).await;
    assert_eq!((arrived(), calls.refused), (800, 900), "those under way stay");
    live.apply(world.config("protocol: http2").yaml()).await;
    calls.offer(&live, 100, 1).await;
    assert_eq!((arrived(), calls.refused), (900, 900), "without a limit all are let through");
    assert_eq!(live.overflows(Limit::Requests), 900);
    assert_eq!(live.metric("mesh.backend.overflows", "max_requests"), 900.0);
    world.backends.iter().for_each(TestBackend::recover);
    for ended in calls.under_way.join_all().await {
        ended.unwrap();
    }
    live.end().await;
}

/// CB-02: the limit is one for a whole mesh: its clones, clients and channels; another mesh has its own.
#[tokio::test(start_paused = true)]
async fn cb_02_the_limit_is_shared_by_all_of_a_mesh() {
    let world = holding();
    let live = world.live(limited(&world, "max_requests: 4")).await;
    let clone = (*live.mesh).clone();
    let channel = clone.service("greeter").unwrap();
    let mut under_way = JoinSet::new();
    under_way.spawn(live.mesh.http_client().get(URI));
    under_way.spawn(clone.http_client().get(URI));
    under_way.spawn(channel.clone().oneshot(get_within(seconds(3600.0))));
    under_way.spawn(clone.service("greeter").unwrap().oneshot(get_within(seconds(3600.0))));
    while world.requests().iter().sum::<usize>() < 4 {
        tokio::task::yield_now().await;
    }
    assert_overflow(&live.refused().await);
    assert_overflow(&clone.http_client().get(URI).await.unwrap_err());
    assert_overflow(&channel.oneshot(get_within(seconds(3600.0))).await.unwrap_err());
    let other = world.live(limited(&world, "max_requests: 4")).await;
    let call = other.mesh.http_client().get(URI);
    let fifth = tokio::spawn(call);
    while world.requests().iter().sum::<usize>() < 5 {
        tokio::task::yield_now().await;
    }
    world.backends.iter().for_each(TestBackend::recover);
    for ended in under_way.join_all().await {
        ended.unwrap().into_body().bytes().await.unwrap();
    }
    fifth.await.unwrap().unwrap().into_body().bytes().await.unwrap();
    live.name().await;
    drop(clone);
    live.end().await;
    other.end().await;
}

/// CB-03, RE-14: what a limit refuses is refused at once, whatever the retry policy and outlier detection say: nothing is
/// sent, nothing is retried, nobody is ejected.
#[tokio::test(start_paused = true)]
async fn cb_03_what_is_refused_is_not_retried_and_ejects_nobody() {
    let world = holding();
    let fields = "protocol: http2, circuit_breaker: { max_requests: 2 }, \
                  outlier_detection: { consecutive_5xx: 1, max_ejection_percent: 100 }";
    let retry = "retry: { on: [5xx, gateway-error, reset, connect-failure, unavailable], num_retries: 5 }";
    let live = world.live(world.config(fields).route(retry).yaml()).await;
    let mut held = JoinSet::new();
    (0..2).for_each(|_| drop(held.spawn(live.mesh.http_client().get(URI))));
    while world.requests().iter().sum::<usize>() < 2 {
        tokio::task::yield_now().await;
    }
    let began = Instant::now();
    for _ in 0..50 {
        let error = live.refused().await;
        assert_overflow(&error);
        assert_eq!(error.attempts(), 0);
        assert!(error.to_string().contains("`max_requests` of 2"), "{error}");
        let error = live.grpc().await.unwrap_err();
        assert_overflow(&error);
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!((live.overflows(Limit::Requests), live.ejections().len()), (100, 0));
    assert_eq!(world.requests().iter().sum::<usize>(), 2);
    world.backends.iter().for_each(TestBackend::recover);
    for ended in held.join_all().await {
        ended.unwrap().into_body().bytes().await.unwrap();
    }
    live.end().await;
}

/// RE-14: a retry that finds the limit reached is the end of its request, however many it might still have.
#[tokio::test(start_paused = true)]
async fn re_14_a_retry_into_a_full_backend_is_the_last_attempt() {
    let world = World::of(1);
    let fields = "protocol: http2, circuit_breaker: { max_requests: 1 }";
    let retry = "retry: { on: [5xx], num_retries: 5, backoff: { base: 1s } }";
    let live = world.live(world.config(fields).route(retry).yaml()).await;
    world.backends[0].fail_next(1, BUSY);
    let first = tokio::spawn(live.mesh.http_client().get(URI));
    world.backends[0].arrived(1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    world.backends[0].set(Fault::Stall);
    let second = tokio::spawn(live.mesh.http_client().get(URI));
    world.backends[0].arrived(2).await;
    let error = first.await.unwrap().unwrap_err();
    assert_overflow(&error);
    assert_eq!((error.attempts(), live.overflows(Limit::Requests)), (1, 1));
    world.backends[0].recover();
    second.await.unwrap().unwrap().into_body().bytes().await.unwrap();
    assert_eq!(world.requests(), [2]);
    live.end().await;
}

/// CB-06: so many may wait and no more; who waits is served.
#[tokio::test(start_paused = true)]
async fn cb_06_so_many_may_wait() {
    let world = World::of(1);
    world.backends[0].set(Fault::BlackHole);
    let fields = "connect_timeout: 60s, circuit_breaker: { max_pending_requests: 7 }";
    for protocol in ["protocol: http1", "protocol: http2"] {
        world.backends[0].set(Fault::BlackHole);
        let live = world.live(world.config(fields).backend(protocol).yaml()).await;
        let http1 = protocol.ends_with('1');
        if http1 {
            // Over HTTP/1.1 a black hole is a connection like any other: each serves one request for ever.
            live.apply(world.config(fields).backend(protocol).yaml().replace("{ max_p", "{ max_connections: 1, max_p"))
                .await;
        }
        let first = http1.then(|| tokio::spawn(live.mesh.http_client().get(URI)));
        tokio::time::sleep(Duration::from_millis(10)).await;
        let mut waiting = JoinSet::new();
        for _ in 0..7 {
            let call = live.send(get_within(seconds(30.0)));
            waiting.spawn(async move { whole(call.await?).await });
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(live.metric("mesh.backend.pending_requests", ""), 7.0, "{protocol}");
        for _ in 0..5 {
            let error = live.refused().await;
            assert_overflow(&error);
            assert!(error.to_string().contains("7 requests already wait"), "{error}");
        }
        assert_eq!(live.overflows(Limit::PendingRequests), 5, "{protocol}");
        assert_eq!(live.metric("mesh.backend.overflows", "max_pending_requests"), 5.0);
        if http1 {
            first.unwrap().abort();
            world.backends[0].recover();
            for ended in waiting.join_all().await {
                ended.unwrap();
            }
        } else {
            waiting.shutdown().await;
        }
        live.end().await;
    }
}

/// CB-06: so many connections there are and no more; that there are no more is told, and refuses nobody.
#[tokio::test(start_paused = true)]
async fn cb_06_so_many_connections_there_are() {
    for (protocol, streams) in [("http1", 200), ("http2", 1)] {
        let world = World::made(1, |_| TestBackend::named("0").max_concurrent_streams(streams));
        world.backends[0].set(Fault::Stall);
        let fields = format!("protocol: {protocol}, circuit_breaker: {{ max_connections: 3 }}");
        let live = world.live(world.config(&fields).yaml()).await;
        let mut callers = JoinSet::new();
        for _ in 0..12 {
            let call = live.mesh.http_client().get(URI);
            callers.spawn(async move { whole(call.await?).await });
        }
        world.backends[0].arrived(3).await;
        tokio::time::sleep(seconds(1.0)).await;
        assert_eq!((world.requests(), world.backends[0].connections()), (vec![3], 3), "{protocol}");
        assert_eq!(live.metric("mesh.backend.pending_requests", ""), 9.0, "{protocol}");
        assert!(live.overflows(Limit::Connections) >= 1, "{protocol}");
        assert_eq!(live.metric("mesh.backend.overflows", "max_connections"), live.overflows(Limit::Connections) as f64);
        world.backends[0].recover();
        for ended in callers.join_all().await {
            ended.unwrap();
        }
        assert_eq!(world.backends[0].connections(), 3, "{protocol}");
        live.end().await;
    }
}

/// No more retries than may be are under way; each request that is denied one is told of once.
#[tokio::test(start_paused = true)]
async fn max_retries_bounds_the_retries_under_way() {
    let world = World::of(1);
    world.backends[0].set(BUSY);
    let fields = "circuit_breaker: { max_retries: 2 }, retry_budget: { percent: 100, min_concurrent: 100 }";
    let retry = "retry: { on: [5xx], backoff: { base: 1s } }";
    let live = world.live(world.config(fields).route(retry).yaml()).await;
    let mut callers = JoinSet::new();
    for _ in 0..10 {
        callers.spawn(live.mesh.http_client().get(URI));
    }
    world.backends[0].arrived(10).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(live.metric("mesh.backend.active_retries", ""), 2.0);
    for ended in callers.join_all().await {
        assert_eq!(ended.unwrap().status(), 503);
    }
    let retried = world.requests()[0] - 10;
    assert!((2..=4).contains(&retried), "two at once, and two again after a pause: {retried}");
    assert_eq!(live.overflows(Limit::Retries), 10 - retried);
    assert_eq!(live.metric("mesh.backend.overflows", "max_retries"), (10 - retried) as f64);
    live.end().await;
}

/// Our own limit of requests does not stand in the way of the health of its backend: once requests end, others go on.
#[tokio::test(start_paused = true)]
async fn a_limit_is_free_again_when_a_request_ends() {
    let world = World::of(1);
    let live = world.live(limited(&world, "max_requests: 1")).await;
    for _ in 0..100 {
        live.name().await;
    }
    let response = live.mesh.http_client().get(URI).await.unwrap();
    assert_eq!(live.refused().await.kind(), ErrorKind::Overflow, "a body that is not read yet is under way");
    drop(response);
    live.name().await;
    live.end().await;
}

//! How an ejected endpoint comes back: by time, or by one request that shows that it is well.

use std::time::Duration;

use http::{Response, StatusCode};
use mesh_tower::core::resilience::outlier::{Cause, EjectionChange};
use mesh_tower::testing::{Fault, Reply, Seen, TestBackend, full};
use tokio::task::JoinSet;

use crate::support::{Live, URI, World, is_ejected, seconds, whole};

const PROBED: &str = "outlier_detection: { consecutive_5xx: 3, max_ejection_percent: 100, interval: 1s, \
                      base_ejection_time: 10s, recovery: probe }";
const ERROR: Fault = Fault::Status(StatusCode::INTERNAL_SERVER_ERROR);

/// The endpoint `0` of two is out, and answers well again.
async fn with_one_out(world: &World, fields: &str) -> Live {
    let live = world.live(world.config(fields).yaml()).await;
    world.backends[0].fail_next(3, ERROR);
    while live.ejected() == 0 {
        live.get().await.unwrap();
    }
    live
}

/// Resolves when the `n`-th `change` is told.
async fn told(live: &Live, n: usize, wanted: impl Fn(&EjectionChange) -> bool) {
    live.events.wait_for_nth(n, |seen| matches!(seen, Seen::Ejection { change, .. } if wanted(change))).await;
}

async fn half_open(live: &Live, n: usize) {
    told(live, n, |change| *change == EjectionChange::Probing).await;
}

/// OD-08: an endpoint that its source calls unhealthy stays out when its ejection ends.
#[tokio::test(start_paused = true)]
async fn od_08_an_unhealthy_endpoint_stays_out_after_its_ejection() {
    let world = World::of(2);
    let timed = PROBED.replace("probe", "time");
    let live = with_one_out(&world, &timed).await;
    let [sick, well] = [0, 1].map(|at| world.addresses()[at]);
    let list = |health| {
        let endpoints = format!("endpoints: [{{ address: \"{sick}\", health: {health} }}, \"{well}\"]");
        format!("services: {{ greeter: {{ backends: {{ v1: {{ {timed}, {endpoints} }} }} }} }}")
    };
    live.apply(list("unhealthy")).await;
    told(&live, 1, |change| *change == EjectionChange::Returned).await;
    for _ in 0..10 {
        assert_eq!(live.name().await, "1");
    }
    live.apply(list("healthy")).await;
    let names = [live.name().await, live.name().await, live.name().await];
    assert!(names.contains(&"0".to_owned()), "{names:?}");
    live.end().await;
}

/// OD-09: of many requests at once exactly one is sent to an endpoint that may be back. Its failure doubles the time, its
/// success ends it.
#[tokio::test(start_paused = true)]
async fn od_09_exactly_one_request_probes() {
    let world = World::of(2);
    let live = with_one_out(&world, &format!("{PROBED}, protocol: http2")).await;
    let before = world.requests()[0];
    for _ in 0..20 {
        assert_eq!(live.name().await, "1");
    }
    for round in 1..=2 {
        half_open(&live, round).await;
        world.backends[0].set(Fault::Stall);
        let mut callers = JoinSet::new();
        for _ in 0..20 {
            let call = live.mesh.http_client().get(URI);
            callers.spawn(async move { whole(call.await?).await });
        }
        world.backends[0].arrived(before + round).await;
        for _ in 0..19 {
            assert_eq!(callers.join_next().await.unwrap().unwrap().unwrap().1, "1");
        }
        assert_eq!(world.requests()[0], before + round, "one request in round {round}");
        if round == 1 {
            world.backends[0].disconnect();
            let error = callers.join_next().await.unwrap().unwrap();
            error.expect_err("the probe fails as any request does");
            let told = live.ejections();
            let (_, change) = told.last().unwrap();
            assert!(is_ejected(change, Cause::Probe), "{told:?}");
            let EjectionChange::Ejected { duration, .. } = change else { unreachable!() };
            assert!((seconds(16.0)..=seconds(24.0)).contains(duration), "{duration:?}");
        } else {
            world.backends[0].recover();
            assert_eq!(callers.join_next().await.unwrap().unwrap().unwrap().1, "0");
        }
    }
    told(&live, 1, |change| *change == EjectionChange::Returned).await;
    let names: Vec<_> = [live.name().await, live.name().await].into();
    assert!(names.contains(&"0".to_owned()), "it has its share again: {names:?}");
    assert_eq!(live.ejected(), 2);
    live.end().await;
}

/// OD-09: a probe that is given up before it has an answer is no verdict; the next request probes.
#[tokio::test(start_paused = true)]
async fn od_09_a_cancelled_probe_is_released() {
    let world = World::of(2);
    let live = with_one_out(&world, PROBED).await;
    half_open(&live, 1).await;
    world.backends[0].set(Fault::Stall);
    for _ in 0..10 {
        let arrived = world.requests()[0] + 1;
        tokio::select! {
            answer = live.get() => panic!("{answer:?}"),
            _ = world.backends[0].arrived(arrived) => {}
        }
    }
    assert_eq!(live.ejected(), 1);
    world.backends[0].recover();
    assert_eq!(live.name().await, "0");
    told(&live, 1, |change| *change == EjectionChange::Returned).await;
    live.end().await;
}

/// OD-09: the only endpoint, whose connection went while it was out, comes back all the same.
#[tokio::test(start_paused = true)]
async fn od_09_an_endpoint_without_a_connection_is_probed() {
    for idle in ["30m", "2s"] {
        let world = World::of(1);
        let live = with_one_out(&world, &format!("{PROBED}, protocol: http2, idle_timeout: {idle}")).await;
        live.refused().await;
        half_open(&live, 1).await;
        assert_eq!(live.name().await, "0", "{idle}");
        told(&live, 1, |change| *change == EjectionChange::Returned).await;
        live.end().await;
    }
}

/// OD-09: one among others, which serve meanwhile.
#[tokio::test(start_paused = true)]
async fn od_09_an_endpoint_without_a_connection_is_probed_beside_others() {
    for balancer in ["round_robin", "least_request", "ring_hash", "maglev"] {
        let world = World::of(2);
        let fields = format!("{PROBED}, protocol: http2, idle_timeout: 2s, load_balancer: {balancer}");
        let live = with_one_out(&world, &fields).await;
        half_open(&live, 1).await;
        for _ in 0..100 {
            live.name().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let back = live.ejections().iter().any(|(_, change)| *change == EjectionChange::Returned);
        assert!(back, "{balancer}");
        live.end().await;
    }
}

/// OD-09: an endpoint that is to be probed and has no room for the probe holds nobody up.
#[tokio::test(start_paused = true)]
async fn od_09_a_probe_that_finds_no_room_goes_elsewhere() {
    let world = World::made(2, |number| {
        let answering = move |_| async move {
            let mut response = Response::new(full(number.to_string()));
            if number == 0 {
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                return Reply::from(response).with_fault(Fault::SlowBody { chunk: 1 });
            }
            Reply::from(response)
        };
        TestBackend::handling(answering).max_concurrent_streams(1)
    });
    let policy = PROBED.replace("consecutive_5xx: 3", "consecutive_5xx: 1");
    let limit = "protocol: http2, circuit_breaker: { max_connections: 1 }";
    let live = world.live(world.config(&policy).backend(limit).yaml()).await;
    let held = loop {
        let response = live.mesh.http_client().get(URI).await.unwrap();
        if response.status() == 500 {
            break response;
        }
        response.into_body().bytes().await.unwrap();
    };
    half_open(&live, 1).await;
    for _ in 0..5 {
        assert_eq!(tokio::time::timeout(seconds(1.0), live.name()).await.expect("nobody waits for the probe"), "1");
    }
    world.backends[0].release();
    drop(held);
    live.end().await;
}

/// Recovery by time: each ejection lasts longer than the one before, and is over with the first sweep after it.
#[tokio::test(start_paused = true)]
async fn od_05_ejections_grow_and_end() {
    let world = World::of(2);
    let live = with_one_out(&world, &PROBED.replace("probe", "time")).await;
    for n in 1..=3_u32 {
        let began = tokio::time::Instant::now();
        told(&live, n as usize, |change| *change == EjectionChange::Returned).await;
        let lasted = began.elapsed();
        assert!((seconds(10.0) * n..=seconds(11.5) * n).contains(&lasted), "ejection {n}: {lasted:?}");
        world.backends[0].fail_next(3, ERROR);
        while live.ejected() == n as usize {
            live.get().await.unwrap();
        }
    }
    live.end().await;
}

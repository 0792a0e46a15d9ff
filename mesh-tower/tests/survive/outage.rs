//! One endpoint of three is down, one way or another; all are; and the load that remains.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;
use mesh_tower::ErrorKind;
use mesh_tower::core::resilience::outlier::EjectionChange;
use mesh_tower::testing::{Fault, MemoryNetwork, Seen, TestBackend};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::{Live, URI, World, get_within, greeter, seconds};

const BUSY: Fault = Fault::Status(StatusCode::SERVICE_UNAVAILABLE);

/// Sends `rate` requests a second for `span`, whatever becomes of them; each gives up after `patience` seconds. Says of each when it
/// was sent and whether it succeeded.
async fn load(live: &Live, rate: u32, span: f64, patience: f64) -> Vec<(Instant, bool)> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
    let mut requests = JoinSet::new();
    for _ in 0..(f64::from(rate) * span) as u32 {
        ticks.tick().await;
        let (call, sent) = (live.send(get_within(seconds(patience))), Instant::now());
        requests.spawn(async move {
            let Ok(response) = call.await else { return (sent, false) };
            let well = response.status().is_success();
            (sent, response.into_body().bytes().await.is_ok() && well)
        });
    }
    let mut ended = requests.join_all().await;
    ended.sort_unstable();
    ended
}

/// OD-10: one of three endpoints is down. From the first ejection on at least 99 % of the requests of any minute succeed,
/// without a single retry.
#[tokio::test(start_paused = true)]
async fn od_10_one_of_three_endpoints_is_down() {
    for (fault, fields) in
        [(BUSY, "protocol: http1"), (Fault::Stall, "protocol: http2"), (Fault::Refused, "protocol: http2")]
    {
        let world = World::of(3);
        let policy = "outlier_detection: { max_ejection_percent: 34 }";
        let live = world.live(world.config(policy).backend(fields).yaml()).await;
        live.name().await;
        world.backends[0].set(fault);
        let (ended, first) = {
            let first = async {
                if fault != Fault::Refused {
                    live.events.wait_for(|seen| matches!(seen, Seen::Ejection { .. })).await;
                }
                Instant::now()
            };
            tokio::join!(load(&live, 50, 100.0, 1.0), first)
        };
        let since: Vec<_> = ended.into_iter().filter(|(sent, _)| *sent > first).collect();
        assert!(since.len() > 4_500, "{fault:?}: {}", since.len());
        for minute in since.windows(3000).step_by(100) {
            let failed = minute.iter().filter(|(_, well)| !well).count();
            assert!(failed <= 30, "{fault:?} {fields}: {failed} of 3000 failed");
        }
        if fault != Fault::Refused {
            assert!(live.ejected() > 1, "it came back in between, to show whether it is well");
        }
        assert_eq!(live.metric("mesh.backend.ejections", ""), live.ejected() as f64);
        live.end().await;
    }
}

/// OD-10: where all endpoints are equally bad none of them is an outlier, and no more are ejected than may be.
#[tokio::test(start_paused = true)]
async fn od_10_where_all_are_bad_few_are_ejected() {
    let counting = |share: usize| {
        World::made(5, |_| {
            let served = AtomicUsize::new(0);
            TestBackend::handling(move |_| {
                let bad = served.fetch_add(1, Ordering::Relaxed) % 4 < share;
                async move { if bad { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK } }
            })
        })
    };
    let world = counting(2);
    let policy = "outlier_detection: { consecutive_5xx: none, max_ejection_percent: 100, success_rate: {} }";
    let live = world.live(world.config(policy).yaml()).await;
    load(&live, 100, 30.0, 1.0).await;
    assert_eq!(live.ejections(), [], "half of all fails everywhere");
    live.end().await;

    let world = counting(4);
    let live = world.live(world.config("outlier_detection: { max_ejection_percent: 40 }").yaml()).await;
    let watching = async {
        loop {
            tokio::time::sleep(seconds(0.5)).await;
            let out = live.metric("mesh.backend.ejected_endpoints", "");
            assert!(out <= 2.0, "{out} of 5 are out");
        }
    };
    tokio::select! {
        () = watching => {}
        _ = load(&live, 100, 30.0, 1.0) => {}
    }
    let spared = live.ejections().iter().filter(|(_, change)| matches!(change, EjectionChange::Spared { .. })).count();
    assert!(spared > 0);
    assert_eq!(live.metric("mesh.backend.ejections_unenforced", "consecutive_5xx"), spared as f64);
    live.end().await;
}

/// RE-05, RE-14: a backend that fails altogether gets at most 1.2 times what is offered and the minimum of the budget,
/// with retries, breaker and outlier detection on, whether it fails at once or takes its time.
#[tokio::test(start_paused = true)]
async fn re_05_total_failure_is_not_amplified() {
    for (pause, percent) in [(0, 0), (0, 10), (0, 100), (50, 0), (50, 100), (400, 10)] {
        let world = World::made(3, |_| {
            TestBackend::handling(move |_| async move {
                tokio::time::sleep(Duration::from_millis(pause)).await;
                StatusCode::SERVICE_UNAVAILABLE
            })
        });
        let fields = format!(
            "outlier_detection: {{ max_ejection_percent: {percent} }}, \
             circuit_breaker: {{ max_requests: 1000, max_retries: 500 }}"
        );
        let retry = "retry: { on: [5xx], num_retries: 3 }";
        let live = world.live(world.config(&fields).backend("protocol: http2").route(retry).yaml()).await;
        // Nobody gives up in the middle of a retry: its place would serve another one.
        let ended = load(&live, 500, 10.0, 60.0).await;
        assert!(ended.iter().all(|(_, well)| !well));
        let (offered, sent) = (ended.len() as f64, world.requests().iter().sum::<usize>() as f64);
        let case = format!("{percent} % may be ejected, {pause} ms: {sent} for {offered}");
        assert!(sent <= 1.2 * offered + 3.0, "{case}");
        if percent < 100 {
            assert!(sent > offered, "{case}: some are retried");
        } else {
            assert!(sent < 0.2 * offered, "{case}: most are not sent at all");
        }
        live.end().await;
    }
}

/// All endpoints are ejected: with a panic threshold requests are served all the same, without one they fail at once, and
/// say why.
#[tokio::test(start_paused = true)]
async fn lb_09_all_endpoints_are_ejected() {
    for (threshold, serves) in [(0, false), (50, true)] {
        let world = World::of(2);
        let fields = format!(
            "locality_policy: {{ panic_threshold: {threshold} }}, \
             outlier_detection: {{ consecutive_5xx: 2, max_ejection_percent: 100 }}"
        );
        let live = world.live(world.config(&fields).yaml()).await;
        world.backends.iter().for_each(|backend| backend.fail_next(2, BUSY));
        while live.ejected() < 2 {
            live.get().await.unwrap();
        }
        if serves {
            let names = [live.name().await, live.name().await];
            assert_ne!(names[0], names[1], "both serve");
            live.events.assert_count(1, "panics", |seen| matches!(seen, Seen::Priority { panic: true, .. }));
        } else {
            let error = live.refused().await;
            assert_eq!(error.kind(), ErrorKind::NoHealthyEndpoint);
            assert_eq!(error.to_string(), "no healthy endpoint in backend v1 of service greeter: 2 ejected");
            live.events.assert_none("panics", |seen| matches!(seen, Seen::Priority { panic: true, .. }));
        }
        live.end().await;
    }
}

/// LB-09: fewer endpoints are available than the panic threshold: requests go to all. gRPC has no panic: to those that are
/// available.
#[tokio::test(start_paused = true)]
async fn lb_09_few_endpoints_are_available() {
    for (threshold, expected) in [(0, 1), (50, 4)] {
        let world = World::of(4);
        let fields = format!(
            "locality_policy: {{ panic_threshold: {threshold} }}, \
             outlier_detection: {{ consecutive_5xx: 2, max_ejection_percent: 100 }}"
        );
        let live = world.live(world.config(&fields).yaml()).await;
        world.backends[1..].iter().for_each(|backend| backend.fail_next(2, BUSY));
        while live.ejected() < 3 {
            live.get().await.unwrap();
        }
        let mut names = std::collections::HashSet::new();
        for _ in 0..40 {
            names.insert(live.name().await);
        }
        assert_eq!(names.len(), expected, "threshold {threshold}: {names:?}");
        live.end().await;
    }
}

/// What an error says of each endpoint, and that a request does not fail while one of them is still being connected.
#[tokio::test(start_paused = true)]
async fn errors_say_what_the_endpoints_are_at() {
    let world = World::of(3);
    let fields = "outlier_detection: { consecutive_5xx: 2, max_ejection_percent: 100 }, protocol: http2, \
                  connect_timeout: 20s";
    world.backends[2].set(Fault::BlackHole);
    let live = world.live(world.config(fields).yaml()).await;
    world.backends[..2].iter().for_each(|backend| backend.fail_next(2, BUSY));
    while live.ejected() < 2 {
        live.get().await.unwrap();
    }
    let error = live.send(get_within(seconds(2.0))).await.unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::DeadlineExceeded, 0));
    assert!(error.to_string().contains("2 ejected, 1 connecting"), "{error}");
    // Once it has failed there is nothing to wait for.
    let error = live.refused().await;
    assert_eq!(error.kind(), ErrorKind::NoHealthyEndpoint);
    let text = error.to_string();
    assert!(
        text.starts_with("no healthy endpoint in backend v1 of service greeter: 1 failing, 2 ejected; last"),
        "{text}"
    );
    live.end().await;
}

/// Where nobody ever listened, many requests at once all fail with the reason, and cost a handful of connection attempts.
#[tokio::test(start_paused = true)]
async fn a_backend_that_was_never_there() {
    let network = MemoryNetwork::new();
    let addresses = [network.unused_address(), network.unused_address()];
    let live = Arc::new(Live::over(&network, greeter(addresses).yaml()).await);
    let mut callers = JoinSet::new();
    for _ in 0..500 {
        let live = Arc::clone(&live);
        callers.spawn(async move { live.mesh.http_client().get(URI).await.unwrap_err().kind() });
    }
    assert!(callers.join_all().await.iter().all(|kind| *kind == ErrorKind::NoHealthyEndpoint));
    assert!(network.connects() <= 20, "{}", network.connects());
    Arc::into_inner(live).unwrap().end().await;
}

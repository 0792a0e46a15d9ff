//! Endpoints that come and go, many of them, and configurations that change all the time.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use mesh_tower::core::balance::State;
use mesh_tower::core::grpc::Code;
use mesh_tower::testing::{Fault, MemoryNetwork, Reply, TestBackend, grpc};
use mesh_tower::{ErrorKind, Mesh, RequestOptions};
use tokio::task::JoinSet;

use crate::support::{Live, URI, World, get_with, greeter, seconds};

/// LB-10: an endpoint leaves while 20 streams run on it: they go on to their ends, nothing new goes there, and its
/// connection closes behind the last one.
#[tokio::test(start_paused = true)]
async fn lb_10_streams_outlive_their_endpoint() {
    let world = World::of(2);
    let fields = "protocol: http2";
    let live = world.live(greeter(world.addresses()[..1].iter().copied()).backend(fields).yaml()).await;
    world.backends[0].set(Fault::SlowBody { chunk: 1 });
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(live.mesh.http_client().get(URI).await.unwrap());
    }
    live.apply(greeter(world.addresses()[1..].iter().copied()).backend(fields).yaml()).await;
    for _ in 0..20 {
        assert_eq!(live.name().await, "1");
    }
    assert_eq!((world.requests()[0], world.backends[0].open_connections()), (20, 1));
    let last = streams.pop().unwrap();
    world.backends[0].release();
    for stream in streams {
        assert_eq!(stream.into_body().string().await.unwrap(), "0");
    }
    assert_eq!(world.backends[0].open_connections(), 1, "one stream is not read yet");
    assert_eq!(last.into_body().string().await.unwrap(), "0");
    world.backends[0].deserted().await;
    live.end().await;
}

/// LB-11: a thousand updates, each with other endpoints, while at least a thousand requests are sent: none fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lb_11_an_update_storm_fails_nobody() {
    for protocol in ["http1", "http2"] {
        let world = World::of(4);
        let policy = "outlier_detection: {}, circuit_breaker: { max_requests: 1000 }, locality_policy: {}";
        let fields = format!("protocol: {protocol}, {policy}");
        let live = Arc::new(world.live(world.config(&fields).yaml()).await);
        let (ended, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut callers = JoinSet::new();
        for _ in 0..4 {
            let (live, ended, sent) = (Arc::clone(&live), Arc::clone(&ended), Arc::clone(&sent));
            callers.spawn(async move {
                while !ended.load(Ordering::Relaxed) || sent.load(Ordering::Relaxed) < 1000 {
                    live.name().await;
                    sent.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                }
            });
        }
        let addresses = world.addresses();
        for n in 0..1000_usize {
            let these =
                (0..4).filter(|at| at % 4 != n % 4 && (n % 3 != 0 || *at != (n + 1) % 4)).map(|at| addresses[at]);
            let balancer = ["round_robin", "least_request", "random", "peak_ewma"][n / 7 % 4];
            live.apply(greeter(these).backend(&fields).backend(&format!("load_balancer: {balancer}")).yaml()).await;
        }
        ended.store(true, Ordering::Relaxed);
        callers.join_all().await;
        assert!(sent.load(Ordering::Relaxed) >= 1000);
        assert_eq!(live.mesh.config_status().borrow().version, 1001);
        Arc::into_inner(live).unwrap().end().await;
    }
}

/// A route takes only the endpoints whose metadata holds all of its subset; one that holds none is an error of its own.
#[tokio::test(start_paused = true)]
async fn a_subset_is_all_that_a_route_takes() {
    let world = World::of(4);
    let labelled =
        |at: usize, labels: &str| format!("{{ address: \"{}\", metadata: {labels} }}", world.addresses()[at]);
    let config = |subset: &str| {
        let endpoints = [
            labelled(0, "{ stage: prod, version: v1 }"),
            labelled(1, "{ stage: prod, version: v2 }"),
            labelled(2, "{ stage: canary, version: v2 }"),
            labelled(3, "{}"),
        ];
        format!(
            "services: {{ greeter: {{ routes: [{{ backends: [{{ name: v1, subset: {subset} }}] }}], backends: {{ v1: {{ \
             outlier_detection: {{ consecutive_5xx: 1, max_ejection_percent: 100 }}, endpoints: [{}] }} }} }} }}",
            endpoints.join(", ")
        )
    };
    let live = world.live(config("{ stage: prod }")).await;
    for (subset, expected) in [
        ("{ stage: prod }", vec!["0", "1"]),
        ("{ version: v2 }", vec!["1", "2"]),
        ("{ stage: prod, version: v2 }", vec!["1"]),
        ("{ stage: canary }", vec!["2"]),
        ("{}", vec!["0", "1", "2", "3"]),
    ] {
        live.apply(config(subset)).await;
        let mut names = HashSet::new();
        for _ in 0..20 {
            names.insert(live.name().await);
        }
        assert_eq!(names, expected.into_iter().map(str::to_owned).collect(), "{subset}");
    }
    live.apply(config("{ stage: none }")).await;
    assert_eq!(live.refused().await.kind(), ErrorKind::NoEndpoint);
    // An endpoint is ejected for all subsets that it is in.
    live.apply(config("{ stage: canary }")).await;
    world.backends[2].fail_next(1, Fault::Status(http::StatusCode::BAD_GATEWAY));
    live.get().await.unwrap();
    assert_eq!(live.refused().await.kind(), ErrorKind::NoHealthyEndpoint);
    live.apply(config("{ version: v2 }")).await;
    for _ in 0..4 {
        assert_eq!(live.name().await, "1");
    }
    live.end().await;
}

/// An endpoint that is new begins with a small share and comes up to its full one.
#[tokio::test(start_paused = true)]
async fn slow_start_grows_to_a_full_share() {
    let world = World::of(2);
    for balancer in ["round_robin", "random"] {
        let fields = format!("protocol: http2, slow_start: {{ window: 60s }}, load_balancer: {balancer}");
        let live = world.live(greeter(world.addresses()[..1].iter().copied()).backend(&fields).yaml()).await;
        live.name().await;
        tokio::time::sleep(seconds(61.0)).await;
        let events = live.events.from_now();
        live.apply(world.config(&fields).yaml()).await;
        events.wait_for_state(world.addresses()[1], State::Ready).await;
        for (pause, weight) in [(0.1, 0.1), (30.0, 0.5), (31.0, 1.0)] {
            tokio::time::sleep(seconds(pause)).await;
            let mut newcomers = 0.0;
            for _ in 0..2500 {
                newcomers += f64::from(u8::from(live.name().await == "1"));
            }
            let share: f64 = weight / (1.0 + weight);
            let sigma = (2500.0 * share * (1.0 - share)).sqrt();
            // The share grows with the clock of the test, which stands still meanwhile.
            let off = (newcomers - 2500.0 * share).abs();
            assert!(off <= 5.0 * sigma, "{balancer}: {newcomers} of 2500 where {share} is due");
        }
        live.end().await;
    }
}

/// Of 300 endpoints only those are connected that are picked, and a few ahead; by hash, the one that a key belongs to.
#[tokio::test(start_paused = true)]
async fn a_large_backend_connects_what_it_picks() {
    let world = World::of(300);
    let connected = || world.backends.iter().map(TestBackend::connections).sum::<usize>();
    let live = world.live(world.config("protocol: http2").yaml()).await;
    assert_eq!((connected(), world.network.connects()), (0, 0), "nobody asked yet");
    live.name().await;
    assert!(connected() <= 17, "{}", connected());
    for _ in 0..10 {
        live.name().await;
    }
    assert!(connected() <= 17 + 11, "{}", connected());
    live.end().await;

    let world = World::of(300);
    let connected = || world.backends.iter().map(TestBackend::connections).sum::<usize>();
    let live = world.live(world.config("protocol: http2, load_balancer: ring_hash").yaml()).await;
    let mut names = HashSet::new();
    for _ in 0..20 {
        let response = live.send(get_with(RequestOptions::new().hash_key("alice"))).await.unwrap();
        names.insert(response.into_body().string().await.unwrap());
    }
    assert_eq!((names.len(), connected()), (1, 1), "its own endpoint, and no other");
    live.end().await;

    let world = World::of(3);
    let live = world.live(world.config("protocol: http2").yaml()).await;
    live.name().await;
    for backend in &world.backends {
        backend.connected(1).await;
    }
    live.end().await;
}

/// A rolling restart, over sockets: one after the other of three endpoints leaves, gracefully or by refusing what it had
/// not begun, is down for a while and comes back. A request every few milliseconds, over both versions and gRPC: none is
/// lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_loses_nothing() {
    let backends = ["a", "b", "c"].map(|name| {
        TestBackend::handling(move |request| {
            let is_grpc = request.headers().contains_key("te");
            async move { if is_grpc { grpc::answer([name], Code::Ok, "").into() } else { Reply::from(name) } }
        })
        .start()
    });
    for protocol in ["http1", "http2"] {
        let fields =
            format!("protocol: {protocol}, connect_backoff: {{ base: 20ms, max: 100ms }}, outlier_detection: {{}}");
        let retry = "retry: { on: [reset, connect-failure, refused-stream, unavailable], num_retries: 5 }";
        let config = greeter(backends.iter().map(TestBackend::address)).backend(&fields).route(retry);
        let live = Arc::new(Live::built(Mesh::builder(), config.yaml()).await);
        let ended = Arc::new(AtomicBool::new(false));
        let mut callers = JoinSet::new();
        for caller in 0..4 {
            let (live, ended, is_grpc) =
                (Arc::clone(&live), Arc::clone(&ended), caller % 2 == 0 && protocol == "http2");
            callers.spawn(async move {
                let mut ticks = tokio::time::interval(Duration::from_millis(5));
                while !ended.load(Ordering::Relaxed) {
                    ticks.tick().await;
                    if is_grpc {
                        assert_eq!(live.grpc().await.unwrap(), Code::Ok);
                    } else {
                        live.name().await;
                    }
                }
            });
        }
        for backend in &backends {
            for leaves in [Fault::GoAway { processed: true }, Fault::GoAway { processed: false }] {
                let seen = backend.request_count();
                backend.arrived(seen + 3).await;
                backend.set(leaves);
                backend.arrived(backend.request_count() + 1).await;
                let down = live.events.from_now();
                backend.set(Fault::Refused);
                down.wait_for_state(backend.address(), State::Failing).await;
                backend.recover();
                down.wait_for_state(backend.address(), State::Ready).await;
            }
        }
        ended.store(true, Ordering::Relaxed);
        callers.join_all().await;
        Arc::into_inner(live).unwrap().end().await;
    }
}

/// Endpoints that nobody can reach are no reason to forget those that can be: the network heals, and all serve again.
#[tokio::test(start_paused = true)]
async fn a_partition_heals() {
    let network = MemoryNetwork::new();
    let backends: Vec<_> = (0..5).map(|n: usize| TestBackend::named(n.to_string()).start_in(&network)).collect();
    let config = greeter(backends.iter().map(TestBackend::address)).backend("protocol: http2, outlier_detection: {}");
    let live = Live::over(&network, config.yaml()).await;
    for round in 0..3 {
        let back = live.events.from_now();
        backends.iter().for_each(|backend| backend.set(Fault::Refused));
        while live.get().await.is_ok() {}
        tokio::time::sleep(seconds(5.0)).await;
        backends.iter().for_each(TestBackend::recover);
        for backend in &backends {
            back.wait_for_state(backend.address(), State::Ready).await;
        }
        let mut names = HashSet::new();
        for _ in 0..20 {
            names.insert(live.name().await);
        }
        assert_eq!(names.len(), 5, "round {round}");
    }
    live.end().await;
}

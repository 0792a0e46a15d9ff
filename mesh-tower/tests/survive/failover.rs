//! Localities, their weights and priorities, and a zone that goes dark.

use std::collections::HashSet;

use mesh_tower::core::balance::State;
use mesh_tower::testing::{Fault, MemoryNetwork, Seen, TestBackend};
use mesh_tower::{ErrorKind, Mesh};

use crate::support::{Live, World, seconds};

/// The service `greeter` whose endpoints are in these localities: what is said of each, and its backends.
fn in_localities(fields: &str, localities: &[(&str, &[TestBackend])], top: &str) -> String {
    let locality = |(of, backends): &(&str, &[TestBackend])| {
        let addresses: Vec<_> = backends.iter().map(|backend| format!("\"{}\"", backend.address())).collect();
        format!("{{ {of}, endpoints: [{}] }}", addresses.join(", "))
    };
    let localities: Vec<_> = localities.iter().map(locality).collect();
    format!(
        "{{ {top} services: {{ greeter: {{ backends: {{ v1: {{ {fields} localities: [{}] }} }} }} }} }}",
        localities.join(", ")
    )
}

fn priority_is(wanted: u32) -> impl Fn(&Seen) -> bool {
    move |seen| matches!(seen, Seen::Priority { priority: Some(priority), .. } if *priority == wanted)
}

/// LB-03, over sockets: the hosts of priority 0 refuse: from the failure of the last connection on priority 1 serves, at
/// once and without an error; once a host is back its priority serves again, and the connections to priority 1 are kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lb_03_failover_and_return() {
    for protocol in ["http1", "http2"] {
        let first = ["a", "b"].map(|name| TestBackend::named(name).start());
        let second = [TestBackend::named("c").start()];
        let fields = format!("protocol: {protocol}, connect_backoff: {{ base: 50ms, max: 100ms }},");
        let retry = "defaults: { retry: { on: [reset, connect-failure], num_retries: 5 } },";
        let yaml = in_localities(&fields, &[("region: near", &first), ("region: far, priority: 1", &second)], retry);
        let live = Live::built(Mesh::builder(), yaml).await;
        for _ in 0..4 {
            assert_ne!(live.name().await, "c");
        }
        assert_eq!(second[0].connections(), 0, "nobody needs priority 1");
        first.iter().for_each(|backend| backend.set(Fault::Refused));
        while live.name().await != "c" {}
        for _ in 0..20 {
            assert_eq!(live.name().await, "c", "{protocol}");
        }
        live.events.wait_for(priority_is(1)).await;
        let kept = second[0].connections();
        let back = live.events.from_now();
        first.iter().for_each(TestBackend::recover);
        for backend in &first {
            back.wait_for_state(backend.address(), State::Ready).await;
        }
        for _ in 0..20 {
            assert_ne!(live.name().await, "c", "{protocol}");
        }
        live.events.assert_count(1, "moves to priority 1", priority_is(1));
        live.events.assert_count(1, "moves to priority 0", priority_is(0));
        assert_eq!((second[0].connections(), second[0].open_connections()), (kept, kept), "{protocol}: they are kept");
        live.end().await;
    }
}

/// LB-03: a priority that takes its time to connect is waited for no longer than `failover_timeout`.
#[tokio::test(start_paused = true)]
async fn lb_03_a_priority_that_does_not_connect_is_given_up() {
    let world = World::of(2);
    world.backends[0].set(Fault::BlackHole);
    let (first, second) = world.backends.split_at(1);
    let fields = "protocol: http2, connect_timeout: 60s, locality_policy: { failover_timeout: 3s },";
    let yaml = in_localities(fields, &[("region: near", first), ("region: far, priority: 1", second)], "");
    let live = world.live(yaml).await;
    let began = tokio::time::Instant::now();
    assert_eq!(live.name().await, "1");
    assert!((seconds(3.0)..seconds(3.5)).contains(&began.elapsed()), "{:?}", began.elapsed());
    live.end().await;
}

/// LB-03: a priority whose endpoints are ejected fails over, too, in the share that is missing.
#[tokio::test(start_paused = true)]
async fn lb_03_ejected_endpoints_fail_over() {
    let world = World::of(4);
    let (first, second) = world.backends.split_at(2);
    let fields = "outlier_detection: { consecutive_5xx: 2, max_ejection_percent: 100 },";
    let yaml = in_localities(fields, &[("region: near", first), ("region: far, priority: 1", second)], "");
    let live = world.live(yaml).await;
    first[0].fail_next(2, Fault::Status(http::StatusCode::INTERNAL_SERVER_ERROR));
    while live.ejected() == 0 {
        live.get().await.unwrap();
    }
    // One of two, times 1.4: 70 % stay.
    let mut near = 0;
    for _ in 0..2500 {
        near += usize::from(live.name().await == "1");
    }
    let sigma = (2500.0 * 0.7 * 0.3_f64).sqrt();
    assert!((near as f64 - 1750.0).abs() <= 5.0 * sigma, "{near} of 2500");
    live.end().await;
}

/// LB-02: localities of weights 1 and 3 get a quarter and three quarters, within five sigma.
#[tokio::test(start_paused = true)]
async fn lb_02_localities_share_by_weight() {
    let world = World::of(3);
    let (one, three) = world.backends.split_at(1);
    let yaml = in_localities("", &[("region: one, weight: 1", one), ("region: three, weight: 3", three)], "");
    let live = world.live(yaml).await;
    for _ in 0..2500 {
        live.name().await;
    }
    let got = world.requests();
    let sigma = (2500.0 * 0.25 * 0.75_f64).sqrt();
    assert!((got[0] as f64 - 625.0).abs() <= 5.0 * sigma, "{got:?}");
    assert!(got[1].abs_diff(got[2]) <= 1, "in turn within a locality: {got:?}");
    live.end().await;
}

/// A zone goes dark and comes back: its requests go to the next zone of the region, then to the other region, and home
/// again.
#[tokio::test(start_paused = true)]
async fn a_zone_goes_dark() {
    let network = MemoryNetwork::new();
    let zone = |name: &str| [0, 1].map(|_| TestBackend::named(name).start_in(&network));
    let (home, near, far) = (zone("home"), zone("near"), zone("far"));
    let fields = "protocol: http2, connect_backoff: { base: 100ms, max: 1s }, locality_policy: { prefer: zone },";
    let localities =
        [("region: eu, zone: b", &near[..]), ("region: us, zone: a", &far[..]), ("region: eu, zone: a", &home[..])];
    let top = "locality: eu/a, defaults: { retry: { on: [reset, connect-failure], num_retries: 3 } },";
    let live = Live::over(&network, in_localities(fields, &localities, top)).await;
    let names = async |count: usize| {
        let mut names = HashSet::new();
        for _ in 0..count {
            names.insert(live.name().await);
        }
        names
    };
    let only = |name: &str| HashSet::from([name.to_owned()]);
    assert_eq!(names(20).await, only("home"));
    home.iter().for_each(|backend| backend.set(Fault::Refused));
    while live.name().await != "near" {}
    assert_eq!(names(20).await, only("near"));
    near.iter().for_each(|backend| backend.set(Fault::Refused));
    while live.name().await != "far" {}
    assert_eq!(names(20).await, only("far"));
    far.iter().for_each(|backend| backend.set(Fault::Refused));
    while live.get().await.is_ok() {}
    assert_eq!(live.refused().await.kind(), ErrorKind::NoHealthyEndpoint);
    let back = live.events.from_now();
    [&home, &near, &far].into_iter().flatten().for_each(TestBackend::recover);
    for backend in &home {
        back.wait_for_state(backend.address(), State::Ready).await;
    }
    assert_eq!(names(20).await, only("home"));
    live.end().await;
}

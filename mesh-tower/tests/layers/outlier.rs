use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use mesh_tower::core::classify::Failure;
use mesh_tower::core::model::{Consecutive, OutlierDetection, Recovery};
use mesh_tower::core::resilience::outlier::Standing;
use mesh_tower::layer::{CircuitBreakerLayer, OutlierLayer, TimeoutLayer};
use tokio::time::Instant;
use tower::balance::p2c::Balance;
use tower::discover::ServiceList;
use tower::load::Constant;
use tower::{Layer, Service, ServiceExt};

use super::support::{Answer, Dead, Script, World, call, get, poll_once, poll_ready, text};

const INTERVAL: Duration = Duration::from_secs(1);

/// Ejects after two failures in a row, for 3 s at first.
fn policy() -> OutlierDetection {
    let mut policy = OutlierDetection::default();
    policy.interval = INTERVAL;
    policy.base_ejection_time = 3 * INTERVAL;
    policy.max_ejection_percent = 100;
    policy.consecutive_5xx = Some(Consecutive::new(2));
    policy
}

fn probing() -> OutlierLayer {
    let mut policy = policy();
    policy.recovery = Recovery::Probe;
    OutlierLayer::new(policy)
}

/// How an endpoint stands that answered two requests so, read to their ends.
async fn after_two(layer: &OutlierLayer, answer: fn() -> Answer, grpc: bool) -> Standing {
    let world = World::new(1, move |_, _| answer());
    let service = layer.layer(world.mock());
    for _ in 0..2 {
        assert_eq!(service.standing(), Standing::Active);
        let request = if grpc { call(None) } else { get("http://greeter/") };
        let sent = tokio::time::timeout(INTERVAL / 10, service.clone().oneshot(request)).await;
        if let Ok(Ok(response)) = sent {
            drop(text(response).await);
        }
    }
    service.standing()
}

/// OD-07: which answers count against an endpoint; those of gRPC by their trailers.
#[tokio::test(start_paused = true)]
async fn od_07_what_counts_against_an_endpoint() {
    let trailers: [fn() -> Answer; 2] = [
        || Answer::response(Response::new(Script::of("m").trailer("grpc-status", "14"))),
        || Answer::response(Response::new(Script::of("m").trailer("grpc-status", "0"))),
    ];
    type Case = (bool, fn() -> Answer, bool);
    let cases: [Case; 14] = [
        (false, Answer::ok, false),
        (false, || Answer::status(404), false),
        (false, || Answer::status(500), true),
        (false, || Answer::status(503), true),
        (false, || Answer::response(Response::new(Script::of("half").broken("it broke"))), true),
        (false, || Answer::error(io::Error::from(io::ErrorKind::ConnectionRefused)), true),
        (false, || Answer::error("nobody knows"), false),
        (false, Answer::silence, false),
        (true, || Answer::grpc(0), false),
        (true, || Answer::grpc(14), true),
        (true, || Answer::grpc(5), false),
        (true, trailers[0], true),
        (true, trailers[1], false),
        (true, || Answer::response(Response::new(Script::of("no status"))), true),
    ];
    for (number, (grpc, answer, ejects)) in cases.into_iter().enumerate() {
        let standing = after_two(&OutlierLayer::new(policy()), answer, grpc).await;
        assert_eq!(standing, if ejects { Standing::Ejected } else { Standing::Active }, "case {number}");
    }
}

/// What other layers inside refuse or bound.
#[tokio::test(start_paused = true)]
async fn a_timeout_counts_and_a_refusal_of_ours_does_not() {
    let world = World::new(10, |_, _| Answer::silence());
    let layer = OutlierLayer::new(policy());
    let timeout = layer.layer(TimeoutLayer::new(INTERVAL / 10).layer(world.mock()));
    let refused = layer.layer(CircuitBreakerLayer::new(0).layer(world.mock()));
    for _ in 0..2 {
        timeout.clone().oneshot(get("http://greeter/")).await.unwrap_err();
        refused.clone().oneshot(get("http://greeter/")).await.unwrap_err();
    }
    assert_eq!((timeout.standing(), refused.standing()), (Standing::Ejected, Standing::Active));
}

/// An endpoint that cannot be connected says so before it is called.
#[tokio::test(start_paused = true)]
async fn a_failure_to_become_ready_counts() {
    let world = World::new(1, |_, _| Answer::ok());
    world.kill();
    let classify = |error: &(dyn std::error::Error + 'static)| match error.is::<Dead>() {
        true => Failure::Connect,
        false => Failure::Local,
    };
    let service = OutlierLayer::new(policy()).with_classifier(classify).layer(world.mock());
    for _ in 0..2 {
        assert_eq!(service.standing(), Standing::Active);
        service.clone().oneshot(get("http://greeter/")).await.unwrap_err();
    }
    assert_eq!(service.standing(), Standing::Ejected);
}

/// An endpoint that is ejected is not ready, and whoever waits is woken by the sweep that brings it back.
#[tokio::test(start_paused = true)]
async fn od_05_whoever_waits_is_woken_when_the_time_is_up() {
    let world = World::new(1, |number, _| if number < 2 { Answer::status(503) } else { Answer::ok() });
    let layer = OutlierLayer::new(policy());
    let service = layer.layer(world.mock());
    let other = layer.layer(World::new(1, |_, _| Answer::ok()).mock());
    let began = Instant::now();
    tokio::time::advance(INTERVAL / 2).await;
    for _ in 0..2 {
        service.clone().oneshot(get("http://greeter/")).await.unwrap();
    }
    assert_eq!((service.standing(), other.standing(), layer.ejected()), (Standing::Ejected, Standing::Active, 1));
    let waiting: Vec<_> = (0..3).map(|_| tokio::spawn(service.clone().oneshot(get("http://greeter/")))).collect();
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
    }
    let waited = began.elapsed();
    assert!((4 * INTERVAL..5 * INTERVAL).contains(&waited), "the first sweep after 3.5 s: {waited:?}");
    assert_eq!((service.standing(), layer.ejected(), world.calls()), (Standing::Active, 0, 5));
}

/// Two failures, and the time that they cost.
async fn half_open(layer: &OutlierLayer, world: &Arc<World>) -> mesh_tower::layer::Outlier<super::support::Mock> {
    let service = layer.layer(world.mock());
    for _ in 0..2 {
        service.clone().oneshot(get("http://greeter/")).await.unwrap();
    }
    assert_eq!(service.standing(), Standing::Ejected);
    service
}

/// OD-09: of those who wait one gets through; if it is given up, the next; and once it succeeds, all.
#[tokio::test(start_paused = true)]
async fn od_09_one_of_those_who_wait_probes() {
    let answer = |number| match number {
        0 | 1 => Answer::status(503),
        2 => Answer::silence(),
        _ => Answer::ok().after(INTERVAL / 2),
    };
    let world = World::new(10, move |number, _| answer(number));
    let layer = probing();
    let service = half_open(&layer, &world).await;
    let mut ready = service.clone();
    poll_fn(|cx| poll_ready(&mut ready, cx)).await.unwrap();
    assert_eq!((service.standing(), world.calls()), (Standing::Probing, 2));
    let mut waiting = service.clone();
    assert!(poll_fn(|cx| Poll::Ready(poll_ready(&mut waiting, cx))).await.is_pending());
    drop(ready);
    assert_eq!(service.standing(), Standing::HalfOpen, "dropped without a call");
    let began = Instant::now();
    poll_fn(|cx| poll_ready(&mut waiting, cx)).await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO, "woken at once");

    let mut probe = Box::pin(waiting.call(get("http://greeter/")));
    assert!(poll_once(probe.as_mut()).await.is_pending());
    let others: Vec<_> = (0..3).map(|_| tokio::spawn(service.clone().oneshot(get("http://greeter/")))).collect();
    tokio::time::sleep(INTERVAL / 4).await;
    assert_eq!((service.standing(), world.calls()), (Standing::Probing, 3));
    drop(probe);
    tokio::time::sleep(INTERVAL / 4).await;
    assert_eq!((service.standing(), world.calls()), (Standing::Probing, 4), "the next one's turn");
    tokio::time::sleep(INTERVAL / 2).await;
    assert_eq!((service.standing(), world.calls()), (Standing::Probing, 4), "its head is here, its body is not read");
    let mut probed = 0;
    for other in others {
        text(other.await.unwrap().unwrap()).await.unwrap();
        probed += 1;
        assert_eq!((service.standing(), layer.ejected()), (Standing::Active, 0), "after {probed}");
    }
    assert_eq!(world.calls(), 6);
}

/// OD-09: a probe that fails, and the longer wait.
#[tokio::test(start_paused = true)]
async fn od_09_a_probe_that_fails_costs_twice_the_time() {
    let world = World::new(10, |number, _| if number < 3 { Answer::status(503) } else { Answer::ok() });
    let layer = probing();
    let service = half_open(&layer, &world).await;
    let began = Instant::now();
    assert_eq!(service.clone().oneshot(get("http://greeter/")).await.unwrap().status(), 503);
    assert!((3 * INTERVAL..4 * INTERVAL).contains(&began.elapsed()));
    assert_eq!(service.standing(), Standing::Ejected);
    let began = Instant::now();
    assert_eq!(text(service.clone().oneshot(get("http://greeter/")).await.unwrap()).await.unwrap(), "ok");
    // 6 s, 20 % more or less, and the rest of an interval.
    assert!(
        (Duration::from_millis(4800)..Duration::from_millis(8201)).contains(&began.elapsed()),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(service.standing(), Standing::Active);
}

/// OD-04: the share is of the endpoints that are there.
#[tokio::test(start_paused = true)]
async fn od_04_an_endpoint_that_is_gone_makes_room() {
    let mut policy = policy();
    policy.max_ejection_percent = 50;
    let layer = OutlierLayer::new(policy);
    let world = World::new(10, |_, _| Answer::status(503));
    let [first, second] = [(); 2].map(|()| layer.layer(world.mock()));
    for service in [&first, &second] {
        for _ in 0..2 {
            service.clone().oneshot(get("http://greeter/")).await.unwrap();
        }
    }
    assert_eq!((first.standing(), second.standing()), (Standing::Ejected, Standing::Active));
    let clone = first.clone();
    drop(first);
    assert_eq!(layer.ejected(), 1, "its clone is there");
    drop(clone);
    assert_eq!(layer.ejected(), 0);
    for _ in 0..2 {
        second.clone().oneshot(get("http://greeter/")).await.unwrap();
    }
    assert_eq!((second.standing(), layer.ejected()), (Standing::Ejected, 1));
}

/// OD-10, in small: below tower's own balancer, of three endpoints one that fails gets next to nothing.
#[tokio::test(start_paused = true)]
async fn od_10_a_balancer_passes_over_what_is_ejected() {
    let layer = OutlierLayer::new(policy());
    let failing = World::new(10, |_, _| Answer::status(500));
    let serving = [(); 2].map(|()| World::new(10, |_, _| Answer::ok()));
    let endpoint = |world: &Arc<World>| Constant::new(layer.layer(world.mock()), 1);
    let endpoints = vec![endpoint(&serving[0]), endpoint(&failing), endpoint(&serving[1])];
    let mut balancer = Balance::new(ServiceList::new::<Request<Full<Bytes>>>(endpoints));
    let (mut failed, mut served) = (0, 0);
    // 20 s, in which the endpoint is out for 3 s, 6 s, 9 s.
    for _ in 0..2_000 {
        let response = balancer.ready().await.unwrap().call(get("http://greeter/")).await.unwrap();
        if response.status() == 500 {
            failed += 1
        } else {
            served += 1
        }
        drop(response);
        tokio::time::sleep(INTERVAL / 100).await;
    }
    assert_eq!(failed, failing.calls());
    // Two to eject it, and one that it had said it was ready for, each time.
    assert!((2..=12).contains(&failed), "{failed}");
    assert_eq!(served, 2_000 - failed);
    for world in serving {
        assert!(world.calls() > 500, "{}", world.calls());
    }
}

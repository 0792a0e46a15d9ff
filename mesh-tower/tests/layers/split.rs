use std::future::{poll_fn, ready};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use mesh_tower::layer::{InvalidWeights, SplitService};
use tower::{Service, ServiceExt, service_fn};

use super::support::{Answer, Dead, World, get};

/// What the mock is asked.
type Get = http::Request<http_body_util::Full<bytes::Bytes>>;

const DRAWS: u64 = 20_000;

/// Five standard deviations around the share of each weight.
#[tokio::test]
async fn requests_are_split_by_weight() {
    for weights in [&[1, 1][..], &[90, 10], &[1, 0, 3], &[u32::MAX - 1, 1], &[5], &[1, 2, 3, 4, 5]] {
        let counts: Vec<Arc<AtomicU64>> = weights.iter().map(|_| Arc::default()).collect();
        let services = counts.iter().zip(weights).map(|(count, weight)| {
            let count = Arc::clone(count);
            let service = service_fn(move |_: ()| {
                count.fetch_add(1, Ordering::Relaxed);
                ready(Ok::<_, io::Error>(()))
            });
            (service, *weight)
        });
        let mut split = SplitService::new(services).unwrap().with_seed(4);
        for _ in 0..DRAWS {
            split.ready().await.unwrap().call(()).await.unwrap();
        }
        let sum: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        for (count, weight) in counts.iter().zip(weights) {
            let (count, share) = (count.load(Ordering::Relaxed), f64::from(*weight) / sum);
            let expected = DRAWS as f64 * share;
            let sigma = (DRAWS as f64 * share * (1.0 - share)).sqrt();
            assert!((count as f64 - expected).abs() <= 5.0 * sigma, "{weights:?}: {count}, not {expected} ± {sigma}");
        }
    }
}

#[test]
fn weights_sum_to_1_up_to_4294967295() {
    for (weights, sum) in [
        (&[][..], Some(0)),
        (&[0], Some(0)),
        (&[0, 0], Some(0)),
        (&[u32::MAX, 1], Some(u64::from(u32::MAX) + 1)),
        (&[u32::MAX, u32::MAX], Some(2 * u64::from(u32::MAX))),
        (&[u32::MAX], None),
        (&[0, 1], None),
    ] {
        let result = SplitService::new(weights.iter().map(|weight| ((), *weight)));
        assert_eq!(result.err().map(|InvalidWeights { sum, .. }| sum), sum, "{weights:?}");
    }
    let error = SplitService::new([((), 0)]).unwrap_err().to_string();
    assert!(error.contains("sum to 0") && error.contains("give at least one service a weight"), "{error}");
}

/// A destination that is stuck holds up its own share and nobody else's, and is not called.
#[tokio::test]
async fn only_the_service_that_was_drawn_is_waited_for() {
    let (stuck, free) = (World::new(0, |_, _| Answer::ok()), World::new(1, |_, _| Answer::ok()));
    let split = SplitService::new([(stuck.mock(), 1), (free.mock(), 1)]).unwrap().with_seed(1);
    // The instances draw one after the other, each by itself.
    let mut next = split;
    let (mut served, mut waiting) = (0, 0);
    for _ in 0..100 {
        let polled = poll_fn(|cx| Poll::Ready(Service::<Get>::poll_ready(&mut next, cx))).await;
        let clone = next.clone();
        if polled.is_ready() {
            next.call(get("http://greeter/")).await.unwrap();
            served += 1;
        } else {
            assert_eq!(free.held(), 0, "nothing is reserved where the request does not go");
            waiting += 1;
        }
        next = clone;
    }
    assert_eq!((stuck.calls(), free.calls()), (0, served));
    assert!(served > 20 && waiting > 20, "{served} {waiting}");
}

#[tokio::test]
async fn a_draw_holds_until_the_call() {
    let worlds = [World::new(2, |_, _| Answer::ok()), World::new(2, |_, _| Answer::ok())];
    let mut split = SplitService::new(worlds.iter().map(|world| (world.mock(), 1))).unwrap();
    for round in 1..50 {
        ServiceExt::<Get>::ready(&mut split).await.unwrap();
        let held = worlds.each_ref().map(|world| world.held());
        for _ in 0..10 {
            ServiceExt::<Get>::ready(&mut split).await.unwrap();
            assert_eq!(worlds.each_ref().map(|world| world.held()), held, "not drawn anew");
        }
        split.call(get("http://greeter/")).await.unwrap();
        assert_eq!(worlds[0].calls() + worlds[1].calls(), round);
    }
}

#[tokio::test]
async fn a_service_that_failed_is_forgotten() {
    let (dead, alive) = (World::new(1, |_, _| Answer::ok()), World::new(1, |_, _| Answer::ok()));
    dead.kill();
    let mut split = SplitService::new([(dead.mock(), 1), (alive.mock(), 1)]).unwrap().with_seed(3);
    let (mut failed, mut served) = (0, 0);
    for _ in 0..100 {
        match ServiceExt::<Get>::ready(&mut split).await {
            Ok(split) => {
                split.call(get("http://greeter/")).await.unwrap();
                served += 1;
            }
            Err(error) => {
                assert!(error.is::<Dead>());
                failed += 1;
            }
        }
    }
    assert_eq!((dead.calls(), alive.calls()), (0, served));
    assert!(served > 20 && failed > 20, "{served} {failed}");
}

#[tokio::test]
#[should_panic(expected = "poll_ready comes before call")]
async fn a_call_without_readiness_is_a_fault() {
    let mut split = SplitService::new([(service_fn(|_: ()| ready(Ok::<_, io::Error>(()))), 1)]).unwrap();
    let _ = split.call(()).await;
}

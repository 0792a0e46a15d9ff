//! OD-11: requests are refused for the failures of others.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;
use mesh_tower::core::grpc::Code;
use mesh_tower::core::resilience::limits::Limit;
use mesh_tower::testing::TestBackend;
use mesh_tower::{ErrorKind, testing::grpc};

use crate::support::{Live, World};

/// Every second request fails.
fn half_bad() -> World {
    World::made(2, |_| {
        let served = AtomicUsize::new(0);
        TestBackend::handling(move |request| {
            let bad = served.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
            let is_grpc = request.headers().contains_key("te");
            async move {
                match (is_grpc, bad) {
                    (true, true) => grpc::answer(["message"], Code::Unavailable, "").into(),
                    (true, false) => grpc::answer(["message"], Code::Ok, "").into(),
                    (false, true) => mesh_tower::testing::Reply::from(StatusCode::BAD_GATEWAY),
                    (false, false) => StatusCode::OK.into(),
                }
            }
        })
    })
}

/// How many of `count` requests are refused, 100 of them a second.
async fn refused(live: &Live, count: usize, is_grpc: bool) -> usize {
    let mut refused = 0;
    for _ in 0..count {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let ended = if is_grpc { live.grpc().await.map(drop) } else { live.get().await.map(drop) };
        if let Err(error) = ended {
            let (kind, code) = (ErrorKind::AdmissionRejected, Code::Unavailable);
            assert_eq!((error.kind(), error.grpc_code(), error.attempts()), (kind, code, 0), "{error}");
            refused += 1;
        }
    }
    refused
}

/// OD-11: half of all requests fail within the window: of 5000 requests the formula's share is refused, within five
/// sigma. What is refused is not sent, not retried, and counts neither as a request nor against an endpoint.
#[tokio::test(start_paused = true)]
async fn od_11_the_share_that_is_refused_follows_the_success_rate() {
    for is_grpc in [false, true] {
        let world = half_bad();
        let fields = "admission_control: { success_threshold: 95, window: 120s, max_rejection_percent: 80 }, \
                      outlier_detection: { consecutive_5xx: 2, max_ejection_percent: 100 }";
        let retry = "retry: { on: [connect-failure, reset], num_retries: 3 }";
        let live = world.live(world.config(fields).route(retry).yaml()).await;
        // 5 a second in 120 s are 600: below them nobody is refused.
        assert_eq!(refused(&live, 599, is_grpc).await, 0);
        refused(&live, 2_000, is_grpc).await;
        let before = world.requests().iter().sum::<usize>();
        let told = live.overflows(Limit::Admission);
        let of = 5_000;
        let refused = refused(&live, of, is_grpc).await;
        let share = 1.0 - 0.5 / 0.95;
        let sigma = (of as f64 * share * (1.0 - share)).sqrt();
        let off = (refused as f64 - of as f64 * share).abs();
        assert!(off <= 5.0 * sigma, "{refused} of {of} were refused, {share} should be");
        assert_eq!(world.requests().iter().sum::<usize>() - before, of - refused, "nothing else was sent");
        assert_eq!(live.overflows(Limit::Admission) - told, refused);
        assert_eq!(live.metric("mesh.backend.overflows", "admission_control"), live.overflows(Limit::Admission) as f64);
        assert_eq!(live.ejections(), []);
        live.end().await;
    }
}

/// OD-11: at most so many are refused, however bad it is; and once the window is over without a failure, none.
#[tokio::test(start_paused = true)]
async fn od_11_refusals_are_bounded_and_end() {
    let world = World::of(1);
    let fields = "admission_control: { window: 10s, max_rejection_percent: 60 }";
    let live = world.live(world.config(fields).yaml()).await;
    world.backends[0].set(mesh_tower::testing::Fault::Status(StatusCode::SERVICE_UNAVAILABLE));
    refused(&live, 1_000, false).await;
    let refusals = refused(&live, 2_500, false).await as f64;
    let sigma = (2_500.0 * 0.6 * 0.4_f64).sqrt();
    assert!((refusals - 1_500.0).abs() <= 5.0 * sigma, "{refusals}");
    world.backends[0].recover();
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(refused(&live, 1_000, false).await, 0);
    live.end().await;
}

//! What is told of a bad day: each event once, and the counters as often.

use http::StatusCode;
use mesh_tower::core::resilience::outlier::{Cause, EjectionChange, Unenforced};
use mesh_tower::testing::{Fault, Seen, TestBackend};
use tokio::task::JoinSet;

use crate::support::{URI, World, is_ejected};

const BUSY: Fault = Fault::Status(StatusCode::SERVICE_UNAVAILABLE);

/// A hundred failures that end at once eject an endpoint once, and spare the other one as often as its rows are full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_at_once_eject_once() {
    for _ in 0..20 {
        let world = World::made(2, |number| TestBackend::named(number.to_string()).max_concurrent_streams(1000));
        let policy = "protocol: http2, outlier_detection: { consecutive_5xx: 5, max_ejection_percent: 50 }";
        let live = world.live(world.config(policy).yaml()).await;
        world.backends.iter().for_each(|backend| backend.set(Fault::Stall));
        let mut callers = JoinSet::new();
        for _ in 0..100 {
            callers.spawn(live.mesh.http_client().get(URI));
        }
        while world.requests().iter().sum::<usize>() < 100 {
            tokio::task::yield_now().await;
        }
        world.backends.iter().for_each(TestBackend::disconnect);
        for ended in callers.join_all().await {
            ended.unwrap_err();
        }
        let told = live.ejections();
        let of = |wanted: &dyn Fn(&EjectionChange) -> bool| told.iter().filter(|(_, change)| wanted(change)).count();
        let spared = EjectionChange::Spared { cause: Cause::Consecutive5xx, reason: Unenforced::MaxEjectionOverflow };
        assert_eq!(of(&|change| is_ejected(change, Cause::Consecutive5xx)), 1, "{told:?}");
        let spared = of(&|change| *change == spared);
        // Until both are connected the first one gets more than its half.
        let rows: Vec<_> = world.requests().iter().map(|requests| requests / 5).collect();
        assert!(rows.contains(&spared), "{spared} rows of the one that stays, of {rows:?}");
        assert_eq!(live.metric("mesh.backend.ejections", ""), 1.0);
        assert_eq!(live.metric("mesh.backend.ejections_unenforced", ""), spared as f64);
        live.end().await;
    }
}

/// A panic is told when it begins and when it ends, and not by each request in between.
#[tokio::test(start_paused = true)]
async fn a_panic_is_told_once() {
    let world = World::of(2);
    let policy = "locality_policy: { panic_threshold: 50 }, outlier_detection: { consecutive_5xx: 2, interval: 1s, \
                  max_ejection_percent: 100, base_ejection_time: 5s }";
    let live = world.live(world.config(policy).yaml()).await;
    world.backends.iter().for_each(|backend| backend.fail_next(2, BUSY));
    while live.ejected() < 2 {
        live.get().await.unwrap();
    }
    for _ in 0..20 {
        live.name().await;
    }
    let returned = |seen: &Seen| matches!(seen, Seen::Ejection { change: EjectionChange::Returned, .. });
    live.events.wait_for_nth(2, returned).await;
    for _ in 0..20 {
        live.name().await;
    }
    let told: Vec<_> = live.events.all().into_iter().filter(|seen| matches!(seen, Seen::Priority { .. })).collect();
    let panics: Vec<_> =
        told.iter().map(|seen| matches!(seen, Seen::Priority { priority: Some(0), panic: true, .. })).collect();
    assert_eq!(panics, [true, false], "{told:?}");
    live.end().await;
}

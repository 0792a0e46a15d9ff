//! Requests that wait while endpoints are ejected, failing or gone, and how their wait ends.

use http::StatusCode;
use mesh_tower::testing::{Fault, Seen};
use mesh_tower::{ErrorKind, RequestOptions};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::{Live, World, get_with, get_within, seconds, whole};

fn patient(timeout: f64) -> RequestOptions {
    RequestOptions::new().wait_for_ready().timeout(seconds(timeout))
}

/// All of two endpoints are ejected, for 10 s.
async fn all_ejected(world: &World, recovery: &str) -> Live {
    let policy = format!(
        "outlier_detection: {{ consecutive_5xx: 2, max_ejection_percent: 100, interval: 1s, base_ejection_time: 10s, \
         recovery: {recovery} }}, protocol: http2"
    );
    let live = world.live(world.config(&policy).yaml()).await;
    world.backends.iter().for_each(|backend| backend.fail_next(2, Fault::Status(StatusCode::BAD_GATEWAY)));
    while live.ejected() < world.backends.len() {
        live.get().await.unwrap();
    }
    live
}

/// Whoever waits for ready is served when the first endpoint is back, by time or by the probe that one of them is; whoever
/// does not is told at once, and whoever has less time when that is over.
#[tokio::test(start_paused = true)]
async fn whoever_waits_for_ready_outlasts_ejections() {
    for recovery in ["time", "probe"] {
        let world = World::of(2);
        let live = all_ejected(&world, recovery).await;
        let began = Instant::now();
        assert_eq!(live.refused().await.kind(), ErrorKind::NoHealthyEndpoint);
        assert_eq!(began.elapsed(), seconds(0.0));
        let mut waiting = JoinSet::new();
        for _ in 0..20 {
            let call = live.send(get_with(patient(60.0)));
            waiting.spawn(async move { whole(call.await?).await });
        }
        let error = live.send(get_with(patient(2.0))).await.unwrap_err();
        assert_eq!((error.kind(), began.elapsed().as_secs()), (ErrorKind::DeadlineExceeded, 2));
        assert!(error.to_string().contains("while waiting for an endpoint: 2 ejected"), "{error}");
        assert_eq!(live.metric("mesh.backend.pending_requests", ""), 20.0);
        for ended in waiting.join_all().await {
            assert_eq!(ended.unwrap().0, 200, "{recovery}");
        }
        assert!((9.0..12.0).contains(&began.elapsed().as_secs_f64()), "{recovery}: {:?}", began.elapsed());
        live.end().await;
    }
}

/// Whoever waits for ready outlasts a backend that is down, and one that has no endpoint.
#[tokio::test(start_paused = true)]
async fn whoever_waits_for_ready_outlasts_an_outage() {
    let world = World::of(1);
    world.backends[0].set(Fault::Refused);
    let live = world.live(world.config("").yaml()).await;
    assert_eq!(live.refused().await.kind(), ErrorKind::NoHealthyEndpoint);
    let call = tokio::spawn(live.send(get_with(patient(60.0))));
    tokio::time::sleep(seconds(3.0)).await;
    world.backends[0].recover();
    call.await.unwrap().unwrap().into_body().bytes().await.unwrap();
    live.apply(crate::support::greeter([]).yaml()).await;
    assert_eq!(live.refused().await.kind(), ErrorKind::NoEndpoint);
    let call = tokio::spawn(live.send(get_with(patient(60.0))));
    tokio::time::sleep(seconds(3.0)).await;
    live.apply(world.config("").yaml()).await;
    call.await.unwrap().unwrap().into_body().bytes().await.unwrap();
    live.end().await;
}

/// A deadline ends every wait, and takes its place with it.
#[tokio::test(start_paused = true)]
async fn a_deadline_ends_a_wait() {
    let world = World::of(2);
    world.backends.iter().for_each(|backend| backend.set(Fault::BlackHole));
    let live = world.live(world.config("protocol: http2, connect_timeout: 60s").yaml()).await;
    let mut waiting = JoinSet::new();
    for n in 0..100 {
        waiting.spawn(live.send(get_within(seconds(1.0 + f64::from(n) / 100.0))));
    }
    for ended in waiting.join_all().await {
        let error = ended.unwrap_err();
        assert_eq!((error.kind(), error.attempts()), (ErrorKind::DeadlineExceeded, 0), "{error}");
        assert!(error.to_string().contains("2 connecting"), "{error}");
    }
    live.end().await;
}

/// RL-11: a shutdown ends the waits of all, whatever they wait for, and leaves nothing behind.
#[tokio::test(start_paused = true)]
async fn rl_11_a_shutdown_ends_every_wait() {
    let world = World::of(2);
    let live = all_ejected(&world, "time").await;
    let mut waiting = JoinSet::new();
    for _ in 0..20 {
        waiting.spawn(live.send(get_with(patient(3600.0))));
    }
    let second = World::of(1);
    second.backends[0].set(Fault::BlackHole);
    let other = second.live(second.config("protocol: http2, connect_timeout: 60s").yaml()).await;
    for _ in 0..20 {
        waiting.spawn(other.send(get_within(seconds(3600.0))));
    }
    tokio::time::sleep(seconds(0.1)).await;
    let began = Instant::now();
    tokio::join!(live.mesh.shutdown(), other.mesh.shutdown());
    assert!(began.elapsed() <= seconds(1.0), "{:?}", began.elapsed());
    for ended in waiting.join_all().await {
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::Shutdown);
    }
    assert_eq!(live.refused().await.kind(), ErrorKind::Shutdown);
    live.events.assert_count(2, "ejections", |seen| matches!(seen, Seen::Ejection { .. }));
    live.end().await;
    other.end().await;
}

//! CB-04: whatever becomes of a request, what it held comes back.

use std::time::Duration;

use http::Response;
use http_body_util::BodyExt;
use mesh_tower::core::balance::State;
use mesh_tower::testing::{Fault, TestBackend};
use mesh_tower::{Body, RequestOptions};
use tokio::task::JoinSet;

use crate::support::{Live, URI, World, assert_overflow, get_with};

/// As many as the limit allows: one that is lost is missing in the next round.
const AT_ONCE: usize = 100;

/// How far a request comes before it is dropped.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    /// Nobody polls it.
    Made,
    /// It waits for a connection.
    Waiting,
    /// It was polled once.
    Begun,
    /// It arrived.
    Sent,
    /// Its head is here.
    Head,
    /// Half of its body is here.
    HalfRead,
    /// It pauses before a retry.
    Pausing,
}

async fn abandon(live: &Live, backend: &TestBackend, stage: Stage) {
    let get = || live.mesh.http_client().get(URI);
    let arrived = backend.request_count() + AT_ONCE;
    let mut requests = JoinSet::new();
    let spawn_all = |requests: &mut JoinSet<Result<Response<Body>, mesh_tower::Error>>| {
        (0..AT_ONCE).for_each(|_| drop(requests.spawn(get())));
    };
    match stage {
        Stage::Made => drop((0..AT_ONCE).map(|_| get()).collect::<Vec<_>>()),
        Stage::Begun => {
            for _ in 0..AT_ONCE {
                let ended = tokio::time::timeout(Duration::ZERO, get()).await;
                assert!(ended.is_err(), "{ended:?}");
            }
        }
        Stage::Waiting => {
            spawn_all(&mut requests);
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert_eq!(live.metric("mesh.backend.pending_requests", ""), AT_ONCE as f64);
            assert_overflow(&get().await.unwrap_err());
        }
        Stage::Sent => {
            spawn_all(&mut requests);
            backend.arrived(arrived).await;
        }
        Stage::Pausing => {
            spawn_all(&mut requests);
            backend.arrived(arrived).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Stage::Head | Stage::HalfRead => {
            spawn_all(&mut requests);
            let mut held: Vec<_> = requests.join_all().await.into_iter().map(Result::unwrap).collect();
            if stage == Stage::HalfRead {
                backend.release_chunk();
                for response in &mut held {
                    assert_eq!(response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap().len(), 1);
                }
            }
            drop(held);
            return;
        }
    }
    requests.abort_all();
    while let Some(ended) = requests.join_next().await {
        assert!(ended.unwrap_err().is_cancelled(), "{stage:?}");
    }
}

/// Resolves when `backend` serves, whatever it did before.
async fn well_again(live: &Live, backend: &TestBackend) {
    backend.recover();
    backend.disconnect();
    let patient = RequestOptions::new().wait_for_ready().timeout(Duration::from_secs(60));
    let retried = async || live.send(get_with(patient)).await?.into_body().bytes().await;
    // The first may find a connection that is gone.
    if retried().await.is_err() {
        retried().await.unwrap();
    }
}

/// CB-04: 10,000 requests are dropped at every stage of their lives. Every count is back at nothing, and all of the limits
/// are there.
#[tokio::test(start_paused = true)]
async fn cb_04_requests_dropped_at_every_stage_hold_nothing() {
    for (protocol, rounds) in [("http2", 100), ("http1", 10)] {
        let world = World::made(1, |_| TestBackend::named("name").max_concurrent_streams(1000));
        let fields = format!(
            "protocol: {protocol}, connect_timeout: 60s, \
             circuit_breaker: {{ max_requests: {AT_ONCE}, max_pending_requests: {AT_ONCE}, max_retries: {AT_ONCE} }}, \
             retry_budget: {{ percent: 100, min_concurrent: {AT_ONCE} }}, \
             outlier_detection: {{ consecutive_5xx: none }}"
        );
        let retry = "retry: { on: [5xx], backoff: { base: 10s } }";
        let live = world.live(world.config(&fields).route(retry).yaml()).await;
        let backend = &world.backends[0];
        let stages = [
            (Stage::Made, Fault::Stall),
            (Stage::Begun, Fault::Stall),
            (Stage::Sent, Fault::Stall),
            (Stage::Head, Fault::SlowBody { chunk: 1 }),
            (Stage::HalfRead, Fault::SlowBody { chunk: 1 }),
            (Stage::Pausing, Fault::Status(http::StatusCode::SERVICE_UNAVAILABLE)),
            (Stage::Waiting, Fault::BlackHole),
        ];
        for (stage, fault) in stages {
            // Over HTTP/1.1 a black hole is a connection like any other.
            if stage == Stage::Waiting && protocol == "http1" {
                continue;
            }
            well_again(&live, backend).await;
            let events = live.events.from_now();
            backend.set(fault);
            if stage == Stage::Waiting {
                events.wait_for_state(backend.address(), State::Connecting).await;
            }
            for round in 0..rounds {
                abandon(&live, backend, stage).await;
                if round == 0 || round + 1 == rounds {
                    live.assert_idle();
                }
            }
        }
        well_again(&live, backend).await;
        // All of the limit is there, and no more.
        backend.set(Fault::Stall);
        let mut requests = JoinSet::new();
        let arrived = backend.request_count() + AT_ONCE;
        (0..AT_ONCE).for_each(|_| drop(requests.spawn(live.mesh.http_client().get(URI))));
        backend.arrived(arrived).await;
        assert_overflow(&live.refused().await);
        requests.shutdown().await;
        live.end().await;
    }
}

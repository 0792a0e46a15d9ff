//! CL-05: callers that are gone without a word, and those that only have nothing to say.

use std::time::Duration;

use mesh_tower::core::model::{Server, ServerLimits};
use mesh_tower::testing::watched;
use tokio::time::{Instant, sleep};

use crate::support::{Wire, client_through, inside, kind, reason, text, until};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// As it is without a word in the configuration: asked after a minute, given up 20 s later.
fn asking(server: &mut Server) {
    let default = ServerLimits::default();
    server.limits.keepalive_time = default.keepalive_time;
    server.limits.keepalive_timeout = default.keepalive_timeout;
}

/// Its connection stays open, but nothing comes or goes over it any more: it ends, and so does the work for it.
#[tokio::test(start_paused = true)]
async fn cl_05_a_caller_that_vanished_is_given_up_with_its_requests() {
    let server = inside(asking).await;
    let began = Instant::now();
    let tasks = server.mesh.live_tasks();
    let mut wire = Wire::open(server.door.enter()).await;
    wire.get(1, "/hold").await;
    server.app.held(1).await;
    sleep(79 * SECOND).await;
    server.app.held(1).await;
    server.app.held(0).await;
    assert_eq!(began.elapsed().as_secs(), 80);
    // What was said to it in vain.
    wire.polite = false;
    wire.wait(|frame| frame.kind == kind::PING).await;
    assert_eq!(wire.until_closed().await.unwrap().reason(), reason::NO_ERROR);
    until(|| server.mesh.live_tasks() == tasks).await;
}

/// It takes nothing of its answer either.
#[tokio::test(start_paused = true)]
async fn cl_05_a_caller_whose_pipe_is_full_is_given_up_too() {
    let server = inside(|server| {
        asking(server);
        server.limits.idle_timeout = Some(10 * MINUTE);
    })
    .await;
    let tasks = server.mesh.live_tasks();
    let mut wire = Wire::open(server.door.enter_from([198, 51, 100, 1], 1024)).await;
    wire.get(1, "/stream").await;
    wire.get(3, "/bytes/60000").await;
    server.app.held(1).await;
    let began = Instant::now();
    server.app.held(0).await;
    assert_eq!(began.elapsed().as_secs(), 80);
    // Where there is no kernel that looks after it, as there is of TCP, the bytes that nobody takes go with the rest.
    sleep(11 * MINUTE).await;
    assert_eq!(server.mesh.live_tasks(), tasks);
}

/// Whoever answers is there, for as long as it likes.
#[tokio::test(start_paused = true)]
async fn cl_05_a_caller_that_answers_stays() {
    let server = inside(asking).await;
    let mut wire = Wire::open(server.door.enter()).await;
    wire.get(1, "/hold").await;
    server.app.held(1).await;
    let began = Instant::now();
    while began.elapsed() < 60 * MINUTE {
        wire.wait(|frame| frame.kind == kind::PING).await;
    }
    server.app.open();
    assert!(wire.answered(1).await);
    // So do clients of a mesh, of either version: over HTTP/1.1 the kernel asks.
    server.app.close();
    let mesh = client_through(&server.door).await;
    let held = ["http://h1/hold", "http://h2/hold"].map(|url| tokio::spawn(mesh.http_client().get(url)));
    server.app.held(2).await;
    sleep(60 * MINUTE).await;
    server.app.open();
    for held in held {
        assert!(text(held.await.unwrap().unwrap()).await.contains(" /hold "));
    }
}

/// CL-09: pings, whoever sends them, are no requests.
#[tokio::test(start_paused = true)]
async fn cl_09_a_connection_of_pings_is_idle() {
    for ours in [true, false] {
        let server = inside(|server| {
            server.limits.idle_timeout = Some(10 * MINUTE);
            if ours {
                asking(server);
            }
        })
        .await;
        let mut wire = Wire::open(server.door.enter()).await;
        wire.get(1, "/").await;
        assert!(wire.answered(1).await);
        let began = Instant::now();
        while began.elapsed() < 9 * MINUTE + 30 * SECOND {
            if !ours {
                sleep(30 * SECOND).await;
                wire.send(kind::PING, 0, 0, b"whereart").await;
            }
            wire.wait(|frame| frame.kind == kind::PING).await;
            if ours && began.elapsed() >= 9 * MINUTE {
                break;
            }
        }
        let goaway = watched(wire.wait(|frame| frame.kind == kind::GOAWAY)).await;
        assert_eq!((goaway.reason(), began.elapsed().as_secs()), (reason::NO_ERROR, 600), "{ours}");
    }
}

/// Nobody is asked where that is not wanted.
#[tokio::test(start_paused = true)]
async fn callers_are_not_asked_where_that_is_off() {
    let server = inside(|_| {}).await;
    let mut wire = Wire::open(server.door.enter()).await;
    wire.polite = false;
    wire.get(1, "/hold").await;
    server.app.held(1).await;
    sleep(30 * MINUTE).await;
    server.app.open();
    loop {
        let frame = wire.next().await.unwrap();
        assert_ne!(frame.kind, kind::PING);
        if frame.ends_stream() {
            break;
        }
    }
}

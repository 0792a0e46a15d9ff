//! Callers that do not take their answers: they hold what their requests hold no longer than they may (RL-01).

use std::time::Duration;

use mesh_tower::core::model::Server;
use mesh_tower::testing::watched;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, sleep};

use crate::support::{Wire, flag, get, inside, kind, reason, settled};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// What a window of HTTP/2 holds, if nothing is said.
const WINDOW: usize = 65_535;
/// SETTINGS_INITIAL_WINDOW_SIZE of 0.
const NO_WINDOW: [u8; 6] = [0, 4, 0, 0, 0, 0];

fn a_minute(server: &mut Server) {
    server.limits.send_timeout = Some(MINUTE);
    server.limits.max_concurrent_streams = 1000;
}

/// Reads so many bytes of answers, however they are mixed.
async fn data<const N: usize>(wire: &mut Wire<DuplexStream>, lengths: [(u32, usize); N]) {
    let mut left = lengths;
    while left.iter().any(|(_, left)| *left > 0) {
        let frame = wire.wait(|frame| frame.kind == kind::DATA && !frame.payload.is_empty()).await;
        let (_, left) = left.iter_mut().find(|(stream, _)| *stream == frame.stream).unwrap();
        *left -= frame.payload.len();
    }
}

async fn window(wire: &mut Wire<DuplexStream>, stream: u32, more: usize) {
    wire.send(kind::WINDOW_UPDATE, 0, stream, &(more as u32).to_be_bytes()).await;
}

/// Windows of 0 from the beginning, and windows that are used up.
#[tokio::test(start_paused = true)]
async fn streams_whose_callers_open_no_window_are_reset() {
    for without_window in [true, false] {
        let server = inside(a_minute).await;
        let mut wire = Wire::open(server.door.enter()).await;
        if without_window {
            wire.send(kind::SETTINGS, 0, 0, &NO_WINDOW).await;
        }
        wire.wait(|frame| frame.kind == kind::SETTINGS && frame.flags == 0).await;
        settled().await;
        let tasks = server.mesh.live_tasks();
        for stream in [1, 3] {
            wire.get(stream, "/bytes/300000").await;
        }
        if !without_window {
            // The connection's.
            window(&mut wire, 0, 10 * WINDOW).await;
            data(&mut wire, [(1, WINDOW), (3, WINDOW)]).await;
        }
        let began = Instant::now();
        sleep(40 * SECOND).await;
        assert_eq!(server.mesh.live_tasks(), tasks + 2);
        // A little is enough to have the time anew: of one piece, that is, and the next.
        window(&mut wire, 3, 2 * WINDOW).await;
        let reset = wire.wait(|frame| frame.kind == kind::RST_STREAM).await;
        assert_eq!((reset.stream, reset.payload), (1, reason::CANCEL.to_be_bytes().to_vec()));
        assert_eq!(began.elapsed().as_secs(), 60, "{without_window}");
        let reset = wire.wait(|frame| frame.kind == kind::RST_STREAM).await;
        assert_eq!((reset.stream, began.elapsed().as_secs()), (3, 100), "{without_window}");
        assert_eq!(server.mesh.live_tasks(), tasks);
        // The others do not suffer.
        wire.get(5, "/bytes/0").await;
        wire.wait(|frame| frame.stream == 5 && frame.kind == kind::HEADERS && frame.is_status(200)).await;
    }
}

/// A subscription may be silent for as long as it likes.
#[tokio::test(start_paused = true)]
async fn answers_whose_handlers_have_nothing_to_send_go_on() {
    let server = inside(a_minute).await;
    let mut wire = Wire::open(server.door.enter()).await;
    wire.get(1, "/stream").await;
    let mut stream = server.door.enter();
    stream.write_all(b"GET /stream HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    server.app.held(2).await;
    data(&mut wire, [(1, 6)]).await;
    sleep(100 * MINUTE).await;
    server.app.open();
    data(&mut wire, [(1, 3)]).await;
    let mut answer = String::new();
    while !answer.ends_with("end\r\n0\r\n\r\n") {
        let mut piece = [0; 1024];
        let length = watched(stream.read(&mut piece)).await.unwrap();
        assert_ne!(length, 0, "{answer}");
        answer.push_str(&String::from_utf8_lossy(&piece[..length]));
    }
}

/// The last piece of an answer is nobody's but the connection's.
#[tokio::test(start_paused = true)]
async fn what_is_left_of_answers_does_not_stay_for_ever() {
    let server = inside(a_minute).await;
    let mut wire = Wire::open(server.door.enter()).await;
    wire.get(1, "/bytes/60000").await;
    wire.get(3, "/bytes/10000").await;
    data(&mut wire, [(1, 60_000), (3, WINDOW - 60_000)]).await;
    let began = Instant::now();
    wire.polite = false;
    // Others go on meanwhile: these answers have nothing to send.
    let goaway = watched(async {
        for stream in (5..).step_by(2) {
            wire.get(stream, "/bytes/0").await;
            sleep(SECOND).await;
            let told = wire.wait(|frame| matches!(frame.kind, kind::HEADERS | kind::GOAWAY)).await;
            if told.kind == kind::GOAWAY {
                return told;
            }
        }
        unreachable!("there are more streams than that");
    })
    .await;
    assert_eq!(goaway.reason(), reason::NO_ERROR);
    assert!(began.elapsed() <= 2 * MINUTE + SECOND, "{:?}", began.elapsed());
    wire.until_closed().await;
    assert!(began.elapsed() <= 3 * MINUTE + SECOND, "{:?}", began.elapsed());
}

/// A connection that is not read at all, of both versions.
#[tokio::test(start_paused = true)]
async fn connections_that_nobody_reads_end() {
    let server = inside(a_minute).await;
    settled().await;
    let tasks = server.mesh.live_tasks();
    let mut http1 = server.door.enter_from([198, 51, 100, 1], 1024);
    http1.write_all(b"GET /bytes/300000 HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut http2 = Wire::open(server.door.enter_from([198, 51, 100, 1], 1024)).await;
    http2.get(1, "/bytes/300000").await;
    let began = Instant::now();
    // Whoever reads slowly is not concerned.
    let mut slow = server.door.enter_from([198, 51, 100, 1], 1024);
    slow.write_all(b"GET /bytes/100000 HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut read = 0;
    while read < 100_000 {
        sleep(4 * SECOND).await;
        let length = watched(slow.read(&mut [0; 1024])).await.unwrap();
        assert_ne!(length, 0, "{read}");
        read += length;
        if began.elapsed() > 2 * MINUTE + SECOND {
            assert_eq!(server.mesh.live_tasks(), tasks + 1);
        }
    }
    assert!(began.elapsed() > 5 * MINUTE);
    drop((http1, http2));
}

/// Without a bound they stay.
#[tokio::test(start_paused = true)]
async fn none_is_for_ever() {
    let server = inside(|server| server.limits.send_timeout = None).await;
    let mut wire = Wire::open(server.door.enter()).await;
    wire.get(1, "/bytes/300000").await;
    data(&mut wire, [(1, WINDOW)]).await;
    sleep(100 * MINUTE).await;
    window(&mut wire, 0, 300_000).await;
    window(&mut wire, 1, 300_000).await;
    data(&mut wire, [(1, 300_000 - WINDOW)]).await;
}

/// CL-09: whoever goes on to ask although it was told to leave, and answers no ping.
#[tokio::test(start_paused = true)]
async fn cl_09_callers_that_do_not_heed_goaway_are_cut() {
    let server = inside(|server| server.limits.idle_timeout = Some(MINUTE)).await;
    let mut wire = Wire::open(server.door.enter()).await;
    wire.polite = false;
    wire.get(1, "/bytes/0").await;
    let goaway = wire.wait(|frame| frame.kind == kind::GOAWAY).await;
    assert_eq!(goaway.reason(), reason::NO_ERROR);
    let began = Instant::now();
    wire.get(3, "/hold").await;
    let mut stream = 5;
    while wire.send(kind::HEADERS, flag::WHOLE, stream, &get("/bytes/0")).await {
        stream += 2;
        sleep(SECOND).await;
        assert!(began.elapsed() < MINUTE, "it goes on and on");
    }
}

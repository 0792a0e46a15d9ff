//! CL-09, CL-02: connections that end although nobody did anything wrong, and lose nothing.

use std::time::Duration;

use mesh_tower::core::model::Server;
use mesh_tower::testing::watched;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, sleep};

use crate::support::{Wire, client_through, flag, frame, inside, kind, reason, text};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HEAD: &[u8] = b"GET /somewhere HTTP/1.1\r\nhost: a\r\n\r\n";

fn idle(server: &mut Server) {
    server.limits.idle_timeout = Some(MINUTE);
}

/// Sends what is left of a head, and reads to the end.
async fn finish(stream: &mut DuplexStream, rest: &[u8]) -> String {
    stream.write_all(rest).await.unwrap();
    rest_of(stream).await
}

async fn rest_of(stream: &mut DuplexStream) -> String {
    let mut answer = String::new();
    watched(stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

async fn ask(stream: &mut DuplexStream) -> String {
    stream.write_all(HEAD).await.unwrap();
    let mut answer = [0; 1024];
    let length = watched(stream.read(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

/// CL-09: a silent connection ends after the idle timeout; HTTP/2 is told before.
#[tokio::test(start_paused = true)]
async fn cl_09_idle_connections_end_when_they_should() {
    let server = inside(idle).await;
    let began = Instant::now();
    let mut stream = server.door.enter();
    assert!(ask(&mut stream).await.starts_with("HTTP/1.1 200 "));
    let mut wire = Wire::open(server.door.enter()).await;
    wire.get(1, "/").await;
    assert!(wire.answered(1).await);
    assert_eq!(rest_of(&mut stream).await, "");
    assert_eq!(began.elapsed().as_secs(), 60);
    let goaway = wire.until_closed().await.unwrap();
    assert_eq!(goaway.reason(), reason::NO_ERROR);
    assert_eq!(began.elapsed().as_secs(), 60);
}

/// CL-09: whoever sends at that very moment gets an answer.
#[tokio::test(start_paused = true)]
async fn cl_09_no_request_is_lost_to_the_idle_timeout() {
    let server = inside(idle).await;
    let mesh = client_through(&server.door).await;
    let client = mesh.http_client();
    for micros in (0..4000).step_by(100) {
        for url in ["http://h1/", "http://h2/"] {
            let answer = client.get(url).await.unwrap_or_else(|error| panic!("{url} {micros}: {error}"));
            assert_eq!(answer.status(), 200);
            text(answer).await;
        }
        sleep(MINUTE - 2 * Duration::from_millis(1) + Duration::from_micros(micros)).await;
    }
}

/// CL-09: half of a head is a request that must not be lost.
#[tokio::test(start_paused = true)]
async fn cl_09_a_head_that_has_begun_is_not_idle() {
    let server = inside(idle).await;
    let mut stream = server.door.enter();
    ask(&mut stream).await;
    sleep(MINUTE - SECOND).await;
    stream.write_all(&HEAD[..9]).await.unwrap();
    sleep(2 * SECOND).await;
    stream.write_all(&HEAD[9..]).await.unwrap();
    let mut answer = [0; 1024];
    let length = watched(stream.read(&mut answer)).await.unwrap();
    assert!(answer[..length].starts_with(b"HTTP/1.1 200 "), "{length}");
    // The idle time begins anew.
    let began = Instant::now();
    assert_eq!(rest_of(&mut stream).await, "");
    assert_eq!(began.elapsed().as_secs(), 60);
}

/// CL-09: a request that is under way is nobody's idleness.
#[tokio::test(start_paused = true)]
async fn cl_09_a_long_request_is_not_idle() {
    let server = inside(idle).await;
    let mut stream = server.door.enter();
    stream.write_all(b"GET /hold HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut wire = Wire::open(server.door.enter()).await;
    wire.get(1, "/hold").await;
    server.app.held(2).await;
    sleep(100 * MINUTE).await;
    let began = Instant::now();
    server.app.open();
    assert!(wire.answered(1).await);
    assert!(rest_of(&mut stream).await.starts_with("HTTP/1.1 200 "));
    assert_eq!(began.elapsed().as_secs(), 60);
}

/// CL-09: a tunnel is a request that goes on.
#[tokio::test(start_paused = true)]
async fn cl_09_a_tunnel_is_not_idle() {
    let server = inside(idle).await;
    let mut wire = Wire::open(server.door.enter()).await;
    // `:method: CONNECT` and `:authority: a`, and no more (RFC 9113 8.5).
    let head = [b"\x02\x07CONNECT".as_slice(), b"\x01\x01a"].concat();
    wire.send(kind::HEADERS, flag::END_HEADERS, 1, &head).await;
    let head = wire.wait(|frame| frame.stream == 1).await;
    assert!(head.is_status(200) && !head.ends_stream());
    server.app.upgraded(1).await;
    for _ in 0..3 {
        sleep(10 * MINUTE).await;
        wire.send(kind::DATA, 0, 1, b"echo").await;
        let echo = wire.wait(|frame| frame.stream == 1 && frame.kind == kind::DATA).await;
        assert_eq!(echo.payload, b"echo");
    }
    let began = Instant::now();
    wire.send(kind::DATA, flag::END_STREAM, 1, b"").await;
    wire.until_closed().await;
    assert_eq!(began.elapsed().as_secs(), 60);
    server.app.upgraded(0).await;
}

/// CL-09: GOAWAY comes first, and what crosses it on the way is served.
#[tokio::test(start_paused = true)]
async fn cl_09_an_old_connection_is_told_before_it_ends() {
    let server = inside(|server| {
        server.limits.max_connection_age = Some(30 * MINUTE);
        server.limits.max_connection_age_grace = Some(MINUTE);
    })
    .await;
    let began = Instant::now();
    let mut stream = server.door.enter();
    stream.write_all(b"GET /hold HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut wire = Wire::open(server.door.enter()).await;
    wire.polite = false;
    wire.get(1, "/hold").await;
    server.app.held(2).await;
    let goaway = wire.wait(|frame| frame.kind == kind::GOAWAY).await;
    let told = began.elapsed();
    assert!(told >= 27 * MINUTE && told <= 33 * MINUTE, "{told:?}");
    assert_eq!(goaway.reason(), reason::NO_ERROR);
    assert_eq!(goaway.payload[..4], 0x7fff_ffff_u32.to_be_bytes());
    // On its way before GOAWAY was read.
    wire.get(3, "/").await;
    let ping = wire.wait(|frame| frame.kind == kind::PING).await;
    wire.send(kind::PING, flag::ACK, 0, &ping.payload).await;
    assert!(wire.answered(3).await);
    // What is held is cut after the grace.
    wire.until_closed().await;
    assert_eq!((began.elapsed() - told).as_secs(), 60);
    watched(stream.read_to_end(&mut Vec::new())).await.unwrap();
    let cut = began.elapsed();
    assert!(cut >= 28 * MINUTE && cut <= 34 * MINUTE + SECOND, "{cut:?}");
    server.app.held(0).await;
}

/// CL-09: without a grace, old connections wait for their requests, and not for callers that do not answer.
#[tokio::test(start_paused = true)]
async fn cl_09_an_old_connection_waits_for_its_requests() {
    let server = inside(|server| server.limits.max_connection_age = Some(MINUTE)).await;
    let mut wire = Wire::open(server.door.enter()).await;
    wire.polite = false;
    wire.get(1, "/hold").await;
    let mut mute = Wire::open(server.door.enter()).await;
    mute.polite = false;
    mute.get(1, "/").await;
    assert!(mute.answered(1).await);
    let began = Instant::now();
    assert!(mute.until_closed().await.is_some());
    let elapsed = began.elapsed();
    assert!(elapsed >= 59 * SECOND && elapsed <= 72 * SECOND, "{elapsed:?}");
    sleep(100 * MINUTE).await;
    server.app.open();
    wire.polite = true;
    assert!(wire.answered(1).await);
    wire.until_closed().await;
}

/// CL-02: HTTP/1.1 says that the connection ends with the next response, also to those whose request is only on its way.
#[tokio::test(start_paused = true)]
async fn cl_02_http1_callers_are_told_with_their_last_response() {
    let server = inside(|_| {}).await;
    let mut held = server.door.enter();
    held.write_all(b"GET /hold HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut half = server.door.enter();
    half.write_all(&HEAD[..9]).await.unwrap();
    let mut again = server.door.enter();
    ask(&mut again).await;
    again.write_all(&HEAD[..9]).await.unwrap();
    let mut fresh = server.door.enter();
    let mut idle = server.door.enter();
    ask(&mut idle).await;
    server.app.held(1).await;
    sleep(SECOND).await;
    server.mesh.start_drain();
    // Nobody waits for it.
    assert_eq!(rest_of(&mut idle).await, "");
    sleep(SECOND).await;
    for (name, stream, rest) in
        [("half", &mut half, &HEAD[9..]), ("again", &mut again, &HEAD[9..]), ("fresh", &mut fresh, HEAD)]
    {
        let answer = finish(stream, rest).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{name}: {answer}");
        assert!(answer.contains("connection: close\r\n"), "{name}: {answer}");
    }
    server.app.open();
    let answer = rest_of(&mut held).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close\r\n"), "{answer}");
    assert_eq!(server.drained().await.cut, 0);
}

/// CL-02: those who connected and say nothing do not hold it up for long.
#[tokio::test(start_paused = true)]
async fn cl_02_silent_connections_do_not_hold_up_the_end() {
    let server = inside(|_| {}).await;
    let silent = [server.door.enter(), server.door.enter()];
    let mut wire = Wire::open(server.door.enter()).await;
    wire.polite = false;
    wire.get(1, "/").await;
    assert!(wire.answered(1).await);
    sleep(SECOND).await;
    let began = Instant::now();
    server.mesh.start_drain();
    assert_eq!(server.drained().await.cut, 0);
    assert!(began.elapsed() <= 6 * SECOND, "{:?}", began.elapsed());
    drop((silent, wire));
}

/// CL-02: those who came late in the delay have no longer, and those who have begun to say what they speak finish it.
#[tokio::test(start_paused = true)]
async fn cl_02_who_has_begun_to_speak_has_the_time_that_it_always_has() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let server = inside(|server| server.drain.delay = 20 * SECOND).await;
    let began = Instant::now();
    server.mesh.start_drain();
    sleep(19 * SECOND).await;
    let silent = server.door.enter();
    let mut begun = server.door.enter();
    begun.write_all(&PREFACE[..3]).await.unwrap();
    sleep(8 * SECOND).await;
    let mut silent = silent;
    assert_eq!(watched(silent.read(&mut [0])).await.unwrap(), 0, "it was let go after 5 s");
    begun.write_all(&[&PREFACE[3..], &frame(kind::SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    let mut wire = Wire { io: begun, polite: true };
    wire.get(1, "/").await;
    assert!(wire.answered(1).await);
    drop(wire);
    assert_eq!(server.drained().await.cut, 0);
    assert_eq!(began.elapsed().as_secs(), 27);
}

/// CL-02: an answer that its caller takes slowly is under way until it is sent.
#[tokio::test(start_paused = true)]
async fn cl_02_answers_that_are_read_slowly_are_whole() {
    const LENGTH: usize = 300_000;
    let server = inside(|server| server.drain.grace = MINUTE).await;
    let mut stream = server.door.enter_from([198, 51, 100, 1], 1024);
    stream.write_all(format!("GET /bytes/{LENGTH} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await.unwrap();
    let mut wire = Wire::open(server.door.enter()).await;
    wire.get(1, &format!("/bytes/{LENGTH}")).await;
    // As much as a window of HTTP/2 holds.
    let mut length = 0;
    while length < 65_535 {
        length += wire.wait(|frame| frame.kind == kind::DATA).await.payload.len();
    }
    server.mesh.start_drain();
    wire.wait(|frame| frame.kind == kind::GOAWAY).await;
    let slowly = tokio::spawn(async move {
        sleep(40 * SECOND).await;
        let more = (LENGTH as u32).to_be_bytes();
        wire.raw(&[frame(kind::WINDOW_UPDATE, 0, 0, &more), frame(kind::WINDOW_UPDATE, 0, 1, &more)].concat()).await;
        while length < LENGTH {
            length += wire.wait(|frame| frame.kind == kind::DATA).await.payload.len();
        }
    });
    sleep(40 * SECOND).await;
    let answer = rest_of(&mut stream).await;
    assert!(answer.len() > LENGTH, "{}", answer.len());
    slowly.await.unwrap();
    assert_eq!(server.drained().await.cut, 0);
}

/// CL-02: but no longer than the grace.
#[tokio::test(start_paused = true)]
async fn cl_02_answers_that_nobody_reads_are_cut() {
    let server = inside(|server| server.drain.grace = 20 * SECOND).await;
    let began = Instant::now();
    let mut stream = server.door.enter_from([198, 51, 100, 1], 1024);
    stream.write_all(b"GET /bytes/300000 HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut wire = Wire::open(server.door.enter()).await;
    wire.get(1, "/bytes/300000").await;
    wire.wait(|frame| frame.kind == kind::DATA).await;
    server.mesh.start_drain();
    assert_eq!(server.drained().await.cut, 2);
    assert_eq!(began.elapsed().as_secs(), 20);
}

//! CL-08, MT-14: callers that take their time.

use std::time::Duration;

use mesh_tower::core::model::{Server, ServerTls};
use mesh_tower::testing::{Authority, watched};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, sleep};

use crate::support::{CALLER, Inside, Wire, flag, frame, get, inside, inside_as, kind, post, until};

const STEP: Duration = Duration::from_secs(5);
const SECOND: Duration = Duration::from_secs(1);

/// Sends one of `bytes` every five seconds, and reads what comes, until the server closes; tells when it did.
async fn drip(mut stream: DuplexStream, bytes: &[u8]) -> (Duration, Vec<u8>) {
    let began = Instant::now();
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let mut answer = Vec::new();
    let dripping = async {
        for byte in bytes {
            if write.write_all(&[*byte]).await.is_err() {
                break;
            }
            sleep(STEP).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = dripping => {}
        _ = watched(read.read_to_end(&mut answer)) => {}
    }
    (began.elapsed(), answer)
}

fn about(elapsed: Duration, expected: u64, name: &str) {
    let expected = Duration::from_secs(expected);
    assert!(elapsed >= expected && elapsed < expected + SECOND, "{name}: {elapsed:?}, not {expected:?}");
}

/// A good client gets an answer without any time passing.
async fn served_at_once(server: &Inside) {
    let began = Instant::now();
    let mut wire = Wire::open(server.door.enter()).await;
    wire.get(1, "/").await;
    assert!(wire.answered(1).await);
    assert_eq!(began.elapsed(), Duration::ZERO);
}

const HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\x00\x00\x00\x00\x00\x00\x00";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD: &[u8] = b"GET /somewhere HTTP/1.1\r\nhost: a\r\n\r\n";

/// CL-08: whatever comes byte by byte ends at a limit, gives its place back, and is nothing to others.
#[tokio::test(start_paused = true)]
async fn cl_08_what_comes_too_slowly_is_closed_and_its_place_is_free() {
    let authority = Authority::new("cluster.local");
    let settings = frame(kind::SETTINGS, 0, 0, &[]);
    let headers = frame(kind::HEADERS, flag::WHOLE, 1, &get("/somewhere"));
    let permissive = |server: &mut Server| {
        server.tls = Some(ServerTls::Permissive);
        server.limits.max_connections = Some(2);
    };
    for (name, at_once, slowly, expected) in [
        // The second byte makes it clear what it is; then there are 15 s in all.
        ("a TLS hello", &[][..], HELLO, 15),
        ("a preface", &[], PREFACE, 10),
        ("a head of HTTP/1.1", &[], HEAD, 10),
        ("HTTP/2 settings", PREFACE, &settings, 10),
        ("an HTTP/2 head", &[PREFACE, &settings].concat(), &headers, 10),
        ("nothing at all", &[], &[], 10),
        ("nothing behind a preface", PREFACE, &[], 15),
        ("nothing behind HTTP/2 settings", &[PREFACE, &settings].concat(), &[], 15),
    ] {
        let (server, _) = inside_as(&authority, permissive).await;
        let mut stream = server.door.enter();
        stream.write_all(at_once).await.unwrap();
        let slow = tokio::spawn({
            let slowly = slowly.to_vec();
            async move { drip(stream, &slowly).await }
        });
        served_at_once(&server).await;
        sleep(SECOND).await;
        // The place that is left.
        served_at_once(&server).await;
        let (elapsed, answer) = slow.await.unwrap();
        about(elapsed, expected, name);
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{name}: {}", answer.escape_ascii());
        // Both places are free.
        let both = [server.door.enter(), server.door.enter()];
        for stream in both {
            let mut wire = Wire::open(stream).await;
            wire.get(1, "/").await;
            assert!(wire.answered(1).await, "{name}");
        }
    }
}

/// CL-08: on a connection that has served already.
#[tokio::test(start_paused = true)]
async fn cl_08_the_next_head_has_its_own_ten_seconds() {
    let server = inside(|_| {}).await;
    let before = server.mesh.live_tasks();
    for (name, slow) in [("stalls", false), ("drips", true)] {
        let mut stream = server.door.enter();
        let mut answer = [0; 1024];
        stream.write_all(HEAD).await.unwrap();
        assert!(stream.read(&mut answer).await.unwrap() > 0);
        sleep(100 * SECOND).await;
        let (elapsed, _) = drip(stream, if slow { HEAD } else { &HEAD[..1] }).await;
        about(elapsed, 10, name);
        let mut wire = Wire::open(server.door.enter()).await;
        wire.get(1, "/").await;
        assert!(wire.answered(1).await);
        sleep(100 * SECOND).await;
        let next = frame(kind::HEADERS, flag::WHOLE, 3, &get("/"));
        let (elapsed, _) = drip(wire.io, if slow { &next } else { &next[..1] }).await;
        about(elapsed, 10, name);
    }
    until(|| server.mesh.live_tasks() <= before).await;
}

/// CL-08: a block of headers has ten seconds, however many frames it is cut into.
#[tokio::test(start_paused = true)]
async fn cl_08_continuations_do_not_prolong_a_head() {
    let server = inside(|_| {}).await;
    let mut wire = Wire::open(server.door.enter()).await;
    wire.get(1, "/").await;
    assert!(wire.answered(1).await);
    let began = Instant::now();
    wire.send(kind::HEADERS, flag::END_STREAM, 3, &get("/")).await;
    let closed = tokio::spawn(async move {
        loop {
            sleep(3 * SECOND).await;
            if !wire.send(kind::CONTINUATION, 0, 3, &[]).await {
                return;
            }
        }
    });
    watched(closed).await.unwrap();
    let elapsed = began.elapsed();
    assert!(elapsed >= 10 * SECOND && elapsed < 14 * SECOND, "{elapsed:?}");
}

/// CL-08: heads that follow one another are each in time, wherever the network cuts them.
#[tokio::test(start_paused = true)]
async fn cl_08_heads_that_are_cut_in_the_middle_are_not_one_slow_head() {
    let server = inside(|_| {}).await;
    let mut wire = Wire::open(server.door.enter()).await;
    wire.get(1, "/").await;
    assert!(wire.answered(1).await);
    let heads: Vec<_> =
        (1..30_u32).map(|number| frame(kind::HEADERS, flag::WHOLE, 2 * number + 1, &get("/"))).collect();
    let half = heads[0].len() / 2;
    assert!(wire.raw(&heads[0][..half]).await);
    for (number, pair) in heads.windows(2).enumerate() {
        sleep(SECOND).await;
        // The rest of one, and half of the next.
        assert!(wire.raw(&[&pair[0][half..], &pair[1][..half]].concat()).await, "{number}");
        assert!(wire.answered(2 * number as u32 + 3).await, "{number}");
    }
}

/// CL-08: a connection that waits for its next request is not slow.
#[tokio::test(start_paused = true)]
async fn cl_08_an_idle_connection_is_not_a_slow_one() {
    let server = inside(|_| {}).await;
    let mut stream = server.door.enter();
    let mut wire = Wire::open(server.door.enter()).await;
    let mut answer = [0; 1024];
    for number in 0..5 {
        stream.write_all(HEAD).await.unwrap();
        let length = watched(stream.read(&mut answer)).await.unwrap();
        assert!(answer[..length].starts_with(b"HTTP/1.1 200 "), "{number}");
        wire.get(2 * number + 1, "/").await;
        assert!(wire.answered(2 * number + 1).await, "{number}");
        sleep(30 * 60 * SECOND).await;
    }
}

/// CL-08: a slow body is not a slow head.
#[tokio::test(start_paused = true)]
async fn cl_08_a_slow_body_is_not_a_slow_head() {
    let server = inside(|_| {}).await;
    let slowly = async |stream: &mut DuplexStream, bytes: &[u8]| {
        for byte in bytes {
            sleep(STEP).await;
            stream.write_all(&[*byte]).await.unwrap();
        }
    };
    for (name, head, body) in [
        ("announced", "content-length: 9", "some text"),
        ("in chunks", "transfer-encoding: chunked", "4\r\nsome\r\n5\r\n text\r\n0\r\n\r\n"),
    ] {
        let mut stream = server.door.enter();
        let head = format!("POST /echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{head}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        slowly(&mut stream, body.as_bytes()).await;
        let mut answer = String::new();
        watched(stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{name}: {answer}");
    }
    let mut wire = Wire::open(server.door.enter()).await;
    wire.post(1, "/echo").await;
    wire.raw(&frame(kind::DATA, flag::END_STREAM, 1, b"some text")[..9]).await;
    slowly(&mut wire.io, b"some text").await;
    assert!(wire.answered(1).await);
    // Data may come and go while another head is on its way; the head's own time counts.
    wire.send(kind::HEADERS, flag::END_HEADERS, 3, &post("/echo")).await;
    for _ in 0..20 {
        sleep(SECOND).await;
        assert!(wire.send(kind::DATA, 0, 3, b"x").await);
    }
    wire.send(kind::DATA, flag::END_STREAM, 3, b"x").await;
    assert!(wire.answered(3).await);
}

/// CL-08: from the accepted connection to the first head there is one bound, wherever the time goes.
#[tokio::test(start_paused = true)]
async fn cl_08_tls_preface_and_head_share_one_deadline() {
    let authority = Authority::new("cluster.local");
    let (server, _) = inside_as(&authority, |_| {}).await;
    let began = Instant::now();
    let stream = server.door.enter();
    // Less than the handshake and the detection may take.
    sleep(7 * SECOND).await;
    let client = authority.issue(CALLER).careless_client(rustls::ALL_VERSIONS);
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(client));
    let mut tls = connector.connect("server".try_into().unwrap(), stream).await.unwrap();
    sleep(7 * SECOND).await;
    // Less than the head may take.
    tls.write_all(&HEAD[..9]).await.unwrap();
    let mut answer = Vec::new();
    let _ = watched(tls.read_to_end(&mut answer)).await;
    assert!(answer.is_empty(), "{}", answer.escape_ascii());
    about(began.elapsed(), 15, "all of it");
}

/// MT-18: handshakes are no affair of the accept loop: many that stall delay nobody.
#[tokio::test(start_paused = true)]
async fn mt_18_stalled_handshakes_delay_nobody() {
    let authority = Authority::new("cluster.local");
    let (server, _) = inside_as(&authority, |server| server.tls = Some(ServerTls::Permissive)).await;
    let mut stalled = Vec::new();
    for _ in 0..200 {
        let mut stream = server.door.enter();
        stream.write_all(HELLO).await.unwrap();
        stalled.push(stream);
    }
    served_at_once(&server).await;
    let before = server.mesh.live_tasks();
    assert!(before >= 200, "{before}");
    sleep(9 * SECOND).await;
    assert!(server.mesh.live_tasks() >= 200);
    for mut stream in stalled {
        let mut answer = Vec::new();
        let _ = watched(stream.read_to_end(&mut answer)).await;
    }
    until(|| server.mesh.live_tasks() <= before - 200).await;
}

//! RL-02, RL-04: heads of requests that are too large. The request fails, the others go on, and what is taken in is
//! bounded; how much memory that takes is measured in `server_memory.rs`.

use mesh_tower::testing::watched;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Inside, Wire, field, flag, get, inside, kind, reason};

const KIB: usize = 1024;
const FRAME: usize = 16 * KIB;

/// Header fields of one name and value each, `count` times.
fn fields(count: usize, name: &str, value: &[u8]) -> Vec<u8> {
    field(name, value).repeat(count)
}

/// Headers: a name, how many of them, and how long each value is.
type Headers = Vec<(&'static str, usize, usize)>;

/// What is sent beside the pseudo-headers, and what it looks like over HTTP/1.1.
fn excesses() -> Vec<(&'static str, Headers)> {
    vec![
        // Names, how many of them, and the length of each value.
        ("one header of 16 KiB and a byte", vec![("x-large", 1, 16 * KIB + 1)]),
        ("60 KiB in one header", vec![("x-large", 1, 60 * KIB)]),
        ("60 KiB in 60 headers", vec![("x-large", 60, KIB)]),
        ("101 headers", vec![("x-small", 101, 1)]),
        ("cookie crumbs", vec![("cookie", 3000, 1)]),
    ]
}

async fn http1(server: &Inside, head: &str) -> String {
    let mut stream = server.door.enter();
    // It may be closed before all of it is read.
    let _ = stream.write_all(head.as_bytes()).await;
    let mut answer = String::new();
    let _ = watched(stream.read_to_string(&mut answer)).await;
    answer
}

/// Sends `block` in as few frames as possible.
async fn send_block(wire: &mut Wire<tokio::io::DuplexStream>, stream: u32, block: &[u8]) {
    let pieces: Vec<_> = block.chunks(FRAME).collect();
    for (number, piece) in pieces.iter().enumerate() {
        let last = if number + 1 == pieces.len() { flag::END_HEADERS } else { 0 };
        match number {
            0 => wire.send(kind::HEADERS, flag::END_STREAM | last, stream, piece).await,
            _ => wire.send(kind::CONTINUATION, last, stream, piece).await,
        };
    }
}

#[tokio::test(start_paused = true)]
async fn rl_02_http1_heads_that_are_too_large_are_answered_431() {
    let server = inside(|_| {}).await;
    for (name, headers) in excesses() {
        let mut head = "GET / HTTP/1.1\r\nhost: a\r\n".to_owned();
        for (name, count, length) in headers {
            head.push_str(&format!("{name}: {}\r\n", "v".repeat(length)).repeat(count));
        }
        let answer = http1(&server, &(head + "\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{name}: {answer}");
    }
    // One that does not end.
    let answer = http1(&server, &format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}", "v".repeat(200 * KIB))).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    // What is allowed.
    let head = format!("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{}\r\n", "x: 12345678\r\n".repeat(98));
    assert!(http1(&server, &head).await.starts_with("HTTP/1.1 200 "));
    let head = format!("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx: {}\r\n\r\n", "v".repeat(15 * KIB));
    assert!(http1(&server, &head).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test(start_paused = true)]
async fn rl_02_http2_heads_that_are_too_large_are_answered_431() {
    let server = inside(|_| {}).await;
    let mut cases: Vec<_> = excesses()
        .into_iter()
        .map(|(name, headers)| {
            let fields = headers.iter().flat_map(|(name, count, length)| fields(*count, name, &vec![b'v'; *length]));
            (name, [get("/"), fields.collect()].concat())
        })
        .collect();
    // The value goes into HPACK's table, and is then named by a byte each time: 16 MB out of 8 KB.
    let mut indexed = field("x", &[b'v'; 4000]);
    indexed[0] = 0x40;
    cases.push(("references", [get("/"), indexed, vec![0xbe; 4000]].concat()));
    for (name, block) in cases {
        let mut wire = Wire::open(server.door.enter()).await;
        send_block(&mut wire, 1, &block).await;
        let frame = wire.wait(|frame| frame.stream == 1 || frame.kind == kind::GOAWAY).await;
        if frame.kind == kind::GOAWAY {
            assert!(
                [reason::COMPRESSION_ERROR, reason::ENHANCE_YOUR_CALM].contains(&frame.reason()),
                "{name}: {frame:?}"
            );
            continue;
        }
        assert!(frame.is_status(431), "{name}: {frame:?}");
        // The connection goes on.
        wire.get(3, "/").await;
        assert!(wire.answered(3).await, "{name}");
    }
    let mut wire = Wire::open(server.door.enter()).await;
    send_block(&mut wire, 1, &[get("/"), fields(90, "cookie", b"a=1")].concat()).await;
    assert!(wire.answered(1).await);
    send_block(&mut wire, 3, &[get("/"), field("x", &[b'v'; 15 * KIB])].concat()).await;
    assert!(wire.answered(3).await);
}

/// RL-02
#[tokio::test(start_paused = true)]
async fn rl_02_a_grpc_call_with_too_many_headers_is_told_in_its_own_words() {
    let server = inside(|_| {}).await;
    let mut wire = Wire::open(server.door.enter()).await;
    let block =
        [crate::support::post("/shop.Cart/Get"), field("content-type", b"application/grpc"), fields(100, "x", b"1")];
    wire.send(kind::HEADERS, flag::WHOLE, 1, &block.concat()).await;
    let head = wire.wait(|frame| frame.stream == 1).await;
    // RESOURCE_EXHAUSTED, in the head.
    assert!(head.is_status(200) && head.ends_stream(), "{head:?}");
    wire.get(3, "/").await;
    assert!(wire.answered(3).await);
}

/// RL-04: HEADERS without an end, in pieces of every size.
#[tokio::test(start_paused = true)]
async fn rl_04_endless_continuations_end_the_connection() {
    let server = inside(|_| {}).await;
    for size in [0, 1, 100, FRAME] {
        let mut wire = Wire::open(server.door.enter()).await;
        // A literal whose value never comes.
        wire.send(kind::HEADERS, flag::END_STREAM, 1, &[get("/"), vec![0, 1, b'x', 127, 0xff, 0xff, 0x03]].concat())
            .await;
        let mut sent = 0;
        while wire.send(kind::CONTINUATION, 0, 1, &vec![b'v'; size]).await {
            sent += size;
            assert!(sent <= 1 << 20, "{size}");
            tokio::task::yield_now().await;
        }
        // Beside what the connection holds on its way no more than a few frames are taken.
        assert!(sent <= 10 * FRAME, "{size}: {sent}");
    }
    let mut wire = Wire::open(server.door.enter()).await;
    wire.get(1, "/").await;
    assert!(wire.answered(1).await);
}

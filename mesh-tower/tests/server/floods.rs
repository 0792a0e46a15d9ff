//! RL-03, RL-05, CL-13: frames that cost their sender nothing. The connection ends; others do not notice.

use tokio::io::{AsyncWriteExt, DuplexStream};

use crate::support::{Frame, Inside, Wire, field, flag, frame, get, inside, kind, post, reason};

/// What came of a flood.
struct Poured {
    /// Rounds that got through.
    rounds: u32,
    /// The last word of the server.
    goaway: Option<Frame>,
}

/// Sends `round`, told its number, `most` times or until the server has enough. `pause`: the server sees every frame
/// before the next one comes.
async fn pour(server: &Inside, most: u32, pause: bool, round: impl Fn(u32) -> Vec<Vec<u8>>) -> Poured {
    let Wire { io, .. } = Wire::open(server.door.enter()).await;
    let (read, mut write) = tokio::io::split(io);
    let mut reader = Wire { io: tokio::io::join(read, tokio::io::sink()), polite: false };
    let reading = tokio::spawn(async move { reader.until_closed().await });
    let mut rounds = 0;
    'pouring: for number in 0..most {
        for frame in round(number) {
            if write.write_all(&frame).await.is_err() {
                break 'pouring;
            }
            if pause {
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
            }
        }
        rounds += 1;
    }
    write.shutdown().await.unwrap_or_default();
    Poured { rounds, goaway: reading.await.unwrap() }
}

/// One that asks and is answered, however busy the server is with others.
async fn bystander(server: &Inside) -> Wire<DuplexStream> {
    let mut wire = Wire::open(server.door.enter()).await;
    wire.get(1, "/").await;
    assert!(wire.answered(1).await);
    wire
}

fn open(number: u32) -> u32 {
    2 * number + 1
}

fn calm(poured: &Poured, name: &str) {
    let goaway = poured.goaway.as_ref().unwrap_or_else(|| panic!("{name}: {} rounds without GOAWAY", poured.rounds));
    assert_eq!(goaway.reason(), reason::ENHANCE_YOUR_CALM, "{name}: {}", goaway.text());
}

/// RL-03: streams that are reset before the server looks at them.
#[tokio::test(start_paused = true)]
async fn rl_03_rapid_resets_end_the_connection_and_no_other() {
    let server = inside(|_| {}).await;
    let mut other = bystander(&server).await;
    let poured = pour(&server, 10_000, false, |number| {
        let stream = open(number);
        let reset = frame(kind::RST_STREAM, 0, stream, &reason::CANCEL.to_be_bytes());
        vec![[frame(kind::HEADERS, flag::WHOLE, stream, &get("/hold")), reset].concat()]
    })
    .await;
    assert!(poured.rounds < 5000, "{}", poured.rounds);
    calm(&poured, "rapid reset");
    other.get(3, "/").await;
    assert!(other.answered(3).await);
    server.app.held(0).await;
}

/// RL-03: streams that are reset as soon as their handler has begun. Nothing of them is pending, so the limit above does
/// not see them.
#[tokio::test(start_paused = true)]
async fn rl_03_resets_of_requests_that_began_end_the_connection_too() {
    let server = inside(|server| server.limits.max_control_frames = 100).await;
    let mut other = bystander(&server).await;
    let poured = pour(&server, 10_000, true, |number| {
        let stream = open(number);
        let reset = frame(kind::RST_STREAM, 0, stream, &reason::CANCEL.to_be_bytes());
        vec![frame(kind::HEADERS, flag::WHOLE, stream, &get("/hold")), reset]
    })
    .await;
    assert!(poured.rounds < 2500, "{}", poured.rounds);
    other.get(3, "/").await;
    assert!(other.answered(3).await);
    server.app.held(0).await;
}

/// RL-03: streams that the server is made to reset (MadeYouReset, CVE-2025-8671).
#[tokio::test(start_paused = true)]
async fn rl_03_resets_that_the_server_is_made_to_send_end_the_connection_and_no_other() {
    let server = inside(|_| {}).await;
    let mut other = bystander(&server).await;
    let headers = |stream, fields: Vec<u8>| frame(kind::HEADERS, flag::WHOLE, stream, &fields);
    type Round<'a> = Box<dyn Fn(u32) -> Vec<u8> + 'a>;
    let cases: [(&str, Round<'_>); 8] = [
        (
            "a window that overflows",
            Box::new(|stream| {
                let update = frame(kind::WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes());
                [headers(stream, get("/hold")), update].concat()
            }),
        ),
        (
            "a window that grows by nothing",
            Box::new(|stream| [headers(stream, get("/hold")), frame(kind::WINDOW_UPDATE, 0, stream, &[0; 4])].concat()),
        ),
        (
            "data behind the end",
            Box::new(|stream| [headers(stream, get("/hold")), frame(kind::DATA, 0, stream, b"x")].concat()),
        ),
        (
            "a head behind the end",
            Box::new(|stream| [headers(stream, get("/hold")), headers(stream, get("/hold"))].concat()),
        ),
        (
            "a stream that depends on itself",
            Box::new(|stream| {
                let priority = [&stream.to_be_bytes()[..], &[1]].concat();
                [headers(stream, get("/hold")), frame(kind::PRIORITY, 0, stream, &priority)].concat()
            }),
        ),
        (
            "more data than announced",
            Box::new(|stream| {
                let block = [post("/echo"), field("content-length", b"1")].concat();
                let head = frame(kind::HEADERS, flag::END_HEADERS, stream, &block);
                [head, frame(kind::DATA, 0, stream, b"xx")].concat()
            }),
        ),
        ("a head without a method", Box::new(|stream| headers(stream, vec![0x86, 0x84]))),
        (
            "a head with a connection's header",
            Box::new(|stream| headers(stream, [get("/hold"), field("connection", b"close")].concat())),
        ),
    ];
    for (number, (name, round)) in cases.iter().enumerate() {
        for pause in [false, true] {
            let poured = pour(&server, 10_000, pause, |number| vec![round(open(number))]).await;
            assert!(poured.rounds < 5000, "{name}: {}", poured.rounds);
            assert!(poured.goaway.is_some(), "{name}: {} rounds", poured.rounds);
        }
        let stream = 3 + 2 * number as u32;
        other.get(stream, "/").await;
        assert!(other.answered(stream).await, "{name}");
    }
    server.app.held(0).await;
}

/// RL-05, CL-13: frames that ask for nothing.
#[tokio::test(start_paused = true)]
async fn cl_13_rl_05_frames_that_ask_for_nothing_end_the_connection_and_no_other() {
    let server = inside(|server| server.limits.max_control_frames = 100).await;
    let mut other = bystander(&server).await;
    let cases = [
        ("pings", frame(kind::PING, 0, 0, b"whereart")),
        ("pongs", frame(kind::PING, flag::ACK, 0, b"whereart")),
        ("settings", frame(kind::SETTINGS, 0, 0, &[])),
        ("priorities", frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 3, 1])),
        ("windows", frame(kind::WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())),
        ("unknown frames", frame(0x42, 0, 0, b"anything")),
        ("empty data", frame(kind::DATA, 0, 1, &[])),
        ("empty data of a stream that is over", frame(kind::DATA, 0, 3, &[])),
        ("resets of a stream that is over", frame(kind::RST_STREAM, 0, 3, &reason::CANCEL.to_be_bytes())),
    ];
    for (number, (name, flood)) in cases.into_iter().enumerate() {
        // One stream that waits for more of its body, and one that is over.
        let before = [
            frame(kind::HEADERS, flag::END_HEADERS, 1, &post("/echo")),
            frame(kind::HEADERS, flag::WHOLE, 3, &get("/")),
        ]
        .concat();
        let poured =
            pour(&server, 20_000, false, |number| vec![if number == 0 { before.clone() } else { flood.clone() }]).await;
        // A thousand, and what the connection holds on its way.
        assert!(poured.rounds < 10_000, "{name}: {}", poured.rounds);
        let stream = 3 + 2 * number as u32;
        other.get(stream, "/").await;
        assert!(other.answered(stream).await, "{name}");
    }
}

/// CL-13: what a busy client sends is no flood: windows and pings that come with what it asks for.
#[tokio::test(start_paused = true)]
async fn cl_13_a_busy_client_is_no_flood() {
    let server = inside(|server| server.limits.max_control_frames = 1).await;
    let mut wire = Wire::open(server.door.enter()).await;
    for number in 0..2000 {
        let stream = open(number);
        wire.get(stream, "/").await;
        wire.send(kind::WINDOW_UPDATE, 0, 0, &10_u32.to_be_bytes()).await;
        if number % 2 == 0 {
            wire.send(kind::PING, 0, 0, b"whereart").await;
        }
        assert!(wire.answered(stream).await, "{number}");
    }
}

/// RL-03: a client that gives up on most of what it asks for, at a pace that no attack has, is served on.
#[tokio::test(start_paused = true)]
async fn rl_03_a_client_that_cancels_now_and_then_is_served_on() {
    let server = inside(|_| {}).await;
    let mut wire = Wire::open(server.door.enter()).await;
    for number in 0..3000 {
        let stream = open(number);
        wire.get(stream, "/hold").await;
        server.app.held(1).await;
        wire.send(kind::RST_STREAM, 0, stream, &reason::CANCEL.to_be_bytes()).await;
        server.app.held(0).await;
        // A hundred a second.
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    wire.get(open(3000), "/").await;
    assert!(wire.answered(open(3000)).await);
}

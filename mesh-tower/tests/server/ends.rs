//! RL-10, RL-11, RL-12, RL-14: every connection has a place, every place is given back, and nothing is left behind.

use std::time::Duration;

use mesh_tower::Mesh;
use mesh_tower::core::model::ServerTls;
use mesh_tower::testing::{Authority, watched};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, sleep};

use crate::support::{
    CALLER, Inside, OTHER, Running, Wire, client, client_through, inside, inside_as, settled, start, text, until,
};

const SECOND: Duration = Duration::from_secs(1);
const UPGRADE: &[u8] = b"GET /upgrade HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";

/// Asks for another protocol, and gets it.
async fn upgrade(stream: &mut DuplexStream) {
    stream.write_all(UPGRADE).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(watched(stream.read_u8()).await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", answer.escape_ascii());
}

async fn echoed(stream: &mut DuplexStream) -> bool {
    let mut answer = [0; 5];
    stream.write_all(b"hello").await.is_ok()
        && watched(stream.read_exact(&mut answer)).await.is_ok()
        && &answer == b"hello"
}

/// Whether a connection from `from` is let in.
async fn is_let_in(server: &Inside, from: [u8; 4]) -> bool {
    let mut stream = server.door.enter_from(from, 1024);
    // It may be closed already.
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    let mut answer = Vec::new();
    let _ = watched(stream.read_to_end(&mut answer)).await;
    answer.starts_with(b"HTTP/1.1 200 ")
}

#[tokio::test(start_paused = true)]
async fn rl_10_connections_are_limited_in_all_and_by_address() {
    let server = inside(|server| {
        server.limits.max_connections = Some(3);
        server.limits.max_connections_per_address = Some(2);
    })
    .await;
    let (one, another, third) = ([198, 51, 100, 1], [198, 51, 100, 2], [198, 51, 100, 3]);
    let first = server.door.enter_from(one, 1024);
    let second = server.door.enter_from(one, 1024);
    assert!(!is_let_in(&server, one).await);
    assert!(is_let_in(&server, another).await);
    settled().await;
    let _third = server.door.enter_from(another, 1024);
    assert!(!is_let_in(&server, third).await);
    drop((first, second));
    settled().await;
    assert!(is_let_in(&server, one).await);
    assert!(is_let_in(&server, third).await);
}

/// RL-10: whichever way a connection ends, the next one finds its place free.
#[tokio::test(start_paused = true)]
async fn rl_10_every_way_out_gives_the_place_back() {
    let authority = Authority::new("cluster.local");
    let (server, _) = inside_as(&authority, |server| {
        server.tls = Some(ServerTls::Permissive);
        server.limits.max_connections = Some(1);
        server.identities = vec![mesh_tower::core::identity::SanMatch::uri(CALLER)];
    })
    .await;
    let before = server.mesh.live_tasks();
    for way in
        ["said nothing", "left", "refused", "no certificate", "malformed", "panic", "failed", "panic h2", "upgrade"]
    {
        let mut stream = server.door.enter();
        let tls = async |config, stream| {
            let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
            let mut answer = Vec::new();
            if let Ok(mut tls) = connector.connect("server".try_into().unwrap(), stream).await {
                let _ = watched(tls.read_to_end(&mut answer)).await;
            }
            assert!(answer.is_empty());
        };
        let http = async |mut stream: DuplexStream, path: &str| {
            let head = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            watched(stream.read_to_string(&mut answer)).await.unwrap();
            answer
        };
        match way {
            "said nothing" => assert_eq!(watched(stream.read(&mut [0])).await.unwrap(), 0),
            "left" => {
                stream.write_all(b"GET / HT").await.unwrap();
                drop(stream);
            }
            "refused" => tls(authority.issue(OTHER).careless_client(rustls::ALL_VERSIONS), stream).await,
            "no certificate" => tls(mesh_tower::testing::anonymous_client(rustls::ALL_VERSIONS), stream).await,
            "malformed" => {
                stream.write_all(b"\0\0\0\0\r\n\r\n").await.unwrap();
                let mut answer = String::new();
                watched(stream.read_to_string(&mut answer)).await.unwrap();
                assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
            }
            "panic" => assert!(http(stream, "/panic").await.starts_with("HTTP/1.1 500 ")),
            "failed" => assert_eq!(http(stream, "/fail").await, ""),
            "panic h2" => {
                let mut wire = Wire::open(stream).await;
                wire.get(1, "/panic").await;
                assert!(wire.wait(|frame| frame.stream == 1).await.is_status(500));
            }
            _ => {
                upgrade(&mut stream).await;
                assert!(echoed(&mut stream).await);
                assert!(!is_let_in(&server, [198, 51, 100, 9]).await);
                drop(stream);
                server.app.upgraded(0).await;
            }
        }
        settled().await;
        assert_eq!(server.mesh.live_tasks(), before, "{way}");
        assert!(is_let_in(&server, [198, 51, 100, 9]).await, "{way}");
        settled().await;
    }
}

/// RL-14: a handler's failure is that of its request; over HTTP/1.1 an error ends the connection, which cannot say more.
#[tokio::test(start_paused = true)]
async fn rl_14_a_failure_is_that_of_its_request() {
    let server = inside(|_| {}).await;
    let mut wire = Wire::open(server.door.enter()).await;
    for (stream, path) in [(1, "/fail"), (3, "/panic"), (5, "/fail"), (7, "/panic")] {
        wire.get(stream, path).await;
        assert!(!wire.answered(stream).await, "{path}");
    }
    wire.get(9, "/").await;
    assert!(wire.answered(9).await);
    let mut stream = server.door.enter();
    for path in ["/panic", "/", "/panic", "/"] {
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = [0; 1024];
        let length = watched(stream.read(&mut answer)).await.unwrap();
        let expected: &[u8] = if path == "/" { b"HTTP/1.1 200 " } else { b"HTTP/1.1 500 " };
        assert!(answer[..length].starts_with(expected), "{}", answer[..length].escape_ascii());
    }
    stream.write_all(b"GET /fail HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert_eq!(watched(stream.read(&mut [0; 1024])).await.unwrap(), 0);
}

/// Connections of every kind, each with something under way.
struct Busy {
    held: DuplexStream,
    wire: Wire<DuplexStream>,
    silent: DuplexStream,
    upgraded: DuplexStream,
}

impl Busy {
    async fn new(server: &Inside) -> Self {
        let mut held = server.door.enter();
        held.write_all(b"GET /hold HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut wire = Wire::open(server.door.enter()).await;
        wire.get(1, "/hold").await;
        wire.get(3, "/stream").await;
        let mut upgraded = server.door.enter();
        upgrade(&mut upgraded).await;
        assert!(echoed(&mut upgraded).await);
        server.app.held(3).await;
        Self { held, wire, silent: server.door.enter(), upgraded }
    }

    /// Waits until all of them are closed; none got an answer.
    async fn closed(mut self) {
        for stream in [&mut self.held, &mut self.silent, &mut self.upgraded] {
            assert_eq!(watched(stream.read_to_end(&mut Vec::new())).await.unwrap(), 0);
        }
        self.wire.until_closed().await;
    }
}

/// RL-11, RL-12: whoever drops the future of a server wants it to end, and its handlers too.
#[tokio::test(start_paused = true)]
async fn rl_11_dropping_the_server_ends_all_of_it() {
    let server = inside(|_| {}).await;
    let before = server.mesh.live_tasks();
    let busy = Busy::new(&server).await;
    let began = Instant::now();
    server.task.abort();
    busy.closed().await;
    until(|| server.mesh.live_tasks() == before).await;
    server.app.held(0).await;
    server.app.upgraded(0).await;
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    // It can serve again: only that one server has ended.
    assert!(server.mesh.is_ready());
}

/// RL-11, RL-12
#[tokio::test(start_paused = true)]
async fn rl_11_the_end_of_the_mesh_is_that_of_its_servers() {
    let server = inside(|_| {}).await;
    let busy = Busy::new(&server).await;
    let began = Instant::now();
    server.mesh.shutdown().await;
    busy.closed().await;
    server.app.held(0).await;
    server.app.upgraded(0).await;
    assert_eq!(server.mesh.live_tasks(), 0);
    let drained = watched(server.task).await.unwrap();
    assert!(drained.cut > 0);
    assert!(began.elapsed() <= SECOND, "{:?}", began.elapsed());
}

/// RL-11: a mesh lives on in its server, and goes with it.
#[tokio::test(start_paused = true)]
async fn rl_11_a_server_holds_its_mesh() {
    let Inside { mesh, door, app, task } = inside(|_| {}).await;
    let client = client_through(&door).await;
    drop(mesh);
    sleep(SECOND).await;
    for url in ["http://h1/", "http://h2/"] {
        text(client.http_client().get(url).await.unwrap()).await;
    }
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    sleep(SECOND).await;
    assert!(client.http_client().get("http://h1/").await.is_err());
    app.held(0).await;
}

/// RL-11: over real sockets, whose closing the other side sees.
#[tokio::test]
async fn rl_11_sockets_are_closed() {
    let Running { mesh, address, app, task } = start(|_| {}).await;
    let caller = client(address).await.http_client();
    let waiting: Vec<_> =
        ["http://h1/hold", "http://h2/hold"].map(|url| tokio::spawn(caller.get(url))).into_iter().collect();
    app.held(2).await;
    watched(mesh.shutdown()).await;
    for waiting in waiting {
        assert!(watched(waiting).await.unwrap().is_err());
    }
    watched(task).await.unwrap();
    assert_eq!(mesh.live_tasks(), 0);
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    drop::<Mesh>(mesh);
}

/// CL-02: a connection that speaks another protocol is under way like a request: it has the grace to end.
#[tokio::test(start_paused = true)]
async fn cl_02_other_protocols_have_the_grace_to_end() {
    for leaves in [true, false] {
        let server = inside(|server| server.drain.grace = 20 * SECOND).await;
        let mut stream = server.door.enter();
        upgrade(&mut stream).await;
        sleep(100 * SECOND).await;
        let began = Instant::now();
        server.mesh.start_drain();
        sleep(15 * SECOND).await;
        assert!(echoed(&mut stream).await);
        if leaves {
            drop(stream);
            assert_eq!(server.drained().await.cut, 0);
            assert_eq!(began.elapsed().as_secs(), 15);
        } else {
            let app = server.app.clone();
            assert_eq!(server.drained().await.cut, 1);
            assert_eq!(began.elapsed().as_secs(), 20);
            assert_eq!(watched(stream.read(&mut [0])).await.unwrap(), 0);
            app.upgraded(0).await;
        }
    }
}

/// TL-06: whoever looks at the metrics sees what connections are closed for.
#[cfg(feature = "prometheus")]
#[tokio::test(start_paused = true)]
async fn tl_06_what_callers_did_is_counted() {
    use crate::support::{frame, kind, refused};

    let server = inside(|server| server.limits.send_timeout = Some(Duration::from_secs(60))).await;
    let large = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(20_000));
    let hello = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(kind::SETTINGS, 0, 0, &[])].concat();
    let pings = [&hello[..], &frame(kind::PING, 0, 0, &[0; 8]).repeat(20_000)].concat();
    for (reason, bytes, reads) in [
        ("detection_timeout", &b""[..], true),
        ("first_request_timeout", &hello, true),
        ("header_timeout", b"GET / HTTP/1.1\r\nhost", true),
        ("headers", large.as_bytes(), true),
        ("malformed", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", true),
        ("control_frames", &pings, true),
        ("send_timeout", b"GET /bytes/300000 HTTP/1.1\r\nhost: a\r\n\r\n", false),
    ] {
        let (mut read, mut write) = tokio::io::split(server.door.enter());
        let writing = async { write.write_all(bytes).await };
        if reads {
            let reading = async { read.read_to_end(&mut Vec::new()).await };
            let _ = watched(async { tokio::join!(writing, reading) }).await;
        } else {
            writing.await.unwrap();
            sleep(Duration::from_secs(130)).await;
        }
        assert_eq!(refused(&server, reason), 1, "{reason}");
    }
}

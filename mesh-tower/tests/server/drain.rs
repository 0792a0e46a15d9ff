//! CL-02: the way out of a whole server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_tower::Mesh;
use mesh_tower::core::model::Config;
use mesh_tower::testing::watched;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

use crate::support::{
    Wire, calling, client, client_through, inside, kind, reason, run_on, server, settled, start, text,
};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn both_versions_of_http_are_served_on_one_port() {
    let server = start(|_| {}).await;
    let client = client(server.address).await.http_client();
    for (url, expected) in [
        ("http://h1/a", "HTTP/1.1 /a nobody"),
        ("http://h2/b", "HTTP/2.0 /b nobody"),
        ("http://h1/c", "HTTP/1.1 /c nobody"),
    ] {
        assert_eq!(text(client.get(url).await.unwrap()).await, expected);
    }
}

#[tokio::test]
async fn cl_02_requests_under_way_end_and_connections_go() {
    let server = start(|_| {}).await;
    let client = client(server.address).await.http_client();
    let held: Vec<_> =
        ["http://h1/hold", "http://h2/hold"].map(|url| tokio::spawn(client.get(url))).into_iter().collect();
    server.app.held(2).await;
    assert!(server.mesh.is_ready());
    server.mesh.start_drain();
    assert!(!server.mesh.is_ready());
    let address = server.address;
    // It no longer listens, but waits for them.
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    server.app.open();
    for held in held {
        assert!(text(held.await.unwrap().unwrap()).await.contains(" /hold "));
    }
    assert_eq!(server.drained().await.cut, 0);
}

/// CL-02, step by step: readiness, the delay, GOAWAY, and twenty streams that end whole.
#[tokio::test(start_paused = true)]
async fn cl_02_twenty_long_streams_end_whole() {
    let server = inside(|server| server.drain.delay = 5 * SECOND).await;
    let mesh = client_through(&server.door).await;
    let client = mesh.http_client();
    let streams: Vec<_> = (0..20).map(|_| tokio::spawn(client.get("http://h2/stream"))).collect();
    let mut wire = Wire::open(server.door.enter()).await;
    wire.get(1, "/stream").await;
    server.app.held(21).await;
    let began = Instant::now();
    server.mesh.start_drain();
    assert!(!server.mesh.is_ready());
    sleep(4 * SECOND).await;
    // Others have not heard of it.
    for url in ["http://h1/", "http://h2/"] {
        assert_eq!(client.get(url).await.unwrap().status(), 200);
    }
    let mut late = Wire::open(server.door.enter()).await;
    late.get(1, "/").await;
    assert!(late.answered(1).await);
    wire.get(3, "/").await;
    assert!(wire.answered(3).await);
    let goaway = wire.wait(|frame| frame.kind == kind::GOAWAY).await;
    assert_eq!((goaway.reason(), began.elapsed().as_secs()), (reason::NO_ERROR, 5));
    assert_eq!(late.until_closed().await.unwrap().reason(), reason::NO_ERROR);
    assert!(client.get("http://h1/").await.is_err());
    sleep(10 * SECOND).await;
    server.app.open();
    for stream in streams {
        assert_eq!(text(stream.await.unwrap().unwrap()).await, "begin end");
    }
    wire.until_closed().await;
    assert_eq!(server.drained().await.cut, 0);
    assert_eq!(began.elapsed().as_secs(), 15);
}

/// CL-02: what does not end within the grace is cut, and counted.
#[tokio::test(start_paused = true)]
async fn cl_02_what_does_not_end_is_cut_after_the_grace() {
    let server = inside(|_| {}).await;
    settled().await;
    let before = server.mesh.live_tasks();
    let mut wires = Vec::new();
    for _ in 0..3 {
        let mut wire = Wire::open(server.door.enter()).await;
        wire.get(1, "/hold").await;
        wires.push(wire);
    }
    let mut stream = server.door.enter();
    stream.write_all(b"GET /hold HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    server.app.held(4).await;
    let began = Instant::now();
    let (app, mesh) = (server.app.clone(), server.mesh.clone());
    mesh.start_drain();
    assert_eq!(server.drained().await.cut, 4);
    assert_eq!(began.elapsed().as_secs(), 20);
    for mut wire in wires {
        wire.until_closed().await;
    }
    assert_eq!(watched(stream.read_to_end(&mut Vec::new())).await.unwrap(), 0);
    app.held(0).await;
    settled().await;
    assert!(mesh.live_tasks() <= before);
}

/// CL-02: a second word ends everything at once, wherever the first one has got to.
#[tokio::test(start_paused = true)]
async fn cl_02_the_second_word_ends_everything() {
    for (after, delay) in [(0, 5), (3, 5), (10, 5)] {
        let server = inside(|server| server.drain.delay = delay * SECOND).await;
        let mut wire = Wire::open(server.door.enter()).await;
        wire.get(1, "/hold").await;
        server.app.held(1).await;
        let mesh = server.mesh.clone();
        mesh.start_drain();
        sleep(after * SECOND).await;
        let began = Instant::now();
        mesh.force_drain();
        wire.until_closed().await;
        assert_eq!(server.drained().await.cut, 1, "{after}");
        assert_eq!(began.elapsed(), Duration::ZERO, "{after}");
    }
}

/// A server on `address`, as a new process would start it.
async fn restart(address: SocketAddr) -> crate::support::Running {
    let config = Config::new().with_server(server(|server| server.drain.delay = Duration::from_millis(200)));
    let mesh = Mesh::builder().config(config).build().await.unwrap();
    let listener = watched(async {
        loop {
            match TcpListener::bind(address).await {
                Ok(listener) => return listener,
                Err(_) => sleep(Duration::from_millis(5)).await,
            }
        }
    })
    .await;
    run_on(mesh, listener)
}

/// CL-02: two replicas are replaced one after the other, under 25 requests a second of each version of HTTP.
#[tokio::test]
async fn cl_02_a_rolling_restart_loses_nothing() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut replicas = [restart(any).await, restart(any).await];
    let addresses = [replicas[0].address, replicas[1].address];
    let mesh = Mesh::builder().config(calling(&addresses, None)).build().await.unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let load = ["http://h1/", "http://h2/"].map(|url| {
        let (client, stop) = (mesh.http_client(), stop.clone());
        tokio::spawn(async move {
            let mut asked = Vec::new();
            while !stop.is_cancelled() {
                let request = client.get(url);
                asked.push(tokio::spawn(async move { request.await.map(|answer| answer.status()) }));
                sleep(Duration::from_millis(40)).await;
            }
            let count = asked.len();
            for asked in asked {
                assert_eq!(asked.await.unwrap().unwrap_or_else(|error| panic!("{url}: {error}")), 200);
            }
            count
        })
    });
    for round in 0..4 {
        // Both serve: the one that was just started is found again.
        for replica in &replicas {
            replica.app.served(5).await;
        }
        let old = &mut replicas[round % 2];
        old.mesh.start_drain();
        assert_eq!(watched(&mut old.task).await.unwrap().cut, 0, "{round}");
        *old = restart(addresses[round % 2]).await;
    }
    stop.cancel();
    for load in load {
        assert!(watched(load).await.unwrap() > 40);
    }
}

/// What the process of [`cl_02_sigterm_drains_and_a_second_one_ends`] does.
#[cfg(unix)]
#[tokio::test]
#[ignore = "the process that another test starts"]
#[allow(clippy::print_stdout, reason = "this is how it talks to the test")]
async fn a_process_that_serves() {
    if std::env::var_os("MESH_TEST_PROCESS").is_none() {
        return;
    }
    let config = Config::new().with_server(server(|server| server.drain.grace = 600 * SECOND));
    let mesh = Mesh::builder().config(config).build().await.unwrap();
    mesh.drain_on_signals();
    let server = run_on(mesh, TcpListener::bind("127.0.0.1:0").await.unwrap());
    println!("\nlistening on {}", server.address);
    println!("\ncut {}", server.task.await.unwrap().cut);
}

/// CL-02: SIGTERM drains, a second one ends it at once; either way the process succeeds.
#[cfg(unix)]
#[tokio::test]
async fn cl_02_sigterm_drains_and_a_second_one_ends() {
    use tokio::io::{AsyncBufReadExt as _, BufReader};

    for signals in [1, 2] {
        let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["drain::a_process_that_serves", "--exact", "--ignored", "--nocapture"])
            .env("MESH_TEST_PROCESS", "1")
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut word = async |word: &str| {
            watched(async {
                loop {
                    let line = lines.next_line().await.unwrap().expect("the process ended");
                    if let Some(rest) = line.strip_prefix(word) {
                        return rest.to_owned();
                    }
                }
            })
            .await
        };
        let address: SocketAddr = word("listening on ").await.parse().unwrap();
        let mut wire = Wire::open(tokio::net::TcpStream::connect(address).await.unwrap()).await;
        wire.get(1, if signals == 1 { "/" } else { "/hold" }).await;
        if signals == 1 {
            assert!(wire.answered(1).await);
        }
        let pid = child.id().unwrap().to_string();
        let kill = async || {
            let status = tokio::process::Command::new("kill").args(["-TERM", &pid]).status().await.unwrap();
            assert!(status.success());
        };
        kill().await;
        // It has heard of the first one before the second one is sent.
        wire.wait(|frame| frame.kind == kind::GOAWAY).await;
        if signals == 2 {
            kill().await;
        }
        assert_eq!(word("cut ").await, (signals - 1).to_string());
        wire.until_closed().await;
        assert!(watched(child.wait()).await.unwrap().success());
    }
}

/// The mesh drains as one: all of its servers, and whoever waits for that hears of it.
#[tokio::test(start_paused = true)]
async fn draining_waits_for_the_end() {
    let server = inside(|_| {}).await;
    let mut wire = Wire::open(server.door.enter()).await;
    wire.get(1, "/hold").await;
    server.app.held(1).await;
    let mesh = Arc::new(server.mesh.clone());
    let draining = tokio::spawn(mesh.draining());
    let drained = tokio::spawn({
        let mesh = Arc::clone(&mesh);
        async move { mesh.drain().await }
    });
    watched(draining).await.unwrap();
    sleep(SECOND).await;
    assert!(!drained.is_finished());
    server.app.open();
    watched(drained).await.unwrap();
    assert_eq!(server.drained().await.cut, 0);
}

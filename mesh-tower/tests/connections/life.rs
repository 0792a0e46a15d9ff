//! Connections that nobody needs, that are old, or have served enough; and how many there may be. On a paused clock.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use mesh_tower::core::balance::State;
use mesh_tower::core::model::{Address, Backend, ConnectBackoff, Protocol};
use mesh_tower::core::resilience::limits::Limit;
use mesh_tower::testing::{Fault, MemoryNetwork, Seen, TestBackend, watched};
use mesh_tower::{Connect, Connecting, Mesh};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::support::{Peer, URI, Wire, backend, config_of, finish, get, kind, mesh_over, reason};

const HALF_AN_HOUR: Duration = Duration::from_secs(30 * 60);

fn http1(addresses: &[SocketAddr]) -> Backend {
    let mut backend = backend("b", addresses);
    backend.protocol = Protocol::Http1;
    backend
}

/// Answers every request with the number of its connection.
async fn numbered(number: usize, stream: mesh_tower::testing::MemoryStream) {
    let Some(mut wire) = Wire::greet(stream, None).await else { return };
    while let Some((stream, _)) = wire.request().await {
        wire.answer(stream, number.to_string().as_bytes()).await;
    }
}

fn is_state(wanted: State) -> impl Fn(&Seen) -> bool {
    move |seen| matches!(seen, Seen::Endpoint { state, .. } if *state == wanted)
}

#[tokio::test(start_paused = true)]
async fn cl_12_an_idle_connection_closes_and_the_next_request_makes_another() {
    watched(async {
        let network = MemoryNetwork::new();
        let peer = Peer::start(&network, numbered);
        let (mesh, events, _configs) = mesh_over(&network, config_of(backend("b", &[peer.address]))).await;
        // Given a connection that is used every 29 minutes,
        for _ in 0..5 {
            assert_eq!(get(&mesh).await.unwrap(), "0");
            sleep(Duration::from_secs(29 * 60)).await;
        }
        assert_eq!(get(&mesh).await.unwrap(), "0");
        let last = Instant::now();
        // when nobody uses it any more, then it closes, and the endpoint is idle,
        peer.deserted().await;
        let idled = last.elapsed();
        assert!(idled >= HALF_AN_HOUR && idled <= HALF_AN_HOUR * 5 / 4 + Duration::from_millis(10), "{idled:?}");
        events.wait_for_state(peer.address, State::Idle).await;
        sleep(HALF_AN_HOUR).await;
        assert_eq!(peer.accepted(), 1);
        // and the next request is served by a new one.
        assert_eq!(get(&mesh).await.unwrap(), "1");
        finish(mesh).await;
    })
    .await;
}

/// A stream that lasts is a use of its connection.
#[tokio::test(start_paused = true)]
async fn cl_12_a_connection_with_a_stream_is_not_idle() {
    watched(async {
        let network = MemoryNetwork::new();
        let peer = Peer::start(&network, |_, stream| async move {
            let mut wire = Wire::greet(stream, None).await.unwrap();
            let (stream, _) = wire.request().await.unwrap();
            wire.head(stream).await;
            sleep(HALF_AN_HOUR * 5).await;
            wire.data(stream, b"whole", true).await;
            while wire.next().await.is_some() {}
        });
        let (mesh, _, _configs) = mesh_over(&network, config_of(backend("b", &[peer.address]))).await;
        assert_eq!(get(&mesh).await.unwrap(), "whole");
        assert_eq!(peer.accepted(), 1);
        finish(mesh).await;
    })
    .await;
}

/// Requests that come just as their connection is given up are served.
#[tokio::test(start_paused = true)]
async fn cl_12_no_request_fails_by_an_idle_timeout() {
    watched(async {
        let network = MemoryNetwork::new();
        let peer = Peer::start(&network, numbered);
        let mut backend = backend("b", &[peer.address]);
        backend.connections.idle_timeout = Some(Duration::from_millis(4));
        let (mesh, _, _configs) = mesh_over(&network, config_of(backend)).await;
        for n in 0..500 {
            get(&mesh).await.unwrap_or_else(|error| panic!("request {n}: {error:?}"));
            sleep(Duration::from_millis(n % 7)).await;
        }
        assert!(peer.accepted() > 10, "{}", peer.accepted());
        finish(mesh).await;
    })
    .await;
}

/// Common servers close after 60 s; ours go before, whoever calls or not.
#[tokio::test(start_paused = true)]
async fn cl_12_idle_http1_connections_close_after_50_seconds() {
    watched(async {
        for (timeout, expected) in [(Some(HALF_AN_HOUR), 50), (None, 50), (Some(Duration::from_secs(7)), 7)] {
            let network = MemoryNetwork::new();
            let server = TestBackend::named("one").start_in(&network);
            let mut backend = http1(&[server.address()]);
            backend.connections.idle_timeout = timeout;
            let (mesh, events, _configs) = mesh_over(&network, config_of(backend)).await;
            let mut calls = JoinSet::new();
            for _ in 0..5 {
                let mesh = mesh.clone();
                calls.spawn(async move { get(&mesh).await.unwrap() });
            }
            calls.join_all().await;
            // It is used again just before the first look at it.
            sleep(Duration::from_secs(expected - 1)).await;
            get(&mesh).await.unwrap();
            let last = Instant::now();
            assert!(server.open_connections() >= 1);
            let expected = Duration::from_secs(expected);
            sleep(expected - Duration::from_millis(10)).await;
            assert_eq!(server.open_connections(), 1, "the one that was used last");
            server.deserted().await;
            assert!(last.elapsed() <= expected + Duration::from_millis(10), "{:?}", last.elapsed());
            events.assert_none("an endpoint of HTTP/1.1 stays ready", is_state(State::Idle));
            get(&mesh).await.unwrap();
            finish(mesh).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_is_replaced_before_it_goes() {
    watched(async {
        // Given connections that live for ten minutes, and a peer where one takes a second to be made,
        let network = MemoryNetwork::new();
        let peer = Peer::start(&network, |number, stream| async move {
            sleep(Duration::from_secs(1)).await;
            let Some(mut wire) = Wire::greet(stream, None).await else { return };
            let mut long = None;
            while let Some((stream, body)) = wire.request().await {
                if body == b"long" {
                    wire.head(stream).await;
                    long = Some(stream);
                } else {
                    wire.answer(stream, number.to_string().as_bytes()).await;
                }
                if body == b"end"
                    && let Some(long) = long.take()
                {
                    wire.data(long, b"whole", true).await;
                }
            }
        });
        let mut backend = backend("b", &[peer.address]);
        backend.connections.max_age = Some(Duration::from_secs(600));
        let (mesh, events, _configs) = mesh_over(&network, config_of(backend)).await;
        let client = mesh.http_client();
        let long = client.post(URI, "long").await.unwrap().into_body();
        let began = Instant::now();
        let (mut changes, mut last) = (Vec::new(), get(&mesh).await.unwrap());
        while began.elapsed() < Duration::from_secs(3600) {
            // No request waits for a connection, let alone fails.
            let asked = Instant::now();
            let now = get(&mesh).await.unwrap();
            assert!(asked.elapsed() < Duration::from_millis(10), "{:?}", asked.elapsed());
            if now != last {
                changes.push(began.elapsed().as_secs());
                last = now;
            }
            sleep(Duration::from_millis(500)).await;
        }
        // then each of them lasts that long, more or less, and the endpoint was ready all the time.
        let mut before = 0;
        assert!((5..=7).contains(&changes.len()), "{changes:?}");
        for change in &changes {
            assert!((538..=663).contains(&(change - before)), "{changes:?}");
            before = *change;
        }
        events.assert_count(1, "connecting", is_state(State::Connecting));
        events.assert_none("idle", is_state(State::Idle));
        // A stream that was on the first one is still there.
        assert_eq!(peer.open(), 2);
        drop(long);
        finish(mesh).await;
    })
    .await;
}

/// One that cannot be replaced serves on, whatever its age.
#[tokio::test(start_paused = true)]
async fn an_old_connection_stays_while_there_is_no_other() {
    watched(async {
        let network = MemoryNetwork::new();
        let peer = Peer::start(&network, |number, stream| async move {
            // Those in the middle are dropped before they speak.
            if number == 0 || number >= 20 {
                numbered(number, stream).await;
            }
        });
        let mut backend = backend("b", &[peer.address]);
        backend.connections.max_age = Some(Duration::from_secs(60));
        let (mesh, events, _configs) = mesh_over(&network, config_of(backend)).await;
        while peer.accepted() <= 20 {
            assert_eq!(get(&mesh).await.unwrap(), "0");
            sleep(Duration::from_secs(1)).await;
        }
        get(&mesh).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        assert_eq!(get(&mesh).await.unwrap(), "20");
        events.assert_count(1, "connecting", is_state(State::Connecting));
        events.assert_none("failing", is_state(State::Failing));
        finish(mesh).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_old_http1_connection_is_not_used() {
    watched(async {
        let network = MemoryNetwork::new();
        let server = TestBackend::named("one").start_in(&network);
        let mut backend = http1(&[server.address()]);
        backend.connections.max_age = Some(Duration::from_secs(100));
        let (mesh, _, _configs) = mesh_over(&network, config_of(backend)).await;
        for _ in 0..1000 {
            get(&mesh).await.unwrap();
            sleep(Duration::from_secs(1)).await;
        }
        assert!((9..=12).contains(&server.connections()), "{}", server.connections());
        finish(mesh).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_serves_no_more_requests_than_it_may() {
    watched(async {
        for (protocol, max) in
            [(Protocol::Http2, 10), (Protocol::Http2, 1), (Protocol::Http1, 10), (Protocol::Http1, 1)]
        {
            let network = MemoryNetwork::new();
            let server = TestBackend::named("one").start_in(&network);
            let mut backend = backend("b", &[server.address()]);
            backend.protocol = protocol;
            backend.connections.max_requests = Some(max);
            let (mesh, events, _configs) = mesh_over(&network, config_of(backend)).await;
            // One after the other, and many at once.
            for _ in 0..50 {
                assert_eq!(get(&mesh).await.unwrap(), "one");
            }
            let mut calls = JoinSet::new();
            for _ in 0..50 {
                let mesh = mesh.clone();
                calls.spawn(async move { get(&mesh).await.unwrap() });
            }
            calls.join_all().await;
            let least = 100 / max as usize;
            assert!(server.connections() >= least, "{protocol:?}: {} connections", server.connections());
            if protocol == Protocol::Http2 {
                assert!(server.connections() <= least + 8, "{protocol:?}: {} connections", server.connections());
            }
            events.assert_none("failed requests", |seen| {
                matches!(seen, Seen::Request { outcome: mesh_tower::observe::Outcome::Failed(_), .. })
            });
            events.assert_none("more than one attempt", |seen| matches!(seen, Seen::Attempt { number: 2.., .. }));
            finish(mesh).await;
        }
    })
    .await;
}

/// That a connection is young when its last request is on it is no reason to pause before the next one.
#[tokio::test(start_paused = true)]
async fn connections_for_one_request_each_follow_at_once() {
    watched(async {
        let network = MemoryNetwork::new();
        let peer = Peer::start(&network, |_, stream| async move {
            let Some(mut wire) = Wire::greet(stream, None).await else { return };
            while let Some((stream, _)) = wire.request().await {
                sleep(Duration::from_millis(100)).await;
                wire.answer(stream, b"").await;
            }
        });
        let mut backend = backend("b", &[peer.address]);
        backend.connect_backoff = ConnectBackoff::default();
        backend.connections.max_requests = Some(1);
        let (mesh, _, _configs) = mesh_over(&network, config_of(backend)).await;
        let began = Instant::now();
        let mut calls = JoinSet::new();
        for _ in 0..20 {
            let mesh = mesh.clone();
            calls.spawn(async move { get(&mesh).await.unwrap() });
        }
        calls.join_all().await;
        assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
        finish(mesh).await;
    })
    .await;
}

/// In turn, the replacement is there before the last request of the old one.
#[tokio::test(start_paused = true)]
async fn a_worn_connection_is_replaced_in_time() {
    watched(async {
        let network = MemoryNetwork::new();
        let peer = Peer::start(&network, |number, stream| async move {
            sleep(Duration::from_secs(1)).await;
            numbered(number, stream).await;
        });
        let mut backend = backend("b", &[peer.address]);
        backend.connections.max_requests = Some(100);
        let (mesh, events, _configs) = mesh_over(&network, config_of(backend)).await;
        get(&mesh).await.unwrap();
        for _ in 0..500 {
            let asked = Instant::now();
            get(&mesh).await.unwrap();
            assert!(asked.elapsed() < Duration::from_millis(10), "{:?}", asked.elapsed());
            sleep(Duration::from_millis(100)).await;
        }
        events.assert_count(1, "connecting", is_state(State::Connecting));
        finish(mesh).await;
    })
    .await;
}

fn overflows(events: &mesh_tower::testing::Events) -> usize {
    events.count(|seen| matches!(seen, Seen::Overflow { limit: Limit::Connections, .. }))
}

/// Peers that allow one stream a connection and hold it until they are told.
fn holding(network: &MemoryNetwork, answers: &Arc<Semaphore>, open: &Arc<AtomicUsize>) -> Peer {
    let (answers, open) = (Arc::clone(answers), Arc::clone(open));
    Peer::start(network, move |_, stream| {
        let (answers, open) = (Arc::clone(&answers), Arc::clone(&open));
        async move {
            let Some(mut wire) = Wire::greet(stream, Some(1)).await else { return };
            open.fetch_add(1, Ordering::SeqCst);
            while let Some(frame) = wire.next().await {
                if frame.kind == kind::HEADERS {
                    answers.acquire().await.unwrap().forget();
                    wire.answer(frame.stream, b"").await;
                }
            }
            open.fetch_sub(1, Ordering::SeqCst);
        }
    })
}

#[tokio::test(start_paused = true)]
async fn max_connections_bounds_what_grows_over_all_endpoints() {
    watched(async {
        // Given three endpoints of one stream a connection, and five connections in all,
        let network = MemoryNetwork::new();
        let (answers, open) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let peers: Vec<_> = (0..3).map(|_| holding(&network, &answers, &open)).collect();
        let addresses: Vec<_> = peers.iter().map(|peer| peer.address).collect();
        let mut backend = backend("b", &addresses);
        backend.circuit_breaker.max_connections = Some(5);
        let (mesh, events, configs) = mesh_over(&network, config_of(backend.clone())).await;
        // when thirty requests are sent,
        let mut calls = JoinSet::new();
        for _ in 0..30 {
            let mesh = mesh.clone();
            calls.spawn(async move { get(&mesh).await.unwrap() });
        }
        // then there are five and no more, which is told,
        events.wait_for_nth(4, |seen| matches!(seen, Seen::Connect { error: None, .. })).await;
        sleep(Duration::from_secs(5)).await;
        assert_eq!(open.load(Ordering::SeqCst), 5);
        assert!(overflows(&events) >= 1);
        // until there may be more,
        backend.circuit_breaker.max_connections = Some(7);
        configs.send_replace(Arc::new(config_of(backend.clone())));
        events.wait_for_nth(6, |seen| matches!(seen, Seen::Connect { error: None, .. })).await;
        sleep(Duration::from_secs(5)).await;
        assert_eq!(open.load(Ordering::SeqCst), 7);
        // and all are served.
        answers.add_permits(1000);
        calls.join_all().await;
        finish(mesh).await;
    })
    .await;
}

/// An endpoint that has none makes one, or it would never serve.
#[tokio::test(start_paused = true)]
async fn max_connections_leaves_each_endpoint_one() {
    watched(async {
        for protocol in [Protocol::Http2, Protocol::Http1] {
            let network = MemoryNetwork::new();
            let servers: Vec<_> = (0..4).map(|n| TestBackend::named(format!("{n}")).start_in(&network)).collect();
            let addresses: Vec<_> = servers.iter().map(TestBackend::address).collect();
            let mut backend = backend("b", &addresses);
            backend.protocol = protocol;
            backend.circuit_breaker.max_connections = Some(2);
            let (mesh, events, _configs) = mesh_over(&network, config_of(backend)).await;
            for _ in 0..100 {
                get(&mesh).await.unwrap();
            }
            if protocol == Protocol::Http2 {
                for address in &addresses {
                    events.wait_for_state(*address, State::Ready).await;
                }
            }
            for _ in 0..100 {
                get(&mesh).await.unwrap();
            }
            for server in &servers {
                assert_eq!(server.connections(), 1, "{protocol:?}");
            }
            finish(mesh).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn max_connections_over_http1_lets_requests_take_turns() {
    watched(async {
        let network = MemoryNetwork::new();
        let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        // Every third answer ends its connection.
        let script = {
            let (open, most) = (Arc::clone(&open), Arc::clone(&most));
            move |_, mut stream: mesh_tower::testing::MemoryStream| {
                let (open, most) = (Arc::clone(&open), Arc::clone(&most));
                async move {
                    most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    let (mut read, mut buffer) = (Vec::new(), [0; 1024]);
                    for n in 1.. {
                        while !read.ends_with(b"\r\n\r\n") {
                            match stream.read(&mut buffer).await {
                                Ok(0) | Err(_) => {
                                    open.fetch_sub(1, Ordering::SeqCst);
                                    return;
                                }
                                Ok(count) => read.extend_from_slice(&buffer[..count]),
                            }
                        }
                        read.clear();
                        sleep(Duration::from_millis(10)).await;
                        let close = if n % 3 == 0 { "connection: close\r\n" } else { "" };
                        let answer = format!("HTTP/1.1 200 OK\r\n{close}content-length: 2\r\n\r\nok");
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                }
            }
        };
        let peers = [Peer::start(&network, script.clone()), Peer::start(&network, script)];
        let mut backend = http1(&[peers[0].address, peers[1].address]);
        backend.circuit_breaker.max_connections = Some(3);
        let (mesh, events, _configs) = mesh_over(&network, config_of(backend)).await;
        let mut calls = JoinSet::new();
        for _ in 0..200 {
            let mesh = mesh.clone();
            calls.spawn(async move { get(&mesh).await.unwrap() });
        }
        calls.join_all().await;
        assert!(most.load(Ordering::SeqCst) <= 3, "{} connections", most.load(Ordering::SeqCst));
        assert!(overflows(&events) >= 1);
        finish(mesh).await;
    })
    .await;
}

/// An endpoint whose connections come and go is never kept from its only one.
#[tokio::test(start_paused = true)]
async fn max_connections_over_http1_leaves_each_endpoint_one() {
    watched(async {
        let network = MemoryNetwork::new();
        let servers = ["leaves", "stays"].map(|name| TestBackend::named(name).start_in(&network));
        servers[0].set(Fault::CloseAfter(1));
        let mut backend = http1(&servers.each_ref().map(TestBackend::address));
        backend.circuit_breaker.max_connections = Some(1);
        let (mesh, _, _configs) = mesh_over(&network, config_of(backend)).await;
        for _ in 0..20 {
            let asked = Instant::now();
            get(&mesh).await.unwrap();
            assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
        }
        assert!(servers[0].connections() >= 9, "{}", servers[0].connections());
        finish(mesh).await;
    })
    .await;
}

/// A server of HTTP/1.1 that answers with its name, and `/1` and `/2` once their semaphores let it; then it closes.
fn held(network: &MemoryNetwork, gates: &[Arc<Semaphore>; 2], name: &'static str) -> TestBackend {
    let gates = gates.clone();
    TestBackend::handling(move |request: http::Request<mesh_tower::testing::RequestBody>| {
        let gates = gates.clone();
        async move {
            let mut response = http::Response::new(mesh_tower::testing::full(name));
            if let Some(gate) = match request.uri().path() {
                "/1" => Some(&gates[0]),
                "/2" => Some(&gates[1]),
                _ => None,
            } {
                gate.acquire().await?.forget();
                response.headers_mut().insert("connection", http::HeaderValue::from_static("close"));
            }
            Ok::<_, mesh_tower::BoxError>(response)
        }
    })
    .start_in(network)
}

/// Whoever waits for a connection learns that there may be one more: because one has ended, here or elsewhere, or
/// because the limit was raised.
#[tokio::test(start_paused = true)]
async fn max_connections_over_http1_keeps_nobody_who_could_go_on() {
    watched(async {
        for same in [false, true] {
            // Given two endpoints, a connection each, both in use,
            let network = MemoryNetwork::new();
            let gates = [Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0))];
            let servers = [held(&network, &gates, "a"), held(&network, &gates, "b")];
            let mut backend = http1(&servers.each_ref().map(TestBackend::address));
            backend.circuit_breaker.max_connections = Some(2);
            let (mesh, _, configs) = mesh_over(&network, config_of(backend.clone())).await;
            let call = |path: &str| {
                let (client, uri) = (mesh.http_client(), format!("{URI}{path}"));
                tokio::spawn(async move { client.get(uri).await.unwrap().into_body().string().await.unwrap() })
            };
            let turn = || sleep(Duration::from_millis(10));
            for _ in 0..4 {
                call("").await.unwrap();
            }
            assert_eq!(servers.each_ref().map(TestBackend::connections), [1, 1]);
            let first = call("1");
            turn().await;
            let second = call("2");
            turn().await;
            // and a request that waits for the first one, in turn.
            let third = call("");
            turn().await;
            let fourth = same.then(|| call(""));
            turn().await;
            // When the second connection ends,
            gates[1].add_permits(1);
            let ended = second.await.unwrap();
            turn().await;
            if let Some(fourth) = fourth {
                // then whoever waited for it is served by its successor, though another one waited for longer;
                assert!(fourth.is_finished());
                assert_eq!(fourth.await.unwrap(), ended);
                assert!(!third.is_finished());
                // and that one once the limit is raised.
                backend.circuit_breaker.max_connections = Some(3);
                configs.send_replace(Arc::new(config_of(backend)));
                turn().await;
            }
            // then there may be one more where a request waits.
            assert!(third.is_finished());
            assert_ne!(third.await.unwrap(), ended);
            assert!(!first.is_finished());
            gates[0].add_permits(1);
            first.await.unwrap();
            finish(mesh).await;
        }
    })
    .await;
}

/// Connects over the network, except to one address as long as it hangs.
struct Hanging(MemoryNetwork, SocketAddr, Arc<AtomicBool>);

impl Connect for Hanging {
    fn connect(&self, address: &Address) -> Connecting {
        if self.2.load(Ordering::SeqCst) && *address == Address::Socket(self.1) {
            return Box::pin(std::future::pending());
        }
        Connect::connect(&self.0, address)
    }
}

/// A place that becomes free is not lost at an endpoint whose attempt to connect goes on.
#[tokio::test(start_paused = true)]
async fn max_connections_over_http1_gives_a_free_place_to_who_can_use_it() {
    watched(async {
        // Given three endpoints that take turns, a connection each, of which the first cannot be connected any more,
        let network = MemoryNetwork::new();
        let gates = [Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0))];
        let servers = ["0", "1", "2"].map(|name| held(&network, &gates, name));
        let (addresses, hangs) = (servers.each_ref().map(TestBackend::address), Arc::new(AtomicBool::new(false)));
        let mut backend = http1(&addresses);
        backend.circuit_breaker.max_connections = Some(4);
        backend.connect_timeout = Duration::from_secs(3600);
        let connector = Hanging(network, addresses[0], Arc::clone(&hangs));
        let mesh = Mesh::builder().config(config_of(backend)).connector(connector).build().await.unwrap();
        let call = |path: &str| {
            let (client, uri) = (mesh.http_client(), format!("{URI}{path}"));
            tokio::spawn(async move { client.get(uri).await.unwrap().into_body().string().await.unwrap() })
        };
        let turn = || sleep(Duration::from_millis(10));
        let mut turns = Vec::new();
        for _ in 0..3 {
            turns.push(call("").await.unwrap());
        }
        assert_eq!(servers.each_ref().map(TestBackend::connections), [1, 1, 1]);
        hangs.store(true, Ordering::SeqCst);
        servers[0].disconnect();
        turn().await;
        // with four places, two of which it takes, and with a request on each of the others and one that waits behind.
        let mut calls = Vec::new();
        for name in turns.iter().chain(&turns) {
            calls.push((name, call(if name == "1" { "1" } else { "2" })));
            turn().await;
        }
        // When one of those who wait gives up, and the connection it waited for ends,
        let at = |name: &str| calls.iter().rposition(|(other, _)| *other == name).unwrap();
        calls[at("1")].1.abort();
        turn().await;
        gates[0].add_permits(1);
        turn().await;
        // then the one who waits at the third endpoint has a connection in its place.
        assert_eq!(servers[2].connections(), 2);
        calls.iter().for_each(|(_, call)| call.abort());
        finish(mesh).await;
    })
    .await;
}

/// A connection that drains counts until its last stream has ended; then who waits may have another.
#[tokio::test(start_paused = true)]
async fn max_connections_counts_those_that_drain() {
    watched(async {
        let network = MemoryNetwork::new();
        let ends = Arc::new(Semaphore::new(0));
        let end = Arc::clone(&ends);
        let peer = Peer::start(&network, move |number, stream| {
            let end = Arc::clone(&end);
            async move {
                let Some(mut wire) = Wire::greet(stream, Some(1)).await else { return };
                let Some((stream, _)) = wire.request().await else { return };
                match number {
                    0 => {
                        wire.head(stream).await;
                        wire.go_away(stream, reason::NO_ERROR).await;
                        end.acquire().await.unwrap().forget();
                        wire.data(stream, b"", true).await;
                    }
                    1 => std::future::pending().await,
                    _ => wire.answer(stream, b"").await,
                }
                while wire.next().await.is_some() {}
            }
        });
        let mut backend = backend("b", &[peer.address]);
        backend.circuit_breaker.max_connections = Some(2);
        let (mesh, _, _configs) = mesh_over(&network, config_of(backend)).await;
        let draining = mesh.http_client().get(URI).await.unwrap();
        let mut calls = JoinSet::new();
        for _ in 0..2 {
            let mesh = mesh.clone();
            calls.spawn(async move { get(&mesh).await.unwrap() });
        }
        sleep(Duration::from_secs(5)).await;
        assert_eq!(peer.accepted(), 2);
        ends.add_permits(1);
        draining.into_body().bytes().await.unwrap();
        let answered = tokio::time::timeout(Duration::from_secs(1), calls.join_next()).await;
        answered.expect("the place is free").unwrap().unwrap();
        calls.abort_all();
        finish(mesh).await;
    })
    .await;
}

/// Connections that have served all they may, and still do, are those of an endpoint that has none else.
#[tokio::test(start_paused = true)]
async fn max_connections_holds_where_each_serves_one_request() {
    watched(async {
        for (protocol, endpoints, most) in [(Protocol::Http2, 1, 3), (Protocol::Http1, 1, 3), (Protocol::Http2, 3, 5)] {
            let network = MemoryNetwork::new();
            let slow = || async {
                sleep(Duration::from_secs(1)).await;
                "done"
            };
            let servers: Vec<_> =
                (0..endpoints).map(|_| TestBackend::handling(move |_| slow()).start_in(&network)).collect();
            let mut backend = backend("b", &servers.iter().map(TestBackend::address).collect::<Vec<_>>());
            backend.protocol = protocol;
            backend.circuit_breaker.max_connections = Some(2);
            backend.connections.max_requests = Some(1);
            let (mesh, _, _configs) = mesh_over(&network, config_of(backend)).await;
            let mut calls = JoinSet::new();
            for _ in 0..12 {
                let mesh = mesh.clone();
                calls.spawn(async move { get(&mesh).await.unwrap() });
            }
            let mut seen = 0;
            while !calls.is_empty() {
                seen = seen.max(servers.iter().map(TestBackend::open_connections).sum());
                sleep(Duration::from_millis(10)).await;
                while calls.try_join_next().is_some() {}
            }
            assert!((1..=most).contains(&seen), "{protocol:?}: {seen} connections");
            finish(mesh).await;
        }
    })
    .await;
}

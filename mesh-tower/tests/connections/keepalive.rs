//! CL-05, CL-06: a peer that no longer answers is found out by pings (gRFC A8), on a paused clock.

use std::sync::Arc;
use std::time::Duration;

use mesh_tower::ErrorKind;
use mesh_tower::core::balance::State;
use mesh_tower::core::grpc::Code;
use mesh_tower::core::model::{Config, Keepalive, RetryOn, RetryPolicy, RoutePolicy};
use mesh_tower::testing::{MemoryNetwork, MemoryStream, TestBackend, watched};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::support::{Peer, Wire, backend, config_of, config_with, finish, get, kind, mesh_over, reason};

const TIME: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(20);
/// What tokio's timer may add.
const TICK: Duration = Duration::from_millis(5);

fn keepalive(without_calls: bool) -> Keepalive {
    let mut keepalive = Keepalive::new(TIME);
    keepalive.without_calls = without_calls;
    keepalive
}

fn kept_alive(addresses: &[std::net::SocketAddr], without_calls: bool) -> Config {
    let mut backend = backend("b", addresses);
    backend.connections.keepalive = Some(keepalive(without_calls));
    config_of(backend)
}

/// Reads whatever comes and says nothing.
async fn go_silent(mut wire: Wire<MemoryStream>) {
    while wire.io.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {}
}

/// How a peer falls silent.
#[derive(Debug, Clone, Copy)]
enum Silence {
    /// It reads on.
    Mute,
    /// It does not even read.
    Gone,
    /// It answers a little, every eight seconds, and falls silent after the fifth time.
    AfterAWhile,
}

#[tokio::test(start_paused = true)]
async fn cl_05_a_silent_peer_is_given_up_after_time_and_timeout() {
    watched(async {
        for (silence, lead) in [
            (Silence::Mute, Duration::ZERO),
            (Silence::Gone, Duration::ZERO),
            (Silence::AfterAWhile, Duration::from_secs(40)),
        ] {
            // Given a peer whose first connection falls silent once it has a request,
            let network = MemoryNetwork::new();
            let peer = Peer::start(&network, move |number, stream| async move {
                let mut wire = Wire::greet(stream, None).await.unwrap();
                if number > 0 {
                    return wire.echo().await;
                }
                let (stream, _) = wire.request().await.unwrap();
                match silence {
                    Silence::Mute => {}
                    Silence::Gone => return std::future::pending().await,
                    Silence::AfterAWhile => {
                        wire.head(stream).await;
                        for _ in 0..5 {
                            sleep(Duration::from_secs(8)).await;
                            wire.data(stream, b"still here", false).await;
                        }
                    }
                }
                go_silent(wire).await;
            });
            let (mesh, events, _configs) = mesh_over(&network, kept_alive(&[peer.address], false)).await;
            // when a request is on it, then it fails as soon as the ping was due and not answered,
            let began = Instant::now();
            let error = get(&mesh).await.unwrap_err();
            let took = began.elapsed();
            assert!(took >= lead + TIME + TIMEOUT && took <= lead + TIME + TIMEOUT + TICK, "{silence:?}: {took:?}");
            assert_eq!((error.kind(), error.grpc_code()), (ErrorKind::Reset, Code::Unavailable), "{error:?}");
            assert!(error.report().contains("did not answer a ping within 20s"), "{}", error.report());
            // and the next one is served by a new connection.
            assert_eq!(get(&mesh).await.unwrap(), "");
            assert_eq!(peer.accepted(), 2);
            events.wait_for_state(peer.address, State::Connecting).await;
            finish(mesh).await;
        }
    })
    .await;
}

/// What was on the connection is sent again where the policy says so, and whatever is new goes elsewhere.
#[tokio::test(start_paused = true)]
async fn cl_05_others_serve_in_the_place_of_a_silent_peer() {
    watched(async {
        let network = MemoryNetwork::new();
        // It connects once and then never again.
        let silent = Peer::start(&network, |number, stream| async move {
            if number > 0 {
                return;
            }
            let mut wire = Wire::greet(stream, None).await.unwrap();
            wire.request().await.unwrap();
            go_silent(wire).await;
        });
        let healthy = TestBackend::named("healthy").start_in(&network);
        let mut backend = backend("b", &[silent.address, healthy.address()]);
        backend.connections.keepalive = Some(keepalive(false));
        let mut policy = RoutePolicy::default();
        policy.retry = Some(Arc::new(RetryPolicy::new(RetryOn::RESET)));
        let (mesh, events, _configs) = mesh_over(&network, config_with(backend, policy)).await;
        // Both are there,
        let states = async {
            events.wait_for_state(silent.address, State::Ready).await;
            events.wait_for_state(healthy.address(), State::Ready).await;
        };
        let (answer, ()) = tokio::join!(get(&mesh), states);
        assert_eq!(answer.unwrap(), "healthy");
        // one of four is kept waiting, and answered by the other one,
        let began = Instant::now();
        for _ in 0..4 {
            assert_eq!(get(&mesh).await.unwrap(), "healthy");
        }
        let waited = began.elapsed();
        assert!(waited <= TIME + TIMEOUT + Duration::from_secs(1), "{waited:?}");
        // and from then on nobody waits.
        let began = Instant::now();
        for _ in 0..20 {
            assert_eq!(get(&mesh).await.unwrap(), "healthy");
        }
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        finish(mesh).await;
    })
    .await;
}

/// Tells when a ping arrives, and answers it.
async fn tell_pings(mut wire: Wire<MemoryStream>, pings: mpsc::Sender<Instant>) -> Option<()> {
    while let Some(frame) = wire.next().await {
        if frame.kind == kind::PING && !frame.is_ack() {
            pings.send(Instant::now()).await.unwrap();
        }
        if frame.ends_stream() {
            wire.answer(frame.stream, b"").await;
        }
    }
    None
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_pings_is_waited_for() {
    watched(async {
        let network = MemoryNetwork::new();
        let (told, mut pings) = mpsc::channel(1000);
        let peer = Peer::start(&network, move |_, stream| {
            let told = told.clone();
            async move {
                let mut wire = Wire::greet(stream, None).await.unwrap();
                let (stream, _) = wire.request().await.unwrap();
                let late = Instant::now() + Duration::from_secs(605);
                loop {
                    tokio::select! {
                        frame = wire.next() => {
                            if frame.is_some_and(|frame| frame.kind == kind::PING && !frame.is_ack()) {
                                told.send(Instant::now()).await.unwrap();
                            }
                        }
                        () = tokio::time::sleep_until(late) => break,
                    }
                }
                wire.answer(stream, b"at last").await;
                while wire.next().await.is_some() {}
            }
        });
        let (mesh, _, _configs) = mesh_over(&network, kept_alive(&[peer.address], false)).await;
        let began = Instant::now();
        assert_eq!(get(&mesh).await.unwrap(), "at last");
        finish(mesh).await;
        // One each ten seconds of silence.
        let mut last = began;
        let mut count = 0;
        while let Some(ping) = pings.recv().await {
            assert!(ping - last >= TIME - TICK && ping - last <= TIME + 2 * TICK, "{:?}", ping - last);
            (last, count) = (ping, count + 1);
            if count == 60 {
                break;
            }
        }
        assert_eq!(count, 60);
        assert!(pings.try_recv().is_err());
        drop(peer);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_calls_is_asked_only_if_told_so() {
    watched(async {
        for without_calls in [false, true] {
            let network = MemoryNetwork::new();
            let (told, mut pings) = mpsc::channel(1000);
            let peer = Peer::start(&network, move |_, stream| {
                let told = told.clone();
                async move {
                    tell_pings(Wire::greet(stream, None).await.unwrap(), told).await;
                }
            });
            let (mesh, _, _configs) = mesh_over(&network, kept_alive(&[peer.address], without_calls)).await;
            get(&mesh).await.unwrap();
            sleep(Duration::from_secs(95)).await;
            let mut count = 0;
            while pings.try_recv().is_ok() {
                count += 1;
            }
            assert_eq!(count, if without_calls { 9 } else { 0 });
            finish(mesh).await;
        }
    })
    .await;
}

/// A connection that idled is asked soon after its next request.
#[tokio::test(start_paused = true)]
async fn cl_05_holds_for_a_connection_that_idled_before() {
    watched(async {
        let network = MemoryNetwork::new();
        let peer = Peer::start(&network, |_, stream| async move {
            let mut wire = Wire::greet(stream, None).await.unwrap();
            let (stream, _) = wire.request().await.unwrap();
            wire.answer(stream, b"once").await;
            go_silent(wire).await;
        });
        let (mesh, _, _configs) = mesh_over(&network, kept_alive(&[peer.address], false)).await;
        get(&mesh).await.unwrap();
        sleep(Duration::from_secs(123)).await;
        let began = Instant::now();
        assert_eq!(get(&mesh).await.unwrap_err().kind(), ErrorKind::Reset);
        assert!(began.elapsed() <= TIME + TIMEOUT + TICK, "{:?}", began.elapsed());
        finish(mesh).await;
    })
    .await;
}

/// Without keepalive nobody is asked.
#[tokio::test(start_paused = true)]
async fn without_keepalive_there_is_no_ping() {
    watched(async {
        let network = MemoryNetwork::new();
        let (told, mut pings) = mpsc::channel(10);
        let peer = Peer::start(&network, move |_, stream| {
            let told = told.clone();
            async move {
                let mut wire = Wire::greet(stream, None).await.unwrap();
                wire.request().await.unwrap();
                tell_pings(wire, told).await;
            }
        });
        let (mesh, _, _configs) = mesh_over(&network, crate::support::config(&[peer.address])).await;
        assert!(tokio::time::timeout(Duration::from_secs(1000), get(&mesh)).await.is_err());
        assert!(pings.try_recv().is_err());
        finish(mesh).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn cl_06_too_many_pings_doubles_the_time() {
    const ENHANCE_YOUR_CALM: u32 = 0xb;
    watched(async {
        // Given a peer that complains on its first two connections, and for another reason on the third,
        let network = MemoryNetwork::new();
        let (told, mut pings) = mpsc::channel(1000);
        let peer = Peer::start(&network, move |number, stream| {
            let told = told.clone();
            async move {
                let mut wire = Wire::greet(stream, None).await.unwrap();
                let connected = Instant::now();
                while let Some(frame) = wire.next().await {
                    if frame.kind != kind::PING || frame.is_ack() {
                        continue;
                    }
                    told.send(connected.elapsed()).await.unwrap();
                    let (code, debug) = match number {
                        0 | 1 => (ENHANCE_YOUR_CALM, &b"too_many_pings"[..]),
                        2 => (reason::NO_ERROR, &b"too_many_pings"[..]),
                        _ => (ENHANCE_YOUR_CALM, &b"too_many_cooks"[..]),
                    };
                    let payload = [&0_u32.to_be_bytes()[..], &code.to_be_bytes()[..], debug].concat();
                    wire.send(kind::GOAWAY, 0, 0, &payload).await;
                    return wire.close().await;
                }
            }
        });
        let (mesh, _, _configs) = mesh_over(&network, kept_alive(&[peer.address], true)).await;
        let request = tokio::spawn({
            let mesh = mesh.clone();
            async move { get(&mesh).await }
        });
        // then it is asked half as often after each complaint of pings, and as often after any other goodbye.
        for expected in [1, 2, 4, 4, 4] {
            let after = pings.recv().await.unwrap();
            assert!(after >= TIME * expected && after <= TIME * expected + TICK, "{after:?} for {expected}");
        }
        request.abort();
        finish(mesh).await;
    })
    .await;
}

/// A changed setting holds for connections made from then on, and costs none of those that are there.
#[tokio::test(start_paused = true)]
async fn settings_of_connections_change_without_new_connections() {
    watched(async {
        let network = MemoryNetwork::new();
        let (told, mut pings) = mpsc::channel(1000);
        let peer = Peer::start(&network, move |_, stream| {
            let told = told.clone();
            async move {
                tell_pings(Wire::greet(stream, None).await.unwrap(), told).await;
            }
        });
        let (mesh, events, configs) = mesh_over(&network, crate::support::config(&[peer.address])).await;
        get(&mesh).await.unwrap();
        let changed = kept_alive(&[peer.address], true);
        configs.send_replace(Arc::new(changed));
        events.wait_for(|seen| matches!(seen, mesh_tower::testing::Seen::Config { version: 2, .. })).await;
        get(&mesh).await.unwrap();
        sleep(Duration::from_secs(60)).await;
        assert_eq!((peer.accepted(), pings.try_recv().ok()), (1, None));
        finish(mesh).await;
    })
    .await;
}

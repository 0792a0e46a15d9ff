//! CL-01: what a peer refuses unprocessed costs the caller nothing; everything else is told as it is.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mesh_tower::ErrorKind;
use mesh_tower::core::grpc::Code;
use mesh_tower::observe::{Next, Outcome};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use mesh_tower::testing::{Events, Seen, TestBackend, watched};

use crate::support::{Server, Wire, config, finish, get, kind, mesh, pattern, post, reason};

const MAX_ID: u32 = 0x7fff_ffff;

fn count(events: &Events, wanted: Next) -> usize {
    events.count(|seen| matches!(seen, Seen::Attempt { next, .. } if *next == wanted))
}

/// Echoes; after `answers` of them says goodbye as RFC 9113 6.8 asks: first that there will be an end, then, a round
/// trip later, which requests it has taken; answers these and closes.
async fn echo_then_leave(stream: TcpStream, answers: usize) {
    let Some(mut wire) = Wire::greet(stream, None).await else { return };
    let (mut answered, mut last) = (0, 0);
    let mut open = HashMap::<u32, Vec<u8>>::new();
    while let Some(frame) = wire.next().await {
        match frame.kind {
            kind::HEADERS => {
                last = frame.stream;
                open.insert(frame.stream, Vec::new());
            }
            kind::DATA => {
                wire.credit(&frame).await;
                open.get_mut(&frame.stream).unwrap().extend_from_slice(&frame.payload);
            }
            kind::PING if frame.is_ack() => break,
            _ => {}
        }
        if frame.ends_stream() {
            let body = open.remove(&frame.stream).unwrap();
            wire.answer(frame.stream, &body).await;
            answered += 1;
            if answered == answers {
                wire.go_away(MAX_ID, reason::NO_ERROR).await;
                wire.ping().await;
            }
        }
    }
    wire.go_away(last, reason::NO_ERROR).await;
    while !open.is_empty() {
        let Some(frame) = wire.next().await else { return };
        if frame.kind == kind::DATA {
            open.get_mut(&frame.stream).unwrap().extend_from_slice(&frame.payload);
        }
        if frame.ends_stream() {
            let body = open.remove(&frame.stream).unwrap();
            wire.answer(frame.stream, &body).await;
        }
    }
    wire.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cl_01_a_graceful_goaway_under_load_fails_nothing() {
    watched(async {
        // Given a server that leaves every connection after 40 answers.
        let server = Server::start(|_, stream| echo_then_leave(stream, 40)).await;
        let (mesh, _) = mesh(config(&[server.address])).await;
        // When eight callers send without a pause,
        let mut callers = JoinSet::new();
        for caller in 0..8 {
            let mesh = mesh.clone();
            callers.spawn(async move {
                for round in 0..40 {
                    let body = pattern(300, caller * 1000 + round);
                    let answer = post(&mesh, body.clone()).await;
                    // then no request fails, and each gets its own answer.
                    assert_eq!(answer.unwrap(), body, "caller {caller}, round {round}");
                }
            });
        }
        while let Some(ended) = callers.join_next().await {
            ended.unwrap();
        }
        // 320 requests do not fit into fewer connections of 40 and what is under way when each of them ends.
        assert!(server.accepted() >= 5, "only {} connections", server.accepted());
        finish(mesh).await;
    })
    .await;
}

/// Every request that a GOAWAY names as unprocessed goes out once more, without any policy, whatever its method; those
/// it names as taken are awaited.
#[tokio::test]
async fn cl_01_an_abrupt_goaway_resends_what_was_not_processed() {
    watched(async {
        for taken in [0, 1, 2] {
            // Given a server whose first connection reads three requests and takes only the first `taken` of them.
            let server = Server::start(move |number, stream| async move {
                let Some(mut wire) = Wire::greet(stream, None).await else { return };
                if number > 0 {
                    return wire.echo().await;
                }
                let mut read = Vec::new();
                let mut bodies = HashMap::<u32, Vec<u8>>::new();
                while read.len() < 3 {
                    let Some(frame) = wire.next().await else { return };
                    if frame.kind == kind::DATA {
                        wire.credit(&frame).await;
                        bodies.entry(frame.stream).or_default().extend_from_slice(&frame.payload);
                    }
                    if frame.ends_stream() {
                        read.push(frame.stream);
                    }
                }
                read.sort_unstable();
                let last = if taken == 0 { 0 } else { read[taken - 1] };
                wire.go_away(last, reason::NO_ERROR).await;
                for stream in &read[..taken] {
                    wire.answer(*stream, &bodies.remove(stream).unwrap_or_default()).await;
                }
                wire.close().await;
            })
            .await;
            let (mesh, events) = mesh(config(&[server.address])).await;
            // When a GET and two POSTs are under way,
            let (large, small) = (pattern(40_000, 1), pattern(7, 2));
            let (nothing, first, second) =
                tokio::join!(get(&mesh), post(&mesh, large.clone()), post(&mesh, small.clone()));
            // then all of them are answered, each by its own body.
            assert_eq!(nothing.unwrap(), "");
            assert_eq!(first.unwrap(), large);
            assert_eq!(second.unwrap(), small);
            assert_eq!(count(&events, Next::Resend), 3 - taken);
            assert_eq!(count(&events, Next::Retry), 0);
            assert_eq!(server.accepted(), 2);
            finish(mesh).await;
        }
    })
    .await;
}

/// A request meets nothing but connections that are going away, more of them than it may be sent in vain.
#[tokio::test]
async fn cl_01_many_connections_that_leave_at_once_do_not_use_up_the_resends() {
    const ENDPOINTS: usize = 3;
    const CONNECTIONS: usize = 8;
    watched(async {
        // Given endpoints that allow one stream a connection and leave all first connections at one signal, while the
        // streams on them go on.
        let (leave, leaving) = tokio::sync::watch::channel(false);
        let gone = Arc::new(AtomicUsize::new(0));
        let mut servers = Vec::new();
        for _ in 0..ENDPOINTS {
            let (leaving, gone) = (leaving.clone(), Arc::clone(&gone));
            servers.push(
                Server::start(move |number, stream| {
                    let (mut leaving, gone) = (leaving.clone(), Arc::clone(&gone));
                    async move {
                        let streams = if number < CONNECTIONS { 1 } else { 100 };
                        let Some(mut wire) = Wire::greet(stream, Some(streams)).await else { return };
                        if number >= CONNECTIONS {
                            return wire.echo().await;
                        }
                        let Some((stream, _)) = wire.request().await else { return };
                        wire.head(stream).await;
                        leaving.wait_for(|leave| *leave).await.unwrap();
                        wire.go_away(stream, reason::NO_ERROR).await;
                        wire.ping().await;
                        while let Some(frame) = wire.next().await {
                            if frame.kind == kind::PING && frame.is_ack() {
                                gone.fetch_add(1, Ordering::SeqCst);
                            }
                        }
                    }
                })
                .await,
            );
        }
        let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
        let (mesh, _) = mesh(config(&addresses)).await;
        let mut open = Vec::new();
        for _ in 0..ENDPOINTS * CONNECTIONS {
            open.push(mesh.http_client().get(crate::support::URI).await.unwrap());
        }
        // When all are going away,
        leave.send_replace(true);
        while gone.load(Ordering::SeqCst) < ENDPOINTS * CONNECTIONS {
            tokio::task::yield_now().await;
        }
        // then a request is sent all the same.
        let body = pattern(100, 0);
        assert_eq!(post(&mesh, body.clone()).await.unwrap(), body);
        drop(open);
        finish(mesh).await;
    })
    .await;
}

/// A server whose first `resets` streams are reset for `reason` once the request is read; it echoes afterwards.
async fn resetting(resets: usize, reason: u32) -> Server {
    let left = Arc::new(AtomicUsize::new(resets));
    Server::start(move |_, stream| {
        let left = Arc::clone(&left);
        async move {
            let Some(mut wire) = Wire::greet(stream, None).await else { return };
            while let Some((stream, body)) = wire.request().await {
                let reset = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
                if reset {
                    wire.reset(stream, reason).await;
                } else {
                    wire.answer(stream, &body).await;
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_refused_stream_is_sent_again_once_whatever_the_method() {
    watched(async {
        for body in [None, Some(pattern(40_000, 3))] {
            // Given a peer that refuses the first stream.
            let server = resetting(1, reason::REFUSED_STREAM).await;
            let (mesh, events) = mesh(config(&[server.address])).await;
            // When a request is sent, then it is answered, without any policy, over the same connection.
            match body {
                None => assert_eq!(get(&mesh).await.unwrap(), ""),
                Some(body) => assert_eq!(post(&mesh, body.clone()).await.unwrap(), body),
            }
            assert_eq!(count(&events, Next::Resend), 1);
            assert_eq!(server.accepted(), 1);
            finish(mesh).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_is_refused_twice_is_the_callers() {
    watched(async {
        // Given a peer that refuses two streams,
        let server = resetting(2, reason::REFUSED_STREAM).await;
        let (mesh, _) = mesh(config(&[server.address])).await;
        // when a request is sent, then both refusals are used up by it and it fails.
        let error = post(&mesh, pattern(100, 4)).await.unwrap_err();
        assert_eq!((error.kind(), error.grpc_code(), error.attempts()), (ErrorKind::Refused, Code::Unavailable, 2));
        // The connection is as good as before.
        assert_eq!(get(&mesh).await.unwrap(), "");
        assert_eq!(server.accepted(), 1);
        finish(mesh).await;
    })
    .await;
}

/// gRPC's codes for HTTP/2's (gRPC over HTTP/2, Errors). What may have been processed is not sent again without a
/// policy.
#[tokio::test]
async fn other_resets_are_not_sent_again_without_a_policy() {
    watched(async {
        for (code, expected) in [
            (reason::NO_ERROR, Code::Internal),
            (1, Code::Internal),
            (reason::INTERNAL_ERROR, Code::Internal),
            (3, Code::Internal),
            (reason::CANCEL, Code::Cancelled),
            (0xb, Code::ResourceExhausted),
            (0xc, Code::PermissionDenied),
        ] {
            let server = resetting(1, code).await;
            let (mesh, events) = mesh(config(&[server.address])).await;
            let error = get(&mesh).await.unwrap_err();
            assert_eq!((error.kind(), error.grpc_code()), (ErrorKind::Reset, expected), "{code}: {error:?}");
            assert_eq!(error.attempts(), 1, "{code}");
            assert_eq!(count(&events, Next::Return), 1, "{code}");
            let told = |seen: &Seen| {
                matches!(seen, Seen::Request { outcome: Outcome::Failed(ErrorKind::Reset), attempts: 1, .. })
            };
            assert_eq!(events.count(told), 1, "{code}");
            assert_eq!(get(&mesh).await.unwrap(), "", "{code}");
            assert_eq!(server.accepted(), 1, "{code}");
            finish(mesh).await;
        }
    })
    .await;
}

/// A peer that is only ever going away must not be asked in a loop without a pause, and must not hang a request.
#[tokio::test]
async fn a_peer_that_leaves_every_connection_at_once_does_not_harm_its_neighbour() {
    watched(async {
        // Given an endpoint that answers each connection by GOAWAY, and a healthy one.
        let server = Server::start(|_, stream| async {
            let Some(mut wire) = Wire::greet(stream, None).await else { return };
            wire.go_away(0, reason::NO_ERROR).await;
            wire.close().await;
        })
        .await;
        let healthy = TestBackend::named("healthy").start();
        let (mesh, _) = mesh(config(&[server.address, healthy.address()])).await;
        for _ in 0..200 {
            assert_eq!(post(&mesh, pattern(20, 5)).await.unwrap(), "healthy");
        }
        finish(mesh).await;
    })
    .await;
}

/// The h2 crate's own graceful shutdown, as hyper and tonic servers do it.
#[tokio::test]
async fn cl_01_the_first_answer_of_a_connection_may_be_its_last() {
    watched(async {
        let server = Server::start(|_, stream| async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            let Some(Ok((_, mut respond))) = connection.accept().await else { return };
            connection.graceful_shutdown();
            let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
            stream.send_data("last".into(), true).unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
                stream.send_data("last".into(), true).unwrap();
            }
        })
        .await;
        let (mesh, _) = mesh(config(&[server.address])).await;
        for _ in 0..50 {
            assert_eq!(get(&mesh).await.unwrap(), "last");
        }
        assert!(server.accepted() > 1);
        finish(mesh).await;
    })
    .await;
}

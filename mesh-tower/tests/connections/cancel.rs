//! What a caller gives up is given back: streams, places, windows, counters.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use mesh_tower::core::model::{Address, LoadBalancer};
use mesh_tower::observe::Outcome;
use mesh_tower::{Io, Mesh};
use tokio::sync::{mpsc, watch};

use mesh_tower::testing::{Events, Fault, Seen, TestBackend, watched};

use crate::support::{
    Server, URI, Wire, backend, config, config_of, finish, get, kind, mesh, pattern, post, reason, speak_h2,
};

fn cancelled(events: &Events) -> usize {
    events.count(|seen| matches!(seen, Seen::Request { outcome: Outcome::Cancelled, .. }))
}

/// Polls a request, at least once, until `arrived` tells that it got where it should, then drops it.
async fn give_up<T>(request: impl Future<Output = T>, arrived: impl Future) {
    tokio::select! {
        biased;
        _ = request => panic!("the request ended"),
        _ = arrived => {}
    }
}

/// What a scripted peer saw of a stream.
#[derive(Debug, PartialEq)]
enum Stream {
    Opened,
    /// By a RST_STREAM of this reason.
    Reset(u32),
}

/// A peer of one stream a connection that answers as far as `answers` says and tells what it sees.
async fn watching(answers: Answers) -> (Server, mpsc::Receiver<Stream>) {
    let (seen, streams) = mpsc::channel(100);
    let server = Server::start(move |_, stream| {
        let seen = seen.clone();
        async move {
            let Some(mut wire) = Wire::greet(stream, Some(1)).await else { return };
            while let Some(frame) = wire.next().await {
                if let Some(reason) = frame.reset_reason() {
                    seen.send(Stream::Reset(reason)).await.unwrap();
                }
                if frame.kind == kind::HEADERS {
                    seen.send(Stream::Opened).await.unwrap();
                    match answers {
                        Answers::Nothing => {}
                        Answers::Head => wire.head(frame.stream).await,
                        Answers::Half => {
                            wire.head(frame.stream).await;
                            wire.data(frame.stream, b"half", false).await;
                        }
                    }
                }
            }
        }
    })
    .await;
    (server, streams)
}

#[derive(Clone, Copy)]
enum Answers {
    Nothing,
    Head,
    Half,
}

/// A thousand requests, each given up, over eight connections of one stream at the most: each frees its stream, and the
/// peer is told (RFC 9113 5.4.2).
#[tokio::test]
async fn a_request_that_is_dropped_cancels_its_stream() {
    watched(async {
        for (answers, upload) in
            [(Answers::Nothing, 0), (Answers::Nothing, 100_000), (Answers::Head, 0), (Answers::Half, 0)]
        {
            let (server, mut streams) = watching(answers).await;
            let (mesh, events) = mesh(config(&[server.address])).await;
            for _ in 0..1000 {
                match answers {
                    // While it waits for the head; the large body waits for a window too.
                    Answers::Nothing if upload == 0 => give_up(get(&mesh), streams.recv()).await,
                    Answers::Nothing => give_up(post(&mesh, pattern(upload, 0)), streams.recv()).await,
                    Answers::Head => {
                        let response = mesh.http_client().get(URI).await.unwrap();
                        assert_eq!(streams.recv().await.unwrap(), Stream::Opened);
                        drop(response);
                    }
                    Answers::Half => {
                        let response = mesh.http_client().get(URI).await.unwrap();
                        let mut body = response.into_body();
                        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
                        assert_eq!(streams.recv().await.unwrap(), Stream::Opened);
                        drop(body);
                    }
                }
                assert_eq!(streams.recv().await.unwrap(), Stream::Reset(reason::CANCEL));
            }
            // Who looked at the head alone got what they asked for.
            let unread = matches!(answers, Answers::Head);
            assert_eq!(cancelled(&events), if unread { 0 } else { 1000 });
            assert!(server.accepted() <= 8);
            finish(mesh).await;
            assert_eq!(streams.try_recv().ok(), None);
        }
    })
    .await;
}

/// Dropped while it waits for the connection, and while it waits for a stream: nothing ever reaches the peer, and the
/// places of those who wait are free again.
#[tokio::test]
async fn a_request_that_waits_and_is_dropped_leaves_no_trace() {
    watched(async {
        let (release, released) = watch::channel(false);
        let opened = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&opened);
        let server = Server::start(move |_, stream| {
            let (mut released, count) = (released.clone(), Arc::clone(&count));
            async move {
                released.wait_for(|released| *released).await.unwrap();
                let Some(mut wire) = Wire::greet(stream, Some(1)).await else { return };
                while let Some((stream, _)) = wire.request().await {
                    count.fetch_add(1, Ordering::SeqCst);
                    wire.head(stream).await;
                }
            }
        })
        .await;
        let (mesh, events) = mesh(config(&[server.address])).await;
        // Waiting for the connection.
        for _ in 0..1000 {
            give_up(get(&mesh), server.accepts(1)).await;
        }
        assert_eq!(cancelled(&events), 1000);
        // Waiting for a stream, behind eight requests that do not end.
        release.send_replace(true);
        let mut open = Vec::new();
        for _ in 0..8 {
            open.push(mesh.http_client().get(URI).await.unwrap());
        }
        for _ in 0..1000 {
            give_up(get(&mesh), tokio::task::yield_now()).await;
        }
        // The head of the queue, its second, and one that takes the place of the head.
        let client = mesh.http_client();
        let (mut first, mut second, mut third) =
            (Box::pin(client.get(URI)), Box::pin(client.get(URI)), Box::pin(client.get(URI)));
        for waiting in [&mut first, &mut second, &mut third] {
            assert!(poll_once(waiting.as_mut()).await.is_none());
        }
        drop(second);
        drop(open.pop());
        drop(first);
        third.await.unwrap();
        assert_eq!(opened.load(Ordering::SeqCst), 9);
        drop(open);
        finish(mesh).await;
    })
    .await;
}

/// Polls once.
async fn poll_once<F: Future>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|cx| {
        std::task::Poll::Ready(match future.as_mut().poll(cx) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

/// Least request sees no requests that are long gone: an endpoint whose requests were all given up has its full share
/// afterwards.
#[tokio::test]
async fn cancelled_requests_do_not_count_as_in_flight() {
    watched(async {
        // Given an endpoint that first answers nothing, and one that answers.
        let server = TestBackend::named("first").start();
        server.set(Fault::Stall);
        let healthy = TestBackend::named("healthy").start();
        let mut both = backend("b", &[server.address(), healthy.address()]);
        both.load_balancer = LoadBalancer::LeastRequest { choice_count: 2 };
        let (mesh, events) = mesh(config_of(both)).await;
        let connected = events.wait_for_nth(2, |seen| matches!(seen, Seen::Connect { error: None, .. }));
        // The first request goes to whichever is connected first, and may be one of those that are not answered.
        tokio::join!(connected, async {
            tokio::select! {
                _ = get(&mesh) => {}
                _ = server.arrived(1) => {}
            }
        });
        // When 200 requests to the first are given up,
        let mut given_up = 0;
        while given_up < 200 {
            tokio::select! {
                biased;
                _ = server.arrived(server.request_count() + 1) => given_up += 1,
                answer = get(&mesh) => assert_eq!(answer.unwrap(), "healthy"),
            }
        }
        // then it has half of 1000 requests that follow one another, within five sigma.
        server.recover();
        let before = server.request_count();
        for _ in 0..1000 {
            get(&mesh).await.unwrap();
        }
        let share = server.request_count() - before;
        assert!(share.abs_diff(500) < 80, "{share} of 1000");
        finish(mesh).await;
    })
    .await;
}

/// Answers every request by `size` bytes as fast as the client's windows allow, and tells when all of them are on the
/// way.
async fn pouring(size: usize) -> (Server, mpsc::Receiver<()>) {
    let (poured, pours) = mpsc::channel(10);
    let server = Server::start(move |_, stream| {
        let poured = poured.clone();
        speak_h2(stream, move |_, mut respond| {
            let poured = poured.clone();
            async move {
                let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
                let mut left = size;
                while left > 0 {
                    stream.reserve_capacity(left);
                    let granted = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
                    let granted = granted.unwrap().unwrap().min(left);
                    stream.send_data(Bytes::from(vec![7; granted]), false).unwrap();
                    left -= granted;
                }
                poured.send(()).await.unwrap();
                let _ = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
            }
        })
    })
    .await;
    (server, pours)
}

/// CL-11: the window of a connection is returned for what nobody read, or a connection of 5 MiB would stall after 80 of
/// these answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cl_11_a_thousand_unread_bodies_do_not_stall_their_connection() {
    watched(async {
        for (size, count) in [(64 * 1024, 1000), (2 * 1024 * 1024, 20)] {
            let (server, mut poured) = pouring(size).await;
            let (mesh, _) = mesh(config(&[server.address])).await;
            for _ in 0..count {
                let response = mesh.http_client().get(URI).await.unwrap();
                poured.recv().await.unwrap();
                drop(response);
            }
            assert_eq!(server.accepted(), 1);
            finish(mesh).await;
        }
    })
    .await;
}

/// What arrives for streams that were given up costs their connection nothing, however long it lives: answers cross
/// with cancellations all the time.
#[tokio::test]
async fn cl_11_answers_that_come_too_late_do_not_cost_the_connection() {
    const CANCELLED: usize = 3000;
    watched(async {
        let (seen, mut streams) = mpsc::channel(10);
        let (answer, answering) = watch::channel(false);
        let server = Server::start(move |_, stream| {
            let (seen, answering) = (seen.clone(), answering.clone());
            async move {
                let Some(mut wire) = Wire::greet(stream, None).await else { return };
                while let Some(frame) = wire.next().await {
                    if frame.kind == kind::HEADERS {
                        seen.send(Stream::Opened).await.unwrap();
                        if *answering.borrow() {
                            wire.answer(frame.stream, b"alive").await;
                        }
                    }
                    // What the client has forgotten it resets once more, for another reason.
                    if frame.reset_reason() == Some(reason::CANCEL) {
                        wire.head(frame.stream).await;
                        wire.data(frame.stream, &[0; 1000], true).await;
                        seen.send(Stream::Reset(reason::CANCEL)).await.unwrap();
                    }
                }
            }
        })
        .await;
        let (mesh, _) = mesh(config(&[server.address])).await;
        for _ in 0..CANCELLED {
            give_up(get(&mesh), streams.recv()).await;
            assert_eq!(streams.recv().await.unwrap(), Stream::Reset(reason::CANCEL));
        }
        answer.send_replace(true);
        assert_eq!(get(&mesh).await.unwrap(), "alive");
        assert_eq!(server.accepted(), 1, "the connection was lost");
        finish(mesh).await;
    })
    .await;
}

/// A deadline gives up as a caller does.
#[tokio::test(start_paused = true)]
async fn a_deadline_frees_the_stream_too() {
    watched(async {
        let (seen, mut streams) = mpsc::channel(1000);
        let connector = move |_: &Address| {
            let seen = seen.clone();
            async move {
                let (ours, theirs) = tokio::io::duplex(1 << 16);
                tokio::spawn(async move {
                    let mut wire = Wire::greet(theirs, Some(1)).await.unwrap();
                    while let Some(frame) = wire.next().await {
                        if let Some(reason) = frame.reset_reason() {
                            seen.send(reason).await.unwrap();
                        }
                    }
                });
                Ok::<_, io::Error>(Box::new(ours) as Box<dyn Io>)
            }
        };
        let mut policy = mesh_tower::core::model::RoutePolicy::default();
        policy.timeout = Some(Duration::from_millis(100));
        let config = crate::support::config_with(backend("b", &["192.0.2.1:80".parse().unwrap()]), policy);
        let mesh = Mesh::builder().config(config).connector(connector).build().await.unwrap();
        for _ in 0..100 {
            let began = tokio::time::Instant::now();
            assert!(get(&mesh).await.unwrap_err().is_timeout());
            assert_eq!(began.elapsed().as_millis() / 5, 100 / 5);
            assert_eq!(streams.recv().await.unwrap(), reason::CANCEL);
        }
        finish(mesh).await;
    })
    .await;
}

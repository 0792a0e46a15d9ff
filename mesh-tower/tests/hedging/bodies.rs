//! Request bodies that several attempts read at once.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::BodyExt;
use mesh_tower::ErrorKind;
use mesh_tower::core::model::{HedgePolicy, RetryMethods};
use mesh_tower::testing::{Feed, Payload, Pieces, RequestBody, empty, full, watched};

use crate::support::{Act, Cut, DELAY, Plan};

fn policy(max_body_bytes: usize) -> HedgePolicy {
    let mut policy = HedgePolicy::new(3, DELAY);
    policy.max_body_bytes = max_body_bytes;
    policy.methods = RetryMethods::All;
    policy
}

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index % 251) as u8).collect()
}

fn trailers() -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static("x-sum"), HeaderValue::from_static("42"))])
}

fn put(body: Payload) -> Request<Payload> {
    Request::put("http://greeter/").header("trailer", "x-sum").body(body).unwrap()
}

/// RE-10: all attempts send the same bytes, those of a body that is still being made included; trailers too.
#[tokio::test(start_paused = true)]
async fn re_10_every_attempt_sends_the_whole_body() {
    const SIZE: usize = 256 * 1024;
    for protocol in ["protocol: http1", "protocol: http2"] {
        for streamed in [false, true] {
            let acts = [Act::Hang, Act::Hang, Act::Good(Duration::from_millis(10))];
            let world = Plan { backend: protocol, ..Plan::new(policy(SIZE)) }.start(&acts).await;
            let body = if streamed {
                Pieces::new(content(SIZE).chunks(1000).map(Bytes::copy_from_slice))
                    .with_trailers(trailers())
                    .boxed_unsync()
            } else {
                full(content(SIZE))
            };
            let response = watched(world.send(put(body))).await.unwrap();
            assert_eq!(response.into_body().string().await.unwrap(), "by 3", "{protocol}");
            assert_eq!(world.now(), 210);
            for server in &world.servers {
                let request = server.only_request();
                assert!(request.body == content(SIZE), "{protocol} {streamed}");
                assert!(request.is_complete, "{protocol} {streamed}");
                assert_eq!(request.trailers, streamed.then(trailers), "{protocol} {streamed}");
                let length = request.header("content-length").map(str::to_owned);
                assert_eq!(length, (!streamed).then(|| SIZE.to_string()), "{protocol}");
            }
            world.mesh.end().await;
        }
    }
}

/// RE-10: an attempt whose peer reads nothing holds up none of the others.
#[tokio::test(start_paused = true)]
async fn re_10_a_peer_that_reads_nothing_holds_nobody_up() {
    const SIZE: usize = 1024 * 1024;
    for protocol in ["protocol: http1", "protocol: http2"] {
        let plan = Plan { backend: protocol, ..Plan::new(policy(SIZE)) };
        let world = plan.serve(deaf_at_first).await;
        let body = Pieces::new(content(SIZE).chunks(10_000).map(Bytes::copy_from_slice)).boxed_unsync();
        let response = watched(world.send(put(body))).await.unwrap();
        assert!(response.into_body().bytes().await.unwrap() == content(SIZE), "{protocol}");
        if protocol == "protocol: http2" {
            // A server that reads nothing over HTTP/1.1 does not see either that its client is gone.
            assert_eq!(world.log.cancelled(1).await, [(0, 100)]);
        }
        world.mesh.end().await;
    }
}

/// Hangs with the first attempt, whose body it does not read; sends the others back what they sent.
async fn deaf_at_first(number: usize, request: Request<RequestBody>, cut: Cut) -> Response<Payload> {
    let body = request.into_body();
    if number == 0 {
        std::future::pending::<()>().await;
    }
    let data = body.bytes().await.unwrap_or_default();
    cut.answered();
    Response::new(full(data))
}

/// RE-10: a body that outgrows what is kept goes on with the attempt that has read the most of it.
#[tokio::test(start_paused = true)]
async fn re_10_a_body_beyond_the_cap_goes_on_with_the_furthest_attempt() {
    for protocol in ["protocol: http1", "protocol: http2"] {
        let plan = Plan { backend: protocol, ..Plan::new(policy(10_000)) };
        let world = plan.start(&[Act::Good(Duration::from_millis(500)), Act::Hang]).await;
        let (feed, body) = Feed::new();
        let sending = world.send(put(body));
        let feeding = async {
            feed.data(content(4_000));
            world.servers[0].arrived(1).await;
            // All three read what there is.
            tokio::time::sleep(Duration::from_millis(250)).await;
            assert_eq!(world.log.arrivals(), [0, 100, 200], "{protocol}");
            feed.data(content(4_000));
            tokio::time::sleep(Duration::from_millis(50)).await;
            feed.data(content(4_000));
            tokio::time::sleep(Duration::from_millis(50)).await;
            feed.data(content(4_000));
            drop(feed);
        };
        let (response, ()) = watched(async { tokio::join!(sending, feeding) }).await;
        let wins = response.unwrap().into_body().string().await.unwrap();
        let whole: Vec<_> = world.servers.iter().filter(|server| server.only_request().is_complete).collect();
        assert_eq!(whole.len(), 1, "{protocol}: {wins}");
        assert_eq!(whole[0].only_request().body.len(), 16_000, "{protocol}: {wins}");
        world.mesh.end().await;
    }
}

/// A body that says that it is too large is sent once; one that proves to be so ends the hedging before it begins.
#[tokio::test(start_paused = true)]
async fn a_body_that_is_too_large_is_not_hedged() {
    for protocol in ["protocol: http1", "protocol: http2"] {
        for streamed in [false, true] {
            let plan = Plan { backend: protocol, ..Plan::new(policy(9_999)) };
            let world = plan.start(&[Act::Good(Duration::from_millis(500))]).await;
            let body = if streamed {
                Pieces::new(content(10_000).chunks(1000).map(Bytes::copy_from_slice)).boxed_unsync()
            } else {
                full(content(10_000))
            };
            let response = world.send(put(body)).await.unwrap();
            assert_eq!(response.into_body().string().await.unwrap(), "by 1");
            assert_eq!(world.log.arrivals(), [0], "{protocol} {streamed}");
            world.mesh.end().await;
        }
    }
}

/// RE-10: a conversation, each word of which waits for the one before, goes on with the attempt that answered.
#[tokio::test(start_paused = true)]
async fn re_10_a_conversation_goes_on_with_the_winner() {
    for delay in [Duration::ZERO, DELAY] {
        let mut policy = policy(64 * 1024);
        policy.delay = delay;
        let world = Plan::new(policy).serve(echo_unless_first).await;
        let (feed, body) = Feed::new();
        feed.data("0");
        let conversation = async {
            let response = world.send(put(body)).await.unwrap();
            let mut answers = response.into_body();
            for word in 0..10_000 {
                let frame = answers.frame().await.unwrap().unwrap().into_data().unwrap();
                assert_eq!(frame, word.to_string());
                feed.data((word + 1).to_string());
            }
            drop(feed);
            assert_eq!(answers.collect().await.unwrap().to_bytes(), "10000");
        };
        watched(conversation).await;
        let whole = world.servers.iter().flat_map(|server| server.requests()).filter(|request| request.is_complete);
        assert_eq!(whole.count(), 1, "{delay:?}");
        world.mesh.end().await;
    }
}

/// Hangs with the first attempt once it has its first word; echoes what the others say.
async fn echo_unless_first(number: usize, request: Request<RequestBody>, cut: Cut) -> Response<Payload> {
    let mut body = request.into_body();
    if number == 0 {
        let _ = body.frame().await;
        std::future::pending::<()>().await;
    }
    cut.answered();
    Response::new(body.boxed_unsync())
}

/// A body that fails is the caller's fault with every attempt: all end at once, with the caller's error.
#[tokio::test(start_paused = true)]
async fn a_failed_body_ends_all_attempts() {
    for protocol in ["protocol: http1", "protocol: http2"] {
        let world = Plan { backend: protocol, ..Plan::new(policy(64 * 1024)) }.start(&[Act::Hang]).await;
        let (feed, body) = Feed::new();
        feed.data("x");
        let failing = async {
            tokio::time::sleep(Duration::from_millis(150)).await;
            feed.fail("no more");
        };
        let (result, ()) = watched(async { tokio::join!(world.send(put(body)), failing) }).await;
        let error = result.unwrap_err();
        assert_eq!((error.kind(), world.now()), (ErrorKind::RequestBody, 150), "{protocol}");
        feed.abandoned().await;
        world.mesh.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_body_is_hedged() {
    let world = Plan::new(policy(0)).start(&[Act::Hang, Act::Good(Duration::ZERO)]).await;
    let response = world.send(put(empty())).await.unwrap();
    assert_eq!(response.into_body().string().await.unwrap(), "by 2");
    world.mesh.end().await;
}

//! HTTP/1.1 connections: used again, thrown away, and found dead at the worst moment.

#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]

mod http_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response};
use http_body_util::BodyExt;
use http_support::{Raw, greeter, serve, text, until};
use mesh_tower::ErrorKind;
use mesh_tower::testing::{Feed, Pieces, empty, full};
use tokio::sync::{Barrier, mpsc};
use tower::ServiceExt;

#[tokio::test]
async fn a_hundred_requests_in_turn_need_one_connection() {
    let server = serve(|request| async move {
        let body = request.into_body().collect().await?.to_bytes();
        Ok(Response::new(full(body)))
    });
    let mesh = greeter(&[server.address()]).mesh().await;
    for n in 0..100 {
        let response = mesh.http_client().post("http://greeter/", n.to_string()).await.unwrap();
        assert_eq!(text(response).await, n.to_string());
    }
    assert_eq!(server.connections(), 1);
    mesh.end().await;
}

#[tokio::test]
async fn requests_at_once_have_a_connection_each() {
    const AT_ONCE: usize = 10;
    let barrier = Arc::new(Barrier::new(AT_ONCE));
    let server = serve(move |_| {
        let barrier = Arc::clone(&barrier);
        async move {
            barrier.wait().await;
            Ok(Response::new(full("ok")))
        }
    });
    let mesh = greeter(&[server.address()]).mesh().await;
    for _ in 0..3 {
        let calls: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                let client = mesh.http_client();
                tokio::spawn(async move { text(client.get("http://greeter/").await.unwrap()).await })
            })
            .collect();
        for call in calls {
            assert_eq!(call.await.unwrap(), "ok");
        }
    }
    assert_eq!(server.connections(), AT_ONCE, "and they are kept");
    mesh.end().await;
}

/// A server that serves one request per connection and then closes as `close` says. It counts the requests it read.
async fn closes_after_one(close: Close) -> (Raw, Arc<AtomicUsize>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    let server = Raw::start(move |number, mut client| {
        let count = Arc::clone(&count);
        async move {
            client.head().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            client.answer("ok").await;
            if number > 1 {
                while client.head().await.is_some() {
                    count.fetch_add(1, Ordering::SeqCst);
                    client.answer("ok").await;
                }
            } else if let Close::WhenWritten { reset } = close {
                client.head().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                if reset {
                    client.reset();
                }
            }
        }
    })
    .await;
    (server, requests)
}

#[derive(Clone, Copy)]
enum Close {
    /// As soon as it has answered.
    AtOnce,
    /// When the next request is there.
    WhenWritten { reset: bool },
}

/// RFC 9112 9.3.1: the server closes while the next request is on its way.
#[tokio::test]
async fn a_get_on_a_connection_that_dies_under_it_is_sent_again() {
    for reset in [false, true] {
        let (server, requests) = closes_after_one(Close::WhenWritten { reset }).await;
        let mesh = greeter(&[server.address()]).mesh().await;
        assert_eq!(text(mesh.http_client().get("http://greeter/1").await.unwrap()).await, "ok");
        assert_eq!(text(mesh.http_client().get("http://greeter/2").await.unwrap()).await, "ok", "without any policy");
        assert_eq!((server.connections(), requests.load(Ordering::SeqCst)), (2, 3));
        mesh.end().await;
    }
}

/// RE-15: the server may have done what it was asked.
#[tokio::test]
async fn re_15_a_post_on_a_connection_that_dies_under_it_fails() {
    for reset in [false, true] {
        let (server, requests) = closes_after_one(Close::WhenWritten { reset }).await;
        let mesh = greeter(&[server.address()]).route("retry: { on: [5xx, reset, gateway-error] }").mesh().await;
        assert_eq!(text(mesh.http_client().get("http://greeter/1").await.unwrap()).await, "ok");
        let error = mesh.http_client().post("http://greeter/2", "").await.unwrap_err();
        assert_eq!((error.kind(), error.attempts()), (ErrorKind::Reset, 1), "{error:?}");
        assert_eq!((server.connections(), requests.load(Ordering::SeqCst)), (1, 2));
        let after = mesh.http_client().post("http://greeter/3", "").await.unwrap();
        assert_eq!(text(after).await, "ok");
        mesh.end().await;
    }
}

#[tokio::test]
async fn a_connection_known_to_be_closed_is_not_used() {
    let (server, requests) = closes_after_one(Close::AtOnce).await;
    let mesh = greeter(&[server.address()]).mesh().await;
    let idle = mesh.live_tasks();
    assert_eq!(text(mesh.http_client().get("http://greeter/1").await.unwrap()).await, "ok");
    until("the mesh sees the connection close", || mesh.live_tasks() == idle).await;
    assert_eq!(text(mesh.http_client().post("http://greeter/2", "x").await.unwrap()).await, "ok");
    assert_eq!((server.connections(), requests.load(Ordering::SeqCst)), (2, 2));
    mesh.end().await;
}

/// The close may be seen before, while or after the request is written: a GET never suffers.
#[tokio::test]
async fn a_get_is_saved_however_the_close_races() {
    let server = Raw::start(|_, mut client| async move {
        client.head().await;
        client.answer("ok").await;
    })
    .await;
    let mesh = greeter(&[server.address()]).mesh().await;
    for n in 0..300 {
        for _ in 0..n % 7 {
            tokio::task::yield_now().await;
        }
        let response = mesh.http_client().get("http://greeter/").await;
        assert_eq!(text(response.unwrap_or_else(|error| panic!("request {n}: {error:?}"))).await, "ok");
    }
    mesh.end().await;
}

/// A first attempt, on a fresh connection, is no stale one: it is not sent again without a policy.
#[tokio::test]
async fn a_fresh_connection_that_breaks_is_no_reason_to_send_again() {
    let server = Raw::start(|_, mut client| async move { drop(client.head().await) }).await;
    let mesh = greeter(&[server.address()]).mesh().await;
    let error = mesh.http_client().get("http://greeter/").await.unwrap_err();
    assert_eq!((error.kind(), error.attempts(), server.connections()), (ErrorKind::Reset, 1, 1));
    mesh.end().await;
}

#[tokio::test]
async fn connection_close_is_obeyed() {
    let server = Raw::start(|_, mut client| async move {
        client.head().await.unwrap();
        client.write("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok").await;
        client.closed().await;
    })
    .await;
    let mesh = greeter(&[server.address()]).mesh().await;
    for n in 1..=3 {
        let response = mesh.http_client().post("http://greeter/", "x").await.unwrap();
        assert_eq!(text(response).await, "ok");
        assert_eq!(server.connections(), n);
    }
    mesh.end().await;
}

#[tokio::test]
async fn a_response_without_a_length_ends_with_its_connection() {
    let server = Raw::start(|_, mut client| async move {
        client.head().await.unwrap();
        client.write("HTTP/1.1 200 OK\r\n\r\nall ").await;
        client.write("of it").await;
    })
    .await;
    let mesh = greeter(&[server.address()]).mesh().await;
    for n in 1..=3 {
        assert_eq!(text(mesh.http_client().get("http://greeter/").await.unwrap()).await, "all of it");
        assert_eq!(server.connections(), n);
    }
    mesh.end().await;
}

#[tokio::test]
async fn an_http_1_0_response_is_understood() {
    let server = Raw::start(|_, mut client| async move {
        client.head().await.unwrap();
        client.write("HTTP/1.0 200 OK\r\nserver: old\r\n\r\nold").await;
    })
    .await;
    let mesh = greeter(&[server.address()]).mesh().await;
    for _ in 0..2 {
        assert_eq!(text(mesh.http_client().get("http://greeter/").await.unwrap()).await, "old");
    }
    mesh.end().await;
}

/// Bytes behind a response are nobody's answer.
#[tokio::test]
async fn what_follows_a_response_unasked_never_answers_the_next_request() {
    for garbage in ["HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", "evil", "\r\n"] {
        let server = Raw::start(move |_, mut client| async move {
            let mut first = true;
            while client.head().await.is_some() {
                let more = if std::mem::take(&mut first) { garbage } else { "" };
                client.write(&format!("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood{more}")).await;
            }
        })
        .await;
        let mesh = greeter(&[server.address()]).mesh().await;
        for n in 0..20 {
            let response = mesh.http_client().get("http://greeter/").await.unwrap();
            assert_eq!(text(response).await, "good", "request {n} after {garbage:?}");
        }
        mesh.end().await;
    }
}

#[tokio::test]
async fn an_unread_response_costs_its_connection_and_nothing_else() {
    let server = Raw::start(|number, mut client| async move {
        client.head().await.unwrap();
        if number > 1 {
            client.answer("ok").await;
        } else {
            client.write("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nfirst bytes").await;
        }
        client.closed().await;
    })
    .await;
    let mesh = greeter(&[server.address()]).mesh().await;
    let idle = mesh.live_tasks();
    let mut response = mesh.http_client().get("http://greeter/").await.unwrap();
    response.body_mut().frame().await.unwrap().unwrap();
    drop(response);
    until("the mesh closes the connection", || mesh.live_tasks() == idle).await;
    assert_eq!(text(mesh.http_client().post("http://greeter/", "").await.unwrap()).await, "ok");
    assert_eq!(server.connections(), 2);
    mesh.end().await;
}

#[tokio::test]
async fn a_response_that_breaks_off_is_an_error_of_the_body() {
    for head in ["content-length: 100", "transfer-encoding: chunked"] {
        let server = Raw::start(move |_, mut client| async move {
            client.head().await.unwrap();
            client.write(&format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n3\r\nabc\r\n")).await;
        })
        .await;
        let mesh = greeter(&[server.address()]).route("retry: { on: [5xx, reset], num_retries: 3 }").mesh().await;
        let response = mesh.http_client().get("http://greeter/").await.unwrap();
        let error = response.into_body().bytes().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Reset);
        assert!(error.to_string().contains("backend v1 of service greeter"), "{error}");
        assert!(std::error::Error::source(&error).is_some());
        assert_eq!(server.connections(), 1, "RE-07: committed");
        mesh.end().await;
    }
}

/// The response that a retry replaced is read to its end, so that its connection serves again.
#[tokio::test]
async fn a_replaced_response_keeps_its_connection() {
    let failures = AtomicUsize::new(3);
    let server = serve(move |_| {
        let fails = failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        async move {
            let pieces = Pieces::new(["not ", "now"]).boxed_unsync();
            Ok(if fails { Response::builder().status(503).body(pieces).unwrap() } else { Response::new(full("ok")) })
        }
    });
    let route = "retry: { on: [gateway-error], num_retries: 3, backoff: { base: 100ms, max: 100ms } }";
    let mesh = greeter(&[server.address()]).route(route).mesh().await;
    assert_eq!(text(mesh.http_client().get("http://greeter/").await.unwrap()).await, "ok");
    assert_eq!(server.connections(), 1);
    mesh.end().await;
}

/// A server answers 503 before it read the body; the retry goes elsewhere with the whole body, and the connection on
/// which half a request stands is closed.
#[tokio::test]
async fn an_attempt_given_up_in_the_middle_of_its_body_closes_its_connection() {
    let (closed, mut told) = mpsc::channel(1024);
    let refusing = Raw::start(move |_, mut client| {
        let closed = closed.clone();
        async move {
            client.head().await.unwrap();
            client.write("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
            client.closed().await;
            closed.try_send(()).unwrap();
        }
    })
    .await;
    let (asked, mut has_head) = mpsc::channel(1024);
    let serving = serve(move |request| {
        asked.try_send(()).unwrap();
        async move {
            request.into_body().collect().await?;
            Ok(Response::new(full("ok")))
        }
    });
    let route = "retry: { on: [gateway-error], methods: all, num_retries: 3, backoff: { base: 1ms } }";
    let mesh = greeter(&[refusing.address(), serving.address()]).route(route).mesh().await;
    for n in 0..4 {
        let (sender, body) = Feed::new();
        sender.data("first ");
        let call = tokio::spawn(mesh.http_client().oneshot(Request::post("http://greeter/").body(body).unwrap()));
        has_head.recv().await.unwrap();
        sender.data("second");
        drop(sender);
        assert_eq!(text(call.await.unwrap().unwrap()).await, "ok", "request {n}");
    }
    for request in serving.requests() {
        assert_eq!(request.body, "first second");
    }
    for _ in 0..refusing.connections() {
        told.recv().await.unwrap();
    }
    assert!(refusing.connections() > 0, "round robin");
    mesh.end().await;
}

/// The per-try timeout passes while the server has said nothing: the connection cannot serve again.
#[tokio::test]
async fn an_attempt_that_timed_out_closes_its_connection() {
    let (closed, mut told) = mpsc::channel(1024);
    let server = Raw::start(move |number, mut client| {
        let closed = closed.clone();
        async move {
            client.head().await.unwrap();
            if number == 1 {
                client.closed().await;
                closed.try_send(()).unwrap();
            } else {
                client.body_to("0\r\n\r\n").await.unwrap();
                client.answer("ok").await;
            }
        }
    })
    .await;
    let route = "retry: { on: [gateway-error], methods: all, per_try_timeout: 200ms, backoff: { base: 1ms } }";
    let mesh = greeter(&[server.address()]).route(route).mesh().await;
    let (sender, body) = Feed::new();
    sender.data("first");
    let call = tokio::spawn(mesh.http_client().oneshot(Request::post("http://greeter/").body(body).unwrap()));
    told.recv().await.unwrap();
    drop(sender);
    assert_eq!(text(call.await.unwrap().unwrap()).await, "ok");
    assert_eq!(server.connections(), 2);
    mesh.end().await;
}

/// A caller that goes away before the answer takes the exchange with it.
#[tokio::test]
async fn a_cancelled_request_closes_its_connection() {
    let (closed, mut told) = mpsc::channel(1024);
    let server = Raw::start(move |number, mut client| {
        let closed = closed.clone();
        async move {
            client.head().await.unwrap();
            closed.try_send("asked").unwrap();
            if number == 1 {
                client.closed().await;
                closed.try_send("closed").unwrap();
            } else {
                client.answer("ok").await;
            }
        }
    })
    .await;
    let mesh = greeter(&[server.address()]).mesh().await;
    let call = tokio::spawn(mesh.http_client().oneshot(Request::get("http://greeter/").body(empty()).unwrap()));
    assert_eq!(told.recv().await, Some("asked"));
    call.abort();
    assert_eq!(told.recv().await, Some("closed"));
    assert_eq!(text(mesh.http_client().get("http://greeter/").await.unwrap()).await, "ok");
    mesh.end().await;
}

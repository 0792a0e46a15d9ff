//! Limits of time.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use mesh_tower::server::RequestBody;
use mesh_tower::testing::{Feed, Payload, empty};
use tokio::time::Instant;

use super::support::{Told, ask, call, get, layer, stuck};

fn timed(timeout: &'static str) -> Request<Payload> {
    let mut request = call(empty());
    request.headers_mut().insert("grpc-timeout", HeaderValue::from_static(timeout));
    request
}

/// The caller's bound and the server's: the earlier one, before the head.
#[tokio::test(start_paused = true)]
async fn the_earlier_bound_holds() {
    for (limit, request, told, millis) in [
        (Some(2), get("/"), Told::http(504, "the time is up"), 2000),
        (Some(2), call(empty()), Told::grpc(4), 2000),
        (Some(2), timed("500m"), Told::grpc(4), 500),
        (Some(2), timed("5S"), Told::grpc(4), 2000),
        (None, timed("5S"), Told::grpc(4), 5000),
        (Some(2), timed("0m"), Told::grpc(4), 0),
    ] {
        let (_mesh, layer) = layer(|server| server.limits.request_timeout = limit.map(Duration::from_secs)).await;
        let began = Instant::now();
        assert_eq!(Told::read(ask(&layer, stuck, request).await).await, told);
        assert_eq!(began.elapsed().as_millis(), millis, "{limit:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_handlers_future_is_dropped_when_the_time_is_up() {
    let (_mesh, layer) = layer(|server| server.limits.request_timeout = Some(Duration::from_secs(1))).await;
    let alive = Arc::new(());
    let held = Arc::clone(&alive);
    let handler = move |_: Request<RequestBody<Payload>>| {
        let held = Arc::clone(&held);
        async move {
            let _held = held;
            std::future::pending::<Response<Full<Bytes>>>().await
        }
    };
    let before = Arc::strong_count(&alive);
    let response = ask(&layer, handler, get("/")).await;
    assert_eq!((response.status().as_u16(), before, Arc::strong_count(&alive)), (504, 2, 1));
}

/// A stream ends with its caller's deadline, whether it is silent or not; not with the server's, which was for the head.
#[tokio::test(start_paused = true)]
async fn a_grpc_stream_ends_with_its_callers_deadline() {
    let (_mesh, layer) = layer(|server| server.limits.request_timeout = Some(Duration::from_secs(2))).await;
    for chatty in [false, true] {
        let (feed, body) = Feed::new();
        let mut body = Some(body);
        let handler = |_: Request<RequestBody<Payload>>| std::future::ready(Response::new(body.take().unwrap()));
        let began = Instant::now();
        let reading = async { Told::read(ask(&layer, handler, timed("7S")).await).await };
        let talking = async {
            loop {
                if chatty {
                    feed.data("x");
                }
                tokio::time::sleep(Duration::from_millis(900)).await;
            }
        };
        let told = tokio::select! {
            told = reading => told,
            () = talking => unreachable!("it talks for ever"),
        };
        assert_eq!((told.status, told.grpc.as_deref()), (200, Some("4")));
        assert_eq!(told.body.unwrap().len(), if chatty { 8 } else { 0 });
        assert_eq!(began.elapsed().as_secs(), 7);
        feed.abandoned().await;
    }
}

/// What comes too late is not sent, even if it is there all at once.
#[tokio::test(start_paused = true)]
async fn a_reader_that_is_slow_sees_the_deadline_too() {
    let (_mesh, layer) = layer(|_| {}).await;
    let (feed, body) = Feed::new();
    let mut body = Some(body);
    let handler = |_: Request<RequestBody<Payload>>| std::future::ready(Response::new(body.take().unwrap()));
    let response = ask(&layer, handler, timed("1S")).await;
    let mut body = pin!(response.into_body());
    feed.data("one");
    feed.data("two");
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
    tokio::time::advance(Duration::from_secs(1)).await;
    let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "4");
    assert!(body.frame().await.is_none() && body.is_end_stream());
}

#[tokio::test(start_paused = true)]
async fn an_http_answer_that_has_begun_has_any_time() {
    let (_mesh, layer) = layer(|server| server.limits.request_timeout = Some(Duration::from_secs(2))).await;
    let (feed, body) = Feed::new();
    let mut body = Some(body);
    let handler = |_: Request<RequestBody<Payload>>| std::future::ready(Response::new(body.take().unwrap()));
    let reading = async { Told::read(ask(&layer, handler, get("/")).await).await };
    let sending = async move {
        tokio::time::sleep(Duration::from_secs(3600)).await;
        feed.data("late");
    };
    assert_eq!(tokio::join!(reading, sending).0, Told::http(200, "late"));
}

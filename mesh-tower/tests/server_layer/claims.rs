//! Who says that a request is gRPC is its caller, and until its handler says so too it is bound as any other.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Collected, Full};
use mesh_tower::BoxError;
use mesh_tower::core::model::Server;
use mesh_tower::server::{RequestBody, RequestBodyError};
use mesh_tower::testing::{Feed, Payload};
use tokio::time::{Instant, sleep};

use super::support::{Told, ask, ask_grpc, call, echo, layer, message};

const HOUR: Duration = Duration::from_secs(3600);

fn small(server: &mut Server) {
    server.limits.max_body_bytes = Some(20);
    server.limits.max_message_bytes = Some(10);
    server.limits.body_timeout = Some(Duration::from_secs(5));
}

/// A body of many small messages, which come an hour apart.
fn endless() -> (Payload, impl Future<Output = ()>) {
    let (feed, body) = Feed::new();
    let sending = async move {
        for _ in 0..10 {
            feed.data(message(5));
            sleep(HOUR).await;
        }
    };
    (body, sending)
}

/// How many bytes were read, or why not.
fn read(whole: Result<Collected<Bytes>, BoxError>) -> Result<usize, String> {
    whole.map(|whole| whole.to_bytes().len()).map_err(|error| error.to_string())
}

fn answer(content_type: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from("answer"));
    response.headers_mut().insert("content-type", HeaderValue::from_static(content_type));
    response
}

/// Answers at once, by `content_type`, and reads by a task of its own.
async fn answered_first(content_type: &'static str) -> Result<usize, String> {
    let (_mesh, layer) = layer(small).await;
    let (body, sending) = endless();
    let mut reading = None;
    let handler = |request: Request<RequestBody<Payload>>| {
        reading = Some(tokio::spawn(request.into_body().collect()));
        std::future::ready(answer(content_type))
    };
    let response = ask(&layer, handler, call(body)).await;
    assert_eq!(response.status(), 200);
    let (whole, ()) = tokio::join!(reading.unwrap(), sending);
    read(whole.unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_content_type_lifts_no_limit_of_an_http_handler() {
    let (_mesh, layer) = layer(small).await;
    // Too many bytes, each message within its own limit.
    let (feed, body) = Feed::new();
    feed.data([message(5), message(5)].concat());
    feed.data(message(0));
    assert_eq!(Told::read(ask(&layer, echo, call(body)).await).await, Told::grpc(8));
    // Too slow.
    let began = Instant::now();
    let (_feed, body) = Feed::new();
    assert_eq!(Told::read(ask(&layer, echo, call(body)).await).await, Told::grpc(4));
    assert_eq!(began.elapsed().as_secs(), 5);
}

/// Whoever answers before it has read: its word counts.
#[tokio::test(start_paused = true)]
async fn the_head_of_the_answer_says_what_a_handler_speaks() {
    for (content_type, expected) in [
        ("application/grpc", Ok(100)),
        ("application/grpc+proto", Ok(100)),
        ("application/grpc-web", Err(RequestBodyError::Timeout.to_string())),
        ("text/plain", Err(RequestBodyError::Timeout.to_string())),
    ] {
        assert_eq!(answered_first(content_type).await, expected, "{content_type}");
    }
}

/// A stream that is sent before there is an answer, whoever reads it.
#[tokio::test(start_paused = true)]
async fn an_application_says_beforehand_what_a_handler_speaks() {
    let (_mesh, layer) = layer(small).await;
    for spawns in [false, true] {
        let handler = |request: Request<RequestBody<Payload>>| async move {
            let whole = request.into_body().collect();
            let whole = if spawns { tokio::spawn(whole).await.unwrap() } else { whole.await };
            assert_eq!(read(whole), Ok(100));
            answer("application/grpc")
        };
        let (body, sending) = endless();
        let (response, ()) = tokio::join!(ask_grpc(&layer, handler, call(body)), sending);
        assert_eq!(Told::read(response).await, Told::http(200, "answer"), "{spawns}");
    }
    // It lifts nothing of the limit of messages.
    let (feed, body) = Feed::new();
    feed.data(message(11));
    assert_eq!(Told::read(ask_grpc(&layer, echo, call(body)).await).await, Told::grpc(8));
}

/// The word for a handler is no word for requests that are not gRPC's.
#[tokio::test(start_paused = true)]
async fn what_is_no_call_stays_bound() {
    let (_mesh, layer) = layer(small).await;
    let (body, sending) = endless();
    let mut request = call(body);
    request.headers_mut().remove("content-type");
    let asking = async { Told::read(ask_grpc(&layer, echo, request).await).await };
    tokio::select! {
        told = asking => assert_eq!(told, Told::http(408, "the request did not come in time")),
        () = sending => panic!("it was not bound"),
    }
}

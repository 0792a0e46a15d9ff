//! Limits of the bodies of requests.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use mesh_tower::BoxError;
use mesh_tower::core::model::Server;
use mesh_tower::server::{RequestBody, RequestBodyError};
use mesh_tower::testing::{Feed, Payload, Pieces, full};
use tokio::time::Instant;

use super::support::{Told, ask, ask_grpc, call, echo, layer, message, post};

fn small(server: &mut Server) {
    server.limits.max_body_bytes = Some(10);
    server.limits.max_message_bytes = Some(10);
    server.limits.body_timeout = Some(Duration::from_secs(5));
}

fn in_pieces(pieces: &[&'static str]) -> Payload {
    Pieces::new(pieces.iter().copied()).boxed_unsync()
}

#[tokio::test(start_paused = true)]
async fn a_body_of_as_many_bytes_as_there_may_be() {
    let (_mesh, layer) = layer(small).await;
    let too_large = Told::http(413, "the request is too large");
    assert_eq!(Told::read(ask(&layer, echo, post("0123456789")).await).await, Told::http(200, "0123456789"));
    let pieces = post("").map(|_| in_pieces(&["01234", "", "56789"]));
    assert_eq!(Told::read(ask(&layer, echo, pieces).await).await, Told::http(200, "0123456789"));
    let pieces = post("").map(|_| in_pieces(&["01234", "567890"]));
    assert_eq!(Told::read(ask(&layer, echo, pieces).await).await, too_large);
    // Told beforehand: the handler never runs.
    let response = ask(&layer, super::support::stuck, post("0123456789a")).await;
    assert_eq!(Told::read(response).await, too_large);
}

#[tokio::test(start_paused = true)]
async fn messages_of_as_many_bytes_as_there_may_be() {
    let (_mesh, layer) = layer(small).await;
    assert_eq!(ask_grpc(&layer, echo, call(full(message(10)))).await.headers().get("grpc-status"), None);
    assert_eq!(Told::read(ask(&layer, echo, call(full(message(11)))).await).await, Told::grpc(8));
    // Across pieces, and the second message.
    let both = [message(0), message(11)].concat();
    let bytes = both.iter().map(|byte| Bytes::copy_from_slice(&[*byte]));
    let request = call(Pieces::new(bytes).boxed_unsync());
    assert_eq!(Told::read(ask(&layer, echo, request).await).await, Told::grpc(8));
}

/// A stream whose answer has begun ends in a status.
#[tokio::test(start_paused = true)]
async fn a_message_that_is_too_large_ends_a_stream_that_has_begun() {
    /// Answers with what it reads.
    async fn stream(request: Request<RequestBody<Payload>>) -> Response<Payload> {
        Response::new(request.into_body().boxed_unsync())
    }

    let (_mesh, layer) = layer(small).await;
    let (feed, body) = Feed::new();
    let response = ask_grpc(&layer, stream, call(body)).await;
    assert_eq!(response.headers().get("grpc-status"), None);
    feed.data(message(10));
    feed.data(message(11));
    let told = Told::read(response).await;
    assert_eq!((told.grpc.as_deref(), told.body.unwrap().len()), (Some("8"), 15));

    // Of an HTTP answer that has begun that is the handler's affair, who has it from the body.
    let (feed, body) = Feed::new();
    let response = ask(&layer, stream, post("").map(|_| body)).await;
    feed.data("0123456789");
    feed.data("a");
    let told = Told::read(response).await;
    assert_eq!(told.body.unwrap_err(), RequestBodyError::TooLarge.to_string());
}

#[tokio::test(start_paused = true)]
async fn the_next_piece_must_come_in_time() {
    let (_mesh, layer) = layer(small).await;
    let (feed, body) = Feed::new();
    let began = Instant::now();
    let reading = async { Told::read(ask(&layer, echo, post("").map(|_| body)).await).await };
    // Each piece has its own time, however long all of them take.
    let sending = async {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(4)).await;
            feed.data("a");
        }
    };
    assert_eq!(tokio::join!(reading, sending).0, Told::http(408, "the request did not come in time"));
    assert_eq!(began.elapsed().as_secs(), 17);
}

/// The time is the caller's, not that of a handler who takes a while until it reads on.
#[tokio::test(start_paused = true)]
async fn a_slow_handler_is_no_slow_caller() {
    async fn slow(request: Request<RequestBody<Payload>>) -> Response<Full<Bytes>> {
        let mut body = pin!(request.into_body());
        let mut whole = Vec::new();
        while let Some(frame) = body.frame().await {
            whole.extend_from_slice(frame.unwrap().data_ref().unwrap());
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        Response::new(Full::new(whole.into()))
    }

    let (_mesh, layer) = layer(small).await;
    let (feed, body) = Feed::new();
    let reading = async { Told::read(ask(&layer, slow, post("").map(|_| body)).await).await };
    let sending = async move {
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_secs(4)).await;
            feed.data("a");
        }
        tokio::time::sleep(Duration::from_secs(100)).await;
    };
    assert_eq!(tokio::join!(reading, sending).0, Told::http(200, "aa"));
}

/// What is read by a task of its own is refused there; the layer does not hear of it.
#[tokio::test(start_paused = true)]
async fn a_body_that_another_task_reads_is_that_tasks_affair() {
    async fn elsewhere(request: Request<RequestBody<Payload>>) -> Response<Full<Bytes>> {
        let read = tokio::spawn(request.into_body().collect()).await.unwrap();
        let error = read.unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&RequestBodyError::TooLarge));
        Response::new(Full::from("all the same"))
    }

    let (_mesh, layer) = layer(small).await;
    let pieces = post("").map(|_| in_pieces(&["01234", "567890"]));
    assert_eq!(Told::read(ask(&layer, elsewhere, pieces).await).await, Told::http(200, "all the same"));
}

/// What is told of a body's length and end is what the inner one tells.
#[tokio::test]
async fn hints_go_through() {
    let (_mesh, layer) = layer(|_| {}).await;
    let hints = async |request: Request<RequestBody<Payload>>| {
        let body = request.into_body();
        Response::new(Full::from(format!("{:?} {}", body.size_hint().exact(), body.is_end_stream())))
    };
    assert_eq!(Told::read(ask(&layer, hints, post("abc")).await).await, Told::http(200, "Some(3) false"));
    assert_eq!(Told::read(ask(&layer, hints, post("")).await).await, Told::http(200, "Some(0) true"));
    let response = ask(&layer, echo, post("abc")).await;
    assert_eq!(response.body().size_hint().exact(), Some(3));
}

/// A body that is polled again behind its end, or behind its error, stays at its end.
#[tokio::test]
async fn a_refused_body_has_ended() {
    let (_mesh, layer) = layer(small).await;
    let handler = async |request: Request<RequestBody<Payload>>| {
        let mut body = pin!(request.into_body());
        body.frame().await.unwrap().unwrap();
        assert!(body.frame().await.unwrap().is_err());
        assert!(body.is_end_stream());
        let again = poll_fn(|cx| Poll::Ready(body.as_mut().poll_frame(cx))).await;
        assert!(matches!(again, Poll::Ready(None)));
        Response::new(Full::<Bytes>::default())
    };
    let endless = Endless.boxed_unsync();
    assert_eq!(ask(&layer, handler, post("").map(|_| endless)).await.status(), 413);
}

struct Endless;

impl Body for Endless {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"0123456")))))
    }
}

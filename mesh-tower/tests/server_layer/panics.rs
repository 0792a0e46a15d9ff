//! RL-14: a panic is the affair of one request.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::Full;
use mesh_tower::server::RequestBody;
use mesh_tower::testing::{Payload, empty};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::support::{Told, ask, call, get, layer};

/// What panics of a handler.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Where {
    Call,
    Poll,
    Drop,
    Body,
}

struct Hostile(Where);

impl Drop for Hostile {
    fn drop(&mut self) {
        assert!(self.0 != Where::Drop, "no luck in the end");
    }
}

/// Sends a piece, and then panics.
#[derive(Default)]
struct Broken(bool);

impl Body for Broken {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        assert!(!self.0, "no luck in the body");
        self.0 = true;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from("a piece")))))
    }
}

fn handle(_: Request<RequestBody<Payload>>, place: Where) -> impl Future<Output = Response<Broken>> {
    assert!(place != Where::Call, "no luck at all");
    let hostile = Hostile(place);
    async move {
        let _hostile = hostile;
        tokio::task::yield_now().await;
        assert!(place == Where::Body, "no luck {place:?}");
        Response::new(Broken::default())
    }
}

#[tokio::test]
async fn rl_14_a_panic_is_500_or_internal() {
    let (_mesh, layer) = layer(|_| {}).await;
    // A panic while another one unwinds would end the process, and does not happen here: the future is dropped later.
    for place in [Where::Call, Where::Poll] {
        let handler = |request| handle(request, place);
        assert_eq!(
            Told::read(ask(&layer, handler, get("/")).await).await,
            Told::http(500, "internal error"),
            "{place:?}"
        );
        assert_eq!(Told::read(ask(&layer, handler, call(empty())).await).await, Told::grpc(13), "{place:?}");
    }
    let handler = |request| handle(request, Where::Body);
    let http = Told::read(ask(&layer, handler, get("/")).await).await;
    assert_eq!((http.status, http.body.unwrap_err().contains("panicked")), (200, true));
    let grpc = Told::read(ask(&layer, handler, call(empty())).await).await;
    assert_eq!(grpc, Told { body: Ok("a piece".to_owned()), ..Told::grpc(13) });
}

/// Neither does what a handler leaves behind when it is late.
#[tokio::test(start_paused = true)]
async fn rl_14_a_panic_of_what_is_dropped_is_contained() {
    let (_mesh, layer) = layer(|server| server.limits.request_timeout = Some(std::time::Duration::from_secs(1))).await;
    let handler = |_: Request<RequestBody<Payload>>| async {
        let _hostile = Hostile(Where::Drop);
        std::future::pending::<Response<Full<Bytes>>>().await
    };
    assert_eq!(ask(&layer, handler, get("/")).await.status(), 504);
}

/// The service goes on: the same one, for the next request.
#[tokio::test]
async fn rl_14_the_next_request_is_served() {
    let (_mesh, layer) = layer(|_| {}).await;
    let mut service = layer.layer(service_fn(async |request: Request<RequestBody<Payload>>| {
        assert!(request.uri().path() != "/panic", "no luck");
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    for (path, status) in [("/", 200), ("/panic", 500), ("/", 200)] {
        let response = service.ready().await.unwrap().call(get(path)).await.unwrap();
        assert_eq!(response.status().as_u16(), status);
    }
}

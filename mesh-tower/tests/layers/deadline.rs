use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as _;
use http_body_util::Full;
use mesh_tower::core::grpc;
use mesh_tower::layer::{DeadlineAt, DeadlineLayer, find_error};
use mesh_tower::{BoxError, ErrorKind, RequestOptions};
use tokio::time::Instant;
use tower::{Layer, ServiceExt};

use super::support::{Answer, Script, World, call, get, mesh_error, text};

const LIMIT: Duration = Duration::from_secs(2);

fn layer(limit: Option<Duration>) -> DeadlineLayer {
    limit.map_or_else(DeadlineLayer::from_request, DeadlineLayer::new)
}

/// RE-12: the earlier of the two bounds holds, and the server is told of it.
#[tokio::test(start_paused = true)]
async fn the_earlier_bound_holds_and_is_sent_on() {
    let ms = Duration::from_millis;
    let grpc = |timeout| call(timeout);
    for (request, limit, bound, sent) in [
        (grpc(Some("1S")), Some(LIMIT), Some(ms(1000)), Some(ms(1000))),
        (grpc(Some("3S")), Some(LIMIT), Some(LIMIT), Some(LIMIT)),
        (grpc(Some("3S")), None, Some(ms(3000)), Some(ms(3000))),
        (grpc(None), Some(LIMIT), Some(LIMIT), Some(LIMIT)),
        (grpc(None), None, None, None),
        // Zero is no bound where it is the layer's.
        (grpc(Some("500m")), Some(Duration::ZERO), Some(ms(500)), Some(ms(500))),
        (grpc(None), Some(Duration::ZERO), None, None),
        (get("http://catalog/"), Some(LIMIT), Some(LIMIT), None),
        (get("http://catalog/"), None, None, None),
    ] {
        let case = format!("{:?} within {limit:?}", request.headers());
        let world = World::new(1, |_, _| Answer::ok().after(Duration::from_secs(100)));
        let began = Instant::now();
        let result = layer(limit).layer(world.mock()).oneshot(request).await;
        let told = world.seen()[0].0.headers.get(grpc::GRPC_TIMEOUT).cloned();
        let told = told.map(|value| grpc::parse_timeout(value.as_bytes()).unwrap());
        assert_eq!(told, sent, "{case}");
        match bound {
            None => assert_eq!(text(result.unwrap()).await.unwrap(), "ok", "{case}"),
            Some(bound) => {
                let error = result.unwrap_err();
                let took = began.elapsed();
                assert!((bound..bound + ms(5)).contains(&took), "{case}: {took:?}");
                let error = mesh_error(&error);
                assert_eq!((error.kind(), error.http_status().as_u16()), (ErrorKind::DeadlineExceeded, 504), "{case}");
                assert_eq!(error.grpc_code(), grpc::Code::DeadlineExceeded);
                assert!(error.to_string().contains(&format!("within {bound:?}")), "{error}");
            }
        }
        assert_eq!(world.held(), 0, "{case}");
    }
}

/// RE-12: the timeout in the caller's options is one of the caller's bounds, and the options go on.
#[tokio::test(start_paused = true)]
async fn the_callers_options_bound_the_request() {
    let ms = Duration::from_millis;
    for (mut request, option, bound, sent) in [
        (get("http://catalog/"), ms(300), ms(300), None),
        (get("http://catalog/"), 2 * LIMIT, LIMIT, None),
        (call(None), ms(300), ms(300), Some(ms(300))),
        (call(Some("1S")), ms(300), ms(300), Some(ms(300))),
        (call(Some("100m")), ms(300), ms(100), Some(ms(100))),
    ] {
        let case = format!("{:?} with {option:?}", request.headers());
        let options = RequestOptions::new().timeout(option);
        request.extensions_mut().insert(options);
        let world = World::new(1, |_, _| Answer::silence());
        let began = Instant::now();
        let error = layer(Some(LIMIT)).layer(world.mock()).oneshot(request).await.unwrap_err();
        let took = began.elapsed();
        assert!((bound..bound + ms(5)).contains(&took), "{case}: {took:?}");
        assert_eq!(mesh_error(&error).kind(), ErrorKind::DeadlineExceeded, "{case}");
        let (head, _) = &world.seen()[0];
        let told = head.headers.get(grpc::GRPC_TIMEOUT);
        let told = told.map(|value| grpc::parse_timeout(value.as_bytes()).unwrap());
        assert_eq!((told, head.extensions.get()), (sent, Some(&options)), "{case}");
    }
    let world = World::new(1, |_, _| Answer::ok());
    let mut request = get("http://catalog/");
    request.extensions_mut().insert(RequestOptions::new().timeout(Duration::ZERO));
    let error = layer(None).layer(world.mock()).oneshot(request).await.unwrap_err();
    assert_eq!((mesh_error(&error).kind(), world.calls()), (ErrorKind::DeadlineExceeded, 0));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_done_in_time_is_not_begun() {
    for (timeout, kind) in [("0n", ErrorKind::DeadlineExceeded), ("fast", ErrorKind::InvalidRequest)] {
        let world = World::new(1, |_, _| Answer::ok());
        let error = layer(Some(LIMIT)).layer(world.mock()).oneshot(call(Some(timeout))).await.unwrap_err();
        assert_eq!(mesh_error(&error).kind(), kind, "{timeout}");
        assert_eq!(world.calls(), 0, "{timeout}");
    }
    // Of a request that is no gRPC call it is a header like any other.
    let world = World::new(1, |_, _| Answer::ok());
    let mut request = get("http://catalog/");
    request.headers_mut().insert(grpc::GRPC_TIMEOUT, "fast".parse().unwrap());
    assert!(layer(Some(LIMIT)).layer(world.mock()).oneshot(request).await.is_ok());
}

/// An inner service that knows the deadline may notice first, and call it what it likes.
#[tokio::test(start_paused = true)]
async fn an_error_when_the_time_is_up_is_the_deadlines() {
    for (after, late) in [(LIMIT, true), (LIMIT - Duration::from_millis(5), false)] {
        let world = World::new(1, move |_, _| Answer::error("expired").after(after));
        let error = layer(Some(LIMIT)).layer(world.mock()).oneshot(get("http://catalog/")).await.unwrap_err();
        assert_eq!(find_error(&*error).map(|error| error.kind()), late.then_some(ErrorKind::DeadlineExceeded));
        let cause = if late { error.source().map(ToString::to_string) } else { Some(error.to_string()) };
        assert_eq!(cause.as_deref(), Some("expired"));
    }
}

async fn given(body: Script) -> Response<mesh_tower::layer::DeadlineBody<Script>> {
    let body = std::sync::Mutex::new(Some(body));
    let world = World::new(1, move |_, _| Answer::response(Response::new(body.lock().unwrap().take().unwrap())));
    layer(Some(LIMIT)).layer(world.mock()).oneshot(get("http://catalog/")).await.unwrap()
}

/// The body is part of the request.
#[tokio::test(start_paused = true)]
async fn the_deadline_holds_for_the_body_too() {
    let alive = Arc::new(());
    let mut response = given(Script::of("slow").stuck().alive(&alive)).await;
    let began = Instant::now();
    let frame = http_body_util::BodyExt::frame(response.body_mut()).await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "slow");
    let error = http_body_util::BodyExt::frame(response.body_mut()).await.unwrap().unwrap_err();
    assert_eq!(mesh_error(&error).kind(), ErrorKind::DeadlineExceeded);
    assert!(error.to_string().contains("before the end of the response"), "{error}");
    assert!((LIMIT..LIMIT + Duration::from_millis(5)).contains(&began.elapsed()));
    assert_eq!(Arc::strong_count(&alive), 1, "the exchange is cancelled");
    assert!(response.body().is_end_stream());
    assert!(http_body_util::BodyExt::frame(response.body_mut()).await.is_none(), "and no more is said");
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_meets_the_deadline_too_unless_the_body_is_here() {
    let response = given(Script::of("one").trailer("x", "y")).await;
    tokio::time::advance(2 * LIMIT).await;
    let error = text(response).await.unwrap_err();
    assert_eq!(mesh_error(&error).kind(), ErrorKind::DeadlineExceeded);
    // What is whole when it is read is not late.
    let response = given(Script::of("whole")).await;
    tokio::time::advance(2 * LIMIT).await;
    assert_eq!(text(response).await.unwrap(), "whole");
}

#[tokio::test(start_paused = true)]
async fn the_body_comes_through_as_it_is() {
    let response = given(Script::of("apple").trailer("x", "y")).await;
    let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
    assert_eq!(body.trailers().unwrap()["x"], "y");
    assert_eq!(body.to_bytes(), "apple");
    let error = text(given(Script::of("half").broken("it broke")).await).await.unwrap_err();
    assert!(find_error(&*error).is_none() && error.to_string() == "it broke", "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn the_deadline_is_announced_if_asked() {
    for (layer, expected) in [(layer(Some(LIMIT)).announced(), Some(LIMIT)), (layer(Some(LIMIT)), None)] {
        let now = Instant::now();
        let world = World::new(1, |_, _| Answer::ok());
        let served: Result<_, BoxError> =
            layer.layer(world.mock()).oneshot(Request::new(Full::<Bytes>::default())).await;
        assert!(served.is_ok());
        let at = world.seen()[0].0.extensions.get::<DeadlineAt>().map(|at| at.0 - now);
        assert_eq!(at, expected);
    }
}

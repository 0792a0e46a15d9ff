use std::future::poll_fn;
use std::sync::Arc;

use http::Response;
use http_body_util::BodyExt;
use mesh_tower::ErrorKind;
use mesh_tower::core::model::{RetryOn, RetryPolicy};
use mesh_tower::layer::{CircuitBreakerLayer, RetryLayer};
use tower::{Layer, Service, ServiceExt};

use super::support::{Answer, Script, World, get, mesh_error, poll_once, poll_ready};

/// CB-03: what exceeds the limit is refused at once, and one that ends makes room; however many clones and services there
/// are.
#[tokio::test(start_paused = true)]
async fn cb_03_what_exceeds_the_limit_is_refused_at_once() {
    let world = World::new(100, |_, _| Answer::silence());
    let breaker = CircuitBreakerLayer::new(2);
    let (one, other) = (breaker.layer(world.mock()), breaker.layer(world.mock()));
    let mut first = Box::pin(one.clone().oneshot(get("http://greeter/")));
    let mut second = Box::pin(other.clone().oneshot(get("http://greeter/")));
    assert!(poll_once(first.as_mut()).await.is_pending() && poll_once(second.as_mut()).await.is_pending());
    for service in [&one, &other] {
        let error = service.clone().oneshot(get("http://greeter/")).await.unwrap_err();
        assert_eq!(mesh_error(&error).kind(), ErrorKind::Overflow);
        assert_eq!(error.to_string(), "the circuit breaker's max_requests of 2 are under way");
    }
    assert_eq!((breaker.under_way(), world.calls(), world.held()), (2, 2, 2));
    drop(first);
    let mut third = Box::pin(other.oneshot(get("http://greeter/")));
    assert!(poll_once(third.as_mut()).await.is_pending());
    assert_eq!((breaker.under_way(), world.calls()), (2, 3));
}

/// CB-04: 10,000 requests that are given up.
#[tokio::test(start_paused = true)]
async fn cb_04_a_request_that_is_dropped_gives_its_place_back() {
    let world = World::new(1, |_, _| Answer::silence());
    let breaker = CircuitBreakerLayer::new(1);
    let service = breaker.layer(world.mock());
    for number in 0..10_000 {
        let mut request = Box::pin(service.clone().oneshot(get("http://greeter/")));
        assert!(poll_once(request.as_mut()).await.is_pending(), "request {number}");
        assert_eq!(breaker.under_way(), 1);
    }
    assert_eq!((breaker.under_way(), world.calls()), (0, 10_000));
}

/// CB-05: a place that was taken for a call that never comes.
#[tokio::test(start_paused = true)]
async fn cb_05_a_service_that_is_dropped_ready_gives_its_place_back() {
    let world = World::new(1, |_, _| Answer::ok());
    let breaker = CircuitBreakerLayer::new(1);
    let mut ready = breaker.layer(world.mock());
    for _ in 0..3 {
        poll_fn(|cx| poll_ready(&mut ready, cx)).await.unwrap();
        assert_eq!((breaker.under_way(), world.held()), (1, 1), "asked once or more");
    }
    let clone = ready.clone();
    assert_eq!(breaker.under_way(), 1, "a clone has none");
    let mut refused = clone.clone();
    poll_fn(|cx| poll_ready(&mut refused, cx)).await.unwrap();
    drop(ready);
    assert_eq!((breaker.under_way(), world.held()), (0, 0));
    refused.call(get("http://greeter/")).await.expect_err("it was decided then");
    assert_eq!((breaker.under_way(), world.held(), world.calls()), (0, 0, 0));
    clone.oneshot(get("http://greeter/")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_response_is_under_way_until_its_body_ends() {
    let bodies: [fn() -> Script; 4] = [
        || Script::of("ok"),
        || Script::of("ok").trailer("grpc-status", "0"),
        || Script::of("ok").broken("it broke"),
        || Script::of("ok").stuck(),
    ];
    for (number, body) in bodies.into_iter().enumerate() {
        let world = World::new(1, move |_, _| Answer::response(Response::new(body())));
        let breaker = CircuitBreakerLayer::new(1);
        let response = breaker.layer(world.mock()).oneshot(get("http://greeter/")).await.unwrap();
        assert_eq!(breaker.under_way(), 1);
        let mut body = Box::pin(response.into_body());
        let mut end = Box::pin(async { while let Some(Ok(_)) = body.frame().await {} });
        let ended = poll_once(end.as_mut()).await.is_ready();
        drop(end);
        assert_eq!((ended, breaker.under_way()), (number != 3, u64::from(number == 3)), "body {number}");
        drop(body);
        assert_eq!(breaker.under_way(), 0);
    }
    let world = World::new(1, |_, _| Answer::status(204));
    let breaker = CircuitBreakerLayer::new(1);
    let _response = breaker.layer(world.mock()).oneshot(get("http://greeter/")).await.unwrap();
    assert_eq!(breaker.under_way(), 0, "it has no body");
}

/// RE-14: a request that the breaker refuses is not tried again.
#[tokio::test(start_paused = true)]
async fn re_14_a_refusal_is_not_retried() {
    let world = World::new(10, |_, _| Answer::silence());
    let breaker = CircuitBreakerLayer::new(0);
    let everything = RetryOn::SERVER_ERROR | RetryOn::CONNECT_FAILURE | RetryOn::RESET | RetryOn::UNAVAILABLE;
    let policy = Arc::new(RetryPolicy::new(everything).with_num_retries(5));
    let service = RetryLayer::new(policy).layer(breaker.layer(world.mock()));
    let began = tokio::time::Instant::now();
    let error = service.oneshot(get("http://greeter/")).await.unwrap_err();
    assert_eq!(mesh_error(&error).kind(), ErrorKind::Overflow);
    assert_eq!((world.calls(), began.elapsed().as_millis()), (0, 0));
}

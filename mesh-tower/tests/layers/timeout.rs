use std::time::Duration;

use mesh_tower::ErrorKind;
use mesh_tower::layer::TimeoutLayer;
use tokio::time::Instant;
use tower::{Layer, ServiceExt};

use super::support::{Answer, Script, World, get, mesh_error, text};

const LIMIT: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn the_time_from_call_to_head_is_bounded() {
    for (after, limit, served) in [
        (Duration::ZERO, LIMIT, true),
        (LIMIT - Duration::from_millis(1), LIMIT, true),
        (LIMIT + Duration::from_millis(1), LIMIT, false),
        (Duration::MAX / 2, LIMIT, false),
        // Zero is no bound.
        (Duration::from_secs(3600), Duration::ZERO, true),
    ] {
        let world = World::new(1, move |_, _| Answer::ok().after(after));
        let began = Instant::now();
        let result = TimeoutLayer::new(limit).layer(world.mock()).oneshot(get("http://greeter/")).await;
        match result {
            Ok(response) => assert_eq!((text(response).await.unwrap().as_str(), served), ("ok", true), "{after:?}"),
            Err(error) => {
                assert!(!served, "{after:?}: {error}");
                assert_eq!(mesh_error(&error).kind(), ErrorKind::PerTryTimeout);
                assert_eq!(error.to_string(), "no response within the timeout of 1s");
                assert!((LIMIT..LIMIT + Duration::from_millis(5)).contains(&began.elapsed()), "{:?}", began.elapsed());
            }
        }
        assert_eq!(world.held(), 0, "the exchange is over");
    }
}

#[tokio::test(start_paused = true)]
async fn the_body_is_not_bounded() {
    let world = World::new(1, |_, _| Answer::response(http::Response::new(Script::of("slow").stuck())));
    let response = TimeoutLayer::new(LIMIT).layer(world.mock()).oneshot(get("http://greeter/")).await.unwrap();
    let late = tokio::time::timeout(10 * LIMIT, text(response)).await;
    assert!(late.is_err(), "it is still on its way: {late:?}");
}

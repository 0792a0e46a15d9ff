use std::io;
use std::time::Duration;

use http::Response;
use mesh_tower::ErrorKind;
use mesh_tower::core::classify::Failure;
use mesh_tower::core::model::AdmissionControl;
use mesh_tower::layer::AdmissionLayer;
use tower::{Layer, ServiceExt};

use super::support::{Answer, Script, World, call, get, mesh_error, text};

fn policy() -> AdmissionControl {
    let mut policy = AdmissionControl::default();
    policy.min_requests_per_second = 0;
    policy.success_threshold = 100.0;
    policy.max_rejection_percent = 100.0;
    policy
}

/// The share that is refused after one request that was answered so.
async fn after(answer: impl Fn() -> Answer + Send + Sync + 'static, grpc: bool) -> f64 {
    let layer = AdmissionLayer::new(policy());
    let service = layer.layer(World::new(1, move |_, _| answer()).mock());
    let request = if grpc { call(None) } else { get("http://greeter/") };
    let response = tokio::time::timeout(Duration::from_secs(1), service.oneshot(request)).await;
    if let Ok(Ok(response)) = response {
        // Read to its end, broken or not.
        drop(text(response).await);
    }
    layer.rejection()
}

/// OD-11: with one request, a failure is a share of 1 / 2, a success of 0, and what says nothing of 0 as well.
#[tokio::test(start_paused = true)]
async fn od_11_what_counts_as_a_failure() {
    let trailers = |code| move || Answer::response(Response::new(Script::of("m").trailer("grpc-status", code)));
    assert_eq!(after(Answer::ok, false).await, 0.0);
    assert_eq!(after(|| Answer::status(404), false).await, 0.0);
    assert_eq!(after(|| Answer::status(500), false).await, 0.5);
    assert_eq!(after(|| Answer::response(Response::new(Script::of("half").broken("it broke"))), false).await, 0.5);
    assert_eq!(after(|| Answer::error(io::Error::from(io::ErrorKind::ConnectionRefused)), false).await, 0.5);
    assert_eq!(after(|| Answer::error("nobody knows"), false).await, 0.0);
    assert_eq!(after(Answer::silence, false).await, 0.0, "given up");
    assert_eq!(after(|| Answer::grpc(14), true).await, 0.5);
    assert_eq!(after(|| Answer::grpc(5), true).await, 0.0);
    assert_eq!(after(trailers("0"), true).await, 0.0);
    assert_eq!(after(trailers("14"), true).await, 0.5);
    assert_eq!(after(|| Answer::response(Response::new(Script::of("no status"))), true).await, 0.5);
}

/// OD-11: refused requests reach nobody, cost no readiness, and do not count; when the backend is well again, they stop.
#[tokio::test(start_paused = true)]
async fn od_11_a_share_is_refused_until_the_backend_is_well() {
    let mut policy = policy();
    policy.max_rejection_percent = 80.0;
    let layer = AdmissionLayer::new(policy);
    let world = World::new(1, |number, _| if number < 50 { Answer::status(503) } else { Answer::ok() });
    let service = layer.layer(world.mock());
    let mut refused = 0;
    while world.calls() < 50 {
        if let Err(error) = service.clone().oneshot(get("http://greeter/")).await {
            assert_eq!(mesh_error(&error).kind(), ErrorKind::AdmissionRejected);
            refused += 1;
        }
        assert_eq!(world.held(), 0);
    }
    assert_eq!(layer.rejection(), 0.8, "50 of 50 failed");
    // Each that is sent is refused with probability 0.8 at most: 49 of them take 245 calls, five sigma make 390.
    assert!((10..400).contains(&refused), "{refused}");
    tokio::time::advance(Duration::from_secs(120)).await;
    for _ in 0..100 {
        service.clone().oneshot(get("http://greeter/")).await.expect("the window is over");
    }
}

#[tokio::test(start_paused = true)]
async fn an_application_says_what_its_errors_mean() {
    let classify = |_: &(dyn std::error::Error + 'static)| Failure::Reset(None);
    let layer = AdmissionLayer::new(policy()).with_classifier(classify);
    let world = World::new(1, |_, _| Answer::error("nobody knows"));
    layer.layer(world.mock()).oneshot(get("http://greeter/")).await.unwrap_err();
    assert_eq!(layer.rejection(), 0.5);
}

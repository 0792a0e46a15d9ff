//! Health checks beside requests, and through changes.

use std::time::Duration;

use mesh_tower::core::balance::State;
use mesh_tower::core::model::{LoadBalancer, Protocol};
use mesh_tower::testing::{Fault, MemoryNetwork};

use crate::support::{Mood, Patient, Ward, ask_grpc, ask_http, backend, pass};

/// The endpoint of a backend that is not checked any more is healthy; what was learnt stays with an endpoint as long as
/// it is there and checked, whatever else changes.
#[tokio::test(start_paused = true)]
async fn health_survives_updates_and_ends_with_its_check() {
    let network = MemoryNetwork::new();
    let [well, ill, new] = [("well", Mood::Serving), ("ill", Mood::NotServing), ("new", Mood::NotServing)]
        .map(|(name, mood)| Patient::start(&network, name, mood));
    let mut checked = backend([well.address(), ill.address()]);
    checked.health_check = Some(ask_grpc());
    let ward = Ward::open(&network, &checked).await;
    ward.knock().await;
    pass(5).await;
    assert_eq!(ward.turned(&ill, false), 1);

    // Another interval and another endpoint: one that is asked at once, and its first answer counts.
    let mut more = backend([new.address(), ill.address(), well.address()]);
    let mut check = ask_grpc();
    check.interval = Duration::from_secs(20);
    more.health_check = Some(check);
    ward.change(&more).await;
    pass(1).await;
    assert_eq!((ward.turned(&new, false), ward.turned(&ill, false)), (1, 1));
    assert_eq!(ward.shares(10).await, [("well".to_owned(), 10)].into());

    // Without the check all serve, and nobody is asked.
    more.health_check = None;
    ward.change(&more).await;
    assert_eq!(ward.shares(30).await.len(), 3);
    let asked = ill.checks();
    pass(120).await;
    assert_eq!(ill.checks(), asked);
    assert_eq!(ward.turned(&ill, true), 1);

    // With one again it begins anew: the first answer counts.
    more.health_check = Some(ask_grpc());
    ward.change(&more).await;
    pass(1).await;
    assert_eq!(ward.shares(10).await, [("well".to_owned(), 10)].into());
    ward.mesh.end().await;
}

/// RL-11: an endpoint that leaves is not asked any more, even in the middle of a question, and leaves no task.
#[tokio::test(start_paused = true)]
async fn rl_11_an_endpoint_that_leaves_is_not_asked_any_more() {
    let network = MemoryNetwork::new();
    let [stays, goes] =
        [("stays", Mood::Serving), ("goes", Mood::Silent)].map(|(name, mood)| Patient::start(&network, name, mood));
    let mut both = backend([stays.address(), goes.address()]);
    let mut check = ask_grpc();
    check.timeout = Duration::from_secs(100);
    both.health_check = Some(check.clone());
    let ward = Ward::open(&network, &both).await;
    ward.get().await.unwrap();
    goes.checked(1).await;
    stays.checked(2).await;
    let tasks = ward.mesh.live_tasks();
    let mut one = backend([stays.address()]);
    one.health_check = Some(check);
    ward.change(&one).await;
    goes.server.deserted().await;
    stays.checked(3).await;
    // Its connection, and the question.
    assert_eq!(ward.mesh.live_tasks(), tasks - 2);
    pass(300).await;
    assert_eq!((goes.checks(), ward.turned(&goes, false)), (1, 0));

    // A backend without a check has no task for it.
    one.health_check = None;
    ward.change(&one).await;
    pass(1).await;
    assert_eq!(ward.mesh.live_tasks(), tasks - 3);
    ward.mesh.end().await;
}

/// RL-12: a mesh that ends in the middle of questions leaves no task.
#[tokio::test(start_paused = true)]
async fn rl_12_a_question_does_not_outlive_the_mesh() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let network = MemoryNetwork::new();
        let patient = Patient::start(&network, "v1", Mood::Silent);
        let mut backend = backend([patient.address()]);
        backend.protocol = protocol;
        let mut check = ask_http();
        check.timeout = Duration::from_secs(100);
        backend.health_check = Some(check);
        let ward = Ward::open(&network, &backend).await;
        ward.knock().await;
        patient.checked(1).await;
        ward.mesh.end().await;
        patient.server.deserted().await;
    }
}

/// Checks are no use of a connection: it idles out, and the endpoint is not asked before a request comes. An unhealthy
/// one is connected to be asked, or it could never come back.
#[tokio::test(start_paused = true)]
async fn checks_keep_no_connection_and_wake_only_the_unhealthy() {
    let network = MemoryNetwork::new();
    let [well, ill] =
        [("well", Mood::Serving), ("ill", Mood::NotServing)].map(|(name, mood)| Patient::start(&network, name, mood));
    let mut backend = backend([well.address(), ill.address()]);
    backend.health_check = Some(ask_grpc());
    backend.connections.idle_timeout = Some(Duration::from_secs(60));
    let ward = Ward::open(&network, &backend).await;
    ward.knock().await;
    pass(5).await;
    assert_eq!(ward.turned(&ill, false), 1);
    ward.get().await.unwrap();
    well.server.deserted().await;
    ward.events.wait_for_state(well.address(), State::Idle).await;
    let (asked, connections) = (well.checks(), well.server.connections());
    assert!((5..=9).contains(&asked), "{asked} checks in 60 s or 75 s");
    pass(300).await;
    assert_eq!((well.checks(), well.server.connections()), (asked, connections));
    assert!(ill.server.connections() > 2 && ill.checks() > 30, "{:?}", ill.server);

    // A request wakes it, and it is asked at once: its last answer is long ago.
    ward.get().await.unwrap();
    pass(1).await;
    assert_eq!(well.checks(), asked + 1);
    ill.set(Mood::Serving);
    ward.turns(&ill, true).await;
    ward.mesh.end().await;
}

/// Over HTTP/1.1 a check shares the connections of requests, does not use them up, and lets them idle out.
#[tokio::test(start_paused = true)]
async fn checks_over_http1_are_no_use_of_a_connection() {
    let network = MemoryNetwork::new();
    let patient = Patient::start(&network, "v1", Mood::Status(200));
    let mut backend = backend([patient.address()]);
    backend.protocol = Protocol::Http1;
    backend.health_check = Some(ask_http());
    backend.connections.max_requests = Some(3);
    backend.circuit_breaker.max_requests = Some(1);
    let ward = Ward::open(&network, &backend).await;
    ward.get().await.unwrap();
    patient.checked(4).await;
    ward.get().await.unwrap();
    ward.get().await.unwrap();
    assert_eq!(patient.server.connections(), 1, "two requests and their checks");
    ward.get().await.unwrap();
    assert_eq!(patient.server.connections(), 2);
    // 50 s later it is closed, however often it was asked.
    let asked = patient.checks();
    pass(65).await;
    assert!(patient.checks() >= asked + 5);
    assert_eq!(patient.server.connections(), 3);
    ward.mesh.end().await;
}

/// A connection that cannot be made is a bad answer, once: while the endpoint fails it is not asked.
#[tokio::test(start_paused = true)]
async fn a_failing_endpoint_is_not_asked() {
    let network = MemoryNetwork::new();
    let patient = Patient::start(&network, "v1", Mood::Status(200));
    let mut backend = backend([patient.address()]);
    backend.protocol = Protocol::Http1;
    let mut check = ask_http();
    check.unhealthy_threshold = 1;
    backend.health_check = Some(check);
    let ward = Ward::open(&network, &backend).await;
    ward.get().await.unwrap();
    patient.checked(2).await;
    patient.server.set(Fault::Refused);
    ward.turns(&patient, false).await;
    let error = ward.get().await.unwrap_err();
    assert!(error.contains("1 failing"), "{error}");
    pass(600).await;
    assert_eq!(ward.turned(&patient, false), 1);
    // Back, and connected anew: two good answers, and it serves.
    patient.server.recover();
    ward.turns(&patient, true).await;
    ward.get().await.unwrap();
    ward.mesh.end().await;
}

/// Nobody asks where nobody sends: a backend that was never used, or the endpoints of a large one that were never
/// picked. Nor with pick first (gRFC A61).
#[tokio::test(start_paused = true)]
async fn endpoints_that_nobody_uses_are_not_asked() {
    let network = MemoryNetwork::new();
    let patients: Vec<_> = (0..50).map(|_| Patient::start(&network, "v1", Mood::Serving)).collect();
    let mut backend = backend(patients.iter().map(Patient::address));
    backend.connections.eager_endpoints = 10;
    backend.health_check = Some(ask_grpc());
    let ward = Ward::open(&network, &backend).await;
    pass(60).await;
    assert!(patients.iter().all(|patient| patient.server.connections() == 0));
    ward.get().await.unwrap();
    pass(60).await;
    let connected = patients.iter().filter(|patient| patient.server.connections() > 0);
    let (asked, idle): (Vec<_>, Vec<_>) = patients.iter().partition(|patient| patient.checks() > 0);
    assert_eq!(asked.len(), connected.count());
    assert!(!asked.is_empty() && !idle.is_empty(), "{} asked", asked.len());
    backend.load_balancer = LoadBalancer::PickFirst { shuffle: false };
    ward.change(&backend).await;
    pass(1).await;
    let asked: usize = patients.iter().map(Patient::checks).sum();
    pass(60).await;
    assert_eq!(patients.iter().map(Patient::checks).sum::<usize>(), asked);
    ward.mesh.end().await;
}

//! What health checks make of answers.

use std::time::Duration;

use mesh_tower::core::grpc::Code;
use mesh_tower::core::model::{HealthProbe, Protocol};
use mesh_tower::testing::MemoryNetwork;

use crate::support::{CHECK, Mood, PATH, Patient, Ward, ask_grpc, ask_http, backend, pass};

/// An endpoint that says it does not serve gets no request, and gets its share again once it does.
#[tokio::test(start_paused = true)]
async fn an_unhealthy_endpoint_gets_no_request_and_comes_back() {
    let network = MemoryNetwork::new();
    let [well, ill] = ["well", "ill"].map(|name| Patient::start(&network, name, Mood::Serving));
    let mut backend = backend([well.address(), ill.address()]);
    backend.health_check = Some(ask_grpc());
    let ward = Ward::open(&network, &backend).await;
    ward.get().await.unwrap();
    ill.checked(1).await;
    well.checked(1).await;
    assert_eq!(ward.shares(10).await.len(), 2);

    ill.set(Mood::NotServing);
    let asked = ill.checks();
    ward.turns(&ill, false).await;
    assert_eq!(ill.checks() - asked, 3, "three bad answers in a row");
    let before = ill.requests();
    assert_eq!(ward.shares(20).await, [("well".to_owned(), 20)].into());
    assert_eq!(ill.requests(), before);

    ill.set(Mood::Serving);
    let asked = ill.checks();
    ward.turns(&ill, true).await;
    assert_eq!(ill.checks() - asked, 2, "two good answers in a row");
    assert_eq!(ward.shares(20).await.values().copied().collect::<Vec<_>>(), [10, 10]);
    assert_eq!(ward.turned(&well, false), 0);
    ward.mesh.end().await;
}

/// Each way to answer, or not to, from the first question on: that one counts at once.
#[tokio::test(start_paused = true)]
async fn answers_are_good_or_bad() {
    let http = |status| (Mood::Status(status), false);
    let grpc = [
        (Mood::Serving, true),
        (Mood::NotServing, false),
        (Mood::Grpc(Code::Unimplemented), true),
        (Mood::Grpc(Code::NotFound), false),
        (Mood::Grpc(Code::Ok), false),
        (Mood::Status(200), false),
        (Mood::Status(404), true),
        (Mood::Status(503), false),
        (Mood::Silent, false),
        (Mood::Endless, false),
        (Mood::Lost, false),
    ];
    let http = [
        (Mood::Status(200), true),
        (Mood::Status(204), true),
        (Mood::Status(299), true),
        http(302),
        http(404),
        http(500),
        (Mood::Endless, true),
        (Mood::Silent, false),
        (Mood::Lost, false),
    ];
    let cases = grpc
        .map(|(mood, good)| (ask_grpc(), Protocol::Http2, mood, good))
        .into_iter()
        .chain(http.map(|(mood, good)| (ask_http(), Protocol::Http2, mood, good)))
        .chain(http.map(|(mood, good)| (ask_http(), Protocol::Http1, mood, good)))
        .chain(http.map(|(mood, good)| (ask_http(), Protocol::Auto, mood, good)));
    for (check, protocol, mood, good) in cases {
        let network = MemoryNetwork::new();
        let patient = Patient::start(&network, "v1", mood);
        let mut backend = backend([patient.address()]);
        backend.protocol = protocol;
        let interval = check.interval;
        backend.health_check = Some(check);
        let ward = Ward::open(&network, &backend).await;
        ward.knock().await;
        // The first answer, and not yet the second.
        tokio::time::sleep(interval / 2).await;
        assert_eq!(ward.turned(&patient, false), usize::from(!good), "{protocol:?} {mood:?}");
        assert_eq!(ward.get().await.is_ok(), good, "{protocol:?} {mood:?}");
        ward.mesh.end().await;
    }
}

/// What is asked, and that a good range may be another one.
#[tokio::test(start_paused = true)]
async fn questions_are_as_configured() {
    let network = MemoryNetwork::new();
    let host = Some("health.test".into());
    let probe = |host| HealthProbe::Http { path: PATH.into(), host, expected: 418..=418 };
    for (protocol, probe, uri, host) in [
        (Protocol::Http2, ask_grpc().probe, format!("http://catalog{CHECK}"), None),
        (Protocol::Http2, probe(None), format!("http://catalog{PATH}"), None),
        (Protocol::Http2, probe(host.clone()), format!("http://health.test{PATH}"), None),
        (Protocol::Http1, probe(None), PATH.to_owned(), Some("catalog")),
        (Protocol::Http1, probe(host), PATH.to_owned(), Some("health.test")),
    ] {
        let grpc = matches!(probe, HealthProbe::Grpc { .. });
        let patient = Patient::start(&network, "v1", if grpc { Mood::Serving } else { Mood::Status(418) });
        let mut backend = backend([patient.address()]);
        backend.protocol = protocol;
        let mut check = ask_grpc();
        check.probe = probe;
        backend.health_check = Some(check);
        let ward = Ward::open(&network, &backend).await;
        ward.get().await.unwrap();
        patient.checked(1).await;
        let asked = patient.questions().remove(0);
        assert_eq!(asked.head.uri.to_string(), uri);
        assert_eq!(asked.header("host"), host);
        assert!(asked.header("user-agent").unwrap().starts_with("mesh-tower/"));
        if grpc {
            assert_eq!(asked.head.method, "POST");
            assert_eq!(asked.header("content-type"), Some("application/grpc"));
            assert_eq!(asked.header("grpc-timeout"), Some("1000000u"));
            patient.checked(2).await;
            let body = patient.questions().remove(0).body;
            assert_eq!(body, &b"\0\0\0\0\x0e\x0a\x0cshop.Catalog"[..]);
        } else {
            assert_eq!(asked.head.method, "GET");
        }
        pass(60).await;
        assert_eq!(ward.turned(&patient, false), 0);
        ward.mesh.end().await;
    }
}

/// Thresholds of their own, timeouts that count, and answers that come in time although they are slow.
#[tokio::test(start_paused = true)]
async fn a_timeout_is_a_bad_answer() {
    let network = MemoryNetwork::new();
    let patient = Patient::start(&network, "v1", Mood::Serving);
    let mut backend = backend([patient.address()]);
    let mut check = ask_grpc();
    (check.interval, check.timeout) = (Duration::from_secs(4), Duration::from_millis(1500));
    (check.unhealthy_threshold, check.healthy_threshold) = (2, 1);
    backend.health_check = Some(check);
    let ward = Ward::open(&network, &backend).await;
    ward.get().await.unwrap();
    patient.checked(1).await;
    patient.set(Mood::Silent);
    let began = tokio::time::Instant::now();
    ward.turns(&patient, false).await;
    let took = began.elapsed();
    // Two intervals, jittered by a tenth, and the timeout.
    assert!((Duration::from_millis(8_700)..Duration::from_millis(10_400)).contains(&took), "{took:?}");
    patient.set(Mood::Serving);
    let asked = patient.checks();
    ward.turns(&patient, true).await;
    assert_eq!(patient.checks() - asked, 1);
    assert_eq!(patient.server.connections(), 1, "a check that is given up costs no connection of HTTP/2");
    ward.mesh.end().await;
}

/// LB-09: without any healthy endpoint requests fail at once and say why; with a panic threshold they go to all.
#[tokio::test(start_paused = true)]
async fn lb_09_no_healthy_endpoint_is_an_error_or_a_panic() {
    let network = MemoryNetwork::new();
    let patients = ["a", "b"].map(|name| Patient::start(&network, name, Mood::NotServing));
    let mut backend = backend(patients.each_ref().map(Patient::address));
    backend.health_check = Some(ask_grpc());
    let ward = Ward::open(&network, &backend).await;
    ward.knock().await;
    pass(5).await;
    let error = ward.get().await.unwrap_err();
    assert!(error.contains("no healthy endpoint in backend v1 of service catalog: 2 unhealthy"), "{error}");

    backend.localities.panic_threshold = 50;
    ward.change(&backend).await;
    assert_eq!(ward.shares(20).await.values().copied().collect::<Vec<_>>(), [10, 10]);
    ward.mesh.end().await;
}

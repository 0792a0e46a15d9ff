//! Events: what is awaited, what is asserted, and what a failure says.

use std::net::SocketAddr;

use mesh_tower::Mesh;
use mesh_tower::core::balance::State;
use mesh_tower::core::model::{Address, BackendId};
use mesh_tower::core::observe::{Connect, Event, Observer};
use mesh_tower::testing::{Events, Fault, MemoryNetwork, Seen, ServiceConfig, TestBackend, TestMesh};

#[tokio::test(start_paused = true)]
async fn events_are_awaited_and_counted() {
    let network = MemoryNetwork::new();
    let backend = TestBackend::named("v1").start_in(&network);
    let events = Events::new();
    let config = ServiceConfig::new("s", [backend.address()]).backend("protocol: http2").yaml();
    let builder = Mesh::builder().text(config).connector(network.clone()).observer(events.clone());
    let mesh = TestMesh::start(builder).await;
    let ended = |seen: &Seen| matches!(seen, Seen::Request { attempts: 1, .. });
    let third = tokio::spawn({
        let events = events.clone();
        async move { events.wait_for_nth(3, ended).await }
    });
    for _ in 0..3 {
        mesh.http_client().get("http://s/").await.unwrap().into_body().bytes().await.unwrap();
    }
    let Seen::Request { service, .. } = third.await.unwrap() else { unreachable!() };
    assert_eq!(service.as_deref(), Some("s"));
    events.assert_count(3, "requests", ended);

    let later = events.from_now();
    assert!(later.all().is_empty());
    backend.set(Fault::Refused);
    later.wait_for_state(backend.address(), State::Failing).await;
    later.assert_none("requests", ended);
    let failed = later.wait_for(|seen| matches!(seen, Seen::Connect { error: Some(_), .. })).await;
    let Seen::Connect { error: Some(error), backend: id, .. } = failed else { unreachable!() };
    assert!(error.contains("connection refused"), "{error}");
    assert_eq!(id, BackendId::new("s", "v1"));
    mesh.end().await;
}

fn one_connect() -> Events {
    let events = Events::new();
    let (backend, address) = (BackendId::new("s", "v1"), Address::from(SocketAddr::from(([192, 0, 2, 1], 80))));
    events.event(&Event::Connect(Connect::new(&backend, &address, std::time::Duration::ZERO)));
    events
}

fn is_config(seen: &Seen) -> bool {
    matches!(seen, Seen::Config { .. })
}

async fn text_of<T: Send + 'static>(failing: impl Future<Output = T> + Send + 'static) -> String {
    let panic = tokio::spawn(failing).await.err().expect("it fails").into_panic();
    *panic.downcast::<String>().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_failure_says_what_was_seen_instead() {
    let events = one_connect();
    let line = line!() + 1;
    let text = text_of(async move { events.wait_for(is_config).await }).await;
    assert!(text.contains(&format!("events.rs:{line}")) && text.contains("Connect { backend"), "{text}");

    let text = text_of(async { Events::new().wait_for(is_config).await }).await;
    assert!(text.ends_with("seen were no events"), "{text}");

    let text = text_of(async { one_connect().assert_count(1, "configurations", is_config) }).await;
    assert!(text.contains("configurations: 0 where 1 should be") && text.contains("192.0.2.1:80"), "{text}");

    let backend = TestBackend::named("v1").start_in(&MemoryNetwork::new());
    let text = text_of(async move { backend.arrived(1).await }).await;
    assert_eq!(text, "request 1 has not arrived; these have: none");
}

#[tokio::test]
#[should_panic(expected = "the configuration of the test is refused")]
async fn a_configuration_with_a_mistake_is_told() {
    ServiceConfig::new("s", []).route("timeot: 1s").mesh().await;
}

/// RL-12: a mesh that leaves something behind fails its test.
#[tokio::test]
async fn rl_12_a_mesh_ends_without_a_task() {
    let backend = TestBackend::named("v1").start();
    let mesh = ServiceConfig::new("s", [backend.address()]).mesh().await;
    mesh.http_client().get("http://s/").await.unwrap().into_body().bytes().await.unwrap();
    assert!(mesh.live_tasks() > 0);
    mesh.end().await;
    backend.deserted().await;
}

use std::time::Duration;

use http::Request;
use mesh_core::model::{
    Address, Backend, BackendId, Config, Endpoint, Forward, HostPattern, Protocol, Route, RoutePolicy, VirtualHost,
};
use tower::ServiceExt;

use crate::Mesh;
use crate::testing::{MemoryNetwork, TestBackend, TestMesh, full};

/// RE-10, RL-12: when the winner's head is here, the losers count on no endpoint and in no budget any more.
#[tokio::test(start_paused = true)]
async fn re_10_losers_are_not_counted_any_more() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let network = MemoryNetwork::new();
        let server = |pause| {
            let answer = move |_| async move {
                tokio::time::sleep(pause).await;
                "hello"
            };
            TestBackend::handling(answer).start_in(&network)
        };
        let servers = [server(Duration::from_secs(60)), server(Duration::from_secs(60)), server(Duration::ZERO)];
        let id = BackendId::new("s", "b");
        let endpoints = servers.iter().map(|server| Endpoint::new(Address::Socket(server.address())));
        let mut backend = Backend::new(id.clone(), endpoints.collect());
        backend.protocol = protocol;
        let mut policy = RoutePolicy::default();
        policy.hedge = Some(super::HedgePolicy::new(3, Duration::from_millis(100)).into());
        let route = Route::new(Forward::to(id.clone()).with_policy(policy));
        let host = VirtualHost::new("s", vec![HostPattern::Any]).with_route(route);
        let config = Config::new().with_virtual_host(host).with_backend(backend);
        let mesh = TestMesh::start(Mesh::builder().config(config).connector(network.clone())).await;
        for _ in 0..6 {
            let request = Request::put("http://s/").body(full("x")).unwrap();
            let began = tokio::time::Instant::now();
            let response = mesh.http_client().oneshot(request).await.unwrap();
            assert!(began.elapsed() <= Duration::from_millis(210));
            let counts = || {
                let snapshot = mesh.handle.core.snapshot.load();
                let backend = snapshot.backend_by_id(&id).unwrap();
                let endpoints: u32 = backend.picker().endpoints().iter().map(|endpoint| endpoint.in_flight()).sum();
                (endpoints, backend.budget().in_flight(), backend.budget().retries())
            };
            assert_eq!(counts(), (1, 1, 0), "the winner alone: {protocol:?}");
            assert_eq!(response.into_body().string().await.unwrap(), "hello");
            assert_eq!(counts(), (0, 0, 0), "{protocol:?}");
        }
        mesh.end().await;
    }
}

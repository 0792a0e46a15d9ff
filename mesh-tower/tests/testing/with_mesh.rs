//! What a mesh does about each fault: the promises of `Fault`'s documentation.

use std::time::Duration;

use http::StatusCode;
use mesh_tower::core::grpc::Code;
use mesh_tower::testing::{
    At, Fault, MemoryNetwork, Reason, ServiceConfig, TestBackend, TestMesh, empty, full, grpc, watched,
};
use mesh_tower::{Error, ErrorKind};
use tokio::time::Instant;
use tower::ServiceExt;

const PROTOCOLS: [&str; 2] = ["http1", "http2"];

struct One {
    network: MemoryNetwork,
    backend: TestBackend,
    mesh: TestMesh,
}

impl One {
    async fn start(protocol: &str, route: &str) -> Self {
        let network = MemoryNetwork::new();
        let backend = TestBackend::named("v1").start_in(&network);
        let config = ServiceConfig::new("s", [backend.address()]);
        let config = config.route(route).backend(&format!("protocol: {protocol}, connect_timeout: 1s"));
        let mesh = config.mesh_over(&network).await;
        Self { network, backend, mesh }
    }

    async fn get(&self) -> Result<String, Error> {
        self.mesh.http_client().get("http://s/").await?.into_body().string().await
    }

    async fn post(&self) -> Result<String, Error> {
        self.mesh.http_client().post("http://s/", "body").await?.into_body().string().await
    }

    fn asked(&self) -> usize {
        self.backend.request_count()
    }
}

const NO_POLICY: &str = "retry: none";

#[tokio::test(start_paused = true)]
async fn connections_that_cannot_be_made() {
    for protocol in PROTOCOLS {
        let one = One::start(protocol, NO_POLICY).await;
        one.backend.set(Fault::Refused);
        assert_eq!(one.get().await.unwrap_err().kind(), ErrorKind::NoHealthyEndpoint);
        assert_eq!(one.asked(), 0);
        one.backend.recover();
        // It is connected to again after its backoff.
        while one.get().await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(one.network.connects() >= 2);
        one.mesh.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_black_hole() {
    let one = One::start("http2", NO_POLICY).await;
    one.backend.set(Fault::BlackHole);
    let began = Instant::now();
    assert_eq!(one.get().await.unwrap_err().kind(), ErrorKind::NoHealthyEndpoint);
    assert_eq!(began.elapsed().as_secs(), 1, "the connect timeout");
    one.mesh.end().await;

    let one = One::start("http1", "timeout: 5s").await;
    one.backend.set(Fault::BlackHole);
    let began = Instant::now();
    assert_eq!(one.get().await.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    assert_eq!(began.elapsed().as_secs(), 5, "the deadline");
    one.mesh.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_breaks_before_the_head_is_retried_by_policy_alone() {
    for protocol in PROTOCOLS {
        for fault in [Fault::Disconnect(At::BeforeHead), Fault::Reset(At::BeforeHead, Reason::CANCEL)] {
            for (route, works) in [(NO_POLICY, false), ("retry: { on: [reset], methods: all }", true)] {
                let one = One::start(protocol, route).await;
                one.backend.fail_next(1, fault);
                match one.post().await {
                    Ok(text) => assert!(works && text == "v1", "{protocol} {fault:?}"),
                    Err(error) => assert!(!works && error.kind() == ErrorKind::Reset, "{protocol} {fault:?} {error:?}"),
                }
                assert_eq!(one.asked(), 1 + usize::from(works));
                one.mesh.end().await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stale_connection_is_nobodys_fault() {
    let one = One::start("http1", NO_POLICY).await;
    assert_eq!(one.get().await.unwrap(), "v1");
    one.backend.fail_next(1, Fault::Disconnect(At::BeforeHead));
    assert_eq!(one.get().await.unwrap(), "v1", "RFC 9112 9.3.1");
    one.backend.fail_next(1, Fault::Disconnect(At::BeforeHead));
    assert_eq!(one.post().await.unwrap_err().kind(), ErrorKind::Reset);
    assert_eq!(one.asked(), 4);
    one.mesh.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_breaks_after_the_head_is_the_callers() {
    for protocol in PROTOCOLS {
        for at in [At::AfterHead, At::InBody(1)] {
            for fault in [Fault::Disconnect(at), Fault::Reset(at, Reason::REFUSED_STREAM)] {
                let one = One::start(protocol, "retry: { on: [5xx, reset] }").await;
                one.backend.fail_next(1, fault);
                let error = one.get().await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Reset, "{protocol} {fault:?}");
                assert_eq!(one.asked(), 1);
                one.mesh.end().await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_not_processed_is_sent_once_more_without_a_policy() {
    for fault in [Fault::Reset(At::BeforeHead, Reason::REFUSED_STREAM), Fault::GoAway { processed: false }] {
        let one = One::start("http2", NO_POLICY).await;
        one.backend.fail_next(1, fault);
        assert_eq!(one.post().await.unwrap(), "v1", "{fault:?}");
        assert_eq!(one.asked(), 2);
        one.backend.fail_next(2, fault);
        assert_eq!(one.post().await.unwrap_err().kind(), ErrorKind::Refused, "{fault:?}");
        assert_eq!(one.asked(), 4);
        one.mesh.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_leaves_gracefully_fails_nothing() {
    for protocol in PROTOCOLS {
        let one = One::start(protocol, NO_POLICY).await;
        one.backend.set(Fault::CloseAfter(2));
        for _ in 0..10 {
            assert_eq!(one.post().await.unwrap(), "v1", "{protocol}");
        }
        assert_eq!(one.asked(), 10);
        assert!(one.backend.connections() >= 5, "{protocol}: {}", one.backend.connections());
        one.mesh.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_takes_too_long_ends_with_its_time() {
    for protocol in PROTOCOLS {
        let one = One::start(protocol, "timeout: 2s").await;
        one.backend.fail_next(1, Fault::Stall);
        let began = Instant::now();
        assert_eq!(one.get().await.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
        assert_eq!(began.elapsed().as_secs(), 2);
        one.backend.fail_next(1, Fault::SlowBody { chunk: 1 });
        let response = one.mesh.http_client().get("http://s/").await.unwrap();
        one.backend.release_chunk();
        assert_eq!(response.into_body().string().await.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
        assert_eq!(began.elapsed().as_secs(), 4);
        one.mesh.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn statuses_are_retried_by_policy() {
    for protocol in PROTOCOLS {
        for (route, asked, status) in [(NO_POLICY, 1, 503), ("retry: { on: [5xx], num_retries: 2 }", 3, 200)] {
            let one = One::start(protocol, route).await;
            one.backend.fail_next(2, Fault::Status(StatusCode::SERVICE_UNAVAILABLE));
            let request = http::Request::put("http://s/").body(full("replayed")).unwrap();
            assert_eq!(one.mesh.http_client().oneshot(request).await.unwrap().status(), status);
            assert_eq!(one.asked(), asked);
            assert!(one.backend.requests().iter().all(|request| request.body == "replayed"));
            one.mesh.end().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn grpc_statuses_are_retried_by_policy() {
    for (route, asked, code) in [(NO_POLICY, 1, "14"), ("retry: { on: [unavailable], num_retries: 2 }", 3, "0")] {
        let network = MemoryNetwork::new();
        let answer = |_| async { grpc::answer([b"well"], Code::Ok, "") };
        let backend = TestBackend::handling(answer).start_in(&network);
        let mesh = ServiceConfig::new("s", [backend.address()]).route(route).mesh_over(&network).await;
        backend.fail_next(2, Fault::Grpc(Code::Unavailable));
        let response = mesh.http_client().oneshot(grpc::call("http://s/s/m", b"message")).await.unwrap();
        let told = response.headers().get("grpc-status").cloned();
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
        let told = told.or_else(|| body.trailers().and_then(|trailers| trailers.get("grpc-status").cloned()));
        assert_eq!(told.unwrap(), code);
        assert_eq!(backend.request_count(), asked);
        mesh.end().await;
    }
}

/// Requests go to the endpoint that is well.
#[tokio::test]
async fn a_neighbour_serves_while_one_is_down() {
    watched(async {
        let (down, well) = (TestBackend::named("down").start(), TestBackend::named("well").start());
        let mesh = ServiceConfig::new("s", [down.address(), well.address()]).mesh().await;
        down.set(Fault::Refused);
        for _ in 0..20 {
            let response = mesh.http_client().oneshot(http::Request::get("http://s/").body(empty()).unwrap()).await;
            assert_eq!(response.unwrap().into_body().string().await.unwrap(), "well");
        }
        assert_eq!((down.request_count(), well.request_count()), (0, 20));
        mesh.end().await;
    })
    .await;
}

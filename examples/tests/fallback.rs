//! How a service is tested against the failures of another: the test kit, feature `test-util`.
//!
//! The service under test is [`Shop`]. It asks `recommendations` through the mesh that it has in production; the tests
//! give it one over a network in memory, and a backend that does wrong what they tell it to. Two seconds of timeout
//! pass in no time, for the clock is paused.
#![allow(clippy::unwrap_used, reason = "a panic is the failure of its test")]

use std::time::Duration;

use http::{Request, Response, StatusCode};
use mesh_tonic::Mesh;
use mesh_tonic::mesh_tower::{Error, HttpClient};
use mesh_tonic::testing::{At, Fault, MemoryNetwork, ServiceConfig, TestBackend, TestMesh};
use tokio::time::Instant;

/// A page with what the customer may like, or with what everybody does.
struct Shop {
    http: HttpClient,
}

impl Shop {
    fn new(mesh: &Mesh) -> Self {
        Self { http: mesh.http_client() }
    }

    /// Fits into any server that speaks of `http` types, axum's handlers included.
    async fn page(&self, request: Request<()>) -> Response<String> {
        let liked = match self.recommendations(request.uri().path()).await {
            Ok(Some(liked)) => liked,
            Ok(None) | Err(_) => "bestsellers".to_owned(),
        };
        Response::new(format!("<ul>{liked}</ul>"))
    }

    async fn recommendations(&self, customer: &str) -> Result<Option<String>, Error> {
        let response = self.http.get(format!("http://recommendations{customer}")).await?;
        if response.status() != StatusCode::OK {
            return Ok(None);
        }
        response.into_body().string().await.map(Some)
    }
}

/// The shop, and what it depends on.
struct Town {
    shop: Shop,
    mesh: TestMesh,
    recommendations: TestBackend,
}

impl Town {
    async fn build() -> Self {
        let network = MemoryNetwork::new();
        let recommendations = TestBackend::named("socks").start_in(&network);
        let mesh = ServiceConfig::new("recommendations", [recommendations.address()])
            .route("timeout: 2s, retry: { on: [gateway-error], num_retries: 1, backoff: { base: 10ms } }")
            .mesh_over(&network)
            .await;
        Self { shop: Shop::new(&mesh), mesh, recommendations }
    }

    async fn page(&self) -> String {
        let response = self.shop.page(Request::get("/ada").body(()).unwrap()).await;
        assert_eq!(response.status(), StatusCode::OK, "whatever happens elsewhere");
        response.into_body()
    }
}

#[tokio::test(start_paused = true)]
async fn a_customer_sees_recommendations() {
    let town = Town::build().await;
    assert_eq!(town.page().await, "<ul>socks</ul>");
    assert_eq!(town.recommendations.only_request().head.uri, "/ada");
    town.mesh.end().await;
}

#[tokio::test(start_paused = true)]
async fn one_bad_answer_is_retried() {
    let town = Town::build().await;
    town.recommendations.fail_next(1, Fault::Status(StatusCode::BAD_GATEWAY));
    assert_eq!(town.page().await, "<ul>socks</ul>");
    assert_eq!(town.recommendations.request_count(), 2);
    town.mesh.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_page_falls_back_when_recommendations() {
    for (fails, fault) in [
        ("are down", Fault::Refused),
        ("do not answer", Fault::Stall),
        ("break off in the middle of their answer", Fault::Disconnect(At::InBody(3))),
        ("send their answer too slowly", Fault::SlowBody { chunk: 1 }),
        ("answer an error", Fault::Status(StatusCode::INTERNAL_SERVER_ERROR)),
    ] {
        let town = Town::build().await;
        town.recommendations.set(fault);
        let asked = Instant::now();
        assert_eq!(town.page().await, "<ul>bestsellers</ul>", "when recommendations {fails}");
        assert!(asked.elapsed() < Duration::from_millis(2100), "when recommendations {fails}: {:?}", asked.elapsed());

        town.recommendations.recover();
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(town.page().await, "<ul>socks</ul>", "once they are well again");
        town.mesh.end().await;
    }
}

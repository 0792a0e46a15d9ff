//! The service that `echo_server` serves, by HTTP and gRPC on one router: it tells what came, from whom, and who answers.
//!
//! It knows nothing of what carries it. Who the peer is it asks a function of whoever serves it.

mod grpc;
mod http;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use ::http::Extensions;
use axum::Router;
use serde::Serialize;
use tonic::server::NamedService;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_reflection::server::Builder as Reflection;

use crate::grpc_testing;
use crate::grpc_testing::test_service_server::TestServiceServer;

/// Who the other side of a request is, as far as whoever serves it knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PeerInfo {
    /// Its verified identity, such as a SPIFFE id.
    pub identity: Option<String>,
    /// Whether it has shown a certificate, and has been shown one.
    pub mutual: bool,
    /// Where it is, such as `127.0.0.1:40000`.
    pub address: Option<String>,
}

/// How the service is called, and what it asks others for.
#[derive(Debug, Clone)]
pub struct Options {
    /// What it calls itself in its answers.
    pub server_id: String,
    /// Finds the peer in the extensions of a request.
    pub peer: fn(&Extensions) -> PeerInfo,
}

impl Options {
    /// For a service called `server_id` that never knows its peers.
    pub fn new(server_id: impl Into<String>) -> Self {
        Self { server_id: server_id.into(), peer: |_| PeerInfo::default() }
    }
}

/// What all handlers know.
#[derive(Debug)]
struct Shared {
    server_id: String,
    peer: fn(&Extensions) -> PeerInfo,
}

type Test = TestServiceServer<grpc::TestService>;

/// The gRPC service beside health and reflection.
pub const TEST_SERVICE: &str = Test::NAME;

/// The whole service: HTTP on every path, the gRPC services `grpc.testing.TestService`, `health`, and reflection (v1 and
/// v1alpha). A call of any other gRPC method ends with `UNIMPLEMENTED`.
pub fn app<H: Health>(options: Options, health: HealthServer<H>) -> Router {
    let Options { server_id, peer } = options;
    let shared = Arc::new(Shared { server_id, peer });
    let test = TestServiceServer::new(grpc::TestService::new(shared.clone()));
    let test = Router::new()
        .route_service(&every_method_of(&test), test)
        .layer(axum::middleware::from_fn(grpc::echo_metadata));
    let v1 = reflection().build_v1().expect("the build has made the descriptors");
    let v1alpha = reflection().build_v1alpha().expect("the build has made the descriptors");
    Router::new()
        .merge(test)
        .route_service(&every_method_of(&health), health)
        .route_service(&every_method_of(&v1), v1)
        .route_service(&every_method_of(&v1alpha), v1alpha)
        .merge(http::router(shared))
}

fn every_method_of<S: NamedService>(_: &S) -> String {
    format!("/{}/{{method}}", S::NAME)
}

/// Of what is served, and not of all that the files describe.
fn reflection() -> Reflection<'static> {
    let served = [Test::NAME, "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"];
    let described = Reflection::configure()
        .register_encoded_file_descriptor_set(grpc_testing::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    served.into_iter().fold(described, Reflection::with_service_name)
}

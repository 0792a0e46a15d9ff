//! gRPC for Go. `.ci/interop grpc_go` runs these tests.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cases;
mod ours;

use examples::certs::Authority;
use examples::grpc_testing::Empty;
use examples::grpc_testing::test_service_client::TestServiceClient;
use examples::peers::{GRPC_CASES, GrpcGo, grpc_go_calls, grpc_go_case};
use mesh_tonic::MeshExt as _;
use tonic::Code;

use self::ours::{CLIENT, Ours, SERVER, files, identity, mesh};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_interop_client_is_content_with_our_server() {
    let server = Ours::plain().await;
    for case in GRPC_CASES {
        grpc_go_case(server.address(), case).await.unwrap();
    }
    // One that the echo service has no part in: what a failure looks like.
    let error = grpc_go_case(server.address(), "orca_per_rpc").await.unwrap_err();
    assert!(error.starts_with("orca_per_rpc: exit code Some(1)"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_client_is_content_with_our_server_by_mutual_tls() {
    let authority = Authority::new("cluster.local").unwrap();
    let client = files(&authority, CLIENT);
    let of_server = files(&authority.intermediate().unwrap(), SERVER);
    for mode in ["strict", "permissive"] {
        let server = Ours::with(&of_server, &format!("{{ mode: {mode}, identities: ['{CLIENT}'] }}")).await;
        grpc_go_calls(server.address(), &client, SERVER).await.unwrap();

        // Whoever it is not, and whoever it does not know.
        let error = grpc_go_calls(server.address(), &client, CLIENT).await.unwrap_err();
        assert!(error.contains(&format!("the server is \\\"{SERVER}\\\", not \\\"{CLIENT}\\\"")), "{error}");
        let known = files(&authority, "spiffe://cluster.local/ns/default/sa/other");
        let error = grpc_go_calls(server.address(), &known, SERVER).await.unwrap_err();
        // By TLS 1.3 it is through before it is refused. Whether it reads why, before it finds the connection closed, is chance.
        assert!(error.contains("code = Unavailable"), "{error}");
        let stranger = files(&Authority::new("cluster.local").unwrap(), CLIENT);
        let error = grpc_go_calls(server.address(), &stranger, SERVER).await.unwrap_err();
        assert!(error.contains("certificate"), "{error}");

        // In plaintext.
        let called = grpc_go_case(server.address(), "empty_unary").await;
        assert_eq!(called.is_ok(), mode == "permissive", "{called:?}");
    }
}

fn service(server: &GrpcGo, tls: &str) -> String {
    let address = server.address();
    format!("services: {{ test: {{ backends: {{ one: {{ endpoints: ['{address}'], {tls} }} }} }} }}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_is_content_with_its_server() {
    let server = GrpcGo::start(None).await;
    let mesh = mesh(&service(&server, "tls: { mode: disabled }")).await;
    cases::all(mesh.channel("test").unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_is_content_with_its_server_by_mutual_tls() {
    let authority = Authority::new("cluster.local").unwrap();
    let server = GrpcGo::start(Some(&files(&authority.intermediate().unwrap(), SERVER))).await;
    let tls = |identity| format!("tls: {{ mode: mutual, identities: ['{identity}'] }}");
    let client = files(&authority, CLIENT);
    let ours = mesh(&(identity(&client) + &service(&server, &tls(SERVER)))).await;
    cases::all(ours.channel("test").unwrap()).await;
    let answer = TestServiceClient::new(ours.channel("test").unwrap()).empty_call(Empty {}).await.unwrap();
    assert_eq!(answer.metadata().get("x-peer-identity").unwrap(), CLIENT);

    // Another than is expected, and one that the server does not know.
    let ours = mesh(&(identity(&client) + &service(&server, &tls(CLIENT)))).await;
    let error = TestServiceClient::new(ours.channel("test").unwrap()).empty_call(Empty {}).await.unwrap_err();
    assert!(error.code() == Code::Unavailable && error.message().contains(SERVER), "{error}");
    let stranger = files(&Authority::new("cluster.local").unwrap(), CLIENT);
    let trusting =
        identity(&stranger).replace(&stranger.bundle().display().to_string(), &client.bundle().display().to_string());
    let ours = mesh(&(trusting + &service(&server, &tls(SERVER)))).await;
    let error = TestServiceClient::new(ours.channel("test").unwrap()).empty_call(Empty {}).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
}

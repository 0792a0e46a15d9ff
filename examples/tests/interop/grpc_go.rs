//! gRPC for Go. `.ci/interop grpc_go` runs these tests.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cases;

use std::net::SocketAddr;

use examples::certs::{Authority, Leaf};
use examples::echo;
use examples::peers::{Bare, Files, GRPC_CASES, GrpcGo, grpc_go_calls, grpc_go_case};
use mesh_tonic::{Mesh, MeshExt as _};

#[tokio::test]
async fn its_interop_client_is_content_with_the_echo_service() {
    let server = Bare::serve(echo::app(echo::Options::new("one")).await).await.unwrap();
    for case in GRPC_CASES {
        grpc_go_case(server.address(), case).await.unwrap();
    }
    // One that the echo service has no part in: what a failure looks like.
    let error = grpc_go_case(server.address(), "orca_per_rpc").await.unwrap_err();
    assert!(error.starts_with("orca_per_rpc: exit code Some(1)"), "{error}");
}

#[tokio::test]
async fn it_speaks_mutual_tls_with_our_certificates() {
    const SERVER: &str = "spiffe://cluster.local/ns/default/sa/server";
    const CLIENT: &str = "spiffe://cluster.local/ns/default/sa/client";
    let authority = Authority::new("cluster.local").unwrap();
    let files = |authority: &Authority, identity| Files::write(&authority.issue(&Leaf::new(identity)).unwrap());
    let server = GrpcGo::start(Some(&files(&authority.intermediate().unwrap(), SERVER))).await;
    let client = files(&authority, CLIENT);
    grpc_go_calls(server.address(), &client, SERVER).await.unwrap();

    let error = grpc_go_calls(server.address(), &client, CLIENT).await.unwrap_err();
    assert!(error.contains(&format!("the server is \\\"{SERVER}\\\", not \\\"{CLIENT}\\\"")), "{error}");
    let stranger = files(&Authority::new("cluster.local").unwrap(), CLIENT);
    let error = grpc_go_calls(server.address(), &stranger, SERVER).await.unwrap_err();
    assert!(error.contains("certificate"), "{error}");
    let error = grpc_go_case(server.address(), "empty_unary").await.unwrap_err();
    assert!(error.contains("error reading server preface"), "{error}");
}

async fn mesh(server: SocketAddr) -> Mesh {
    let config = format!("services: {{ test: {{ backends: {{ one: {{ endpoints: ['{server}'] }} }} }} }}");
    Mesh::builder().text(config).build().await.unwrap()
}

#[tokio::test]
async fn our_client_is_content_with_its_server() {
    let server = GrpcGo::start(None).await;
    let mesh = mesh(server.address()).await;
    cases::all(mesh.channel("test").unwrap()).await;
}

/// The cases themselves are tried on our own service.
#[tokio::test]
async fn our_client_is_content_with_the_echo_service() {
    let server = Bare::serve(echo::app(echo::Options::new("one")).await).await.unwrap();
    let mesh = mesh(server.address()).await;
    cases::all(mesh.channel("test").unwrap()).await;
}

//! gRPC for Go: its interop client, and the service that such clients call.

use std::net::SocketAddr;
use std::process::Command;

use super::tools::Files;
use super::{PATIENCE, Process, program, run};

/// The cases of gRPC's interop descriptions that every server must pass: all of them that need neither accounts of a
/// cloud nor compression.
pub const GRPC_CASES: [&str; 14] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
];

/// A server of `grpc.testing.TestService`, health and reflection, the program that `MESH_PEER_GRPC_GO` names. Who its
/// caller is by TLS it tells in the header `x-peer-identity`. It drains and ends when dropped.
#[derive(Debug)]
pub struct GrpcGo {
    process: Process,
    address: SocketAddr,
}

impl GrpcGo {
    /// Starts one, by plaintext, or by mutual TLS with these files, and returns when it listens.
    ///
    /// # Panics
    /// If the variable is not set, or the program does not come up.
    pub async fn start(files: Option<&Files>) -> Self {
        let mut command = Command::new(program("MESH_PEER_GRPC_GO"));
        command.args(["serve", "-addr", "127.0.0.1:0"]).args(files.map(Files::for_go).into_iter().flatten());
        let process = Process::start("grpc-go", command);
        let address = process.said("where it listens", |line| line.split_once("listening on ")?.1.parse().ok()).await;
        Self { process, address }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The program itself.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

/// Runs one case of gRPC for Go's interop client, the program that `MESH_PEER_GRPC_GO_CLIENT` names, against a server,
/// by plaintext.
///
/// # Errors
/// What it found wrong.
///
/// # Panics
/// If the variable is not set, or the program cannot be run.
pub async fn grpc_go_case(server: SocketAddr, case: &str) -> Result<(), String> {
    let arguments = [
        format!("-server_host={}", server.ip()),
        format!("-server_port={}", server.port()),
        format!("-test_case={case}"),
    ];
    let ran = run("MESH_PEER_GRPC_GO_CLIENT", arguments, b"", PATIENCE).await;
    if ran.code == Some(0) { Ok(()) } else { Err(format!("{case}: exit code {:?}: {}", ran.code, ran.said())) }
}

/// Runs all [`GRPC_CASES`] over one connection of gRPC for Go, by mutual TLS with these files, to a server that must have
/// the SPIFFE id `identity`; the program is the one that `MESH_PEER_GRPC_GO` names.
///
/// # Errors
/// What it found wrong.
///
/// # Panics
/// If the variable is not set, or the program cannot be run.
pub async fn grpc_go_calls(server: SocketAddr, files: &Files, identity: &str) -> Result<(), String> {
    let mut arguments =
        ["call", "-addr", &server.to_string(), "-case", "all", "-identity", identity].map(str::to_owned).to_vec();
    arguments.extend(files.for_go());
    let ran = run("MESH_PEER_GRPC_GO", arguments, b"", PATIENCE).await;
    let missing = GRPC_CASES.iter().find(|case| !ran.errors.contains(&format!("{case} passed")));
    match missing {
        None if ran.code == Some(0) => Ok(()),
        _ => Err(format!("exit code {:?}, not passed first: {missing:?}: {}", ran.code, ran.said())),
    }
}

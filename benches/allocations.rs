//! Heap allocations per unary RPC on the client's side, exact: one caller, one thread, 1,000 RPCs after 100. And the
//! heap that a snapshot takes.
//!
//! The counter sees the thread that runs everything, the connections' own tasks too; the server is another process.

use std::io::Write;
use std::sync::Arc;

use benches::Result;
use benches::args::Args;
use benches::contender::Contender;
use benches::measure::one_thread;
use benches::server::Server;
use benches::{model, report};
use mesh_tonic::prelude::*;
use serde::Serialize;
use tokio::sync::watch;

const ENDPOINTS: usize = 3;
const WARM_UP: u64 = 100;
const RPCS: u64 = 1_000;
const SERVICES: usize = 1_000;
const SERVICE_ENDPOINTS: usize = 10;
const MANY: usize = 10_000;

const CONTENDERS: &[Contender] = &[
    Contender::Mesh,
    Contender::MeshMeasured,
    Contender::MeshUnsampled,
    Contender::MeshProtected,
    Contender::Channel,
    Contender::BalanceList,
    Contender::Hyper,
    Contender::HyperRaw,
    #[cfg(feature = "peers")]
    Contender::TonicXds,
    Contender::MeshHttp1,
    Contender::HyperUtilHttp1,
    Contender::HyperHttp1,
    Contender::MeshHttp2,
    Contender::HyperUtilHttp2,
    Contender::HyperHttp2,
];

/// What one client allocated.
#[derive(Serialize)]
struct Row {
    client: &'static str,
    rpcs: u64,
    allocations: u64,
    bytes: u64,
}

fn main() -> Result<()> {
    let args = Args::from_env()?;
    let rpcs = args.rpcs.unwrap_or(RPCS);
    let server = Server::spawn(env!("CARGO_BIN_EXE_greeter-server"), ENDPOINTS)?;
    let title = format!("heap allocations of the client: {rpcs} RPCs after {WARM_UP}, one caller, one thread");
    let mut out = report::table(&args, &title)?;
    writeln!(out, "{:>32} {:>12} {:>10} {:>12}", "client", "allocations", "per RPC", "bytes/RPC")?;
    let mut rows = Vec::new();
    for contender in CONTENDERS.iter().filter(|contender| args.wants(contender.name())) {
        let row = count(*contender, &server, rpcs)?;
        let per_rpc = |count: u64| count as f64 / rpcs as f64;
        writeln!(
            out,
            "{:>32} {:>12} {:>10.3} {:>12.1}",
            row.client,
            row.allocations,
            per_rpc(row.allocations),
            per_rpc(row.bytes)
        )?;
        rows.push(row);
    }
    let snapshot = heap_of_snapshot()?;
    writeln!(
        out,
        "\nmesh of {SERVICES} services x {SERVICE_ENDPOINTS} endpoints, not connected: {} bytes of heap beside its \
         model, {} at most while it was built",
        snapshot.bytes, snapshot.peak_bytes
    )?;
    let endpoint = heap_of_endpoint()?;
    writeln!(out, "an endpoint that was never picked, with its model: {endpoint:.1} bytes of heap")?;
    report::json(&args, &title, &serde_json::json!({ "clients": rows, "snapshot": snapshot, "endpoint": endpoint }))
}

/// What a mesh with a published snapshot takes of the heap, without the model it shares.
#[derive(Serialize)]
struct Heap {
    bytes: i64,
    peak_bytes: u64,
}

fn heap_of_snapshot() -> Result<Heap> {
    let runtime = one_thread()?;
    let (_sender, configs) = watch::channel(Arc::new(model::config(SERVICES, SERVICE_ENDPOINTS)));
    let mut mesh = None;
    let counted =
        allocation_counter::measure(|| mesh = Some(runtime.block_on(Mesh::builder().configs(configs).build())));
    mesh.transpose()?;
    Ok(Heap { bytes: counted.bytes_current, peak_bytes: counted.bytes_max })
}

/// What one of many endpoints that were never picked takes, from its model to the slot of its connections.
fn heap_of_endpoint() -> Result<f64> {
    let heap = |endpoints| -> Result<i64> {
        let runtime = one_thread()?;
        let mut kept = None;
        let counted = allocation_counter::measure(|| {
            let (sender, configs) = watch::channel(Arc::new(model::config(1, endpoints)));
            kept = Some((sender, runtime.block_on(Mesh::builder().configs(configs).build())));
        });
        kept.map(|(_, mesh)| mesh).transpose()?;
        Ok(counted.bytes_current)
    };
    Ok((heap(1 + MANY)? - heap(1)?) as f64 / MANY as f64)
}

fn count(contender: Contender, server: &Server, rpcs: u64) -> Result<Row> {
    let runtime = one_thread()?;
    let candidate = contender.build(&runtime, server)?;
    candidate.calls(&runtime, WARM_UP)?;
    let mut result = Ok(());
    let counted = allocation_counter::measure(|| result = candidate.calls(&runtime, rpcs));
    result?;
    Ok(Row { client: contender.name(), rpcs, allocations: counted.count_total, bytes: counted.bytes_total })
}

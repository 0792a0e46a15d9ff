//! The bar that no change may raise: a unary RPC through the mesh allocates no more than one through a bare channel.
//!
//! A test binary of its own, since it replaces the allocator. Counts are of the client alone: the server is another
//! process, and the counter sees only the thread that runs the client with its connections.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use benches::Result;
use benches::contender::Contender;
use benches::measure::one_thread;
use benches::model;
use benches::server::Server;
use mesh_tonic::prelude::*;
use tokio::sync::watch;

const WARM_UP: u64 = 100;
const RPCS: u64 = 1_000;
/// By how much two counts of the same may differ: a read buffer is renewed wherever the socket happened to split what
/// the server wrote. One allocation more in every tenth RPC would exceed it.
const SPLIT_READS: u64 = 50;

fn server() -> Result<Server> {
    Server::spawn(env!("CARGO_BIN_EXE_greeter-server"), 3)
}

/// Heap allocations of 1,000 RPCs after 100.
fn allocations(contender: Contender, server: &Server) -> Result<u64> {
    let runtime = one_thread()?;
    let candidate = contender.build(&runtime, server)?;
    candidate.calls(&runtime, WARM_UP)?;
    let mut outcome = Ok(());
    let counted = allocation_counter::measure(|| outcome = candidate.calls(&runtime, RPCS));
    outcome?;
    Ok(counted.count_total)
}

#[test]
fn counting_twice_gives_the_same() {
    let server = server().unwrap();
    let count = || allocations(Contender::Channel, &server).unwrap();
    let (first, second) = (count(), count());
    // Less than one allocation an RPC would mean that the counter does not see the client.
    assert!(first > RPCS, "{first}");
    assert!(first.abs_diff(second) <= SPLIT_READS, "{first} {second}");
}

#[test]
fn unary_rpc_through_the_mesh_allocates_no_more_than_through_a_bare_channel() {
    let server = server().unwrap();
    let bare = allocations(Contender::Channel, &server).unwrap();
    let mesh = allocations(Contender::Mesh, &server).unwrap();
    assert!(mesh <= bare + SPLIT_READS, "{mesh} through the mesh, {bare} through a bare channel, of {RPCS} RPCs");
}

/// Metrics and the trace context of a call that is not sampled cost no allocation.
#[test]
fn metrics_and_traces_that_are_not_sampled_allocate_nothing() {
    let server = server().unwrap();
    let mesh = allocations(Contender::Mesh, &server).unwrap();
    let measured = allocations(Contender::MeshUnsampled, &server).unwrap();
    assert!(measured <= mesh + SPLIT_READS, "{measured} with telemetry, {mesh} without, of {RPCS} RPCs");
}

/// TL-09: without a provider there is nothing to pay for: this is the number it was before there was any telemetry.
#[test]
fn tl_09_without_telemetry_the_count_is_what_it_was() {
    let server = server().unwrap();
    let mesh = allocations(Contender::Mesh, &server).unwrap();
    assert!(mesh <= 25 * RPCS + SPLIT_READS, "{mesh} of {RPCS} RPCs");
}

/// Outlier detection, limits and localities cost no allocation either.
#[test]
fn what_protects_a_backend_allocates_nothing() {
    let server = server().unwrap();
    let mesh = allocations(Contender::Mesh, &server).unwrap();
    let protected = allocations(Contender::MeshProtected, &server).unwrap();
    assert!(protected <= mesh + SPLIT_READS, "{protected} with protection, {mesh} without, of {RPCS} RPCs");
    assert!(protected <= 25 * RPCS + SPLIT_READS, "{protected} of {RPCS} RPCs");
}

/// What a mesh takes of the heap whose one backend has so many endpoints that nobody has picked, its model included.
fn heap(endpoints: usize) -> Result<i64> {
    let runtime = one_thread()?;
    let mut kept = None;
    let counted = allocation_counter::measure(|| {
        let (sender, configs) = watch::channel(Arc::new(model::config(1, endpoints)));
        kept = Some((sender, runtime.block_on(Mesh::builder().configs(configs).build())));
    });
    kept.map(|(_, mesh)| mesh).transpose()?;
    Ok(counted.bytes_current)
}

/// An endpoint that was never picked is an address: what learns from requests, and connections, comes with the first
/// of them.
#[test]
fn an_endpoint_that_was_never_picked_takes_at_most_256_bytes() {
    const MANY: usize = 10_000;
    let bytes = (heap(1 + MANY).unwrap() - heap(1).unwrap()) as f64 / MANY as f64;
    // Less than an address would mean that the counter does not see the mesh.
    assert!((32.0..=256.0).contains(&bytes), "{bytes} bytes");
}

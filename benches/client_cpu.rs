//! Client CPU per RPC under load, pair by pair: 128 callers, 3 endpoints, two workers.

use benches::Result;
use benches::args::Args;
use benches::contender::Contender;
use benches::measure::{calls_per_run, interleave, median, two_workers, warm_up};
use benches::report::{self, Comparison, Connections};
use benches::server::Server;
use tokio::runtime::Runtime;

const CALLERS: u64 = 128;
const ENDPOINTS: usize = 3;
const PAIRS: usize = 7;

/// Candidate and baseline.
const COMPARISONS: &[(Contender, Contender)] = &[
    // A client against itself: what the measure is worth on this machine at this time.
    (Contender::BalanceList, Contender::BalanceList),
    (Contender::Mesh, Contender::BalanceList),
    (Contender::MeshProtected, Contender::BalanceList),
    (Contender::MeshProtected, Contender::Mesh),
    (Contender::MeshMeasured, Contender::BalanceList),
    (Contender::MeshMeasured, Contender::Mesh),
    (Contender::Hyper, Contender::BalanceList),
    (Contender::HyperRaw, Contender::BalanceList),
    #[cfg(feature = "peers")]
    (Contender::TonicXds, Contender::BalanceList),
    #[cfg(feature = "peers")]
    (Contender::Mesh, Contender::TonicXds),
    (Contender::MeshHttp1, Contender::HyperUtilHttp1),
    (Contender::HyperHttp1, Contender::HyperUtilHttp1),
    (Contender::MeshHttp2, Contender::HyperUtilHttp2),
    (Contender::HyperHttp2, Contender::HyperUtilHttp2),
];

fn main() -> Result<()> {
    let args = Args::from_env()?;
    let runtime = two_workers()?;
    let mut server = Server::spawn(env!("CARGO_BIN_EXE_greeter-server"), ENDPOINTS)?;
    let title = format!("client CPU per RPC: {CALLERS} callers, {ENDPOINTS} endpoints, 2 workers");
    let mut out = report::table(&args, &title)?;

    let mut comparisons = Vec::new();
    for (candidate, baseline) in COMPARISONS {
        if !args.wants(&format!("{} against {}", candidate.name(), baseline.name())) {
            continue;
        }
        let comparison = compare(&args, &runtime, &mut server, *candidate, *baseline)?;
        comparison.write(&mut *out)?;
        comparisons.push(comparison);
    }
    report::json(&args, &title, &comparisons)
}

fn compare(
    args: &Args,
    runtime: &Runtime,
    server: &mut Server,
    candidate: Contender,
    baseline: Contender,
) -> Result<Comparison> {
    let (names, before) = ((candidate.name(), baseline.name()), server.connections()?);
    let baseline = baseline.build(runtime, server)?;
    warm_up(runtime, &*baseline, CALLERS)?;
    let between = server.connections()?;
    let candidate = candidate.build(runtime, server)?;
    warm_up(runtime, &*candidate, CALLERS)?;
    let after = server.connections()?;

    let rpcs = match args.rpcs {
        Some(rpcs) => rpcs,
        None => calls_per_run(runtime, &*baseline, CALLERS)?,
    };
    let pairs = interleave(runtime, &*baseline, &*candidate, CALLERS, rpcs, args.pairs_or(PAIRS))?;
    Ok(Comparison {
        candidate: names.0.to_owned(),
        baseline: names.1.to_owned(),
        connections: Some(Connections {
            candidate_connections: after - between,
            baseline_connections: between - before,
            late_connections: server.connections()? - after,
        }),
        rpcs,
        median_ratio: median(pairs.iter().map(|pair| pair.ratio)),
        pairs,
    })
}

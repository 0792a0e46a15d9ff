//! CPU of a server per request, pair by pair: what the mesh adds to a framework. 128 callers, two workers.

use benches::Result;
use benches::args::Args;
use benches::credentials::Credentials;
use benches::measure::{calls_per_run, interleave, median, two_workers, warm_up};
use benches::report::{self, Comparison};
use benches::subject::{Around, Framework, Kind, Load, Subjects};
use tokio::runtime::Runtime;

const CALLERS: u64 = 128;
/// Of the bare HTTP/2 clients.
const CONNECTIONS: usize = 4;
const PAIRS: usize = 11;

const AXUM: Kind = Kind::plain(Framework::Axum, Around::Nothing);
const AXUM_MESH: Kind = Kind::plain(Framework::Axum, Around::Mesh);
const AXUM_MEASURED: Kind = Kind::plain(Framework::Axum, Around::MeshMeasured);
const TONIC: Kind = Kind::plain(Framework::Tonic, Around::Nothing);
const TONIC_MESH: Kind = Kind::plain(Framework::Tonic, Around::Mesh);
const TONIC_MEASURED: Kind = Kind::plain(Framework::Tonic, Around::MeshMeasured);
const HYPER: Kind = Kind::plain(Framework::Hyper, Around::Nothing);
const HYPER_LAYER: Kind = Kind::plain(Framework::Hyper, Around::Mesh);
const HYPER_MEASURED: Kind = Kind::plain(Framework::Hyper, Around::MeshMeasured);
const SECURE: Kind = Kind::mutual(Framework::Tonic, Around::Nothing);
const SECURE_MESH: Kind = Kind::mutual(Framework::Tonic, Around::Mesh);
const SECURE_MEASURED: Kind = Kind::mutual(Framework::Tonic, Around::MeshMeasured);

/// Candidate and baseline.
const COMPARISONS: &[(Load, Kind, Kind)] = &[
    // A server against itself: what the measure is worth on this machine at this time.
    (Load::Grpc, TONIC, TONIC),
    (Load::Grpc, TONIC_MESH, TONIC),
    (Load::Grpc, TONIC_MEASURED, TONIC),
    (Load::Http1, AXUM_MESH, AXUM),
    (Load::Http1, AXUM_MEASURED, AXUM),
    (Load::Http2, AXUM_MESH, AXUM),
    (Load::Http2, AXUM_MEASURED, AXUM),
    (Load::Http1, HYPER_LAYER, HYPER),
    (Load::Http1, HYPER_MEASURED, HYPER),
    (Load::Http2, HYPER_LAYER, HYPER),
    (Load::Http2, HYPER_MEASURED, HYPER),
    (Load::Mutual, SECURE_MESH, SECURE),
    (Load::Mutual, SECURE_MEASURED, SECURE),
];

fn main() -> Result<()> {
    let args = Args::from_env()?;
    let runtime = two_workers()?;
    let credentials = Credentials::issue()?;
    let title = format!("server CPU per request: {CALLERS} callers, 2 workers");
    let mut out = report::table(&args, &title)?;

    let mut comparisons = Vec::new();
    for (load, candidate, baseline) in COMPARISONS {
        let names = [candidate, baseline].map(|kind| format!("{kind}, {}", load.name()));
        let [candidate_name, baseline_name] = &names;
        if !args.wants(&format!("{candidate_name} against {baseline_name}")) {
            continue;
        }
        let comparison = compare(&args, &runtime, &credentials, *load, [*candidate, *baseline], names)?;
        comparison.write(&mut *out)?;
        comparisons.push(comparison);
    }
    report::json(&args, &title, &comparisons)
}

fn compare(
    args: &Args,
    runtime: &Runtime,
    credentials: &Credentials,
    load: Load,
    kinds: [Kind; 2],
    names: [String; 2],
) -> Result<Comparison> {
    let subjects = Subjects::spawn(env!("CARGO_BIN_EXE_subject-server"), &kinds, Some(credentials))?;
    let [candidate, baseline] = *subjects.addresses() else { return Err("the server has other ports".into()) };
    let client = |address| runtime.block_on(load.on(address, CONNECTIONS, Some(credentials), subjects.meter()));
    let (candidate, baseline) = (client(candidate)?, client(baseline)?);
    warm_up(runtime, &*candidate, CALLERS)?;
    let rpcs = match args.rpcs {
        Some(rpcs) => rpcs,
        None => calls_per_run(runtime, &*baseline, CALLERS)?,
    };
    let pairs = interleave(runtime, &*baseline, &*candidate, CALLERS, rpcs, args.pairs_or(PAIRS))?;
    let [candidate, baseline] = names;
    let median_ratio = median(pairs.iter().map(|pair| pair.ratio));
    Ok(Comparison { candidate, baseline, connections: None, rpcs, median_ratio, pairs })
}

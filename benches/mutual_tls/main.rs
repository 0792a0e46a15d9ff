//! What mutual TLS costs over connections that are there: to the client alone, and to client and server together, next
//! to plaintext without a mesh, and to two Envoys between the two. 128 callers, two workers a process.

#[cfg(feature = "envoy")]
mod envoy;

use std::io::Write;

use benches::Result;
use benches::args::Args;
use benches::client::{mesh, tonic};
use benches::credentials::Credentials;
use benches::measure::{
    Candidate, calls_per_run, candidate, interleave, median, metered, process_cpu, two_workers, warm_up,
};
use benches::report::{self, Comparison};
use benches::subject::{Around, Framework, Kind, Subjects};
use tokio::runtime::Runtime;

const CALLERS: u64 = 128;
const PAIRS: usize = 11;

const BARE: Kind = Kind::plain(Framework::Tonic, Around::Nothing);
const PLAIN: Kind = Kind::plain(Framework::Tonic, Around::Mesh);
const MUTUAL: Kind = Kind::mutual(Framework::Tonic, Around::Mesh);

/// What all comparisons share.
struct Setting<'a> {
    args: &'a Args,
    runtime: &'a Runtime,
    out: Box<dyn Write>,
    comparisons: Vec<Comparison>,
}

fn main() -> Result<()> {
    let args = Args::from_env()?;
    let runtime = two_workers()?;
    let credentials = Credentials::issue()?;
    let title = format!("CPU of mutual TLS: {CALLERS} callers, connections that are there, 2 workers a process");
    let out = report::table(&args, &title)?;
    let subjects = Subjects::spawn(env!("CARGO_BIN_EXE_subject-server"), &[BARE, PLAIN, MUTUAL], Some(&credentials))?;
    let [bare, plain, mutual] = *subjects.addresses() else { return Err("the server has other ports".into()) };
    let mut setting = Setting { args: &args, runtime: &runtime, out, comparisons: Vec::new() };

    let tonic_to = |address| runtime.block_on(tonic::channel(address));
    let plain_client = runtime.block_on(mesh::grpc(&[plain]))?;
    let mutual_client = runtime.block_on(mesh::mutual_grpc(&[mutual], &credentials.client()))?;

    let (baseline, name) = (candidate("plain", plain_client.clone()), "client: mesh, mTLS");
    setting.compare(name, &*candidate("mutual", mutual_client.clone()), "client: mesh, plain", &*baseline)?;

    let both = || {
        let server = subjects.meter();
        move || Ok(process_cpu()? + server()?)
    };
    let (baseline, name) = (metered("tonic", tonic_to(bare)?, both()), "both ends: tonic, plain");
    setting.compare("both ends: mesh, mTLS", &*metered("mutual", mutual_client, both()), name, &*baseline)?;
    setting.compare("both ends: mesh, plain", &*metered("plain", plain_client, both()), name, &*baseline)?;

    #[cfg(feature = "envoy")]
    if let Some(sidecars) = envoy::Sidecars::start(&runtime, &credentials, bare)? {
        let (server, envoys) = (subjects.meter(), sidecars.meter());
        let all = move || Ok(process_cpu()? + server()? + envoys()?);
        let proxied = metered("envoy", tonic_to(sidecars.address())?, all);
        setting.compare("both ends: tonic, and two Envoys with mTLS between them", &*proxied, name, &*baseline)?;
    }
    #[cfg(not(feature = "envoy"))]
    writeln!(setting.out, "\nwithout Envoy: it takes the feature `envoy` and MESH_PEER_ENVOY, the path of one")?;
    report::json(&args, &title, &setting.comparisons)
}

impl Setting<'_> {
    fn compare(
        &mut self,
        candidate_name: &str,
        candidate: &dyn Candidate,
        baseline_name: &str,
        baseline: &dyn Candidate,
    ) -> Result<()> {
        let Self { args, runtime, out, comparisons } = self;
        if !args.wants(&format!("{candidate_name} against {baseline_name}")) {
            return Ok(());
        }
        warm_up(runtime, candidate, CALLERS)?;
        let rpcs = match args.rpcs {
            Some(rpcs) => rpcs,
            None => calls_per_run(runtime, baseline, CALLERS)?,
        };
        let pairs = interleave(runtime, baseline, candidate, CALLERS, rpcs, args.pairs_or(PAIRS))?;
        let comparison = Comparison {
            candidate: candidate_name.to_owned(),
            baseline: baseline_name.to_owned(),
            connections: None,
            rpcs,
            median_ratio: median(pairs.iter().map(|pair| pair.ratio)),
            pairs,
        };
        comparison.write(&mut **out)?;
        let added = comparison.pairs.iter().map(|pair| pair.candidate_cpu_us - pair.baseline_cpu_us);
        writeln!(out, "added, median of the pairs: {:+.2} us/RPC", median(added))?;
        comparisons.push(comparison);
        Ok(())
    }
}

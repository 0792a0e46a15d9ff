//! What callers see while one of three endpoints is slow, fails or hangs, by policy and next to the peers.
//!
//! Clients take turns; in each round each one starts anew and is called at a rate that does not depend on its answers. The
//! tables are Markdown, and the plots are written to `benches/plots`.

mod clients;
mod outcome;
mod scenario;

use benches::Result;
use benches::args::Args;
use benches::measure::two_workers;
use benches::report;
use benches::server::{Server, WORKERS};

use self::outcome::Rounds;

fn main() -> Result<()> {
    let args = Args::from_env()?;
    let runtime = two_workers()?;
    let mut server = Server::spawn(env!("CARGO_BIN_EXE_greeter-server"), scenario::ENDPOINTS)?;
    let title = format!("one endpoint turns bad: {} calls a second, endpoints of {WORKERS} workers", scenario::RATE);
    let mut out = report::table(&args, &title)?;
    let mut results = Vec::new();
    for mut scenario in scenario::all() {
        if !args.wants(scenario.name) {
            continue;
        }
        scenario.rounds = args.pairs_or(scenario.rounds);
        let mut rounds = Rounds::new();
        for round in 0..scenario.rounds {
            let clients = scenario.clients.iter();
            let played = clients.map(|client| runtime.block_on(client.play(&scenario, &mut server, round)));
            rounds.push(played.collect::<Result<_>>()?);
        }
        let rows = outcome::rows(&scenario, &rounds);
        outcome::write(&mut *out, &scenario, &rows)?;
        // The plots that are kept show the peers too.
        if cfg!(feature = "peers") {
            let path = format!("{}/plots/{}.svg", env!("CARGO_MANIFEST_DIR"), scenario.name);
            std::fs::write(path, outcome::chart(&scenario, &rounds).svg())?;
        }
        results.push(serde_json::json!({ "scenario": scenario.name, "rows": rows }));
    }
    report::json(&args, &title, &results)
}

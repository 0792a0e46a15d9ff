//! Balancing: a pick by each policy among few and many endpoints, the look that a pick takes after a change, and a backend
//! of many endpoints of which one changes.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use benches::Result;
use benches::args::Args;
use benches::micro::{Timing, time, time_with_setup, unit};
use benches::update::until_published;
use benches::{model, report};
use mesh_core::balance::{Pick, PickRequest, State};
use mesh_core::model::{Backend, BackendId, LoadBalancer, Maglev, PeakEwma, RingHash, WeightedRoundRobin};
use mesh_core::snapshot::{Compiler, Snapshot};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;

const COUNTS: [usize; 3] = [3, 100, 10_000];
const MANY: usize = 10_000;

#[derive(Serialize)]
struct Row {
    name: String,
    #[serde(flatten)]
    timing: Timing,
}

fn ring(size: u32) -> RingHash {
    let mut ring = RingHash::default();
    (ring.min_size, ring.max_size) = (size, size);
    ring
}

fn policies() -> [(&'static str, LoadBalancer); 9] {
    [
        ("round_robin", LoadBalancer::RoundRobin),
        ("random", LoadBalancer::Random),
        ("least_request", LoadBalancer::LeastRequest { choice_count: 2 }),
        ("peak_ewma", LoadBalancer::PeakEwma(PeakEwma::default())),
        ("weighted_round_robin", LoadBalancer::WeightedRoundRobin(WeightedRoundRobin::default())),
        ("ring_hash of 4,096", LoadBalancer::RingHash(ring(4_096))),
        ("ring_hash of 1,000,000", LoadBalancer::RingHash(ring(1_000_000))),
        ("maglev", LoadBalancer::Maglev(Maglev::default())),
        ("pick_first", LoadBalancer::PickFirst { shuffle: false }),
    ]
}

fn main() -> Result<()> {
    let args = Args::from_env()?;
    let title = "balancing, one thread: 15 samples each";
    let mut out = report::table(&args, title)?;
    writeln!(out, "{:>58} {:>14} {:>14}", "", "fastest", "median")?;
    let mut rows = Vec::new();
    let mut add = |name: String, measure: &dyn Fn() -> Result<Timing>| -> Result<()> {
        if args.wants(&name) {
            let timing = measure()?;
            writeln!(out, "{name:>58} {:>14} {:>14}", unit(timing.min_ns), unit(timing.median_ns))?;
            rows.push(Row { name, timing });
        }
        Ok(())
    };
    for (policy, balancer) in policies() {
        for count in COUNTS {
            add(format!("pick by {policy} among {count}"), &|| pick(&balancer, count, false))?;
        }
    }
    for (policy, balancer) in policies().into_iter().take(5) {
        add(format!("pick by {policy} among {MANY} of different weights"), &|| pick(&balancer, MANY, true))?;
    }
    for count in COUNTS {
        add(format!("look at {count} after a change, and pick"), &|| look(count))?;
    }
    add(format!("one of {MANY} endpoints changed, model to snapshot"), &change_to_snapshot)?;
    add(format!("one of {MANY} endpoints changed, to published snapshot"), &|| {
        until_published(model::config(1, MANY))
    })?;
    report::json(&args, title, &rows)
}

/// One backend of `count` endpoints, all of them ready.
fn snapshot(balancer: &LoadBalancer, count: usize, weighted: bool) -> Result<Arc<Snapshot>> {
    let mut config = model::config(1, count);
    for backend in config.backends.values_mut() {
        let backend = Arc::<Backend>::make_mut(backend);
        backend.load_balancer = balancer.clone();
        for (endpoint, weight) in backend.endpoints.iter_mut().zip((1..=10).cycle()) {
            endpoint.weight = if weighted { weight } else { 1 };
        }
    }
    let mut rng = StdRng::seed_from_u64(1);
    let snapshot = Compiler::new(()).compile(&Snapshot::empty(), &config, &mut rng, Instant::now())?.snapshot;
    for backend in snapshot.backends() {
        for endpoint in backend.picker().endpoints() {
            endpoint.set_state(State::Ready, Instant::now());
        }
    }
    Ok(snapshot)
}

fn pick(balancer: &LoadBalancer, count: usize, weighted: bool) -> Result<Timing> {
    let snapshot = snapshot(balancer, count, weighted)?;
    let picker = snapshot.backends().next().ok_or("there is a backend")?.picker();
    let mut rng = StdRng::seed_from_u64(1);
    let now = Instant::now() + Duration::from_millis(100);
    Ok(time(|| {
        let hash = picker.uses_hash().then(|| rng.next_u64());
        match picker.pick(&PickRequest::new(hash, now), &[], &mut rng) {
            Pick::Ready(chosen) => Arc::as_ptr(chosen.endpoint),
            other => panic!("all are ready, and it says {other:?}"),
        }
    }))
}

fn look(count: usize) -> Result<Timing> {
    let snapshot = snapshot(&LoadBalancer::RoundRobin, count, false)?;
    let backend = snapshot.backends().next().ok_or("there is a backend")?;
    let mut rng = StdRng::seed_from_u64(1);
    let mut now = Instant::now();
    Ok(time(|| {
        backend.fleet().bump();
        // Views of many are kept for a moment.
        now += Duration::from_millis(10);
        matches!(backend.picker().pick(&PickRequest::new(None, now), &[], &mut rng), Pick::Ready(_))
    }))
}

/// What the compiler takes.
fn change_to_snapshot() -> Result<Timing> {
    let config = model::config(1, MANY);
    let changed = model::with_one_endpoint_changed(&config);
    let mut rng = StdRng::seed_from_u64(1);
    let compiler = Compiler::new(());
    let first = compiler.compile(&Snapshot::empty(), &config, &mut rng, Instant::now())?.snapshot;
    let second = compiler.compile(&first, &changed, &mut rng, Instant::now())?;
    let id = BackendId::new("service0", "backend0");
    let kept = |old: &Snapshot, new: &Snapshot| {
        let endpoints =
            |snapshot: &Snapshot| snapshot.backend_by_id(&id).map(|backend| backend.picker().endpoints().to_vec());
        endpoints(old)
            .zip(endpoints(new))
            .map(|(old, new)| old.iter().zip(&new).filter(|(old, new)| Arc::ptr_eq(old, new)).count())
    };
    assert_eq!(kept(&first, &second.snapshot), Some(MANY - 1));
    Ok(time_with_setup(
        || (),
        |()| compiler.compile(&first, &changed, &mut rng, Instant::now()).map(|update| update.snapshot),
    ))
}

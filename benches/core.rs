//! Decisions without a socket: the route of a request among many, and the way of a configuration into a published snapshot.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use benches::Result;
use benches::args::Args;
use benches::measure::one_thread;
use benches::micro::{Timing, time, time_with_setup, unit};
use benches::update::until_published;
use benches::{model, report};
use http::{HeaderMap, Method};
use mesh_core::matching::{RequestHead, RouteTable};
use mesh_core::model::{Config, HostPattern, VirtualHost};
use mesh_core::snapshot::{Compiler, Snapshot};
use mesh_tonic::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::Serialize;
use tokio::sync::watch;

const SERVICES: usize = 1_000;
const ENDPOINTS: usize = 10;

#[derive(Serialize)]
struct Row {
    name: String,
    #[serde(flatten)]
    timing: Timing,
}

fn main() -> Result<()> {
    let args = Args::from_env()?;
    let title = "decisions, one thread: 15 samples each";
    let mut out = report::table(&args, title)?;
    writeln!(out, "{:>48} {:>14} {:>14}", "", "fastest", "median")?;
    let mut rows = Vec::new();
    let mut add = |name: String, measure: &dyn Fn() -> Result<Timing>| -> Result<()> {
        if args.wants(&name) {
            let timing = measure()?;
            writeln!(out, "{name:>48} {:>14} {:>14}", unit(timing.min_ns), unit(timing.median_ns))?;
            rows.push(Row { name, timing });
        }
        Ok(())
    };
    for count in [1, 100, 1_000] {
        add(format!("route among {count}, found"), &|| route(count, &model::requests(count)))?;
        add(format!("route among {count}, not found"), &|| route(count, &model::requests_without_route()))?;
        add(format!("host, route and backend among {count}"), &|| routed(count))?;
    }
    add(format!("YAML of {SERVICES} x {ENDPOINTS} to model"), &yaml_to_model)?;
    add(format!("model of {SERVICES} x {ENDPOINTS} to published snapshot"), &model_to_snapshot)?;
    add("then one endpoint changed, to published snapshot".to_owned(), &|| {
        until_published(model::config(SERVICES, ENDPOINTS))
    })?;
    add(format!("page of the metrics of {SERVICES} x {ENDPOINTS}"), &metrics_page)?;
    report::json(&args, title, &rows)
}

/// The time to find a route among `count`, on average over `requests`.
fn route(count: usize, requests: &[(String, Option<u32>)]) -> Result<Timing> {
    let table = RouteTable::new(&model::routes(count));
    let headers = HeaderMap::new();
    let find = |path: &str| {
        let head = RequestHead { method: &Method::POST, authority: "greeter", path, query: None, headers: &headers };
        table.find(&head, || 0)
    };
    for (path, winner) in requests {
        if find(path) != *winner {
            return Err(format!("{path} among {count} routes: {:?}, not {winner:?}", find(path)).into());
        }
    }
    let mut turn = requests.iter().cycle();
    Ok(time(|| turn.next().map(|(path, _)| find(path))))
}

/// The whole decision of the request path: host, route and draw of the backend, on average over requests that match.
fn routed(count: usize) -> Result<Timing> {
    let mut host = VirtualHost::new("greeter", vec![HostPattern::parse("greeter")?]);
    host.routes = model::routes(count);
    let config = Config::new().with_virtual_host(host);
    let mut rng = StdRng::seed_from_u64(1);
    let snapshot =
        Compiler::new(()).compile(&Snapshot::empty(), &config, &mut rng, std::time::Instant::now())?.snapshot;
    let headers = HeaderMap::new();
    let requests = model::requests(count);
    let mut turn = requests.iter().cycle();
    Ok(time(|| {
        let (path, _) = turn.next()?;
        let head = RequestHead { method: &Method::POST, authority: "greeter", path, query: None, headers: &headers };
        snapshot.route(&head, &mut rng).ok().map(|routed| routed.route_index)
    }))
}

fn yaml_to_model() -> Result<Timing> {
    let yaml = model::yaml(SERVICES, ENDPOINTS);
    let parse = || mesh_core::config::parse(yaml.as_bytes(), "mesh.yaml", Path::new("."));
    assert_eq!(parse()?.backends.len(), SERVICES);
    Ok(time_with_setup(|| (), |()| parse()))
}

fn model_to_snapshot() -> Result<Timing> {
    let runtime = one_thread()?;
    let (_sender, configs) = watch::channel(Arc::new(model::config(SERVICES, ENDPOINTS)));
    let build = |configs| runtime.block_on(Mesh::builder().configs(configs).build());
    let mesh = build(configs.clone())?;
    assert_eq!(mesh.config_status().borrow().version, 1);
    Ok(time_with_setup(|| configs.clone(), build))
}

/// TL-06: the page of more than 10,000 series.
fn metrics_page() -> Result<Timing> {
    let runtime = one_thread()?;
    let mesh = runtime.block_on(Mesh::builder().config(model::config(SERVICES, ENDPOINTS)).prometheus().build())?;
    let page = || mesh.metrics_page(Some("application/openmetrics-text"));
    let series = page().1.lines().filter(|line| !line.starts_with('#')).count();
    if series < 10_000 {
        return Err(format!("{series} series are too few").into());
    }
    Ok(time(page))
}

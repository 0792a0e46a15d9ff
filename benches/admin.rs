//! The admin pages of a large mesh, as somebody gets them who asks over a socket.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use benches::args::Args;
use benches::measure::{quantile, two_workers};
use benches::{Result, model, report};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use mesh_tonic::Mesh;
use serde::Serialize;
use tokio::net::TcpStream;

const SERVICES: usize = 1_000;
const ENDPOINTS: usize = 10;
const SCRAPES: usize = 15;

type Headers = &'static [(&'static str, &'static str)];

/// Pages: what they are called, where they are, and the headers they are asked for with.
const PAGES: &[(&str, &str, Headers)] = &[
    ("metrics, OpenMetrics", "/metrics", &[("accept", OPEN_METRICS)]),
    ("metrics, OpenMetrics, gzip", "/metrics", &[("accept", OPEN_METRICS), ("accept-encoding", "gzip")]),
    ("configuration, YAML", "/config", &[]),
    ("configuration, JSON", "/config?format=json", &[]),
];
const OPEN_METRICS: &str = "application/openmetrics-text";

#[derive(Serialize)]
struct Row {
    page: &'static str,
    bytes: usize,
    fastest_ms: f64,
    median_ms: f64,
    slowest_ms: f64,
}

fn main() -> Result<()> {
    let args = Args::from_env()?;
    let runtime = two_workers()?;
    let text = model::yaml(SERVICES, ENDPOINTS) + "admin: { address: 127.0.0.1:0 }\n";
    let mesh = runtime.block_on(Mesh::builder().text(text).build())?;
    let address = mesh.admin_address().ok_or("the mesh has no admin pages")?;
    let title = format!("admin pages of {SERVICES} services x {ENDPOINTS} endpoints, over a connection that is there");
    let mut out = report::table(&args, &title)?;
    writeln!(out, "{:>28} {:>10} {:>11} {:>10} {:>11}", "page", "bytes", "fastest ms", "median ms", "slowest ms")?;
    let mut rows = Vec::new();
    for (page, path, headers) in PAGES.iter().filter(|(page, ..)| args.wants(page)) {
        let (bytes, mut times) = runtime.block_on(scrape(address, path, headers, args.pairs_or(SCRAPES)))?;
        times.sort();
        let [fastest_ms, median_ms, slowest_ms] = [0.0, 0.5, 1.0].map(|q| quantile(&times, q).as_secs_f64() * 1e3);
        let row = Row { page, bytes, fastest_ms, median_ms, slowest_ms };
        writeln!(out, "{page:>28} {bytes:>10} {fastest_ms:>11.2} {median_ms:>10.2} {slowest_ms:>11.2}")?;
        rows.push(row);
    }
    let page = mesh.metrics_page(Some(OPEN_METRICS)).1;
    let series = page.lines().filter(|line| !line.starts_with('#')).count();
    writeln!(out, "series: {series}")?;
    report::json(&args, &title, &serde_json::json!({ "series": series, "pages": rows }))
}

/// How large the page is, and how long each of `count` requests took until it was there whole; one more is not counted.
async fn scrape(address: SocketAddr, path: &str, headers: Headers, count: usize) -> Result<(usize, Vec<Duration>)> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(TcpStream::connect(address).await?)).await?;
    tokio::spawn(connection);
    let (mut bytes, mut times) = (0, Vec::new());
    for turn in 0..=count {
        let mut request = Request::get(path).header("host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        sender.ready().await?;
        let started = Instant::now();
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        if response.status() != 200 {
            return Err(format!("{path}: {}", response.status()).into());
        }
        bytes = response.into_body().collect().await?.to_bytes().len();
        if turn > 0 {
            times.push(started.elapsed());
        }
    }
    Ok((bytes, times))
}

//! Ten minutes of bad days over sockets: RL-09 (short), RL-11, RL-12.
//!
//! ```text
//! cargo test --release -p mesh-tower --test soak -- --ignored --nocapture
//! ```
//!
//! `SOAK_SECONDS` is how long it takes, 600 without it. At 500 requests a second, over HTTP/1.1, HTTP/2 and gRPC, with
//! retries and with hedges, a configuration comes each second, and endpoints come, go, fail, hang, reset and slow down. No
//! request may fail that had three healthy endpoints to choose from, unless a limit that was configured low refused it;
//! and memory, tasks and descriptors stay what they were.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement: it panics where it fails, and prints")]

mod figures;
mod peers;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use mesh_tower::core::config;
use mesh_tower::core::grpc::{self as codes, Code};
use mesh_tower::core::model::Config;
use mesh_tower::core::observe::{Event, Observer};
use mesh_tower::core::resilience::outlier::EjectionChange;
use mesh_tower::testing::{Payload, TestMesh, empty, full, grpc};
use mesh_tower::{ErrorKind, HttpClient, Mesh, RequestOptions};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tower::Service;

use figures::{Figures, Sample, Samples, descriptors, resident};
use peers::{Mode, Peer};

const PEERS: usize = 10;
/// In the configuration at any time.
const FEWEST: usize = 7;
/// Of those not well, and those that just became so.
const MOST_BAD: usize = 3;
const RATE: u32 = 500;
/// How long a peer that is well again may take to be believed: an ejection, a connect backoff, and sweeps.
const BELIEVED: Duration = Duration::from_secs(6);

/// What a mesh tells, counted.
#[derive(Default)]
struct Told {
    ejected: AtomicU64,
    returned: AtomicU64,
    overflows: AtomicU64,
    configs: AtomicU64,
}

impl Observer for Told {
    fn event(&self, event: &Event<'_>) {
        let count = match event {
            Event::Ejection(ejection) => match ejection.change {
                EjectionChange::Ejected { .. } => &self.ejected,
                EjectionChange::Returned => &self.returned,
                _ => return,
            },
            Event::Overflow(_) => &self.overflows,
            Event::Config(config) if config.error.is_none() => &self.configs,
            _ => return,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// The peers, and who of them is in the configuration.
struct Director {
    peers: Vec<Peer>,
    /// Since when each is well, if it is.
    well: Vec<Option<Instant>>,
    listed: Vec<bool>,
    rng: StdRng,
    second: u32,
    /// How many peers became what.
    became: [u32; Mode::BAD.len()],
}

impl Director {
    fn new() -> Self {
        let long_ago = Instant::now().checked_sub(BELIEVED);
        Self {
            peers: (0..PEERS).map(|_| Peer::start()).collect(),
            well: vec![long_ago; PEERS],
            listed: vec![true; PEERS],
            rng: StdRng::seed_from_u64(9),
            second: 0,
            became: Default::default(),
        }
    }

    fn is_good(&self, peer: usize) -> bool {
        self.well[peer].is_some_and(|since| since.elapsed() >= BELIEVED)
    }

    /// How many of the listed peers may fail a request.
    fn bad(&self) -> usize {
        (0..PEERS).filter(|peer| self.listed[*peer] && !self.is_good(*peer)).count()
    }

    /// A second has passed.
    fn step(&mut self) {
        self.second += 1;
        (0..3).for_each(|_| self.change_one());
        let peer = self.rng.random_range(0..PEERS);
        if !self.listed[peer] && (self.is_good(peer) || self.bad() < MOST_BAD) {
            self.listed[peer] = true;
        } else if self.listed.iter().filter(|listed| **listed).count() > FEWEST {
            self.listed[peer] = false;
        }
    }

    /// Something happens to some peer.
    fn change_one(&mut self) {
        let peer = self.rng.random_range(0..PEERS);
        match self.peers[peer].mode() {
            mode @ (Mode::Well | Mode::Slow) => {
                if self.rng.random_bool(0.3) {
                    self.peers[peer].set(if mode == Mode::Well { Mode::Slow } else { Mode::Well });
                } else if self.bad() < MOST_BAD {
                    let worse = self.rng.random_range(0..Mode::BAD.len());
                    self.became[worse] += 1;
                    self.peers[peer].set(Mode::BAD[worse]);
                    self.well[peer] = None;
                }
            }
            _ => {
                self.peers[peer].set(Mode::Well);
                self.well[peer] = Some(Instant::now());
            }
        }
    }

    /// Whether the limit is so low that requests are refused: for a second of twenty.
    fn is_low(&self) -> bool {
        self.second % 20 == 10
    }

    fn config(&self) -> Arc<Config> {
        let listed = self.peers.iter().zip(&self.listed).filter(|(_, listed)| **listed);
        let endpoints: Vec<_> = listed.map(|(peer, _)| format!("\"{}\"", peer.address)).collect();
        let balancers = ["round_robin", "least_request", "random", "peak_ewma", "ring_hash", "maglev"];
        let balancer = balancers[self.second as usize / 5 % balancers.len()];
        let recovery = ["time", "probe"][self.second as usize / 30 % 2];
        let limit = if self.is_low() { 2 } else { 4000 };
        let backend = format!(
            "endpoints: [{}], load_balancer: {balancer}, connect_timeout: 1s, \
             connect_backoff: {{ base: 50ms, max: 500ms }}, \
             retry_budget: {{ percent: 100, min_concurrent: 1000 }}, circuit_breaker: {{ max_requests: {limit} }}, \
             outlier_detection: {{ interval: 500ms, base_ejection_time: 1s, max_ejection_time: 3s, \
             max_ejection_percent: 50, recovery: {recovery} }}",
            endpoints.join(", ")
        );
        let yaml = format!(
            r#"
defaults:
  timeout: 10s
services:
  soak:
    routes:
    - matches: [{{ path: {{ prefix: /hedged }} }}]
      hedging: {{ max_attempts: 5, delay: 400ms, non_fatal: [5xx] }}
      backends: [{{ name: h2 }}]
    - matches: [{{ path: {{ prefix: /h2 }} }}]
      retry: &retry
        on: [5xx, reset, connect-failure, refused-stream, unavailable, internal, cancelled, deadline-exceeded]
        num_retries: 4
        methods: all
        per_try_timeout: 500ms
        backoff: {{ base: 5ms, max: 50ms }}
      backends: [{{ name: h2 }}]
    - retry: *retry
      backends: [{{ name: auto }}]
    backends:
      h2: {{ protocol: http2, {backend} }}
      auto: {{ {backend} }}
"#
        );
        match config::parse(yaml.as_bytes(), "soak.yaml", Path::new(".")) {
            Ok(config) => Arc::new(config),
            Err(error) => panic!("{error}"),
        }
    }
}

/// What the `n`-th request is.
fn request(n: u64) -> (&'static str, Request<Payload>) {
    let (what, mut request) = match n % 8 {
        0 | 1 => ("gRPC", grpc::call("http://soak/a.B/C", [3; 100])),
        2 | 3 => ("gRPC, large", grpc::call("http://soak/a.B/C", [3; 20_000])),
        4 => ("HTTP/1.1 POST", Request::post("http://soak/items").body(full(vec![3; 5_000])).unwrap()),
        5 => ("HTTP/2", Request::get("http://soak/h2").body(empty()).unwrap()),
        6 => ("HTTP/2, hedged", Request::get("http://soak/hedged").body(empty()).unwrap()),
        _ => ("HTTP/1.1", Request::get("http://soak/items").body(empty()).unwrap()),
    };
    request.extensions_mut().insert(RequestOptions::new().hash_key(n.to_be_bytes()));
    (what, request)
}

/// Sends a request and says what was wrong with it, if anything was.
async fn send(mut client: HttpClient, request: Request<Payload>) -> Result<(), (Option<ErrorKind>, String)> {
    let is_grpc = request.headers().contains_key("te");
    let failed = |error: mesh_tower::Error| (Some(error.kind()), error.report());
    let response = client.call(request).await.map_err(failed)?;
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(failed)?;
    if is_grpc {
        let code = body.trailers().or(Some(&head.headers)).and_then(codes::status);
        return if code == Some(Code::Ok) { Ok(()) } else { Err((None, format!("{code:?}"))) };
    }
    if head.status == 200 { Ok(()) } else { Err((None, head.status.to_string())) }
}

/// RL-09, short: see the head of this file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes ten minutes"]
async fn rl_09_a_bad_day() {
    let length = std::env::var("SOAK_SECONDS").map_or(600, |seconds| seconds.parse().unwrap());
    let length = Duration::from_secs(length);
    let mut director = Director::new();
    let idle = descriptors();
    let told = Arc::new(Told::default());
    let (configs, receiver) = watch::channel(director.config());
    let mesh = TestMesh::start(Mesh::builder().configs(receiver).observer(Arc::clone(&told))).await;
    let began = Instant::now();
    let mut figures = Figures::default();
    let mut samples = Samples::default();
    let mut requests = JoinSet::new();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE);
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    let mut low_until = None::<Instant>;
    let mut n = 0_u64;
    while began.elapsed() < length {
        tokio::select! {
            _ = ticks.tick() => {
                let (what, request) = request(n);
                let (client, sent) = (mesh.http_client(), Instant::now());
                // One of a hundred callers loses interest.
                let patience = if n % 100 == 99 { Duration::from_millis(n % 7) } else { Duration::from_secs(60) };
                requests.spawn(async move {
                    let ended = tokio::time::timeout(patience, send(client, request)).await;
                    (what, sent, ended.ok())
                });
                n += 1;
            }
            _ = seconds.tick() => {
                director.step();
                configs.send_replace(director.config());
                if director.is_low() {
                    low_until = Some(Instant::now() + Duration::from_secs(3));
                }
                samples.take(began.elapsed(), Sample::of(mesh.live_tasks()));
            }
            Some(ended) = requests.join_next() => {
                let (what, sent, ended) = ended.unwrap();
                figures.ended(what, sent, ended, low_until);
            }
        }
    }
    while let Some(ended) = requests.join_next().await {
        let (what, sent, ended) = ended.unwrap();
        figures.ended(what, sent, ended, low_until);
    }
    let served = director.peers.iter().map(Peer::served).sum();
    println!("{}", figures.table(&told, &samples, n, served));
    println!("{:?} became {:?}; {} MiB resident at the end", director.became, Mode::BAD, resident() >> 20);
    mesh.end().await;
    // The peers see the end of their connections a little later.
    let closed = async {
        while descriptors() > idle {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let all_closed = tokio::time::timeout(Duration::from_secs(10), closed).await.is_ok();
    assert!(all_closed, "RL-12: {} descriptors are open that were not before", descriptors() - idle);
    figures.assert_well();
    samples.assert_flat(length);
}

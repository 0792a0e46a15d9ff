//! Bad days that nobody thought of: faults, updates, requests and cancellations by chance, from a seed that the failure
//! names. Whatever happened, once all is well every endpoint serves again, and nothing is left of it.

use std::collections::HashSet;
use std::time::Duration;

use http::StatusCode;
use mesh_tower::RequestOptions;
use mesh_tower::core::grpc::Code;
use mesh_tower::testing::{At, Fault, Reason, Reply, TestBackend, grpc, watched};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

use crate::support::{Live, World, get_with, whole};

const BACKENDS: usize = 5;

struct Day {
    rng: StdRng,
    world: World,
    /// What has been tried, for the text of a failure.
    log: Vec<String>,
}

impl Day {
    fn new(seed: u64) -> Self {
        let world = World::made(BACKENDS, |number| {
            TestBackend::handling(move |request| {
                let is_grpc = request.headers().contains_key("te");
                async move {
                    if is_grpc { grpc::answer(["m"], Code::Ok, "").into() } else { Reply::from(number.to_string()) }
                }
            })
            .max_concurrent_streams(if seed.is_multiple_of(3) { 2 } else { 100 })
        });
        Self { rng: StdRng::seed_from_u64(seed), world, log: Vec::new() }
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of.choose(&mut self.rng).unwrap()
    }

    /// Some configuration; `all`: of all endpoints, and none whose choice is bound to one of them.
    fn config(&mut self, all: bool) -> String {
        let protocol = self.one(&["http1", "http2", "auto"]);
        let balancer = match all {
            // Nor one for which the memory of a bad latency counts: of the others there is none, in a clock that stands still.
            true => self.one(&["round_robin", "random", "least_request"]),
            false => {
                self.one(&["round_robin", "random", "least_request", "peak_ewma", "ring_hash", "maglev", "pick_first"])
            }
        };
        let recovery = self.one(&["time", "probe"]);
        let outlier = format!(
            "outlier_detection: {{ consecutive_5xx: 2, interval: 1s, base_ejection_time: 3s, max_ejection_time: 20s, \
             max_ejection_percent: 100, recovery: {recovery} }},"
        );
        let outlier = if self.rng.random_bool(0.8) { &outlier } else { "" };
        let breaker =
            self.one(&["", "max_requests: 3", "max_pending_requests: 2", "max_connections: 2", "max_retries: 1"]);
        let idle = self.one(&["", "idle_timeout: 1s,", "max_connection_age: 2s,", "max_requests_per_connection: 2,"]);
        let eager = self.one(&["", "eager_endpoints: 0,", "eager_endpoints: 0,"]);
        let panic = self.one(&["0", "50"]);
        let start = if matches!(balancer, "round_robin" | "random") {
            self.one(&["", "slow_start: { window: 5s },"])
        } else {
            ""
        };
        let mut localities = [Vec::new(), Vec::new()];
        for address in self.world.addresses() {
            if all || self.rng.random_bool(0.7) {
                localities[usize::from(!all && self.rng.random_bool(0.3))].push(format!("\"{address}\""));
            }
        }
        let [first, second] = localities.map(|list| list.join(", "));
        let retry =
            self.one(&["", "retry: { on: [5xx, reset, unavailable], num_retries: 2, per_try_timeout: 500ms },"]);
        format!(
            "services: {{ greeter: {{ routes: [{{ {retry} backends: [{{ name: v1 }}] }}], backends: {{ v1: {{ \
             protocol: {protocol}, load_balancer: {balancer}, {outlier} circuit_breaker: {{ {breaker} }}, {idle} {eager} \
             {start} locality_policy: {{ panic_threshold: {panic} }}, connect_timeout: 2s, \
             connect_backoff: {{ base: 100ms, max: 1s }}, \
             localities: [{{ region: a, endpoints: [{first}] }}, {{ region: b, priority: 1, endpoints: [{second}] }}] \
             }} }} }} }}"
        )
    }

    fn fault(&mut self) -> Fault {
        let at = [At::BeforeHead, At::AfterHead, At::InBody(1)][self.rng.random_range(0..3)];
        let reason = [Reason::REFUSED_STREAM, Reason::INTERNAL_ERROR, Reason::CANCEL][self.rng.random_range(0..3)];
        [
            Fault::Refused,
            Fault::BlackHole,
            Fault::Stall,
            Fault::Status(StatusCode::SERVICE_UNAVAILABLE),
            Fault::Status(StatusCode::INTERNAL_SERVER_ERROR),
            Fault::Disconnect(at),
            Fault::Reset(at, reason),
            Fault::GoAway { processed: true },
            Fault::GoAway { processed: false },
            Fault::CloseAfter(3),
            Fault::SlowBody { chunk: 1 },
        ][self.rng.random_range(0..11)]
    }

    fn request(&mut self, live: &Live, requests: &mut JoinSet<()>) {
        let key: u8 = self.rng.random();
        let mut options =
            RequestOptions::new().hash_key([key]).timeout(Duration::from_millis(self.rng.random_range(1..4000)));
        if self.rng.random_bool(0.2) {
            options = options.wait_for_ready();
        }
        let mut request = get_with(options);
        if self.rng.random_bool(0.4) {
            let extensions = request.extensions().clone();
            request = grpc::call("http://greeter/a.B/C", "message");
            *request.extensions_mut() = extensions;
        }
        let call = live.send(request);
        requests.spawn(async move {
            if let Ok(response) = call.await {
                let _ = whole(response).await;
            }
        });
    }

    async fn step(&mut self, live: &Live, requests: &mut JoinSet<()>) {
        let at = self.rng.random_range(0..BACKENDS);
        match self.rng.random_range(0..12) {
            0..3 => {
                let fault = self.fault();
                self.log.push(format!("{at}: {fault:?}"));
                self.world.backends[at].set(fault);
            }
            3 => {
                self.log.push(format!("{at}: recover"));
                self.world.backends[at].recover();
            }
            4 => self.world.backends[at].disconnect(),
            5 => {
                let yaml = self.config(false);
                self.log.push(yaml.clone());
                live.push(yaml);
            }
            6 => {
                self.log.push("abort".to_owned());
                requests.abort_all();
            }
            7..10 => {
                let count = self.rng.random_range(1..30);
                self.log.push(format!("{count} requests"));
                (0..count).for_each(|_| self.request(live, requests));
            }
            _ => {
                let pause = Duration::from_millis(self.rng.random_range(1..3000));
                self.log.push(format!("{pause:?}"));
                tokio::time::sleep(pause).await;
            }
        }
        tokio::task::yield_now().await;
    }
}

async fn a_day(seed: u64) {
    let mut day = Day::new(seed);
    let first = day.config(true);
    let live = day.world.live(first).await;
    let mut requests = JoinSet::new();
    for _ in 0..120 {
        day.step(&live, &mut requests).await;
    }
    while requests.join_next().await.is_some() {}
    day.world.backends.iter().for_each(TestBackend::recover);
    let last = day.config(true);
    day.log.push(last.clone());
    live.apply(last).await;
    // The longest an endpoint may be out, and connections that lead nowhere.
    tokio::time::sleep(Duration::from_secs(30)).await;
    let mut names = HashSet::new();
    let mut failed = Vec::new();
    for n in 0..100_u8 {
        let patient = RequestOptions::new().hash_key([n]).timeout(Duration::from_secs(20));
        match async { whole(live.send(get_with(patient)).await?).await }.await {
            Ok((_, name)) => drop(names.insert(name)),
            Err(error) => failed.push(error.report()),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let happened = || format!("seed {seed}: {names:?} serve; {failed:?}; before:\n{}", day.log.join("\n"));
    assert_eq!(names.len(), BACKENDS, "not all endpoints are back; {}", happened());
    // What was idle for so long may be found closed.
    assert!(failed.len() <= BACKENDS, "{}", happened());
    assert_eq!(live.metric("mesh.backend.ejected_endpoints", ""), 0.0, "{}", happened());
    live.end().await;
}

/// RL-11, RL-12, CB-04: whatever happened, nothing is lost, stuck or left.
#[tokio::test(start_paused = true)]
async fn any_bad_day_ends_well() {
    let (from, count) = match std::env::var("CHAOS_SEEDS") {
        Ok(seeds) => {
            let (from, count) = seeds.split_once('+').unwrap();
            (from.parse().unwrap(), count.parse().unwrap())
        }
        Err(_) => (0, 12),
    };
    for seed in from..from + count {
        watched(a_day(seed)).await;
    }
}

use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::model::{Address, BackendId, Consecutive, Locality, OutlierDetection, Recovery};
use crate::resilience::outlier::{Outcome, Standing};

mod concurrency;
mod connecting;
mod hashes;
mod health;
mod least_cost;
mod localities;
mod news;
mod policies;
mod properties;
mod sessions;
mod weights;

/// A backend of endpoints at ports from 1000 on.
struct Kit {
    fleet: Arc<Fleet>,
    config: model::Backend,
    endpoints: Vec<Arc<Endpoint<()>>>,
    here: Place,
    start: Instant,
    now: Instant,
    rng: StdRng,
}

impl Kit {
    fn new(policy: LoadBalancer, states: &[State]) -> Self {
        let now = Instant::now();
        let address = |index: usize| {
            let [.., high, low] = (1 + index / 10_000).to_be_bytes();
            Address::from(std::net::SocketAddr::from(([127, 0, high, low], 1000 + (index % 10_000) as u16)))
        };
        let addresses = (0..states.len()).map(address);
        let mut config =
            model::Backend::new(BackendId::new("s", "b"), addresses.clone().map(model::Endpoint::new).collect());
        config.load_balancer = policy;
        let fleet = Arc::new(Fleet::new(now));
        let endpoints: Vec<_> = addresses.map(|address| Arc::new(Endpoint::new(address, &fleet, ()))).collect();
        let rng = StdRng::seed_from_u64(7);
        let kit = Self { fleet, config, endpoints, here: Place::default(), start: now, now, rng };
        kit.set(states);
        kit
    }

    /// Changes what the source says of the endpoint at each index.
    fn with(mut self, change: impl Fn(usize, &mut model::Endpoint)) -> Self {
        self.config.endpoints.iter_mut().enumerate().for_each(|(index, endpoint)| change(index, endpoint));
        self
    }

    /// Puts each endpoint into a zone of this priority and weight.
    fn zoned(self, zone: impl Fn(usize) -> (&'static str, u32, u32)) -> Self {
        self.with(|index, endpoint| {
            let (name, priority, weight) = zone(index);
            let mut locality = Locality::new(Place::new("eu", name, ""));
            (locality.priority, locality.weight) = (priority, weight);
            endpoint.locality = Some(Arc::new(locality));
        })
    }

    fn configured(mut self, change: impl FnOnce(&mut model::Backend)) -> Self {
        change(&mut self.config);
        self
    }

    fn set(&self, states: &[State]) {
        for (endpoint, state) in self.endpoints.iter().zip(states) {
            endpoint.set_state(*state, self.now);
        }
    }

    fn set_one(&self, index: usize, state: State) {
        self.endpoints[index].set_state(state, self.now);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// Ejects the endpoint at `index` until a probe brings it back.
    fn eject(&mut self, index: usize) {
        let total = self.endpoints.len();
        let outcome = Outcome::ServerError { gateway: false };
        self.endpoints[index].judge(&outliers(), outcome, total, false, self.now, &mut self.rng);
        assert_eq!(self.endpoints[index].standing(), Standing::Ejected);
    }

    /// Lets the time of all ejections pass.
    fn sweep(&mut self) {
        self.pass(Duration::from_secs(1_000));
        let records = self.endpoints.iter().filter_map(|endpoint| endpoint.known_record());
        self.fleet.detector().sweep(&outliers(), self.endpoints.len(), records, self.now, &mut self.rng, |_, _| ());
        self.fleet.bump();
    }

    fn picker(&self) -> Picker<()> {
        self.picker_from(0)
    }

    fn picker_from(&self, start: u32) -> Picker<()> {
        let endpoints = self.config.endpoints.iter().zip(self.endpoints.iter().cloned()).collect();
        Picker::new(&self.config, endpoints, &self.here, &self.fleet, start, self.now)
    }

    fn request(&self) -> PickRequest {
        PickRequest::new(None, self.now)
    }

    fn hashed(&self, hash: u64) -> PickRequest {
        PickRequest::new(Some(hash), self.now)
    }

    fn pick<'a>(&mut self, picker: &'a Picker<()>) -> Pick<'a, ()> {
        picker.pick(&self.request(), &[], &mut self.rng)
    }

    fn answer(&mut self, picker: &Picker<()>) -> &'static str {
        word(&self.pick(picker))
    }

    fn index(&self, endpoint: &Arc<Endpoint<()>>) -> usize {
        self.endpoints.iter().position(|other| Arc::ptr_eq(other, endpoint)).expect("it is one of the kit's")
    }

    /// Where the next request goes.
    fn next(&mut self, picker: &Picker<()>) -> usize {
        let endpoint = ready(self.pick(picker));
        self.index(endpoint)
    }

    /// How many of `picks` requests each endpoint gets.
    fn count(&mut self, picker: &Picker<()>, picks: usize) -> Vec<usize> {
        let mut counts = vec![0; self.endpoints.len()];
        for _ in 0..picks {
            counts[self.next(picker)] += 1;
        }
        counts
    }
}

fn news(priority: Option<u32>, panics: bool) -> Option<News> {
    Some(News { priority, distance: 0, panics })
}

fn outliers() -> OutlierDetection {
    OutlierDetection {
        max_ejection_percent: 100,
        consecutive_5xx: Some(Consecutive::new(1)),
        recovery: Recovery::Probe,
        ..OutlierDetection::default()
    }
}

fn ready<T>(pick: Pick<'_, T>) -> &Arc<Endpoint<T>> {
    match pick {
        Pick::Ready(chosen) => chosen.endpoint,
        other => panic!("an endpoint is ready, and it says {}", word(&other)),
    }
}

fn word<T>(pick: &Pick<'_, T>) -> &'static str {
    match pick {
        Pick::Ready(_) => "ready",
        Pick::Await(_) => "await",
        Pick::Wait => "wait",
        Pick::Failing => "failing",
        Pick::Empty => "empty",
    }
}

/// That `count` of `picks` is a share of `p`, give or take five sigma.
#[track_caller]
fn assert_share(count: usize, picks: usize, p: f64) {
    let (mean, sigma) = (picks as f64 * p, (picks as f64 * p * (1.0 - p)).sqrt());
    assert!((count as f64 - mean).abs() <= 5.0 * sigma, "{count} of {picks}, not {mean:.0} and 5 x {sigma:.1}");
}

fn policies() -> [LoadBalancer; 7] {
    [
        LoadBalancer::RoundRobin,
        LoadBalancer::Random,
        LoadBalancer::LeastRequest { choice_count: 2 },
        LoadBalancer::PeakEwma(PeakEwma::default()),
        LoadBalancer::WeightedRoundRobin(WeightedRoundRobin::default()),
        LoadBalancer::RingHash(model::RingHash::default()),
        LoadBalancer::Maglev(model::Maglev { table_size: 1009 }),
    ]
}

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use examples::percentile;
use mesh_tonic::core::balance::State;
use mesh_tonic::core::model::Address;
use mesh_tonic::mesh_tower::observe::{Event, Next, Observer, Outcome};

/// What "now" means on the screen.
const WINDOW: Duration = Duration::from_secs(1);

/// Counts what the mesh tells.
#[derive(Default)]
pub(crate) struct Tally(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    /// The version of the configuration in force.
    version: u64,
    /// Requests by the configuration that routed them and the backend that was drawn for them.
    drawn: BTreeMap<(u64, Arc<str>), u64>,
    /// Answers by endpoint.
    answers: HashMap<SocketAddr, u64>,
    states: HashMap<SocketAddr, State>,
    retries: u64,
    resends: u64,
    recent_requests: VecDeque<(Instant, Duration)>,
    recent_answers: VecDeque<(Instant, SocketAddr)>,
}

/// The last second.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recent {
    pub(crate) requests: usize,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) answers: HashMap<SocketAddr, usize>,
}

impl Observer for Tally {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Request(request) => {
                let now = Instant::now();
                let mut counts = self.lock();
                if let Some(backend) = request.backend {
                    *counts.drawn.entry((request.config_version, Arc::clone(&backend.name))).or_default() += 1;
                }
                counts.recent_requests.push_back((now, request.duration));
            }
            Event::Attempt(attempt) => {
                let now = Instant::now();
                let mut counts = self.lock();
                match attempt.next {
                    Next::Retry => counts.retries += 1,
                    Next::Resend => counts.resends += 1,
                    _ => {
                        if let (Outcome::Response { .. }, Some(Address::Socket(address))) =
                            (attempt.outcome, attempt.endpoint)
                        {
                            *counts.answers.entry(*address).or_default() += 1;
                            counts.recent_answers.push_back((now, *address));
                        }
                    }
                }
            }
            Event::Endpoint(endpoint) => {
                if let Address::Socket(address) = endpoint.endpoint {
                    self.lock().states.insert(*address, endpoint.state);
                }
            }
            Event::Config(config) => self.lock().version = config.version,
            _ => {}
        }
    }
}

impl Tally {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The version of the configuration in force.
    pub(crate) fn version(&self) -> u64 {
        self.lock().version
    }

    /// How many requests that the configuration `version` routed went to `backend`.
    pub(crate) fn drawn(&self, version: u64, backend: &str) -> u64 {
        self.lock().drawn.get(&(version, backend.into())).copied().unwrap_or_default()
    }

    /// How many requests the endpoint has answered.
    pub(crate) fn answers(&self, endpoint: SocketAddr) -> u64 {
        self.lock().answers.get(&endpoint).copied().unwrap_or_default()
    }

    /// The endpoint's state.
    pub(crate) fn state(&self, endpoint: SocketAddr) -> State {
        self.lock().states.get(&endpoint).copied().unwrap_or(State::Idle)
    }

    /// How many attempts were followed by another, by the retry policy, and because nobody had processed them.
    pub(crate) fn retries(&self) -> (u64, u64) {
        let counts = self.lock();
        (counts.retries, counts.resends)
    }

    /// The last second.
    pub(crate) fn recent(&self) -> Recent {
        let now = Instant::now();
        let mut counts = self.lock();
        forget(&mut counts.recent_requests, now);
        forget(&mut counts.recent_answers, now);
        let mut durations: Vec<_> = counts.recent_requests.iter().map(|(_, duration)| *duration).collect();
        let mut answers = HashMap::new();
        for (_, endpoint) in &counts.recent_answers {
            *answers.entry(*endpoint).or_default() += 1;
        }
        drop(counts);
        durations.sort_unstable();
        let at = |percent| percentile(&durations, percent).unwrap_or_default();
        Recent { requests: durations.len(), p50: at(50.0), p99: at(99.0), answers }
    }
}

fn forget<T>(recent: &mut VecDeque<(Instant, T)>, now: Instant) {
    while recent.front().is_some_and(|(at, _)| now.duration_since(*at) > WINDOW) {
        recent.pop_front();
    }
}

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use examples::percentile;
use mesh_tonic::core::balance::State;
use mesh_tonic::core::model::Address;
use mesh_tonic::core::resilience::outlier::EjectionChange;
use mesh_tonic::mesh_tower::observe::{Event, Next, Observer, Outcome};
use tokio::sync::watch;

/// What "now" means on the screen.
const WINDOW: Duration = Duration::from_secs(1);

/// Counts what the mesh tells.
#[derive(Default)]
pub(crate) struct Tally {
    counts: Mutex<Counts>,
    /// Changes with the counts of attempts and the states of endpoints.
    news: watch::Sender<()>,
}

/// How an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// It is connected or not.
    In(State),
    /// Outlier detection took it out.
    Ejected,
}

impl Condition {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::In(state) => state.as_str(),
            Self::Ejected => "ejected",
        }
    }
}

/// What outlier detection did to an endpoint, and what it had to do meanwhile.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ejections {
    /// How often it was taken out.
    pub(crate) count: u64,
    /// Whether it is out.
    pub(crate) out: bool,
    /// How long it is or was out the last time, as the mesh said.
    pub(crate) lasts: Duration,
    /// How many requests were sent to it while it was out.
    pub(crate) meanwhile: u64,
    /// And to the others.
    pub(crate) others: u64,
}

#[derive(Default)]
struct Counts {
    /// The version of the configuration in force.
    version: u64,
    /// Requests by the configuration that routed them and the backend that was drawn for them.
    drawn: BTreeMap<(u64, Arc<str>), u64>,
    /// Answers by endpoint.
    answers: HashMap<SocketAddr, u64>,
    states: HashMap<SocketAddr, State>,
    ejections: HashMap<SocketAddr, Ejections>,
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
            Event::Pick(pick) => {
                if let Some(Address::Socket(address)) = pick.endpoint {
                    for (endpoint, ejections) in self.lock().ejections.iter_mut().filter(|(_, kept)| kept.out) {
                        *if endpoint == address { &mut ejections.meanwhile } else { &mut ejections.others } += 1;
                    }
                }
            }
            Event::Endpoint(endpoint) => {
                if let Address::Socket(address) = endpoint.endpoint {
                    self.lock().states.insert(*address, endpoint.state);
                }
            }
            Event::Ejection(ejection) => {
                if let Address::Socket(address) = ejection.endpoint {
                    let mut counts = self.lock();
                    let kept = counts.ejections.entry(*address).or_default();
                    match ejection.change {
                        EjectionChange::Ejected { duration, .. } => {
                            (kept.count, kept.out, kept.lasts) = (kept.count + 1, true, duration);
                        }
                        EjectionChange::Returned => kept.out = false,
                        _ => {}
                    }
                }
            }
            Event::Config(config) => self.lock().version = config.version,
            _ => {}
        }
        self.news.send_replace(());
    }
}

impl Tally {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// How the endpoint is.
    pub(crate) fn condition(&self, endpoint: SocketAddr) -> Condition {
        let counts = self.lock();
        match counts.ejections.get(&endpoint) {
            Some(Ejections { out: true, .. }) => Condition::Ejected,
            _ => Condition::In(counts.states.get(&endpoint).copied().unwrap_or(State::Idle)),
        }
    }

    /// What outlier detection did to the endpoint.
    pub(crate) fn ejections(&self, endpoint: SocketAddr) -> Ejections {
        self.lock().ejections.get(&endpoint).copied().unwrap_or_default()
    }

    /// Waits until what was counted is as `wanted`.
    pub(crate) async fn until(&self, wanted: impl Fn(&Self) -> bool) {
        let mut news = self.news.subscribe();
        // The sender lives as long as `self`.
        let _ = news.wait_for(|()| wanted(self)).await;
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

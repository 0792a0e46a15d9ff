//! Endpoints from the domain name system.
//!
//! ```text
//!   look up ── addresses ──> told if the set changed ──> pause: the TTL within min_ttl..max_ttl, up to 10 % less
//!      ^  └──── nothing ───> the last ones stay, WARN ─> pause: min_ttl, doubled with each failure up to max_ttl
//!      └──────────────────────────────────────────────────┘
//! ```
//!
//! A name that stops existing or loses its last address is treated as a failure: what was found last is a better guess
//! than nothing, and connections tell soon enough whether it is wrong.

mod resolve;
#[cfg(feature = "dns")]
mod system;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::model::{DnsName, DnsSettings, Endpoint, Finder};
use rand::RngExt;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

pub use self::resolve::{Answer, Resolve, ResolveError, Resolving};
use super::endpoints::Found;
use crate::contain::contained_future;
use crate::net::after;
use crate::observe::Observers;

/// How many look-ups of one mesh may begin within [`TURN`]; those that are answered sooner make room for others.
const MAX_LOOKUPS: usize = 256;
/// How long a look-up keeps its place. One that takes longer goes on without: names that hang must not keep those that
/// do not from being looked up. What is under way is still bounded, by the number of names.
const TURN: Duration = Duration::from_secs(1);
/// No name is looked up more often than this, whatever the settings say.
const FLOOR: Duration = Duration::from_millis(10);
/// How much sooner than due a name may be looked up, as a share of the pause: clients that began together drift apart.
const JITTER: f64 = 0.1;

/// Looks up the names of one mesh.
pub(crate) struct DnsSource {
    resolver: Arc<dyn Resolve>,
    settings: watch::Sender<DnsSettings>,
    places: Semaphore,
    observers: Observers,
}

/// How the last look-up went, as far as the next one depends on it.
#[derive(Debug, Clone, Copy)]
enum Last {
    Found {
        ttl: Duration,
    },
    Failed {
        /// How often in a row, 1 for the first.
        times: u32,
    },
}

impl Last {
    /// How long to wait before the name is looked up again. `jitter` is drawn from 0 to 1.
    fn pause(self, settings: &DnsSettings, jitter: f64) -> Duration {
        let min = settings.min_ttl.max(FLOOR);
        let max = settings.max_ttl.max(min);
        let due = match self {
            Self::Found { ttl } => ttl.clamp(min, max),
            Self::Failed { times } => min.saturating_mul(2_u32.saturating_pow(times.saturating_sub(1))).min(max),
        };
        Duration::try_from_secs_f64(due.as_secs_f64() * (1.0 - JITTER * jitter)).unwrap_or(due).max(min)
    }
}

impl DnsSource {
    /// A source that asks `resolver` or, without one, the system's name servers.
    pub(crate) fn new(resolver: Option<Arc<dyn Resolve>>, observers: Observers) -> Self {
        let resolver = resolver.unwrap_or_else(|| {
            #[cfg(feature = "dns")]
            return Arc::new(system::SystemResolver::new());
            #[cfg(not(feature = "dns"))]
            return Arc::new(resolve::NoResolver);
        });
        Self {
            resolver,
            settings: watch::Sender::new(DnsSettings::default()),
            places: Semaphore::new(MAX_LOOKUPS),
            observers,
        }
    }

    /// Goes by `settings` from now on, also where a pause is under way.
    pub(crate) fn configure(&self, settings: DnsSettings) {
        self.settings.send_if_modified(|now| std::mem::replace(now, settings) != settings);
    }

    /// Looks `name` up again and again, for ever, and reports what it finds.
    pub(crate) async fn watch(self: Arc<Self>, name: DnsName, found: Found) {
        let finder = Finder::Dns(name.clone());
        let mut settings = self.settings.subscribe();
        let mut known: Vec<Endpoint> = Vec::new();
        let mut failures = 0;
        loop {
            let last = match self.look_up(&name, &finder).await {
                Ok(answer) => {
                    if std::mem::take(&mut failures) > 0 {
                        tracing::info!(target: crate::observe::TARGET, name = %finder, "found again");
                    }
                    known = merge(&known, answer.endpoints);
                    found.endpoints(known.clone());
                    Last::Found { ttl: answer.ttl }
                }
                Err(error) => {
                    if failures == 0 {
                        let next = if known.is_empty() {
                            "requests to it fail until it is found"
                        } else {
                            "what was found last stays in use"
                        };
                        tracing::warn!(
                            target: crate::observe::TARGET,
                            name = %finder,
                            %error,
                            endpoints = known.len(),
                            "not found; {next}"
                        );
                    }
                    failures += 1;
                    found.failed(&error);
                    Last::Failed { times: failures }
                }
            };
            let looked = Instant::now();
            let jitter = rand::rng().random_range(0.0..=1.0);
            loop {
                let pause = last.pause(&settings.borrow_and_update(), jitter);
                tokio::select! {
                    () = tokio::time::sleep_until(after(looked, pause)) => break,
                    // The sender is ours: it is not gone.
                    _ = settings.changed() => {}
                }
            }
        }
    }

    /// One look-up, within the timeout once it is its turn.
    async fn look_up(&self, name: &DnsName, finder: &Finder) -> Result<Answer, ResolveError> {
        if let DnsName::Host { host, port } = name
            && let Ok(ip) = host.parse::<IpAddr>()
        {
            return Ok(Answer::new(vec![SocketAddr::new(ip, *port)], Duration::MAX));
        }
        let place = self.places.acquire().await;
        let began = Instant::now();
        let timeout = self.settings.borrow().timeout;
        let asked = contained_future("the resolver", || self.resolver.resolve(name, timeout));
        let mut asked = pin!(tokio::time::timeout(timeout, asked));
        let answered = match tokio::time::timeout(TURN, asked.as_mut()).await {
            Ok(answered) => {
                drop(place);
                answered
            }
            Err(_) => {
                drop(place);
                asked.await
            }
        };
        let result = match answered {
            Ok(Ok(Ok(answer))) if answer.endpoints.is_empty() => Err(ResolveError::NoAddress { name: name.clone() }),
            Ok(Ok(result)) => result,
            Ok(Err(panicked)) => Err(ResolveError::Failed { name: name.clone(), error: panicked.into() }),
            Err(_) => Err(ResolveError::Timeout { name: name.clone(), timeout }),
        };
        let outcome = result.as_ref().map(|answer| answer.endpoints.len()).map_err(|error| error as _);
        self.observers.lookup(finder, outcome, began.elapsed());
        result
    }
}

/// The endpoints that were `found`, each once. Those that are known keep their order and come first: name servers
/// rotate their answers, and that is no change.
fn merge(known: &[Endpoint], found: Vec<SocketAddr>) -> Vec<Endpoint> {
    let mut left: HashSet<SocketAddr> = found.iter().copied().collect();
    let mut is_left = |endpoint: &&Endpoint| match &endpoint.address {
        mesh_core::model::Address::Socket(address) => left.remove(address),
        _ => false,
    };
    let mut endpoints: Vec<_> = known.iter().filter(|endpoint| is_left(endpoint)).cloned().collect();
    endpoints.extend(found.into_iter().filter(|address| left.remove(address)).map(Endpoint::new));
    endpoints
}

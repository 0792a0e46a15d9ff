use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rand::{Rng, RngExt};

use super::custom::Custom;
use super::{Balance, Candidates, Endpoint, PickRequest, State};
use crate::model::{Address, LoadBalancer};

/// What a balancer answers.
#[derive(Debug)]
#[non_exhaustive]
pub enum Pick<'a, T> {
    /// Send it here.
    Ready(&'a Arc<Endpoint<T>>),
    /// No endpoint is ready, but one may become so: idle ones should be connected, then ask again.
    Wait,
    /// Every endpoint is failing.
    Failing,
    /// There is no endpoint.
    Empty,
}

/// A balancing policy over a fixed list of endpoints.
///
/// Endpoints come and go by building a new picker; their states change under it.
#[derive(Debug)]
pub struct Picker<T> {
    endpoints: Box<[Arc<Endpoint<T>>]>,
    policy: Policy,
}

#[derive(Debug)]
enum Policy {
    RoundRobin(AtomicU32),
    Random,
    LeastRequest { choices: u32 },
    PickFirst,
    Custom(Custom),
}

impl<T> Picker<T> {
    /// A picker of `policy` over `endpoints`. `start` is where round robin begins: a random number keeps many clients
    /// from beginning with the same endpoint.
    ///
    /// A policy of the application is [put in](Self::with_balance) by whoever knows it; until then it chooses at random.
    /// Pick first takes the endpoints as they stand.
    pub fn new(policy: &LoadBalancer, endpoints: impl Into<Box<[Arc<Endpoint<T>>]>>, start: u32) -> Self {
        let policy = match policy {
            LoadBalancer::RoundRobin => Policy::RoundRobin(AtomicU32::new(start)),
            LoadBalancer::Random => Policy::Random,
            LoadBalancer::LeastRequest { choice_count } => {
                Policy::LeastRequest { choices: (*choice_count).clamp(2, 10) }
            }
            LoadBalancer::PickFirst { .. } => Policy::PickFirst,
            // Built next.
            _ => Policy::Random,
        };
        Self { endpoints: endpoints.into(), policy }
    }

    /// Leaves the choice to `policy`, which is called `name`.
    #[must_use]
    pub fn with_balance(mut self, name: Arc<str>, policy: Arc<dyn Balance>) -> Self {
        self.policy = Policy::Custom(Custom { name, policy });
        self
    }

    /// The policy of the application that decides here, if it is called `name`.
    pub fn balance(&self, name: &str) -> Option<&Arc<dyn Balance>> {
        match &self.policy {
            Policy::Custom(custom) if *custom.name == *name => Some(&custom.policy),
            _ => None,
        }
    }

    /// Whether the request's hash has a say.
    pub fn uses_hash(&self) -> bool {
        matches!(self.policy, Policy::Custom(_))
    }

    /// Whether endpoints are connected one after the other, in their order, and not all at once.
    pub fn connects_in_order(&self) -> bool {
        matches!(self.policy, Policy::PickFirst)
    }

    /// The endpoints: in the order of the configuration, or in that in which pick first tries them.
    pub fn endpoints(&self) -> &[Arc<Endpoint<T>>] {
        &self.endpoints
    }

    /// Chooses a ready endpoint, one that is not in `tried` if there is one.
    pub fn pick<R: Rng>(&self, request: &PickRequest, tried: &[Arc<Endpoint<T>>], rng: &mut R) -> Pick<'_, T> {
        if self.endpoints.is_empty() {
            return Pick::Empty;
        }
        let fresh = |endpoint: &Arc<Endpoint<T>>| {
            endpoint.state() == State::Ready && !tried.iter().any(|other| Arc::ptr_eq(other, endpoint))
        };
        if let Some(endpoint) = self.choose(request, fresh, rng) {
            return Pick::Ready(endpoint);
        }
        if !tried.is_empty()
            && let Some(endpoint) = self.choose(request, |endpoint| endpoint.state() == State::Ready, rng)
        {
            return Pick::Ready(endpoint);
        }
        if self.endpoints.iter().all(|endpoint| endpoint.state() == State::Failing) {
            Pick::Failing
        } else {
            Pick::Wait
        }
    }

    fn choose<R: Rng>(
        &self,
        request: &PickRequest,
        usable: impl Fn(&Arc<Endpoint<T>>) -> bool,
        rng: &mut R,
    ) -> Option<&Arc<Endpoint<T>>> {
        match &self.policy {
            Policy::RoundRobin(next) => self.turn(next, usable),
            Policy::Random => self.draw(&usable, rng),
            Policy::LeastRequest { choices } => {
                let mut best = self.draw(&usable, rng)?;
                for _ in 1..*choices {
                    if let Some(other) = self.draw(&usable, rng)
                        && other.in_flight() < best.in_flight()
                    {
                        best = other;
                    }
                }
                Some(best)
            }
            Policy::PickFirst => self.endpoints.iter().find(|endpoint| usable(endpoint)),
            Policy::Custom(custom) => {
                // Asked only if there is something to choose.
                let any = self.draw(&usable, rng)?;
                let view = View { endpoints: &self.endpoints, usable: &usable };
                let chosen = custom.policy.pick(&view, request, rng).and_then(|index| self.endpoints.get(index));
                Some(chosen.filter(|endpoint| usable(endpoint)).unwrap_or(any))
            }
        }
    }

    /// The next usable endpoint in turn. Each one passed over takes a turn of its own, so that its share is divided
    /// among all the others and not given to its neighbour.
    fn turn(&self, next: &AtomicU32, usable: impl Fn(&Arc<Endpoint<T>>) -> bool) -> Option<&Arc<Endpoint<T>>> {
        let count = self.endpoints.len();
        for _ in 0..count {
            let endpoint = &self.endpoints[next.fetch_add(1, Ordering::Relaxed) as usize % count];
            if usable(endpoint) {
                return Some(endpoint);
            }
        }
        // Other requests took turns in between; whoever is usable serves.
        self.endpoints.iter().find(|endpoint| usable(endpoint))
    }

    /// A usable endpoint, uniformly at random.
    fn draw<R: Rng>(&self, usable: &impl Fn(&Arc<Endpoint<T>>) -> bool, rng: &mut R) -> Option<&Arc<Endpoint<T>>> {
        let count = self.endpoints.len();
        // With most endpoints usable the first draw hits; drawing anew keeps the distribution uniform.
        for _ in 0..4 {
            let endpoint = &self.endpoints[rng.random_range(0..count)];
            if usable(endpoint) {
                return Some(endpoint);
            }
        }
        let usable_count = self.endpoints.iter().filter(|endpoint| usable(endpoint)).count();
        if usable_count == 0 {
            return None;
        }
        let nth = rng.random_range(0..usable_count);
        // States may have changed since the count: then the last usable one serves, or none.
        let mut last = None;
        for endpoint in self.endpoints.iter().filter(|endpoint| usable(endpoint)).take(nth + 1) {
            last = Some(endpoint);
        }
        last
    }
}

struct View<'a, T, F> {
    endpoints: &'a [Arc<Endpoint<T>>],
    usable: &'a F,
}

impl<T, F: Fn(&Arc<Endpoint<T>>) -> bool> Candidates for View<'_, T, F> {
    fn len(&self) -> usize {
        self.endpoints.len()
    }

    fn address(&self, index: usize) -> &Address {
        self.endpoints[index].address()
    }

    fn in_flight(&self, index: usize) -> u32 {
        self.endpoints[index].in_flight()
    }

    fn is_usable(&self, index: usize) -> bool {
        (self.usable)(&self.endpoints[index])
    }
}

#[cfg(test)]
mod tests;

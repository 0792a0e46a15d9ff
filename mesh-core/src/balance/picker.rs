use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use rand::{Rng, RngExt};

use super::bound;
use super::custom::Custom;
use super::hashing::Table;
use super::maglev::Maglev;
use super::reported::Reported;
use super::ring::Ring;
use super::tiers::{Tier, Tiers};
use super::view::{Asleep, Census, Outlook, View};
use super::{Balance, Endpoint, Fleet, PickRequest, State};
use crate::model::{
    self, Address, Health, LoadBalancer, LocalityPolicy, PeakEwma, Place, SlowStart, WeightedRoundRobin,
};

/// What a balancer answers.
#[derive(Debug)]
#[non_exhaustive]
pub enum Pick<'a, T> {
    /// Send it here.
    Ready(Chosen<'a, T>),
    /// It is to be sent to this endpoint and to no other, which has to be connected first: see that it is, and ask
    /// again.
    Await(&'a Arc<Endpoint<T>>),
    /// No endpoint is ready, but one may become so: see that [some](Picker::to_connect) are connected, and ask again.
    Wait,
    /// No endpoint is available.
    Failing,
    /// There is no endpoint that may be picked.
    Empty,
}

/// The endpoint that a balancer chose.
#[derive(Debug)]
#[non_exhaustive]
pub struct Chosen<'a, T> {
    /// The endpoint.
    pub endpoint: &'a Arc<Endpoint<T>>,
    /// Whether this request shows if an ejected endpoint is back: see [`Record`](crate::resilience::outlier::Record).
    pub probes: bool,
    /// One that nobody uses so far and that should be connected, for others to come.
    pub sleeper: Option<&'a Arc<Endpoint<T>>>,
}

/// A balancing policy over a fixed list of endpoints.
///
/// Endpoints come and go by building a new picker; their states change under it. What it goes by is a *view* of them,
/// made anew by the first request that comes after a change.
#[derive(Debug)]
pub struct Picker<T> {
    pub(super) endpoints: Box<[Arc<Endpoint<T>>]>,
    /// None where all have that of the first one.
    pub(super) weights: Option<Weights>,
    weight: u32,
    /// Those that their source calls unhealthy, if there are any.
    unhealthy: Option<Box<[bool]>>,
    /// How many have a weight of 0 or are draining.
    out_of_use: u32,
    /// Those that not even a session reaches: of a weight of 0, or unhealthy by their source.
    pub(super) barred: Box<[u32]>,
    pub(super) tiers: Tiers,
    pub(super) policy: Policy,
    pub(super) localities: LocalityPolicy,
    pub(super) slow_start: Option<SlowStart>,
    /// Whether endpoints are connected as they are picked.
    lazy: bool,
    pub(super) fleet: Arc<Fleet>,
    view: ArcSwap<View>,
    looking: Mutex<()>,
    /// The endpoints in the order of their addresses, for who looks for one.
    by_address: OnceLock<Box<[u32]>>,
    /// What was told last of the priority in use, by this picker and those before it; and whether there is more to tell.
    told: Arc<AtomicU64>,
    news: AtomicBool,
}

#[derive(Debug)]
pub(super) struct Weights {
    each: Box<[u32]>,
    /// Of those that may be picked.
    mean: f64,
}

#[derive(Debug)]
pub(super) enum Policy {
    RoundRobin,
    Random,
    LeastRequest {
        choices: u32,
    },
    PeakEwma(PeakEwma),
    Reported(Box<WeightedRoundRobin>),
    /// One for each priority.
    Ring(Box<[Table<Ring>]>),
    /// One for each priority.
    Maglev(Box<[Table<Maglev>]>),
    PickFirst,
    Custom(Custom),
}

/// How many endpoints of a large backend are connected at once.
const AT_ONCE: u32 = 16;
/// A view of more endpoints than this is not made anew within [`SETTLE`] if it still serves.
const LARGE: usize = 1_000;
/// See [`LARGE`].
const SETTLE: Duration = Duration::from_millis(10);
/// The group of an endpoint that is out of use.
pub(super) const NOWHERE: u32 = u32::MAX;

impl<T> Picker<T> {
    /// A picker for `backend`. `endpoints` are those that are in use, each with what the source says of it.
    ///
    /// `here` is the place of this process. `start` is where round robin begins: a random number keeps many clients from
    /// beginning with the same endpoint. A policy of the application is [put in](Self::with_balance) by whoever knows it;
    /// until then it chooses at random. Pick first takes the endpoints as they stand: none of them that may not be picked.
    pub fn new(
        backend: &model::Backend,
        endpoints: Vec<(&model::Endpoint, Arc<Endpoint<T>>)>,
        here: &Place,
        fleet: &Arc<Fleet>,
        start: u32,
        now: Instant,
    ) -> Self {
        let localities = backend.localities;
        let tiers = match backend.load_balancer {
            // It stays with the one it has; priorities say in which order it tries.
            LoadBalancer::PickFirst { .. } => Tiers::one(u32::try_from(endpoints.len()).unwrap_or(u32::MAX)),
            _ => Tiers::new(endpoints.iter().map(|(config, _)| *config), localities.prefer, here, start),
        };
        let weights = weights(&endpoints);
        let weight = endpoints.first().map_or(1, |(config, _)| config.weight);
        let unhealthy = |config: &model::Endpoint| config.health == Health::Unhealthy;
        let unhealthy = endpoints
            .iter()
            .any(|(config, _)| unhealthy(config))
            .then(|| endpoints.iter().map(|(config, _)| unhealthy(config)).collect());
        let used: usize = tiers.groups.iter().map(|group| group.all().count()).sum();
        let barred =
            (0..).zip(&endpoints).filter(|(_, (config, _))| bound::is_barred(config)).map(|(at, _)| at).collect();
        let endpoints: Box<[_]> = endpoints.into_iter().map(|(_, endpoint)| endpoint).collect();
        let out_of_use = u32::try_from(endpoints.len() - used).unwrap_or(u32::MAX);
        let mut picker = Self {
            lazy: endpoints.len() > backend.connections.eager_endpoints as usize,
            endpoints,
            weights,
            weight,
            unhealthy,
            out_of_use,
            barred,
            tiers,
            policy: Policy::Random,
            localities,
            slow_start: backend.slow_start,
            fleet: Arc::clone(fleet),
            view: ArcSwap::default(),
            looking: Mutex::default(),
            by_address: OnceLock::new(),
            told: Arc::default(),
            news: AtomicBool::new(false),
        };
        picker.policy = picker.policy_of(&backend.load_balancer);
        // That the first priority gets requests is no news.
        picker.told = Arc::new(AtomicU64::new(telling(picker.tiers.tiers.first().map(|tier| tier.key), false)));
        picker.show(Arc::new(picker.look(fleet.changes(), now)));
        picker
    }

    fn policy_of(&self, policy: &LoadBalancer) -> Policy {
        match policy {
            LoadBalancer::RoundRobin => Policy::RoundRobin,
            LoadBalancer::Random | LoadBalancer::Custom(_) => Policy::Random,
            LoadBalancer::LeastRequest { choice_count } => {
                Policy::LeastRequest { choices: (*choice_count).clamp(2, 10) }
            }
            LoadBalancer::PeakEwma(policy) => Policy::PeakEwma(*policy),
            LoadBalancer::WeightedRoundRobin(policy) => Policy::Reported(Box::new(policy.clone())),
            LoadBalancer::RingHash(policy) => {
                Policy::Ring(self.tables(|keys, weights| Ring::new(keys, weights, policy)))
            }
            LoadBalancer::Maglev(policy) => {
                Policy::Maglev(self.tables(|keys, weights| Maglev::new(keys, weights, policy)))
            }
            LoadBalancer::PickFirst { .. } => Policy::PickFirst,
        }
    }

    /// Goes on where `before` stood: what was told of priorities is not told again, and the time that a priority has to
    /// connect does not begin anew.
    #[must_use]
    pub fn following(mut self, before: &Self, now: Instant) -> Self {
        // That there are endpoints at last is no news either.
        if !before.tiers.tiers.is_empty() {
            self.told = Arc::clone(&before.told);
        }
        for tier in &self.tiers.tiers {
            let since = |before: &&Tier| before.key == tier.key;
            let since = before.tiers.tiers.iter().find(since).map_or(0, |before| before.trying.load(Ordering::Relaxed));
            if since > 0 && tier.trying.load(Ordering::Relaxed) > 0 {
                tier.trying.store(since, Ordering::Relaxed);
            }
        }
        let trying = self.tiers.tiers.iter().any(|tier| tier.trying.load(Ordering::Relaxed) > 0);
        let view = if trying { Arc::new(self.look(self.fleet.changes(), now)) } else { self.view.load_full() };
        self.show(view);
        self
    }

    /// Leaves the choice to `policy`, which is called `name`.
    #[must_use]
    pub fn with_balance(mut self, name: Arc<str>, policy: Arc<dyn Balance>) -> Self {
        let mut groups = vec![NOWHERE; self.endpoints.len()];
        for (group, index) in self.tiers.groups.iter().zip(0..) {
            group.all().for_each(|at| groups[at as usize] = index);
        }
        self.policy = Policy::Custom(Custom { name, policy, groups: groups.into() });
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
        matches!(self.policy, Policy::Custom(_) | Policy::Ring(_) | Policy::Maglev(_))
    }

    /// Whether endpoints are connected one after the other, in their order, and not all at once.
    pub fn connects_in_order(&self) -> bool {
        matches!(self.policy, Policy::PickFirst)
    }

    /// The endpoints: in the order of the configuration, or in that in which pick first tries them.
    pub fn endpoints(&self) -> &[Arc<Endpoint<T>>] {
        &self.endpoints
    }

    /// The endpoint at `address`, whether or not it may be picked.
    pub fn find(&self, address: &Address) -> Option<&Arc<Endpoint<T>>> {
        self.place_of(address).map(|at| self.at(at))
    }

    pub(super) fn place_of(&self, address: &Address) -> Option<u32> {
        let sorted = self.by_address.get_or_init(|| {
            let mut sorted: Box<[u32]> = (0..).take(self.endpoints.len()).collect();
            sorted.sort_unstable_by_key(|at| self.at(*at).address());
            sorted
        });
        let found = sorted.binary_search_by_key(&address, |at| self.at(*at).address()).ok()?;
        Some(sorted[found])
    }

    /// What there is to hope for.
    pub fn outlook(&self, now: Instant) -> Outlook {
        self.view(now).outlook
    }

    /// When it is worth asking again although no endpoint changed.
    pub fn ask_again(&self) -> Option<Instant> {
        let view = self.view.load();
        // A view of many endpoints may be older than their last change.
        let stale = (view.version != self.fleet.changes()).then(|| view.built.and_then(|at| at.checked_add(SETTLE)));
        [view.until, stale.flatten()].into_iter().flatten().min()
    }

    /// What the endpoints are at.
    pub fn census(&self) -> Census {
        let unhealthy: usize = self.tiers.groups.iter().map(|group| group.unhealthy.len()).sum();
        let unhealthy = u32::try_from(unhealthy).unwrap_or(u32::MAX);
        let mut census = Census { out_of_use: self.out_of_use, unhealthy, ..Census::default() };
        let members = self.tiers.groups.iter().flat_map(|group| &group.members);
        members.for_each(|at| census.count(self.at(*at)));
        census
    }

    /// Where requests go.
    pub fn serving(&self) -> News {
        self.view.load().news()
    }

    /// Where requests go, if that is not what was told last.
    pub fn take_news(&self) -> Option<News> {
        if !self.news.load(Ordering::Relaxed) || !self.news.swap(false, Ordering::AcqRel) {
            return None;
        }
        let view = self.view.load();
        let telling = view.telling();
        (self.told.swap(telling, Ordering::AcqRel) != telling).then(|| view.news())
    }

    /// The idle endpoints that are to be connected now: all of the priorities in use and of better ones or, of many, a
    /// few.
    pub fn to_connect<R: Rng>(&self, now: Instant, rng: &mut R) -> Vec<&Arc<Endpoint<T>>> {
        let view = self.view(now);
        let mut chosen = Vec::new();
        for Asleep { idle, connecting, .. } in [&view.asleep, &view.missed] {
            let count = if self.lazy { AT_ONCE.saturating_sub(*connecting) as usize } else { idle.len() };
            let start = if count < idle.len() { rng.random_range(0..idle.len()) } else { 0 };
            let (before, after) = idle.split_at(start);
            let endpoints = after.iter().chain(before).map(|at| self.at(*at));
            chosen.extend(endpoints.filter(|endpoint| endpoint.state() == State::Idle).take(count));
        }
        chosen
    }

    /// Chooses an endpoint, one that is not in `tried` if there is one.
    pub fn pick<R: Rng>(&self, request: &PickRequest, tried: &[Arc<Endpoint<T>>], rng: &mut R) -> Pick<'_, T> {
        let view = self.view(request.now);
        let pick = self.pick_from(&view, request, tried, rng);
        if matches!(pick, Pick::Ready(_)) || view.version == self.fleet.changes() {
            return pick;
        }
        // It was not looked at again because the old view seemed to serve. It does not, and a request must not wait for a
        // change that was there before.
        let view = self.look_again(request.now);
        self.pick_from(&view, request, tried, rng)
    }

    fn pick_from<R: Rng>(
        &self,
        view: &View,
        request: &PickRequest,
        tried: &[Arc<Endpoint<T>>],
        rng: &mut R,
    ) -> Pick<'_, T> {
        for at in &view.probing {
            let endpoint = self.at(*at);
            if endpoint.state() == State::Ready && !is_in(tried, endpoint) && endpoint.record().try_probe() {
                self.fleet.bump();
                return Pick::Ready(Chosen { endpoint, probes: true, sleeper: None });
            }
        }
        if let Policy::Ring(_) | Policy::Maglev(_) = &self.policy {
            return self.pick_by_hash(view, request.hash, tried, rng);
        }
        let ready = |at: u32| self.at(at).state() == State::Ready;
        let fresh = |at: u32| ready(at) && !is_in(tried, self.at(at));
        let mut chosen = self.choose(view, request, fresh, rng);
        if chosen.is_none() && !tried.is_empty() {
            chosen = self.choose(view, request, ready, rng);
        }
        match chosen {
            Some(at) => Pick::Ready(Chosen { endpoint: self.at(at), probes: false, sleeper: self.sleeper(view, rng) }),
            None => self.nobody(view),
        }
    }

    fn nobody(&self, view: &View) -> Pick<'_, T> {
        match view.outlook {
            // Who was ready is not any more, and the next look will show it.
            Outlook::Ready | Outlook::Open => Pick::Wait,
            Outlook::Failing => Pick::Failing,
            Outlook::Empty => Pick::Empty,
        }
    }

    /// An idle endpoint whose turn to be connected has come.
    fn sleeper<R: Rng>(&self, view: &View, rng: &mut R) -> Option<&Arc<Endpoint<T>>> {
        self.missed(view, rng).or_else(|| self.woken(&view.asleep, rng))
    }

    /// An idle endpoint that gets nothing and should be there.
    pub(super) fn missed<R: Rng>(&self, view: &View, rng: &mut R) -> Option<&Arc<Endpoint<T>>> {
        self.woken(&view.missed, rng)
    }

    fn woken<R: Rng>(&self, asleep: &Asleep, rng: &mut R) -> Option<&Arc<Endpoint<T>>> {
        if asleep.idle.is_empty() || asleep.room(AT_ONCE) == 0 || self.connects_in_order() {
            return None;
        }
        let endpoint = self.at(asleep.idle[rng.random_range(0..asleep.idle.len())]);
        (endpoint.state() == State::Idle).then(|| asleep.wake()).map(|()| endpoint)
    }

    pub(super) fn at(&self, at: u32) -> &Arc<Endpoint<T>> {
        &self.endpoints[at as usize]
    }

    /// Neither failing, nor ejected, nor unhealthy.
    pub(super) fn is_available(&self, at: u32) -> bool {
        self.at(at).is_available() && !self.unhealthy.as_ref().is_some_and(|unhealthy| unhealthy[at as usize])
    }

    pub(super) fn weight(&self, at: u32) -> u32 {
        self.weights.as_ref().map_or(self.weight, |weights| weights.each[at as usize])
    }

    /// By how much the weight exceeds the mean.
    pub(super) fn share(&self, at: u32) -> f64 {
        self.weights.as_ref().map_or(1.0, |weights| f64::from(weights.each[at as usize]) / weights.mean)
    }

    pub(super) fn reported(&self, reported: &Reported, now: Instant, policy: &WeightedRoundRobin) -> Option<f64> {
        reported.usable(self.fleet.nanos(now), policy).map(f64::from)
    }

    /// Endpoints as they are. One look serves all until the next change; who comes while somebody looks makes do with
    /// the old view, if it serves.
    fn view(&self, now: Instant) -> Guard<Arc<View>> {
        let view = self.view.load();
        let changed = view.version != self.fleet.changes();
        if !changed && view.until.is_none_or(|until| now < until) {
            return view;
        }
        let young = view.built.is_some_and(|built| now.saturating_duration_since(built) < SETTLE);
        if self.endpoints.len() > LARGE && young && view.outlook == Outlook::Ready {
            return view;
        }
        if view.outlook != Outlook::Ready {
            return self.look_again(now);
        }
        match self.looking.try_lock() {
            Ok(looking) => self.look_if_changed(&looking, now),
            Err(TryLockError::Poisoned(looking)) => self.look_if_changed(&looking.into_inner(), now),
            // Somebody looks.
            Err(TryLockError::WouldBlock) => view,
        }
    }

    #[cold]
    fn look_again(&self, now: Instant) -> Guard<Arc<View>> {
        self.look_if_changed(&self.looking.lock().unwrap_or_else(PoisonError::into_inner), now)
    }

    fn look_if_changed(&self, _: &MutexGuard<'_, ()>, now: Instant) -> Guard<Arc<View>> {
        let version = self.fleet.changes();
        let current = self.view.load();
        if current.version == version && current.until.is_none_or(|until| now < until) {
            return current;
        }
        drop(current);
        self.show(Arc::new(self.look(version, now)));
        self.view.load()
    }

    /// Puts a view to use.
    fn show(&self, view: Arc<View>) {
        let is_news = self.told.load(Ordering::Acquire) != view.telling();
        self.view.store(view);
        // Whoever takes the news sees this view.
        self.news.store(is_news, Ordering::Release);
    }
}

/// What each weighs; `None` if all weigh the same.
fn weights<T>(endpoints: &[(&model::Endpoint, Arc<Endpoint<T>>)]) -> Option<Weights> {
    if endpoints.windows(2).all(|pair| pair[0].0.weight == pair[1].0.weight) {
        return None;
    }
    let each: Box<[u32]> = endpoints.iter().map(|(config, _)| config.weight).collect();
    let (sum, used) = each
        .iter()
        .filter(|weight| **weight > 0)
        .fold((0.0, 0.0), |(sum, used), weight| (sum + f64::from(*weight), used + 1.0));
    Some(Weights { each, mean: sum / used })
}

/// Where the requests of a backend go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct News {
    /// The first priority that gets requests; `None` if no endpoint of any is available.
    pub priority: Option<u32>,
    /// How many steps that is away, where endpoints nearby come first.
    pub distance: u32,
    /// Whether requests go to endpoints whatever their health.
    pub panics: bool,
}

/// What is told of the priority in use, in a word.
pub(super) fn telling(first: Option<(u32, u32)>, panics: bool) -> u64 {
    // There are at most three steps.
    first.map_or(0, |(priority, distance)| ((u64::from(priority) + 1) << 3) | (u64::from(distance) << 1))
        | u64::from(panics)
}

pub(super) fn is_in<T>(tried: &[Arc<Endpoint<T>>], endpoint: &Arc<Endpoint<T>>) -> bool {
    tried.iter().any(|other| Arc::ptr_eq(other, endpoint))
}

#[cfg(test)]
mod tests;

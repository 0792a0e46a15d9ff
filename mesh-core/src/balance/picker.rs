use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use rand::{Rng, RngExt};

use super::custom::Custom;
use super::hashing::Table;
use super::maglev::Maglev;
use super::reported::Reported;
use super::ring::Ring;
use super::tiers::Tiers;
use super::view::{Census, Members, Outlook, Shares, View};
use super::{Balance, Candidates, Endpoint, Fleet, PickRequest, State};
use crate::model::{self, Address, LoadBalancer, LocalityPolicy, PeakEwma, Place, SlowStart, WeightedRoundRobin};

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
    endpoints: Box<[Arc<Endpoint<T>>]>,
    /// None where all are the same.
    pub(super) weights: Option<Box<[u32]>>,
    /// How many have a weight of 0 or are draining.
    out_of_use: u32,
    pub(super) tiers: Tiers,
    pub(super) policy: Policy,
    pub(super) localities: LocalityPolicy,
    pub(super) slow_start: Option<SlowStart>,
    /// Whether endpoints are connected as they are picked.
    lazy: bool,
    fleet: Arc<Fleet>,
    view: ArcSwap<View>,
    looking: Mutex<()>,
    /// The endpoints in the order of their addresses, for who looks for one.
    by_address: OnceLock<Box<[u32]>>,
    /// What was told of the priority in use, and whether that changed.
    told: AtomicU64,
    news: AtomicBool,
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

impl<T> Picker<T> {
    /// A picker for `backend`. `endpoints` are those that are in use, each with what the source says of it.
    ///
    /// `here` is the place of this process. `start` is where round robin begins: a random number keeps many clients from
    /// beginning with the same endpoint. A policy of the application is [put in](Self::with_balance) by whoever knows it;
    /// until then it chooses at random. Pick first takes the endpoints as they stand.
    pub fn new(
        backend: &model::Backend,
        endpoints: Vec<(&model::Endpoint, Arc<Endpoint<T>>)>,
        here: &Place,
        fleet: &Arc<Fleet>,
        start: u32,
        now: Instant,
    ) -> Self {
        let localities = backend.localities;
        let tiers = Tiers::new(endpoints.iter().map(|(config, _)| *config), localities.prefer, here, start);
        let equal = endpoints.windows(2).all(|pair| pair[0].0.weight == pair[1].0.weight);
        let weights = (!equal).then(|| endpoints.iter().map(|(config, _)| config.weight).collect());
        let members: usize = tiers.groups.iter().map(|group| group.members.len()).sum();
        let unhealthy: u32 = tiers.tiers.iter().map(|tier| tier.unhealthy).sum();
        let endpoints: Box<[_]> = endpoints.into_iter().map(|(_, endpoint)| endpoint).collect();
        let out_of_use = u32::try_from(endpoints.len() - members).unwrap_or(u32::MAX) - unhealthy;
        let mut picker = Self {
            lazy: endpoints.len() > backend.connections.eager_endpoints as usize,
            endpoints,
            weights,
            out_of_use,
            tiers,
            policy: Policy::Random,
            localities,
            slow_start: backend.slow_start,
            fleet: Arc::clone(fleet),
            view: ArcSwap::default(),
            looking: Mutex::default(),
            by_address: OnceLock::new(),
            told: AtomicU64::new(0),
            news: AtomicBool::new(false),
        };
        picker.policy = picker.policy_of(&backend.load_balancer);
        let view = picker.look(fleet.changes(), now);
        *picker.told.get_mut() = told(picker.tiers.tiers.first().map(|tier| tier.priority), view.panics());
        picker.view.store(Arc::new(view));
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

    /// Goes on where `before` stood: what it told of priorities is not told again.
    #[must_use]
    pub fn following(mut self, before: &Self) -> Self {
        *self.told.get_mut() = before.told.load(Ordering::Relaxed);
        let view = self.view.load();
        self.news.store(told(view.first, view.panics()) != *self.told.get_mut(), Ordering::Relaxed);
        drop(view);
        self
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
        let sorted = self.by_address.get_or_init(|| {
            let mut sorted: Box<[u32]> = (0..).take(self.endpoints.len()).collect();
            sorted.sort_unstable_by_key(|at| self.at(*at).address());
            sorted
        });
        let found = sorted.binary_search_by_key(&address, |at| self.at(*at).address()).ok()?;
        Some(self.at(sorted[found]))
    }

    /// What there is to hope for.
    pub fn outlook(&self, now: Instant) -> Outlook {
        self.view(now).outlook
    }

    /// When it is worth asking again although no endpoint changed.
    pub fn ask_again(&self) -> Option<Instant> {
        self.view.load().until
    }

    /// What the endpoints are at.
    pub fn census(&self) -> Census {
        let unhealthy = self.tiers.tiers.iter().map(|tier| tier.unhealthy).sum();
        let mut census = Census { out_of_use: self.out_of_use, unhealthy, ..Census::default() };
        let members = self.tiers.groups.iter().flat_map(|group| &group.members);
        members.for_each(|at| census.count(self.at(*at)));
        census
    }

    /// The first priority that gets requests and whether it is a panic, if that changed since this was asked last.
    pub fn take_news(&self) -> Option<(Option<u32>, bool)> {
        if !self.news.load(Ordering::Relaxed) || !self.news.swap(false, Ordering::AcqRel) {
            return None;
        }
        let view = self.view.load();
        Some((view.first, view.panics()))
    }

    /// The idle endpoints that are to be connected now: all of the priorities in use or, of many, a few.
    pub fn to_connect<R: Rng>(&self, now: Instant, rng: &mut R) -> Vec<&Arc<Endpoint<T>>> {
        let view = self.view(now);
        let idle = || view.idle.iter().map(|at| self.at(*at)).filter(|endpoint| endpoint.state() == State::Idle);
        if !self.lazy || view.idle.is_empty() {
            return idle().collect();
        }
        let start = rng.random_range(0..view.idle.len());
        let count = AT_ONCE.saturating_sub(view.connecting) as usize;
        idle().cycle().skip(start).take(count.min(view.idle.len())).collect()
    }

    /// Chooses an endpoint, one that is not in `tried` if there is one.
    pub fn pick<R: Rng>(&self, request: &PickRequest, tried: &[Arc<Endpoint<T>>], rng: &mut R) -> Pick<'_, T> {
        let view = self.view(request.now);
        let pick = self.pick_from(&view, request, tried, rng);
        if matches!(pick, Pick::Ready(_)) || view.version == self.fleet.changes() {
            return pick;
        }
        // It was not looked at again because the old view still served.
        let view = self.look_again(&view, request.now);
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
            // One that was tried had no room, or failed: whoever is asked next must not be it again.
            let fresh = endpoint.state() == State::Ready && !is_in(tried, endpoint);
            if fresh && endpoint.record().try_probe() {
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
        if view.idle.is_empty() || view.connecting >= AT_ONCE || self.connects_in_order() {
            return None;
        }
        let at = view.idle[rng.random_range(0..view.idle.len())];
        Some(self.at(at)).filter(|endpoint| endpoint.state() == State::Idle)
    }

    fn choose<R: Rng>(
        &self,
        view: &View,
        request: &PickRequest,
        usable: impl Fn(u32) -> bool,
        rng: &mut R,
    ) -> Option<u32> {
        match &self.policy {
            Policy::Custom(custom) => {
                let usable = |at: u32| self.at(at).is_available() && usable(at);
                let candidates = Choices { picker: self, usable: &usable };
                // Asked only if there is something to choose.
                let any = self.in_shares(view, rng, |group, rng| self.draw(&view.ready[group], &usable, rng))?;
                let chosen = custom.policy.pick(&candidates, request, rng).and_then(|at| u32::try_from(at).ok());
                Some(chosen.filter(|at| (*at as usize) < self.endpoints.len() && usable(*at)).unwrap_or(any))
            }
            Policy::PickFirst => view
                .shares
                .iter()
                .find_map(|(_, group)| view.ready[*group as usize].list.iter().copied().find(|at| usable(*at))),
            _ => {
                self.in_shares(view, rng, |group, rng| self.choose_in(group, &view.ready[group], request, &usable, rng))
            }
        }
    }

    /// Asks the group whose turn it is and, where that has nothing, the others.
    fn in_shares<R: Rng>(
        &self,
        view: &View,
        rng: &mut R,
        mut choose: impl FnMut(usize, &mut R) -> Option<u32>,
    ) -> Option<u32> {
        match &*view.shares {
            [] => None,
            [(_, only)] => choose(*only as usize, rng),
            shares @ [.., (sum, _)] => {
                let point = rng.random_range(0..*sum);
                let drawn = shares.partition_point(|(bound, _)| *bound <= point);
                let order = std::iter::once(drawn).chain((0..shares.len()).filter(|at| *at != drawn));
                order.into_iter().find_map(|at| choose(shares[at].1 as usize, rng))
            }
        }
    }

    fn choose_in<R: Rng>(
        &self,
        group: usize,
        members: &Members,
        request: &PickRequest,
        usable: &impl Fn(u32) -> bool,
        rng: &mut R,
    ) -> Option<u32> {
        match &self.policy {
            Policy::RoundRobin | Policy::Reported(_) => self.turn(group, members, usable),
            Policy::LeastRequest { choices } => {
                self.best(members, *choices, usable, rng, |endpoint| f64::from(endpoint.in_flight()) + 1.0)
            }
            Policy::PeakEwma(policy) => {
                self.best(members, 2, usable, rng, |endpoint| endpoint.cost(request.now, policy))
            }
            _ => self.draw(members, usable, rng),
        }
    }

    /// The next usable endpoint in turn. Each one passed over takes a turn of its own, so that its share is divided
    /// among all the others and not given to its neighbour.
    fn turn(&self, group: usize, members: &Members, usable: &impl Fn(u32) -> bool) -> Option<u32> {
        let next = &self.tiers.groups[group].next;
        let list = &members.list;
        for _ in 0..list.len() {
            let at = match &members.shares {
                Shares::InTurn(stride) => list[stride.pick(next) as usize],
                _ => list[next.fetch_add(1, Ordering::Relaxed) as usize % list.len()],
            };
            if usable(at) {
                return Some(at);
            }
        }
        // Other requests took turns in between; whoever is usable serves.
        list.iter().copied().find(|at| usable(*at))
    }

    /// Some usable endpoints at random, and of them the one that costs the least for its weight.
    fn best<R: Rng>(
        &self,
        members: &Members,
        choices: u32,
        usable: &impl Fn(u32) -> bool,
        rng: &mut R,
        cost: impl Fn(&Endpoint<T>) -> f64,
    ) -> Option<u32> {
        let cost = |at: u32| cost(self.at(at)) / f64::from(self.weight(at));
        let mut best = self.draw(members, usable, rng)?;
        let mut least = cost(best);
        for _ in 1..choices {
            if let Some(other) = self.draw(members, usable, rng)
                && other != best
            {
                let costs = cost(other);
                if costs < least {
                    (best, least) = (other, costs);
                }
            }
        }
        Some(best)
    }

    /// A usable endpoint at random.
    fn draw<R: Rng>(&self, members: &Members, usable: &impl Fn(u32) -> bool, rng: &mut R) -> Option<u32> {
        let list = &members.list;
        if list.is_empty() {
            return None;
        }
        // With most endpoints usable the first draw hits; drawing anew keeps the distribution.
        for _ in 0..4 {
            let at = match &members.shares {
                Shares::AtRandom(alias) => list[alias.draw(rng) as usize],
                _ => list[rng.random_range(0..list.len())],
            };
            if usable(at) {
                return Some(at);
            }
        }
        let start = rng.random_range(0..list.len());
        list[start..].iter().chain(&list[..start]).copied().find(|at| usable(*at))
    }

    pub(super) fn at(&self, at: u32) -> &Arc<Endpoint<T>> {
        &self.endpoints[at as usize]
    }

    pub(super) fn weight(&self, at: u32) -> u32 {
        self.weights.as_ref().map_or(1, |weights| weights[at as usize])
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
        self.look_again(&view, now)
    }

    #[cold]
    fn look_again(&self, old: &View, now: Instant) -> Guard<Arc<View>> {
        let looking = match self.looking.try_lock() {
            Ok(looking) => looking,
            Err(_) if old.outlook == Outlook::Ready => return self.view.load(),
            Err(_) => self.looking.lock().unwrap_or_else(PoisonError::into_inner),
        };
        let version = self.fleet.changes();
        let current = self.view.load();
        if current.version == version && current.until.is_none_or(|until| now < until) {
            return current;
        }
        drop(current);
        let view = self.look(version, now);
        let telling = told(view.first, view.panics());
        if self.told.swap(telling, Ordering::AcqRel) != telling {
            self.news.store(true, Ordering::Release);
        }
        self.view.store(Arc::new(view));
        drop(looking);
        self.view.load()
    }
}

fn told(first: Option<u32>, panics: bool) -> u64 {
    first.map_or(0, |priority| (u64::from(priority) + 1) << 1) | u64::from(panics)
}

pub(super) fn is_in<T>(tried: &[Arc<Endpoint<T>>], endpoint: &Arc<Endpoint<T>>) -> bool {
    tried.iter().any(|other| Arc::ptr_eq(other, endpoint))
}

struct Choices<'a, T, F> {
    picker: &'a Picker<T>,
    usable: &'a F,
}

impl<T, F: Fn(u32) -> bool> Candidates for Choices<'_, T, F> {
    fn len(&self) -> usize {
        self.picker.endpoints.len()
    }

    fn address(&self, index: usize) -> &Address {
        self.picker.endpoints[index].address()
    }

    fn weight(&self, index: usize) -> u32 {
        self.picker.weight(index as u32)
    }

    fn in_flight(&self, index: usize) -> u32 {
        self.picker.endpoints[index].in_flight()
    }

    fn is_usable(&self, index: usize) -> bool {
        (self.usable)(index as u32)
    }
}

#[cfg(test)]
mod tests;

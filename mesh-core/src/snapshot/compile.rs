use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use super::{Action, Backend, BackendState, Route, Snapshot, Split, Target, Transport, VirtualHost};
use crate::balance::{Endpoint, MakeBalance, Picker, pick_first_order, subset};
use crate::matching::{HostTable, RouteTable};
use crate::model::{self, Address, BackendId, LoadBalancer, Metadata, Place, RouteAction, RoutePolicy};
use crate::resilience::throttle::Throttle;

/// Makes snapshots.
pub struct Compiler<T: Transport> {
    transport: T,
    balances: HashMap<Arc<str>, Arc<dyn MakeBalance>>,
}

/// A snapshot that may be published, and what differs from the one before.
pub struct Update<T: Transport> {
    /// The new snapshot.
    pub snapshot: Arc<Snapshot<T>>,
    /// Endpoints that are no longer part of any backend: to be closed once the snapshot is published.
    pub removed: Vec<Arc<Endpoint<T::Endpoint>>>,
    /// Indices of the backends that are new, changed, or that a changed route newly sends requests to.
    pub touched: Vec<u32>,
}

/// A configuration that cannot be compiled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError<E: std::error::Error + 'static> {
    /// Two virtual hosts claim the same host.
    #[error("host `{host}` is claimed by both `{first}` and `{second}`; let one of them go")]
    HostConflict {
        /// The host pattern.
        host: String,
        /// The virtual host that came first.
        first: Arc<str>,
        /// The other one.
        second: Arc<str>,
    },
    /// A route sends requests to backends whose weights do not sum to 1..=4294967295.
    #[error(
        "the weights of {route} of `{virtual_host}` sum to {sum}; the sum must be 1 to 4294967295, so give at least one \
         backend a weight"
    )]
    Weights {
        /// The virtual host.
        virtual_host: Arc<str>,
        /// The route, by name or index.
        route: String,
        /// The sum.
        sum: u64,
    },
    /// The transport cannot use the settings of these backends.
    #[error("{}", Lines(.0))]
    Backends(Vec<UnusableBackend<E>>),
    /// A backend asks for a balancing policy that the application has not registered.
    #[error(
        "services.{}.backends.{}: the load balancer {name:?} is not registered; {}", backend.service, backend.name,
        Known(known)
    )]
    Balance {
        /// The backend.
        backend: BackendId,
        /// The policy's name.
        name: Arc<str>,
        /// The names that are registered.
        known: Vec<Arc<str>>,
    },
}

/// The names an application registered.
struct Known<'a>(&'a [Arc<str>]);

impl fmt::Display for Known<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("none is") } else { write!(f, "there are {:?}", self.0) }
    }
}

/// A backend whose settings the transport cannot use.
#[derive(Debug, thiserror::Error)]
#[error("services.{}.backends.{}: {error}", backend.service, backend.name)]
#[non_exhaustive]
pub struct UnusableBackend<E: std::error::Error + 'static> {
    /// The backend.
    pub backend: BackendId,
    /// What is wrong.
    #[source]
    pub error: E,
}

/// One error a line.
struct Lines<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for Lines<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if number == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl<T: Transport> Compiler<T> {
    /// A compiler that prepares backends and endpoints by `transport`.
    pub fn new(transport: T) -> Self {
        Self { transport, balances: HashMap::new() }
    }

    /// Knows the balancing policy `name` of the application. An earlier one of that name is replaced.
    #[must_use]
    pub fn with_balance(mut self, name: impl Into<Arc<str>>, make: Arc<dyn MakeBalance>) -> Self {
        self.balances.insert(name.into(), make);
        self
    }

    /// The transport.
    pub fn transport(&self) -> &T {
        &self.transport
    }

    /// The snapshot of `config` that follows `previous`. `rng` decides where balancers begin; `now` is the time.
    ///
    /// # Errors
    /// If `config` cannot be compiled; `previous` stays as good as it was.
    pub fn compile<R: rand::Rng>(
        &self,
        previous: &Snapshot<T>,
        config: &model::Config,
        rng: &mut R,
        now: Instant,
    ) -> Result<Update<T>, CompileError<T::Error>> {
        let indices = indices(previous, config);
        let size = indices.values().max().map_or(0, |index| *index as usize + 1);
        let mut backends: Vec<Option<Arc<Backend<T>>>> = vec![None; size];
        let mut removed = Vec::new();
        let mut touched = Vec::new();
        let mut unusable = Vec::new();
        let subsets = subsets(config);
        let here = &config.settings.locality;
        let moved = *here != previous.settings.locality;
        for (id, backend) in &config.backends {
            if let LoadBalancer::Custom(name) = &backend.load_balancer
                && !self.balances.contains_key(name)
            {
                let mut known: Vec<_> = self.balances.keys().cloned().collect();
                known.sort_unstable();
                return Err(CompileError::Balance { backend: id.clone(), name: Arc::clone(name), known });
            }
            let index = indices[id];
            let old = previous.backend(index).filter(|old| old.id() == id);
            let subsets = subsets.get(id).map_or(&[][..], |subsets| subsets);
            let making = Making { index, config: backend, old, subsets, here, moved, now };
            let new = match self.backend(&making, &mut removed, rng) {
                Ok(new) => new,
                Err(error) => {
                    unusable.push(UnusableBackend { backend: id.clone(), error });
                    continue;
                }
            };
            if !old.is_some_and(|old| Arc::ptr_eq(old, &new)) {
                touched.push(index);
            }
            backends[index as usize] = Some(new);
        }
        if !unusable.is_empty() {
            return Err(CompileError::Backends(unusable));
        }
        for old in previous.backends() {
            if !config.backends.contains_key(old.id()) {
                removed.extend(old.picker.endpoints().iter().cloned());
            }
        }

        let by_name: HashMap<&Arc<str>, &Arc<VirtualHost>> =
            previous.virtual_hosts.iter().map(|host| (host.name(), host)).collect();
        let mut virtual_hosts = Vec::with_capacity(config.virtual_hosts.len());
        for host in &config.virtual_hosts {
            let old = by_name.get(&host.name).copied();
            virtual_hosts.push(virtual_host(host, old, &indices, &mut touched)?);
        }
        let (hosts, named) = if same_hosts(&previous.virtual_hosts, &virtual_hosts) {
            (Arc::clone(&previous.hosts), Arc::clone(&previous.named))
        } else {
            (Arc::new(host_table(&virtual_hosts)?), Arc::new(named(&virtual_hosts)))
        };
        // Only now that nothing can be refused any more: the buckets are shared with the snapshot in force.
        for host in &virtual_hosts {
            if let (Some(throttle), Some(throttling)) = (&host.throttle, &host.config.retry_throttling) {
                throttle.update(throttling);
            }
        }
        touched.sort_unstable();
        touched.dedup();
        for backend in touched.iter().filter_map(|index| backends[*index as usize].as_ref()) {
            self.transport.update(&backend.transport, &backend.config);
        }
        let settings = Arc::clone(&config.settings);
        let snapshot =
            Snapshot { version: previous.version + 1, hosts, virtual_hosts, named, backends, indices, settings };
        Ok(Update { snapshot: Arc::new(snapshot), removed, touched })
    }

    fn backend<R: rand::Rng>(
        &self,
        making: &Making<'_, T>,
        removed: &mut Vec<Arc<Endpoint<T::Endpoint>>>,
        rng: &mut R,
    ) -> Result<Arc<Backend<T>>, T::Error> {
        let Making { config, old, now, .. } = *making;
        if let Some(old) = old
            && making.is_the_same(old)
        {
            return Ok(Arc::clone(old));
        }
        let reusable = old.filter(|old| same_connections(&old.config, config));
        let transport = match reusable {
            Some(old) => Arc::clone(&old.transport),
            None => Arc::new(self.transport.backend(config, old.map(|old| &old.transport))?),
        };
        let state = old.map_or_else(|| Arc::new(BackendState::new(now, rng.next_u64())), |old| Arc::clone(&old.state));
        let chosen = chosen(config, state.seed);
        let old_endpoints = reusable.map_or(&[][..], |old| old.picker.endpoints());
        let make = |address: &Address| {
            let slot = self.transport.endpoint(&transport, address);
            Arc::new(Endpoint::new(address.clone(), &state.fleet, slot))
        };
        let Again { endpoints, gone } = again(&chosen, old_endpoints, make);
        match (reusable, old) {
            (None, Some(old)) => removed.extend_from_slice(old.picker.endpoints()),
            _ => removed.extend(gone),
        }
        let mut endpoints: Vec<_> = chosen.into_iter().zip(endpoints).collect();
        if let LoadBalancer::PickFirst { shuffle } = config.load_balancer {
            let priority = |config: &&model::Endpoint| config.locality.as_ref().map_or(0, |locality| locality.priority);
            endpoints = pick_first_order(endpoints, shuffle, priority, rng);
        }
        let mut picker = |endpoints: Vec<_>, before: Option<&Picker<T::Endpoint>>| {
            let mut picker = Picker::new(config, endpoints, making.here, &state.fleet, rng.next_u32(), now);
            if let LoadBalancer::Custom(name) = &config.load_balancer {
                let kept = before.and_then(|before| before.balance(name)).cloned();
                if let Some(policy) = kept.or_else(|| Some(self.balances.get(name)?.make(config))) {
                    picker = picker.with_balance(Arc::clone(name), policy);
                }
            }
            match before {
                Some(before) => picker.following(before, now),
                None => picker,
            }
        };
        let parts = making.subsets.iter().map(|subset| {
            let part = endpoints.iter().filter(|(endpoint, _)| holds(endpoint, subset)).cloned().collect();
            let before = old.and_then(|old| old.picker_of(Some(subset)));
            (Arc::clone(subset), picker(part, before))
        });
        let subsets = parts.collect();
        let picker = picker(endpoints, old.map(|old| &old.picker));
        Ok(Arc::new(Backend { index: making.index, config: Arc::clone(config), picker, subsets, transport, state }))
    }
}

/// What a backend is made of.
struct Making<'a, T: Transport> {
    index: u32,
    config: &'a Arc<model::Backend>,
    old: Option<&'a Arc<Backend<T>>>,
    /// The parts of it that routes name.
    subsets: &'a [Arc<Metadata>],
    here: &'a Place,
    /// Whether that is another place than before.
    moved: bool,
    now: Instant,
}

impl<T: Transport> Making<'_, T> {
    /// Whether `old` can stay as it is.
    fn is_the_same(&self, old: &Backend<T>) -> bool {
        (Arc::ptr_eq(&old.config, self.config) || old.config == *self.config)
            && !(self.moved && self.config.localities.prefer.is_some())
            && old.subsets.len() == self.subsets.len()
            && self.subsets.iter().all(|subset| old.picker_of(Some(subset)).is_some())
    }
}

/// The parts of backends that routes name.
fn subsets(config: &model::Config) -> HashMap<&BackendId, Vec<Arc<Metadata>>> {
    let mut subsets = HashMap::<_, Vec<Arc<Metadata>>>::new();
    let routes = config.virtual_hosts.iter().flat_map(|host| &host.routes);
    for route in routes {
        let RouteAction::Forward(forward) = &route.action else { continue };
        for weighted in &forward.backends {
            if let Some(subset) = &weighted.subset {
                let known = subsets.entry(&weighted.backend).or_default();
                if !known.contains(subset) {
                    known.push(Arc::clone(subset));
                }
            }
        }
    }
    subsets
}

/// Whether the metadata of `endpoint` holds all of `subset`.
fn holds(endpoint: &model::Endpoint, subset: &Metadata) -> bool {
    let has = |(name, value)| endpoint.metadata.as_ref().and_then(|metadata| metadata.get(name)) == Some(value);
    subset.iter().all(has)
}

/// The endpoints that are used.
fn chosen(config: &model::Backend, seed: u64) -> Vec<&model::Endpoint> {
    match config.subset_size {
        Some(size) if size.get() as usize >= config.endpoints.len() => config.endpoints.iter().collect(),
        Some(size) => {
            let places = subset(&config.endpoints, size.get() as usize, seed);
            places.into_iter().map(|place| &config.endpoints[place as usize]).collect()
        }
        None => config.endpoints.iter().collect(),
    }
}

/// The endpoints for `configs`, those of `old` that have their addresses and new ones, and what is left of `old`. Mostly
/// few differ, and mostly they come in the same order.
fn again<T>(
    configs: &[&model::Endpoint],
    old: &[Arc<Endpoint<T>>],
    make: impl Fn(&Address) -> Arc<Endpoint<T>>,
) -> Again<T> {
    let mut stay = vec![false; old.len()];
    // Where it was, counted from the beginning or from the end: one that is put in or taken out moves half of them.
    let in_place = |(place, config): (usize, &&model::Endpoint)| {
        let places = [Some(place), (place + old.len()).checked_sub(configs.len())];
        places.into_iter().flatten().find(|at| old.get(*at).is_some_and(|old| *old.address() == config.address))
    };
    let mut found: Vec<Option<usize>> = configs.iter().enumerate().map(in_place).collect();
    found.iter().flatten().for_each(|at| stay[*at] = true);
    let moved: HashMap<&Address, usize> =
        (0..old.len()).filter(|at| !stay[*at]).map(|at| (old[at].address(), at)).collect();
    for (config, found) in configs.iter().zip(&mut found).filter(|(_, found)| found.is_none()) {
        *found = moved.get(&config.address).copied();
        found.iter().for_each(|at| stay[*at] = true);
    }
    let endpoint = |(config, found): (&&model::Endpoint, Option<usize>)| {
        found.map_or_else(|| make(&config.address), |at| Arc::clone(&old[at]))
    };
    let endpoints = configs.iter().zip(found).map(endpoint).collect();
    let gone = old.iter().zip(stay).filter(|(_, stays)| !stays).map(|(old, _)| Arc::clone(old)).collect();
    Again { endpoints, gone }
}

/// The endpoints of a list, and those of the list before that are not among them.
struct Again<T> {
    endpoints: Vec<Arc<Endpoint<T>>>,
    gone: Vec<Arc<Endpoint<T>>>,
}

/// Where each backend lives: where it lived before, or in a place that is free.
fn indices<T: Transport>(previous: &Snapshot<T>, config: &model::Config) -> Arc<HashMap<BackendId, u32>> {
    let old = &previous.indices;
    if old.len() == config.backends.len() && config.backends.keys().all(|id| old.contains_key(id)) {
        return Arc::clone(old);
    }
    let mut indices: HashMap<BackendId, u32> =
        config.backends.keys().filter_map(|id| Some((id.clone(), *old.get(id)?))).collect();
    let mut taken = vec![false; previous.backends.len()];
    for index in indices.values() {
        taken[*index as usize] = true;
    }
    // A place may be given to a newcomer at once: whoever comes back with an index compares what it finds there.
    let free = (0..).filter(|index| taken.get(*index as usize).is_none_or(|taken| !taken));
    let new: Vec<_> = config.backends.keys().filter(|id| !old.contains_key(*id)).collect();
    for (id, index) in new.into_iter().zip(free) {
        indices.insert(id.clone(), index);
    }
    Arc::new(indices)
}

/// Whether connections made for `old` serve `new` as well.
fn same_connections(old: &model::Backend, new: &model::Backend) -> bool {
    old.protocol == new.protocol
        && old.tls == new.tls
        && old.connect_timeout == new.connect_timeout
        && old.connect_backoff == new.connect_backoff
}

fn virtual_host<E: std::error::Error>(
    config: &Arc<model::VirtualHost>,
    old: Option<&Arc<VirtualHost>>,
    indices: &HashMap<BackendId, u32>,
    touched: &mut Vec<u32>,
) -> Result<Arc<VirtualHost>, CompileError<E>> {
    if let Some(old) = old
        && (Arc::ptr_eq(&old.config, config) || old.config == *config)
        && old.targets().all(|target| target.index == indices.get(&target.backend).copied())
    {
        return Ok(Arc::clone(old));
    }
    let mut routes = Vec::with_capacity(config.routes.len());
    for (number, route) in config.routes.iter().enumerate() {
        let action = match &route.action {
            RouteAction::Forward(forward) => Action::Forward(split(forward, indices).map_err(|sum| {
                let route =
                    route.name.as_ref().map_or_else(|| format!("route #{number}"), |name| format!("route `{name}`"));
                CompileError::Weights { virtual_host: Arc::clone(&config.name), route, sum }
            })?),
            RouteAction::Unsupported(what) => Action::Unsupported(Arc::clone(what)),
        };
        routes.push(Route { name: route.name.clone(), action });
    }
    let throttle = config.retry_throttling.as_ref().map(|throttling| {
        let kept = old.and_then(|old| old.throttle.clone());
        kept.unwrap_or_else(|| Arc::new(Throttle::new(throttling)))
    });
    let new = VirtualHost { config: Arc::clone(config), table: RouteTable::new(&config.routes), routes, throttle };
    let used = |index: &u32| old.is_some_and(|old| old.targets().any(|target| target.index == Some(*index)));
    touched.extend(new.targets().filter_map(|target| target.index).filter(|index| !used(index)));
    Ok(Arc::new(new))
}

impl VirtualHost {
    /// Every backend some route may draw.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        let splits = self.routes.iter().filter_map(|route| match &route.action {
            Action::Forward(split) => Some(split),
            Action::Unsupported(_) => None,
        });
        splits.flat_map(|split| split.targets.iter())
    }
}

/// Compiles the backends of a route; the error is a sum of weights that cannot be drawn from.
fn split(forward: &model::Forward, indices: &HashMap<BackendId, u32>) -> Result<Split, u64> {
    let route_policy = Arc::new(forward.policy.clone());
    let mut targets = Vec::with_capacity(forward.backends.len());
    let mut bounds = Vec::with_capacity(forward.backends.len());
    let mut sum = 0_u64;
    for weighted in forward.backends.iter().filter(|weighted| weighted.weight > 0) {
        sum += u64::from(weighted.weight);
        let over = &weighted.policy;
        let policy = if *over == model::PolicyOverride::default() {
            Arc::clone(&route_policy)
        } else {
            Arc::new(RoutePolicy {
                timeout: over.timeout.unwrap_or(forward.policy.timeout),
                retry: over.retry.clone().unwrap_or_else(|| forward.policy.retry.clone()),
                hedge: over.hedge.clone().unwrap_or_else(|| forward.policy.hedge.clone()),
                session: forward.policy.session.clone(),
                hash: over.hash.clone().unwrap_or_else(|| Arc::clone(&forward.policy.hash)),
            })
        };
        let index = indices.get(&weighted.backend).copied();
        let (backend, subset) = (weighted.backend.clone(), weighted.subset.clone());
        targets.push(Target { backend, index, weight: weighted.weight, subset, policy });
        bounds.push(sum);
    }
    if sum == 0 || sum > u64::from(u32::MAX) {
        return Err(sum);
    }
    Ok(Split { targets: targets.into(), bounds: bounds.into() })
}

fn same_hosts(old: &[Arc<VirtualHost>], new: &[Arc<VirtualHost>]) -> bool {
    old.len() == new.len()
        && old.iter().zip(new).all(|(old, new)| {
            Arc::ptr_eq(old, new) || old.config.hosts == new.config.hosts && old.config.name == new.config.name
        })
}

fn named(virtual_hosts: &[Arc<VirtualHost>]) -> HashMap<Arc<str>, u32> {
    let named = (0..).zip(virtual_hosts).filter(|(_, host)| host.config.hosts.is_empty());
    named.map(|(index, host)| (Arc::clone(host.name()), index)).collect()
}

fn host_table<E: std::error::Error>(virtual_hosts: &[Arc<VirtualHost>]) -> Result<HostTable, CompileError<E>> {
    let patterns = virtual_hosts
        .iter()
        .zip(0_u32..)
        .flat_map(|(host, index)| host.config.hosts.iter().map(move |pattern| (pattern, index)));
    HostTable::new(patterns).map_err(|conflict| CompileError::HostConflict {
        host: conflict.pattern.to_string(),
        first: Arc::clone(virtual_hosts[conflict.first as usize].name()),
        second: Arc::clone(virtual_hosts[conflict.second as usize].name()),
    })
}

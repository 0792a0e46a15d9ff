use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::{Action, Backend, Route, Snapshot, Split, Target, Transport, VirtualHost};
use crate::balance::{Endpoint, MakeBalance, Picker, pick_first_order};
use crate::matching::{HostTable, RouteTable};
use crate::model::{self, BackendId, LoadBalancer, RouteAction, RoutePolicy};
use crate::resilience::budget::RetryBudgetState;
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

    /// The snapshot of `config` that follows `previous`. `rng` decides where balancers begin.
    ///
    /// # Errors
    /// If `config` cannot be compiled; `previous` stays as good as it was.
    pub fn compile<R: rand::Rng>(
        &self,
        previous: &Snapshot<T>,
        config: &model::Config,
        rng: &mut R,
    ) -> Result<Update<T>, CompileError<T::Error>> {
        let indices = indices(previous, config);
        let size = indices.values().max().map_or(0, |index| *index as usize + 1);
        let mut backends: Vec<Option<Arc<Backend<T>>>> = vec![None; size];
        let mut removed = Vec::new();
        let mut touched = Vec::new();
        let mut unusable = Vec::new();
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
            let new = match self.backend(index, backend, old, &mut removed, rng) {
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
        index: u32,
        config: &Arc<model::Backend>,
        old: Option<&Arc<Backend<T>>>,
        removed: &mut Vec<Arc<Endpoint<T::Endpoint>>>,
        rng: &mut R,
    ) -> Result<Arc<Backend<T>>, T::Error> {
        if let Some(old) = old
            && (Arc::ptr_eq(&old.config, config) || old.config == *config)
        {
            return Ok(Arc::clone(old));
        }
        let reusable = old.filter(|old| same_connections(&old.config, config));
        let transport = match reusable {
            Some(old) => Arc::clone(&old.transport),
            None => Arc::new(self.transport.backend(config, old.map(|old| &old.transport))?),
        };
        let known: HashMap<_, _> = reusable
            .iter()
            .flat_map(|old| old.picker.endpoints())
            .map(|endpoint| (endpoint.address(), endpoint))
            .collect();
        let endpoints: Vec<_> = config
            .endpoints
            .iter()
            .map(|endpoint| match known.get(&endpoint.address) {
                Some(endpoint) => Arc::clone(endpoint),
                None => {
                    let slot = self.transport.endpoint(&transport, &endpoint.address);
                    Arc::new(Endpoint::new(endpoint.address.clone(), slot))
                }
            })
            .collect();
        if let Some(old) = old {
            let kept: std::collections::HashSet<_> = endpoints.iter().map(Arc::as_ptr).collect();
            removed.extend(old.picker.endpoints().iter().filter(|old| !kept.contains(&Arc::as_ptr(old))).cloned());
        }
        let endpoints = match config.load_balancer {
            LoadBalancer::PickFirst { shuffle } => pick_first_order(endpoints, shuffle, rng),
            _ => endpoints,
        };
        let mut picker = Picker::new(&config.load_balancer, endpoints, rng.next_u32());
        if let LoadBalancer::Custom(name) = &config.load_balancer {
            let kept = old.and_then(|old| old.picker.balance(name)).cloned();
            if let Some(policy) = kept.or_else(|| Some(self.balances.get(name)?.make(config))) {
                picker = picker.with_balance(Arc::clone(name), policy);
            }
        }
        Ok(Arc::new(Backend {
            index,
            picker,
            config: Arc::clone(config),
            transport,
            budget: old.map_or_else(|| Arc::new(RetryBudgetState::new()), |old| Arc::clone(&old.budget)),
        }))
    }
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
        targets.push(Target { backend: weighted.backend.clone(), index, weight: weighted.weight, policy });
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

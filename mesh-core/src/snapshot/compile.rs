use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use super::hosts::{host_table, named, same_hosts, virtual_host};
use super::members::{Again, again, chosen, holds, subsets};
use super::{Backend, BackendState, Snapshot, Transport, VirtualHost};
use crate::balance::{Endpoint, MakeBalance, Picker, pick_first_order};
use crate::model::{self, BackendId, LoadBalancer, Metadata, Place};

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
        let servers = config.servers.clone();
        let snapshot = Snapshot {
            version: previous.version + 1,
            hosts,
            virtual_hosts,
            named,
            backends,
            indices,
            servers,
            settings,
        };
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
        let chosen = chosen(config, making.subsets, state.seed);
        let old_endpoints = reusable.map_or(&[][..], |old| old.picker.endpoints());
        let make = |config: &model::Endpoint| {
            let slot = self.transport.endpoint(&transport, config);
            Arc::new(Endpoint::new(config.address.clone(), &state.fleet, slot))
        };
        let keeps = |old: &Endpoint<T::Endpoint>, config: &_| self.transport.keeps(old.transport(), config);
        let Again { endpoints, gone } = again(&chosen, old_endpoints, keeps, make);
        match (reusable, old) {
            (None, Some(old)) => removed.extend_from_slice(old.picker.endpoints()),
            _ => removed.extend(gone),
        }
        let mut endpoints: Vec<_> = chosen.into_iter().zip(endpoints).collect();
        if let LoadBalancer::PickFirst { shuffle } = config.load_balancer {
            endpoints = pick_first_order(endpoints, shuffle, |config| config.priority(), rng);
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

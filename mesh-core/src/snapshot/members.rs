//! Which endpoints a backend has, and which of them were there before.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::balance::{Endpoint, subset};
use crate::model::{self, Address, BackendId, LoadBalancer, Metadata, RouteAction};

/// The parts of backends that routes name.
pub(super) fn subsets(config: &model::Config) -> HashMap<&BackendId, Vec<Arc<Metadata>>> {
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
pub(super) fn holds(endpoint: &model::Endpoint, subset: &Metadata) -> bool {
    let has = |(name, value)| endpoint.metadata.as_ref().and_then(|metadata| metadata.get(name)) == Some(value);
    subset.iter().all(has)
}

/// The endpoints that are used. Where `subset_size` bounds them: so many of those that may be picked, of each priority and
/// of each part that routes name. Pick first uses none that it may not pick.
pub(super) fn chosen<'a>(config: &'a model::Backend, parts: &[Arc<Metadata>], seed: u64) -> Vec<&'a model::Endpoint> {
    let all = config.endpoints.iter();
    let Some(size) = config.subset_size else {
        return match config.load_balancer {
            LoadBalancer::PickFirst { .. } => all.filter(|endpoint| endpoint.may_be_picked()).collect(),
            _ => all.collect(),
        };
    };
    let mut priorities = BTreeMap::<u32, Vec<&model::Endpoint>>::new();
    for endpoint in all.filter(|endpoint| endpoint.may_be_picked()) {
        priorities.entry(endpoint.priority()).or_default().push(endpoint);
    }
    let mut used = HashSet::new();
    let mut choose = |endpoints: &[&'a model::Endpoint]| {
        let places = subset(endpoints, size.get() as usize, seed);
        used.extend(places.into_iter().map(|place| &endpoints[place as usize].address));
    };
    for endpoints in priorities.values() {
        choose(endpoints);
        for part in parts {
            let part: Vec<_> = endpoints.iter().copied().filter(|endpoint| holds(endpoint, part)).collect();
            choose(&part);
        }
    }
    config.endpoints.iter().filter(|endpoint| used.contains(&endpoint.address)).collect()
}

/// The endpoints for `configs`, those of `old` that have their addresses and that it `keeps`, and new ones, and what is
/// left of `old`. Mostly few differ, and mostly they come in the same order.
pub(super) fn again<T>(
    configs: &[&model::Endpoint],
    old: &[Arc<Endpoint<T>>],
    keeps: impl Fn(&Endpoint<T>, &model::Endpoint) -> bool,
    make: impl Fn(&model::Endpoint) -> Arc<Endpoint<T>>,
) -> Again<T> {
    let mut stay = vec![false; old.len()];
    // Where it was, counted from the beginning or from the end: one that is put in or taken out moves half of them.
    let in_place = |(place, config): (usize, &&model::Endpoint)| {
        let places = [Some(place), (place + old.len()).checked_sub(configs.len())];
        let serves = |old: &Arc<Endpoint<T>>| *old.address() == config.address && keeps(old, config);
        places.into_iter().flatten().find(|at| old.get(*at).is_some_and(serves))
    };
    let mut found: Vec<Option<usize>> = configs.iter().enumerate().map(in_place).collect();
    found.iter().flatten().for_each(|at| stay[*at] = true);
    let moved: HashMap<&Address, usize> =
        (0..old.len()).filter(|at| !stay[*at]).map(|at| (old[at].address(), at)).collect();
    for (config, found) in configs.iter().zip(&mut found).filter(|(_, found)| found.is_none()) {
        *found = moved.get(&config.address).copied().filter(|at| keeps(&old[*at], config));
        found.iter().for_each(|at| stay[*at] = true);
    }
    let endpoint = |(config, found): (&&model::Endpoint, Option<usize>)| {
        found.map_or_else(|| make(config), |at| Arc::clone(&old[at]))
    };
    let endpoints = configs.iter().zip(found).map(endpoint).collect();
    let gone = old.iter().zip(stay).filter(|(_, stays)| !stays).map(|(old, _)| Arc::clone(old)).collect();
    Again { endpoints, gone }
}

/// The endpoints of a list, and those of the list before that are not among them.
pub(super) struct Again<T> {
    pub(super) endpoints: Vec<Arc<Endpoint<T>>>,
    pub(super) gone: Vec<Arc<Endpoint<T>>>,
}

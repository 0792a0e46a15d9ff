//! Which endpoints a backend has, and which of them were there before.

use std::collections::HashMap;
use std::sync::Arc;

use crate::balance::{Endpoint, subset};
use crate::model::{self, Address, BackendId, Metadata, RouteAction};

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

/// The endpoints that are used.
pub(super) fn chosen(config: &model::Backend, seed: u64) -> Vec<&model::Endpoint> {
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
pub(super) fn again<T>(
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
pub(super) struct Again<T> {
    pub(super) endpoints: Vec<Arc<Endpoint<T>>>,
    pub(super) gone: Vec<Arc<Endpoint<T>>>,
}

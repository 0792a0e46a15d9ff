//! Picking by the request's hash: the same endpoint for the same hash, as long as it can serve (gRFC A42, A61).

use std::sync::Arc;

use rand::Rng;

use super::keys::Keys;
use super::picker::{Chosen, Pick, Picker, Policy, is_in};
use super::shares::ALL;
use super::tiers::Tier;
use super::view::{Outlook, View};
use super::{Endpoint, State, keys_of};

impl<T> Picker<T> {
    /// A table for each priority, made of the addresses and weights of its endpoints.
    pub(super) fn tables<I>(&self, make: impl Fn(&Keys, &[u64]) -> I) -> Box<[Table<I>]> {
        let tables = self.tiers.tiers.iter().map(|tier| {
            let groups = &self.tiers.groups[tier.groups.clone()];
            let members: Box<[u32]> = groups.iter().flat_map(|group| group.members.iter().copied()).collect();
            let keys = keys_of(members.iter().map(|at| self.at(*at).address()));
            Table { index: make(&keys, &self.hash_weights(tier)), members }
        });
        tables.collect()
    }

    /// What each endpoint of a priority weighs: its share of its locality times that of its priority (gRFC A113), of
    /// 2^31.
    fn hash_weights(&self, tier: &Tier) -> Vec<u64> {
        let groups = &self.tiers.groups[tier.groups.clone()];
        let localities: u64 = groups.iter().map(|group| u64::from(group.weight)).sum();
        let mut weights = Vec::new();
        for group in groups {
            let locality = normalized(group.weight, localities);
            let sum: u64 = group.members.iter().map(|at| u64::from(self.weight(*at))).sum();
            let weight = |at: &u32| ((locality * normalized(self.weight(*at), sum)) >> 31).max(1);
            weights.extend(group.members.iter().map(weight));
        }
        weights
    }

    pub(super) fn pick_by_hash<R: Rng>(
        &self,
        view: &View,
        hash: Option<u64>,
        tried: &[Arc<Endpoint<T>>],
        rng: &mut R,
    ) -> Pick<'_, T> {
        match view.outlook {
            Outlook::Empty => return Pick::Empty,
            Outlook::Failing => return Pick::Failing,
            Outlook::Ready | Outlook::Open => {}
        }
        let key = hash.unwrap_or_else(|| rng.next_u64());
        let first = tier_of(&view.loads, key);
        let others = (0..view.loads.len()).filter(|tier| *tier != first && view.loads[*tier] > 0);
        let mut tried_before = None;
        let mut asleep = None;
        for tier in std::iter::once(first).chain(others) {
            for at in self.walk(tier, key) {
                let endpoint = self.at(at);
                let state = endpoint.state();
                if state == State::Failing || !(view.panicking[tier] || endpoint.is_available()) {
                    continue;
                }
                if is_in(tried, endpoint) {
                    tried_before = tried_before.or((state == State::Ready).then_some(endpoint));
                    continue;
                }
                match (state, hash) {
                    (State::Ready, _) => {
                        return Pick::Ready(Chosen { endpoint, probes: false, sleeper: asleep });
                    }
                    (_, Some(_)) => return Pick::Await(endpoint),
                    // Without a hash whoever is there serves, and one that was passed over wakes up (gRFC A76).
                    (State::Idle, None) => asleep = asleep.or(Some(endpoint)),
                    (_, None) => asleep = asleep.or(Some(endpoint)),
                }
            }
        }
        match (tried_before, asleep) {
            (Some(endpoint), sleeper) => Pick::Ready(Chosen { endpoint, probes: false, sleeper }),
            (None, Some(endpoint)) => Pick::Await(endpoint),
            // The view was too hopeful.
            (None, None) => Pick::Wait,
        }
    }

    /// The endpoints of a priority, beginning with the one of `key`; some come up more than once.
    fn walk(&self, tier: usize, key: u64) -> impl Iterator<Item = u32> {
        let (ring, maglev) = match &self.policy {
            Policy::Ring(rings) => (rings.get(tier), None),
            Policy::Maglev(tables) => (None, tables.get(tier)),
            _ => (None, None),
        };
        let ring = ring.into_iter().flat_map(move |ring| ring.index.walk(key).map(|at| ring.members[at as usize]));
        let maglev =
            maglev.into_iter().flat_map(move |table| table.index.walk(key).map(|at| table.members[at as usize]));
        ring.chain(maglev)
    }
}

/// Where hashes lead, for one priority.
#[derive(Debug)]
pub(super) struct Table<I> {
    index: I,
    /// Its endpoints, by their places in the list of all.
    members: Box<[u32]>,
}

/// The priority of a hash: requests of one hash stay together in a partial failure, too.
fn tier_of(loads: &[u64], key: u64) -> usize {
    // Another part of the hash than the one that finds the endpoint.
    let mut point = key.rotate_left(32).wrapping_mul(0x9e37_79b9_7f4a_7c15) % ALL;
    for (tier, load) in loads.iter().enumerate() {
        if point < *load {
            return tier;
        }
        point -= load;
    }
    0
}

fn normalized(weight: u32, sum: u64) -> u64 {
    (u64::from(weight) << 31) / sum.max(1)
}

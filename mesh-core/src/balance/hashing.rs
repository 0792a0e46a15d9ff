//! Picking by the request's hash: the same endpoint for the same hash, as long as it can serve (gRFC A42, A61).

use std::sync::Arc;

use rand::Rng;

use super::keys::Keys;
use super::picker::{Chosen, Pick, Picker, Policy, is_in};
use super::shares::ALL;
use super::tiers::Group;
use super::view::{Outlook, View};
use super::{Endpoint, State, keys_of};

/// How many entries of a table are looked at for one request. Where fewer than one in some hundred endpoints is usable the
/// others are found otherwise.
const WALK: usize = 4096;

impl<T> Picker<T> {
    /// A table for each priority, made of the addresses and weights of its endpoints: of all that may be picked, whatever
    /// their health, so that none of the others' requests move when it changes.
    pub(super) fn tables<I>(&self, make: impl Fn(&Keys, &[u64]) -> I) -> Box<[Table<I>]> {
        let tables = self.tiers.tiers.iter().map(|tier| {
            let mut members = Vec::new();
            let mut weights = Vec::new();
            let groups = &self.tiers.groups[tier.groups.clone()];
            let used = groups.iter().filter(|group| self.in_table(group).next().is_some());
            let localities: u64 = used.clone().map(|group| u64::from(group.weight)).sum();
            for group in used {
                // gRFC A113: its share of its locality times that of its priority, of 2^31.
                let locality = normalized(group.weight, localities);
                let sum: u64 = self.in_table(group).map(|at| u64::from(self.weight(at))).sum();
                let weight = |at| ((locality * normalized(self.weight(at), sum)) >> 31).max(1);
                weights.extend(self.in_table(group).map(weight));
                members.extend(self.in_table(group));
            }
            let keys = keys_of(members.iter().map(|at| self.at(*at).address()));
            Table { index: make(&keys, &weights), members: members.into() }
        });
        tables.collect()
    }

    /// Those that a table holds: who is unhealthy by its source only where a panic may ask for it.
    fn in_table<'a>(&self, group: &'a Group) -> impl Iterator<Item = u32> + 'a {
        let unhealthy = if self.localities.panic_threshold > 0 { &*group.unhealthy } else { &[] };
        group.members.iter().chain(unhealthy).copied()
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
            for at in self.walk(tier, key).take(WALK).chain(self.ready_of(view, tier, key)) {
                let endpoint = self.at(at);
                let state = endpoint.state();
                if state == State::Failing || !(view.panicking[tier] || self.is_available(at)) {
                    continue;
                }
                if is_in(tried, endpoint) {
                    tried_before = tried_before.or((state == State::Ready).then_some(endpoint));
                    continue;
                }
                match (state, hash) {
                    (State::Ready, _) => {
                        // gRFC A76: one that was passed over is woken, one at a time.
                        let sleeper = asleep.filter(|_| view.asleep.room(1) > 0).inspect(|_| view.asleep.wake());
                        // One that is to be probed comes up on nobody's way.
                        let sleeper = sleeper.or_else(|| self.missed(view, rng));
                        return Pick::Ready(Chosen { endpoint, probes: false, sleeper });
                    }
                    (_, Some(_)) => return Pick::Await(endpoint),
                    // Without a hash whoever is there serves.
                    (_, None) => asleep = asleep.or(Some(endpoint)),
                }
            }
        }
        match (tried_before, asleep) {
            (Some(endpoint), _) => Pick::Ready(Chosen { endpoint, probes: false, sleeper: None }),
            (None, Some(endpoint)) => Pick::Await(endpoint),
            // The view was too hopeful, or none of those that may still come is in a table.
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

    /// Those of a priority that are ready, beginning with one of `key`: for who walked long, or along a table that has no
    /// entry for them.
    fn ready_of(&self, view: &View, tier: usize, key: u64) -> impl Iterator<Item = u32> {
        let groups = self.tiers.tiers.get(tier).map_or(0..0, |tier| tier.groups.clone());
        groups.flat_map(move |group| {
            let list = &*view.ready[group].list;
            let start = key.checked_rem(list.len() as u64).unwrap_or(0) as usize;
            list[start..].iter().chain(&list[..start]).copied()
        })
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

//! The endpoints of a backend by priority and locality, as they are configured.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

use crate::model::{self, Health, Locality, Place, Proximity};

/// Priorities in order, each with its localities.
#[derive(Debug)]
pub(super) struct Tiers {
    pub(super) tiers: Box<[Tier]>,
    /// Tier after tier.
    pub(super) groups: Box<[Group]>,
}

/// What is used before, or after, what else there is.
#[derive(Debug)]
pub(super) struct Tier {
    /// As configured, and how far away from here: its identity in all lists of the backend.
    pub(super) key: (u32, u32),
    /// Its localities, among the groups.
    pub(super) groups: Range<usize>,
    /// Since when it connects without having a ready endpoint, in nanoseconds of the fleet, one later than it was; 0: it
    /// does not.
    pub(super) trying: AtomicU64,
}

/// The endpoints of one locality.
#[derive(Debug)]
pub(super) struct Group {
    /// The locality's weight.
    pub(super) weight: u32,
    /// Those that may be picked, by their place in the list of endpoints.
    pub(super) members: Box<[u32]>,
    /// Those that their source calls unhealthy: a part that is not available, and only picked in a panic.
    pub(super) unhealthy: Box<[u32]>,
    /// Whose turn it is.
    pub(super) next: AtomicU32,
}

impl Group {
    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = u32> {
        self.members.iter().chain(&self.unhealthy).copied()
    }
}

struct Draft {
    key: (u32, u32),
    weight: u32,
    members: Vec<u32>,
    unhealthy: Vec<u32>,
}

impl Tiers {
    /// So many endpoints as they stand, all of which may be picked.
    pub(super) fn one(count: u32) -> Self {
        if count == 0 {
            return Self { tiers: Box::default(), groups: Box::default() };
        }
        let members = (0..count).collect();
        let group = Group { weight: 1, members, unhealthy: Box::default(), next: AtomicU32::new(0) };
        let tier = Tier { key: (0, 0), groups: 0..1, trying: AtomicU64::new(0) };
        Self { tiers: Box::new([tier]), groups: Box::new([group]) }
    }

    /// Divides `endpoints`. Where `prefer` is said and `here` is known, each step away from here is a tier of its own.
    pub(super) fn new<'a>(
        endpoints: impl Iterator<Item = &'a model::Endpoint>,
        prefer: Option<Proximity>,
        here: &Place,
        start: u32,
    ) -> Self {
        // In the order in which they come up.
        let mut drafts = Vec::<Draft>::new();
        let mut known = HashMap::new();
        let mut last: Option<(Option<&Arc<Locality>>, usize)> = None;
        for (index, endpoint) in (0..).zip(endpoints) {
            let locality = endpoint.locality.as_ref();
            let weight = locality.map_or(1, |locality| locality.weight);
            if !endpoint.has_weight() || endpoint.health == Health::Draining {
                continue;
            }
            // Endpoints of a locality mostly come together, and share it.
            let place = match last {
                Some((before, place)) if before.map(Arc::as_ptr) == locality.map(Arc::as_ptr) => place,
                _ => {
                    let key = locality.map_or((0, 0), |at| (at.priority, distance(prefer, here, &at.place)));
                    match known.entry((key, locality.map(|locality| &locality.place))) {
                        Entry::Occupied(place) => *place.get(),
                        Entry::Vacant(place) => {
                            drafts.push(Draft { key, weight, members: Vec::new(), unhealthy: Vec::new() });
                            *place.insert(drafts.len() - 1)
                        }
                    }
                }
            };
            last = Some((locality, place));
            let draft = &mut drafts[place];
            match endpoint.health {
                Health::Unhealthy => draft.unhealthy.push(index),
                _ => draft.members.push(index),
            }
        }
        drafts.sort_by_key(|draft| draft.key);
        let mut tiers = Vec::<Tier>::new();
        for (index, draft) in drafts.iter().enumerate() {
            match tiers.last_mut() {
                Some(tier) if tier.key == draft.key => tier.groups.end = index + 1,
                _ => tiers.push(Tier { key: draft.key, groups: index..index + 1, trying: AtomicU64::new(0) }),
            }
        }
        let group = |draft: Draft| Group {
            weight: draft.weight,
            members: draft.members.into(),
            unhealthy: draft.unhealthy.into(),
            next: AtomicU32::new(start),
        };
        Self { tiers: tiers.into(), groups: drafts.into_iter().map(group).collect() }
    }
}

/// How many steps `place` is away from `here`.
fn distance(prefer: Option<Proximity>, here: &Place, place: &Place) -> u32 {
    let Some(prefer) = prefer.filter(|_| *here != Place::default()) else { return 0 };
    let region = here.region == place.region;
    let zone = region && here.zone == place.zone;
    let sub_zone = zone && here.sub_zone == place.sub_zone;
    let shared: &[bool] = match prefer {
        Proximity::Region => &[region],
        Proximity::Zone => &[region, zone],
        Proximity::SubZone => &[region, zone, sub_zone],
    };
    shared.iter().map(|shared| u32::from(!shared)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(port: u16, place: (&str, &str), priority: u32) -> model::Endpoint {
        let mut endpoint = model::Endpoint::new(std::net::SocketAddr::from(([127, 0, 0, 1], port)));
        let mut locality = Locality::new(Place::new(place.0, place.1, ""));
        locality.priority = priority;
        endpoint.locality = Some(Arc::new(locality));
        endpoint
    }

    fn members(tiers: &Tiers) -> Vec<(u32, Vec<Vec<u32>>)> {
        let groups =
            |tier: &Tier| tiers.groups[tier.groups.clone()].iter().map(|group| group.members.to_vec()).collect();
        tiers.tiers.iter().map(|tier| (tier.key.0, groups(tier))).collect()
    }

    #[test]
    fn endpoints_without_a_word_are_one_group() {
        let endpoints: Vec<_> =
            (1..4).map(|port| model::Endpoint::new(std::net::SocketAddr::from(([127, 0, 0, 1], port)))).collect();
        let tiers = Tiers::new(endpoints.iter(), Some(Proximity::Zone), &Place::new("eu", "a", ""), 0);
        assert_eq!(members(&tiers), [(0, vec![vec![0, 1, 2]])]);
        let none = Tiers::new([].iter(), None, &Place::default(), 0);
        assert!(none.tiers.is_empty() && none.groups.is_empty());
    }

    /// Priorities are used in order whatever their numbers; localities of one place are one group.
    #[test]
    fn priorities_and_localities() {
        let endpoints = [
            endpoint(1, ("eu", "a"), 7),
            endpoint(2, ("eu", "b"), 2),
            endpoint(3, ("eu", "a"), 2),
            endpoint(4, ("eu", "b"), 2),
        ];
        let tiers = Tiers::new(endpoints.iter(), None, &Place::new("eu", "a", ""), 0);
        assert_eq!(members(&tiers), [(2, vec![vec![1, 3], vec![2]]), (7, vec![vec![0]])]);
    }

    #[test]
    fn the_nearest_come_first_within_a_priority() {
        let endpoints = [
            endpoint(1, ("us", "a"), 0),
            endpoint(2, ("eu", "b"), 0),
            endpoint(3, ("eu", "a"), 0),
            endpoint(4, ("eu", "a"), 1),
        ];
        let here = Place::new("eu", "a", "rack");
        for (prefer, expected) in [
            (None, vec![vec![0, 1, 2], vec![3]]),
            (Some(Proximity::Region), vec![vec![1, 2], vec![0], vec![3]]),
            (Some(Proximity::Zone), vec![vec![2], vec![1], vec![0], vec![3]]),
            (Some(Proximity::SubZone), vec![vec![2], vec![1], vec![0], vec![3]]),
        ] {
            let tiers = Tiers::new(endpoints.iter(), prefer, &here, 0);
            let flat: Vec<_> = members(&tiers).into_iter().map(|(_, groups)| groups.concat()).collect();
            assert_eq!(flat, expected, "{prefer:?}");
        }
        let nowhere = Tiers::new(endpoints.iter(), Some(Proximity::Zone), &Place::default(), 0);
        assert_eq!(nowhere.tiers.len(), 2, "without a place of its own a process prefers none");
    }

    /// A source's word: draining endpoints are out of the count, unhealthy ones are a part that is missing.
    #[test]
    fn what_a_source_says_of_health_and_weight() {
        let mut endpoints = [1, 2, 3, 4].map(|port| endpoint(port, ("eu", "a"), 0));
        endpoints[0].health = Health::Draining;
        endpoints[1].health = Health::Unhealthy;
        endpoints[2].weight = 0;
        let tiers = Tiers::new(endpoints.iter(), None, &Place::default(), 0);
        assert_eq!(members(&tiers), [(0, vec![vec![3]])]);
        assert_eq!(*tiers.groups[0].unhealthy, [1]);
    }
}

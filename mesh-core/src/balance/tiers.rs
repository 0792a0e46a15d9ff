//! The endpoints of a backend by priority and locality, as they are configured.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

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
    /// As configured.
    pub(super) priority: u32,
    /// Its localities, among the groups.
    pub(super) groups: std::ops::Range<usize>,
    /// Endpoints that their source calls unhealthy: they count as a part that is not available.
    pub(super) unhealthy: u32,
}

/// The endpoints of one locality.
#[derive(Debug)]
pub(super) struct Group {
    /// The locality's weight.
    pub(super) weight: u32,
    /// Those that may be picked, by their place in the list of endpoints.
    pub(super) members: Box<[u32]>,
    /// Whose turn it is.
    pub(super) next: AtomicU32,
}

#[derive(Default)]
struct Draft<'a> {
    unhealthy: u32,
    /// In the order in which they come up.
    localities: Vec<(Option<&'a Arc<Locality>>, Vec<u32>)>,
}

impl Tiers {
    /// Divides `endpoints`. Where `prefer` is said and `here` is known, each step away from here is a tier of its own.
    pub(super) fn new<'a>(
        endpoints: impl Iterator<Item = &'a model::Endpoint>,
        prefer: Option<Proximity>,
        here: &Place,
        start: u32,
    ) -> Self {
        let mut drafts = BTreeMap::<(u32, u32), Draft<'_>>::new();
        for (index, endpoint) in (0..).zip(endpoints) {
            let locality = endpoint.locality.as_ref();
            let weight = locality.map_or(1, |locality| locality.weight);
            if endpoint.weight == 0 || weight == 0 || endpoint.health == Health::Draining {
                continue;
            }
            let distance = locality.map_or(0, |locality| distance(prefer, here, &locality.place));
            let draft = drafts.entry((locality.map_or(0, |locality| locality.priority), distance)).or_default();
            if endpoint.health == Health::Unhealthy {
                draft.unhealthy += 1;
                continue;
            }
            // Endpoints of a locality mostly come together, and share it.
            let same = |other: &Option<&Arc<Locality>>| match (locality, other) {
                (Some(one), Some(other)) => Arc::ptr_eq(one, other) || one.place == other.place,
                (one, other) => one.is_none() && other.is_none(),
            };
            match draft.localities.iter_mut().rev().find(|(other, _)| same(other)) {
                Some((_, members)) => members.push(index),
                None => draft.localities.push((locality, vec![index])),
            }
        }
        let mut groups = Vec::new();
        let mut tiers = Vec::with_capacity(drafts.len());
        for ((priority, _), draft) in drafts {
            let first = groups.len();
            groups.extend(draft.localities.into_iter().map(|(locality, members)| Group {
                weight: locality.map_or(1, |locality| locality.weight),
                members: members.into(),
                next: AtomicU32::new(start),
            }));
            tiers.push(Tier { priority, groups: first..groups.len(), unhealthy: draft.unhealthy });
        }
        Self { tiers: tiers.into(), groups: groups.into() }
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
        tiers.tiers.iter().map(|tier| (tier.priority, groups(tier))).collect()
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
        assert_eq!(tiers.tiers[0].unhealthy, 1);
    }
}

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use xxhash_rust::xxh64::xxh64;

use super::keys::Keys;
use crate::model;

/// A Maglev table (Eisenbud et al., NSDI 2016, 3.4), weighted as Envoy does it.
///
/// 4 bytes an entry. A look-up reads one entry. Building the default of 65537 takes 3 ms for a hundred hosts and 7 ms
/// for 10,000, the largest table a second or more, so it does not belong on the path of a request.
#[derive(Debug, Default)]
pub(crate) struct Maglev {
    entries: Box<[u32]>,
}

/// An entry that no host has taken.
const FREE: u32 = u32::MAX;

/// A host that takes its next place in the table.
struct Host {
    /// Its first choice among the places, then the one it looks at next.
    place: usize,
    /// From one of its choices to the next.
    skip: usize,
    /// How many times it has taken a place.
    taken: u32,
    /// In how many rounds it takes one; 1.0 has the host of the greatest weight.
    rounds: f64,
    index: u32,
}

impl Maglev {
    /// The table of hosts with these keys and weights, in which a host of weight 0 has no place; every other one has,
    /// if the table is not smaller than their number.
    ///
    /// A size that is not a prime is taken as the next one, as a host would not get to all places otherwise. It does not
    /// matter in which order the hosts come.
    ///
    /// # Panics
    /// If there are not as many weights as keys.
    pub(crate) fn new(keys: &Keys, weights: &[u64], policy: &model::Maglev) -> Self {
        assert_eq!(keys.len(), weights.len());
        let size = prime_from(policy.table_size.min(model::Maglev::MAX_TABLE_SIZE)) as usize;
        let greatest = weights.iter().copied().max().unwrap_or(0) as f64;
        let mut hosts: Vec<Host> = keys
            .sorted()
            .into_iter()
            .filter(|index| weights[*index as usize] > 0)
            .map(|index| {
                let key = keys.get(index).as_bytes();
                Host {
                    place: (xxh64(key, 0) % size as u64) as usize,
                    skip: (xxh64(key, 1) % (size as u64 - 1)) as usize + 1,
                    taken: 0,
                    rounds: greatest / weights[index as usize] as f64,
                    index,
                }
            })
            .collect();
        if hosts.is_empty() {
            return Self::default();
        }

        // Who takes a place in which round, the hosts of a round in the order of their keys. Envoy asks every host in
        // every round instead, which takes minutes if one weight is much greater than the others.
        let mut due: BinaryHeap<_> = (0..hosts.len()).map(|host| Reverse((1, host))).collect();
        let mut entries = vec![FREE; size];
        for _ in 0..size {
            let mut next = due.peek_mut().expect("a host always comes back");
            let Reverse((_, number)) = *next;
            let host = &mut hosts[number];
            while entries[host.place] != FREE {
                host.advance(size);
            }
            entries[host.place] = host.index;
            host.taken += 1;
            let taken = f64::from(host.taken);
            *next = Reverse(((taken * host.rounds).ceil().max(taken + 1.0) as u64, number));
        }
        Self { entries: entries.into() }
    }

    /// The hosts in the order in which they are asked to serve `hash`. Each entry comes once, so a host comes several
    /// times, and nothing comes from an empty table.
    pub(crate) fn walk(&self, hash: u64) -> impl Iterator<Item = u32> {
        let start = hash.checked_rem(self.entries.len() as u64).unwrap_or(0) as usize;
        let (before, after) = self.entries.split_at(start);
        after.iter().chain(before).copied()
    }

    /// How many entries there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

impl Host {
    /// Goes on to its next choice, all of which are different until each place was one.
    fn advance(&mut self, size: usize) {
        self.place += self.skip;
        if self.place >= size {
            self.place -= size;
        }
    }
}

/// The least prime that is not below `least`.
fn prime_from(least: u32) -> u32 {
    let is_prime =
        |n: &u32| (2..).take_while(|divisor| divisor * divisor <= *n).all(|divisor| !n.is_multiple_of(divisor));
    (least.max(2)..).find(is_prime).expect("there is a prime between a number and its double")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn size(table_size: u32) -> model::Maglev {
        model::Maglev { table_size }
    }

    fn hosts(numbers: impl IntoIterator<Item = u32>) -> Keys {
        numbers.into_iter().map(|n| format!("10.0.{}.{}:80", n / 256, n % 256)).collect()
    }

    fn counts(table: &Maglev, hosts: usize) -> Vec<usize> {
        let mut counts = vec![0; hosts];
        table.entries.iter().for_each(|index| counts[*index as usize] += 1);
        counts
    }

    /// The tables were filled by another implementation, which asks every host in every round.
    #[test]
    fn hosts_take_places_by_weight_in_the_order_of_their_keys() {
        let keys: Keys = ["10.0.0.2:80", "10.0.0.1:80", "10.0.0.3:80"].into_iter().collect();
        let even = Maglev::new(&keys, &[1, 1, 1], &size(13));
        assert_eq!(*even.entries, [2, 1, 0, 1, 2, 0, 0, 1, 0, 1, 2, 1, 2]);
        let uneven = Maglev::new(&keys, &[1, 2, 5], &size(31));
        let wanted = [1, 2, 2, 2, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 0, 2, 2, 0, 1, 1, 0, 2, 2, 0, 1, 2, 2, 2, 1];
        assert_eq!(*uneven.entries, wanted);
    }

    #[test]
    fn a_request_goes_to_the_entry_of_its_hash_and_then_on() {
        let keys: Keys = ["10.0.0.2:80", "10.0.0.1:80", "10.0.0.3:80"].into_iter().collect();
        let table = Maglev::new(&keys, &[1, 1, 1], &size(13));
        assert_eq!(table.walk(2).collect::<Vec<_>>(), [0, 1, 2, 0, 0, 1, 0, 1, 2, 1, 2, 2, 1]);
        assert_eq!(table.walk(12 + 13 * 1_000).next(), Some(2));
        for nobody in [&[][..], &[0, 0]] {
            let table = Maglev::new(&hosts(0..nobody.len() as u32), nobody, &size(13));
            assert_eq!((table.len(), table.walk(7).next()), (0, None));
        }
    }

    #[test]
    fn every_host_of_a_weight_has_the_same_share() {
        let even = counts(&Maglev::new(&hosts(0..100), &[7; 100], &size(65_537)), 100);
        assert!(even.iter().all(|count| (655..=656).contains(count)), "{even:?}");
        let weights: Vec<u64> = (0..100).map(|n| n % 4).collect();
        let uneven = counts(&Maglev::new(&hosts(0..100), &weights, &size(65_537)), 100);
        for (count, weight) in uneven.iter().zip(&weights) {
            let wanted = 65_537.0 * *weight as f64 / 150.0;
            assert!((*count as f64 - wanted).abs() <= 2.0, "{weight}: {count}");
        }
    }

    #[test]
    fn weights_far_apart_leave_a_place_for_everyone() {
        let mut weights = vec![1; 1_000];
        weights[500] = u64::MAX;
        let counts = counts(&Maglev::new(&hosts(0..1_000), &weights, &size(65_537)), 1_000);
        assert_eq!(counts.iter().filter(|count| **count == 1).count(), 999);
    }

    /// All keys of the removed endpoint move, and of the others few (Maglev paper, 5.3).
    #[test]
    fn lb_04_few_keys_move_when_one_of_a_hundred_endpoints_leaves() {
        let all = Maglev::new(&hosts(0..100), &[1; 100], &size(65_537));
        for gone in [0, 37, 99] {
            let left: Vec<u32> = (0..100).filter(|n| *n != gone).collect();
            let table = Maglev::new(&hosts(left.iter().copied()), &[1; 99], &size(65_537));
            let pairs = table.entries.iter().map(|index| left[*index as usize]).zip(&all.entries);
            let moved = pairs.filter(|(now, before)| now != *before).count();
            assert!((655..65_537 * 6 / 100).contains(&moved), "{gone}: {moved} of 65537 moved");
        }
    }

    #[test]
    fn a_size_that_is_no_prime_becomes_the_next_one() {
        let sizes = [(0, 2), (2, 2), (4, 5), (100, 101), (65_536, 65_537), (u32::MAX, 5_000_011)];
        for (given, wanted) in sizes {
            let given = given.min(model::Maglev::MAX_TABLE_SIZE);
            assert_eq!(prime_from(given), wanted);
        }
        assert_eq!(Maglev::new(&hosts(0..3), &[1; 3], &size(100)).len(), 101);
        assert_eq!(Maglev::new(&hosts(0..3), &[1; 3], &size(0)).len(), 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_order_of_hosts_does_not_matter_and_all_are_reached(
            weights in prop::collection::btree_map(0..500_u32, 0..50_u64, 1..40),
            hash: u64,
            shuffled in any::<prop::sample::Index>(),
        ) {
            let numbers: Vec<(u32, u64)> = weights.into_iter().collect();
            let mut turned = numbers.clone();
            turned.rotate_left(shuffled.index(numbers.len()));
            turned.reverse();
            let [a, b] = [&numbers, &turned].map(|hosts_of| {
                let weights: Vec<u64> = hosts_of.iter().map(|(_, weight)| *weight).collect();
                let table = Maglev::new(&hosts(hosts_of.iter().map(|(n, _)| *n)), &weights, &size(199));
                table.walk(hash).map(|index| hosts_of[index as usize].0).collect::<Vec<_>>()
            });
            prop_assert_eq!(&a, &b);
            for (number, weight) in numbers {
                prop_assert_eq!(a.contains(&number), weight > 0);
            }
        }
    }
}

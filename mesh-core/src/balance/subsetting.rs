use xxhash_rust::xxh64::xxh64;

use super::keys::Keys;

/// The `size` hosts that a client connects to, by rendezvous hashing (gRFC A68): their indices, in the order of the
/// hosts; all of them, if there are no more.
///
/// Each client has a `seed` of its own, drawn once. The choice depends on the set of hosts and not on their order, and
/// one host more or less changes at most one of the chosen.
pub(crate) fn choose(keys: &Keys, size: usize, seed: u64) -> Vec<u32> {
    let indices = (0..).take(keys.len());
    if keys.len() <= size {
        return indices.collect();
    }
    let mut hashed: Vec<(u64, u32)> = keys.iter().map(|key| xxh64(key.as_bytes(), seed)).zip(indices).collect();
    if size > 0 {
        hashed.select_nth_unstable_by(size - 1, |a, b| a.0.cmp(&b.0).then_with(|| keys.get(a.1).cmp(keys.get(b.1))));
    }
    hashed.truncate(size);
    let mut chosen: Vec<u32> = hashed.into_iter().map(|(_, index)| index).collect();
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn hosts(numbers: impl IntoIterator<Item = u32>) -> Keys {
        numbers.into_iter().map(|n| format!("10.0.{}.{}:80", n / 256, n % 256)).collect()
    }

    /// How many of `clients` connect to each of `servers`, if each connects to `size`.
    fn connections(clients: usize, servers: u32, size: usize) -> Vec<u32> {
        let (keys, mut rng) = (hosts(0..servers), StdRng::seed_from_u64(68));
        let mut counts = vec![0; servers as usize];
        for _ in 0..clients {
            let chosen = choose(&keys, size, rng.next_u64());
            assert_eq!(chosen.len(), size);
            chosen.into_iter().for_each(|index| counts[index as usize] += 1);
        }
        counts
    }

    /// LB-08, and the cases that gRFC A68 has figures of: a server has as many connections as chance gives it, and the
    /// more there are, the nearer they are to each other.
    #[test]
    fn lb_08_connections_spread_like_chance() {
        let cases = [(50, 100, 10), (100, 100, 5), (100, 100, 25), (100, 10, 5), (500, 10, 5), (2_000, 10, 5)];
        for (clients, servers, size) in cases {
            let counts = connections(clients, servers, size);
            let p = size as f64 / f64::from(servers);
            let mean = clients as f64 * p;
            let variance = mean * (1.0 - p);
            let off = |count: &u32| f64::from(*count) - mean;
            assert!(counts.iter().all(|count| off(count).abs() <= 5.0 * variance.sqrt()), "{counts:?}");
            // The sum over n servers of squares over the variance is n, within five of its sigma, sqrt(2 n).
            let squares: f64 = counts.iter().map(|count| off(count).powi(2) / variance).sum();
            let n = f64::from(servers);
            assert!((squares - n).abs() <= 5.0 * (2.0 * n).sqrt(), "{clients} {servers} {size}: {squares} {counts:?}");
        }
    }

    #[test]
    fn few_hosts_are_all_chosen() {
        let cases: [(u32, usize, &[u32]); 5] =
            [(0, 3, &[]), (3, 3, &[0, 1, 2]), (3, 20, &[0, 1, 2]), (3, 0, &[]), (1, 1, &[0])];
        for (count, size, wanted) in cases {
            assert_eq!(choose(&hosts(0..count), size, 7), wanted, "{size} of {count}");
        }
    }

    proptest! {
        /// LB-08
        #[test]
        fn lb_08_a_choice_does_not_depend_on_the_order(
            numbers in prop::collection::btree_set(0..500_u32, 1..60), size in 1..20_usize, seed: u64, turn in any::<prop::sample::Index>(),
        ) {
            let numbers: Vec<u32> = numbers.into_iter().collect();
            let mut turned = numbers.clone();
            turned.rotate_left(turn.index(numbers.len()));
            let [mut a, mut b] = [&numbers, &turned].map(|hosts_of| {
                let chosen = choose(&hosts(hosts_of.iter().copied()), size, seed);
                chosen.into_iter().map(|index| hosts_of[index as usize]).collect::<Vec<_>>()
            });
            a.sort_unstable();
            b.sort_unstable();
            prop_assert_eq!(a, b);
        }

        #[test]
        fn lb_08_one_host_less_changes_at_most_one_choice(
            count in 2..60_u32, size in 1..20_usize, seed: u64, gone in any::<prop::sample::Index>(),
        ) {
            let gone = gone.index(count as usize) as u32;
            let left: Vec<u32> = (0..count).filter(|number| *number != gone).collect();
            let before = choose(&hosts(0..count), size, seed);
            let after = choose(&hosts(left.iter().copied()), size, seed);
            let after: Vec<u32> = after.into_iter().map(|index| left[index as usize]).collect();
            let stayed = before.iter().filter(|number| after.contains(number)).count();
            prop_assert_eq!(before.len() - stayed, usize::from(before.contains(&gone)));
        }
    }
}

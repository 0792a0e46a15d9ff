//! Affinity.

use super::*;
use State::{Connecting, Failing, Idle, Ready};

fn by_hash() -> [LoadBalancer; 2] {
    [LoadBalancer::RingHash(model::RingHash::default()), LoadBalancer::Maglev(model::Maglev::default())]
}

fn key(number: u64) -> u64 {
    xxhash_rust::xxh64::xxh64(&number.to_le_bytes(), 0)
}

impl Kit {
    fn at_hash(&mut self, picker: &Picker<()>, hash: u64) -> usize {
        let endpoint = ready(picker.pick(&self.hashed(hash), &[], &mut self.rng));
        self.index(endpoint)
    }

    /// Where each of some hashes goes.
    fn placed(&mut self, picker: &Picker<()>, keys: u64) -> Vec<usize> {
        (0..keys).map(|number| self.at_hash(picker, key(number))).collect()
    }
}

#[test]
fn lb_04_one_hash_is_one_endpoint() {
    for policy in by_hash() {
        let mut kit = Kit::new(policy, &[Ready; 20]);
        let picker = kit.picker();
        let placed = kit.placed(&picker, 2_000);
        assert_eq!(kit.placed(&picker, 2_000), placed);
        assert_eq!(kit.placed(&kit.picker_from(99), 2_000), placed, "nor does it matter which client asks");
        assert!((0..20).all(|index| placed.contains(&index)));
    }
}

/// Those of the others stay, whether it fails, is ejected, or both; and all are where they were when it is back.
#[test]
fn lb_04_an_endpoint_that_is_out_moves_only_its_own() {
    for policy in by_hash() {
        let mut kit = Kit::new(policy.clone(), &[Ready; 20]);
        let picker = kit.picker();
        let before = kit.placed(&picker, 2_000);
        let check = |kit: &mut Kit, what: &str| {
            for (before, after) in before.iter().zip(kit.placed(&picker, 2_000)) {
                assert!(*before == after || *before == 7, "{policy:?}: {what}");
                assert_ne!(after, 7, "{what}");
            }
        };
        kit.set_one(7, Failing);
        check(&mut kit, "failing");
        kit.set_one(7, Ready);
        assert_eq!(kit.placed(&picker, 2_000), before);
        kit.endpoints[7].set_healthy(false);
        check(&mut kit, "unhealthy");
        kit.endpoints[7].set_healthy(true);
        kit.eject(7);
        check(&mut kit, "ejected");
    }
}

/// While half of a priority is out, the hashes that spill over are always the same.
#[test]
fn lb_04_affinity_holds_across_priorities() {
    for policy in by_hash() {
        let mut kit = Kit::new(policy, &[Ready; 8]).zoned(|index| if index < 4 { ("a", 0, 1) } else { ("b", 1, 1) });
        let picker = kit.picker();
        kit.set(&[Failing, Failing]);
        let spilled = kit.placed(&picker, 4_000);
        assert_eq!(kit.placed(&picker, 4_000), spilled);
        assert_share(spilled.iter().filter(|index| **index >= 4).count(), 4_000, 0.3);
        // A little more of P0 is gone: who was out stays where it is.
        kit.set(&[Failing, Failing, Failing]);
        for (before, after) in spilled.iter().zip(kit.placed(&picker, 4_000)) {
            assert!(*before < 4 || *before == after);
        }
    }
}

/// gRFC A61: a request waits for its own endpoint, and no other one is connected for it.
#[test]
fn a_request_awaits_its_own_endpoint() {
    for policy in by_hash() {
        let mut kit = Kit::new(policy, &[Ready; 5]);
        let picker = kit.picker();
        let own = kit.at_hash(&picker, key(1));
        for state in [Idle, Connecting] {
            kit.set_one(own, state);
            for _ in 0..20 {
                let pick = picker.pick(&kit.hashed(key(1)), &[], &mut kit.rng);
                assert!(matches!(pick, Pick::Await(endpoint) if Arc::ptr_eq(endpoint, &kit.endpoints[own])));
            }
        }
        // Other requests go on, and those without a hash go to whoever is there.
        assert!((2..100).any(|number| word(&picker.pick(&kit.hashed(key(number)), &[], &mut kit.rng)) == "ready"));
        assert_eq!(kit.count(&picker, 200).iter().sum::<usize>(), 200);
        kit.set_one(own, Failing);
        let next = kit.at_hash(&picker, key(1));
        assert_ne!(next, own);
        kit.set_one(own, Ready);
        assert_eq!(kit.at_hash(&picker, key(1)), own);
        // A second attempt goes where it would go without the first one's endpoint.
        let tried = [Arc::clone(&kit.endpoints[own])];
        let endpoint = ready(picker.pick(&kit.hashed(key(1)), &tried, &mut kit.rng));
        assert_eq!(kit.index(endpoint), next);
    }
}

/// Hosts that found no place on a ring serve all the same where nobody else is there.
#[test]
fn a_ring_that_is_too_small_reaches_every_endpoint() {
    let tables = [
        LoadBalancer::RingHash(model::RingHash { min_size: 16, max_size: 16 }),
        LoadBalancer::Maglev(model::Maglev { table_size: 17 }),
    ];
    for policy in tables {
        let mut kit = Kit::new(policy.clone(), &[Failing; 200]);
        let picker = kit.picker();
        for index in 0..200 {
            kit.set_one(index, Ready);
            assert_eq!(kit.at_hash(&picker, key(index as u64)), index, "{policy:?}");
            assert_eq!(kit.next(&picker), index, "{policy:?}");
            kit.set_one(index, Failing);
        }
        // Where one has to be connected first, it is.
        kit.set_one(150, Idle);
        let pick = word(&picker.pick(&kit.hashed(1), &[], &mut kit.rng));
        assert!(["wait", "await"].contains(&pick));
        assert_eq!(picker.to_connect(kit.now, &mut kit.rng).len(), 1);
    }
}

#[test]
fn a_ring_of_4096_reaches_any_of_10_000_endpoints() {
    let mut kit = Kit::new(LoadBalancer::RingHash(model::RingHash::default()), &[Failing; 10_000]);
    let picker = kit.picker();
    for index in [0, 1_234, 5_000, 9_999] {
        kit.set_one(index, Ready);
        assert_eq!(kit.at_hash(&picker, key(index as u64)), index);
        kit.set_one(index, Failing);
    }
}

//! Peers that were verified lately.
//!
//! A peer comes with the same chain again and again: for each of its connections, for its sessions that are resumed, and
//! when what this process trusts is replaced. What its signatures are worth depends on the bytes of the chain, on the
//! trust that these are verified by, and on the time. So it is worked out once for each trust, and holds until the first
//! date in it is over. That the peer has the key is proven in each handshake, and is nothing of this.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls_pki_types::{CertificateDer, UnixTime};

use super::certificate::Certified;
use super::trust::Usage;

/// How many peers of one age are remembered. When there are as many they become the old ones, and those that were old
/// are forgotten unless they come again: at most twice as many are kept, the latest among them.
const GENERATION: usize = 128;

/// Peers that were verified by one [`Trust`](super::trust::Trust).
#[derive(Default)]
pub(super) struct Known {
    hasher: RandomState,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    young: HashMap<u64, Entry>,
    old: HashMap<u64, Entry>,
}

#[derive(Clone)]
struct Entry {
    usage: Usage,
    valid: RangeInclusive<UnixTime>,
    certified: Arc<Certified>,
}

impl Known {
    /// What is known of whoever sent `chain`, if it is and still holds.
    pub(super) fn get(&self, chain: &[CertificateDer<'_>], usage: Usage, now: UnixTime) -> Option<Arc<Certified>> {
        let key = self.hasher.hash_one((chain, usage));
        let mut entries = self.lock();
        let entry = match entries.young.get(&key) {
            Some(entry) => entry.clone(),
            None => entries.old.remove(&key)?,
        };
        let is_it = entry.usage == usage && entry.certified.chain == chain && entry.valid.contains(&now);
        let certified = is_it.then(|| Arc::clone(&entry.certified))?;
        entries.keep(key, entry);
        Some(certified)
    }

    /// `certified` was verified, and holds while it is `valid`.
    pub(super) fn insert(&self, certified: Arc<Certified>, usage: Usage, valid: RangeInclusive<UnixTime>) {
        let key = self.hasher.hash_one((&certified.chain[..], usage));
        self.lock().keep(key, Entry { usage, valid, certified });
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    fn keep(&mut self, key: u64, entry: Entry) {
        self.young.insert(key, entry);
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
    }
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.lock();
        f.debug_struct("Known").field("young", &entries.young.len()).field("old", &entries.old.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::identity::SpiffeId;

    use super::super::certificate::{Leaf, Validity};
    use super::*;
    use crate::testing::Authority;

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds))
    }

    fn peer(number: usize) -> Arc<Certified> {
        let chain = vec![CertificateDer::from(number.to_be_bytes().to_vec()), CertificateDer::from(vec![0])];
        let leaf = Leaf::read(Authority::new("cluster.local").root()).unwrap();
        let id = SpiffeId::new("spiffe://cluster.local/a").ok();
        let validity = Validity { from: at(0), until: at(u64::MAX) };
        Arc::new(Certified { id, leaf, chain, validity })
    }

    #[test]
    fn who_is_known_is_so_for_one_use_while_it_is_valid() {
        let known = Known::default();
        let cart = peer(1);
        known.insert(Arc::clone(&cart), Usage::Client, at(10)..=at(20));
        for (chain, usage, now, is_known) in [
            (&cart.chain[..], Usage::Client, 10, true),
            (&cart.chain, Usage::Client, 20, true),
            (&cart.chain, Usage::Client, 9, false),
            (&cart.chain, Usage::Client, 21, false),
            (&cart.chain, Usage::Server, 15, false),
            (&cart.chain[..1], Usage::Client, 15, false),
            (&peer(2).chain, Usage::Client, 15, false),
            (&[], Usage::Client, 15, false),
        ] {
            let found = known.get(chain, usage, at(now));
            assert_eq!(found.is_some_and(|found| Arc::ptr_eq(&found, &cart)), is_known, "{usage:?} {now}");
        }
        // Another chain of the same hash is not it.
        let key = known.hasher.hash_one((&cart.chain[..], Usage::Client));
        known.lock().keep(key, Entry { usage: Usage::Client, valid: at(10)..=at(20), certified: peer(2) });
        assert!(known.get(&cart.chain, Usage::Client, at(15)).is_none());
    }

    #[test]
    fn it_is_bounded_and_forgets_whoever_does_not_come_again() {
        let known = Known::default();
        let regular = peer(0);
        let is_known = |peer: &Certified| known.get(&peer.chain, Usage::Server, at(0)).is_some();
        known.insert(Arc::clone(&regular), Usage::Server, at(0)..=at(1));
        let others: Vec<_> = (1..=2000)
            .map(|number| {
                let mut other = Certified::clone(&regular);
                other.chain[0] = CertificateDer::from(usize::to_be_bytes(number).to_vec());
                Arc::new(other)
            })
            .collect();
        for (number, other) in others.iter().enumerate() {
            known.insert(Arc::clone(other), Usage::Server, at(0)..=at(1));
            assert!(number % 100 > 0 || is_known(&regular), "{number}");
        }
        let entries = known.lock();
        assert!(entries.young.len() < GENERATION && entries.old.len() <= GENERATION, "{known:?}");
        drop(entries);
        let kept = others.iter().filter(|other| is_known(other)).count();
        assert!(!is_known(&others[0]) && kept >= GENERATION - 2, "{kept}");
    }
}

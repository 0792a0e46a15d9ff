//! An immutable map by hash, for look-ups with keys that borrow.

/// Entries in buckets. A standard map would ask for a key that owns its parts.
#[derive(Debug)]
pub(super) struct Index<E> {
    buckets: Box<[Vec<(u64, E)>]>,
    len: usize,
}

impl<E> Index<E> {
    /// The given entries, each with the hash of its key. Keys must differ.
    pub(super) fn new(entries: Vec<(u64, E)>) -> Self {
        let len = entries.len();
        let mut buckets: Vec<Vec<(u64, E)>> = Vec::new();
        buckets.resize_with((len * 2).next_power_of_two(), Vec::new);
        let mask = buckets.len() - 1;
        for (hash, entry) in entries {
            buckets[place(hash, mask)].push((hash, entry));
        }
        Self { buckets: buckets.into(), len }
    }

    /// The same with one more.
    pub(super) fn with(&self, hash: u64, entry: E) -> Self
    where
        E: Clone,
    {
        Self::new(self.iter().cloned().chain([(hash, entry)]).collect())
    }

    /// The entry with `hash` that `is` the one.
    pub(super) fn find(&self, hash: u64, is: impl Fn(&E) -> bool) -> Option<&E> {
        let bucket = &self.buckets[place(hash, self.buckets.len() - 1)];
        bucket.iter().find(|(other, entry)| *other == hash && is(entry)).map(|(_, entry)| entry)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Every entry with its hash.
    pub(super) fn iter(&self) -> impl Iterator<Item = &(u64, E)> {
        self.buckets.iter().flatten()
    }
}

impl<E> Default for Index<E> {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

/// The upper half of a product is the one that depends on all bits.
fn place(hash: u64, mask: usize) -> usize {
    (hash >> 32) as usize & mask
}

/// A hash for keys that come from the configuration and from generated code: quick, and no defence against whoever
/// chooses keys that collide.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hash(u64);

impl Hash {
    pub(super) fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    pub(super) fn number(self, number: u64) -> Self {
        let product = u128::from(self.0 ^ number) * 0x2d35_8dcc_aa6c_78a5;
        // Both halves, so that no bit of the input is lost.
        Self((product as u64) ^ (product >> 64) as u64)
    }

    pub(super) fn text(mut self, text: &str) -> Self {
        let mut words = text.as_bytes().chunks_exact(8);
        for word in &mut words {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(word);
            self = self.number(u64::from_le_bytes(bytes));
        }
        let mut rest = [0; 8];
        rest[..words.remainder().len()].copy_from_slice(words.remainder());
        // The length tells a text from a longer one that ends in zeros.
        self.number(u64::from_le_bytes(rest)).number(text.len() as u64)
    }

    pub(super) fn finish(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_entry_is_found_and_nothing_else() {
        let names: Vec<String> = (0..500).map(|n| format!("/greeter.v1.Greeter/Method{n}")).collect();
        let hash = |name: &str| Hash::new().text(name).finish();
        let index = Index::new(names.iter().map(|name| (hash(name), name.clone())).collect());
        assert_eq!(index.len(), 500);
        for name in &names {
            assert_eq!(index.find(hash(name), |entry| entry == name), Some(name));
        }
        assert_eq!(index.find(hash("/greeter.v1.Greeter/Method500"), |_| true), None);
        assert_eq!(Index::<u8>::default().find(0, |_| true), None);
        let longest = index.buckets.iter().map(Vec::len).max();
        assert!(longest <= Some(8), "{longest:?} of 500 in one bucket of 1024");
    }

    #[test]
    fn keys_that_are_alike_have_other_hashes() {
        let text = |text: &str| Hash::new().text(text).finish();
        let keys = ["", "\0", "\0\0", "a", "a\0", "abcdefgh", "abcdefgh\0", "abcdefghi", "bacdefgh"];
        let hashes: HashSet<_> = keys.iter().map(|key| text(key)).collect();
        assert_eq!(hashes.len(), keys.len());
        let numbers: HashSet<_> = (0..10_000).map(|n| Hash::new().number(n * 64).finish()).collect();
        assert_eq!(numbers.len(), 10_000);
    }
}

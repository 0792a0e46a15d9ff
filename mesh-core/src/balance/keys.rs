use std::ops::Range;

/// The texts that hosts are hashed by, all in one allocation.
///
/// A ring, a Maglev table and a subset of one backend can share them.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    texts: String,
    ends: Vec<usize>,
}

impl Keys {
    /// The keys of `count` hosts; `write` appends the key of the host at an index to what is there.
    pub(crate) fn new(count: usize, mut write: impl FnMut(usize, &mut String)) -> Self {
        // An IPv4 address and its port have at most 21 bytes.
        let mut keys = Self { texts: String::with_capacity(count * 21), ends: Vec::with_capacity(count) };
        for index in 0..count {
            write(index, &mut keys.texts);
            keys.ends.push(keys.texts.len());
        }
        keys
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The key of the host at `index`.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    pub(crate) fn get(&self, index: u32) -> &str {
        &self.texts[self.range(index as usize)]
    }

    /// The keys in the order of the hosts.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        (0..self.len()).map(|index| &self.texts[self.range(index)])
    }

    /// The indices of the hosts in the order of their keys, so that what is built does not depend on the order of a
    /// configuration.
    pub(crate) fn sorted(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..).take(self.len()).collect();
        order.sort_unstable_by(|a, b| self.get(*a).cmp(self.get(*b)).then(a.cmp(b)));
        order
    }

    fn range(&self, index: usize) -> Range<usize> {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        start..self.ends[index]
    }
}

#[cfg(test)]
impl<T: std::fmt::Display> FromIterator<T> for Keys {
    fn from_iter<I: IntoIterator<Item = T>>(keys: I) -> Self {
        let keys: Vec<T> = keys.into_iter().collect();
        Self::new(keys.len(), |index, text| text.push_str(&keys[index].to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_by_index_and_sorted_by_text() {
        let keys: Keys = ["b", "", "ab", "a"].into_iter().collect();
        assert_eq!(keys.iter().collect::<Vec<_>>(), ["b", "", "ab", "a"]);
        assert_eq!(keys.get(2), "ab");
        assert_eq!(keys.sorted(), [1, 3, 2, 0]);
        assert_eq!(Keys::default().sorted(), [0; 0]);
    }
}

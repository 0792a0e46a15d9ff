//! A compressed trie over byte strings: all keys that are equal to a text or a prefix of it, in one walk.
//!
//! The trie is built once and never changes, so it is flat: a double array (Aoe 1989). A node's children stand at its
//! `base` plus the first byte of their label, and nodes are packed so that each fits into the gaps of the others. A step
//! is an addition, a check that what stands there is indeed a child, and a comparison of the label: no search, however
//! many children there are.

use std::collections::VecDeque;
use std::ops::Range;

/// How much of the text a key must cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Extent {
    /// Its first bytes.
    Prefix,
    /// Its first bytes, up to its end or to a `/`.
    Element,
    /// All of it.
    Exact,
}

/// A key and what is found under it.
#[derive(Debug)]
pub(super) struct Key<T> {
    pub(super) bytes: Vec<u8>,
    pub(super) extent: Extent,
    pub(super) item: T,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Trie<T> {
    /// The root is the first; its label is empty.
    nodes: Box<[Node]>,
    labels: Box<[u8]>,
    items: Box<[T]>,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    /// Where the parent stands. Nowhere for the root and for gaps.
    parent: u32,
    /// Where the child for byte 0 would stand, modulo 2^32.
    base: u32,
    /// Where the label without its first byte begins and ends.
    label: [u32; 2],
    /// Where the items of [`Extent::Prefix`], [`Extent::Element`] and [`Extent::Exact`] begin, and where they end.
    items: [u32; 4],
}

impl Node {
    const FREE: Self = Self { parent: u32::MAX, base: 0, label: [0; 2], items: [0; 4] };
}

impl<T> Trie<T> {
    /// Indexes `keys`. Items of equal key and extent keep their order.
    ///
    /// # Panics
    /// If a table would have 2^32 bytes or nodes.
    pub(super) fn new(mut keys: Vec<Key<T>>) -> Self {
        keys.sort_by(|a, b| (&a.bytes, a.extent).cmp(&(&b.bytes, b.extent)));
        let mut nodes = Nodes::with_root();
        let mut labels = Vec::new();
        let mut order = Vec::with_capacity(keys.len());

        let mut open = VecDeque::from([(0, 0..keys.len(), 0)]);
        while let Some((node, range, depth)) = open.pop_front() {
            let here = range.start..range.start + keys[range.clone()].partition_point(|key| key.bytes.len() == depth);
            let border = |extent| order.len() + keys[here.clone()].partition_point(|key| key.extent < extent);
            let items = [border(Extent::Prefix), border(Extent::Element), border(Extent::Exact)];
            order.extend(here.clone());
            nodes.0[node].items = [narrow(items[0]), narrow(items[1]), narrow(items[2]), narrow(order.len())];

            let groups: Vec<_> = keys[here.end..range.end].chunk_by(|a, b| a.bytes[depth] == b.bytes[depth]).collect();
            let firsts: Vec<u8> = groups.iter().map(|group| group[0].bytes[depth]).collect();
            let mut start = here.end;
            for (group, child) in groups.iter().zip(nodes.adopt(node, &firsts)) {
                let end = common_prefix(&group[0].bytes, &group[group.len() - 1].bytes);
                let label = labels.len();
                labels.extend_from_slice(&group[0].bytes[depth + 1..end]);
                nodes.0[child].label = [narrow(label), narrow(labels.len())];
                open.push_back((child, start..start + group.len(), end));
                start += group.len();
            }
        }

        let mut slots: Vec<Option<T>> = keys.into_iter().map(|key| Some(key.item)).collect();
        let items = order.into_iter().filter_map(|index: usize| slots[index].take()).collect();
        Self { nodes: nodes.0.into(), labels: labels.into(), items }
    }

    /// Calls `visit` for every key that matches `text`, the shortest first, with the items it holds and the number of
    /// bytes of `text` behind it. With `FOLD` the text is read in lower case; keys must be in lower case then.
    #[inline]
    pub(super) fn walk<const FOLD: bool>(&self, text: &[u8], mut visit: impl FnMut(Extent, &[T], usize)) {
        let mut index = 0;
        let mut node = &self.nodes[0];
        let mut rest = text;
        loop {
            let [prefix, element, exact, end] = node.items;
            if prefix != end {
                if prefix != element {
                    visit(Extent::Prefix, self.items(prefix..element), rest.len());
                }
                if element != exact && rest.first().is_none_or(|byte| *byte == b'/') {
                    visit(Extent::Element, self.items(element..exact), rest.len());
                }
                if exact != end && rest.is_empty() {
                    visit(Extent::Exact, self.items(exact..end), 0);
                }
            }
            let Some((first, behind)) = rest.split_first() else { return };
            let first = if FOLD { first.to_ascii_lowercase() } else { *first };
            let position = node.base.wrapping_add(u32::from(first)) as usize;
            match self.nodes.get(position) {
                Some(child) if child.parent as usize == index => node = child,
                _ => return,
            }
            index = position;
            let label = &self.labels[node.label[0] as usize..node.label[1] as usize];
            let Some((head, tail)) = behind.split_at_checked(label.len()) else { return };
            if !label.is_empty() && !(if FOLD { head.eq_ignore_ascii_case(label) } else { head == label }) {
                return;
            }
            rest = tail;
        }
    }

    fn items(&self, range: Range<u32>) -> &[T] {
        &self.items[range.start as usize..range.end as usize]
    }
}

/// The array while it is built.
struct Nodes(Vec<Node>);

impl Nodes {
    /// How many places are tried before the array grows: it bounds the time to build.
    const WINDOW: usize = 256;

    fn with_root() -> Self {
        Self(vec![Node::FREE])
    }

    /// Places a child of `parent` for each of `firsts`, which ascend, and says where.
    fn adopt(&mut self, parent: usize, firsts: &[u8]) -> Vec<usize> {
        let Some(lowest) = firsts.first() else { return Vec::new() };
        let places = |start: usize| firsts.iter().map(move |first| start + usize::from(first - lowest));
        let is_free = |place: usize| self.0.get(place).is_none_or(|node| node.parent == Node::FREE.parent);
        let len = self.0.len();
        // From 1: the root's place is taken, though it has no parent.
        let window = len.saturating_sub(Self::WINDOW).max(1)..len;
        let start = window.into_iter().find(|start| places(*start).all(is_free)).unwrap_or(len);
        let places: Vec<_> = places(start).collect();
        let behind = places.last().map_or(0, |last| last + 1);
        self.0.resize(len.max(behind), Node::FREE);
        self.0[parent].base = narrow(start).wrapping_sub(u32::from(*lowest));
        for place in &places {
            self.0[*place].parent = narrow(parent);
        }
        places
    }
}

fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Offsets have 32 bits, so that a node is half a cache line.
fn narrow(offset: usize) -> u32 {
    u32::try_from(offset).expect("a table has less than 2^32 bytes, nodes and items")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk<const FOLD: bool>(trie: &Trie<u32>, text: &str) -> Vec<(u32, usize)> {
        let mut seen = Vec::new();
        trie.walk::<FOLD>(text.as_bytes(), |_, items, rest| seen.extend(items.iter().map(|item| (*item, rest))));
        seen
    }

    fn trie(keys: &[(&str, Extent)]) -> Trie<u32> {
        let keys = keys.iter().zip(0..).map(|((text, extent), item)| Key {
            bytes: text.as_bytes().to_vec(),
            extent: *extent,
            item,
        });
        Trie::new(keys.collect())
    }

    #[test]
    fn a_walk_visits_exactly_the_keys_that_match() {
        let trie = trie(&[
            ("/ab", Extent::Exact),
            ("/ab", Extent::Prefix),
            ("/ab", Extent::Element),
            ("/abc/d", Extent::Exact),
            ("/abc", Extent::Prefix),
            ("", Extent::Prefix),
            ("/ab", Extent::Exact),
            ("/b", Extent::Exact),
        ]);
        assert_eq!(walk::<false>(&trie, ""), [(5, 0)]);
        assert_eq!(walk::<false>(&trie, "/a"), [(5, 2)]);
        assert_eq!(walk::<false>(&trie, "/ab"), [(5, 3), (1, 0), (2, 0), (0, 0), (6, 0)]);
        assert_eq!(walk::<false>(&trie, "/ab/"), [(5, 4), (1, 1), (2, 1)]);
        assert_eq!(walk::<false>(&trie, "/abc/d"), [(5, 6), (1, 3), (4, 2), (3, 0)]);
        assert_eq!(walk::<false>(&trie, "/abc/e"), [(5, 6), (1, 3), (4, 2)]);
        assert_eq!(walk::<false>(&trie, "/B"), [(5, 2)]);
        assert_eq!(walk::<true>(&trie, "/B"), [(5, 2), (7, 0)]);
    }

    #[test]
    fn every_short_text_finds_what_a_test_of_each_key_finds() {
        let texts = ["/", "a", "b", "c", "d"].map(str::to_owned);
        let longer = |texts: &[String]| -> Vec<String> {
            texts.iter().flat_map(|text| ["/", "a", "b", "c", "d"].map(|more| format!("{text}{more}"))).collect()
        };
        let two = longer(&texts);
        let all = [vec![String::new()], texts.to_vec(), two.clone(), longer(&two)].concat();
        let extents = [Extent::Exact, Extent::Prefix, Extent::Element];
        let keys: Vec<_> = all.iter().step_by(7).zip(extents.into_iter().cycle()).collect();
        let trie = trie(&keys.iter().map(|(key, extent)| (key.as_str(), *extent)).collect::<Vec<_>>());
        for text in &all {
            let mut found: Vec<u32> = walk::<false>(&trie, text).into_iter().map(|(item, _)| item).collect();
            found.sort_unstable();
            let holds = |(key, extent): &(&String, Extent)| {
                text.strip_prefix(key.as_str()).is_some_and(|rest| match extent {
                    Extent::Prefix => true,
                    Extent::Element => rest.is_empty() || rest.starts_with('/'),
                    Extent::Exact => rest.is_empty(),
                })
            };
            let expected: Vec<u32> = keys.iter().zip(0..).filter(|(key, _)| holds(key)).map(|(_, item)| item).collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn an_empty_trie_visits_nothing() {
        assert_eq!(walk::<false>(&trie(&[]), "/a"), []);
    }

    #[test]
    fn nodes_are_packed() {
        let keys =
            (0..1000).map(|i| Key { bytes: format!("/s{}/m{i}", i % 37).into(), extent: Extent::Exact, item: i });
        let trie = Trie::new(keys.collect());
        assert!(trie.nodes.len() < 1500, "{}", trie.nodes.len());
        let alone = Trie::new(vec![Key { bytes: b"/a".to_vec(), extent: Extent::Exact, item: 0 }]);
        assert_eq!(alone.nodes.len(), 2);
    }

    #[test]
    fn keys_of_any_bytes_and_many_siblings_are_found() {
        let keys =
            (0..=255_u8).map(|byte| Key { bytes: vec![b'x', byte], extent: Extent::Exact, item: u32::from(byte) });
        let trie = Trie::new(keys.collect());
        for byte in 0..=255_u8 {
            let mut seen = None;
            trie.walk::<false>(&[b'x', byte], |_, items, _| seen = items.first().copied());
            assert_eq!(seen, Some(u32::from(byte)));
        }
    }
}

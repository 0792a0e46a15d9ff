//! Values put into the tree from beside the file, each with its own origin: the shapes read them like any other.

use std::sync::Arc;

use super::origin::Position;
use super::tree::{Entries, Entry, Node, Value};

/// A value, and the field that it replaces.
#[derive(Debug, Clone)]
pub(super) struct Override {
    /// The way to the field, with dots between the names.
    pub(super) field: &'static str,
    pub(super) value: Node,
}

impl Override {
    /// Puts it into the tree. What stands in its way is left alone where it is wrong, so that it is reported.
    pub(super) fn put(&self, root: &mut Node) {
        put(root, self.field, &self.value);
    }
}

fn put(node: &mut Node, field: &str, value: &Node) {
    let Value::Map(map) = &mut node.value else { return };
    let (name, rest) = field.split_once('.').map_or((field, None), |(name, rest)| (name, Some(rest)));
    let map = Arc::make_mut(map);
    let known = map.list.iter_mut().find(|entry| &*entry.key == name);
    match (known, rest) {
        (Some(entry), None) => entry.value = value.clone(),
        (Some(entry), Some(rest)) => {
            // `retry: none` gives way to a field of a policy.
            if entry.value.is_text("none") {
                entry.value = Node::empty_map(value.at);
            }
            put(&mut entry.value, rest, value);
        }
        (None, rest) => {
            let mut new = value.clone();
            if let Some(rest) = rest {
                new = Node::empty_map(value.at);
                put(&mut new, rest, value);
            }
            map.list.push(Entry { key: name.into(), at: value.at, value: new });
        }
    }
}

/// The value of a field, if there is one.
pub(super) fn get<'a>(node: &'a Node, field: &str) -> Option<&'a Node> {
    field.split('.').try_fold(node, |node, name| match &node.value {
        Value::Map(map) => map.get(name).map(|entry| &entry.value),
        Value::Scalar(_) | Value::Sequence(_) => None,
    })
}

impl Node {
    pub(super) fn empty_map(at: Position) -> Self {
        Self::map([], at)
    }

    pub(super) fn map(entries: impl IntoIterator<Item = Entry>, at: Position) -> Self {
        let entries = Entries { list: entries.into_iter().collect(), is_incomplete: false };
        Self { value: Value::Map(Arc::new(entries)), at }
    }
}

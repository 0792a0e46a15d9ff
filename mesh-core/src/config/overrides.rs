//! Values put into the tree from beside the file, each with its own origin: the shapes read them like any other.

use std::sync::Arc;

use super::origin::Position;
use super::tree::{Entries, Entry, Node, Scalar, Value};

/// A value, and the field that it replaces.
#[derive(Debug, Clone)]
pub(super) struct Override {
    /// The way to the field, with dots between the names. Behind `[]` stands an item of a list, known by its name.
    pub(super) field: &'static str,
    pub(super) value: Node,
}

impl Override {
    /// Puts it into the tree. What stands in its way is left alone where it is wrong, so that it is reported.
    pub(super) fn put(&self, root: &mut Node) {
        match self.field.strip_suffix("[]") {
            Some(list) => put_item(root, list, &self.value),
            None => put(root, self.field, &self.value),
        }
    }
}

/// Adds an item to a list, in place of the one of the same name.
fn put_item(root: &mut Node, field: &str, item: &Node) {
    let name = |item: &Node| match &get(item, "name")?.value {
        Value::Scalar(Scalar { text, .. }) => Some(Arc::clone(text)),
        Value::Sequence(_) | Value::Map(_) => None,
    };
    let mut items = match get(root, field).map(|list| &list.value) {
        Some(Value::Sequence(items)) => items.to_vec(),
        None => Vec::new(),
        // What is no list is reported.
        Some(Value::Scalar(_) | Value::Map(_)) => return,
    };
    match items.iter_mut().find(|known| name(known) == name(item)) {
        Some(known) => *known = item.clone(),
        None => items.push(item.clone()),
    }
    put(root, field, &Node { value: Value::Sequence(Arc::new(items)), at: item.at });
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

//! What a value of the file may look like, and how it is read.
//!
//! A [`Shape`] reads a node of the tree; what it refuses it reports, and reading goes on.

use std::borrow::Cow;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::Arc;

#[cfg(test)]
use super::json_schema::{Definitions, Schema, json};
use super::origin::Position;
use super::problem::{Draft, Path, Problems, shorten};
use super::tree::{Entries, Entry, Node, Value};
use crate::model::Pattern;

/// A kind of value.
pub(super) trait Shape {
    /// What it is read into.
    type Value;

    /// How messages and the reference call it: `an integer from 1 to 10`.
    fn form() -> Cow<'static, str>;

    /// Reads `node`. `None`: it is not of this shape at all, and that has been reported.
    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<Self::Value>;

    /// `node`, which could be read, with all that holds where it says nothing. `defaults` are those of the file.
    fn complete(node: &Node, defaults: &Entries) -> Node {
        let _ = defaults;
        node.clone()
    }

    /// What a JSON Schema says of it: at most what [`read`](Self::read) refuses is refused.
    #[cfg(test)]
    fn schema(definitions: &mut Definitions) -> Schema;
}

/// What reading needs besides the tree.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) problems: Problems,
    /// Every regular expression of the file, compiled once.
    pub(super) patterns: HashMap<Arc<str>, Result<Pattern, String>>,
}

impl Context {
    pub(super) fn new(file: &str) -> Self {
        Self { problems: Problems::new(file), patterns: HashMap::new() }
    }

    pub(super) fn report(&mut self, at: Position, path: Path<'_>, draft: impl FnOnce() -> Draft) {
        self.problems.report(at, path, draft);
    }

    /// Reports that `node` is not `form`.
    pub(super) fn mismatch(&mut self, node: &Node, path: Path<'_>, form: &str, help: Option<String>) {
        self.report(node.at, path, || node.draft(format!("{} is not {form}", node.shown())).maybe_help(help));
    }
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Spanned<V> {
    pub(super) value: V,
    pub(super) at: Position,
}

/// A field of a section, as far as it could be read.
#[derive(Debug, Clone)]
pub(super) enum Field<V> {
    /// It is not there.
    Absent,
    /// It is there but was refused.
    Invalid,
    /// It is not there, and this is its default.
    Default(V),
    /// It is there.
    Given(Spanned<V>),
}

impl<V> Field<V> {
    /// What was written, or the default.
    pub(super) fn value(&self) -> Option<&V> {
        match self {
            Self::Absent | Self::Invalid => None,
            Self::Default(value) | Self::Given(Spanned { value, .. }) => Some(value),
        }
    }

    /// What was written.
    pub(super) fn given(&self) -> Option<&Spanned<V>> {
        match self {
            Self::Given(given) => Some(given),
            _ => None,
        }
    }

    /// Whether something was written, be it right or wrong.
    pub(super) fn is_written(&self) -> bool {
        matches!(self, Self::Invalid | Self::Given(_))
    }

    /// Whether something wrong was written.
    pub(super) fn is_invalid(&self) -> bool {
        matches!(self, Self::Invalid)
    }
}

impl<V: Clone> Field<V> {
    /// What was written, or the default; `fallback` where neither can be had.
    pub(super) fn or(&self, fallback: V) -> V {
        self.value().cloned().unwrap_or(fallback)
    }
}

impl<V: Clone + Default> Field<V> {
    /// What was written, or the default.
    pub(super) fn or_default(&self) -> V {
        self.value().cloned().unwrap_or_default()
    }
}

/// The text behind the name of everything that exists but not here.
pub(super) const NOT_YET: &str = "is not supported in this version";

/// Reads `node` as a field or an item.
pub(super) fn read_field<T: Shape>(node: &Node, path: Path<'_>, context: &mut Context) -> Field<T::Value> {
    match T::read(node, path, context) {
        Some(value) => Field::Given(Spanned { value, at: node.at }),
        None => Field::Invalid,
    }
}

/// `a, b, c`, and no more than a reader would read.
pub(super) fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const MAX: usize = 32;
    let mut names = names.into_iter();
    let mut shown: Vec<_> = names.by_ref().take(MAX).map(|name| format!("`{}`", shorten(name))).collect();
    if names.next().is_some() {
        shown.push("..".to_owned());
    }
    shown.join(", ")
}

/// Values in order.
pub(super) struct List<T>(PhantomData<T>);

impl<T: Shape> Shape for List<T> {
    type Value = Vec<Field<T::Value>>;

    fn form() -> Cow<'static, str> {
        format!("a list, each item {}", T::form()).into()
    }

    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<Self::Value> {
        let Value::Sequence(items) = &node.value else {
            let help = matches!(node.value, Value::Scalar(_)).then(|| format!("write `[{}]`", node.shown()));
            context.mismatch(node, path, "a list", help);
            return None;
        };
        let items = items.iter().enumerate();
        Some(items.map(|(index, item)| read_field::<T>(item, path.index(index), context)).collect())
    }

    fn complete(node: &Node, defaults: &Entries) -> Node {
        let Value::Sequence(items) = &node.value else { return node.clone() };
        let items = items.iter().map(|item| T::complete(item, defaults)).collect();
        Node { value: Value::Sequence(Arc::new(items)), at: node.at }
    }

    #[cfg(test)]
    fn schema(definitions: &mut Definitions) -> Schema {
        json!({ "type": "array", "items": T::schema(definitions) })
    }
}

/// Values in order, at least one.
pub(super) struct OneOrMore<T>(PhantomData<T>);

impl<T: Shape> Shape for OneOrMore<T> {
    type Value = Vec<Field<T::Value>>;

    fn form() -> Cow<'static, str> {
        format!("a list of at least one item, each {}", T::form()).into()
    }

    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<Self::Value> {
        let items = List::<T>::read(node, path, context)?;
        if items.is_empty() {
            context.report(node.at, path, || node.draft("the list is empty: at least one item is required"));
            return None;
        }
        Some(items)
    }

    fn complete(node: &Node, defaults: &Entries) -> Node {
        List::<T>::complete(node, defaults)
    }

    #[cfg(test)]
    fn schema(definitions: &mut Definitions) -> Schema {
        json!({ "type": "array", "items": T::schema(definitions), "minItems": 1 })
    }
}

/// Values by name, at least one.
pub(super) struct Map<T>(PhantomData<T>);

/// An entry of a [`Map`]. Its name is kept even if its value was refused: others may refer to it.
#[derive(Debug, Clone)]
pub(super) struct Named<V> {
    pub(super) name: Arc<str>,
    pub(super) at: Position,
    pub(super) value: Option<V>,
}

impl<T: Shape> Shape for Map<T> {
    type Value = Vec<Named<T::Value>>;

    fn form() -> Cow<'static, str> {
        format!("a map of at least one name, each to {}", T::form()).into()
    }

    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<Self::Value> {
        let Value::Map(map) = &node.value else {
            context.mismatch(node, path, "a map of names", None);
            return None;
        };
        if map.list.is_empty() {
            if map.is_incomplete {
                return None;
            }
            context.report(node.at, path, || node.draft("the map is empty: at least one name is required"));
            return None;
        }
        let read = |entry: &Entry| {
            let Entry { key, at, value } = entry;
            let path = path.key(key);
            if !is_name(key) {
                context.report(*at, path, || {
                    let shown = shorten(key);
                    Draft::new(format!("{shown:?} is not a name: write 1 to {MAX_NAME} letters, digits, `-`, `.`, `_`"))
                        .about(key)
                });
            }
            Named { name: key.clone(), at: *at, value: T::read(value, path, context) }
        };
        Some(map.list.iter().map(read).collect())
    }

    fn complete(node: &Node, defaults: &Entries) -> Node {
        let Value::Map(map) = &node.value else { return node.clone() };
        let complete = |entry: &Entry| Entry { value: T::complete(&entry.value, defaults), ..entry.clone() };
        Node::map(map.list.iter().map(complete), node.at)
    }

    #[cfg(test)]
    fn schema(definitions: &mut Definitions) -> Schema {
        json!({
            "type": "object",
            "additionalProperties": T::schema(definitions),
            "propertyNames": { "pattern": format!("^[A-Za-z0-9._-]{{1,{MAX_NAME}}}$") },
            "minProperties": 1,
        })
    }
}

/// The longest name of a service, a backend or a server, in bytes.
pub(super) const MAX_NAME: usize = 253;

pub(super) fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}

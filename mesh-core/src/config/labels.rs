//! Words about endpoints, and what selects by them.

use std::borrow::Cow;
use std::sync::Arc;

#[cfg(test)]
use super::json_schema::{Definitions, Schema, json};
use super::problem::{Draft, Path};
use super::shape::{Context, Shape};
use super::text::Text;
use super::tree::{Node, Value};
use crate::model::Metadata;

/// Text by key; may be empty.
pub(super) struct Labels;

/// The longest key, in bytes.
const MAX_KEY: usize = 253;

impl Shape for Labels {
    type Value = Option<Arc<Metadata>>;

    fn form() -> Cow<'static, str> {
        "a map of keys, each to text".into()
    }

    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<Self::Value> {
        let Value::Map(map) = &node.value else {
            context.mismatch(node, path, &Self::form(), Some("write `{ KEY: VALUE }`".to_owned()));
            return None;
        };
        let mut labels = Metadata::new();
        let mut is_good = !map.is_incomplete;
        for entry in &map.list {
            let path = path.key(&entry.key);
            if !(1..=MAX_KEY).contains(&entry.key.len()) {
                context.report(entry.at, path, || {
                    Draft::new(format!("a key has 1 to {MAX_KEY} bytes, this one {}", entry.key.len()))
                        .about(&entry.key)
                });
                is_good = false;
            }
            match Text::read(&entry.value, path, context) {
                Some(text) => drop(labels.insert(entry.key.clone(), text)),
                None => is_good = false,
            }
        }
        is_good.then(|| (!labels.is_empty()).then(|| Arc::new(labels)))
    }

    #[cfg(test)]
    fn schema(_: &mut Definitions) -> Schema {
        json!({ "type": "object", "additionalProperties": { "type": "string" }, "propertyNames": { "minLength": 1 } })
    }
}

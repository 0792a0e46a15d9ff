//! Conditions on what may be a credential: their values are compared, and shown to nobody.

use std::borrow::Cow;
use std::marker::PhantomData;

#[cfg(test)]
use super::json_schema::{Definitions, Schema};
use super::problem::Path;
use super::shape::{Context, Shape};
use super::tree::{Entries, Entry, Node, Scalar, Value};
use super::write::Writer;

/// What stands in place of a secret.
pub(super) const REDACTED: &str = "<redacted>";

/// A header or a query parameter with one of these in its name holds a credential.
const CREDENTIALS: [&str; 6] = ["authorization", "cookie", "api-key", "token", "secret", "password"];

/// The fields that hold a value, or a part of one.
const VALUES: [&str; 5] = ["exact", "prefix", "suffix", "contains", "regex"];

/// A match by `name`: if that is the name of a credential, neither a problem nor the effective configuration shows the
/// value.
pub(super) struct Discreet<T>(PhantomData<T>);

impl<T: Shape> Shape for Discreet<T> {
    type Value = T::Value;

    fn form() -> Cow<'static, str> {
        T::form()
    }

    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<Self::Value> {
        let Some(secrets) = secrets(node) else { return T::read(node, path, context) };
        let before = context.problems.count();
        let value = T::read(node, path, context);
        for Entry { key, .. } in secrets {
            let message = format!("this is not what `{key}` may be; it is not shown, for it may be a secret");
            context.problems.redact(before, &path.key(key).to_string(), &message);
        }
        value
    }

    fn complete(node: &Node, defaults: &Entries) -> Node {
        let complete = T::complete(node, defaults);
        if secrets(node).is_none() {
            return complete;
        }
        let Value::Map(map) = &complete.value else { return complete };
        let entries = map.list.iter().map(|entry| match is_secret(entry) {
            true => Entry { value: Writer(entry.value.at).text(REDACTED), ..entry.clone() },
            false => entry.clone(),
        });
        Node::map(entries, complete.at)
    }

    #[cfg(test)]
    fn schema(definitions: &mut Definitions) -> Schema {
        T::schema(definitions)
    }
}

/// The entries of the match `node` that are secret, if it is about a credential.
fn secrets(node: &Node) -> Option<impl Iterator<Item = &Entry>> {
    let Value::Map(map) = &node.value else { return None };
    let Value::Scalar(Scalar { text: name, .. }) = &map.get("name")?.value.value else { return None };
    let name = name.to_ascii_lowercase().replace('_', "-");
    let is_credential = CREDENTIALS.iter().any(|word| name.contains(word));
    is_credential.then(|| map.list.iter().filter(|entry| is_secret(entry)))
}

fn is_secret(entry: &Entry) -> bool {
    VALUES.contains(&&*entry.key) && !entry.value.is_null()
}

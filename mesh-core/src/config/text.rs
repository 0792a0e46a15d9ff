//! Shapes of text: free text, words of a vocabulary, regular expressions.

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::marker::PhantomData;
use std::sync::Arc;

use super::credential::REDACTED;
#[cfg(test)]
use super::json_schema::{Definitions, Schema, json};
use super::problem::{Draft, Path, shorten};
use super::scalar::Kind;
use super::shape::{Context, NOT_YET, Shape, list};
use super::suggest::did_you_mean;
use super::tree::{Entries, Node, Scalar, Value};
use super::write::Writer;
use crate::model::Pattern;

/// Why a text was refused.
#[derive(Debug)]
pub(super) struct Refusal {
    /// What follows the text itself in the message: `is not an address: ..`.
    message: String,
    help: Option<String>,
}

impl Refusal {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The problem with `text`.
    pub(super) fn draft(self, text: &str) -> Draft {
        Draft::new(format!("{:?} {}", shorten(text), self.message)).about(text).maybe_help(self.help)
    }
}

/// A kind of text. Every one is a [`Shape`].
pub(super) trait TextShape {
    type Value;

    fn form() -> Cow<'static, str>;

    fn parse(text: &Arc<str>) -> Result<Self::Value, Refusal>;

    /// What a JSON Schema says beyond that it is text: at most what [`parse`](Self::parse) refuses is refused.
    #[cfg(test)]
    fn describe() -> Schema {
        json!({})
    }
}

impl<T: TextShape> Shape for T {
    type Value = T::Value;

    fn form() -> Cow<'static, str> {
        T::form()
    }

    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<Self::Value> {
        let text = text(node, &T::form(), |text| T::parse(text).is_ok(), path, context)?;
        match T::parse(text) {
            Ok(value) => Some(value),
            Err(Refusal { message, help }) => {
                context.report(node.at, path, || node.draft(format!("{} {message}", node.shown())).maybe_help(help));
                None
            }
        }
    }

    #[cfg(test)]
    fn schema(_: &mut Definitions) -> Schema {
        let mut schema = T::describe();
        schema["type"] = "string".into();
        schema
    }
}

/// The text of `node`. What only looks like text to a person is refused with the way out, if quotes are one.
fn text<'a>(
    node: &'a Node,
    form: &str,
    would_do: impl Fn(&Arc<str>) -> bool,
    path: Path<'_>,
    context: &mut Context,
) -> Option<&'a Arc<str>> {
    let help = match &node.value {
        Value::Scalar(Scalar { text, kind: Kind::String }) => return Some(text),
        Value::Scalar(Scalar { text, .. }) => would_do(text).then(|| format!("quote it: {:?}", shorten(text))),
        Value::Sequence(_) | Value::Map(_) => None,
    };
    context.mismatch(node, path, form, help);
    None
}

/// Any text.
pub(super) struct Text;

impl TextShape for Text {
    type Value = Arc<str>;

    fn form() -> Cow<'static, str> {
        "text".into()
    }

    fn parse(text: &Arc<str>) -> Result<Self::Value, Refusal> {
        Ok(text.clone())
    }
}

/// Text of at least one character.
pub(super) struct SomeText;

impl TextShape for SomeText {
    type Value = Arc<str>;

    fn form() -> Cow<'static, str> {
        "text of at least one character".into()
    }

    fn parse(text: &Arc<str>) -> Result<Self::Value, Refusal> {
        if text.is_empty() { Err(Refusal::new("is not text of at least one character")) } else { Ok(text.clone()) }
    }

    #[cfg(test)]
    fn describe() -> Schema {
        json!({ "minLength": 1 })
    }
}

/// Text that must not be seen by who may see the rest of the file: neither a problem nor the effective configuration shows
/// it. The path of a file that holds a secret is none.
#[cfg_attr(not(test), allow(dead_code, reason = "no field of this version holds a secret"))]
pub(super) struct Secret<T>(PhantomData<T>);

impl<T: TextShape> Shape for Secret<T> {
    type Value = T::Value;

    fn form() -> Cow<'static, str> {
        T::form()
    }

    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<Self::Value> {
        // What refuses a text may well repeat it.
        let value = match &node.value {
            Value::Scalar(Scalar { text, kind: Kind::String }) => T::parse(text).ok(),
            _ => None,
        };
        if value.is_none() {
            context.report(node.at, path, || Draft::new(format!("this is not {}", T::form())));
        }
        value
    }

    fn complete(node: &Node, _: &Entries) -> Node {
        Writer(node.at).text(REDACTED)
    }

    #[cfg(test)]
    fn schema(definitions: &mut Definitions) -> Schema {
        <T as Shape>::schema(definitions)
    }
}

/// One word of a few.
pub(super) struct Word<V>(PhantomData<V>);

/// The words that stand for values of a type.
pub(super) trait Vocabulary: Copy + 'static {
    /// How messages call it: `a balancer`.
    const FORM: &'static str;
    const WORDS: &'static [(&'static str, Self)];
    /// Words of a later version.
    const NOT_YET: &'static [&'static str] = &[];
}

impl<V: Vocabulary> TextShape for Word<V> {
    type Value = V;

    fn form() -> Cow<'static, str> {
        let words = V::WORDS.iter().map(|(word, _)| *word);
        format!("{}: {}", V::FORM, list(words)).into()
    }

    fn parse(text: &Arc<str>) -> Result<V, Refusal> {
        if let Some((_, value)) = V::WORDS.iter().find(|(word, _)| *word == &**text) {
            return Ok(*value);
        }
        let words = || V::WORDS.iter().map(|(word, _)| *word);
        if V::NOT_YET.contains(&&**text) {
            return Err(Refusal::new(NOT_YET).help(format!("this version has {}", list(words()))));
        }
        let help = did_you_mean(text, words().chain(V::NOT_YET.iter().copied()));
        Err(Refusal { message: format!("is not {}: write one of {}", V::FORM, list(words())), help })
    }

    #[cfg(test)]
    fn describe() -> Schema {
        let words: Vec<_> = V::WORDS.iter().map(|(word, _)| *word).collect();
        json!({ "enum": words })
    }
}

/// A regular expression.
pub(super) struct Regex;

/// How many different regular expressions a file may hold; each may compile to [`Pattern::SIZE_LIMIT`] bytes.
const MAX_PATTERNS: usize = 1000;

/// A regular expression. It is no [`TextShape`] because equal ones are compiled once.
impl Shape for Regex {
    type Value = Pattern;

    fn form() -> Cow<'static, str> {
        "a regular expression for the whole of it".into()
    }

    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<Pattern> {
        let source = text(node, "a regular expression", |_| true, path, context)?;
        let full = context.patterns.len() >= MAX_PATTERNS;
        let result = match context.patterns.entry(source.clone()) {
            Entry::Occupied(known) => known.get().clone(),
            Entry::Vacant(_) if full => Err(format!("a file may hold {MAX_PATTERNS} different ones, this is one more")),
            Entry::Vacant(new) => new.insert(Pattern::new(source).map_err(|error| error.to_string())).clone(),
        };
        match result {
            Ok(pattern) => Some(pattern),
            Err(error) => {
                context.mismatch(node, path, &format!("a regular expression: {error}"), None);
                None
            }
        }
    }

    #[cfg(test)]
    fn schema(_: &mut Definitions) -> Schema {
        json!({ "type": "string" })
    }
}

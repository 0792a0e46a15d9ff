//! The names of places.

use std::borrow::Cow;
use std::sync::Arc;

#[cfg(test)]
use super::json_schema::{Definitions, Schema, json};
use super::problem::Path;
use super::schema::HomeSection;
use super::shape::{Context, Field, Shape, Spanned};
use super::text::{Refusal, TextShape};
use super::tree::{Entries, Node, Value};

/// The name of a region, a zone or a sub-zone.
pub(super) struct PlaceName;

const MAX: usize = 253;

fn is_name(text: &str) -> bool {
    (1..=MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

impl TextShape for PlaceName {
    type Value = Arc<str>;

    fn form() -> Cow<'static, str> {
        "the name of a place".into()
    }

    fn parse(text: &Arc<str>) -> Result<Self::Value, Refusal> {
        if is_name(text) {
            return Ok(text.clone());
        }
        Err(Refusal::new(format!("is not the name of a place: write 1 to {MAX} letters, digits, `-`, `_`, `.`")))
    }

    #[cfg(test)]
    fn describe() -> Schema {
        json!({ "pattern": format!("^[A-Za-z0-9._-]{{1,{MAX}}}$") })
    }
}

/// Where this process runs: a text, or a section.
pub(super) struct HomePlace;

impl Shape for HomePlace {
    type Value = HomeSection;

    fn form() -> Cow<'static, str> {
        "`region/zone/sub_zone`, or a section".into()
    }

    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<HomeSection> {
        if matches!(node.value, Value::Map(_)) {
            return HomeSection::read(node, path, context);
        }
        let names = Slashed::read(node, path, context)?;
        let mut names = names.into_iter().map(|value| Field::Given(Spanned { value, at: node.at }));
        let mut next = || names.next().unwrap_or(Field::Absent);
        Some(HomeSection { at: node.at, is_doubtful: false, region: next(), zone: next(), sub_zone: next() })
    }

    fn complete(node: &Node, defaults: &Entries) -> Node {
        HomeSection::complete(node, defaults)
    }

    #[cfg(test)]
    fn schema(definitions: &mut Definitions) -> Schema {
        json!({ "anyOf": [Slashed::schema(definitions), HomeSection::schema(definitions)] })
    }
}

/// One to three names with slashes between them.
struct Slashed;

impl TextShape for Slashed {
    type Value = Vec<Arc<str>>;

    fn form() -> Cow<'static, str> {
        "a locality, `region/zone/sub_zone`".into()
    }

    fn parse(text: &Arc<str>) -> Result<Self::Value, Refusal> {
        let names: Vec<_> = text.split('/').collect();
        if names.len() <= 3 && names.iter().all(|name| is_name(name)) {
            return Ok(names.into_iter().map(Arc::from).collect());
        }
        let form = "write `region`, `region/zone` or `region/zone/sub_zone`, each of letters, digits, `-`, `_`, `.`";
        Err(Refusal::new(format!("is not a locality: {form}")))
    }

    #[cfg(test)]
    fn describe() -> Schema {
        json!({ "pattern": "^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+){0,2}$" })
    }
}

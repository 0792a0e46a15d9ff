//! The JSON Schema of the file, made from the shapes. A test writes it down; see [`super::json_schema`].

use std::collections::BTreeMap;

pub(super) use serde_json::{Value as Schema, json};

use super::scalar::Kind;
use super::schema::{self, BALANCER_FIELDS};
use super::section::{FieldSpec, Presence, Section, default_node};
use super::shape::Shape;
use super::tree::{Node, Scalar, Value};

/// The sections, each written once.
#[derive(Debug, Default)]
pub(super) struct Definitions(BTreeMap<&'static str, Schema>);

/// The whole schema.
pub(super) fn whole() -> Schema {
    let mut definitions = Definitions::default();
    let root = schema::File::schema(&mut definitions);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of a mesh",
        "$ref": root["$ref"],
        "$defs": definitions.0,
    })
}

impl Definitions {
    /// A reference to the section `S`, which is called `name`.
    pub(super) fn section<S: Section>(&mut self, name: &'static str, about: &str) -> Schema {
        if !self.0.contains_key(name) {
            // A section may hold itself.
            self.0.insert(name, Schema::Null);
            let mut properties = serde_json::Map::new();
            for spec in S::FIELDS {
                properties.insert(spec.name.to_owned(), self.field(spec));
            }
            let required: Vec<_> = S::FIELDS
                .iter()
                .filter(|spec| matches!(spec.presence, Presence::Required))
                .map(|spec| spec.name)
                .collect();
            let mut section = json!({
                "description": about.trim(),
                "type": "object",
                "properties": properties,
                "additionalProperties": false,
            });
            if !required.is_empty() {
                section["required"] = json!(required);
            }
            for (keyword, constraint) in constraints(name) {
                section[keyword] = constraint;
            }
            self.0.insert(name, section);
        }
        json!({ "$ref": format!("#/$defs/{name}") })
    }

    fn field(&mut self, spec: &FieldSpec) -> Schema {
        let mut field = (spec.schema)(self);
        field["description"] = format!("{}\n\n{}", spec.about.trim(), (spec.form)()).into();
        if let Presence::DefaultsTo(text) = spec.presence {
            field["default"] = value_of(&default_node(text));
        }
        field
    }
}

/// What the fields of a section have to do with each other.
fn constraints(section: &str) -> Vec<(&'static str, Schema)> {
    let one_of = |fields: &[&str]| {
        let alternatives: Vec<_> = fields.iter().map(|field| json!({ "required": [field] })).collect();
        ("oneOf", json!(alternatives))
    };
    // A field that goes with one word of another.
    let only_with = |field: &str, policy: &str| json!({ "anyOf": [{ "not": { "required": [field] } }, { "properties": { "policy": { "const": policy } } }] });
    let is_needed_by =
        |needed: &str, field: &str| json!({ "anyOf": [{ "required": [needed] }, { "not": { "required": [field] } }] });
    match section {
        "File" => {
            let is_dns =
                json!({ "properties": { "unknown_services": { "const": "dns" } }, "required": ["unknown_services"] });
            vec![("anyOf", json!([{ "required": ["services"] }, { "required": ["servers"] }, is_dns]))]
        }
        "PathMatch" => vec![one_of(&["exact", "prefix", "regex"])],
        "HeaderMatch" => vec![one_of(&["exact", "prefix", "suffix", "contains", "regex", "range", "present"])],
        "QueryMatch" => vec![one_of(&["exact", "prefix", "suffix", "contains", "regex", "present"])],
        "HashPolicy" => vec![one_of(&["header", "query", "cookie", "source_ip"])],
        "SessionAffinity" => vec![one_of(&["cookie", "header"])],
        "HealthCheck" => vec![one_of(&["grpc", "http"])],
        "HashCookie" => vec![("allOf", json!([is_needed_by("ttl", "path")]))],
        "LocalitySection" | "HomeSection" => {
            vec![("allOf", json!([is_needed_by("region", "zone"), is_needed_by("zone", "sub_zone")]))]
        }
        "Backend" => vec![one_of(&["endpoints", "localities", "dns", "discovery"])],
        "PeerSection" => vec![one_of(&["uri", "dns", "exact", "prefix", "suffix", "contains", "regex"])],
        "IdentitySection" => {
            let trust = json!([{ "required": ["trust_bundle"] }, { "required": ["spiffe_bundle_map"] }]);
            let files = json!({ "required": ["certificate", "key"], "oneOf": trust });
            vec![("oneOf", json!([files, { "required": ["workload_api"] }, { "required": ["source"] }]))]
        }
        "Server" => vec![("not", json!({ "required": ["address", "addresses"] }))],
        "Match" => vec![("not", json!({ "required": ["percent", "fraction"] }))],
        "BalancerSection" => {
            let named = json!({ "anyOf": [
                { "required": ["name"] },
                { "properties": { "policy": { "not": { "const": "custom" } } } },
            ] });
            let strangers = BALANCER_FIELDS.into_iter().map(|(field, policy)| only_with(field, policy));
            vec![("allOf", std::iter::once(named).chain(strangers).collect())]
        }
        _ => Vec::new(),
    }
}

/// A tree as JSON. Numbers that JSON does not have become nothing.
pub(super) fn value_of(node: &Node) -> Schema {
    match &node.value {
        Value::Scalar(Scalar { text, kind }) => match kind {
            Kind::Null => Schema::Null,
            Kind::Bool(value) => json!(value),
            Kind::Int(value) => i64::try_from(*value).map_or(json!(*value as f64), |value| json!(value)),
            Kind::Float(value) => json!(value),
            Kind::String => json!(**text),
        },
        Value::Sequence(items) => items.iter().map(value_of).collect(),
        Value::Map(map) => map.list.iter().map(|entry| (entry.key.to_string(), value_of(&entry.value))).collect(),
    }
}

//! Fields that take one word of a few, and those that take a word or more than a word.

use std::borrow::Cow;

#[cfg(test)]
use super::json_schema::{Definitions, Schema, json};
use super::names::HttpMethod;
use super::problem::Path;
use super::schema::BalancerSection;
use super::section::Section;
use super::shape::{Context, Field, List, OneOrMore, Shape};
use super::text::{Vocabulary, Word};
use super::tree::{Entries, Node, Value};
use crate::model::{Propagator, Protocol, RetryOn, UnknownServices};

impl Vocabulary for RetryOn {
    const FORM: &'static str = "a retry condition";
    const WORDS: &'static [(&'static str, Self)] = &RetryOn::WORDS;
}

impl Vocabulary for Protocol {
    const FORM: &'static str = "a protocol";
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("http1", Self::Http1), ("http2", Self::Http2)];
}

impl Vocabulary for UnknownServices {
    const FORM: &'static str = "a rule";
    const WORDS: &'static [(&'static str, Self)] = &[("refuse", Self::Refuse), ("dns", Self::Dns)];
}

/// The names of `OTEL_PROPAGATORS`, where it has one.
impl Vocabulary for Propagator {
    const FORM: &'static str = "a propagator";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("tracecontext", Self::TraceContext),
        ("baggage", Self::Baggage),
        ("b3", Self::B3),
        ("b3multi", Self::B3Multi),
        ("grpc-trace-bin", Self::GrpcTraceBin),
    ];
}

/// The balancers by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Balancer {
    RoundRobin,
    Random,
    LeastRequest,
    PickFirst,
    Custom,
}

impl Vocabulary for Balancer {
    const FORM: &'static str = "a balancer";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("round_robin", Self::RoundRobin),
        ("random", Self::Random),
        ("least_request", Self::LeastRequest),
        ("pick_first", Self::PickFirst),
        ("custom", Self::Custom),
    ];
    const NOT_YET: &'static [&'static str] = &["peak_ewma", "ring_hash", "maglev", "weighted_round_robin"];
}

/// The kinds of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TlsMode {
    Simple,
    Disabled,
}

impl Vocabulary for TlsMode {
    const FORM: &'static str = "a TLS mode";
    const WORDS: &'static [(&'static str, Self)] = &[("simple", Self::Simple), ("disabled", Self::Disabled)];
    const NOT_YET: &'static [&'static str] = &["mutual", "auto"];
}

/// A balancer's name, or a section where it has parameters.
pub(super) struct LoadBalancer;

impl Shape for LoadBalancer {
    type Value = BalancerSection;

    fn form() -> Cow<'static, str> {
        format!("{}, or a section", Word::<Balancer>::form()).into()
    }

    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<BalancerSection> {
        if matches!(node.value, Value::Map(_)) {
            return BalancerSection::read(node, path, context);
        }
        let policy = Word::<Balancer>::read(node, path, context)?;
        Some(BalancerSection {
            at: node.at,
            is_doubtful: false,
            policy: Field::Default(policy),
            choice_count: Field::Absent,
            shuffle: Field::Absent,
            name: Field::Absent,
        })
    }

    fn complete(node: &Node, defaults: &Entries) -> Node {
        BalancerSection::complete(node, defaults)
    }

    #[cfg(test)]
    fn schema(definitions: &mut Definitions) -> Schema {
        let words: Vec<_> = Balancer::WORDS.iter().map(|(word, _)| *word).filter(|word| *word != "custom").collect();
        json!({ "anyOf": [{ "enum": words }, BalancerSection::schema(definitions)] })
    }
}

/// A `T`, or the word `none`.
pub(super) struct OrNone<T>(T);

impl<T: Shape + Section> Shape for OrNone<T> {
    type Value = Option<T::Value>;

    fn form() -> Cow<'static, str> {
        format!("{}, or `none`", T::FORM).into()
    }

    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<Self::Value> {
        if node.is_text("none") { Some(None) } else { T::read(node, path, context).map(Some) }
    }

    fn complete(node: &Node, defaults: &Entries) -> Node {
        T::complete(node, defaults)
    }

    #[cfg(test)]
    fn schema(definitions: &mut Definitions) -> Schema {
        json!({ "anyOf": [{ "const": "none" }, T::schema(definitions)] })
    }
}

/// Methods, or the word `all`.
pub(super) struct Methods;

/// What [`Methods`] are read into; `All` is the word.
#[derive(Debug, Clone)]
pub(super) enum MethodList {
    All,
    Only(Vec<Field<http::Method>>),
}

impl Shape for Methods {
    type Value = MethodList;

    fn form() -> Cow<'static, str> {
        format!("{}, or `all`", OneOrMore::<HttpMethod>::form()).into()
    }

    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<MethodList> {
        if node.is_text("all") {
            return Some(MethodList::All);
        }
        OneOrMore::<HttpMethod>::read(node, path, context).map(MethodList::Only)
    }

    #[cfg(test)]
    fn schema(definitions: &mut Definitions) -> Schema {
        json!({ "anyOf": [{ "const": "all" }, OneOrMore::<HttpMethod>::schema(definitions)] })
    }
}

/// Formats of the trace context, or the word `none`.
pub(super) struct Propagators;

impl Shape for Propagators {
    type Value = Vec<Field<Propagator>>;

    fn form() -> Cow<'static, str> {
        format!("{}, or `none`", List::<Word<Propagator>>::form()).into()
    }

    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<Self::Value> {
        if node.is_text("none") {
            return Some(Vec::new());
        }
        List::<Word<Propagator>>::read(node, path, context)
    }

    #[cfg(test)]
    fn schema(definitions: &mut Definitions) -> Schema {
        let mut list = List::<Word<Propagator>>::schema(definitions);
        list["uniqueItems"] = true.into();
        json!({ "anyOf": [{ "const": "none" }, list] })
    }
}

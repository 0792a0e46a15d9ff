//! Fields that take one word of a few, and those that take a word or more than a word.

use std::borrow::Cow;

use super::names::HttpMethod;
use super::problem::Path;
use super::scalar::Kind;
use super::schema::BalancerSection;
use super::section::Section;
use super::shape::{Context, Field, OneOrMore, Shape};
use super::text::{Vocabulary, Word};
use super::tree::{Node, Scalar, Value};
use crate::model::{Protocol, RetryOn};

impl Vocabulary for RetryOn {
    const FORM: &'static str = "a retry condition";
    const WORDS: &'static [(&'static str, Self)] = &RetryOn::WORDS;
}

impl Vocabulary for Protocol {
    const FORM: &'static str = "a protocol";
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("http1", Self::Http1), ("http2", Self::Http2)];
}

/// The balancers by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Balancer {
    RoundRobin,
    Random,
    LeastRequest,
}

impl Vocabulary for Balancer {
    const FORM: &'static str = "a balancer";
    const WORDS: &'static [(&'static str, Self)] =
        &[("round_robin", Self::RoundRobin), ("random", Self::Random), ("least_request", Self::LeastRequest)];
    const NOT_YET: &'static [&'static str] =
        &["peak_ewma", "ring_hash", "maglev", "weighted_round_robin", "pick_first"];
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
        Some(BalancerSection { at: node.at, policy: Field::Default(policy), choice_count: Field::Absent })
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
        match &node.value {
            Value::Scalar(Scalar { text, kind: Kind::String }) if &**text == "none" => Some(None),
            _ => T::read(node, path, context).map(Some),
        }
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
        match &node.value {
            Value::Scalar(Scalar { text, kind: Kind::String }) if &**text == "all" => Some(MethodList::All),
            _ => OneOrMore::<HttpMethod>::read(node, path, context).map(MethodList::Only),
        }
    }
}

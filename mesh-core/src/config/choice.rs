//! Fields that take one word of a few, and those that take a word or more than a word.

use std::borrow::Cow;
use std::ops::RangeInclusive;

#[cfg(test)]
use super::json_schema::{Definitions, Schema, json};
use super::names::HttpMethod;
use super::number::Integer;
use super::problem::{Draft, Path};
use super::scalar::Kind;
use super::schema::{BalancerSection, ConsecutiveSection, ServerTlsSection, StatusSection};
use super::shape::{Context, Field, List, OneOrMore, Shape};
use super::text::{Vocabulary, Word};
use super::tree::{Entries, Entry, Node, Scalar, Value};
use crate::identity::SanKind;
use crate::model::{
    self, AccessLog, GrpcFailures, Health, Propagator, Protocol, Proximity, Recovery, RetryOn, UnknownServices,
};

impl Vocabulary for RetryOn {
    const FORM: &'static str = "a retry condition";
    const WORDS: &'static [(&'static str, Self)] = &RetryOn::WORDS;
}

/// An answer after which a hedged request goes on: the conditions for a retry that are answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NonFatal(pub(super) RetryOn);

impl Vocabulary for NonFatal {
    const FORM: &'static str = "an answer";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("cancelled", Self(RetryOn::CANCELLED)),
        ("deadline-exceeded", Self(RetryOn::DEADLINE_EXCEEDED)),
        ("internal", Self(RetryOn::INTERNAL)),
        ("resource-exhausted", Self(RetryOn::RESOURCE_EXHAUSTED)),
        ("unavailable", Self(RetryOn::UNAVAILABLE)),
        ("5xx", Self(RetryOn::SERVER_ERROR)),
        ("gateway-error", Self(RetryOn::GATEWAY_ERROR)),
        ("retriable-4xx", Self(RetryOn::RETRIABLE_4XX)),
        ("retriable-status-codes", Self(RetryOn::RETRIABLE_STATUS_CODES)),
    ];
}

impl Vocabulary for Health {
    const FORM: &'static str = "a health";
    const WORDS: &'static [(&'static str, Self)] =
        &[("healthy", Self::Healthy), ("draining", Self::Draining), ("unhealthy", Self::Unhealthy)];
}

impl Vocabulary for Proximity {
    const FORM: &'static str = "a proximity";
    const WORDS: &'static [(&'static str, Self)] =
        &[("region", Self::Region), ("zone", Self::Zone), ("sub_zone", Self::SubZone)];
}

impl Vocabulary for GrpcFailures {
    const FORM: &'static str = "a set of gRPC codes";
    const WORDS: &'static [(&'static str, Self)] =
        &[("server_errors", Self::ServerErrors), ("all_but_ok", Self::AllButOk)];
}

impl Vocabulary for Recovery {
    const FORM: &'static str = "a recovery";
    const WORDS: &'static [(&'static str, Self)] = &[("time", Self::Time), ("probe", Self::Probe)];
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
    PeakEwma,
    WeightedRoundRobin,
    RingHash,
    Maglev,
    PickFirst,
    Custom,
}

impl Balancer {
    /// Whether it looks at the hash of a request; one of the application may.
    pub(super) fn hashes(self) -> Option<bool> {
        match self {
            Self::RingHash | Self::Maglev => Some(true),
            Self::Custom => None,
            _ => Some(false),
        }
    }
}

impl Vocabulary for Balancer {
    const FORM: &'static str = "a balancer";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("round_robin", Self::RoundRobin),
        ("random", Self::Random),
        ("least_request", Self::LeastRequest),
        ("peak_ewma", Self::PeakEwma),
        ("weighted_round_robin", Self::WeightedRoundRobin),
        ("ring_hash", Self::RingHash),
        ("maglev", Self::Maglev),
        ("pick_first", Self::PickFirst),
        ("custom", Self::Custom),
    ];
}

/// The kinds of TLS towards endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TlsMode {
    Disabled,
    Tls(model::TlsMode),
}

impl Vocabulary for TlsMode {
    const FORM: &'static str = "a TLS mode";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("disabled", Self::Disabled),
        ("simple", Self::Tls(model::TlsMode::Simple)),
        ("mutual", Self::Tls(model::TlsMode::Mutual)),
        ("auto", Self::Tls(model::TlsMode::Auto)),
    ];
}

impl Vocabulary for model::ServerTls {
    const FORM: &'static str = "a TLS mode of a server";
    const WORDS: &'static [(&'static str, Self)] =
        &[("strict", Self::Strict), ("permissive", Self::Permissive), ("disabled", Self::Disabled)];
}

impl Vocabulary for SanKind {
    const FORM: &'static str = "a kind of name";
    const WORDS: &'static [(&'static str, Self)] =
        &[("uri", Self::Uri), ("dns", Self::Dns), ("email", Self::Email), ("ip", Self::Ip)];
}

impl Vocabulary for AccessLog {
    const FORM: &'static str = "an access log";
    const WORDS: &'static [(&'static str, Self)] = &[("off", Self::Off), ("text", Self::Text), ("json", Self::Json)];
}

/// Who brings an identity that is neither in files nor from the Workload API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IdentitySource;

impl Vocabulary for IdentitySource {
    const FORM: &'static str = "a source";
    const WORDS: &'static [(&'static str, Self)] = &[("custom", Self)];
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
        Word::<Balancer>::read(node, path, context)?;
        let policy = Entry { key: "policy".into(), at: node.at, value: node.clone() };
        BalancerSection::read(&Node::map([policy], node.at), path, context)
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

/// The TLS of a server: its mode, or a section where there is more to say.
pub(super) struct ServerTls;

impl Shape for ServerTls {
    type Value = ServerTlsSection;

    fn form() -> Cow<'static, str> {
        format!("{}, or a section", Word::<model::ServerTls>::form()).into()
    }

    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<ServerTlsSection> {
        if matches!(node.value, Value::Map(_)) {
            return ServerTlsSection::read(node, path, context);
        }
        Word::<model::ServerTls>::read(node, path, context)?;
        let mode = Entry { key: "mode".into(), at: node.at, value: node.clone() };
        ServerTlsSection::read(&Node::map([mode], node.at), path, context)
    }

    fn complete(node: &Node, defaults: &Entries) -> Node {
        ServerTlsSection::complete(node, defaults)
    }

    #[cfg(test)]
    fn schema(definitions: &mut Definitions) -> Schema {
        json!({ "anyOf": [Word::<model::ServerTls>::schema(definitions), ServerTlsSection::schema(definitions)] })
    }
}

/// A `T`, or the word `none`.
pub(super) struct OrNone<T>(T);

impl<T: Shape> Shape for OrNone<T> {
    type Value = Option<T::Value>;

    fn form() -> Cow<'static, str> {
        format!("{}, or `none`", T::form()).into()
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

/// How many in a row: a number, `none`, or a section.
pub(super) struct Consecutive;

type Count = Integer<u32, 1, { u32::MAX as i64 }>;

impl Shape for Consecutive {
    type Value = Option<model::Consecutive>;

    fn form() -> Cow<'static, str> {
        format!("{}, `none`, or a section", Count::form()).into()
    }

    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<Self::Value> {
        if node.is_text("none") {
            return Some(None);
        }
        if matches!(node.value, Value::Scalar(Scalar { kind: Kind::String, .. })) {
            context.mismatch(node, path, &Self::form(), None);
            return None;
        }
        if !matches!(node.value, Value::Map(_)) {
            return Count::read(node, path, context).map(|count| Some(model::Consecutive::new(count)));
        }
        let section = ConsecutiveSection::read(node, path, context)?;
        let mut consecutive = model::Consecutive::new(*section.count.value()?);
        consecutive.enforcement = section.enforcement.or(consecutive.enforcement);
        Some(Some(consecutive))
    }

    fn complete(node: &Node, defaults: &Entries) -> Node {
        ConsecutiveSection::complete(node, defaults)
    }

    #[cfg(test)]
    fn schema(definitions: &mut Definitions) -> Schema {
        let section = ConsecutiveSection::schema(definitions);
        json!({ "anyOf": [Count::schema(definitions), { "const": "none" }, section] })
    }
}

/// One status, or a section.
pub(super) struct Statuses;

type Status = Integer<u16, 100, 599>;

impl Shape for Statuses {
    type Value = RangeInclusive<u16>;

    fn form() -> Cow<'static, str> {
        format!("{}, or a section", Status::form()).into()
    }

    fn read(node: &Node, path: Path<'_>, context: &mut Context) -> Option<Self::Value> {
        if !matches!(node.value, Value::Map(_)) {
            return Status::read(node, path, context).map(|status| status..=status);
        }
        let section = StatusSection::read(node, path, context)?;
        let (start, end) = (*section.start.value()?, *section.end.value()?);
        if start < end {
            return Some(start..=end - 1);
        }
        context.report(section.at, path, || {
            let message = format!("the range from {start} to {end} is empty: `end` is the first status outside of it");
            Draft::new(message).help("`end` must be greater than `start`")
        });
        None
    }

    fn complete(node: &Node, defaults: &Entries) -> Node {
        StatusSection::complete(node, defaults)
    }

    #[cfg(test)]
    fn schema(definitions: &mut Definitions) -> Schema {
        json!({ "anyOf": [Status::schema(definitions), StatusSection::schema(definitions)] })
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

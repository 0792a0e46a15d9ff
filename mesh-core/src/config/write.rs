//! Values of a program as nodes, so that they are checked and shown like those of a file.

mod identity;
mod server;

use std::sync::Arc;
use std::time::Duration;

use super::choice::Balancer;
use super::duration;
use super::origin::Position;
use super::scalar::Kind;
use super::text::Vocabulary;
use super::tree::{Entry, Node, Scalar, Value};
use crate::model::{
    HeaderMatch, LoadBalancer, Maglev, PeakEwma, Place, RetryMethods, RetryPolicy, RingHash, StringMatch, ValueMatch,
    WeightedRoundRobin,
};

/// Makes nodes of one origin.
#[derive(Clone, Copy)]
pub(super) struct Writer(pub(super) Position);

impl Writer {
    pub(super) fn text(self, text: &str) -> Node {
        Node { value: Value::Scalar(Scalar { text: text.into(), kind: Kind::String }), at: self.0 }
    }

    pub(super) fn number(self, number: impl Into<i128>) -> Node {
        let number = number.into();
        let scalar = Scalar { text: number.to_string().into(), kind: Kind::Int(number) };
        Node { value: Value::Scalar(scalar), at: self.0 }
    }

    fn decimal(self, number: f64) -> Node {
        Node { value: Value::Scalar(Scalar { text: number.to_string().into(), kind: Kind::Float(number) }), at: self.0 }
    }

    pub(super) fn flag(self, flag: bool) -> Node {
        Node { value: Value::Scalar(Scalar { text: flag.to_string().into(), kind: Kind::Bool(flag) }), at: self.0 }
    }

    pub(super) fn word<V: Vocabulary + PartialEq>(self, value: V) -> Node {
        let word = V::WORDS.iter().find(|(_, known)| *known == value);
        self.text(word.map_or("", |(word, _)| word))
    }

    /// What is no number of milliseconds has no syntax, and is refused where it is read.
    pub(super) fn duration(self, value: Duration) -> Node {
        let is_whole = value.subsec_nanos().is_multiple_of(1_000_000);
        self.text(&if is_whole { duration::format(value) } else { format!("{value:?}") })
    }

    pub(super) fn timeout(self, value: Option<Duration>) -> Node {
        self.duration(value.unwrap_or_default())
    }

    pub(super) fn list(self, items: impl IntoIterator<Item = Node>) -> Node {
        Node { value: Value::Sequence(Arc::new(items.into_iter().collect())), at: self.0 }
    }

    fn map<const N: usize>(self, fields: [(&str, Option<Node>); N]) -> Node {
        let entries = fields.into_iter().filter_map(|(name, value)| {
            let value = value?;
            Some(Entry { key: name.into(), at: self.0, value })
        });
        Node::map(entries, self.0)
    }

    pub(super) fn load_balancer(self, value: &LoadBalancer) -> Node {
        let policy = |balancer| Some(self.word::<Balancer>(balancer));
        match value {
            LoadBalancer::RoundRobin => self.word(Balancer::RoundRobin),
            LoadBalancer::Random => self.word(Balancer::Random),
            LoadBalancer::LeastRequest { choice_count } => {
                let choice_count = self.number(*choice_count);
                self.map([("policy", policy(Balancer::LeastRequest)), ("choice_count", Some(choice_count))])
            }
            LoadBalancer::PeakEwma(PeakEwma { decay, default_latency }) => self.map([
                ("policy", policy(Balancer::PeakEwma)),
                ("decay", Some(self.duration(*decay))),
                ("default_latency", Some(self.duration(*default_latency))),
            ]),
            LoadBalancer::WeightedRoundRobin(parameters) => self.weighted_round_robin(parameters),
            LoadBalancer::RingHash(RingHash { min_size, max_size }) => self.map([
                ("policy", policy(Balancer::RingHash)),
                ("max_size", Some(self.number(*max_size))),
                ("min_size", Some(self.number(*min_size))),
            ]),
            LoadBalancer::Maglev(Maglev { table_size }) => {
                self.map([("policy", policy(Balancer::Maglev)), ("table_size", Some(self.number(*table_size)))])
            }
            LoadBalancer::PickFirst { shuffle } => {
                self.map([("policy", policy(Balancer::PickFirst)), ("shuffle", Some(self.flag(*shuffle)))])
            }
            LoadBalancer::Custom(name) => {
                self.map([("policy", policy(Balancer::Custom)), ("name", Some(self.text(name)))])
            }
        }
    }

    fn weighted_round_robin(self, parameters: &WeightedRoundRobin) -> Node {
        let WeightedRoundRobin {
            out_of_band,
            out_of_band_period,
            blackout_period,
            weight_expiration_period,
            weight_update_period,
            error_utilization_penalty,
            utilization_metrics,
        } = parameters;
        let metrics = utilization_metrics.iter().map(|metric| self.text(metric));
        self.map([
            ("policy", Some(self.word(Balancer::WeightedRoundRobin))),
            ("out_of_band", Some(self.flag(*out_of_band))),
            ("out_of_band_period", out_of_band.then(|| self.duration(*out_of_band_period))),
            ("blackout_period", Some(self.duration(*blackout_period))),
            ("weight_expiration_period", Some(self.duration(*weight_expiration_period))),
            ("weight_update_period", Some(self.duration(*weight_update_period))),
            ("error_utilization_penalty", Some(self.decimal(*error_utilization_penalty))),
            ("utilization_metrics", (metrics.len() > 0).then(|| self.list(metrics))),
        ])
    }

    /// An empty name is not written: nobody knows it.
    pub(super) fn place(self, place: &Place) -> Node {
        let name = |name: &str| (!name.is_empty()).then(|| self.text(name));
        self.map([("region", name(&place.region)), ("zone", name(&place.zone)), ("sub_zone", name(&place.sub_zone))])
    }

    pub(super) fn retry(self, policy: Option<&RetryPolicy>) -> Node {
        let Some(policy) = policy else { return self.text("none") };
        let backoff = [("base", Some(policy.backoff.base)), ("max", Some(policy.backoff.max))];
        let codes = policy.status_codes.iter().map(|code| self.number(code.as_u16()));
        let headers = policy.headers.iter().map(|header| self.header_match(header));
        let methods = match &policy.methods {
            RetryMethods::Idempotent => None,
            RetryMethods::All => Some(self.text("all")),
            RetryMethods::Only(methods) => Some(self.list(methods.iter().map(|method| self.text(method.as_str())))),
        };
        self.map([
            ("num_retries", Some(self.number(policy.num_retries))),
            ("on", Some(self.list(policy.on.words().map(|word| self.text(word))))),
            ("per_try_timeout", policy.per_try_timeout.map(|timeout| self.duration(timeout))),
            ("backoff", Some(self.map(backoff.map(|(name, value)| (name, value.map(|value| self.duration(value))))))),
            ("retriable_status_codes", (codes.len() > 0).then(|| self.list(codes))),
            ("retriable_headers", (headers.len() > 0).then(|| self.list(headers))),
            ("methods", methods),
            ("max_body_bytes", i128::try_from(policy.max_body_bytes).ok().map(|bytes| self.number(bytes))),
        ])
    }

    fn header_match(self, header: &HeaderMatch) -> Node {
        let case = |ignore_case: &bool| ignore_case.then(|| self.flag(true));
        let (kind, value, ignore_case) = match &header.value {
            ValueMatch::String(StringMatch::Exact { value, ignore_case }) => {
                ("exact", self.text(value), case(ignore_case))
            }
            ValueMatch::String(StringMatch::Prefix { value, ignore_case }) => {
                ("prefix", self.text(value), case(ignore_case))
            }
            ValueMatch::String(StringMatch::Suffix { value, ignore_case }) => {
                ("suffix", self.text(value), case(ignore_case))
            }
            ValueMatch::String(StringMatch::Contains { value, ignore_case }) => {
                ("contains", self.text(value), case(ignore_case))
            }
            ValueMatch::String(StringMatch::Regex(pattern)) => ("regex", self.text(pattern.as_str()), None),
            ValueMatch::Range { start, end } => {
                let range = [("start", Some(self.number(*start))), ("end", Some(self.number(*end)))];
                ("range", self.map(range), None)
            }
            ValueMatch::Present(present) => ("present", self.flag(*present), None),
        };
        self.map([
            ("name", Some(self.text(header.name.as_str()))),
            (kind, Some(value)),
            ("ignore_case", ignore_case),
            ("invert", header.invert.then(|| self.flag(true))),
        ])
    }
}

//! Balancers with their parameters.

use super::super::choice::Balancer;
use super::super::metric::UtilizationMetric;
use super::super::number::{Decimal, Flag, Integer, Span};
use super::super::prime::Prime;
use super::super::section::Presence::{DefaultsTo, Follows, Optional, Required};
use super::super::section::section;
use super::super::shape::List;
use super::super::text::{SomeText, Word};
use super::super::tree::Entries;
use super::text;
use crate::model::{Maglev, RingHash};

const LARGEST_RING: i64 = RingHash::MAX_SIZE as i64;
const LARGEST_TABLE: i64 = Maglev::MAX_TABLE_SIZE as i64;

section! {
    /// A balancer with its parameters; each parameter goes with one balancer.
    BalancerSection: "a balancer" {
        /// The balancer.
        policy: Word<Balancer> = Required,
        /// How many endpoints `least_request` compares, and only it.
        choice_count: Integer<u32, 2, 10> = Follows("`2`", |balancer| of(balancer, "choice_count", "2")),
        /// Whether `pick_first`, and only it, shuffles the endpoints, which spreads clients.
        shuffle: Flag = Follows("`false`", |balancer| of(balancer, "shuffle", "false")),
        /// The name under which the application registered its `custom` balancer, and only with it.
        name: SomeText = Optional,
        /// The most entries of the ring of `ring_hash`, and only of it.
        max_size: Integer<u32, 1, LARGEST_RING> = Follows("`4096`", |balancer| of(balancer, "max_size", "4096")),
        /// The least entries of the ring of `ring_hash`, and only of it; at most `max_size`.
        min_size: Integer<u32, 1, LARGEST_RING> = Follows("`1024`, at most `max_size`", least_size),
        /// The entries of the table of `maglev`, and only of it; better a hundred times the endpoints.
        table_size: Prime<LARGEST_TABLE> = Follows("`65537`", |balancer| of(balancer, "table_size", "65537")),
        /// The time after which `peak_ewma`, and only it, has forgotten all but 1/e of a peak of latency.
        decay: Span<1, 3_600_000> = Follows("`10s`", |balancer| of(balancer, "decay", "10s")),
        /// The latency that `peak_ewma`, and only it, assumes of an endpoint while its first answer is under way.
        default_latency: Span<1, 300_000> = Follows("`30ms`", |balancer| of(balancer, "default_latency", "30ms")),
        /// Whether `weighted_round_robin`, as all below, asks for load reports on a stream of their own.
        out_of_band: Flag = Follows("`false`", |balancer| of(balancer, "out_of_band", "false")),
        /// How often endpoints are to report `out_of_band`, and only then.
        out_of_band_period: Span<100, 3_600_000> = Follows("`10s` with `out_of_band`", out_of_band_period),
        /// How long an endpoint reports before its weight counts.
        blackout_period: Span<0, 3_600_000> = Follows("`10s`", |balancer| of(balancer, "blackout_period", "10s")),
        /// After how long without a report a weight no longer counts.
        weight_expiration_period: Span<100, 86_400_000> =
            Follows("`3m`", |balancer| of(balancer, "weight_expiration_period", "3m")),
        /// How often weights are put to use.
        weight_update_period: Span<100, 3_600_000> =
            Follows("`1s`", |balancer| of(balancer, "weight_update_period", "1s")),
        /// How much errors lower a weight.
        error_utilization_penalty: Decimal<0, 1_000_000, 3> =
            Follows("`1`", |balancer| of(balancer, "error_utilization_penalty", "1")),
        /// The reported metrics whose greatest is the utilization. Without one the application's, else the CPU's.
        utilization_metrics: List<UtilizationMetric> = Optional,
    } not yet {}

    /// How an endpoint that just became ready comes up to its full share. Not with `pick_first`, hashes and `custom`.
    SlowStart: "a slow start" {
        /// How long it takes.
        window: Span<1, 86_400_000> = Required,
        /// How fast the share grows: 1 is a straight line, more grows faster at first.
        aggression: Decimal<1, 1_000_000, 3> = DefaultsTo("1"),
        /// The share it begins with, in percent.
        min_weight_percent: Decimal<0, 1_000_000, 4> = DefaultsTo("10"),
    } not yet {}
}

/// The parameters, and the balancer each goes with.
pub(in crate::config) const BALANCER_FIELDS: [(&str, &str); 15] = [
    ("choice_count", "least_request"),
    ("shuffle", "pick_first"),
    ("name", "custom"),
    ("max_size", "ring_hash"),
    ("min_size", "ring_hash"),
    ("table_size", "maglev"),
    ("decay", "peak_ewma"),
    ("default_latency", "peak_ewma"),
    ("out_of_band", "weighted_round_robin"),
    ("out_of_band_period", "weighted_round_robin"),
    ("blackout_period", "weighted_round_robin"),
    ("weight_expiration_period", "weighted_round_robin"),
    ("weight_update_period", "weighted_round_robin"),
    ("error_utilization_penalty", "weighted_round_robin"),
    ("utilization_metrics", "weighted_round_robin"),
];

/// The default of `field`, if the balancer is the one that it goes with.
fn of(balancer: &Entries, field: &str, default: &str) -> Option<String> {
    let policy = text(balancer, "policy")?;
    BALANCER_FIELDS.contains(&(field, policy)).then(|| default.to_owned())
}

fn least_size(balancer: &Entries) -> Option<String> {
    let max: u32 = text(balancer, "max_size")?.parse().ok()?;
    of(balancer, "min_size", &max.min(1024).to_string())
}

fn out_of_band_period(balancer: &Entries) -> Option<String> {
    (text(balancer, "out_of_band")? == "true").then(|| "10s".to_owned())
}

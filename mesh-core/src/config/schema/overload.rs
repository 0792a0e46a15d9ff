//! What protects a backend, and its callers, on a bad day.

use super::super::choice::Consecutive;
use super::super::duration;
use super::super::number::{Decimal, Flag, Integer, Span};
use super::super::section::Presence::{DefaultsTo, Follows, Optional, Required};
use super::super::section::section;
use super::super::text::Word;
use super::super::tree::Entries;
use super::{U32_MAX, text};
use crate::model::{GrpcFailures, Recovery};

section! {
    /// What may be under way at once towards a backend; what would exceed it is refused at once. What is left out is unlimited.
    CircuitBreaker: "a circuit breaker" {
        /// Attempts on an endpoint, from their pick to the end of their responses.
        max_requests: Integer<u32, 1, U32_MAX> = Optional,
        /// Requests that wait for an endpoint or a connection; without it 10000.
        max_pending_requests: Integer<u32, 1, 10_000> = Optional,
        /// Connections, of all endpoints together; an endpoint that has none may make one all the same.
        max_connections: Integer<u32, 1, U32_MAX> = Optional,
        /// Retries; it holds beside the retry budget.
        max_retries: Integer<u32, 1, U32_MAX> = Optional,
    } not yet {}

    /// When an endpoint is taken out for what it answers. The `n`th ejection lasts `n` times `base_ejection_time`.
    OutlierDetection: "an outlier detection" {
        /// How often success rates are compared and endpoints come back.
        interval: Span<100, 3_600_000> = DefaultsTo("10s"),
        /// How long the first ejection lasts.
        base_ejection_time: Span<100, 86_400_000> = DefaultsTo("30s"),
        /// The longest ejection, at least `base_ejection_time`.
        max_ejection_time: Span<100, 86_400_000> = Follows("`5m`, at least `base_ejection_time`", longest_ejection),
        /// While this share of the endpoints, in percent, or more is ejected, no other one is; but with any value above 0 one.
        max_ejection_percent: Integer<u32, 0, 100> = DefaultsTo("10"),
        /// Server errors in a row, and missing answers unless `split_local_origin`.
        consecutive_5xx: Consecutive = DefaultsTo("5"),
        /// Answers 502, 503 and 504 in a row, and missing answers unless `split_local_origin`.
        consecutive_gateway_errors: Consecutive = DefaultsTo("none"),
        /// Requests without an answer in a row: resets, timeouts. Only with `split_local_origin`.
        consecutive_local_origin_failures: Consecutive = DefaultsTo("none"),
        /// Whether missing answers are counted apart from answers that are errors.
        split_local_origin: Flag = DefaultsTo("false"),
        /// Compares the success rates of the endpoints. Without it they are not.
        success_rate: SuccessRate = Optional,
        /// Ejects endpoints with too large a share of failures. Without it none.
        failure_percentage: FailurePercentage = Optional,
        /// The gRPC codes that are failures: those that stand for an HTTP status of 500 and above, or all but OK.
        grpc_failures: Word<GrpcFailures> = DefaultsTo("server_errors"),
        /// What an endpoint comes back by: its `time` is up, or then a request succeeds that is sent as a `probe`.
        recovery: Word<Recovery> = DefaultsTo("time"),
    } not yet {}

    /// So many in a row, and then perhaps.
    ConsecutiveSection: "a section with a count" {
        /// How many.
        count: Integer<u32, 1, U32_MAX> = Required,
        /// The share of the ejections that is carried out, in percent.
        enforcement: Integer<u32, 0, 100> = DefaultsTo("100"),
    } not yet {}

    /// Ejects an endpoint whose success rate is below the mean of all by more than a multiple of their standard deviation.
    SuccessRate: "a success rate section" {
        /// The multiple, in thousandths.
        stdev_factor: Integer<u32, 0, 1_000_000> = DefaultsTo("1900"),
        /// The share of the ejections that is carried out, in percent.
        enforcement: Integer<u32, 0, 100> = DefaultsTo("100"),
        /// How many endpoints must have the volume.
        minimum_hosts: Integer<u32, 1, U32_MAX> = DefaultsTo("5"),
        /// How many requests of an endpoint in one interval make it count.
        request_volume: Integer<u32, 1, U32_MAX> = DefaultsTo("100"),
    } not yet {}

    /// Ejects an endpoint whose share of failures is too large.
    FailurePercentage: "a failure percentage section" {
        /// The share, in percent.
        threshold: Integer<u32, 0, 100> = DefaultsTo("85"),
        /// Whether exactly `threshold` is too large.
        inclusive: Flag = DefaultsTo("false"),
        /// The share of the ejections that is carried out, in percent.
        enforcement: Integer<u32, 0, 100> = DefaultsTo("100"),
        /// How many endpoints must have the volume.
        minimum_hosts: Integer<u32, 1, U32_MAX> = DefaultsTo("5"),
        /// How many requests of an endpoint in one interval make it count.
        request_volume: Integer<u32, 1, U32_MAX> = DefaultsTo("50"),
    } not yet {}

    /// When requests are refused for the failures of others: the more, the lower the success rate is.
    AdmissionControl: "an admission control" {
        /// The success rate below which requests are refused, in percent.
        success_threshold: Decimal<1, 1_000_000, 4> = DefaultsTo("95"),
        /// How long an outcome counts.
        window: Span<1000, 3_600_000> = DefaultsTo("2m"),
        /// How steeply it refuses: 1 is a straight line, more refuses more at first.
        aggression: Decimal<1, 1_000_000, 3> = DefaultsTo("1"),
        /// Below so many requests a second none is refused.
        min_requests_per_second: Integer<u32, 0, U32_MAX> = DefaultsTo("5"),
        /// The largest share of requests that is refused, in percent.
        max_rejection_percent: Decimal<0, 1_000_000, 4> = DefaultsTo("80"),
    } not yet {}
}

fn longest_ejection(section: &Entries) -> Option<String> {
    let base = duration::parse_duration(text(section, "base_ejection_time")?)?;
    Some(duration::format(OutlierDetection::longest(base)))
}

impl OutlierDetection {
    /// The longest ejection where none is said (gRFC A50).
    pub(in crate::config) fn longest(base: std::time::Duration) -> std::time::Duration {
        base.max(std::time::Duration::from_secs(300))
    }
}

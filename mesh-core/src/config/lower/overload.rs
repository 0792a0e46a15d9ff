use super::super::duration::format;
use super::super::problem::{Draft, Path};
use super::super::schema;
use super::super::shape::{Context, Field, Spanned};
use crate::model::{AdmissionControl, CircuitBreaker, FailurePercentage, OutlierDetection, SuccessRate};

/// The circuit breaker of `field`: `None` where the field is not there; `none` sets no limit.
pub(super) fn circuit_breaker(field: &Field<Option<schema::CircuitBreaker>>) -> Option<CircuitBreaker> {
    let Some(section) = field.value()? else { return Some(CircuitBreaker::default()) };
    Some(CircuitBreaker {
        max_requests: section.max_requests.value().copied(),
        max_pending_requests: section.max_pending_requests.value().copied(),
        max_connections: section.max_connections.value().copied(),
        max_retries: section.max_retries.value().copied(),
    })
}

/// The outlier detection of `field`: `None` where the field is not there, `Some(None)` where it says `none`.
pub(super) fn outlier_detection(
    field: &Field<Option<schema::OutlierDetection>>,
    path: Path<'_>,
    context: &mut Context,
) -> Option<Option<OutlierDetection>> {
    let path = path.key("outlier_detection");
    Some(field.value()?.as_ref().map(|section| detection(section, path, context)))
}

fn detection(section: &schema::OutlierDetection, path: Path<'_>, context: &mut Context) -> OutlierDetection {
    let default = OutlierDetection::default();
    let base_ejection_time = section.base_ejection_time.or(default.base_ejection_time);
    if let Some(Spanned { value: max, at }) = section.max_ejection_time.given()
        && *max < base_ejection_time
    {
        context.report(*at, path.key("max_ejection_time"), || {
            let [max, base] = [*max, base_ejection_time].map(format);
            Draft::new(format!("{max} is less than `base_ejection_time`: write at least {base}")).about(&max)
        });
    }
    let split_local_origin = section.split_local_origin.or(default.split_local_origin);
    let local_failures = &section.consecutive_local_origin_failures;
    if let Some(Spanned { value: Some(_), at }) = local_failures.given()
        && !split_local_origin
        && !section.split_local_origin.is_invalid()
    {
        const NAME: &str = "consecutive_local_origin_failures";
        context.report(*at, path.key(NAME), || {
            let draft = Draft::new(format!("`{NAME}` has no effect without `split_local_origin: true`"));
            draft.help("add `split_local_origin: true`, or remove it: missing answers count as server errors then")
        });
    }
    OutlierDetection {
        interval: section.interval.or(default.interval),
        base_ejection_time,
        max_ejection_time: section.max_ejection_time.or(schema::OutlierDetection::longest(base_ejection_time)),
        max_ejection_percent: section.max_ejection_percent.or(default.max_ejection_percent),
        consecutive_5xx: section.consecutive_5xx.or(default.consecutive_5xx),
        consecutive_gateway_errors: section.consecutive_gateway_errors.or(default.consecutive_gateway_errors),
        consecutive_local_origin_failures: local_failures.or(default.consecutive_local_origin_failures),
        split_local_origin,
        success_rate: section.success_rate.value().map(success_rate),
        failure_percentage: section.failure_percentage.value().map(failure_percentage),
        grpc_failures: section.grpc_failures.or(default.grpc_failures),
        recovery: section.recovery.or(default.recovery),
    }
}

fn success_rate(section: &schema::SuccessRate) -> SuccessRate {
    let default = SuccessRate::default();
    SuccessRate {
        stdev_factor: section.stdev_factor.or(default.stdev_factor),
        enforcement: section.enforcement.or(default.enforcement),
        minimum_hosts: section.minimum_hosts.or(default.minimum_hosts),
        request_volume: section.request_volume.or(default.request_volume),
    }
}

fn failure_percentage(section: &schema::FailurePercentage) -> FailurePercentage {
    let default = FailurePercentage::default();
    FailurePercentage {
        threshold: section.threshold.or(default.threshold),
        inclusive: section.inclusive.or(default.inclusive),
        enforcement: section.enforcement.or(default.enforcement),
        minimum_hosts: section.minimum_hosts.or(default.minimum_hosts),
        request_volume: section.request_volume.or(default.request_volume),
    }
}

pub(super) fn admission_control(section: &schema::AdmissionControl) -> AdmissionControl {
    let default = AdmissionControl::default();
    let percent = |field: &Field<u32>, default| field.value().map_or(default, |scaled| f64::from(*scaled) / 10_000.0);
    AdmissionControl {
        success_threshold: percent(&section.success_threshold, default.success_threshold),
        window: section.window.or(default.window),
        aggression: section.aggression.value().map_or(default.aggression, |scaled| f64::from(*scaled) / 1000.0),
        min_requests_per_second: section.min_requests_per_second.or(default.min_requests_per_second),
        max_rejection_percent: percent(&section.max_rejection_percent, default.max_rejection_percent),
    }
}

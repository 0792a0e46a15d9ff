use super::super::problem::{Draft, Path};
use super::super::schema;
use super::super::shape::{Context, Field, Spanned};
use super::exactly_one;
use crate::model::{ConnectionPolicy, HealthCheck, HealthProbe, Keepalive, Protocol};

pub(super) fn connections(section: &schema::Backend, default: Option<Keepalive>) -> ConnectionPolicy {
    let mut policy = ConnectionPolicy::default();
    policy.keepalive = keepalive(&section.keepalive).unwrap_or(default);
    policy.idle_timeout = section.idle_timeout.or(policy.idle_timeout);
    policy.max_age = section.max_connection_age.value().copied();
    policy.max_requests = section.max_requests_per_connection.value().copied();
    policy.eager_endpoints = section.eager_endpoints.or(policy.eager_endpoints);
    policy
}

/// The keepalive of `field`: `None` where the field is not there, `Some(None)` where it says `none`.
pub(super) fn keepalive(field: &Field<Option<schema::Keepalive>>) -> Option<Option<Keepalive>> {
    Some(field.value()?.as_ref().and_then(|section| {
        let mut keepalive = Keepalive::new(*section.time.value()?);
        keepalive.timeout = section.timeout.or(keepalive.timeout);
        keepalive.without_calls = section.without_calls.or(keepalive.without_calls);
        Some(keepalive)
    }))
}

/// `protocol` is that of the backend, if it is known.
pub(super) fn health_check(
    section: &schema::HealthCheck,
    protocol: Option<Protocol>,
    path: Path<'_>,
    context: &mut Context,
) -> Option<HealthCheck> {
    let schema::HealthCheck { grpc, http, interval, timeout, unhealthy_threshold, healthy_threshold, at, is_doubtful } =
        section;
    let fields = [("grpc", grpc.is_written()), ("http", http.is_written())];
    if !is_doubtful || fields.iter().any(|(_, is_written)| *is_written) {
        exactly_one(&fields, *at, path, context);
    }
    if let Some(Spanned { at, .. }) = grpc.given()
        && protocol == Some(Protocol::Http1)
    {
        context.report(*at, path.key("grpc"), || {
            let draft = Draft::new("gRPC needs HTTP/2, and the backend is of `protocol: http1`: nobody would be asked");
            draft.help("ask by `http: { path: .. }`, or set `protocol` to `auto` or `http2`")
        });
    }
    let grpc = grpc.value().cloned().map(|service| HealthProbe::Grpc { service });
    let mut check = HealthCheck::new(grpc.or_else(|| http_probe(http.value()?))?);
    check.interval = interval.or(check.interval);
    check.timeout = timeout.or(check.timeout);
    check.unhealthy_threshold = unhealthy_threshold.or(check.unhealthy_threshold);
    check.healthy_threshold = healthy_threshold.or(check.healthy_threshold);
    Some(check)
}

fn http_probe(section: &schema::HttpProbe) -> Option<HealthProbe> {
    Some(HealthProbe::Http {
        path: section.path.value()?.clone(),
        host: section.host.value().cloned(),
        expected: section.expected.or(200..=299),
    })
}

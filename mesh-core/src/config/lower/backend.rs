use std::num::NonZeroU32;
use std::path::Path as FsPath;
use std::time::Duration;

use super::super::problem::Path;
use super::super::schema;
use super::super::shape::Context;
use super::{HasIdentity, balancer, connection, endpoint, exactly_one, overload, policy, tls};
use crate::model::{Backend, BackendId, ConnectBackoff, Defaults, Discovery, Finder};

/// What a backend is read against.
pub(super) struct Scope<'a> {
    pub(super) defaults: &'a Defaults,
    pub(super) has_identity: HasIdentity,
    /// What relative paths are relative to.
    pub(super) directory: &'a FsPath,
}

pub(super) fn backend(
    section: &schema::Backend,
    id: BackendId,
    scope: &Scope<'_>,
    path: Path<'_>,
    context: &mut Context,
) -> Backend {
    let Scope { defaults, has_identity, directory } = *scope;
    let sources = [
        ("endpoints", section.endpoints.is_written()),
        ("localities", section.localities.is_written()),
        ("dns", section.dns.is_written()),
        ("discovery", section.discovery.is_written()),
    ];
    if !section.is_doubtful || sources.iter().any(|(_, is_written)| *is_written) {
        exactly_one(&sources, section.at, path, context);
    }
    let endpoints = endpoint::endpoints(section, directory, path, context);
    let mut backend = Backend::new(id, endpoints);
    backend.discovery = finder(section).map(Discovery::new);
    backend.protocol = section.protocol.or(defaults.protocol);
    backend.load_balancer = match section.load_balancer.value() {
        Some(section) => balancer::load_balancer(section, path.key("load_balancer"), context),
        None => defaults.load_balancer.clone(),
    };
    if let Some(section) = section.locality_policy.value() {
        backend.localities = endpoint::locality_policy(section);
    }
    backend.subset_size = section.subset_size.value().copied().and_then(NonZeroU32::new);
    backend.slow_start = section.slow_start.value().and_then(balancer::slow_start);
    backend.connect_timeout = section.connect_timeout.or(defaults.connect_timeout);
    if let Some(section) = section.connect_backoff.value() {
        backend.connect_backoff = connect_backoff(section, path.key("connect_backoff"), context);
    }
    if let Some(section) = section.retry_budget.value() {
        backend.retry_budget = policy::retry_budget(section);
    }
    backend.connections = connection::connections(section, defaults.keepalive);
    backend.circuit_breaker = overload::circuit_breaker(&section.circuit_breaker).unwrap_or(defaults.circuit_breaker);
    backend.outlier_detection = overload::outlier_detection(&section.outlier_detection, path, context)
        .unwrap_or_else(|| defaults.outlier_detection.clone());
    backend.admission_control = section.admission_control.value().map(overload::admission_control);
    let health_check = section.health_check.value();
    let protocol = (!section.protocol.is_invalid()).then_some(backend.protocol);
    backend.health_check =
        health_check.and_then(|section| connection::health_check(section, protocol, path.key("health_check"), context));
    backend.tls = match section.tls.value() {
        Some(section) => {
            let scope = tls::Scope { has_identity, directory };
            tls::of_backend(section, &scope, &backend.endpoints, path.key("tls"), context)
        }
        None => defaults.tls.clone(),
    };
    backend
}

/// Who is asked for the endpoints, unless they are listed.
fn finder(section: &schema::Backend) -> Option<Finder> {
    if let Some(name) = section.dns.value() {
        return Some(Finder::Dns(name.clone()));
    }
    let section = section.discovery.value()?;
    Some(Finder::Custom { source: section.source.value()?.clone(), name: section.name.value()?.clone() })
}

fn connect_backoff(section: &schema::ConnectBackoff, path: Path<'_>, context: &mut Context) -> ConnectBackoff {
    let default = ConnectBackoff::default();
    policy::at_least_base(&section.base, &section.max, path, context);
    let base: Duration = section.base.or(default.base);
    ConnectBackoff { base, max: section.max.or(schema::ConnectBackoff::LONGEST.max(base)) }
}

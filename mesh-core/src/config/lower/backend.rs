use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path as FsPath;
use std::time::Duration;

use super::super::choice::{Balancer, TlsMode};
use super::super::problem::{Draft, Path};
use super::super::schema;
use super::super::shape::{Context, Field, Spanned};
use super::{has_no_effect, policy};
use crate::model::{Backend, BackendId, ConnectBackoff, Endpoint, LoadBalancer, RootCertificates, Tls};

pub(super) fn backend(
    section: &schema::Backend,
    id: BackendId,
    directory: &FsPath,
    path: Path<'_>,
    context: &mut Context,
) -> Backend {
    let endpoints = endpoints(&section.endpoints, path.key("endpoints"), context);
    let mut backend = Backend::new(id, endpoints);
    backend.protocol = section.protocol.or(backend.protocol);
    if let Some(section) = section.load_balancer.value() {
        backend.load_balancer = load_balancer(section, path.key("load_balancer"), context);
    }
    backend.connect_timeout = section.connect_timeout.or(backend.connect_timeout);
    if let Some(section) = section.connect_backoff.value() {
        backend.connect_backoff = connect_backoff(section, path.key("connect_backoff"), context);
    }
    if let Some(section) = section.retry_budget.value() {
        backend.retry_budget = policy::retry_budget(section);
    }
    backend.tls = section.tls.value().and_then(|section| tls(section, directory, path.key("tls"), context));
    backend
}

fn endpoints(field: &Field<Vec<Field<SocketAddr>>>, path: Path<'_>, context: &mut Context) -> Vec<Endpoint> {
    let mut seen = HashMap::new();
    let mut endpoints = Vec::new();
    for (index, address) in field.value().into_iter().flatten().enumerate() {
        let Some(Spanned { value: address, at }) = address.given() else { continue };
        match seen.get(address) {
            None => {
                seen.insert(*address, index);
                endpoints.push(Endpoint::new(*address));
            }
            Some(first) => context.report(*at, path.index(index), || {
                let message = format!("{address} is already in this list, as `[{first}]`");
                Draft::new(message).about(&address.to_string()).help("remove one of them")
            }),
        }
    }
    endpoints
}

fn load_balancer(section: &schema::BalancerSection, path: Path<'_>, context: &mut Context) -> LoadBalancer {
    const DEFAULT_CHOICE_COUNT: u32 = 2;
    match section.policy.value() {
        None => LoadBalancer::default(),
        Some(Balancer::LeastRequest) => {
            LoadBalancer::LeastRequest { choice_count: section.choice_count.or(DEFAULT_CHOICE_COUNT) }
        }
        Some(policy) => {
            has_no_effect(&section.choice_count, "choice_count", "without `least_request`", path, context);
            if *policy == Balancer::Random { LoadBalancer::Random } else { LoadBalancer::RoundRobin }
        }
    }
}

fn connect_backoff(section: &schema::ConnectBackoff, path: Path<'_>, context: &mut Context) -> ConnectBackoff {
    let default = ConnectBackoff::default();
    policy::at_least_base(&section.base, &section.max, path, context);
    let base: Duration = section.base.or(default.base);
    ConnectBackoff { base, max: section.max.or(default.max.max(base)) }
}

fn tls(section: &schema::Tls, directory: &FsPath, path: Path<'_>, context: &mut Context) -> Option<Tls> {
    if *section.mode.value()? == TlsMode::Disabled {
        has_no_effect(&section.server_name, "server_name", "while `mode` is `disabled`", path, context);
        has_no_effect(&section.ca_certificates, "ca_certificates", "while `mode` is `disabled`", path, context);
        return None;
    }
    let roots = match section.ca_certificates.value() {
        // An absolute path stays what it is.
        Some(file) => RootCertificates::PemFile(directory.join(&**file)),
        None => RootCertificates::WebPki,
    };
    Some(Tls { server_name: section.server_name.value().cloned(), roots })
}

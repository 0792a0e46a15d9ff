use std::collections::HashMap;
use std::path::Path as FsPath;
use std::time::Duration;

use super::super::address::MAX_SOCKET_PATH;
use super::super::choice::{Balancer, TlsMode};
use super::super::problem::{Draft, Path};
use super::super::schema;
use super::super::shape::{Context, Field, Spanned};
use super::{exactly_one, has_no_effect, policy};
use crate::model::{
    Address, Backend, BackendId, ConnectBackoff, Defaults, Discovery, Endpoint, Finder, LoadBalancer, RootCertificates,
    Tls,
};

/// What a backend is read against.
pub(super) struct Scope<'a> {
    pub(super) defaults: &'a Defaults,
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
    let Scope { defaults, directory } = *scope;
    let sources = [
        ("endpoints", section.endpoints.is_written()),
        ("dns", section.dns.is_written()),
        ("discovery", section.discovery.is_written()),
    ];
    if !section.is_doubtful || sources.iter().any(|(_, is_written)| *is_written) {
        exactly_one(&sources, section.at, path, context);
    }
    let endpoints = endpoints(&section.endpoints, directory, path.key("endpoints"), context);
    let mut backend = Backend::new(id, endpoints);
    backend.discovery = finder(section).map(Discovery::new);
    backend.protocol = section.protocol.or(defaults.protocol);
    backend.load_balancer = match section.load_balancer.value() {
        Some(section) => load_balancer(section, path.key("load_balancer"), context),
        None => defaults.load_balancer.clone(),
    };
    backend.connect_timeout = section.connect_timeout.or(defaults.connect_timeout);
    if let Some(section) = section.connect_backoff.value() {
        backend.connect_backoff = connect_backoff(section, path.key("connect_backoff"), context);
    }
    if let Some(section) = section.retry_budget.value() {
        backend.retry_budget = policy::retry_budget(section);
    }
    backend.tls = section.tls.value().and_then(|section| tls(section, directory, path.key("tls"), context));
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

fn endpoints(
    field: &Field<Vec<Field<Address>>>,
    directory: &FsPath,
    path: Path<'_>,
    context: &mut Context,
) -> Vec<Endpoint> {
    let mut seen = HashMap::new();
    let mut endpoints = Vec::new();
    for (index, address) in field.value().into_iter().flatten().enumerate() {
        let Some(Spanned { value: address, at }) = address.given() else { continue };
        let address = match address {
            // An absolute path stays what it is.
            Address::Unix(socket) => Address::from(directory.join(socket)),
            Address::Socket(_) => address.clone(),
        };
        if let Address::Unix(socket) = &address
            && socket.as_os_str().len() > MAX_SOCKET_PATH
        {
            let message = || format!("{address} has more than the {MAX_SOCKET_PATH} bytes of a Unix socket's path");
            context.report(*at, path.index(index), || {
                Draft::new(message()).about(&address.to_string()).help("move the socket, or the configuration")
            });
        }
        match seen.get(&address) {
            None => {
                seen.insert(address.clone(), index);
                endpoints.push(Endpoint::new(address));
            }
            Some(first) => context.report(*at, path.index(index), || {
                let message = format!("{address} is already in this list, as `[{first}]`");
                Draft::new(message).about(&address.to_string()).help("remove one of them")
            }),
        }
    }
    endpoints
}

pub(super) fn load_balancer(section: &schema::BalancerSection, path: Path<'_>, context: &mut Context) -> LoadBalancer {
    const DEFAULT_CHOICE_COUNT: u32 = 2;
    let Some(policy) = section.policy.value() else { return LoadBalancer::default() };
    if *policy != Balancer::LeastRequest {
        has_no_effect(&section.choice_count, "choice_count", "without `least_request`", path, context);
    }
    if *policy != Balancer::PickFirst {
        has_no_effect(&section.shuffle, "shuffle", "without `pick_first`", path, context);
    }
    if *policy != Balancer::Custom {
        has_no_effect(&section.name, "name", "without `custom`", path, context);
    }
    match policy {
        Balancer::RoundRobin => LoadBalancer::RoundRobin,
        Balancer::Random => LoadBalancer::Random,
        Balancer::LeastRequest => {
            LoadBalancer::LeastRequest { choice_count: section.choice_count.or(DEFAULT_CHOICE_COUNT) }
        }
        Balancer::PickFirst => LoadBalancer::PickFirst { shuffle: section.shuffle.or(false) },
        Balancer::Custom => {
            if let (Field::Absent, false) = (&section.name, section.is_doubtful) {
                context.report(section.at, path.key("name"), || {
                    let draft = Draft::new("`custom` needs the `name` of a balancer that the application registered");
                    draft.help("write `{ policy: custom, name: NAME }`")
                });
            }
            section.name.value().cloned().map_or_else(LoadBalancer::default, LoadBalancer::Custom)
        }
    }
}

fn connect_backoff(section: &schema::ConnectBackoff, path: Path<'_>, context: &mut Context) -> ConnectBackoff {
    let default = ConnectBackoff::default();
    policy::at_least_base(&section.base, &section.max, path, context);
    let base: Duration = section.base.or(default.base);
    ConnectBackoff { base, max: section.max.or(schema::ConnectBackoff::LONGEST.max(base)) }
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

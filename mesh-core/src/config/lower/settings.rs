use std::path::Path as FsPath;
use std::sync::Arc;

use super::super::duration::format;
use super::super::problem::{Draft, Path};
use super::super::schema;
use super::super::shape::{Context, Field, Spanned};
use super::{HasIdentity, balancer, connection, endpoint, identity, overload, policy, server, tls};
use crate::model::{Defaults, DnsSettings, Propagator, Settings, TelemetrySettings};

/// What the file says of the mesh as a whole.
pub(super) fn settings(file: &schema::File, directory: &FsPath, context: &mut Context) -> Settings {
    let mut settings = Settings { unknown_services: file.unknown_services.or_default(), ..Settings::default() };
    if let Some(section) = file.defaults.value() {
        settings.defaults = defaults(section, Path::TOP.key("defaults"), context);
    }
    let scope = tls::Scope { has_identity: HasIdentity::of(file), directory };
    settings.defaults.tls = tls::of_defaults(file.defaults.value(), &scope, context);
    if let Some(section) = file.identity.value() {
        let identity = identity::identity(section, directory, Path::TOP.key("identity"), context);
        settings.identity = identity.map(Arc::new);
    }
    settings.admin = file.admin.value().and_then(|section| server::admin(section, Path::TOP.key("admin"), context));
    if let Some(section) = file.dns.value() {
        settings.dns = dns(section, Path::TOP.key("dns"), context);
    }
    if let Some(section) = file.telemetry.value() {
        settings.telemetry = telemetry(section, Path::TOP.key("telemetry"), context);
    }
    if let Some(section) = file.locality.value() {
        settings.locality = endpoint::place(endpoint::Names::of_home(section), Path::TOP.key("locality"), context);
    }
    settings
}

fn defaults(section: &schema::Defaults, path: Path<'_>, context: &mut Context) -> Defaults {
    let mut defaults = Defaults::default();
    defaults.timeout = section.timeout.value().copied().flatten();
    defaults.retry = policy::retry(&section.retry, path, context).flatten();
    defaults.connect_timeout = section.connect_timeout.or(defaults.connect_timeout);
    if let Some(section) = section.load_balancer.value() {
        defaults.load_balancer = balancer::load_balancer(section, path.key("load_balancer"), context);
    }
    defaults.protocol = section.protocol.or(defaults.protocol);
    defaults.circuit_breaker = overload::circuit_breaker(&section.circuit_breaker).unwrap_or_default();
    defaults.outlier_detection = overload::outlier_detection(&section.outlier_detection, path, context).flatten();
    defaults.keepalive = connection::keepalive(&section.keepalive).flatten();
    defaults
}

fn dns(section: &schema::Dns, path: Path<'_>, context: &mut Context) -> DnsSettings {
    let default = DnsSettings::default();
    let settings = DnsSettings {
        min_ttl: section.min_ttl.or(default.min_ttl),
        max_ttl: section.max_ttl.or(default.max_ttl),
        timeout: section.timeout.or(default.timeout),
    };
    let DnsSettings { min_ttl, max_ttl, .. } = settings;
    if max_ttl < min_ttl {
        let [min, max] = [min_ttl, max_ttl].map(format);
        match (&section.max_ttl, &section.min_ttl) {
            (Field::Given(given), _) => context.report(given.at, path.key("max_ttl"), || {
                Draft::new(format!("{max} is less than `min_ttl`: write at least {min}")).about(&max)
            }),
            (Field::Default(_), Field::Given(given)) => context.report(given.at, path.key("min_ttl"), || {
                let draft = Draft::new(format!("{min} is more than `max_ttl`, which is {max} where it is left out"));
                draft.about(&min).help("raise `max_ttl`")
            }),
            _ => {}
        }
    }
    settings
}

fn telemetry(section: &schema::Telemetry, path: Path<'_>, context: &mut Context) -> TelemetrySettings {
    let path = path.key("propagators");
    let mut propagators: Vec<Propagator> = Vec::new();
    for (index, item) in section.propagators.value().into_iter().flatten().enumerate() {
        let Some(Spanned { value, at }) = item.given() else { continue };
        if propagators.contains(value) {
            context.report(*at, path.index(index), || {
                Draft::new("this propagator is already in the list").help("remove one of them")
            });
        } else {
            propagators.push(*value);
        }
    }
    TelemetrySettings { propagators }
}

//! The configuration file from bytes that nobody vouches for.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use mesh_core::config::{ConfigError, parse};
use mesh_core::model::{
    Backend, Config, Listen, LoadBalancer, RingHash, RouteAction, ServerTls, TlsMode, UnknownServices,
};

/// Reads `data` and checks what holds of every answer.
pub fn run(data: &[u8]) {
    match parse(data, "fuzz.yaml", Path::new("/etc/mesh")) {
        Ok(config) => check_config(&config),
        Err(error) => check_error(&error),
    }
}

fn check_error(error: &ConfigError) {
    let problems = error.problems();
    assert!(!problems.is_empty() && problems.len() <= ConfigError::MAX_PROBLEMS);
    assert!(error.omitted() == 0 || problems.len() == ConfigError::MAX_PROBLEMS);
    assert!(problems.is_sorted_by_key(|problem| (problem.line(), problem.column())));
    for problem in problems {
        assert_eq!(problem.line() == 0, problem.column() == 0, "{problem}");
        assert!(!problem.message.is_empty());
        // A key can be shown once a level, so 64 times.
        assert!(problem.to_string().len() < 64 * 1024, "{problem}");
    }
}

fn check_config(config: &Config) {
    let knows_services = !config.virtual_hosts.is_empty() && !config.backends.is_empty();
    let serves = !config.servers.is_empty();
    assert!(knows_services || serves || config.settings.unknown_services == UnknownServices::Dns);
    assert!(config.settings.dns.min_ttl <= config.settings.dns.max_ttl);
    config.backends.values().for_each(|backend| check_backend(backend));
    check_identity(config);
    let mut hosts = HashSet::new();
    for virtual_host in &config.virtual_hosts {
        assert!(virtual_host.hosts.iter().all(|host| hosts.insert(host)), "{virtual_host:?}");
        assert!(!virtual_host.routes.is_empty(), "{virtual_host:?}");
        for route in &virtual_host.routes {
            let RouteAction::Forward(forward) = &route.action else { panic!("{route:?}") };
            let sum: u64 = forward.backends.iter().map(|backend| u64::from(backend.weight)).sum();
            assert!((1..=u64::from(u32::MAX)).contains(&sum), "{route:?}");
            assert!(forward.backends.iter().all(|backend| config.backends.contains_key(&backend.backend)), "{route:?}");
        }
    }
}

/// Nothing that needs an identity is left without one, and nobody listens where others can reach it unless told.
fn check_identity(config: &Config) {
    let has_identity = config.settings.identity.is_some();
    let defaults = config.settings.defaults.tls.iter();
    for tls in config.backends.values().filter_map(|backend| backend.tls.as_ref()).chain(defaults) {
        assert!(has_identity || tls.mode == TlsMode::Simple, "{tls:?}");
    }
    let mut addresses = HashSet::new();
    for (name, server) in &config.servers {
        assert_eq!(*name, server.name);
        assert!(has_identity || server.tls == Some(ServerTls::Disabled), "{server:?}");
        for address in &server.addresses {
            let is_any = matches!(address, Listen::Socket(address) if address.port() == 0);
            assert!(is_any || addresses.insert(address), "{server:?}");
        }
    }
    if let Some(admin) = &config.settings.admin {
        assert!(admin.allow_remote || admin.address.ip().to_canonical().is_loopback(), "{admin:?}");
    }
}

fn check_backend(backend: &Backend) {
    let mut addresses = HashSet::new();
    let mut weights: HashMap<_, u64> = HashMap::new();
    for endpoint in &backend.endpoints {
        assert!(addresses.insert(&endpoint.address), "{backend:?}");
        *weights.entry(&endpoint.locality).or_default() += u64::from(endpoint.weight);
    }
    assert!(weights.values().all(|sum| *sum <= u64::from(u32::MAX)), "{backend:?}");
    if let LoadBalancer::RingHash(ring) = &backend.load_balancer {
        assert!((1..=ring.max_size).contains(&ring.min_size) && ring.max_size <= RingHash::MAX_SIZE, "{backend:?}");
    }
    if let Some(detection) = &backend.outlier_detection {
        assert!(detection.max_ejection_time >= detection.base_ejection_time, "{backend:?}");
        assert!(detection.consecutive_local_origin_failures.is_none() || detection.split_local_origin, "{backend:?}");
    }
}

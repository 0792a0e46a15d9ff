//! Configurations of any size, for the benchmarks of decisions.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use mesh_core::model::{
    Backend, BackendId, Config, Endpoint, Forward, HostPattern, PathMatch, Route, RouteMatch, VirtualHost,
};

/// How many requests [`requests`] and [`requests_without_route`] have, whatever the number of routes: a processor that
/// always sees the same one predicts it whole.
const REQUESTS: usize = 64;

/// `count` routes: by turns an element-wise prefix and an exact path, all under a few common first elements, as the
/// methods of services are, with every fifth prefix nested in an earlier one.
pub fn routes(count: usize) -> Vec<Route> {
    (0..count).map(|index| Route::new(Forward::to(backend_id("routes", index))).with_match(path_match(index))).collect()
}

fn path_match(index: usize) -> RouteMatch {
    let mut route_match = RouteMatch::default();
    route_match.path = Some(match index % 2 {
        0 => PathMatch::PathPrefix(prefix(index).into()),
        _ => PathMatch::Exact(exact(index).into()),
    });
    route_match
}

fn exact(index: usize) -> String {
    format!("/company.team{}.v1.Service{index}/Method", index % 16)
}

fn prefix(index: usize) -> String {
    match index % 10 {
        8 => format!("{}/items/{index}", prefix(index - 2)),
        _ => format!("/api/v{}/collection{index}", index % 4),
    }
}

/// Paths that hit routes of [`routes`]`(count)` spread evenly over all, prefixes and exact paths alike, each with the
/// index of the route that must win.
///
/// # Panics
/// If `count` is 0.
pub fn requests(count: usize) -> Vec<(String, Option<u32>)> {
    // Odd, so that both kinds of routes are met.
    let step = (count / REQUESTS) | 1;
    let hit = |request: usize| {
        let index = request * step % count;
        let path = match index % 2 {
            0 => format!("{}/{request}", prefix(index)),
            _ => exact(index),
        };
        // An outer prefix stands before the ones nested in it, and so wins.
        let winner = if index % 10 == 8 { index - 2 } else { index };
        (path, u32::try_from(winner).ok())
    };
    (0..REQUESTS).map(hit).collect()
}

/// Paths like those of [`requests`] that no route matches.
pub fn requests_without_route() -> Vec<(String, Option<u32>)> {
    let miss = |request: usize| match request % 2 {
        0 => (format!("/api/v{}/collectio/{request}", request % 4), None),
        _ => (format!("/company.team{}.v1.Servant{request}/Method", request % 16), None),
    };
    (0..REQUESTS).map(miss).collect()
}

/// `services` virtual hosts with one route to one backend of `endpoints` endpoints each, where nobody listens.
pub fn config(services: usize, endpoints: usize) -> Config {
    (0..services).fold(Config::new(), |config, service| {
        let name = format!("service{service}");
        let hosts = vec![
            HostPattern::Exact(name.as_str().into()),
            HostPattern::Exact(format!("{name}.default.svc.cluster.local").into()),
        ];
        let id = backend_id(&name, 0);
        config
            .with_virtual_host(VirtualHost::new(name, hosts).with_route(Route::new(Forward::to(id.clone()))))
            .with_backend(Backend::new(id, addresses(service, endpoints).map(Endpoint::new).collect()))
    })
}

/// `config` with another address for the last endpoint of one backend in the middle; everything else is shared.
pub fn with_one_endpoint_changed(config: &Config) -> Config {
    let mut changed = config.clone();
    let middle = changed.backends.len() / 2;
    if let Some(backend) = changed.backends.values_mut().nth(middle) {
        let mut copy = Backend::clone(backend);
        copy.endpoints.pop();
        copy.endpoints.push(Endpoint::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 9))));
        *backend = Arc::new(copy);
    }
    changed
}

/// The file that says what [`config`] says.
pub fn yaml(services: usize, endpoints: usize) -> String {
    let mut text = "services:\n".to_owned();
    for service in 0..services {
        let addresses: Vec<String> = addresses(service, endpoints).map(|address| address.to_string()).collect();
        text.push_str(&format!(
            "  service{service}:
    hosts: [service{service}.default.svc.cluster.local]
    backends:
      backend0: {{ endpoints: [{}] }}
",
            addresses.join(", ")
        ));
    }
    text
}

fn backend_id(service: &str, index: usize) -> BackendId {
    BackendId::new(service, format!("backend{index}"))
}

fn addresses(service: usize, count: usize) -> impl Iterator<Item = SocketAddr> {
    (0..count).map(move |endpoint| {
        let [.., high, low] = service.to_be_bytes();
        let port = 10_000 + u16::try_from(endpoint % 50_000).expect("less than 65536");
        SocketAddr::from((Ipv4Addr::new(127, 1, high, low), port))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_differ_and_hit_both_kinds() {
        for count in [100, 1000] {
            let mut requests = requests(count);
            for kind in [0, 1] {
                let hits = requests.iter().filter(|(_, winner)| winner.is_some_and(|winner| winner % 2 == kind));
                assert_eq!(hits.count(), REQUESTS / 2, "{count}");
            }
            requests.sort();
            requests.dedup();
            assert_eq!(requests.len(), REQUESTS);
        }
        assert!(requests(1).iter().all(|(_, winner)| *winner == Some(0)));
    }

    #[test]
    fn one_endpoint_differs() {
        let before = config(100, 10);
        let after = with_one_endpoint_changed(&before);
        let different: Vec<_> =
            before.backends.iter().filter(|(id, backend)| !Arc::ptr_eq(backend, &after.backends[*id])).collect();
        assert_eq!(different.len(), 1);
        assert_ne!(*different[0].1, after.backends[different[0].0]);
        assert_eq!(before.virtual_hosts, after.virtual_hosts);
    }
}

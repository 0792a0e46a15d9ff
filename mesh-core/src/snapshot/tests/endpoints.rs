//! What becomes of endpoints when a backend changes.

use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;
use crate::balance::Endpoint as Stable;
use crate::model::{Address, Health, Locality, Metadata, Place, Proximity, Settings};

/// One backend, `greeter/v1`, of endpoints at `ports`, as `change` has it.
fn config(ports: impl IntoIterator<Item = u16>, change: impl FnOnce(&mut BackendConfig)) -> Config {
    let mut backend = backend("greeter", "v1", &ports.into_iter().collect::<Vec<_>>());
    change(&mut backend);
    Config::new().with_virtual_host(host("greeter")).with_backend(backend)
}

impl Mesh {
    fn endpoints(&self) -> Vec<Arc<Stable<()>>> {
        self.backend("greeter", "v1").picker().endpoints().to_vec()
    }

    fn ports(&self) -> Vec<u16> {
        self.endpoints().iter().map(|endpoint| port(endpoint)).collect()
    }
}

fn connect(endpoints: &[Arc<Stable<()>>]) {
    for endpoint in endpoints {
        endpoint.set_state(State::Ready, Instant::now());
    }
}

fn port(endpoint: &Stable<()>) -> u16 {
    match endpoint.address() {
        Address::Socket(address) => address.port(),
        other => panic!("no socket: {other}"),
    }
}

#[test]
fn of_10_000_endpoints_the_9_999_untouched_keep_their_identity() {
    let mut mesh = Mesh::new(&config(1..=10_000, |_| {}));
    for changed in [1, 5_000, 10_000] {
        let before = mesh.endpoints();
        let update = mesh.apply(&config((1..=10_000).map(|n| if n == changed { 20_000 } else { n }), |_| {}));
        let after = mesh.endpoints();
        assert_eq!(update.removed.iter().map(|endpoint| port(endpoint)).collect::<Vec<_>>(), [changed]);
        assert_eq!(before.iter().zip(&after).filter(|(old, new)| !Arc::ptr_eq(old, new)).count(), 1);
        assert_eq!(port(&after[changed as usize - 1]), 20_000);
        // And the same ones back, but for the one that was away.
        let update = mesh.apply(&config(1..=10_000, |_| {}));
        assert_eq!(update.removed.iter().map(|endpoint| port(endpoint)).collect::<Vec<_>>(), [20_000]);
    }
}

#[test]
fn what_is_said_of_endpoints_changes_without_them() {
    type Change = fn(&mut BackendConfig);
    let changes: [(&str, Change); 7] = [
        ("weight", |backend| backend.endpoints[1].weight = 7),
        ("locality", |backend| {
            backend.endpoints[0].locality = Some(Arc::new(Locality::new(Place::new("eu", "a", ""))));
        }),
        ("priority", |backend| {
            let mut locality = Locality::new(Place::new("eu", "a", ""));
            locality.priority = 3;
            backend.endpoints[0].locality = Some(Arc::new(locality));
        }),
        ("metadata", |backend| backend.endpoints[0].metadata = Some(metadata(&[("stage", "canary")]))),
        ("health", |backend| backend.endpoints[0].health = Health::Draining),
        ("load_balancer", |backend| backend.load_balancer = LoadBalancer::RingHash(crate::model::RingHash::default())),
        ("panic_threshold", |backend| backend.localities.panic_threshold = 50),
    ];
    for (what, change) in changes {
        let mut mesh = Mesh::new(&config([1, 2], |_| {}));
        let before = mesh.endpoints();
        connect(&before);
        before[1].set_healthy(false);
        let update = mesh.apply(&config([1, 2], change));
        assert_eq!(update.touched.len(), 1, "{what}");
        assert!(update.removed.is_empty(), "{what}");
        let after = mesh.endpoints();
        assert!(before.iter().zip(&after).all(|(old, new)| Arc::ptr_eq(old, new)), "{what}");
        assert_eq!((after[0].state(), after[1].is_healthy()), (State::Ready, false), "{what}");
    }
}

fn metadata(words: &[(&str, &str)]) -> Arc<Metadata> {
    Arc::new(words.iter().map(|(name, value)| (Arc::from(*name), Arc::from(*value))).collect())
}

/// Only those whose order it decides.
#[test]
fn another_place_of_the_process_is_for_those_that_prefer_what_is_near() {
    let at = |zone: &str, prefer| {
        let mut config = config([1, 2], |backend| {
            backend.localities.prefer = prefer;
            for (endpoint, zone) in backend.endpoints.iter_mut().zip(["a", "b"]) {
                endpoint.locality = Some(Arc::new(Locality::new(Place::new("eu", zone, ""))));
            }
        });
        config.settings = Arc::new(Settings { locality: Place::new("eu", zone, ""), ..Settings::default() });
        config
    };
    let mut mesh = Mesh::new(&at("a", Some(Proximity::Zone)));
    let before = mesh.endpoints();
    connect(&before);
    let picked = |mesh: &Mesh| {
        let request = crate::balance::PickRequest::new(None, Instant::now());
        match mesh.backend("greeter", "v1").picker().pick(&request, &[], &mut StdRng::seed_from_u64(1)) {
            crate::balance::Pick::Ready(chosen) => port(chosen.endpoint),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(picked(&mesh), 1);
    let update = mesh.apply(&at("b", Some(Proximity::Zone)));
    assert_eq!((update.touched.len(), update.removed.len()), (1, 0));
    assert_eq!(picked(&mesh), 2);
    mesh.apply(&at("b", None));
    assert!(mesh.apply(&at("a", None)).touched.is_empty());
}

#[test]
fn a_route_may_name_a_subset_later() {
    let canary = metadata(&[("stage", "canary")]);
    let with = |subset: Option<Arc<Metadata>>| {
        let mut forward = split("greeter", &[("v1", 1)]);
        forward.backends[0].subset = subset;
        let mut config = config([1, 2, 3], |backend| {
            backend.endpoints[1].metadata = Some(metadata(&[("stage", "canary"), ("rack", "7")]));
            backend.endpoints[2].metadata = Some(metadata(&[("stage", "stable")]));
        });
        config.virtual_hosts = vec![Arc::new(host("greeter").with_route(RouteConfig::new(forward)))];
        config
    };
    let mut mesh = Mesh::new(&with(None));
    let before = mesh.endpoints();
    assert!(mesh.backend("greeter", "v1").picker_of(Some(&canary)).is_none());
    let update = mesh.apply(&with(Some(Arc::clone(&canary))));
    assert!(update.removed.is_empty());
    assert!(before.iter().zip(mesh.endpoints()).all(|(old, new)| Arc::ptr_eq(old, &new)));
    let backend = mesh.backend("greeter", "v1");
    let part = backend.picker_of(Some(&canary)).unwrap();
    assert_eq!(part.endpoints().len(), 1);
    assert!(Arc::ptr_eq(&part.endpoints()[0], &before[1]));
    assert_eq!(backend.pickers().count(), 2);
    let none = metadata(&[("stage", "none")]);
    mesh.apply(&with(Some(Arc::clone(&none))));
    let backend = mesh.backend("greeter", "v1");
    assert!(backend.picker_of(Some(&canary)).is_none());
    assert!(backend.picker_of(Some(&none)).unwrap().endpoints().is_empty());
}

fn of_size(size: u32, ports: impl IntoIterator<Item = u16>) -> Config {
    config(ports, |backend| backend.subset_size = NonZeroU32::new(size))
}

/// Through the whole life of a client: orders, updates of what is said of endpoints, and endpoints that come back.
#[test]
fn lb_08_a_client_keeps_its_subset() {
    let mut mesh = Mesh::new(&of_size(10, 1..=100));
    let chosen = mesh.endpoints();
    let mut ports = mesh.ports();
    ports.sort_unstable();
    assert_eq!(ports.len(), 10);
    let update = mesh.apply(&of_size(10, (1..=100).rev()));
    assert!(update.removed.is_empty());
    assert!(mesh.endpoints().iter().all(|new| chosen.iter().any(|old| Arc::ptr_eq(old, new))));
    // One that is not used goes: nothing happens. One that is used goes: another one comes.
    let unused = (1..=100).find(|port| !ports.contains(port)).unwrap();
    assert!(mesh.apply(&of_size(10, (1..=100).filter(|port| *port != unused))).removed.is_empty());
    let used = ports[4];
    let update = mesh.apply(&of_size(10, (1..=100).filter(|port| *port != used)));
    assert_eq!(update.removed.iter().map(|endpoint| port(endpoint)).collect::<Vec<_>>(), [used]);
    assert_eq!(mesh.ports().iter().filter(|port| ports.contains(port)).count(), 9);
    mesh.apply(&of_size(10, 1..=100));
    let mut again = mesh.ports();
    again.sort_unstable();
    assert_eq!(again, ports);
}

/// 50 clients of 10 endpoints of 100: by chance each endpoint has 5 of them.
#[test]
fn lb_08_clients_spread_over_endpoints() {
    let mut counts = [0_usize; 100];
    for client in 0..50 {
        let mut mesh = Mesh::new(&Config::new());
        mesh.rng = StdRng::seed_from_u64(client);
        mesh.apply(&of_size(10, 1..=100));
        mesh.ports().iter().for_each(|port| counts[*port as usize - 1] += 1);
    }
    assert_eq!(counts.iter().sum::<usize>(), 500);
    assert!(counts.iter().all(|count| count.abs_diff(5) as f64 <= five_sigma(50, 0.1)), "{counts:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever comes, goes and changes places: what has an address again is the endpoint it was.
    #[test]
    fn endpoints_stay_through_any_sequence_of_lists(
        lists in prop::collection::vec(prop::collection::vec(1..30_u16, 0..25), 1..8),
    ) {
        let mut mesh = Mesh::new(&config([], |_| {}));
        for list in lists {
            let mut seen = std::collections::HashSet::new();
            let list: Vec<_> = list.into_iter().filter(|port| seen.insert(*port)).collect();
            let before = mesh.endpoints();
            let update = mesh.apply(&config(list.iter().copied(), |_| {}));
            prop_assert_eq!(mesh.ports(), list.clone());
            for new in mesh.endpoints() {
                let old = before.iter().find(|old| old.address() == new.address());
                prop_assert!(old.is_none_or(|old| Arc::ptr_eq(old, &new)));
            }
            let mut removed: Vec<_> = update.removed.iter().map(|endpoint| port(endpoint)).collect();
            let mut gone: Vec<_> = before.iter().map(|old| port(old)).filter(|port| !list.contains(port)).collect();
            removed.sort_unstable();
            gone.sort_unstable();
            prop_assert_eq!(removed, gone);
        }
    }
}

/// Pick first would stay with what it may not pick, and connect nothing else.
#[test]
fn pick_first_has_only_what_it_may_pick() {
    let pick_first = |backend: &mut BackendConfig| backend.load_balancer = LoadBalancer::PickFirst { shuffle: false };
    let mut mesh = Mesh::new(&config([1, 2, 3, 4], pick_first));
    connect(&mesh.endpoints()[..1]);
    let update = mesh.apply(&config([1, 2, 3, 4], |backend| {
        pick_first(backend);
        backend.endpoints[0].health = Health::Draining;
        backend.endpoints[1].health = Health::Unhealthy;
        backend.endpoints[2].weight = 0;
    }));
    assert_eq!(mesh.ports(), [4]);
    assert_eq!(update.removed.len(), 3, "their connections drain");
}

/// LB-08: what cannot serve takes no place of a subset; each priority, and each part that a route names, has its own.
#[test]
fn lb_08_a_subset_is_one_of_what_may_be_picked() {
    for _ in 0..20 {
        let size = |backend: &mut BackendConfig| backend.subset_size = NonZeroU32::new(1);
        let mesh = Mesh::new(&config([1, 2, 3, 4], |backend| {
            size(backend);
            backend.endpoints[0].health = Health::Draining;
            backend.endpoints[1].health = Health::Unhealthy;
            backend.endpoints[2].weight = 0;
        }));
        assert_eq!(mesh.ports(), [4]);
        let mesh = Mesh::new(&config(1..=20, |backend| {
            size(backend);
            let mut second = Locality::new(Place::new("eu", "b", ""));
            second.priority = 1;
            let second = Arc::new(second);
            backend.endpoints[10..].iter_mut().for_each(|endpoint| endpoint.locality = Some(Arc::clone(&second)));
        }));
        let ports = mesh.ports();
        assert!(ports.len() == 2 && ports[0] <= 10 && ports[1] > 10, "{ports:?}");
    }
}

/// A transport whose endpoints serve one kind of peer each.
struct Marked;

impl Transport for Marked {
    type Backend = ();
    type Endpoint = bool;
    type Error = std::convert::Infallible;

    fn backend(&self, _: &BackendConfig, _: Option<&Arc<()>>) -> Result<(), Self::Error> {
        Ok(())
    }

    fn endpoint(&self, _: &Arc<()>, config: &Endpoint) -> bool {
        config.mesh
    }

    fn keeps(&self, endpoint: &bool, config: &Endpoint) -> bool {
        *endpoint == config.mesh
    }
}

#[test]
fn an_endpoint_that_its_transport_does_not_keep_is_another_one() {
    let compiler = Compiler::new(Marked);
    let (mut rng, now) = (StdRng::seed_from_u64(3), Instant::now());
    let with = |ports: &[u16], marked: &[u16]| {
        config(ports.iter().copied(), |backend| {
            for endpoint in &mut backend.endpoints {
                let Address::Socket(address) = &endpoint.address else { panic!("they are sockets") };
                endpoint.mesh = marked.contains(&address.port());
            }
        })
    };
    let first = compiler.compile(&Snapshot::empty(), &with(&[1, 2, 3], &[]), &mut rng, now).unwrap();
    // In place, and moved; the others are as they were.
    for (ports, marked, place) in [(&[1, 2, 3][..], 2, 1), (&[3, 2, 1], 3, 0)] {
        let second = compiler.compile(&first.snapshot, &with(ports, &[marked]), &mut rng, now).unwrap();
        let of = |update: &Update<Marked>| {
            update.snapshot.backend_by_id(&id("greeter", "v1")).unwrap().picker().endpoints().to_vec()
        };
        let (old, new) = (of(&first), of(&second));
        let kept = |new: &Arc<Stable<bool>>| old.iter().any(|old| Arc::ptr_eq(old, new));
        assert_eq!(new.iter().filter(|new| kept(new)).count(), 2);
        assert!(!kept(&new[place]) && *new[place].transport());
        assert_eq!(second.removed.len(), 1);
        assert_eq!(second.removed[0].address(), new[place].address());
    }
}

//! Backends that are names in DNS.

#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]

mod http_support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_support::text;
use mesh_tower::core::model::{
    Address, Backend, BackendId, Config, Discovery, DnsName, Finder, Forward, HostPattern, LoadBalancer, Route,
    Settings, VirtualHost,
};
use mesh_tower::observe::{Event, Observer};
use mesh_tower::testing::{MemoryNetwork, ScriptedResolver, TestBackend, TestMesh};
use mesh_tower::{Connect, Connecting, ErrorKind, Mesh};

const SECOND: Duration = Duration::from_secs(1);

/// A network in memory: every address answers with itself, and counts its connections.
#[derive(Clone, Default)]
struct Network {
    memory: MemoryNetwork,
    servers: Arc<Mutex<BTreeMap<SocketAddr, TestBackend>>>,
}

impl Network {
    fn accepts(&self, address: SocketAddr) -> usize {
        self.memory.connects_to(address)
    }
}

impl Connect for Network {
    fn connect(&self, address: &Address) -> Connecting {
        if let Address::Socket(at) = address {
            let start = || TestBackend::named(at.to_string()).at(*at).start_in(&self.memory);
            self.servers.lock().unwrap().entry(*at).or_insert_with(start);
        }
        Connect::connect(&self.memory, address)
    }
}

fn config(load_balancer: LoadBalancer, name: DnsName) -> Config {
    let id = BackendId::new("greeter", "v1");
    let mut backend = Backend::new(id.clone(), Vec::new());
    backend.discovery = Some(Discovery::new(Finder::Dns(name)));
    backend.load_balancer = load_balancer;
    let host = VirtualHost::new("greeter", vec![HostPattern::Exact("greeter".into())]);
    let mut settings = Settings::default();
    settings.dns.min_ttl = SECOND * 5;
    Config::new()
        .with_virtual_host(host.with_route(Route::new(Forward::to(id))))
        .with_backend(backend)
        .with_settings(settings)
}

fn host(name: &str) -> DnsName {
    DnsName::Host { host: name.into(), port: 80 }
}

async fn mesh(load_balancer: LoadBalancer, resolver: &ScriptedResolver, network: &Network) -> TestMesh {
    let config = config(load_balancer, host("greeter.example"));
    let builder = Mesh::builder().config(config).resolver(resolver.clone()).connector(network.clone());
    builder.build().await.unwrap().into()
}

async fn get(mesh: &TestMesh) -> String {
    text(mesh.http_client().get("http://greeter/").await.unwrap()).await
}

/// Resolves when a newer configuration than now is in force.
async fn updated(mesh: &TestMesh) {
    let mut status = mesh.config_status();
    status.borrow_and_update();
    status.changed().await.unwrap();
}

fn at(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 80))
}

#[tokio::test(start_paused = true)]
async fn a_new_answer_leaves_the_connections_of_those_that_stay_alone() {
    let (resolver, network) = (ScriptedResolver::new(), Network::default());
    resolver.set("greeter.example", &[at(1), at(2)], SECOND * 30);
    let mesh = mesh(LoadBalancer::RoundRobin, &resolver, &network).await;
    for _ in 0..10 {
        get(&mesh).await;
    }
    assert_eq!((network.accepts(at(1)), network.accepts(at(2))), (1, 1));
    resolver.set("greeter.example", &[at(3), at(2)], SECOND * 30);
    updated(&mesh).await;
    let mut answers: Vec<_> = Vec::new();
    for _ in 0..10 {
        answers.push(get(&mesh).await);
    }
    answers.sort_unstable();
    answers.dedup();
    assert_eq!(answers, ["192.0.2.2:80", "192.0.2.3:80"]);
    assert_eq!((network.accepts(at(1)), network.accepts(at(2)), network.accepts(at(3))), (1, 1, 1));
    mesh.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_found_last_serves_while_dns_is_down() {
    let (resolver, network) = (ScriptedResolver::new(), Network::default());
    resolver.set("greeter.example", &[at(1)], SECOND);
    let mesh = mesh(LoadBalancer::RoundRobin, &resolver, &network).await;
    assert_eq!(get(&mesh).await, "192.0.2.1:80");
    let version = mesh.config_status().borrow().version;
    resolver.fail("greeter.example", "the name server is down");
    resolver.asked("greeter.example", 5).await;
    resolver.remove("greeter.example");
    resolver.asked("greeter.example", 8).await;
    assert_eq!(get(&mesh).await, "192.0.2.1:80");
    assert_eq!(mesh.config_status().borrow().version, version);
    mesh.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_name_that_was_never_found_is_an_error_that_says_why() {
    let (resolver, network) = (ScriptedResolver::new(), Network::default());
    let mesh = mesh(LoadBalancer::RoundRobin, &resolver, &network).await;
    let error = mesh.http_client().get("http://greeter/").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoHealthyEndpoint);
    assert!(error.to_string().contains("greeter.example:80 does not exist in DNS"), "{error}");
    resolver.set("greeter.example", &[at(1)], SECOND);
    updated(&mesh).await;
    assert_eq!(get(&mesh).await, "192.0.2.1:80");
    mesh.end().await;
}

/// LB-07: pick first over a name, whose answer turns round and then loses the address in use.
#[tokio::test(start_paused = true)]
async fn lb_07_pick_first_stays_through_answers_that_hold_its_endpoint() {
    let (resolver, network) = (ScriptedResolver::new(), Network::default());
    resolver.set("greeter.example", &[at(1), at(2)], SECOND);
    let mesh = mesh(LoadBalancer::PickFirst { shuffle: false }, &resolver, &network).await;
    assert_eq!(get(&mesh).await, "192.0.2.1:80");
    resolver.set("greeter.example", &[at(2), at(1)], SECOND);
    resolver.asked("greeter.example", resolver.lookups("greeter.example") + 2).await;
    resolver.set("greeter.example", &[at(3), at(2), at(1)], SECOND);
    updated(&mesh).await;
    assert_eq!(get(&mesh).await, "192.0.2.1:80");
    resolver.set("greeter.example", &[at(2), at(3)], SECOND);
    updated(&mesh).await;
    assert_eq!(get(&mesh).await, "192.0.2.2:80");
    assert_eq!([1, 2, 3].map(|last| network.accepts(at(last))), [1, 1, 0]);
    mesh.end().await;
}

/// The system's resolver knows this name without a network, from its hosts file or by itself.
#[cfg(feature = "dns")]
#[tokio::test]
async fn the_systems_resolver_is_the_default() {
    #[derive(Default)]
    struct Lookups(Mutex<Vec<String>>);
    impl Observer for Lookups {
        fn event(&self, event: &Event<'_>) {
            if let Event::Lookup(lookup) = event {
                self.0.lock().unwrap().push(format!("{} {:?}", lookup.finder, lookup.error));
            }
        }
    }
    let server = TestBackend::named("hello").start();
    let lookups = Arc::new(Lookups::default());
    let name = DnsName::Host { host: "localhost".into(), port: server.address().port() };
    let config = config(LoadBalancer::PickFirst { shuffle: false }, name);
    let builder = Mesh::builder().config(config).observer(Arc::clone(&lookups));
    let mesh = TestMesh::from(builder.build().await.unwrap());
    assert_eq!(get(&mesh).await, "hello");
    assert_eq!(*lookups.0.lock().unwrap(), [format!("dns:localhost:{} None", server.address().port())]);
    mesh.end().await;
}

#[cfg(not(feature = "dns"))]
#[tokio::test]
async fn without_the_feature_a_name_is_an_error_that_says_so() {
    let config = config(LoadBalancer::RoundRobin, host("greeter.example"));
    let mesh = TestMesh::from(Mesh::builder().config(config).build().await.unwrap());
    let error = mesh.http_client().get("http://greeter/").await.unwrap_err();
    assert!(error.to_string().contains("built without the feature `dns`"), "{error}");
    mesh.end().await;
}

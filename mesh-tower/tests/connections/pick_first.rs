//! LB-07: pick first uses one endpoint, and finds it by happy eyeballs. Mostly on a paused clock over in-memory streams.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use mesh_tower::core::balance::State;
use mesh_tower::core::model::{
    Address, Backend, Config, ConnectBackoff, Health, LoadBalancer, Locality, Place, Protocol,
};
use mesh_tower::testing::{Events, Seen, TestBackend, watched};
use mesh_tower::{Connect, Connecting, ErrorKind, Io, Mesh};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::{Server, backend, config_of, finish, get, speak_h2};

const SPACING: u64 = 250;

#[derive(Clone, Copy)]
enum Peer {
    Refuses,
    /// Never says a word.
    Silent,
    /// Is there after this many milliseconds.
    Serves(u64),
}

/// Peers over memory; each answers with its address.
#[derive(Clone)]
struct Peers(Arc<Inner>);

struct Inner {
    began: Instant,
    peers: Mutex<HashMap<SocketAddr, Peer>>,
    connections: Mutex<BTreeMap<SocketAddr, JoinSet<()>>>,
    /// What happened, and after how many milliseconds.
    log: Mutex<Vec<(String, u64)>>,
    changes: watch::Sender<()>,
}

impl Peers {
    fn new(peers: &[(&str, Peer)]) -> Self {
        let this = Self(Arc::new(Inner {
            began: Instant::now(),
            peers: Mutex::default(),
            connections: Mutex::default(),
            log: Mutex::default(),
            changes: watch::Sender::new(()),
        }));
        peers.iter().for_each(|(address, peer)| this.set(address, *peer));
        this
    }

    fn set(&self, address: &str, peer: Peer) {
        self.0.peers.lock().unwrap().insert(address.parse().unwrap(), peer);
    }

    /// Ends the connections of `address`, and refuses new ones.
    fn kill(&self, address: &str) {
        self.set(address, Peer::Refuses);
        self.0.connections.lock().unwrap().remove(&address.parse().unwrap());
    }

    /// How many connections there are.
    fn open(&self) -> usize {
        let mut connections = self.0.connections.lock().unwrap();
        connections.values_mut().for_each(|tasks| while tasks.try_join_next().is_some() {});
        connections.values().map(JoinSet::len).sum()
    }

    fn note(&self, what: String) {
        let at = self.0.began.elapsed().as_millis().try_into().unwrap();
        self.0.log.lock().unwrap().push((what, at));
        self.0.changes.send_replace(());
    }

    fn log(&self) -> Vec<(String, u64)> {
        self.0.log.lock().unwrap().clone()
    }

    /// Resolves when this many things have happened.
    async fn until(&self, count: usize) -> Vec<(String, u64)> {
        let mut changes = self.0.changes.subscribe();
        while self.log().len() < count {
            changes.changed().await.unwrap();
        }
        self.log()
    }
}

/// Notes that an attempt was given up, unless it was forgotten.
struct Attempt(Peers, SocketAddr);

impl Drop for Attempt {
    fn drop(&mut self) {
        self.0.note(format!("{} given up", self.1));
    }
}

impl Connect for Peers {
    fn connect(&self, address: &Address) -> Connecting {
        let Address::Socket(address) = *address else { panic!("{address} is not a socket's address") };
        let this = self.clone();
        this.note(format!("{address} tried"));
        let peer = this.0.peers.lock().unwrap()[&address];
        Box::pin(async move {
            let attempt = Attempt(this.clone(), address);
            match peer {
                Peer::Refuses => {
                    std::mem::forget(attempt);
                    Err(io::ErrorKind::ConnectionRefused.into())
                }
                Peer::Silent => std::future::pending().await,
                Peer::Serves(after) => {
                    tokio::time::sleep(Duration::from_millis(after)).await;
                    std::mem::forget(attempt);
                    let (ours, theirs) = tokio::io::duplex(1 << 16);
                    let peers = this.clone();
                    let mut connections = this.0.connections.lock().unwrap();
                    connections.entry(address).or_default().spawn(async move {
                        speak_h2(theirs, move |request: Request<h2::RecvStream>, mut respond| async move {
                            drop(request);
                            if let Ok(mut stream) = respond.send_response(Response::new(()), false) {
                                let _ = stream.send_data(Bytes::from(address.to_string()), true);
                            }
                        })
                        .await;
                        peers.note(format!("{address} closed"));
                    });
                    Ok(Box::new(ours) as Box<dyn Io>)
                }
            }
        })
    }
}

fn pick_first(addresses: &[&str]) -> Backend {
    let addresses: Vec<_> = addresses.iter().map(|address| address.parse().unwrap()).collect();
    let mut backend = backend("b", &addresses);
    backend.load_balancer = LoadBalancer::PickFirst { shuffle: false };
    backend.connect_backoff = ConnectBackoff::default();
    backend
}

struct Setting {
    mesh: Mesh,
    events: Events,
    configs: watch::Sender<Arc<Config>>,
    version: u64,
}

impl Setting {
    async fn start(peers: &Peers, backend: Backend) -> Self {
        let events = Events::new();
        let (configs, receiver) = watch::channel(Arc::new(config_of(backend)));
        let builder = Mesh::builder().configs(receiver).connector(peers.clone()).observer(events.clone());
        Self { mesh: builder.build().await.unwrap(), events, configs, version: 1 }
    }

    /// Puts another backend into force.
    async fn update(&mut self, backend: Backend) {
        self.configs.send_replace(Arc::new(config_of(backend)));
        self.version += 1;
        let applied =
            |seen: &Seen| matches!(seen, Seen::Config { version, error: None, .. } if *version == self.version);
        self.events.wait_for(applied).await;
    }

    /// The newest states, by address.
    fn states(&self) -> BTreeMap<SocketAddr, State> {
        let changes = self.events.all().into_iter().filter_map(|seen| match seen {
            Seen::Endpoint { endpoint: Address::Socket(endpoint), state, .. } => Some((endpoint, state)),
            _ => None,
        });
        changes.collect()
    }
}

fn happened(what: &[(&str, u64)]) -> Vec<(String, u64)> {
    what.iter().map(|(what, at)| ((*what).to_owned(), *at)).collect()
}

/// A timer of tokio is up to a millisecond late.
fn assert_happened(log: &[(String, u64)], wanted: &[(&str, u64)]) {
    let near = log.len() == wanted.len()
        && log
            .iter()
            .zip(wanted)
            .all(|(seen, wanted)| seen.0 == wanted.0 && (wanted.1..=wanted.1 + 3).contains(&seen.1));
    assert!(near, "{log:#?}\nwanted {:#?}", happened(wanted));
}

const A: &str = "192.0.2.1:80";
const B: &str = "192.0.2.2:80";
const C: &str = "192.0.2.3:80";

#[tokio::test(start_paused = true)]
async fn lb_07_one_endpoint_takes_everything() {
    watched(async {
        let peers = Peers::new(&[(A, Peer::Serves(0)), (B, Peer::Serves(0))]);
        let setting = Setting::start(&peers, pick_first(&[A, B])).await;
        for _ in 0..50 {
            assert_eq!(get(&setting.mesh).await.unwrap(), A);
        }
        assert_happened(&peers.log(), &[("192.0.2.1:80 tried", 0)]);
        finish(setting.mesh).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn lb_07_a_silent_endpoint_delays_the_next_by_250_ms() {
    watched(async {
        let peers = Peers::new(&[(A, Peer::Silent), (B, Peer::Serves(0)), (C, Peer::Serves(0))]);
        let setting = Setting::start(&peers, pick_first(&[A, B, C])).await;
        assert_eq!(get(&setting.mesh).await.unwrap(), B);
        // The attempt that is not needed any more is given up, and the third one never made.
        let log = peers.until(3).await;
        let wanted = [(format!("{A} tried"), 0), (format!("{B} tried"), SPACING), (format!("{A} given up"), SPACING)];
        assert_happened(&log, &wanted.each_ref().map(|(what, at)| (&**what, *at)));
        let states = setting.states();
        assert_eq!(states[&A.parse().unwrap()], State::Idle);
        assert_eq!(states[&B.parse().unwrap()], State::Ready);
        assert_eq!(states.len(), 2);
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(peers.log().len(), 3);
        finish(setting.mesh).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn lb_07_a_failed_endpoint_is_followed_by_the_next_at_once() {
    watched(async {
        let peers = Peers::new(&[(A, Peer::Refuses), (B, Peer::Refuses), (C, Peer::Serves(0))]);
        let setting = Setting::start(&peers, pick_first(&[A, B, C])).await;
        assert_eq!(get(&setting.mesh).await.unwrap(), C);
        let tried = |address| format!("{address} tried");
        let wanted = [(tried(A), 0), (tried(B), 0), (tried(C), 0)];
        assert_happened(&peers.log(), &wanted.each_ref().map(|(what, at)| (&**what, *at)));
        // Those that failed are not asked again while this one lasts.
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(peers.log().len(), 3);
        finish(setting.mesh).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn lb_07_whoever_is_ready_first_wins() {
    watched(async {
        let peers = Peers::new(&[(A, Peer::Serves(400)), (B, Peer::Serves(300))]);
        let setting = Setting::start(&peers, pick_first(&[A, B])).await;
        assert_eq!(get(&setting.mesh).await.unwrap(), A);
        let log = peers.until(3).await;
        assert_happened(
            &log,
            &[("192.0.2.1:80 tried", 0), ("192.0.2.2:80 tried", 250), ("192.0.2.2:80 given up", 400)],
        );
        finish(setting.mesh).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn lb_07_address_families_take_turns() {
    watched(async {
        let all = ["[2001:db8::1]:80", "[2001:db8::2]:80", "[2001:db8::3]:80", A, B];
        let peers = Peers::new(&all.map(|address| (address, Peer::Silent)));
        let setting = Setting::start(&peers, pick_first(&all)).await;
        let log = {
            let _request = tokio::spawn({
                let mesh = setting.mesh.clone();
                async move { get(&mesh).await }
            });
            peers.until(5).await
        };
        assert_happened(
            &log,
            &[
                ("[2001:db8::1]:80 tried", 0),
                ("192.0.2.1:80 tried", 250),
                ("[2001:db8::2]:80 tried", 500),
                ("192.0.2.2:80 tried", 750),
                ("[2001:db8::3]:80 tried", 1_000),
            ],
        );
        finish(setting.mesh).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn lb_07_when_all_have_failed_requests_fail_and_each_is_tried_after_its_backoff() {
    watched(async {
        let peers = Peers::new(&[(A, Peer::Refuses), (B, Peer::Refuses)]);
        let setting = Setting::start(&peers, pick_first(&[A, B])).await;
        let error = get(&setting.mesh).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoHealthyEndpoint);
        assert!(error.report().contains("connection refused"), "{}", error.report());
        assert_eq!(peers.0.began.elapsed(), Duration::ZERO);
        // Each of the two is asked again and again, by itself.
        let log = peers.until(12).await;
        for address in [A, B] {
            let at: Vec<_> =
                log.iter().filter(|(what, _)| what.starts_with(address)).map(|(_, at)| *at as f64).collect();
            assert!(at.len() >= 4, "{log:?}");
            for (step, pair) in at.windows(2).enumerate() {
                let nominal = 1_000.0 * 1.6_f64.powi(i32::try_from(step).unwrap());
                let pause = pair[1] - pair[0];
                assert!((nominal * 0.8 - 1.0..=nominal * 1.2 + 3.0).contains(&pause), "{address} {step}: {pause}");
            }
        }
        // The first that is there serves, and the other one has rest.
        peers.set(B, Peer::Serves(0));
        setting.events.wait_for_state(B.parse::<SocketAddr>().unwrap(), State::Ready).await;
        assert_eq!(get(&setting.mesh).await.unwrap(), B);
        let tried = peers.log().len();
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(peers.log().len(), tried);
        assert_eq!(setting.states()[&A.parse().unwrap()], State::Idle);
        finish(setting.mesh).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn lb_07_a_lost_connection_begins_anew() {
    watched(async {
        let peers = Peers::new(&[(A, Peer::Serves(0)), (B, Peer::Serves(0)), (C, Peer::Serves(0))]);
        let setting = Setting::start(&peers, pick_first(&[A, B, C])).await;
        assert_eq!(get(&setting.mesh).await.unwrap(), A);
        // Given that it is refused from now on, the next endpoint takes over without a request that asks for it,
        let events = setting.events.from_now();
        peers.kill(A);
        events.wait_for_state(B.parse::<SocketAddr>().unwrap(), State::Ready).await;
        assert_eq!(get(&setting.mesh).await.unwrap(), B);
        // and keeps the requests when the first one is back.
        peers.set(A, Peer::Serves(0));
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(get(&setting.mesh).await.unwrap(), B);
        // When that one is lost too, the search begins with the first again, wherever the last one ended.
        let events = setting.events.from_now();
        peers.kill(B);
        events.wait_for_state(A.parse::<SocketAddr>().unwrap(), State::Ready).await;
        assert_eq!(get(&setting.mesh).await.unwrap(), A);
        assert!(!peers.log().iter().any(|(what, _)| what.starts_with(C)), "{:?}", peers.log());
        finish(setting.mesh).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn lb_07_an_update_leaves_the_connection_alone_while_its_endpoint_stays() {
    watched(async {
        let peers = Peers::new(&[(A, Peer::Serves(0)), (B, Peer::Serves(0)), (C, Peer::Serves(0))]);
        let mut setting = Setting::start(&peers, pick_first(&[B])).await;
        assert_eq!(get(&setting.mesh).await.unwrap(), B);
        for addresses in [&[A, B, C][..], &[C, B], &[A, C, B]] {
            setting.update(pick_first(addresses)).await;
            assert_eq!(get(&setting.mesh).await.unwrap(), B, "{addresses:?}");
        }
        assert_happened(&peers.log(), &[("192.0.2.2:80 tried", 0)]);
        // Its endpoint leaves: another one is connected first, then it closes.
        setting.update(pick_first(&[C, A])).await;
        assert_eq!(get(&setting.mesh).await.unwrap(), C);
        let log = peers.until(3).await;
        assert_happened(&log, &[("192.0.2.2:80 tried", 0), ("192.0.2.3:80 tried", 0), ("192.0.2.2:80 closed", 0)]);
        finish(setting.mesh).await;
    })
    .await;
}

/// The connected endpoint drains, or is called unhealthy, or weighs nothing, or comes behind another priority.
#[tokio::test(start_paused = true)]
async fn lb_07_what_may_not_be_picked_is_left_and_priorities_are_an_order() {
    watched(async {
        type Change = fn(&mut Backend);
        let changes: [(Change, &str); 4] = [
            (|backend| backend.endpoints[0].health = Health::Draining, B),
            (|backend| backend.endpoints[0].health = Health::Unhealthy, B),
            (|backend| backend.endpoints[0].weight = 0, B),
            // It stays, as long as it lasts.
            (
                |backend| {
                    let mut second = Locality::new(Place::new("eu", "b", ""));
                    second.priority = 1;
                    backend.endpoints[0].locality = Some(Arc::new(second));
                },
                A,
            ),
        ];
        for (change, serves) in changes {
            let peers = Peers::new(&[(A, Peer::Serves(0)), (B, Peer::Serves(0))]);
            let mut setting = Setting::start(&peers, pick_first(&[A, B])).await;
            assert_eq!(get(&setting.mesh).await.unwrap(), A);
            let mut backend = pick_first(&[A, B]);
            change(&mut backend);
            setting.update(backend.clone()).await;
            assert_eq!(get(&setting.mesh).await.unwrap(), serves);
            finish(setting.mesh).await;

            // From the beginning.
            let peers = Peers::new(&[(A, Peer::Serves(0)), (B, Peer::Serves(0))]);
            let setting = Setting::start(&peers, backend).await;
            assert_eq!(get(&setting.mesh).await.unwrap(), B);
            finish(setting.mesh).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn lb_07_an_update_during_the_search_goes_on_with_the_new_list() {
    watched(async {
        let peers = Peers::new(&[(A, Peer::Silent), (B, Peer::Silent), (C, Peer::Serves(0))]);
        let mut setting = Setting::start(&peers, pick_first(&[A, B])).await;
        let request = tokio::spawn({
            let mesh = setting.mesh.clone();
            async move { get(&mesh).await }
        });
        peers.until(2).await;
        setting.update(pick_first(&[A, C])).await;
        assert_eq!(request.await.unwrap().unwrap(), C);
        let given_up = |address| format!("{address} given up");
        let log = peers.until(5).await;
        for address in [A, B] {
            assert!(log.iter().any(|(what, _)| *what == given_up(address)), "{log:?}");
        }
        finish(setting.mesh).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn lb_07_another_policy_connects_all_and_back_again_all_but_one_close() {
    watched(async {
        let peers = Peers::new(&[(A, Peer::Serves(0)), (B, Peer::Serves(0))]);
        let mut setting = Setting::start(&peers, pick_first(&[A, B])).await;
        assert_eq!(get(&setting.mesh).await.unwrap(), A);
        let mut round_robin = pick_first(&[A, B]);
        round_robin.load_balancer = LoadBalancer::RoundRobin;
        setting.update(round_robin).await;
        setting.events.wait_for_state(B.parse::<SocketAddr>().unwrap(), State::Ready).await;
        let events = setting.events.from_now();
        setting.update(pick_first(&[A, B])).await;
        events.wait_for_state(B.parse::<SocketAddr>().unwrap(), State::Idle).await;
        let log = peers.until(3).await;
        assert_happened(&log, &[("192.0.2.1:80 tried", 0), ("192.0.2.2:80 tried", 0), ("192.0.2.2:80 closed", 0)]);
        assert_eq!(get(&setting.mesh).await.unwrap(), A);
        finish(setting.mesh).await;
    })
    .await;
}

/// Nothing of a backend that is gone goes on.
#[tokio::test(start_paused = true)]
async fn lb_07_the_search_ends_with_its_backend() {
    watched(async {
        let peers = Peers::new(&[(A, Peer::Refuses), (B, Peer::Refuses)]);
        let setting = Setting::start(&peers, pick_first(&[A, B])).await;
        get(&setting.mesh).await.unwrap_err();
        let idle = setting.mesh.live_tasks();
        setting.configs.send_replace(Arc::new(Config::new()));
        setting.events.wait_for(|seen| matches!(seen, Seen::Config { version: 2, .. })).await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(setting.mesh.live_tasks(), idle - 3, "two loops and the search");
        finish(setting.mesh).await;
    })
    .await;
}

/// Peers come, go and fall silent, and lists change, as fast as they can: what is left is one connection that serves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lb_07_after_a_storm_one_endpoint_serves() {
    watched(async {
        let all = [A, B, C];
        let peers = Peers::new(&all.map(|address| (address, Peer::Serves(0))));
        let quick = |addresses: &[&str]| {
            let mut backend = pick_first(addresses);
            backend.connect_backoff = ConnectBackoff { base: Duration::from_millis(1), max: Duration::from_millis(5) };
            backend.connect_timeout = Duration::from_millis(20);
            backend
        };
        let setting = Setting::start(&peers, quick(&all)).await;
        let idle = setting.mesh.live_tasks();
        let mut rng = StdRng::seed_from_u64(7);
        for round in 0..1_500 {
            let address = all[rng.random_range(0..3)];
            match rng.random_range(0..6) {
                0 => peers.kill(address),
                1 => peers.set(address, Peer::Silent),
                2 | 3 => peers.set(address, Peer::Serves(rng.random_range(0..2))),
                _ => {
                    let mut list = all.to_vec();
                    list.shuffle(&mut rng);
                    list.truncate(rng.random_range(1..=3));
                    setting.configs.send_replace(Arc::new(config_of(quick(&list))));
                }
            }
            // Most of these fail, and all of them end.
            if round % 4 == 0 {
                let _ = get(&setting.mesh).await;
            } else {
                tokio::task::yield_now().await;
            }
        }
        all.iter().for_each(|address| peers.set(address, Peer::Serves(0)));
        setting.configs.send_replace(Arc::new(config_of(quick(&all))));
        // Nothing goes on but what went on before the first request, and the connection.
        let settled = || peers.open() == 1 && setting.mesh.live_tasks() == idle + 1;
        while !settled() || get(&setting.mesh).await.is_err() {
            tokio::task::yield_now().await;
        }
        let serving = get(&setting.mesh).await.unwrap();
        for _ in 0..20 {
            assert_eq!(get(&setting.mesh).await.unwrap(), serving);
        }
        finish(setting.mesh).await;
    })
    .await;
}

/// Real sockets of both families: the first is refused, the second serves, until it goes and the first is back.
#[tokio::test]
async fn lb_07_over_sockets_of_both_families() {
    watched(async {
        let v6 = Server::start_at("[::1]:0".parse().unwrap(), |_, _| async {}).await;
        let six = v6.address;
        v6.stop().await;
        let four = TestBackend::named("four").start();
        let mut both = backend("b", &[six, four.address()]);
        both.load_balancer = LoadBalancer::PickFirst { shuffle: false };
        let events = Events::new();
        let mesh = Mesh::builder().config(config_of(both)).observer(events.clone()).build().await.unwrap();
        for _ in 0..10 {
            assert_eq!(get(&mesh).await.unwrap(), "four");
        }
        assert_eq!(four.connections(), 1);
        let events = events.from_now();
        let six = TestBackend::named("six").at(six).start();
        drop(four);
        events.wait_for_state(six.address(), State::Ready).await;
        assert_eq!(get(&mesh).await.unwrap(), "six");
        finish(mesh).await;
    })
    .await;
}

/// HTTP/1.1 connections come and go; what a request meets when its endpoint is gone is the next endpoint.
#[tokio::test]
async fn lb_07_over_http1() {
    watched(async {
        async fn start(text: &'static str) -> Server {
            Server::start(move |_, stream| async move {
                let service = hyper::service::service_fn(move |_| async move {
                    Ok::<_, std::convert::Infallible>(Response::new(http_body_util::Full::new(Bytes::from(text))))
                });
                let io = hyper_util::rt::TokioIo::new(stream);
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
            })
            .await
        }
        let (one, two) = (start("one").await, start("two").await);
        let mut both = backend("b", &[one.address, two.address]);
        both.load_balancer = LoadBalancer::PickFirst { shuffle: false };
        both.protocol = Protocol::Http1;
        let (mesh, _) = crate::support::mesh(config_of(both)).await;
        for _ in 0..10 {
            assert_eq!(get(&mesh).await.unwrap(), "one");
        }
        assert_eq!(two.accepted(), 0);
        one.stop().await;
        // The request that finds out may fail; those after it do not.
        let _ = get(&mesh).await;
        for _ in 0..10 {
            assert_eq!(get(&mesh).await.unwrap(), "two");
        }
        finish(mesh).await;
    })
    .await;
}

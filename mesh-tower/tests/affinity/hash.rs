use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use mesh_tower::core::balance::State;
use mesh_tower::testing::{Fault, MemoryNetwork, TestBackend, full, watched};
use mesh_tower::{Mesh, RequestOptions};

use crate::support::{Caller, Live, addresses, answer, ask, config, endpoints, send, set_cookies};

const BY_USER: &str = "hash_policy: [{ header: x-user }]";
const RING: &str = "load_balancer: ring_hash";
const POLICIES: [&str; 2] = [RING, "load_balancer: maglev"];

/// Who serves each of `count` users.
async fn homes(mesh: &Mesh, count: usize) -> Vec<String> {
    let mut homes = Vec::with_capacity(count);
    for user in 0..count {
        homes.push(ask(mesh, "x-user", &format!("user-{user}")).await);
    }
    homes
}

/// A user of each endpoint.
async fn users(mesh: &Mesh, endpoints: usize) -> BTreeMap<String, String> {
    let mut users = BTreeMap::new();
    for number in 0.. {
        let user = format!("user-{number}");
        users.entry(ask(mesh, "x-user", &user).await).or_insert(user);
        if users.len() == endpoints {
            break;
        }
    }
    users
}

#[tokio::test]
async fn lb_04_only_the_keys_of_an_endpoint_that_leaves_move() {
    watched(async {
        const KEYS: usize = 400;
        let network = MemoryNetwork::new();
        let endpoints = endpoints(&network, 100);
        let mut all = addresses(&endpoints);
        let live = Live::start(&network, config(BY_USER, RING, &all)).await;
        let before = homes(&live.mesh, KEYS).await;
        assert_eq!(homes(&live.mesh, KEYS).await, before, "the same key, the same endpoint");
        assert!(before.iter().collect::<BTreeSet<_>>().len() > 80, "they are spread");

        let leaving = before[0].clone();
        all.retain(|address| *address != endpoints[leaving[1..].parse::<usize>().unwrap()].address());
        live.update(config(BY_USER, RING, &all)).await;
        let after = homes(&live.mesh, KEYS).await;
        let moved: Vec<_> = before.iter().zip(&after).filter(|(before, after)| before != after).collect();
        assert!(moved.iter().all(|(before, _)| **before == leaving), "{moved:?}");
        assert!((1..=KEYS * 6 / 100).contains(&moved.len()), "{}", moved.len());
        live.mesh.end().await;
    })
    .await;
}

#[tokio::test]
async fn lb_04_policies_count_in_order_and_up_to_the_terminal_one() {
    watched(async {
        let network = MemoryNetwork::new();
        let endpoints = endpoints(&network, 10);
        let route = "hash_policy: [{ header: x-user, terminal: true }, { header: x-cart }]";
        let live = Live::start(&network, config(route, RING, &addresses(&endpoints))).await;
        let mesh = &live.mesh;
        let served = async |user: Option<&str>, cart: usize| {
            let mut request = Request::get("http://shop/").header("x-cart", cart.to_string());
            if let Some(user) = user {
                request = request.header("x-user", user);
            }
            answer(send(mesh, request).await).await
        };
        let home = served(Some("ada"), 0).await;
        let mut homes = BTreeSet::new();
        for cart in 0..40 {
            assert_eq!(served(Some("ada"), cart).await, home);
            homes.insert(served(None, cart).await);
            assert_eq!(ask(mesh, "x-cart", &cart.to_string()).await, served(None, cart).await);
        }
        assert!(homes.len() > 3, "without the first, the second counts: {homes:?}");
        // By now endpoints are connected, and without a value one of them is drawn.
        let mut drawn = BTreeSet::new();
        for _ in 0..100 {
            drawn.insert(ask(mesh, "x-other", "1").await);
        }
        assert!(drawn.len() > 3, "{drawn:?}");
        live.mesh.end().await;
    })
    .await;
}

#[tokio::test]
async fn a_request_wakes_its_own_endpoint_and_no_other() {
    watched(async {
        for policy in POLICIES {
            let network = MemoryNetwork::new();
            let endpoints = endpoints(&network, 20);
            let backend = format!("{policy}, eager_endpoints: 1");
            let live = Live::start(&network, config(BY_USER, &backend, &addresses(&endpoints))).await;
            let mut homes = BTreeSet::new();
            for user in ["ada", "bob", "eve"] {
                for _ in 0..5 {
                    homes.insert(ask(&live.mesh, "x-user", user).await);
                }
                let connected: BTreeSet<_> = (0..20)
                    .filter(|n| network.connects_to(endpoints[*n].address()) > 0)
                    .map(|n| format!("e{n}"))
                    .collect();
                assert_eq!(connected, homes, "{policy}");
            }
            live.mesh.end().await;
        }
    })
    .await;
}

/// Addresses decide, so another mesh over the same ones tells who a key belongs to.
async fn key_of(place: usize, endpoints: &[SocketAddr], backend: &str) -> String {
    let network = MemoryNetwork::new();
    let _twins: Vec<_> = endpoints
        .iter()
        .enumerate()
        .map(|(n, address)| TestBackend::named(format!("e{n}")).at(*address).start_in(&network))
        .collect();
    let live = Live::start(&network, config(BY_USER, backend, endpoints)).await;
    let key = users(&live.mesh, endpoints.len()).await.remove(&format!("e{place}")).unwrap();
    live.mesh.end().await;
    key
}

#[tokio::test]
async fn a_request_waits_for_its_own_endpoint_and_holds_up_nobody() {
    watched(async {
        for policy in POLICIES {
            let network = MemoryNetwork::new();
            let others = [TestBackend::named("e1").start_in(&network), TestBackend::named("e2").start_in(&network)];
            let mut all = vec![network.unused_address()];
            all.extend(addresses(&others));
            let backend = format!("{policy}, protocol: http2, eager_endpoints: 1");
            let (late, prompt) = (key_of(0, &all, &backend).await, key_of(1, &all, &backend).await);

            // Given an endpoint that accepts connections and does not say a word yet,
            let mut listener = network.listen(all[0]);
            let live = Live::start(&network, config(BY_USER, &backend, &all)).await;
            let mesh = live.mesh.clone();
            let waiting: Vec<_> = (0..3)
                .map(|_| {
                    let (mesh, late) = (mesh.clone(), late.clone());
                    tokio::spawn(async move { ask(&mesh, "x-user", &late).await })
                })
                .collect();
            let stream = listener.accept().await;
            // then those who are for others are served meanwhile,
            for _ in 0..20 {
                assert_eq!(ask(&mesh, "x-user", &prompt).await, "e1", "{policy}");
            }
            // and when it speaks, those who wait for it.
            let first = TestBackend::named("e0").start_in(&network);
            first.serve(stream);
            for waiting in waiting {
                assert_eq!(waiting.await.unwrap(), "e0", "{policy}");
            }
            drop(mesh);
            live.mesh.end().await;
        }
    })
    .await;
}

/// Whoever waits for an endpoint follows the configuration, to other connections too.
#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_its_own_endpoint_follows_the_configuration() {
    watched(async {
        let network = MemoryNetwork::new();
        let prompt = TestBackend::named("e1").start_in(&network);
        let (silent, late) = (network.unused_address(), network.unused_address());
        let backend = format!("{RING}, protocol: http2");
        let key = key_of(0, &[late, prompt.address()], &backend).await;
        let (mut silent_listener, mut late_listener) = (network.listen(silent), network.listen(late));

        let live = Live::start(&network, config(BY_USER, &backend, &[silent])).await;
        let mesh = live.mesh.clone();
        let waiting = tokio::spawn(async move { ask(&mesh, "x-user", &key).await });
        let _silent = silent_listener.accept().await;
        let backend = format!("{backend}, connect_timeout: 4s");
        live.update(config(BY_USER, &backend, &[late, prompt.address()])).await;

        let began = tokio::time::Instant::now();
        let stream = late_listener.accept().await;
        let server = TestBackend::named("e0").start_in(&network);
        // It waits for this one by now, and nothing else is going to change.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        server.serve(stream);
        assert_eq!(waiting.await.unwrap(), "e0");
        assert!(began.elapsed() < Duration::from_secs(1), "it was woken, and did not wait out its time");
        live.mesh.end().await;
    })
    .await;
}

#[tokio::test]
async fn the_keys_of_an_endpoint_that_fails_come_back_with_it() {
    watched(async {
        for policy in POLICIES {
            let network = MemoryNetwork::new();
            let endpoints = endpoints(&network, 5);
            let backend = format!("{policy}, protocol: http2, connect_backoff: {{ base: 10ms, max: 50ms }}");
            let live = Live::start(&network, config(BY_USER, &backend, &addresses(&endpoints))).await;
            let before = homes(&live.mesh, 50).await;
            let down = &endpoints[2];
            let later = live.events.from_now();
            down.set(Fault::Refused);
            later.wait_for_state(down.address(), State::Failing).await;
            let during = homes(&live.mesh, 50).await;
            for (before, during) in before.iter().zip(&during) {
                assert!(if before == "e2" { during != "e2" } else { during == before }, "{policy}: {before} {during}");
            }
            let later = live.events.from_now();
            down.recover();
            later.wait_for_state(down.address(), State::Ready).await;
            assert_eq!(homes(&live.mesh, 50).await, before, "{policy}");
            live.mesh.end().await;
        }
    })
    .await;
}

#[tokio::test]
async fn callers_of_one_address_find_the_same_endpoint() {
    watched(async {
        let network = MemoryNetwork::new();
        let endpoints = endpoints(&network, 10);
        let live =
            Live::start(&network, config("hash_policy: [{ source_ip: true }]", RING, &addresses(&endpoints))).await;
        let mut homes = BTreeSet::new();
        for host in 1..40_u8 {
            let served = async |address: IpAddr| {
                let options = RequestOptions::new().source_address(address);
                answer(send(&live.mesh, Request::get("http://shop/").extension(options)).await).await
            };
            let home = served(IpAddr::from([192, 0, 2, host])).await;
            let mapped = std::net::Ipv4Addr::new(192, 0, 2, host).to_ipv6_mapped();
            assert_eq!(served(mapped.into()).await, home);
            homes.insert(home);
        }
        assert!(homes.len() > 3, "{homes:?}");
        live.mesh.end().await;
    })
    .await;
}

#[tokio::test]
async fn a_cookie_is_made_up_once_and_sticks() {
    watched(async {
        let route = "hash_policy: [{ cookie: { name: home, ttl: 1h, path: / } }]";
        for policy in POLICIES {
            let network = MemoryNetwork::new();
            let endpoints = endpoints(&network, 9);
            let all = addresses(&endpoints);
            let live = Live::start(&network, config(route, policy, &all[..8])).await;
            let mut callers = Vec::new();
            for _ in 0..30 {
                let mut caller = Caller::default();
                let home = caller.visit(&live.mesh, "/").await;
                callers.push((caller, home));
            }
            let distinct: BTreeSet<_> = callers.iter().map(|(caller, _)| caller.cookie.clone()).collect();
            assert_eq!(distinct.len(), 30, "each has its own");

            // Through a reload nobody moves; when endpoints come, few do and only there where they add up; when they go,
            // those come back.
            let slow = format!("{route}, timeout: 9s");
            let configs =
                [config(&slow, policy, &all[..8]), config(route, policy, &all), config(route, policy, &all[..8])];
            for (step, config) in configs.into_iter().enumerate() {
                live.update(config).await;
                let mut stayed = 0;
                for (caller, home) in &mut callers {
                    stayed += usize::from(caller.visit(&live.mesh, "/").await == *home);
                }
                assert!(stayed == 30 || (step == 1 && stayed >= 15), "{policy}, step {step}: {stayed}");
            }
            assert!(callers.iter().all(|(caller, _)| caller.set == 1));
            live.mesh.end().await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_made_up_cookie_stands_beside_those_of_the_backend() {
    watched(async {
        let network = MemoryNetwork::new();
        let endpoint = TestBackend::handling(async |_| {
            Response::builder().header("set-cookie", "own=1; Path=/").body(full("hello")).unwrap()
        });
        let endpoint = endpoint.start_in(&network);
        let route = "hash_policy: [{ cookie: { name: home, ttl: 90s, path: /shop } }], retry: { on: [5xx] }";
        let live = Live::start(&network, config(route, RING, &[endpoint.address()])).await;
        // A retry is of the same request, and makes up no cookie of its own.
        endpoint.fail_next(1, Fault::Status(StatusCode::SERVICE_UNAVAILABLE));
        let response = send(&live.mesh, Request::get("http://shop/")).await;
        assert_eq!(endpoint.request_count(), 2);
        let cookies = set_cookies(&response);
        assert_eq!(cookies[0], "own=1; Path=/");
        assert!(cookies[1].starts_with("home=") && cookies[1].ends_with("; Max-Age=90; Path=/shop; HttpOnly"));
        assert_eq!(cookies.len(), 2, "{cookies:?}");
        drop(response);

        // Where nothing is balanced by a hash none is made up.
        live.update(config(route, "load_balancer: round_robin", &[endpoint.address()])).await;
        assert_eq!(set_cookies(&send(&live.mesh, Request::get("http://shop/")).await), ["own=1; Path=/"]);
        live.mesh.end().await;
    })
    .await;
}

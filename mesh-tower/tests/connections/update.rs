//! Endpoints come and go at run time; what is under way is left alone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use mesh_tower::Mesh;
use mesh_tower::core::balance::State;
use mesh_tower::core::model::{Config, VirtualHost};
use tokio::sync::watch;
use tokio::task::JoinSet;

use mesh_tower::testing::{Events, Fault, Feed, Seen, TestBackend, watched};

use crate::support::{
    Server, URI, Wire, backend, config, config_of, finish, get, live_mesh, mesh, pattern, post, split,
};

/// Resolves when version `version` is in force.
async fn in_force(mesh: &Mesh, version: u64) {
    mesh.config_status().wait_for(|status| status.version >= version).await.unwrap();
}

async fn all_ready(events: &Events, addresses: &[SocketAddr]) {
    for address in addresses {
        drop(events.wait_for_state(*address, State::Ready).await);
    }
}

/// Answers each head at once and each body when told.
fn slow(end: watch::Receiver<bool>) -> TestBackend {
    let handler = move |_| {
        let mut end = end.clone();
        let (feed, body) = Feed::new();
        feed.data("first ");
        tokio::spawn(async move {
            end.wait_for(|end| *end).await.unwrap();
            feed.data("last");
        });
        std::future::ready(http::Response::new(body))
    };
    TestBackend::handling(handler).start()
}

#[tokio::test]
async fn lb_10_an_endpoint_that_leaves_finishes_its_streams() {
    watched(async {
        // Given 20 streams on an endpoint,
        let (end, ending) = watch::channel(false);
        let leaving = slow(ending);
        let staying = TestBackend::named("staying").start();
        let (mesh, events, configs) = live_mesh(config(&[leaving.address(), staying.address()])).await;
        let mut bodies = Vec::new();
        while bodies.len() < 20 {
            let mut body = mesh.http_client().get(URI).await.unwrap().into_body();
            let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
            if first == "first " {
                bodies.push(body);
            }
        }
        all_ready(&events, &[leaving.address(), staying.address()]).await;
        // when it leaves the configuration,
        configs.send_replace(Arc::new(config(&[staying.address()])));
        in_force(&mesh, 2).await;
        // then new requests go elsewhere,
        for _ in 0..50 {
            assert_eq!(get(&mesh).await.unwrap(), "staying");
        }
        assert_eq!(leaving.request_count(), 20);
        // its streams come to their ends,
        end.send_replace(true);
        let last = bodies.pop().unwrap();
        for body in bodies {
            assert_eq!(body.bytes().await.unwrap(), "last");
        }
        assert_eq!(last.bytes().await.unwrap(), "last");
        // and after the last its connection closes, while the other one is what it was.
        leaving.deserted().await;
        assert_eq!(get(&mesh).await.unwrap(), "staying");
        assert_eq!(staying.connections(), 1);
        finish(mesh).await;
    })
    .await;
}

#[tokio::test]
async fn lb_01_round_robin_over_real_endpoints() {
    watched(async {
        let servers =
            [TestBackend::named("a").start(), TestBackend::named("b").start(), TestBackend::named("c").start()];
        let addresses = servers.each_ref().map(TestBackend::address);
        let (mesh, events) = mesh(config(&addresses)).await;
        get(&mesh).await.unwrap();
        all_ready(&events, &addresses).await;
        let before = servers.each_ref().map(TestBackend::request_count);
        for _ in 0..100 {
            get(&mesh).await.unwrap();
        }
        let counts: Vec<_> =
            servers.iter().zip(before).map(|(server, before)| server.request_count() - before).collect();
        assert_eq!(counts.iter().sum::<usize>(), 100);
        assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
        finish(mesh).await;
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_that_goes_down_is_left_out_until_it_is_back() {
    watched(async {
        let (first, second, third) =
            (TestBackend::named("a").start(), TestBackend::named("b").start(), TestBackend::named("c").start());
        let addresses = [first.address(), second.address(), third.address()];
        let (mesh, events) = mesh(config(&addresses)).await;
        get(&mesh).await.unwrap();
        all_ready(&events, &addresses).await;
        // When one of three goes down between requests, then none fails.
        let later = events.from_now();
        third.set(Fault::Refused);
        later.wait_for_state(addresses[2], State::Failing).await;
        for _ in 0..60 {
            assert_ne!(get(&mesh).await.unwrap(), "c");
        }
        // When it is back, then it has its third again.
        let (later, before) = (events.from_now(), third.request_count());
        third.recover();
        later.wait_for_state(addresses[2], State::Ready).await;
        for _ in 0..60 {
            get(&mesh).await.unwrap();
        }
        let served = third.request_count() - before;
        assert!((19..=21).contains(&served), "{served}");
        finish(mesh).await;
    })
    .await;
}

/// Whoever waits for a stream of an endpoint that leaves is served by the one that comes.
#[tokio::test]
async fn a_waiting_request_follows_the_configuration() {
    watched(async {
        for whole_backend in [false, true] {
            // Given an endpoint that allows no stream and requests that wait for it,
            let full = Server::start(|_, stream| async {
                let Some(mut wire) = Wire::greet(stream, Some(1)).await else { return };
                while let Some((stream, _)) = wire.request().await {
                    wire.head(stream).await;
                }
            })
            .await;
            let free = TestBackend::named("free").start();
            let (mesh, _, configs) = live_mesh(config(&[full.address])).await;
            let mut open = Vec::new();
            for _ in 0..8 {
                open.push(mesh.http_client().get(URI).await.unwrap());
            }
            let mut waiting = JoinSet::new();
            for _ in 0..10 {
                let mesh = mesh.clone();
                waiting.spawn(async move { get(&mesh).await });
            }
            while waiting.len() < 10 || mesh.live_tasks() == 0 {
                tokio::task::yield_now().await;
            }
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            // when the configuration names another endpoint, of the same backend or of another one,
            let name = if whole_backend { "another" } else { "b" };
            configs.send_replace(Arc::new(config_of(backend(name, &[free.address()]))));
            // then they go there.
            while let Some(answer) = waiting.join_next().await {
                let answer = answer.unwrap();
                assert_eq!(answer.unwrap_or_else(|error| panic!("{whole_backend}: {error:?}")), "free");
            }
            drop(open);
            finish(mesh).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_storm_fails_no_request() {
    watched(async {
        // Given three endpoints and eight callers that send without a pause,
        let servers =
            [TestBackend::named("a").start(), TestBackend::named("b").start(), TestBackend::named("c").start()];
        let all = servers.each_ref().map(TestBackend::address);
        let (mesh, events, configs) = live_mesh(config(&all)).await;
        let (stop, stopped) = watch::channel(false);
        let mut callers = JoinSet::new();
        for caller in 0..8 {
            let (mesh, stopped) = (mesh.clone(), stopped.clone());
            callers.spawn(async move {
                let mut sent = 0;
                while !*stopped.borrow() {
                    let answer = post(&mesh, pattern(200, sent)).await;
                    answer.unwrap_or_else(|error| panic!("caller {caller}, request {sent}: {error:?}"));
                    sent += 1;
                }
                sent
            });
        }
        // when 200 updates change endpoints, weights and settings of the connections,
        let endpoints: [&[SocketAddr]; 4] = [&all[..2], &all[1..], &all[..1], &all];
        for number in 0..200u32 {
            let mut first = backend("b", endpoints[number as usize % 4]);
            if number % 16 < 4 {
                first.connect_timeout = Duration::from_secs(3);
            }
            let second = backend("c", &all[(number as usize / 4) % 3..]);
            let (before, later) = (mesh.config_status().borrow().version, events.from_now());
            configs.send_replace(Arc::new(split(vec![(first, 1 + number % 3), (second, number % 2)])));
            // Every other one is sent before the one before it is in force.
            if number % 2 == 0 {
                in_force(&mesh, before + 1).await;
                later.wait_for_nth(8, |seen| matches!(seen, Seen::Request { .. })).await;
            }
        }
        configs.send_replace(Arc::new(config(&all[2..])));
        events.from_now().wait_for(|seen| matches!(seen, Seen::Config { .. })).await;
        // then no request fails,
        stop.send_replace(true);
        let sent: usize = callers.join_all().await.into_iter().sum();
        assert!(sent >= 800, "only {sent} requests");
        // nothing is refused, and the last one wins.
        assert_eq!(events.count(|seen| matches!(seen, Seen::Config { error: Some(_), .. })), 0);
        mesh.config_status().wait_for(|status| status.error.is_none()).await.unwrap();
        while get(&mesh).await.unwrap() != "c" {}
        for _ in 0..20 {
            assert_eq!(get(&mesh).await.unwrap(), "c");
        }
        servers[0].deserted().await;
        servers[1].deserted().await;
        finish(mesh).await;
    })
    .await;
}

/// A connection that no update needs to touch is not touched.
#[tokio::test]
async fn endpoints_that_stay_keep_their_connections() {
    watched(async {
        let staying = TestBackend::named("staying").start();
        let others = [TestBackend::named("x").start(), TestBackend::named("y").start()];
        let (mesh, _, configs) = live_mesh(config(&[staying.address()])).await;
        get(&mesh).await.unwrap();
        for round in 0..20 {
            let addresses = [staying.address(), others[round % 2].address()];
            configs.send_replace(Arc::new(config(&addresses)));
            in_force(&mesh, round as u64 + 2).await;
            for _ in 0..4 {
                get(&mesh).await.unwrap();
            }
        }
        assert_eq!(staying.connections(), 1);
        finish(mesh).await;
    })
    .await;
}

#[tokio::test]
async fn cf_14_of_two_updates_the_last_one_wins() {
    watched(async {
        for gap in [Duration::ZERO, Duration::from_millis(10)] {
            let servers =
                [TestBackend::named("a").start(), TestBackend::named("b").start(), TestBackend::named("c").start()];
            let [first, second, third] = servers.each_ref().map(TestBackend::address);
            let (mesh, _, configs) = live_mesh(config(&[first])).await;
            assert_eq!(get(&mesh).await.unwrap(), "a");
            configs.send_replace(Arc::new(config_of(backend("b2", &[second]))));
            // The case is about this distance in time.
            tokio::time::sleep(gap).await;
            configs.send_replace(Arc::new(config_of(backend("b3", &[third]))));
            while get(&mesh).await.unwrap() != "c" {}
            for _ in 0..20 {
                assert_eq!(get(&mesh).await.unwrap(), "c");
            }
            finish(mesh).await;
        }
    })
    .await;
}

/// Two services claim one host: compiling such a configuration fails.
fn conflicting(config: &Config) -> Config {
    let hosts = config.virtual_hosts[0].hosts.clone();
    config.clone().with_virtual_host(VirtualHost::new("rival", hosts))
}

/// CF-03: a refused configuration changes nothing but the status, also for whoever comes later.
#[tokio::test]
async fn cf_03_a_refused_update_keeps_the_last_good_one() {
    watched(async {
        let server = TestBackend::named("a").start();
        let good = config(&[server.address()]);
        let (mesh, events, configs) = live_mesh(good.clone()).await;
        get(&mesh).await.unwrap();
        configs.send_replace(Arc::new(conflicting(&good)));
        let mut status = mesh.config_status();
        let refused = status.wait_for(|status| status.error.is_some()).await.unwrap().clone();
        assert_eq!(refused.version, 1);
        assert!(refused.error.unwrap().to_string().contains("rival"));
        assert_eq!(get(&mesh).await.unwrap(), "a");
        let mut late = mesh.service("svc").unwrap();
        let request = http::Request::get("/").body(http_body_util::Empty::<Bytes>::new()).unwrap();
        let answer = tower::Service::call(&mut late, request).await.unwrap();
        assert_eq!(answer.into_body().bytes().await.unwrap(), "a");
        configs.send_replace(Arc::new(good));
        let recovered = status.wait_for(|status| status.error.is_none()).await.unwrap().version;
        assert_eq!(recovered, 2);
        assert_eq!(events.count(|seen| matches!(seen, Seen::Config { error: Some(_), version: 1, .. })), 1);
        assert_eq!(server.connections(), 1);
        finish(mesh).await;
    })
    .await;
}

/// The newest word counts also where it is a refused one: what was accepted before it may come into force later, but
/// the status goes on telling that the newest is not.
#[tokio::test]
async fn cf_03_a_refusal_is_not_forgotten_when_an_older_update_comes_into_force() {
    watched(async {
        let server = TestBackend::named("a").start();
        let (release, released) = watch::channel(false);
        let slow = Server::start(move |_, stream| {
            let mut released = released.clone();
            async move {
                released.wait_for(|released| *released).await.unwrap();
                let Some(mut wire) = Wire::greet(stream, None).await else { return };
                wire.echo().await;
            }
        })
        .await;
        let (mesh, _, configs) = live_mesh(config(&[server.address()])).await;
        get(&mesh).await.unwrap();
        // Given an accepted update that waits for its endpoint,
        let next = config_of(backend("next", &[slow.address]));
        configs.send_replace(Arc::new(next.clone()));
        slow.accepts(1).await;
        // and a later one that is refused,
        configs.send_replace(Arc::new(conflicting(&next)));
        let mut status = mesh.config_status();
        status.wait_for(|status| status.error.is_some()).await.unwrap();
        // when the first comes into force,
        release.send_replace(true);
        let now = status.wait_for(|status| status.version == 2).await.unwrap().clone();
        // then the refusal is still told.
        assert!(now.error.is_some(), "the refusal is forgotten");
        assert_eq!(get(&mesh).await.unwrap(), "");
        configs.send_replace(Arc::new(next));
        status.wait_for(|status| status.error.is_none()).await.unwrap();
        finish(mesh).await;
    })
    .await;
}

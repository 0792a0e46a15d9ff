use std::collections::BTreeSet;
use std::time::Duration;

use http::{Request, StatusCode, header};
use mesh_tower::Mesh;
use mesh_tower::core::balance::State;
use mesh_tower::core::grpc::Code;
use mesh_tower::testing::{Fault, MemoryNetwork, TestBackend, grpc, watched};
use tower::ServiceExt;

use crate::support::{Caller, Live, addresses, answer, ask, config, endpoints, send, set_cookies};

const SESSION: &str = "session_affinity: { cookie: { name: sid, ttl: 1h } }";
const BACKEND: &str = "load_balancer: random";

async fn stays(caller: &mut Caller, mesh: &Mesh, home: &str) {
    for _ in 0..15 {
        assert_eq!(caller.visit(mesh, "/").await, home);
    }
}

#[tokio::test]
async fn a_session_survives_scaling_where_its_endpoint_still_exists() {
    watched(async {
        let network = MemoryNetwork::new();
        let endpoints = endpoints(&network, 6);
        let all = addresses(&endpoints);
        let live = Live::start(&network, config(SESSION, BACKEND, &all[..3])).await;
        let mut caller = Caller::default();
        let home = caller.visit(&live.mesh, "/").await;
        assert!(caller.cookie.as_ref().unwrap().starts_with("sid="));
        stays(&mut caller, &live.mesh, &home).await;

        live.update(config(SESSION, BACKEND, &all)).await;
        stays(&mut caller, &live.mesh, &home).await;
        let place: usize = home[1..].parse().unwrap();
        live.update(config(SESSION, BACKEND, &[all[place], all[5]])).await;
        stays(&mut caller, &live.mesh, &home).await;
        assert_eq!(caller.set, 1, "what the caller knows is not told again");

        // When it is gone, then another one takes the session over.
        live.update(config(SESSION, BACKEND, &[all[4]])).await;
        stays(&mut caller, &live.mesh, "e4").await;
        assert_eq!(caller.set, 2);
        live.update(config(SESSION, BACKEND, &all)).await;
        stays(&mut caller, &live.mesh, "e4").await;
        assert_eq!(caller.set, 2);
        live.mesh.end().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_session_is_not_hedged_away_from_an_endpoint_that_is_slow() {
    watched(async {
        let network = MemoryNetwork::new();
        let slow = TestBackend::handling(async |_| {
            tokio::time::sleep(Duration::from_secs(1)).await;
            "slow"
        });
        let slow = slow.start_in(&network);
        let quick = TestBackend::named("quick").start_in(&network);
        let route = format!("{SESSION}, hedging: {{ delay: 100ms }}");
        let live = Live::start(&network, config(&route, BACKEND, &[slow.address(), quick.address()])).await;
        let mut caller = Caller { cookie: Some(cookie_of(&slow)), set: 0 };
        stays(&mut caller, &live.mesh, "slow").await;
        assert_eq!((caller.set, quick.request_count()), (0, 0));

        // The first request of a session is free.
        for _ in 0..20 {
            assert_eq!(Caller::default().visit(&live.mesh, "/").await, "quick");
        }
        live.mesh.end().await;
    })
    .await;
}

/// gRFC A55, A75
#[tokio::test]
async fn an_endpoint_that_drains_keeps_its_sessions_and_gets_no_others() {
    watched(async {
        let network = MemoryNetwork::new();
        let endpoints = endpoints(&network, 3);
        let all = addresses(&endpoints);
        let live = Live::start(&network, config(SESSION, BACKEND, &all)).await;
        let mut caller = Caller::default();
        while caller.visit(&live.mesh, "/").await != "e1" {
            caller.cookie = None;
        }
        let with = |health: &str| {
            let second = format!("{{ address: \"{}\", health: {health} }}", all[1]);
            config(SESSION, BACKEND, &[all[0].to_string(), second, all[2].to_string()])
        };
        live.update(with("draining")).await;
        stays(&mut caller, &live.mesh, "e1").await;
        let mut others = BTreeSet::new();
        for _ in 0..60 {
            others.insert(Caller::default().visit(&live.mesh, "/").await);
        }
        assert_eq!(others, BTreeSet::from(["e0".to_owned(), "e2".to_owned()]));
        live.update(with("unhealthy")).await;
        let home = caller.visit(&live.mesh, "/").await;
        assert_ne!(home, "e1");
        stays(&mut caller, &live.mesh, &home).await;

        // Even where nothing else is there, and nobody else has an endpoint.
        let only = format!("{{ address: \"{}\", health: draining }}", all[0]);
        live.update(config(SESSION, BACKEND, &[only])).await;
        let mut bound = Caller { cookie: Some(cookie_of(&endpoints[0])), set: 0 };
        stays(&mut bound, &live.mesh, "e0").await;
        let error = live.mesh.http_client().get("http://shop/").await.unwrap_err();
        assert_eq!(error.kind(), mesh_tower::ErrorKind::NoEndpoint);
        live.mesh.end().await;
    })
    .await;
}

/// The cookie of the endpoint's sessions.
fn cookie_of(endpoint: &TestBackend) -> String {
    // Of three bytes each, so that no padding is needed.
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let text = endpoint.address().to_string();
    let bits = text.bytes().flat_map(|byte| (0..8).rev().map(move |place| byte >> place & 1)).collect::<Vec<_>>();
    let sextet = |bits: &[u8]| (0..6).fold(0, |value, place| value << 1 | bits.get(place).copied().unwrap_or(0));
    let encoded = bits.chunks(6).map(|bits| char::from(ALPHABET[usize::from(sextet(bits))]));
    format!("sid={}", encoded.collect::<String>())
}

#[tokio::test]
async fn a_session_waits_for_its_endpoint_alone() {
    watched(async {
        let network = MemoryNetwork::new();
        let endpoints = endpoints(&network, 10);
        let backend = format!("{BACKEND}, eager_endpoints: 1");
        let live = Live::start(&network, config(SESSION, &backend, &addresses(&endpoints))).await;
        let mut caller = Caller { cookie: Some(cookie_of(&endpoints[7])), set: 0 };
        stays(&mut caller, &live.mesh, "e7").await;
        assert_eq!(caller.set, 0);
        let connected: Vec<_> =
            endpoints.iter().filter(|endpoint| network.connects_to(endpoint.address()) > 0).collect();
        assert_eq!(connected.len(), 1);
        live.mesh.end().await;
    })
    .await;
}

#[tokio::test]
async fn what_a_cookie_holds_besides_a_known_address_is_ignored() {
    watched(async {
        let network = MemoryNetwork::new();
        let endpoints = endpoints(&network, 3);
        let live = Live::start(&network, config(SESSION, BACKEND, &addresses(&endpoints))).await;
        let stranger = TestBackend::named("stranger").start_in(&network);
        let long = format!("sid={}", "QUJD".repeat(2_000));
        let unknown = cookie_of(&stranger);
        let garbage = ["sid", "sid=", "sid=%%%", "sid=\u{fc}", "sid=AAAA", "sid==", ";;;=;sid=;", &long, &unknown];
        for cookie in garbage {
            let response = send(&live.mesh, Request::get("http://shop/").header(header::COOKIE, cookie)).await;
            assert_eq!(set_cookies(&response).len(), 1, "{cookie:?}");
            let set = set_cookies(&response).remove(0);
            let mut caller = Caller { cookie: Some(set.split(';').next().unwrap().to_owned()), set: 0 };
            let home = answer(response).await;
            stays(&mut caller, &live.mesh, &home).await;
        }
        assert_eq!(stranger.connections(), 0);
        live.mesh.end().await;
    })
    .await;
}

#[tokio::test]
async fn requests_outside_of_the_path_have_no_session() {
    watched(async {
        let network = MemoryNetwork::new();
        let endpoints = endpoints(&network, 3);
        let route = "session_affinity: { cookie: { name: sid, path: /cart } }";
        let live = Live::start(&network, config(route, BACKEND, &addresses(&endpoints))).await;
        let mut caller = Caller::default();
        let home = caller.visit(&live.mesh, "/cart/1").await;
        assert_eq!(caller.set, 1);
        let mut elsewhere = BTreeSet::new();
        for _ in 0..60 {
            elsewhere.insert(caller.visit(&live.mesh, "/carts").await);
        }
        assert_eq!((elsewhere.len(), caller.set), (3, 1));
        for _ in 0..10 {
            assert_eq!(caller.visit(&live.mesh, "/cart").await, home);
        }
        live.mesh.end().await;
    })
    .await;
}

#[tokio::test]
async fn a_session_in_a_header() {
    watched(async {
        let network = MemoryNetwork::new();
        let endpoints = endpoints(&network, 3);
        let live =
            Live::start(&network, config("session_affinity: { header: x-home }", BACKEND, &addresses(&endpoints)))
                .await;
        let response = send(&live.mesh, Request::get("http://shop/")).await;
        let session = response.headers()["x-home"].to_str().unwrap().to_owned();
        assert_eq!(set_cookies(&response).len(), 0);
        let home = answer(response).await;
        for _ in 0..15 {
            assert_eq!(ask(&live.mesh, "x-home", &session).await, home);
        }
        let response = send(&live.mesh, Request::get("http://shop/").header("x-home", session)).await;
        assert!(!response.headers().contains_key("x-home"), "the caller knows it");
        drop(response);
        live.mesh.end().await;
    })
    .await;
}

#[tokio::test]
async fn a_retry_goes_elsewhere_and_the_session_with_it() {
    watched(async {
        let network = MemoryNetwork::new();
        let endpoints = endpoints(&network, 3);
        let route = format!("{SESSION}, retry: {{ on: [5xx] }}");
        let live = Live::start(&network, config(&route, BACKEND, &addresses(&endpoints))).await;
        let mut caller = Caller::default();
        let home = caller.visit(&live.mesh, "/").await;
        let bound = &endpoints[home[1..].parse::<usize>().unwrap()];
        bound.fail_next(1, Fault::Status(StatusCode::SERVICE_UNAVAILABLE));
        let next = caller.visit(&live.mesh, "/").await;
        assert_ne!(next, home);
        assert_eq!(caller.set, 2);
        stays(&mut caller, &live.mesh, &next).await;
        live.mesh.end().await;
    })
    .await;
}

#[tokio::test]
async fn a_session_leaves_an_endpoint_that_cannot_be_connected() {
    watched(async {
        let network = MemoryNetwork::new();
        let endpoints = endpoints(&network, 3);
        let backend = format!("{BACKEND}, protocol: http2, connect_backoff: {{ base: 10ms, max: 50ms }}");
        let live = Live::start(&network, config(SESSION, &backend, &addresses(&endpoints))).await;
        let mut caller = Caller::default();
        let home = caller.visit(&live.mesh, "/").await;
        let bound = &endpoints[home[1..].parse::<usize>().unwrap()];
        let later = live.events.from_now();
        bound.set(Fault::Refused);
        later.wait_for_state(bound.address(), State::Failing).await;
        let next = caller.visit(&live.mesh, "/").await;
        assert_ne!(next, home);
        stays(&mut caller, &live.mesh, &next).await;
        live.mesh.end().await;
    })
    .await;
}

/// Streams that are used up move no session, and hold up nobody else.
#[tokio::test]
async fn a_session_waits_for_a_stream_of_its_endpoint() {
    watched(async {
        let network = MemoryNetwork::new();
        let bound = TestBackend::named("e0").max_concurrent_streams(1).start_in(&network);
        let other = TestBackend::named("e1").start_in(&network);
        let backend = format!("{BACKEND}, protocol: http2, circuit_breaker: {{ max_connections: 2 }}");
        let live = Live::start(&network, config(SESSION, &backend, &[bound.address(), other.address()])).await;
        let cookie = cookie_of(&bound);
        let asked = |number: usize| {
            let (mesh, cookie) = (live.mesh.clone(), cookie.clone());
            tokio::spawn(async move {
                let request = Request::get(format!("http://shop/{number}")).header(header::COOKIE, cookie);
                let response = send(&mesh, request).await;
                assert_eq!(set_cookies(&response).len(), 0);
                answer(response).await
            })
        };
        let first = asked(0);
        assert_eq!(first.await.unwrap(), "e0");
        bound.set(Fault::Stall);
        let waiting: Vec<_> = (1..=5).map(asked).collect();
        bound.arrived(2).await;
        // The balancer has only the other one to give while the first is full.
        for _ in 0..20 {
            assert_eq!(Caller::default().visit(&live.mesh, "/").await, "e1");
        }
        assert!(bound.request_count() <= 3, "it has two connections at most, and the others wait");
        bound.recover();
        for waiting in waiting {
            assert_eq!(waiting.await.unwrap(), "e0");
        }
        assert_eq!(bound.request_count(), 6);
        live.mesh.end().await;
    })
    .await;
}

/// With messages and with a status alone.
#[tokio::test]
async fn a_session_of_grpc_calls() {
    watched(async {
        let network = MemoryNetwork::new();
        let servers: Vec<_> = (0..3)
            .map(|_| {
                let handler = async |request: Request<mesh_tower::testing::RequestBody>| match request.uri().path() {
                    "/s.S/Refuse" => grpc::trailers_only(Code::NotFound, ""),
                    _ => grpc::answer(["hello"], Code::Ok, ""),
                };
                TestBackend::handling(handler).start_in(&network)
            })
            .collect();
        for method in ["Greet", "Refuse"] {
            let live = Live::start(&network, config(SESSION, BACKEND, &addresses(&servers))).await;
            let before: Vec<_> = servers.iter().map(TestBackend::request_count).collect();
            let mut cookie = None;
            for number in 0..15 {
                let mut request = grpc::call(&format!("http://shop/s.S/{method}"), "hi");
                if let Some(cookie) = &cookie {
                    request.headers_mut().insert(header::COOKIE, http::HeaderValue::try_from(cookie).unwrap());
                }
                let response = live.mesh.http_client().oneshot(request).await.unwrap();
                let set = set_cookies(&response);
                assert_eq!(set.len(), usize::from(number == 0), "{method}");
                cookie = cookie.or_else(|| Some(set[0].split(';').next().unwrap().to_owned()));
                response.into_body().bytes().await.unwrap();
            }
            let served = servers.iter().zip(before).map(|(server, before)| server.request_count() - before);
            assert_eq!(served.filter(|served| *served > 0).collect::<Vec<_>>(), [15], "{method}");
            live.mesh.end().await;
        }
    })
    .await;
}

//! h2spec, and Envoy to compare with. `.ci/interop h2spec` runs these tests.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::time::Duration;

use examples::echo;
use examples::peers::{Bare, Envoy, Outcome, Outcomes, h2spec};

const ENVOY: &str = "
static_resources:
  listeners:
  - name: front
    address: { socket_address: { address: 127.0.0.1, port_value: 0 } }
    filter_chains:
    - filters:
      - name: http
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          route_config:
            virtual_hosts:
            - { name: all, domains: ['*'], routes: [{ match: { prefix: / }, direct_response: { status: 200, body: { inline_string: hello } } }] }
          http_filters:
          - { name: router, typed_config: { '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router } }
";

const PAUSE: Duration = Duration::from_secs(2);

fn failed(outcomes: &Outcomes) -> Vec<&(String, String)> {
    outcomes.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Failed(_))).map(|(test, _)| test).collect()
}

/// What `server` fails and Envoy, asked at the same time, does not: each tried again with more patience, as h2spec takes a
/// slow answer for none.
async fn worse_than_envoy(server: SocketAddr) -> Vec<(String, String, String)> {
    let envoy = Envoy::start(ENVOY).await;
    let envoy = async { h2spec(envoy.listener("front"), "/", PAUSE, &[], &[]).await };
    let (envoy, ours) = tokio::join!(envoy, h2spec(server, "/", PAUSE, &[], &[]));
    assert_eq!(envoy.len(), ours.len());
    let known = failed(&envoy);
    // Fewer, and Envoy was not what was asked; many more, and there is nothing to compare with.
    assert!((5..=30).contains(&known.len()), "{known:#?}");
    let mut worse = Vec::new();
    for test in failed(&ours).into_iter().filter(|test| !known.contains(test)) {
        let again = h2spec(server, "/", 3 * PAUSE, &[], &[&test.0]).await;
        if let Some(Outcome::Failed(how)) = again.get(test) {
            worse.push((test.0.clone(), test.1.clone(), how.clone()));
        }
    }
    worse
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_echo_service_over_bare_hyper_is_no_worse_than_envoy() {
    let server = Bare::serve(echo::app(echo::Options::new("one")).await).await.unwrap();
    let worse = worse_than_envoy(server.address()).await;
    assert!(worse.is_empty(), "{worse:#?}");
}

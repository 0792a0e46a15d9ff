//! h2spec, and Envoy to compare with. `.ci/interop h2spec` runs these tests.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bootstrap;
mod ours;

use std::net::SocketAddr;
use std::time::Duration;

use examples::certs::Authority;
use examples::peers::{Envoy, Outcome, Outcomes, h2spec};

use self::bootstrap::{ISTIO_H2, tunnel};
use self::ours::{CLIENT, Ours, SERVER, files};

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

/// What `server` fails and Envoy, as `known` tells, does not: each tried again with more patience, as h2spec takes a slow
/// answer for none.
async fn worse(server: SocketAddr, ours: &Outcomes, known: &[&(String, String)]) -> Vec<(String, String, String)> {
    let mut worse = Vec::new();
    for test in failed(ours).into_iter().filter(|test| !known.contains(test)) {
        let again = h2spec(server, "/", 3 * PAUSE, &[], &[&test.0]).await;
        if let Some(Outcome::Failed(how)) = again.get(test) {
            worse.push((test.0.clone(), test.1.clone(), how.clone()));
        }
    }
    worse
}

/// All sections: generic, http2 and hpack. h2spec has no certificate, so that an Envoy shows one for it, byte by byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_server_is_no_worse_than_envoy_in_plaintext_and_by_mutual_tls() {
    let authority = Authority::new("cluster.local").unwrap();
    let (of_server, client) = (files(&authority, SERVER), files(&authority, CLIENT));
    let (plain, strict) = tokio::join!(Ours::plain(), Ours::with(&of_server, "strict"));
    let tunnel = Envoy::start(&tunnel(strict.address(), &client, ISTIO_H2, SERVER)).await;
    let envoy = Envoy::start(ENVOY).await;
    let ways = [envoy.listener("front"), plain.address(), tunnel.listener("front")];
    let [envoy, by_plaintext, by_tls] = ways.map(|way| h2spec(way, "/", PAUSE, &[], &[]));
    let (envoy, by_plaintext, by_tls) = tokio::join!(envoy, by_plaintext, by_tls);

    let known = failed(&envoy);
    // Fewer, and Envoy was not what was asked; many more, and there is nothing to compare with.
    assert!((5..=30).contains(&known.len()), "{known:#?}");
    for (way, ours) in [(ways[1], by_plaintext), (ways[2], by_tls)] {
        assert_eq!(envoy.len(), ours.len());
        let sections = ["generic", "http2", "hpack"].map(|part| ours.keys().any(|test| test.0.starts_with(part)));
        assert_eq!(sections, [true; 3]);
        let worse = worse(way, &ours, &known).await;
        assert!(worse.is_empty(), "{worse:#?}");
    }
}

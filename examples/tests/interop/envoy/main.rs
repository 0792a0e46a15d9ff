//! Envoy, and what curl and openssl see of it. `.ci/interop envoy` runs these tests.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;

use examples::certs::{Authority, Leaf};
use examples::echo;
use examples::peers::{Bare, Envoy, Files, curl, s_client};
use serde_json::Value;

const SERVER: &str = "spiffe://cluster.local/ns/default/sa/server";
const CLIENT: &str = "spiffe://cluster.local/ns/default/sa/client";

/// A server as Istio's PERMISSIVE mode makes it, on the listener `front`: mutual TLS for peers of the trust domain
/// cluster.local that speak Istio's protocols by ALPN, plaintext for all others. Answers tell the chain and the peer.
fn permissive(files: &Files) -> String {
    let http = |chain: &str| {
        format!(
            "
    - name: {chain}
      filter_chain_match: {{ MATCH }}
      TLS
      filters:
      - name: http
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {chain}
          route_config:
            response_headers_to_add:
            - {{ header: {{ key: x-chain, value: {chain} }} }}
            - {{ header: {{ key: x-peer, value: '%DOWNSTREAM_PEER_URI_SAN%' }} }}
            virtual_hosts:
            - name: all
              domains: ['*']
              routes: [{{ match: {{ prefix: / }}, direct_response: {{ status: 200, body: {{ inline_string: hello }} }} }}]
          http_filters:
          - name: router
            typed_config: {{ '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}"
        )
    };
    let (certificate, key, bundle) = (files.certificate(), files.key(), files.bundle());
    let tls = format!(
        "transport_socket:
        name: tls
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context:
            alpn_protocols: [h2, http/1.1]
            tls_certificates:
            - certificate_chain: {{ filename: '{}' }}
              private_key: {{ filename: '{}' }}
            validation_context:
              trusted_ca: {{ filename: '{}' }}
              match_typed_subject_alt_names:
              - {{ san_type: URI, matcher: {{ prefix: 'spiffe://cluster.local/' }} }}",
        certificate.display(),
        key.display(),
        bundle.display()
    );
    let istio = "transport_protocol: tls, \
                 application_protocols: [istio, istio-peer-exchange, istio-http/1.0, istio-http/1.1, istio-h2]";
    let mutual = http("mtls").replace("MATCH", istio).replace("TLS", &tls);
    let plain = http("plain").replace("MATCH", "transport_protocol: raw_buffer").replace("      TLS\n", "");
    format!(
        "
static_resources:
  listeners:
  - name: front
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    listener_filters:
    - name: tls_inspector
      typed_config:
        '@type': type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector
    filter_chains:{mutual}{plain}
"
    )
}

/// A proxy on the listener `front` that sends everything to `server`, by HTTP/2.
fn proxy(server: SocketAddr) -> String {
    format!(
        "
static_resources:
  listeners:
  - name: front
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          route_config:
            virtual_hosts: [{{ name: all, domains: ['*'], routes: [{{ match: {{ prefix: / }}, route: {{ cluster: echo }} }}] }}]
          http_filters:
          - name: router
            typed_config: {{ '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
  clusters:
  - name: echo
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ http2_protocol_options: {{}} }}
    load_assignment:
      cluster_name: echo
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }}
",
        server.ip(),
        server.port()
    )
}

fn files(authority: &Authority, identity: &str) -> Files {
    Files::write(&authority.issue(&Leaf::new(identity)).unwrap())
}

#[tokio::test]
async fn it_says_what_is_wrong_with_a_configuration() {
    let good = proxy(([127, 0, 0, 1], 1).into());
    Envoy::validate(&good).await.unwrap();
    let error = Envoy::validate(&good.replace("cluster: echo", "cluster: nobody")).await.unwrap_err();
    assert!(error.contains("unknown cluster 'nobody'"), "{error}");
    let error = Envoy::validate(&good.replace("STATIC", "STOIC")).await.unwrap_err();
    assert!(error.contains("STOIC"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_forwards_to_the_echo_service() {
    let server = Bare::serve(echo::app(echo::Options::new("one")).await).await.unwrap();
    let envoy = Envoy::start(&proxy(server.address())).await;
    let url = format!("http://{}/a/b", envoy.listener("front"));
    for (protocol, version) in [("--http1.1", "1.1"), ("--http2-prior-knowledge", "2")] {
        let fetched = curl(&url, None, &[protocol, "--header", "x-one: 1"]).await;
        assert_eq!((fetched.status, &*fetched.version), (200, version), "{fetched:?}");
        let told: Value = serde_json::from_str(&fetched.body).unwrap();
        assert_eq!(
            (&told["protocol"], &told["server_id"], &told["path"]),
            (&"HTTP/2".into(), &"one".into(), &"/a/b".into())
        );
        assert_eq!(told["headers"]["x-one"][0], "1");
        assert_eq!(told["headers"]["x-envoy-expected-rq-timeout-ms"][0], "15000");
    }
    assert_eq!(envoy.stat("cluster.echo.upstream_rq_200").await.unwrap(), 2);
    assert_eq!(envoy.stat("cluster.nobody.upstream_rq_200").await.unwrap(), 0);
    let listener = envoy.listener("front");
    drop(envoy);
    let refused = curl(&format!("http://{listener}/"), None, &[]).await;
    assert_eq!((refused.code, refused.status), (Some(7), 0), "{refused:?}");
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_permissive_server_tells_mesh_peers_from_others() {
    let authority = Authority::new("cluster.local").unwrap();
    let envoy = Envoy::start(&permissive(&files(&authority, SERVER))).await;
    let front = envoy.listener("front");
    let client = files(&authority, CLIENT);

    // What Istio's sidecars offer, in both versions of TLS; the last two have nothing in common with the server by ALPN.
    for (offer, agreed) in
        [("istio-http/1.1,istio,http/1.1", Some("http/1.1")), ("istio", None), ("istio-peer-exchange,istio", None)]
    {
        for version in ["TLSv1.3", "TLSv1.2"] {
            let flag = if version == "TLSv1.3" { "-tls1_3" } else { "-tls1_2" };
            let seen = s_client(front, Some(&client), &["-alpn", offer, flag], GET).await;
            assert_eq!((seen.version.as_deref(), seen.alpn.as_deref()), (Some(version), agreed), "{offer}: {seen:?}");
            let said = seen.ran.said();
            assert!(said.contains("x-chain: mtls") && said.contains(&format!("x-peer: {CLIENT}")), "{offer}: {said}");
        }
    }
    let plain = curl(&format!("http://{front}/"), None, &[]).await;
    assert!(plain.status == 200 && plain.head.contains("x-chain: plain"), "{plain:?}");

    // Whoever does not say that it is of a mesh has no chain.
    let seen = s_client(front, Some(&client), &["-alpn", "h2"], GET).await;
    assert_eq!((seen.version, seen.alert), (None, None));
    let seen = curl(&format!("https://{front}/"), Some(&client), &["--insecure"]).await;
    assert!(seen.status == 0 && seen.code != Some(0), "{seen:?}");

    // RFC 8446 6.2: certificate_required, unknown_ca, certificate_unknown.
    let offer = ["-alpn", "istio-h2,istio,h2"];
    assert_eq!(s_client(front, None, &offer, GET).await.alert, Some(116));
    let stranger = files(&Authority::new("cluster.local").unwrap(), CLIENT);
    assert_eq!(s_client(front, Some(&stranger), &offer, GET).await.alert, Some(48));
    let elsewhere = files(&authority, "spiffe://elsewhere/ns/default/sa/client");
    assert_eq!(s_client(front, Some(&elsewhere), &offer, GET).await.alert, Some(46));
    for leaf in [Leaf::new(CLIENT).expired(), Leaf::new(CLIENT).not_yet_valid()] {
        let bad = Files::write(&authority.issue(&leaf).unwrap());
        let seen = s_client(front, Some(&bad), &offer, GET).await;
        assert!(seen.alert.is_some(), "{seen:?}");
    }
    assert_eq!(envoy.stat("listener.127.0.0.1_0.ssl.fail_verify_no_cert").await.unwrap(), 1);
    assert_eq!(envoy.stat("listener.127.0.0.1_0.ssl.fail_verify_san").await.unwrap(), 1);
}

//! A server as Istio's PERMISSIVE mode makes it, and what openssl and curl see of it.

use std::net::SocketAddr;

use examples::certs::{Authority, Leaf};
use examples::peers::{Envoy, Files, curl, s_client};

use crate::bootstrap::{bootstrap, chain, cluster, http, listener, to_clients};
use crate::ours::{CLIENT, SERVER, files};

const ISTIO: &str = "istio, istio-peer-exchange, istio-http/1.0, istio-http/1.1, istio-h2";
const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n";

/// On the listeners `front` and `second`: mutual TLS for peers of the trust domain cluster.local that speak Istio's protocols by ALPN,
/// plaintext for all others. Answers tell the chain, the peer, and what was spoken. Calls of gRPC's interop service go to
/// `echo`.
pub(crate) fn permissive(files: &Files, echo: SocketAddr) -> String {
    let routes = |chain: &str| {
        let header = |name: &str, value: &str| format!("{{ header: {{ key: {name}, value: '{value}' }} }}");
        let headers = [
            header("x-chain", chain),
            header("x-peer", "%DOWNSTREAM_PEER_URI_SAN%"),
            header("x-protocol", "%PROTOCOL%"),
            header("x-tls", "%DOWNSTREAM_TLS_VERSION%"),
        ];
        format!(
            "response_headers_to_add: [ {} ], virtual_hosts: [ {{ name: all, domains: ['*'], routes: [ \
             {{ match: {{ prefix: /grpc.testing. }}, route: {{ cluster: echo }} }}, \
             {{ match: {{ prefix: / }}, direct_response: {{ status: 200, body: {{ inline_string: hello }} }} }} ] }} ]",
            headers.join(", ")
        )
    };
    let mesh = format!("filter_chain_match: {{ transport_protocol: tls, application_protocols: [ {ISTIO} ] }},");
    let tls = to_clients(files, "h2, http/1.1", "prefix: 'spiffe://cluster.local/'");
    let mutual = chain("mtls", &(mesh + &tls), &http("mtls", &routes("mtls"), ""));
    let others = "filter_chain_match: { transport_protocol: raw_buffer },";
    let plain = chain("plain", others, &http("plain", &routes("plain"), ""));
    let chains = [mutual, plain];
    bootstrap(&[listener("front", &chains), listener("second", &chains)], &[cluster("echo", &[echo], true, "")])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_permissive_server_tells_mesh_peers_from_others() {
    let authority = Authority::new("cluster.local").unwrap();
    let nobody = ([127, 0, 0, 1], 1).into();
    let envoy = Envoy::start(&permissive(&files(&authority, SERVER), nobody)).await;
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

//! Our client, and an Envoy that serves as Istio's sidecars do.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use examples::certs::Authority;
use examples::grpc_testing::Empty;
use examples::grpc_testing::test_service_client::TestServiceClient;
use examples::peers::{Envoy, Files};
use http::HeaderMap;
use mesh_tonic::mesh_tower::ErrorKind;
use mesh_tonic::{Mesh, MeshExt as _};

use crate::cases;
use crate::ours::{CLIENT, Ours, SERVER, files, identity, mesh};
use crate::permissive::permissive;

/// An Envoy behind which the echo service is, by a certificate with an intermediate one in its chain.
async fn envoy(authority: &Authority, behind: SocketAddr) -> (Envoy, Files) {
    let its = files(&authority.intermediate().unwrap(), SERVER);
    (Envoy::start(&permissive(&its, behind)).await, its)
}

fn service(name: &str, endpoint: &str, protocol: &str, tls: &str) -> String {
    format!("  {name}: {{ backends: {{ it: {{ endpoints: [{endpoint}], protocol: {protocol}, tls: {tls} }} }} }}\n")
}

/// What Envoy has seen: its chain, the peer, and what was spoken.
fn seen(headers: &HeaderMap) -> [&str; 4] {
    ["x-chain", "x-peer", "x-protocol", "x-tls"]
        .map(|name| headers.get(name).map_or("", |value| value.to_str().unwrap()))
}

async fn get(mesh: &Mesh, service: &str) -> HeaderMap {
    let response = mesh.http_client().get(format!("http://{service}/")).await;
    let response = response.unwrap_or_else(|error| panic!("{service}: {error}"));
    let headers = response.headers().clone();
    assert_eq!(response.into_body().string().await.unwrap(), "hello", "{service}");
    headers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_is_a_peer_of_its_mesh() {
    let authority = Authority::new("cluster.local").unwrap();
    let behind = Ours::plain().await;
    let (envoy, _its) = envoy(&authority, behind.address()).await;
    let client = files(&authority, CLIENT);
    let front = envoy.listener("front");
    let (plain, marked) = (format!("'{front}'"), format!("{{ address: '{front}', mesh: true }}"));
    // The other one is an endpoint that is not of the mesh.
    let some = format!("{marked}, '{}'", envoy.listener("second"));
    let mutual = format!("{{ mode: mutual, identities: ['{SERVER}'] }}");
    let auto = format!("{{ mode: auto, identities: ['{SERVER}'] }}");
    let services = [
        service("mutual-h1", &plain, "http1", &mutual),
        service("mutual-h2", &plain, "http2", &mutual),
        service("mutual-any", &plain, "auto", &mutual),
        service("marked", &marked, "http2", &auto),
        service("some-h1", &some, "http1", &auto),
        service("some-h2", &some, "http2", &auto),
        service("disabled-h1", &plain, "http1", "{ mode: disabled }"),
        service("disabled-h2", &plain, "http2", "{ mode: disabled }"),
    ];
    let ours = mesh(&format!("{}services:\n{}", identity(&client), services.concat())).await;
    let by_tls = |protocol| ["mtls", CLIENT, protocol, "TLSv1.3"];
    let in_plaintext = |protocol| ["plain", "", protocol, ""];
    for (service, expected) in [
        ("mutual-h1", by_tls("HTTP/1.1")),
        ("mutual-h2", by_tls("HTTP/2")),
        ("mutual-any", by_tls("HTTP/2")),
        ("marked", by_tls("HTTP/2")),
        ("disabled-h1", in_plaintext("HTTP/1.1")),
        ("disabled-h2", in_plaintext("HTTP/2")),
    ] {
        let headers = get(&ours, service).await;
        assert_eq!(seen(&headers), expected, "{service}");
    }

    for (service, protocol) in [("some-h1", "HTTP/1.1"), ("some-h2", "HTTP/2")] {
        let mut chains = BTreeSet::new();
        // One of the two connects first.
        while chains.len() < 2 {
            let headers = get(&ours, service).await;
            let seen = seen(&headers);
            assert!(seen == by_tls(protocol) || seen == in_plaintext(protocol), "{service}: {seen:?}");
            chains.insert(seen[0].to_owned());
        }
    }

    for (service, expected) in [("mutual-h2", by_tls("HTTP/2")), ("disabled-h2", in_plaintext("HTTP/2"))] {
        let channel = ours.channel(service).unwrap();
        let answer = TestServiceClient::new(channel.clone()).empty_call(Empty {}).await.unwrap();
        assert_eq!(seen(answer.metadata().as_ref()), expected, "{service}");
        cases::all(channel).await;
    }
    ours.shutdown().await;
}

/// MT-15, MT-16: whoever is not the one that is expected, and whoever does not let us in, gets not a byte in plaintext.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_and_it_refuse_each_other() {
    let authority = Authority::new("cluster.local").unwrap();
    let (envoy, its) = envoy(&authority, ([127, 0, 0, 1], 1).into()).await;
    let front = format!("{{ address: '{}', mesh: true }}", envoy.listener("front"));
    let tls = |mode, identity| format!("{{ mode: {mode}, identities: ['{identity}'] }}");
    let client = files(&authority, CLIENT);
    let stranger = files(&Authority::new("cluster.local").unwrap(), CLIENT);
    let (ca, its_ca) = (stranger.bundle().display().to_string(), its.bundle().display().to_string());
    let elsewhere = files(&authority, "spiffe://elsewhere/ns/default/sa/client");
    // A bundle of the own trust domain is none of the server's.
    let known = format!("trust_bundles: {{ cluster.local: '{its_ca}' }} }}");
    for (who, expected, reason) in [
        (identity(&client), CLIENT, SERVER),
        // Envoy refuses those: unknown_ca, and certificate_unknown.
        (identity(&stranger).replace(&ca, &its_ca), SERVER, "UnknownCA"),
        (identity(&elsewhere).replace(" }", &format!(", {known}")), SERVER, "CertificateUnknown"),
    ] {
        for (mode, protocol) in [("mutual", "http1"), ("mutual", "http2"), ("auto", "http2")] {
            let service = service("it", &front, protocol, &tls(mode, expected));
            let ours = mesh(&format!("{who}services:\n{service}")).await;
            let error = ours.http_client().get("http://it/").await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NoHealthyEndpoint, "{error}");
            assert!(error.to_string().contains(reason), "{mode} {protocol}: {error}");
            ours.shutdown().await;
        }
    }
    for chain in ["plain", "mtls"] {
        assert_eq!(envoy.stat(&format!("http.{chain}.downstream_rq_total")).await.unwrap(), 0, "{chain}");
    }
    assert_eq!(envoy.stat("http.plain.downstream_cx_total").await.unwrap(), 0);
    assert!(envoy.stat("listener.127.0.0.1_0.ssl.fail_verify_san").await.unwrap() > 0);
}

//! An Envoy that calls as Istio's sidecars do, and our server.

use std::net::SocketAddr;

use examples::certs::Authority;
use examples::peers::{Envoy, Files, curl};
use mesh_tonic::Mesh;

use crate::bootstrap::{ISTIO_H2, ISTIO_HTTP1, all_to, bootstrap, chain, cluster, http, listener, to_server};
use crate::ours::{CLIENT, Ours, SERVER, files, identity};
use crate::told;

/// A way through Envoy to a server: the listener and the cluster have its name.
struct Way {
    name: String,
    to: SocketAddr,
    http2: bool,
    /// A cluster's fields for TLS; empty for plaintext.
    tls: String,
}

impl Way {
    fn by_tls(name: &str, to: SocketAddr, files: &Files, server: &str) -> Self {
        Self { name: name.to_owned(), to, http2: true, tls: to_server(files, ISTIO_H2, server, "") }
    }
}

async fn through(ways: &[Way]) -> Envoy {
    let listeners =
        ways.iter().map(|Way { name, .. }| listener(name, &[chain("all", "", &http(name, &all_to(name, ""), ""))]));
    let clusters = ways.iter().map(|Way { name, to, http2, tls }| cluster(name, &[*to], *http2, tls));
    Envoy::start(&bootstrap(&listeners.collect::<Vec<_>>(), &clusters.collect::<Vec<_>>())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_known_to_our_server() {
    let authority = Authority::new("cluster.local").unwrap();
    let (of_server, client) = (files(&authority.intermediate().unwrap(), SERVER), files(&authority, CLIENT));
    let strict = Ours::with(&of_server, "strict").await;
    let permissive = Ours::with(&of_server, "permissive").await;
    let mut ways = Vec::new();
    for (mode, to) in [("strict", strict.address()), ("permissive", permissive.address())] {
        for (http2, alpn) in [(true, ISTIO_H2), (false, ISTIO_HTTP1), (true, "istio"), (false, "istio")] {
            // What it speaks if nothing else is said, and what it can be told to.
            for (version, parameters) in [("TLSv1.2", ""), ("TLSv1.3", "tls_maximum_protocol_version: TLSv1_3")] {
                let name = format!("{mode}-{version}-{}-{http2}", alpn.split(',').count()).replace('.', "");
                ways.push((Way { name, to, http2, tls: to_server(&client, alpn, SERVER, parameters) }, Some(version)));
            }
        }
        for http2 in [true, false] {
            ways.push((Way { name: format!("{mode}-plain-{http2}"), to, http2, tls: String::new() }, None));
        }
    }
    let (ways, versions): (Vec<_>, Vec<_>) = ways.into_iter().unzip();
    let envoy = through(&ways).await;
    for (Way { name, http2, to, .. }, version) in ways.iter().zip(versions) {
        let url = format!("http://{}/", envoy.listener(name));
        let fetched = curl(&url, None, &["--data", "some"]).await;
        if version.is_none() && *to == strict.address() {
            assert_eq!(fetched.status, 503, "{name}: {fetched:?}");
            continue;
        }
        assert_eq!(fetched.status, 200, "{name}: {fetched:?}");
        let told = told(&fetched.body);
        assert_eq!(told["protocol"], if *http2 { "HTTP/2" } else { "HTTP/1.1" }, "{name}");
        let peer = (&told["peer"]["identity"], &told["peer"]["mutual"]);
        match version {
            None => assert_eq!(peer, (&serde_json::Value::Null, &false.into()), "{name}"),
            Some(version) => {
                assert_eq!(peer, (&CLIENT.into(), &true.into()), "{name}");
                let stat = format!("cluster.{name}.ssl.versions.{version}");
                assert_eq!(envoy.stat(&stat).await.unwrap(), 1, "{stat}");
            }
        }
        let fetched = curl(&format!("{url}bytes/1000000"), None, &[]).await;
        assert_eq!((fetched.status, fetched.body.len()), (200, 1_000_000), "{name}");
    }
    assert_eq!((strict.drained().await, permissive.drained().await), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_and_our_server_refuse_each_other() {
    let authority = Authority::new("cluster.local").unwrap();
    let (of_server, client) = (files(&authority, SERVER), files(&authority, CLIENT));
    let other = files(&authority, "spiffe://cluster.local/ns/default/sa/other");
    let stranger = files(&Authority::new("cluster.local").unwrap(), CLIENT);
    for mode in ["strict", "permissive"] {
        let config = format!(
            "{}servers: [{{ name: public, tls: {{ mode: {mode}, identities: ['{CLIENT}'] }} }}]",
            identity(&of_server)
        );
        let server = Ours::by(Mesh::builder().text(config).prometheus().build().await.unwrap(), "one").await;
        let to = server.address();
        // By 1.3 a client is through before the server has seen its certificate.
        let newer = |files| to_server(files, ISTIO_H2, SERVER, "tls_maximum_protocol_version: TLSv1_3");
        let envoy = through(&[
            Way::by_tls("expected", to, &client, SERVER),
            Way::by_tls("not-expected", to, &client, CLIENT),
            Way::by_tls("not-let-in", to, &other, SERVER),
            Way { tls: newer(&other), ..Way::by_tls("not-let-in-newer", to, &other, SERVER) },
            Way::by_tls("not-trusting", to, &stranger, SERVER),
        ])
        .await;
        for way in ["not-expected", "not-let-in", "not-let-in-newer", "not-trusting"] {
            let fetched = curl(&format!("http://{}/", envoy.listener(way)), None, &[]).await;
            assert_eq!(fetched.status, 503, "{mode}, {way}: {fetched:?}");
        }
        assert_eq!(envoy.stat("cluster.not-expected.ssl.fail_verify_san").await.unwrap(), 1);
        assert_eq!(envoy.stat("cluster.not-trusting.ssl.fail_verify_error").await.unwrap(), 1);
        for way in ["not-let-in", "not-let-in-newer"] {
            assert_eq!(envoy.stat(&format!("cluster.{way}.ssl.connection_error")).await.unwrap(), 1, "{way}");
        }
        let page = server.mesh.prometheus_text();
        assert!(!page.contains("\nmesh_server_requests_total"), "{page}");
        // Two by us, of whom we did not expect, and two by Envoy.
        for (result, count) in [("wrong_name", 2), ("protocol", 2)] {
            let handshakes =
                format!("mesh_server_handshakes_total{{mesh_server=\"public\",error_type=\"{result}\"}} {count}");
            assert!(page.contains(&handshakes), "{handshakes}: {page}");
        }

        let fetched = curl(&format!("http://{}/", envoy.listener("expected")), None, &[]).await;
        assert_eq!(told(&fetched.body)["peer"]["identity"], CLIENT, "{mode}");
    }
}

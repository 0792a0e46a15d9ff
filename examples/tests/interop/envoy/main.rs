//! Envoy, openssl and curl, and our server and client towards them. `.ci/interop envoy` runs these tests.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../bootstrap.rs"]
mod bootstrap;
#[path = "../cases.rs"]
mod cases;
mod forwarded;
mod its_client;
mod its_server;
#[path = "../ours.rs"]
mod ours;
mod permissive;
mod refusals;

use examples::peers::{Envoy, curl};
use serde_json::Value;

use self::bootstrap::{all_to, bootstrap, chain, cluster, http, listener};
use self::ours::Ours;

/// What an answer of ours tells.
fn told(body: &str) -> Value {
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

#[tokio::test]
async fn it_says_what_is_wrong_with_a_configuration() {
    let front = listener("front", &[chain("all", "", &http("front", &all_to("echo", ""), ""))]);
    let good = bootstrap(&[front], &[cluster("echo", &[([127, 0, 0, 1], 1).into()], true, "")]);
    Envoy::validate(&good).await.unwrap();
    let error = Envoy::validate(&good.replace("cluster: echo", "cluster: nobody")).await.unwrap_err();
    assert!(error.contains("unknown cluster 'nobody'"), "{error}");
    let error = Envoy::validate(&good.replace("STATIC", "STOIC")).await.unwrap_err();
    assert!(error.contains("STOIC"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_forwards_to_our_server_in_plaintext() {
    let server = Ours::plain().await;
    let front = listener("front", &[chain("all", "", &http("front", &all_to("echo", ""), ""))]);
    let envoy = Envoy::start(&bootstrap(&[front], &[cluster("echo", &[server.address()], true, "")])).await;
    let url = format!("http://{}/a/b", envoy.listener("front"));
    for (protocol, version) in [("--http1.1", "1.1"), ("--http2-prior-knowledge", "2")] {
        let fetched = curl(&url, None, &[protocol, "--header", "x-one: 1"]).await;
        assert_eq!((fetched.status, &*fetched.version), (200, version), "{fetched:?}");
        let told = told(&fetched.body);
        assert_eq!(
            (&told["protocol"], &told["server_id"], &told["path"]),
            (&"HTTP/2".into(), &"one".into(), &"/a/b".into())
        );
        assert_eq!(told["headers"]["x-one"][0], "1");
        // AZ-05: what Envoys tell each other is believed of those alone that are known.
        assert!(!fetched.body.contains("x-envoy-"), "{told}");
    }
    assert_eq!(envoy.stat("cluster.echo.upstream_rq_200").await.unwrap(), 2);
    assert_eq!(envoy.stat("cluster.nobody.upstream_rq_200").await.unwrap(), 0);
    let listener = envoy.listener("front");
    drop(envoy);
    let refused = curl(&format!("http://{listener}/"), None, &[]).await;
    assert_eq!((refused.status, refused.code), (0, Some(7)), "{refused:?}");
}

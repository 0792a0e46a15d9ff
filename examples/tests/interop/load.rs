//! h2load and wrk, and an Envoy that is to our server what they cannot be themselves. `.ci/interop load` runs these tests.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bootstrap;
mod ours;

use std::time::Duration;

use examples::certs::Authority;
use examples::peers::{Envoy, h2load, wrk};

use self::bootstrap::{ISTIO_H2, ISTIO_HTTP1, all_to, bootstrap, chain, cluster, http, listener, to_server, tunnel};
use self::ours::{CLIENT, Ours, SERVER, files, identity, mesh};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_server_answers_every_request() {
    let server = Ours::plain().await;
    let url = |path: &str| format!("http://{}{path}", server.address());
    for more in [&[][..], &["--h1"]] {
        let arguments = [&["-n", "10000", "-c", "8", "-m", "10"], more].concat();
        let load = h2load(&url("/"), &arguments).await;
        assert_eq!((load.answered, load.succeeded, load.lost), (10_000, 10_000, 0), "{more:?}");
        assert!(load.rate > 0.0);
    }
    let load = h2load(&url("/status/503"), &["-n", "100", "-c", "1"]).await;
    assert_eq!((load.answered, load.succeeded, load.lost), (100, 0, 0));

    let load = wrk(&url("/"), 8, Duration::from_secs(2)).await;
    assert!(load.answered > 0 && load.succeeded == load.answered && load.lost == 0, "{load:?}");
    let load = wrk(&url("/status/503"), 4, Duration::from_secs(1)).await;
    assert!(load.answered > 0 && load.succeeded == 0, "{load:?}");
}

/// They have no certificate: an Envoy shows one for them, and else passes on what they say, byte by byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_server_answers_every_request_by_mutual_tls() {
    let authority = Authority::new("cluster.local").unwrap();
    let (of_server, client) = (files(&authority, SERVER), files(&authority, CLIENT));
    let server = Ours::with(&of_server, "strict").await;
    let http2 = Envoy::start(&tunnel(server.address(), &client, ISTIO_H2, SERVER)).await;
    let http1 = Envoy::start(&tunnel(server.address(), &client, ISTIO_HTTP1, SERVER)).await;
    let [http2, http1] = [http2, http1].map(|envoy| (format!("http://{}/", envoy.listener("front")), envoy));
    for (url, more) in [(&http2.0, &[][..]), (&http1.0, &["--h1"])] {
        let arguments = [&["-n", "5000", "-c", "8", "-m", "10"], more].concat();
        let load = h2load(url, &arguments).await;
        assert_eq!((load.answered, load.succeeded, load.lost), (5000, 5000, 0), "{more:?}");
        assert!(load.rate > 0.0);
    }
    let load = wrk(&http1.0, 8, Duration::from_secs(2)).await;
    assert!(load.answered > 0 && load.succeeded == load.answered && load.lost == 0, "{load:?}");
}

#[tokio::test]
async fn what_nobody_answers_is_lost() {
    let nobody = Ours::plain().await;
    let url = format!("http://{}/delay/1h", nobody.address());
    let load = h2load(&url, &["-n", "4", "-c", "2", "-N", "1s"]).await;
    assert_eq!((load.answered, load.lost), (0, 4), "{load:?}");
}

/// CL-02: one of two servers drains under load, and no request is lost. Envoy asks the other one when it finds nobody there
/// any more; a request that a server has seen it does not repeat.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cl_02_a_server_drains_under_load() {
    const REQUESTS: u64 = 6000;
    let authority = Authority::new("cluster.local").unwrap();
    let (of_server, client) = (files(&authority, SERVER), files(&authority, CLIENT));
    let config = format!(
        "{}servers: [{{ name: public, tls: permissive, drain: {{ delay: 0s, grace: 30s }} }}]",
        identity(&of_server)
    );
    let mutual = to_server(&client, ISTIO_H2, SERVER, "");
    for tls in ["", &mutual] {
        let [leaving, staying] = [Ours::by(mesh(&config).await, "a").await, Ours::by(mesh(&config).await, "b").await];
        let again = ", retry_policy: { retry_on: 'connect-failure,refused-stream', num_retries: 5, \
                     host_selection_retry_max_attempts: 5, retry_host_predicate: [ { name: other, typed_config: { \
                     '@type': type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate } } ] }";
        // Three at once, if nothing else is said.
        let budget = ", circuit_breakers: { thresholds: [ { max_retries: 1000 } ] }";
        let front = listener("front", &[chain("all", "", &http("front", &all_to("pair", again), ""))]);
        let pair = cluster("pair", &[leaving.address(), staying.address()], true, &(budget.to_owned() + tls));
        let envoy = Envoy::start(&bootstrap(&[front], &[pair])).await;
        let url = format!("http://{}/delay/5ms", envoy.listener("front"));
        let count = REQUESTS.to_string();
        let arguments = ["-n", &count, "-c", "4", "-m", "10"];
        let drain = async {
            while envoy.stat("cluster.pair.upstream_rq_200").await.unwrap() < REQUESTS / 4 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let cut = leaving.drained().await;
            (cut, envoy.stat("cluster.pair.upstream_rq_200").await.unwrap())
        };
        let (load, (cut, by_then)) = tokio::join!(h2load(&url, &arguments), drain);
        assert_eq!((load.answered, load.succeeded, load.lost, cut), (REQUESTS, REQUESTS, 0, 0), "{load:?}");
        assert!(by_then < REQUESTS, "it drained when all was over");
    }
}

//! An Envoy that ends mutual TLS and tells our server in `x-forwarded-client-cert` whom it has served.

use examples::certs::Authority;
use examples::peers::{Envoy, curl};
use mesh_tonic::core::identity::xfcc;
use serde_json::Value;

use crate::bootstrap::{ISTIO_H2, all_to, bootstrap, chain, cluster, http, listener, to_clients, to_server};
use crate::ours::{CLIENT, Ours, SERVER, files, identity};
use crate::told;

const SHOP: &str = "spiffe://cluster.local/ns/default/sa/shop";
const FORGED: &str = "x-forwarded-client-cert: By=spiffe://cluster.local/a;URI=spiffe://cluster.local/admin";

fn forwarded(told: &Value) -> Option<&str> {
    told["headers"]["x-forwarded-client-cert"][0].as_str()
}

/// AZ-05.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn az_05_what_a_trusted_proxy_says_of_its_caller_is_kept() {
    let authority = Authority::new("cluster.local").unwrap();
    let (of_server, proxy, shop) = (files(&authority, SERVER), files(&authority, CLIENT), files(&authority, SHOP));
    let details = "forward_client_cert_details: SANITIZE_SET, \
                   set_current_client_cert_details: { subject: true, uri: true, dns: true },";
    let tls = to_clients(&proxy, "h2, http/1.1", "prefix: 'spiffe://cluster.local/'");
    let front = listener("front", &[chain("all", &tls, &http("front", &all_to("it", ""), details))]);
    for (trusted, writes) in [(true, false), (true, true), (false, false), (false, true)] {
        let proxies = if trusted { format!("'{CLIENT}'") } else { format!("'{SHOP}'") };
        let server = Ours::serve(&format!(
            "{}servers: [{{ name: public, tls: strict, \
             forwarded_identity: {{ trusted_proxies: [{proxies}], write: {writes} }} }}]",
            identity(&of_server)
        ))
        .await;
        let to_it = cluster("it", &[server.address()], true, &to_server(&proxy, ISTIO_H2, SERVER, ""));
        let envoy = Envoy::start(&bootstrap(&[front.clone()], &[to_it])).await;
        let url = format!("https://{}/", envoy.listener("front"));
        let fetched = curl(&url, Some(&shop), &["--insecure", "--header", FORGED]).await;
        assert_eq!(fetched.status, 200, "{fetched:?}");
        let told = told(&fetched.body);
        assert_eq!(told["peer"]["identity"], CLIENT);
        let elements = forwarded(&told).map_or_else(Vec::new, |text| xfcc::parse(text).unwrap());
        let who: Vec<_> = elements.iter().map(|element| (&*element.by[0], &*element.uri[0])).collect();
        let expected = [(trusted, (CLIENT, SHOP)), (writes, (SERVER, CLIENT))];
        let expected: Vec<_> = expected.into_iter().filter_map(|(is_there, who)| is_there.then_some(who)).collect();
        assert_eq!(who, expected, "trusted {trusted}, writes {writes}: {told}");
        for element in elements {
            assert_eq!(element.hash.map(|hash| hash.len()), Some(64));
        }

        // Somebody else than the proxy says the same.
        let url = format!("https://{}/", server.address());
        let direct = curl(&url, Some(if trusted { &shop } else { &proxy }), &["--insecure", "--header", FORGED]).await;
        let told = crate::told(&direct.body);
        assert!(!forwarded(&told).unwrap_or_default().contains("admin"), "{told}");
        assert_eq!(forwarded(&told).is_some(), writes, "{told}");
    }
}

//! SPIRE. `.ci/interop spire` runs these tests.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod ours;

use std::time::Duration;

use examples::peers::Spire;
use mesh_tonic::Mesh;
use tokio::time::{Instant, interval};

use self::ours::{Ours, mesh};

const SHOP: &str = "ns/default/sa/shop";
const CART: &str = "ns/default/sa/cart";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_gives_this_user_the_identities_that_are_registered() {
    let spire = Spire::start().await;
    let error = spire.fetch().await.unwrap_err();
    assert!(error.contains("PermissionDenied") && error.contains("no identity issued"), "{error}");

    let shop = spire.register(SHOP, Duration::from_secs(3600)).await;
    spire.gives(&[SHOP]).await;
    let [svid] = &spire.fetch().await.unwrap()[..] else { panic!("there is one") };
    assert!(svid.certificate_pem.starts_with("-----BEGIN CERTIFICATE-----"));
    assert!(svid.bundle_pem.starts_with("-----BEGIN CERTIFICATE-----"));

    spire.register(CART, Duration::from_secs(3600)).await;
    spire.gives(&[CART, SHOP]).await;
    spire.unregister(&shop).await;
    spire.gives(&[CART]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_renews_what_is_half_over() {
    let spire = Spire::start().await;
    spire.register(SHOP, Duration::from_secs(20)).await;
    spire.gives(&[SHOP]).await;
    let certificate = async || spire.fetch().await.unwrap().remove(0).certificate_pem;
    let first = certificate().await;
    let renewed = async {
        while certificate().await == first {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), renewed).await.unwrap();
}

const SERVED: &str = "spiffe://cluster.local/ns/default/sa/shop";
const CALLS: &str = "spiffe://cluster.local/ns/default/sa/cart";
/// SPIRE renews a certificate after half of its life, which begins ten seconds before it is issued.
const LIFE: Duration = Duration::from_secs(12);
const RENEWALS: u64 = 3;

fn workload(spire: &Spire, identity: &str, patience: &str) -> String {
    let socket = spire.socket();
    format!(
        "identity: {{ workload_api: {{ endpoint: 'unix:{}', spiffe_id: '{identity}' }}, startup_timeout: {patience} }}\n",
        socket.display()
    )
}

async fn get(mesh: &Mesh) -> Result<serde_json::Value, String> {
    let response = mesh.http_client().get("http://shop/").await.map_err(|error| error.to_string())?;
    let body = response.into_body().string().await.map_err(|error| error.to_string())?;
    serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))
}

/// MT-02: identities that SPIRE issues, and renews all the time, are served and called with, without a failed request. A
/// mesh that is there before its registration waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mt_02_our_mesh_lives_on_what_it_issues() {
    let spire = Spire::start().await;
    let public = format!("servers: [{{ name: public, tls: {{ mode: strict, identities: ['{CALLS}'] }} }}]");
    let [at_once, public] = ["100ms", "1m"].map(|patience| workload(&spire, SERVED, patience) + &public);
    let error = Mesh::builder().text(at_once).build().await.unwrap_err().to_string();
    assert!(error.contains("PERMISSION_DENIED: no identity issued"), "{error}");

    let registered = async {
        spire.register(SHOP, LIFE).await;
        spire.register(CART, LIFE).await;
    };
    let (server, ()) = tokio::join!(Ours::serve(&public), registered);
    let backend = format!(
        "{{ endpoints: ['{}'], protocol: http2, tls: {{ mode: mutual, identities: ['{SERVED}'] }} }}",
        server.address()
    );
    let shop = format!("services: {{ shop: {{ backends: {{ it: {backend} }} }} }}");
    let caller = mesh(&(workload(&spire, CALLS, "1m") + &shop)).await;
    for (mesh, identity) in [(&server.mesh, SERVED), (&caller, CALLS)] {
        assert_eq!(mesh.identity().unwrap().id().unwrap().as_str(), identity);
    }

    let (mut answered, began) = (0, Instant::now());
    let renewed = |mesh: &Mesh| mesh.identity_status().borrow().generation > RENEWALS;
    let mut ticks = interval(Duration::from_millis(10));
    // Longer than what was there first is valid.
    while began.elapsed() < LIFE + LIFE / 2 || !(renewed(&server.mesh) && renewed(&caller)) {
        ticks.tick().await;
        let told = get(&caller).await.unwrap_or_else(|error| panic!("after {answered} answers: {error}"));
        assert_eq!((&told["peer"]["identity"], &told["peer"]["mutual"]), (&CALLS.into(), &true.into()));
        answered += 1;
        assert!(began.elapsed() < 10 * LIFE, "fewer than {RENEWALS} renewals while {answered} requests were answered");
    }
    for mesh in [&server.mesh, &caller] {
        assert_eq!(mesh.identity_status().borrow().failure, None);
    }
    caller.shutdown().await;
    assert_eq!(server.drained().await, 0);
}

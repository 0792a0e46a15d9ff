//! SPIRE. `.ci/interop spire` runs these tests.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use examples::peers::Spire;

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

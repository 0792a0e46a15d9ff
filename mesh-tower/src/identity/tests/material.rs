//! What no identity can be made of.

use proptest::prelude::*;

use super::*;
use crate::identity::{Part, Usage};
use crate::testing::NewCertificate;

fn error_of(certificate: NewCertificate) -> IdentityError {
    let authority = Authority::new("cluster.local");
    identity_of(authority.issue_as(certificate).material(authority.bundles())).unwrap_err()
}

#[test]
fn the_own_certificate_must_be_good() {
    let new = NewCertificate::new;
    assert!(matches!(error_of(new().uri(CART).expired()), IdentityError::Expired { .. }));
    assert!(matches!(error_of(new().uri(CART).not_yet_valid()), IdentityError::NotYetValid { .. }));
    assert!(matches!(error_of(new().uri(CART).uri(CATALOG)), IdentityError::ManySpiffeIds { count: 2 }));
    assert!(matches!(error_of(new().uri("https://a").uri(CART)), IdentityError::ManySpiffeIds { count: 2 }));
    assert!(matches!(error_of(new().uri("spiffe://Cluster:1/a")), IdentityError::SpiffeId { .. }));
    let weak = error_of(new().uri(CART).weak_key());
    assert!(matches!(weak, IdentityError::WeakKey { algorithm: "RSA", bits: 1024 }), "{weak}");
    assert_eq!(weak.part(), Part::Certificate);
}

#[test]
fn a_chain_must_be_readable() {
    let authority = Authority::new("cluster.local");
    let cart = authority.issue(CART);
    let material = Material::new(Vec::new(), cart.key(), authority.bundles());
    assert!(matches!(identity_of(material).unwrap_err(), IdentityError::NoCertificate));
    let mut material = cart.material(authority.bundles());
    material.certificates.push(b"rubbish".to_vec().into());
    let error = identity_of(material).unwrap_err();
    assert!(matches!(error, IdentityError::Certificate { index: 1, .. }));
    assert_eq!(error.to_string(), "certificate 2 of the chain cannot be used: it is not a certificate in DER");
}

/// MT-03: a certificate and the key of another never become an identity.
#[test]
fn mt_03_key_and_certificate_belong_together() {
    let authority = Authority::new("cluster.local");
    let (one, other) = (authority.issue(CART), authority.issue(CART));
    let material = Material::new(one.chain.clone(), other.key(), authority.bundles());
    let error = identity_of(material).unwrap_err();
    assert!(matches!(error, IdentityError::KeyMismatch));
    assert_eq!(error.part(), Part::Key);
    let rubbish = rustls_pki_types::PrivatePkcs8KeyDer::from(b"rubbish".to_vec()).into();
    let error = identity_of(Material::new(one.chain.clone(), rubbish, authority.bundles())).unwrap_err();
    assert!(matches!(error, IdentityError::Key { .. }), "{error}");
}

/// MT-20: one bad authority spoils its bundle, so that the last good one stays (gRPC A87).
#[test]
fn mt_20_bundles_must_be_readable() {
    let authority = Authority::new("cluster.local");
    let cart = authority.issue(CART);
    let bundles = authority.bundles().with(domain("partner"), vec![b"rubbish".to_vec().into()]);
    let error = identity_of(cart.material(bundles)).unwrap_err();
    assert_eq!(error.part(), Part::Trust);
    assert!(error.to_string().starts_with("authority 1 of trust domain partner cannot be used: "), "{error}");
    let error = identity_of(cart.material(Bundles::new(vec![b"rubbish".to_vec().into()]))).unwrap_err();
    assert!(error.to_string().starts_with("authority 1 of the own bundle cannot be used: "), "{error}");

    let plain = authority.issue_as(NewCertificate::new().dns("cart"));
    let error = identity_of(plain.material(authority.bundles().with(domain("partner"), Vec::new()))).unwrap_err();
    assert!(matches!(error, IdentityError::BundleWithoutSpiffeId { .. }), "{error}");
}

#[test]
fn an_identity_says_who_it_is() {
    let authority = Authority::new("cluster.local");
    let issued = authority.issue(CART);
    let identity =
        Identity::new(issued.material(authority.bundles()), &settings(), &provider(), 7, UnixTime::now()).unwrap();
    assert_eq!(identity.id(), Some(&spiffe_id(CART)));
    assert_eq!(identity.generation(), 7);
    assert_eq!(identity.chain(), issued.chain);
    assert_eq!(u64::from_str_radix(identity.serial(), 16).unwrap(), issued.serial);
    assert!(identity.not_before() < identity.not_after());
}

#[test]
fn keys_are_never_printed() {
    let authority = Authority::new("cluster.local");
    let issued = authority.issue(CART);
    let material = issued.material(authority.bundles());
    let key = issued.key();
    let shown = format!("{material:?} {:?}", identity_of(material.clone()).unwrap());
    for window in key.secret_der().windows(8) {
        let numbers = window.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
        let text: String = window.iter().map(|byte| format!("{byte:02x}")).collect();
        // The public half is in the certificate, too.
        if !issued.chain[0].windows(8).any(|public| public == window) {
            assert!(!shown.contains(&numbers) && !shown.to_lowercase().contains(&text), "{shown}");
        }
    }
    assert!(shown.contains("<private key>"));
    assert_eq!(material, material.clone());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Chains come from anybody: whatever bytes they are, they are refused without a panic.
    #[test]
    fn no_chain_makes_the_verifier_panic(place: prop::sample::Index, byte: u8, cut: prop::sample::Index, noise: Vec<u8>) {
        thread_local! {
            static WORLD: (Identity, Issued) = {
                let authority = Authority::new("cluster.local");
                (cart(&authority, authority.bundles()), authority.issue(CATALOG))
            };
        }
        WORLD.with(|(identity, peer)| {
            let mut bytes = peer.chain[0].to_vec();
            let place = place.index(bytes.len());
            let unchanged = bytes[place] == byte;
            bytes[place] = byte;
            let trust = identity.trust();
            let whole = trust.verify(&[bytes.clone().into()], Usage::Client, &[], UnixTime::now());
            prop_assert_eq!(whole.is_ok(), unchanged, "one byte changed is another certificate");
            bytes.truncate(cut.index(bytes.len()));
            prop_assert!(trust.verify(&[bytes.into()], Usage::Client, &[], UnixTime::now()).is_err());
            prop_assert!(trust.verify(&[noise.into()], Usage::Client, &[], UnixTime::now()).is_err());
            Ok(())
        })?;
    }
}

//! Who is trusted, as whom.

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use mesh_core::identity::{SanKind, SanPattern, SubjectAltName};

use super::*;
use crate::identity::{Certified, Usage};
use crate::testing::NewCertificate;

fn verify(identity: &Identity, peer: &Issued, expected: &[SanMatch]) -> Result<Arc<Certified>, PeerRefused> {
    let now = UnixTime::now();
    let as_client = identity.trust().verify(&peer.chain, Usage::Client, expected, now);
    let as_server = identity.trust().verify(&peer.chain, Usage::Server, expected, now);
    assert_eq!(as_client.as_ref().err(), as_server.as_ref().err(), "both sides follow one rule");
    if let Ok(certified) = &as_client {
        let again = identity.trust().verify(&peer.chain, Usage::Client, expected, now).unwrap();
        assert!(Arc::ptr_eq(&again, certified), "whoever comes again is known");
    }
    as_client
}

fn refused(identity: &Identity, peer: &Issued, expected: &[SanMatch]) -> &'static str {
    verify(identity, peer, expected).map(|certified| format!("{:?}", certified.names())).unwrap_err().as_str()
}

/// MT-05: a list decides by the names; without one everybody is let in whom the trust covers.
#[test]
fn mt_05_who_is_expected() {
    let authority = Authority::new("cluster.local");
    let cart = cart(&authority, authority.bundles());
    let catalog = authority.issue(CATALOG);

    let certified = verify(&cart, &catalog, &[]).unwrap();
    assert_eq!(certified.id(), Some(&spiffe_id(CATALOG)));
    assert_eq!(certified.chain(), catalog.chain);

    let prefix = |text: &str| SanMatch::new(SanPattern::Prefix(text.into()));
    for (expected, accepted) in [
        (vec![SanMatch::uri(CATALOG)], true),
        (vec![SanMatch::uri(CART), SanMatch::uri(CATALOG)], true),
        (vec![prefix("spiffe://cluster.local/ns/shop/")], true),
        (vec![SanMatch::uri(CART)], false),
        (vec![SanMatch::uri("spiffe://cluster.local/ns/shop/sa/catalogue")], false),
        (vec![SanMatch::dns(CATALOG)], false),
        (vec![prefix("spiffe://cluster.local/ns/pay/")], false),
    ] {
        let result = verify(&cart, &catalog, &expected);
        match accepted {
            true => drop(result.unwrap()),
            false => assert_eq!(result.unwrap_err().as_str(), "wrong_name", "{expected:?}"),
        }
    }
}

/// MT-05: gRPC A87 wants exactly one URI name, and that a SPIFFE id.
#[test]
fn mt_05_exactly_one_spiffe_id() {
    let authority = Authority::new("cluster.local");
    let cart = cart(&authority, authority.bundles());
    let issue = |certificate: NewCertificate| authority.issue_as(certificate);
    let new = NewCertificate::new;

    let two = issue(new().uri(CATALOG).uri("spiffe://cluster.local/ns/shop/sa/pay"));
    assert_eq!(refused(&cart, &two, &[]), "many_spiffe_ids");
    assert_eq!(refused(&cart, &two, &[SanMatch::uri(CATALOG)]), "many_spiffe_ids", "an expected name heals nothing");
    let twice = issue(new().uri(CATALOG).uri(CATALOG));
    assert_eq!(refused(&cart, &twice, &[]), "many_spiffe_ids");
    let beside = issue(new().uri(CATALOG).uri("https://catalog"));
    assert_eq!(refused(&cart, &beside, &[]), "many_spiffe_ids");
    let another = issue(new().uri("https://catalog"));
    assert_eq!(refused(&cart, &another, &[SanMatch::uri("https://catalog")]), "malformed_spiffe_id");
    let port = issue(new().uri("spiffe://cluster.local:80/ns/shop/sa/cart"));
    assert_eq!(refused(&cart, &port, &[]), "malformed_spiffe_id");
    verify(&cart, &issue(new().uri(CATALOG).dns("catalog")), &[]).expect("other names may stand beside it");
}

/// Egress to a server without a SPIFFE id: only to one that is expected by name.
#[test]
fn without_a_spiffe_id_only_by_name() {
    let authority = Authority::new("cluster.local");
    let cart = cart(&authority, authority.bundles());
    let legacy = authority.issue_as(NewCertificate::new().dns("legacy.example.com"));
    assert_eq!(refused(&cart, &legacy, &[]), "no_spiffe_id");
    assert_eq!(refused(&cart, &legacy, &[SanMatch::dns("other.example.com")]), "wrong_name");
    let certified = verify(&cart, &legacy, &[SanMatch::dns("legacy.example.com")]).unwrap();
    assert_eq!(certified.id(), None);

    let nameless = authority.issue_as(NewCertificate::new().common_name("legacy.example.com"));
    assert_eq!(refused(&cart, &nameless, &[]), "no_spiffe_id");
    let expected = [SanMatch::new(SanPattern::Prefix("".into()))];
    assert_eq!(refused(&cart, &nameless, &expected), "wrong_name", "a common name is no name");

    let foreign = Authority::new("elsewhere").issue_as(NewCertificate::new().dns("legacy.example.com"));
    assert_eq!(refused(&cart, &foreign, &[SanMatch::dns("legacy.example.com")]), "unknown_issuer");
}

/// MT-20: each bundle vouches for its trust domain alone.
#[test]
fn mt_20_trust_domains() {
    let (own, partner) = (Authority::new("cluster.local"), Authority::new("partner.example"));
    let bundles = own.bundles().with(domain("partner.example"), vec![partner.root().clone()]);
    let cart = cart(&own, bundles);
    let domains: Vec<_> = cart.trust_domains().map(|domain| domain.as_str()).collect();
    assert_eq!(domains, ["cluster.local", "partner.example"]);

    verify(&cart, &partner.issue("spiffe://partner.example/pay"), &[]).unwrap();
    verify(&cart, &own.issue(CATALOG), &[]).unwrap();
    for (peer, reason) in [
        (partner.issue(CATALOG), "unknown_issuer"),
        (own.issue("spiffe://partner.example/pay"), "unknown_issuer"),
        (own.issue("spiffe://third.example/pay"), "unknown_trust_domain"),
        (partner.issue("spiffe://third.example/pay"), "unknown_trust_domain"),
        (partner.issue_as(NewCertificate::new().dns("pay")), "no_spiffe_id"),
    ] {
        assert_eq!(refused(&cart, &peer, &[]), reason);
    }
    let by_name = partner.issue_as(NewCertificate::new().dns("pay"));
    assert_eq!(refused(&cart, &by_name, &[SanMatch::dns("pay")]), "unknown_issuer", "the own bundle alone vouches");
    let both = partner.issue_as(NewCertificate::new().uri("spiffe://partner.example/pay").dns("pay"));
    assert_eq!(refused(&cart, &both, &[SanMatch::dns("pay")]), "wrong_name", "a partner names its own members alone");
    verify(&cart, &both, &[SanMatch::uri("spiffe://partner.example/pay")]).unwrap();
}

/// Istio's `trustDomainAliases`: other names of the own trust domain, verified by the own bundle.
#[test]
fn aliases_are_verified_by_the_own_bundle() {
    let authority = Authority::new("new.local");
    let mut settings = settings();
    settings.trust_domain_aliases.push(domain("old.local"));
    let material = authority.issue("spiffe://new.local/cart").material(authority.bundles());
    let cart = Identity::new(material, &settings, &provider(), 1, UnixTime::now()).unwrap();

    let certified = verify(&cart, &authority.issue("spiffe://old.local/catalog"), &[]).unwrap();
    assert_eq!(certified.id(), Some(&spiffe_id("spiffe://old.local/catalog")), "it keeps the name that it has");
    assert_eq!(refused(&cart, &authority.issue("spiffe://older.local/catalog"), &[]), "unknown_trust_domain");
    assert_eq!(refused(&cart, &Authority::new("old").issue("spiffe://old.local/a"), &[]), "unknown_issuer");
}

/// MT-20: what trusts nobody is valid.
#[test]
fn mt_20_an_empty_bundle_refuses_all() {
    let authority = Authority::new("cluster.local");
    let cart = cart(&authority, Bundles::default());
    assert_eq!(refused(&cart, &authority.issue(CATALOG), &[]), "unknown_issuer");
    let plain = authority.issue_as(NewCertificate::new().dns("cart")).material(Bundles::default());
    let plain = identity_of(plain).unwrap();
    assert_eq!(refused(&plain, &authority.issue_as(NewCertificate::new().dns("catalog")), &[]), "unknown_issuer");
}

/// MT-20: a bundle map holds the own trust domain beside the others (gRPC A87).
#[test]
fn mt_20_a_map_with_the_own_trust_domain() {
    let authority = Authority::new("cluster.local");
    let bundles = Bundles::default().with(domain("cluster.local"), vec![authority.root().clone()]);
    verify(&cart(&authority, bundles), &authority.issue(CATALOG), &[]).unwrap();
}

/// MT-04: two roots at a time, for the change from one to the next.
#[test]
fn mt_04_an_overlapping_bundle() {
    let (old, new) = (Authority::new("cluster.local"), Authority::new("cluster.local"));
    let both = Bundles::new(vec![old.root().clone(), new.root().clone()]);
    let cart = cart(&old, both);
    verify(&cart, &old.issue(CATALOG), &[]).unwrap();
    verify(&cart, &new.issue(CATALOG), &[]).unwrap();
}

#[test]
fn a_plain_pki_has_one_bundle_and_any_names() {
    let authority = Authority::new("Example CA");
    let own = authority.issue_as(NewCertificate::new().dns("cart.example.com"));
    let cart = identity_of(own.material(authority.bundles())).unwrap();
    assert_eq!((cart.id(), cart.trust_domains().count()), (None, 0));

    let new = NewCertificate::new;
    for certificate in [new(), new().dns("a"), new().uri("https://a").uri("https://b"), new().uri("spiffe://a/b")] {
        verify(&cart, &authority.issue_as(certificate), &[]).unwrap();
    }
    let certified = verify(&cart, &authority.issue("spiffe://a/b"), &[]).unwrap();
    assert_eq!(certified.id(), Some(&spiffe_id("spiffe://a/b")));
    let peer = authority.issue_as(new().dns("catalog.example.com"));
    assert_eq!(refused(&cart, &peer, &[SanMatch::dns("cart.example.com")]), "wrong_name");
    assert_eq!(refused(&cart, &Authority::new("Example CA").issue("spiffe://a/b"), &[]), "unknown_issuer");
}

/// MT-06, MT-07 and MT-08 with names as they come out of a certificate.
#[test]
fn mt_06_07_08_names_in_a_certificate() {
    let authority = Authority::new("Example CA");
    let own = authority.issue_as(NewCertificate::new().dns("cart.example.com"));
    let cart = identity_of(own.material(authority.bundles())).unwrap();
    let issue = |certificate: NewCertificate| authority.issue_as(certificate);
    let new = NewCertificate::new;

    let wildcard = issue(new().dns("*.example.com"));
    verify(&cart, &wildcard, &[SanMatch::dns("a.example.com")]).unwrap();
    for name in ["a.b.example.com", "example.com", ".example.com"] {
        assert_eq!(refused(&cart, &wildcard, &[SanMatch::dns(name)]), "wrong_name", "MT-06: {name}");
    }

    let disguised = issue(new().uri("api.example.com").email("api@example.com"));
    assert_eq!(refused(&cart, &disguised, &[SanMatch::dns("api.example.com")]), "wrong_name", "MT-07");
    let untyped = SanMatch::new(SanPattern::Exact("api.example.com".into()));
    verify(&cart, &disguised, &[untyped]).expect("MT-07: without a kind the text counts");

    let nul = issue(new().dns("api.example.com\0.evil.com"));
    for expected in [
        SanMatch::dns("api.example.com"),
        SanMatch::new(SanPattern::Suffix("example.com".into())).of_kind(SanKind::Dns),
    ] {
        assert_eq!(refused(&cart, &nul, &[expected]), "wrong_name", "MT-08");
    }
    let names = verify(&cart, &nul, &[]).unwrap().names().to_vec();
    assert_eq!(names, [SubjectAltName::Dns("api.example.com\0.evil.com".into())]);

    let ip = issue(new().ip(Ipv4Addr::new(10, 0, 0, 1).into()));
    verify(&cart, &ip, &[SanMatch::new(SanPattern::Exact("10.0.0.1".into()))]).unwrap();
}

/// MT-11: each refusal has a reason of its own.
#[test]
fn mt_11_reasons() {
    let authority = Authority::new("cluster.local");
    let cart = cart(&authority, authority.bundles());
    let new = || NewCertificate::new().uri(CATALOG);
    let issue = |certificate: NewCertificate| authority.issue_as(certificate);
    for (peer, reason) in [
        (issue(new().expired()), "expired"),
        (issue(new().not_yet_valid()), "not_yet_valid"),
        (issue(new().weak_key()), "weak_key"),
        (issue(new().authority()), "malformed"),
        (Authority::new("another").issue(CATALOG), "unknown_issuer"),
        (Authority::new("cluster.local").issue(CATALOG), "unknown_issuer"),
    ] {
        assert_eq!(refused(&cart, &peer, &[]), reason);
    }
    let now = UnixTime::now();
    let verify = |chain: &[_], usage| cart.trust().verify(chain, usage, &[], now).unwrap_err().as_str();
    assert_eq!(verify(&issue(new().for_clients()).chain, Usage::Server), "wrong_usage");
    assert_eq!(verify(&issue(new().for_servers()).chain, Usage::Client), "wrong_usage");
    assert_eq!(verify(&[], Usage::Client), "no_certificate");
    assert_eq!(verify(&[b"no certificate".to_vec().into()], Usage::Client), "malformed");
    assert_eq!(verify(&[authority.root().clone()], Usage::Server), "no_spiffe_id", "an authority is no peer");
}

#[test]
fn chains_need_their_intermediates() {
    let authority = Authority::new("cluster.local");
    let cart = cart(&authority, authority.bundles());
    let below = authority.intermediate("zone a").intermediate("rack 1");
    let peer = below.issue(CATALOG);
    assert_eq!(peer.chain.len(), 3);
    verify(&cart, &peer, &[]).unwrap();
    let trust = cart.trust();
    for chain in [&peer.chain[..1], &peer.chain[..2]] {
        let refused = trust.verify(chain, Usage::Server, &[], UnixTime::now()).unwrap_err();
        assert_eq!(refused, PeerRefused::UnknownIssuer);
    }
}

/// Whoever is known is asked again for what may have changed.
#[test]
fn mt_09_what_a_known_peer_is_asked_again() {
    let authority = Authority::new("cluster.local");
    let cart = cart(&authority, authority.bundles());
    let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
    let peer = authority.issue_as(NewCertificate::new().uri(CATALOG).valid(now - hour, now + hour));
    let at = |time: SystemTime| UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap());
    let ask = |expected: &[SanMatch], time| cart.trust().verify(&peer.chain, Usage::Client, expected, at(time));
    assert_eq!(ask(&[], now).unwrap().id(), Some(&spiffe_id(CATALOG)));
    assert_eq!(ask(&[], now + 2 * hour).unwrap_err().as_str(), "expired");
    assert_eq!(ask(&[], now - 2 * hour).unwrap_err().as_str(), "not_yet_valid");
    assert_eq!(ask(&[SanMatch::uri(CART)], now).unwrap_err().as_str(), "wrong_name");
    assert!(ask(&[SanMatch::uri(CATALOG)], now).is_ok());
    // A name that nobody who has no list is content with.
    let nameless = authority.issue_as(NewCertificate::new().dns("catalog"));
    let ask = |expected: &[SanMatch]| cart.trust().verify(&nameless.chain, Usage::Client, expected, at(now));
    assert!(ask(&[SanMatch::dns("catalog")]).is_ok());
    assert_eq!(ask(&[]).unwrap_err().as_str(), "no_spiffe_id");
    // Other roots know nobody.
    let second = Authority::new("cluster.local");
    let roots =
        rustls::RootCertStore { roots: vec![webpki::anchor_from_trusted_cert(second.root()).unwrap().to_owned()] };
    let other = cart.trust().with_roots(Arc::new(roots));
    assert_eq!(other.verify(&peer.chain, Usage::Client, &[], at(now)).unwrap_err().as_str(), "unknown_issuer");
}

#[test]
fn what_a_certificate_says() {
    let authority = Authority::new("cluster.local");
    let cart = cart(&authority, authority.bundles());
    let (from, until) = (UnixTime::now().as_secs() - 5, UnixTime::now().as_secs() + 500);
    let time = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let certificate = NewCertificate::new().uri(CATALOG).dns("catalog").valid(time(from), time(until));
    let peer = authority.issue_as(certificate.common_name(" #cata+log,\n\"x\" "));
    let certified = verify(&cart, &peer, &[]).unwrap();
    assert_eq!(certified.names(), [SubjectAltName::Uri(CATALOG.into()), SubjectAltName::Dns("catalog".into())]);
    assert_eq!(certified.subject(), r#"CN=\ #cata\+log\,\0A\"x\"\ ,O=test"#);
    assert_eq!((certified.not_before(), certified.not_after()), (time(from), time(until)));
    assert_eq!(u64::from_str_radix(certified.serial(), 16).unwrap(), peer.serial);
}

/// What is logged names the way out, and a peer's names cannot break a line.
#[test]
fn refusals_in_words() {
    let authority = Authority::new("cluster.local");
    let own = authority.issue_as(NewCertificate::new().dns("cart")).material(authority.bundles());
    let cart = identity_of(own).unwrap();
    let loud = (0..20).fold(NewCertificate::new().dns("a\nb"), |certificate, _| certificate.dns(&"x".repeat(1000)));
    let refused = verify(&cart, &authority.issue_as(loud), &[SanMatch::dns("catalog")]).unwrap_err();
    let text = refused.to_string();
    assert!(text.starts_with(r"the peer is DNS a\nb or DNS xxx"), "{text}");
    assert!(text.ends_with("and 13 more; expected is catalog"), "{text}");
    assert!(text.len() < 4000, "{text}");

    let expired = PeerRefused::Expired { not_after: SystemTime::UNIX_EPOCH, now: SystemTime::now() };
    let text = expired.to_string();
    assert!(text.contains("1970") && text.contains("anew"), "{text}");
}

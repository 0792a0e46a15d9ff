use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use proptest::prelude::*;

use super::*;
use crate::model::Pattern;

fn uri(text: &str) -> SubjectAltName {
    SubjectAltName::Uri(text.into())
}

fn dns(text: &str) -> SubjectAltName {
    SubjectAltName::Dns(text.into())
}

fn email(text: &str) -> SubjectAltName {
    SubjectAltName::Email(text.into())
}

fn ip(text: &str) -> SubjectAltName {
    SubjectAltName::Ip(text.parse().unwrap())
}

fn exact(text: &str) -> SanPattern {
    SanPattern::Exact(text.into())
}

fn regex(text: &str) -> SanPattern {
    SanPattern::Regex(Pattern::new(text).unwrap())
}

/// SPIFFE-ID, section 2; gRFC A87.
#[test]
fn spiffe_ids() {
    for (text, domain, path) in [
        ("spiffe://cluster.local/ns/shop/sa/cart", "cluster.local", "/ns/shop/sa/cart"),
        ("spiffe://cluster.local", "cluster.local", ""),
        ("spiffe://10.0.0.1/a", "10.0.0.1", "/a"),
        ("spiffe://a_b-c.d/A.b-C_9", "a_b-c.d", "/A.b-C_9"),
        ("spiffe://./...", ".", "/..."),
    ] {
        let id: SpiffeId = text.parse().unwrap();
        assert_eq!((id.trust_domain().as_str(), id.path()), (domain, path));
        assert_eq!((id.as_str(), id.to_string().as_str()), (text, text));
    }
    use SpiffeIdError::{Path, Scheme, TrustDomain};
    for (text, error) in [
        ("", Scheme),
        ("spiffe:/", Scheme),
        ("spiffe:a/b", Scheme),
        ("http://a/b", Scheme),
        ("SPIFFE://a/b", Scheme),
        (" spiffe://a/b", Scheme),
        ("spiffe://", TrustDomain),
        ("spiffe:///a", TrustDomain),
        ("spiffe://A/b", TrustDomain),
        ("spiffe://user@a/b", TrustDomain),
        ("spiffe://a:80/b", TrustDomain),
        ("spiffe://[::1]/b", TrustDomain),
        ("spiffe://a%62/b", TrustDomain),
        ("spiffe://a?b", TrustDomain),
        ("spiffe://a#b", TrustDomain),
        ("spiffe://ä/b", TrustDomain),
        ("spiffe://a\0/b", TrustDomain),
        ("spiffe://a/", Path),
        ("spiffe://a/b/", Path),
        ("spiffe://a//b", Path),
        ("spiffe://a/./b", Path),
        ("spiffe://a/..", Path),
        ("spiffe://a/b?c", Path),
        ("spiffe://a/b#c", Path),
        ("spiffe://a/b%2f", Path),
        ("spiffe://a/b c", Path),
        ("spiffe://a/b:c", Path),
        ("spiffe://a/ü", Path),
        ("spiffe://a/b\0", Path),
        ("spiffe://a/b\n", Path),
    ] {
        assert_eq!(SpiffeId::new(text), Err(error), "{text:?}");
    }
}

#[test]
fn lengths_of_spiffe_ids() {
    let of_len = |len: usize| format!("spiffe://a/{}", "b".repeat(len - 11));
    assert!(SpiffeId::new(&of_len(2048)).is_ok());
    assert_eq!(SpiffeId::new(&of_len(2049)), Err(SpiffeIdError::TooLong));
    assert!(TrustDomain::new(&"a".repeat(255)).is_ok());
    assert_eq!(TrustDomain::new(&"a".repeat(256)), Err(SpiffeIdError::TrustDomain));
    assert_eq!(SpiffeId::new(&format!("spiffe://{}/b", "a".repeat(256))), Err(SpiffeIdError::TrustDomain));
}

/// MT-05: a list is fulfilled by one name that is one of those expected; an empty one by anybody.
#[test]
fn mt_05_lists() {
    let names = [uri("spiffe://a/cart"), dns("cart.shop")];
    let (cart, pay) = (SanMatch::uri("spiffe://a/cart"), SanMatch::uri("spiffe://a/pay"));
    for (expected, matches) in [
        (vec![], true),
        (vec![cart.clone()], true),
        (vec![pay.clone(), cart.clone()], true),
        (vec![pay.clone()], false),
        (vec![pay.clone(), SanMatch::dns("cart.shop")], true),
        (vec![SanMatch::uri("spiffe://a/car"), SanMatch::uri("spiffe://a/cart/1")], false),
    ] {
        assert_eq!(matches_any(&expected, &names), matches, "{expected:?}");
    }
    assert!(matches_any(&[], &[]));
    assert!(!matches_any(&[SanMatch::new(SanPattern::Prefix("".into()))], &[]), "there must be a name");
}

/// MT-06 (CVE-2020-15104; gRFC A29): `*` is one whole label, the leftmost, of the certificate.
#[test]
fn mt_06_wildcards() {
    for (presented, wanted, matches) in [
        ("*.example.com", "a.example.com", true),
        ("*.example.com", "A.EXAMPLE.COM", true),
        ("*.Example.com.", "a.example.com", true),
        ("*.example.com", "a.example.com.", true),
        ("*.example.com", "a.b.example.com", false),
        ("*.example.com", "example.com", false),
        ("*.example.com", ".example.com", false),
        ("*.example.com", "aexample.com", false),
        ("a*.example.com", "ab.example.com", false),
        ("*a.example.com", "ba.example.com", false),
        ("a.*.com", "a.b.com", false),
        ("*.*.com", "a.b.com", false),
        ("*.*.com", "a.*.com", false),
        ("*", "a", false),
        ("*", "*", false),
        ("*.", "a.", false),
        ("*.", "a", false),
        ("", "", false),
        (".", "", false),
        ("example.com", "*.com", false),
        ("a.example.com", "*.example.com", false),
        ("a.example.com", "a.example.com.", true),
    ] {
        assert_eq!(SanMatch::dns(wanted).matches(&dns(presented)), matches, "{presented} for {wanted}");
        assert_eq!(SanMatch::new(exact(wanted)).matches(&dns(presented)), matches, "{presented} for {wanted}, untyped");
    }
    // Only for `Exact`: the others look at the text as it is.
    let suffix = SanMatch::new(SanPattern::Suffix(".example.com".into()));
    assert!(suffix.matches(&dns("*.example.com")) && suffix.matches(&dns("a.b.example.com")));
    assert!(!suffix.matches(&dns("a.EXAMPLE.com")) && !suffix.matches(&dns("a.example.com.")));
    // Only for DNS names.
    assert!(!SanMatch::new(exact("a.example.com")).matches(&uri("*.example.com")));
    assert!(!SanMatch::new(exact("a.example.com")).matches(&uri("A.example.com")));
}

/// MT-07 (CVE-2022-21656): a name of another kind is another name; without a kind the text counts.
#[test]
fn mt_07_kinds() {
    const TEXT: &str = "api.example.com";
    let names = [(SanKind::Uri, uri(TEXT)), (SanKind::Dns, dns(TEXT)), (SanKind::Email, email(TEXT))];
    for (kind, name) in &names {
        assert_eq!(name.kind(), *kind);
        for (wanted, _) in &names {
            let typed = SanMatch::new(exact(TEXT)).of_kind(*wanted);
            assert_eq!(typed.matches(name), wanted == kind, "{wanted:?} for {name:?}");
            let typed = SanMatch::new(regex(".*")).of_kind(*wanted);
            assert_eq!(typed.matches(name), wanted == kind, "{wanted:?} for {name:?}");
        }
        assert!(SanMatch::new(exact(TEXT)).matches(name));
        assert!(!SanMatch::new(regex(".*")).of_kind(SanKind::Ip).matches(name));
    }
    assert_eq!(SanMatch::dns(TEXT).kind, Some(SanKind::Dns));
    assert_eq!(SanMatch::uri(TEXT).kind, Some(SanKind::Uri));
}

/// MT-08 (CVE-2025-66220): a NUL ends nothing.
#[test]
fn mt_08_nul() {
    let text = "api.example.com\0.evil.com";
    for name in [dns(text), uri(text), email(text)] {
        for pattern in [exact("api.example.com"), SanPattern::Suffix("example.com".into()), regex("api.example.com")] {
            assert!(!SanMatch::new(pattern.clone()).matches(&name), "{pattern:?}");
        }
        assert!(SanMatch::new(exact(text)).matches(&name), "all of it is the name");
        assert!(SanMatch::new(SanPattern::Suffix(".evil.com".into())).matches(&name));
    }
    assert!(!SanMatch::dns("a.example.com").matches(&dns("*.example.com\0")));
    assert!(!SanMatch::dns("a.example.com").matches(&dns("*\0.example.com")));
}

#[test]
fn patterns() {
    let name = uri("spiffe://a/ns/shop/sa/cart");
    for (pattern, matches) in [
        (exact("spiffe://a/ns/shop/sa/cart"), true),
        (exact("SPIFFE://a/ns/shop/sa/cart"), false),
        (SanPattern::Prefix("spiffe://a/ns/shop/".into()), true),
        (SanPattern::Prefix("spiffe://b/".into()), false),
        (SanPattern::Suffix("/sa/cart".into()), true),
        (SanPattern::Suffix("/sa/pay".into()), false),
        (SanPattern::Contains("/ns/shop/".into()), true),
        (SanPattern::Contains("/ns/pay/".into()), false),
        (regex("spiffe://a/ns/[a-z]+/sa/cart"), true),
        (regex("spiffe://a/ns/[a-z]+"), false),
        (regex("cart|pay"), false),
    ] {
        assert_eq!(SanMatch::new(pattern.clone()).matches(&name), matches, "{pattern:?}");
    }
}

#[test]
fn ip_addresses() {
    for (wanted, presented, matches) in [
        ("10.0.0.1", "10.0.0.1", true),
        ("10.0.0.1", "10.0.0.10", false),
        ("2001:db8::1", "2001:db8::1", true),
        ("2001:DB8:0:0::1", "2001:db8::1", true),
        ("::ffff:10.0.0.1", "10.0.0.1", false),
        ("010.0.0.1", "10.0.0.1", false),
        ("", "10.0.0.1", false),
    ] {
        assert_eq!(SanMatch::new(exact(wanted)).matches(&ip(presented)), matches, "{wanted} for {presented}");
    }
    let net = SanMatch::new(SanPattern::Prefix("2001:db8::".into()));
    assert!(net.matches(&ip("2001:0db8::1")), "the text is the canonical one");
    assert!(!SanMatch::dns("10.0.0.1").matches(&ip("10.0.0.1")));
}

/// SPIFFE-ID, 2.1 and 2.2: a segment of a path is not empty, and neither `.` nor `..`.
static GRAMMAR: LazyLock<Pattern> = LazyLock::new(|| {
    let segment = r"[A-Za-z0-9_-]|[A-Za-z0-9_.-]{3,}|\.[A-Za-z0-9_-]|[A-Za-z0-9_-][A-Za-z0-9_.-]";
    Pattern::new(&format!("spiffe://[a-z0-9._-]{{1,255}}(/({segment}))*")).unwrap()
});

/// Texts of a few pieces, so that most are nearly SPIFFE ids.
fn nearly_an_id() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "spiffe",
        "://",
        "/",
        "a",
        "B",
        "0",
        ".",
        "..",
        "-",
        "_",
        ":",
        "@",
        "?",
        "#",
        "%41",
        "\0",
        "ä",
        " ",
        "cluster.local",
    ]);
    let pieces = prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat());
    (any::<bool>(), pieces).prop_map(|(whole, text)| if whole { format!("spiffe://{text}") } else { text })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// The grammar once more, as an expression.
    #[test]
    fn a_spiffe_id_is_what_the_grammar_says(text in nearly_an_id()) {
        let read = SpiffeId::new(&text);
        prop_assert_eq!(read.is_ok(), GRAMMAR.is_full_match(text.as_bytes()), "{:?}", text);
        if let Ok(id) = read {
            prop_assert_eq!(id.as_str(), &text);
            prop_assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
            let domain = TrustDomain::new(id.trust_domain().as_str());
            prop_assert_eq!(domain.as_ref(), Ok(id.trust_domain()));
        }
    }

    /// Whatever a name is: it is itself, and a typed pattern matches no more than an untyped one.
    #[test]
    fn names_of_any_text(name: String, wanted: String, address: IpAddr) {
        for name in [uri(&name), dns(&name), email(&name), SubjectAltName::Ip(address)] {
            let text: Arc<str> = wanted.as_str().into();
            for pattern in [
                SanPattern::Exact(Arc::clone(&text)),
                SanPattern::Prefix(Arc::clone(&text)),
                SanPattern::Suffix(Arc::clone(&text)),
                SanPattern::Contains(text),
            ] {
                let untyped = SanMatch::new(pattern.clone()).matches(&name);
                for kind in [SanKind::Uri, SanKind::Dns, SanKind::Email, SanKind::Ip] {
                    let typed = SanMatch::new(pattern.clone()).of_kind(kind).matches(&name);
                    prop_assert_eq!(typed, untyped && kind == name.kind());
                }
            }
        }
        let itself = SanMatch::new(exact(&name));
        prop_assert_eq!(itself.matches(&uri(&name)), !name.is_empty());
    }
}

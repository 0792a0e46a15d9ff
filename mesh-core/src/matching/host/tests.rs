use super::*;

fn table(patterns: &[&str]) -> HostTable {
    let patterns: Vec<_> = patterns.iter().map(|text| HostPattern::parse(text).unwrap()).collect();
    HostTable::new(patterns.iter().zip(0..)).unwrap()
}

/// RT-01
#[test]
fn rt_01_exact_then_longest_suffix_then_longest_prefix_then_any() {
    let patterns = [
        "*",
        "*.foo.com",
        "foo.*",
        "a.foo.com",
        "*.b.foo.com",
        "foo.bar.*",
        "*.com",
        "a.*",
        "x.foo.com:8080",
        "*:9090",
    ];
    let table = table(&patterns);
    for (authority, expected) in [
        ("a.foo.com", "a.foo.com"),
        ("A.Foo.COM", "a.foo.com"),
        ("b.foo.com", "*.foo.com"),
        ("B.FOO.com", "*.foo.com"),
        ("a.b.foo.com", "*.b.foo.com"),
        (".foo.com", "*.com"),
        ("foo.com", "*.com"),
        (".com", "*"),
        ("foo.org", "foo.*"),
        ("foo.", "*"),
        ("foo.bar.org", "foo.bar.*"),
        ("foo.bar.", "foo.*"),
        ("a.com", "*.com"),
        ("a.org", "a.*"),
        ("org", "*"),
        ("", "*"),
        ("x.foo.com:8080", "x.foo.com:8080"),
        ("X.foo.com:8080", "x.foo.com:8080"),
        ("x.foo.com", "*.foo.com"),
        // Without its port, as nothing but `*` claims it as written.
        ("x.foo.com:81", "*.foo.com"),
        ("b.foo.com:", "*.foo.com"),
        // As written goes first, whatever would claim the name alone.
        ("b.foo.com:9090", "*:9090"),
        ("foo.com:80", "foo.*"),
        ("a.foo.com:80", "a.*"),
        ("org:80", "*"),
    ] {
        let found = table.lookup(authority).map(|index| patterns[index as usize]);
        assert_eq!(found, Some(expected), "{authority}");
    }
}

#[test]
fn what_no_pattern_claims_is_not_found() {
    let table = table(&["greeter", "[::1]", "*.example.com", "shop"]);
    for (authority, expected) in [
        ("greeter", Some(0)),
        ("greeter:50051", Some(0)),
        ("greeter:", Some(0)),
        ("greeter:http", None),
        ("greeter:80:80", None),
        ("greeter.", None),
        ("greete", None),
        (":80", None),
        ("", None),
        ("[::1]", Some(1)),
        ("[::1]:443", Some(1)),
        ("::1", None),
        ("example.com", None),
        (".example.com", None),
        ("a.example.com:443", Some(2)),
        // U+017F is a lower-case `s` in Unicode, never in ASCII.
        ("\u{17f}hop", None),
    ] {
        assert_eq!(table.lookup(authority), expected, "{authority}");
    }
}

#[test]
fn an_authority_beyond_255_bytes_belongs_to_any_only() {
    let long = format!("{}.foo.com", "a".repeat(247));
    assert_eq!(long.len(), 255);
    let longer = format!("a{long}");
    assert_eq!(table(&["*.foo.com"]).lookup(&long), Some(0));
    assert_eq!(table(&["*.foo.com"]).lookup(&longer), None);
    assert_eq!(table(&["*.foo.com", "*"]).lookup(&longer), Some(1));
}

#[test]
fn a_pattern_has_one_owner() {
    let upper = HostPattern::Exact("A.example".into());
    let exact = HostPattern::parse("a.example").unwrap();
    let wildcard = HostPattern::parse("*.example").unwrap();
    let conflict = HostTable::new([(&exact, 0), (&wildcard, 1), (&upper, 2)]).unwrap_err();
    assert_eq!(conflict, HostConflict { pattern: exact.clone(), first: 0, second: 2 });
    assert_eq!(conflict.to_string(), "host `a.example` is claimed by two virtual hosts, #0 and #2");
    assert!(HostTable::new([(&HostPattern::Any, 0), (&HostPattern::Any, 1)]).is_err());

    let table = HostTable::new([(&exact, 3), (&upper, 3)]).unwrap();
    assert_eq!(table.lookup("a.example"), Some(3));
}

#[test]
fn the_nearest_name_is_suggested_if_it_is_near() {
    let table = table(&["greeter", "greetings.default", "catalog", "*.example.com", "ledger:8443"]);
    for (name, expected) in [
        ("ledgers:8443", Some("ledger:8443")),
        ("greter", Some("greeter")),
        ("GREETRE", Some("greeter")),
        ("greetr:50051", Some("greeter")),
        ("catalogue", Some("catalog")),
        ("shop", None),
        ("", None),
    ] {
        assert_eq!(table.nearest(name), expected, "{name}");
    }
    assert_eq!(table.nearest(&"greeter".repeat(40)), None);
}

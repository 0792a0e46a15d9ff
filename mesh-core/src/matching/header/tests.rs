use http::HeaderValue;

use super::*;
use crate::model::{Pattern, StringMatch};

fn headers(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
    let pairs = pairs.iter().map(|(name, value)| {
        let value = HeaderValue::from_bytes(value).unwrap();
        (HeaderName::from_static(name), value)
    });
    // `collect` appends, so a repeated name keeps all of its values.
    pairs.collect()
}

fn text(make: impl FnOnce(std::sync::Arc<str>) -> StringMatch, value: &str) -> ValueMatch {
    ValueMatch::String(make(value.into()))
}

fn exact(value: &str) -> ValueMatch {
    text(|value| StringMatch::Exact { value, ignore_case: false }, value)
}

fn prefix(value: &str) -> ValueMatch {
    text(|value| StringMatch::Prefix { value, ignore_case: false }, value)
}

fn suffix(value: &str) -> ValueMatch {
    text(|value| StringMatch::Suffix { value, ignore_case: false }, value)
}

fn contains(value: &str) -> ValueMatch {
    text(|value| StringMatch::Contains { value, ignore_case: false }, value)
}

fn regex(source: &str) -> ValueMatch {
    ValueMatch::String(StringMatch::Regex(Pattern::new(source).unwrap()))
}

fn any_case(value: ValueMatch) -> ValueMatch {
    let ValueMatch::String(text) = value else { panic!("only text has case") };
    ValueMatch::String(match text {
        StringMatch::Exact { value, .. } => StringMatch::Exact { value, ignore_case: true },
        StringMatch::Prefix { value, .. } => StringMatch::Prefix { value, ignore_case: true },
        StringMatch::Suffix { value, .. } => StringMatch::Suffix { value, ignore_case: true },
        StringMatch::Contains { value, .. } => StringMatch::Contains { value, ignore_case: true },
        StringMatch::Regex(_) => panic!("a regular expression says itself what case means"),
    })
}

fn range(start: i64, end: i64) -> ValueMatch {
    ValueMatch::Range { start, end }
}

fn matches(name: &'static str, value: ValueMatch, invert: bool, headers: &HeaderMap) -> bool {
    let condition = HeaderMatch::new(HeaderName::from_static(name), value);
    header_matches(&if invert { condition.inverted() } else { condition }, headers)
}

/// RT-05: one value. The inverted condition must say the opposite each time.
#[test]
fn rt_05_one_value_is_compared_on_bytes() {
    let table: &[(&[u8], ValueMatch, bool)] = &[
        (b"canary", exact("canary"), true),
        (b"canary", exact("Canary"), false),
        (b"canary", any_case(exact("Canary")), true),
        (b"canary", exact("canar"), false),
        (b"canary", prefix("can"), true),
        (b"canary", prefix("canary-2"), false),
        (b"canary", prefix("CAN"), false),
        (b"canary", any_case(prefix("CAN")), true),
        (b"canary", suffix("ary"), true),
        (b"canary", suffix("a-canary"), false),
        (b"canary", suffix("ARY"), false),
        (b"canary", any_case(suffix("ARY")), true),
        (b"canary", contains("nar"), true),
        (b"canary", contains("nra"), false),
        (b"canary", contains("NAR"), false),
        (b"canary", any_case(contains("NAR")), true),
        (b"canary", contains("canaryy"), false),
        (b"canary", contains(""), true),
        (b"canary", regex("can"), false),
        (b"canary", regex("can.*"), true),
        (b"canary", regex("(?i)CAN.*"), true),
        (b"canary", regex("CAN.*"), false),
        (b"x\xffy", regex(r"x\xffy"), true),
        (b"x\xffy", regex("x.y"), true),
        (b"x\xffy", prefix("x"), true),
        (b"x\xffy", exact("xy"), false),
        (b"x\xffy", contains("\u{ff}"), false),
        (b"\xc3\xa9", exact("\u{e9}"), true),
        // `ignore_case` is ASCII's: `é` and `É` differ.
        (b"\xc3\xa9", any_case(exact("\u{c9}")), false),
        (b"", exact(""), true),
        (b"", prefix(""), true),
        (b"", suffix(""), true),
        (b"", contains(""), true),
        (b"", contains("a"), false),
        (b"", regex(""), true),
        (b"", range(0, 1), false),
        (b"", ValueMatch::Present(true), true),
        (b"", ValueMatch::Present(false), false),
        (b"a", ValueMatch::Present(true), true),
        (b"a", ValueMatch::Present(false), false),
        (b"10", range(10, 20), true),
        (b"19", range(10, 20), true),
        (b"20", range(10, 20), false),
        (b"9", range(10, 20), false),
        (b"+10", range(10, 20), true),
        (b"010", range(10, 20), true),
        (b"-5", range(-5, 0), true),
        (b"0", range(-5, 0), false),
        (b"-0", range(0, 1), true),
        (b"10 ", range(10, 20), false),
        (b"10.0", range(10, 20), false),
        (b"0xa", range(10, 20), false),
        (b"+", range(0, 1), false),
        (b"ten", range(10, 20), false),
        (b"1\xff", range(0, 20), false),
        (b"9223372036854775806", range(0, i64::MAX), true),
        (b"9223372036854775807", range(0, i64::MAX), false),
        (b"9223372036854775808", range(i64::MIN, i64::MAX), false),
        (b"-9223372036854775808", range(i64::MIN, 0), true),
        (b"5", range(10, 0), false),
    ];
    for (value, condition, expected) in table {
        let headers = headers(&[("x", value)]);
        let shown = value.escape_ascii();
        assert_eq!(matches("x", condition.clone(), false, &headers), *expected, "{condition:?} on {shown}");
        assert_eq!(matches("x", condition.clone(), true, &headers), !*expected, "inverted {condition:?} on {shown}");
    }
}

/// RT-05: several values count as one, joined with a comma.
#[test]
fn rt_05_several_values_are_joined() {
    let headers = headers(&[("x", b"a"), ("y", b"other"), ("x", b"\xff"), ("x", b""), ("n", b"1"), ("n", b"2")]);
    for (name, condition, expected) in [
        ("x", exact("a"), false),
        ("x", regex(r"a,\xff,"), true),
        ("x", prefix("a,"), true),
        ("x", suffix(","), true),
        ("x", contains("a,"), true),
        ("x", contains(", "), false),
        ("n", exact("1,2"), true),
        ("n", range(0, 100), false),
        ("n", ValueMatch::Present(true), true),
    ] {
        assert_eq!(matches(name, condition.clone(), false, &headers), expected, "{name} {condition:?}");
        assert_eq!(matches(name, condition.clone(), true, &headers), !expected, "inverted {name} {condition:?}");
    }
}

/// RT-05: an absent header satisfies nothing but a question for its absence.
#[test]
fn rt_05_an_absent_header_matches_only_where_absence_is_asked() {
    let headers = headers(&[("y", b"a")]);
    for (condition, plain, inverted) in [
        (ValueMatch::Present(false), true, false),
        (ValueMatch::Present(true), false, true),
        (exact("a"), false, false),
        (exact(""), false, false),
        (prefix(""), false, false),
        (suffix(""), false, false),
        (contains(""), false, false),
        (regex(".*"), false, false),
        (range(i64::MIN, i64::MAX), false, false),
    ] {
        assert_eq!(matches("x", condition.clone(), false, &headers), plain, "{condition:?}");
        assert_eq!(matches("x", condition.clone(), true, &headers), inverted, "inverted {condition:?}");
    }
}

/// RT-05
#[test]
fn rt_05_binary_headers_match_nothing() {
    let headers = headers(&[("x-bin", b"a"), ("bin", b"a")]);
    for condition in [exact("a"), regex(".*"), ValueMatch::Present(true), ValueMatch::Present(false), range(0, 1)] {
        for name in ["x-bin", "y-bin"] {
            assert!(!matches(name, condition.clone(), false, &headers), "{name} {condition:?}");
            assert!(!matches(name, condition.clone(), true, &headers), "inverted {name} {condition:?}");
        }
    }
    assert!(matches("bin", exact("a"), false, &headers));
}

/// RT-05
#[test]
fn rt_05_the_content_type_of_a_grpc_call_is_compared_as_any_other() {
    let headers = headers(&[("content-type", b"application/grpc")]);
    assert!(matches("content-type", exact("application/grpc"), false, &headers));
    assert!(!matches("content-type", exact("application/json"), false, &headers));
}

#[test]
fn one_value_is_borrowed() {
    let headers = headers(&[("x", b"a"), ("y", b"a"), ("y", b"b")]);
    assert!(matches!(joined(&headers, &HeaderName::from_static("x")), Some(Cow::Borrowed(b"a"))));
    assert_eq!(joined(&headers, &HeaderName::from_static("y")).as_deref(), Some(&b"a,b"[..]));
}

//! Cookies of requests, and those that are made for their answers (RFC 6265).

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};

/// The value of the first cookie called `name`, without the quotes around it if it has any.
///
/// Cookies may come in several headers, as HTTP/2 and gRPC send them. What is no pair is passed over, and a cookie
/// without a value is none.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let values = headers.get_all(header::COOKIE).iter();
    let mut pairs = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    let value = pairs.find_map(|pair| {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        (pair[..equals].trim_ascii() == name.as_bytes()).then_some(&pair[equals + 1..])
    })?;
    Some(unquoted(value.trim_ascii())).filter(|value| !value.is_empty())
}

fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', value @ .., b'"'] => value,
        value => value,
    }
}

/// What `set-cookie` says of a cookie; zero lives as long as the caller's session, a part of a second counts as a whole
/// one. `None` if no header can say it.
pub(super) fn set_cookie(name: &str, value: &str, ttl: Duration, path: Option<&str>) -> Option<HeaderValue> {
    let mut text = format!("{name}={value}");
    let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    if seconds > 0 {
        text.push_str(&format!("; Max-Age={seconds}"));
    }
    if let Some(path) = path {
        text.push_str("; Path=");
        text.push_str(path);
    }
    text.push_str("; HttpOnly");
    text.try_into().ok()
}

/// Whether a cookie of this path is sent with requests for `path` (RFC 6265 5.1.4).
pub(super) fn covers(cookie: &str, path: &str) -> bool {
    let (cookie, path) = (if cookie.is_empty() { "/" } else { cookie }, if path.is_empty() { "/" } else { path });
    let Some(rest) = path.strip_prefix(cookie) else { return false };
    rest.is_empty() || cookie.ends_with('/') || rest.starts_with('/')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(values: &[&[u8]]) -> HeaderMap {
        values.iter().map(|value| (header::COOKIE, HeaderValue::from_bytes(value).unwrap())).collect()
    }

    #[test]
    fn the_first_cookie_of_the_name_counts() {
        type Case<'a> = (&'a [&'a [u8]], Option<&'a [u8]>);
        let cases: [Case<'_>; 18] = [
            (&[], None),
            (&[b""], None),
            (&[b"c=1"], Some(b"1")),
            (&[b"a=0; c=1; c=2"], Some(b"1")),
            (&[b"a=0;c=1"], Some(b"1")),
            (&[b"a=0", b"c=1", b"c=2"], Some(b"1")),
            (&[b"c=\"1\""], Some(b"1")),
            (&[b"c=\"1"], Some(b"\"1")),
            (&[b"c=\""], Some(b"\"")),
            (&[b"c=a=b=="], Some(b"a=b==")),
            (&[b" \t c \t = \t 1 \t ;"], Some(b"1")),
            (&[b"c="], None),
            (&[b"c=\"\""], None),
            (&[b"c=; c=2"], None),
            (&[b"c; c=1"], Some(b"1")),
            (&[b"C=1; cc=2; xc=3; =4"], None),
            (&[b";;;=;==; c=1"], Some(b"1")),
            (&[b"c=\xff\xfe"], Some(b"\xff\xfe")),
        ];
        for (values, wanted) in cases {
            assert_eq!(cookie(&headers(values), "c"), wanted, "{values:?}");
        }
    }

    #[test]
    fn a_cookie_is_set_as_its_policy_says() {
        let cases = [
            (0, None, "c=v; HttpOnly"),
            (0, Some("/a"), "c=v; Path=/a; HttpOnly"),
            (60_000, None, "c=v; Max-Age=60; HttpOnly"),
            (1_001, Some("/"), "c=v; Max-Age=2; Path=/; HttpOnly"),
            (1, Some("/"), "c=v; Max-Age=1; Path=/; HttpOnly"),
        ];
        for (millis, path, wanted) in cases {
            assert_eq!(set_cookie("c", "v", Duration::from_millis(millis), path).unwrap(), wanted);
        }
        assert_eq!(set_cookie("c", "a\nb", Duration::ZERO, None), None);
    }

    /// RFC 6265 5.1.4
    #[test]
    fn a_path_covers_what_is_below_it() {
        let cases = [
            ("/", "/", true),
            ("/", "/a/b", true),
            ("", "/a", true),
            ("/", "", true),
            ("/a", "/a", true),
            ("/a", "/a/b", true),
            ("/a/", "/a/b", true),
            ("/a", "/ab", false),
            ("/a/", "/a", false),
            ("/a", "/", false),
            ("/a", "*", false),
        ];
        for (cookie, path, wanted) in cases {
            assert_eq!(covers(cookie, path), wanted, "{cookie:?} {path:?}");
        }
    }

    fn any_header() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![any::<u8>(), prop::sample::select(&b"c=;\" "[..])];
        prop::collection::vec(byte, 0..40)
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(values in prop::collection::vec(any_header(), 0..4)) {
            let values = values.iter().filter_map(|value| HeaderValue::from_bytes(value).ok());
            let headers: HeaderMap = values.map(|value| (header::COOKIE, value)).collect();
            if let Some(found) = cookie(&headers, "c") {
                prop_assert!(!found.is_empty() && !found.contains(&b';'));
            }
        }

        #[test]
        fn a_cookie_that_was_set_is_found_among_others(
            value in "[!#-+\\--:<-\\[\\]-~]{1,20}",
            before in "([ab]=[^;\\x00-\\x1f\\x7f]{0,8}; ){0,3}",
        ) {
            let set = set_cookie("c", &value, Duration::ZERO, None).unwrap();
            let pair = set.to_str().unwrap().split(';').next().unwrap();
            let headers = headers(&[format!("{before}{pair}").as_bytes()]);
            prop_assert_eq!(cookie(&headers, "c"), Some(value.as_bytes()));
        }
    }
}

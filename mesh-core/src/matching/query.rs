use std::borrow::Cow;

use super::string_matches;
use crate::model::{QueryMatch, ValueMatch};

/// Whether `query` (what follows the `?`) satisfies `condition`.
///
/// The query is read as a form: pairs between `&`, `%20` and `+` are a space, names and values are compared decoded. An
/// escape that is none (`%zz`, a `%` at the end) stands for itself. The first pair of a name counts (Gateway API); a
/// name without `=` has an empty value, and an empty value is a value. A parameter that is absent satisfies nothing but
/// a question for its absence.
pub fn query_matches(condition: &QueryMatch, query: Option<&str>) -> bool {
    let value = parameter(query, &condition.name);
    match (&condition.value, &value) {
        (ValueMatch::Present(present), _) => value.is_some() == *present,
        (ValueMatch::String(text), Some(value)) => string_matches(text, value),
        (ValueMatch::String(_), None) | (ValueMatch::Range { .. }, _) => false,
    }
}

/// The first value of `name`, decoded.
pub(super) fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<Cow<'a, [u8]>> {
    let pairs = query?.split('&').filter(|pair| !pair.is_empty());
    let mut named = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let (_, value) = named.find(|(key, _)| Decoded(key.as_bytes()).eq(name.bytes()))?;
    Some(if value.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        Cow::Owned(Decoded(value.as_bytes()).collect())
    } else {
        Cow::Borrowed(value.as_bytes())
    })
}

/// The bytes that an encoded text stands for.
struct Decoded<'a>(&'a [u8]);

impl Iterator for Decoded<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let (byte, rest) = match self.0 {
            [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                (hex(*high) << 4 | hex(*low), rest)
            }
            [b'+', rest @ ..] => (b' ', rest),
            [byte, rest @ ..] => (*byte, rest),
            [] => return None,
        };
        self.0 = rest;
        Some(byte)
    }
}

/// The value of a hexadecimal digit.
fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Pattern, StringMatch};

    fn exact(value: &str) -> ValueMatch {
        ValueMatch::String(StringMatch::Exact { value: value.into(), ignore_case: false })
    }

    /// RT-09
    #[test]
    fn rt_09_query_parameters_are_compared_decoded_and_the_first_counts() {
        let regex = |source| ValueMatch::String(StringMatch::Regex(Pattern::new(source).unwrap()));
        let table = [
            (Some("a=1&b=2"), "a", exact("1"), true),
            (Some("a=1&b=2"), "b", exact("2"), true),
            (Some("a=1&a=2"), "a", exact("1"), true),
            (Some("a=1&a=2"), "a", exact("2"), false),
            (Some("ab=1"), "a", exact("1"), false),
            (Some("A=1"), "a", exact("1"), false),
            (Some("a=b=c"), "a", exact("b=c"), true),
            (Some("a=x%20y"), "a", exact("x y"), true),
            (Some("a=x+y"), "a", exact("x y"), true),
            (Some("a=x%2By"), "a", exact("x+y"), true),
            (Some("a=%C3%a9"), "a", exact("é"), true),
            (Some("a=%26%3D"), "a", exact("&="), true),
            (Some("%61=1"), "a", exact("1"), true),
            (Some("a+b=1"), "a b", exact("1"), true),
            (Some("a=%zz"), "a", exact("%zz"), true),
            (Some("a=%4"), "a", exact("%4"), true),
            (Some("a=%"), "a", exact("%"), true),
            (Some("a=%%34"), "a", exact("%4"), true),
            (Some("a=%FF"), "a", regex(r"\xff"), true),
            (Some("a=canary"), "a", regex("can"), false),
            (Some("a=canary"), "a", regex("can.*"), true),
            (Some("a="), "a", exact(""), true),
            (Some("a"), "a", exact(""), true),
            (Some("a"), "a", ValueMatch::Present(true), true),
            (Some("a"), "a", ValueMatch::Present(false), false),
            (Some("b=1"), "a", ValueMatch::Present(true), false),
            (Some("b=1"), "a", ValueMatch::Present(false), true),
            (Some("b=1"), "a", exact(""), false),
            (Some("&&a=1&"), "a", exact("1"), true),
            (Some("&"), "", ValueMatch::Present(true), false),
            (Some("=1"), "", exact("1"), true),
            (Some(""), "a", ValueMatch::Present(false), true),
            (None, "a", ValueMatch::Present(false), true),
            (None, "a", exact(""), false),
            (Some("a=5"), "a", ValueMatch::Range { start: 0, end: 10 }, false),
        ];
        for (query, name, value, expected) in table {
            let condition = QueryMatch::new(name, value);
            assert_eq!(query_matches(&condition, query), expected, "{condition:?} on {query:?}");
        }
    }

    #[test]
    fn a_plain_value_is_borrowed() {
        assert!(matches!(parameter(Some("%61=1&b=%32"), "a"), Some(Cow::Borrowed(b"1"))));
        assert_eq!(parameter(Some("%61=1&b=%32"), "b").as_deref(), Some(&b"2"[..]));
    }
}

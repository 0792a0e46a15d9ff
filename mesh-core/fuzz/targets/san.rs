//! Names of any text, and what they are compared with: nothing panics, and all obey the plain rules.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use mesh_core::identity::{SanKind, SanMatch, SanPattern, SubjectAltName, matches_any};
use mesh_core::model::Pattern;

use super::reader::Reader;

const KINDS: [SanKind; 4] = [SanKind::Uri, SanKind::Dns, SanKind::Email, SanKind::Ip];

/// The input: some names, and some of what is expected of them.
pub fn run(data: &[u8]) {
    let mut input = Reader(data);
    let names: Vec<_> = (0..input.below(4)).map(|_| name(&mut input)).collect();
    let expected: Vec<_> = (0..input.below(4)).filter_map(|_| expectation(&mut input)).collect();
    let mut any = expected.is_empty();
    for expected in &expected {
        for name in &names {
            let matches = expected.matches(name);
            assert_eq!(matches, plainly(expected, name), "{expected:?} for {name:?}");
            any |= matches;
        }
    }
    assert_eq!(matches_any(&expected, &names), any, "{expected:?} for {names:?}");
}

fn name(input: &mut Reader<'_>) -> SubjectAltName {
    match input.pick(&KINDS) {
        SanKind::Uri => SubjectAltName::Uri(text(input)),
        SanKind::Dns => SubjectAltName::Dns(text(input)),
        SanKind::Email => SubjectAltName::Email(text(input)),
        _ if input.flag() => {
            SubjectAltName::Ip(IpAddr::from([10, 0, 0, u8::try_from(input.below(256)).expect("it is a byte")]))
        }
        _ => SubjectAltName::Ip(Ipv6Addr::from_bits(input.below(256) as u128).into()),
    }
}

/// `None` if the text was to be a regular expression and is none.
fn expectation(input: &mut Reader<'_>) -> Option<SanMatch> {
    let kind = input.flag().then(|| input.pick(&KINDS));
    let expected = SanMatch::new(match input.below(6) {
        0 => SanPattern::Prefix(text(input)),
        1 => SanPattern::Suffix(text(input)),
        2 => SanPattern::Contains(text(input)),
        3 => SanPattern::Regex(Pattern::new(&text(input)).ok()?),
        _ => SanPattern::Exact(text(input)),
    });
    Some(match kind {
        Some(kind) => expected.of_kind(kind),
        None => expected,
    })
}

/// Mostly of a few pieces, so that names and patterns meet.
fn text(input: &mut Reader<'_>) -> Arc<str> {
    const PIECES: [&str; 12] = ["a", "B", ".", "*", "*.", "a.b", "\0", "spiffe://", "/", "10.0.0.1", "::1", "@"];
    match input.below(6) {
        0 => {
            let (text, rest) = input.0.split_at(input.0.len() / 2);
            input.0 = rest;
            String::from_utf8_lossy(text).into()
        }
        pieces => (1..pieces).map(|_| input.pick(&PIECES)).collect::<String>().into(),
    }
}

/// The rules again, one after the other (gRFC A29).
fn plainly(expected: &SanMatch, name: &SubjectAltName) -> bool {
    if expected.kind.is_some_and(|kind| kind != name.kind()) {
        return false;
    }
    let text = match name {
        SubjectAltName::Uri(text) | SubjectAltName::Dns(text) | SubjectAltName::Email(text) => text.to_string(),
        SubjectAltName::Ip(address) => address.to_string(),
        _ => unreachable!("there are four kinds"),
    };
    match &expected.pattern {
        SanPattern::Exact(wanted) => match name {
            SubjectAltName::Dns(_) => dns(&text, wanted),
            SubjectAltName::Ip(address) => wanted.parse() == Ok(*address),
            _ => !text.is_empty() && text == **wanted,
        },
        SanPattern::Prefix(prefix) => text.get(..prefix.len()) == Some(&**prefix),
        SanPattern::Suffix(suffix) => {
            text.len().checked_sub(suffix.len()).and_then(|start| text.get(start..)) == Some(&**suffix)
        }
        SanPattern::Contains(part) => text.split(&**part).count() > 1,
        SanPattern::Regex(pattern) => pattern.is_full_match(text.as_bytes()),
        _ => unreachable!("there are five patterns"),
    }
}

/// Label by label.
fn dns(presented: &str, wanted: &str) -> bool {
    fn labels(name: &str) -> Vec<String> {
        name.strip_suffix('.').unwrap_or(name).split('.').map(str::to_ascii_lowercase).collect()
    }
    let (presented, wanted) = (labels(presented), labels(wanted));
    let first_matches = match presented[0].as_str() {
        "*" => presented.len() > 1 && presented[1..] != [""] && !wanted[0].is_empty(),
        first => !first.contains('*') && first == wanted[0] && presented != [""],
    };
    first_matches && presented[1..] == wanted[1..] && presented[1..].iter().all(|label| !label.contains('*'))
}

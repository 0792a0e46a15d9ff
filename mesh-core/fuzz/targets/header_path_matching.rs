//! Hosts, paths, headers and query parameters of any text: nothing panics, and all obey the plain rules.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use mesh_core::matching::{HostTable, Origin, RequestHead, RouteTable, header_matches, query_matches, request_hash};
use mesh_core::model::{
    Forward, HashPolicy, HashSource, HeaderMatch, HostPattern, PathMatch, Pattern, QueryMatch, Route, RouteMatch,
    StringMatch, ValueMatch,
};
use mesh_core::rand::SeedableRng;
use mesh_core::rand::rngs::StdRng;

use super::oracle;
use super::reader::Reader;

/// The input: what is looked at, and texts, each led by a byte with its length.
pub fn run(data: &[u8]) {
    let mut input = Reader(data);
    match input.below(4) {
        0 => hosts(&mut input),
        1 => paths(&mut input),
        2 => headers(&mut input),
        _ => queries(&mut input),
    }
}

fn hosts(input: &mut Reader<'_>) {
    let parsed = (0..input.below(8)).filter_map(|_| HostPattern::parse(&host(input)).ok());
    let patterns: Vec<(HostPattern, u32)> = parsed.collect::<Vec<_>>().into_iter().zip(0..).collect();
    let authority = host(input);
    let repeated = patterns.iter().any(|(a, i)| patterns.iter().any(|(b, j)| a == b && i != j));
    let table = HostTable::new(patterns.iter().map(|(pattern, host)| (pattern, *host)));
    assert_eq!(table.is_err(), repeated, "{patterns:?}");
    let Ok(table) = table else { return };
    let expected = claimant(&patterns, &authority);
    for authority in [authority.to_ascii_uppercase(), authority.to_ascii_lowercase()] {
        assert_eq!(table.lookup(&authority), expected, "{authority:?} in {patterns:?}");
    }
    for (pattern, host) in &patterns {
        if let HostPattern::Exact(name) = pattern {
            assert_eq!(table.lookup(name), Some(*host), "{name} in {patterns:?}");
            assert!(table.nearest(name).is_some(), "{name} is like itself");
        }
    }
    table.nearest(&authority);
}

/// The virtual host that an authority belongs to, every pattern tried.
fn claimant(patterns: &[(HostPattern, u32)], authority: &str) -> Option<u32> {
    let authority = authority.to_ascii_lowercase();
    let best = |name: &str| {
        let rank = |pattern: &HostPattern| match pattern {
            HostPattern::Exact(exact) => (name == &**exact).then_some((3, 0)),
            HostPattern::Suffix(suffix) => {
                (name.len() > suffix.len() && name.ends_with(&**suffix)).then_some((2, suffix.len()))
            }
            HostPattern::Prefix(prefix) => {
                (name.len() > prefix.len() && name.starts_with(&**prefix)).then_some((1, prefix.len()))
            }
            HostPattern::Any => None,
        };
        let ranked = patterns.iter().filter_map(|(pattern, host)| Some((rank(pattern)?, *host)));
        ranked.max_by_key(|(rank, _)| *rank).map(|(_, host)| host)
    };
    let bare = authority.trim_end_matches(|c: char| c.is_ascii_digit()).strip_suffix(':');
    let bare = bare.filter(|name| !name.is_empty() && (!name.contains(':') || name.ends_with(']')));
    let any = || patterns.iter().find(|(pattern, _)| *pattern == HostPattern::Any).map(|(_, host)| *host);
    if authority.len() > 255 {
        return any();
    }
    best(&authority).or_else(|| best(bare?)).or_else(any)
}

/// Mostly of a few pieces, so that patterns and authorities meet.
fn host(input: &mut Reader<'_>) -> String {
    const PIECES: [&str; 8] = ["a", "B", ".", "*", ":", ":80", "a.b", "]"];
    match input.below(8) {
        0 => text(input),
        1 => text(input).repeat(2),
        2 => format!("*{}", input.pick(&PIECES)),
        3 => format!("{}*", input.pick(&PIECES)),
        pieces => (3..pieces).map(|_| input.pick(&PIECES)).collect(),
    }
}

fn paths(input: &mut Reader<'_>) {
    let kind = input.below(8);
    let (want, path) = (text(input), text(input));
    let condition = match kind % 4 {
        0 => PathMatch::Exact(want.into()),
        1 => PathMatch::PathPrefix(want.into()),
        2 => PathMatch::Prefix(want.into()),
        _ => match Pattern::new(&want) {
            Ok(pattern) => PathMatch::Regex(pattern),
            Err(_) => return,
        },
    };
    let mut alternative = RouteMatch::default();
    alternative.path = Some(condition);
    alternative.ignore_path_case = kind >= 4;
    let headers = HeaderMap::new();
    let head = RequestHead { method: &Method::GET, authority: "a", path: &path, query: None, headers: &headers };
    let expected = oracle::path(&alternative, &path);
    let route = Route::new(Forward::default()).with_match(alternative);
    let found = RouteTable::new(std::slice::from_ref(&route)).find(&head, || 0).is_some();
    assert_eq!(found, expected, "{route:?} on {path:?}");
}

fn headers(input: &mut Reader<'_>) {
    let name = HeaderName::from_static(input.pick(&["x", "x-bin"]));
    let Some(value) = value(input) else { return };
    let mut headers = HeaderMap::new();
    for _ in 0..input.below(4) {
        if let Ok(value) = HeaderValue::from_bytes(bytes(input)) {
            headers.append(name.clone(), value);
        }
    }
    let condition = HeaderMatch::new(name.clone(), value);
    let inverted = condition.clone().inverted();
    for condition in [&condition, &inverted] {
        assert_eq!(
            header_matches(condition, &headers),
            oracle::header(condition, &headers),
            "{condition:?}, {headers:?}"
        );
    }
    let is_compared = !headers.is_empty() && name == "x";
    let differ = header_matches(&condition, &headers) != header_matches(&inverted, &headers);
    assert!(differ || !is_compared, "{condition:?} and its inversion on {headers:?}");

    let head = RequestHead { method: &Method::GET, authority: "a", path: "/", query: None, headers: &headers };
    let policies = [HashPolicy::new(HashSource::Header { name, rewrite: None })];
    let hash = request_hash(&policies, &head, &Origin::default(), &mut StdRng::seed_from_u64(0));
    assert_eq!(hash.value.is_some(), is_compared, "{headers:?}");
}

fn queries(input: &mut Reader<'_>) {
    let name = text(input);
    let Some(value) = value(input) else { return };
    let query = text(input);
    let condition = QueryMatch::new(name.as_str(), value);
    let expected = oracle::query(&condition, Some(&query));
    assert_eq!(query_matches(&condition, Some(&query)), expected, "{condition:?} on {query:?}");

    // Whatever is encoded whole is found again, unless it was asked for before.
    let encoded = format!("{}={}", encode(&name), encode(&query));
    let exact = ValueMatch::String(StringMatch::Exact { value: query.as_str().into(), ignore_case: false });
    assert!(query_matches(&QueryMatch::new(name.as_str(), exact.clone()), Some(&encoded)), "{name:?} in {encoded}");
    assert!(
        query_matches(&QueryMatch::new(name.as_str(), exact), Some(&format!("&{encoded}&{encoded}x"))),
        "{encoded}"
    );
}

/// `None` if the text was to be a regular expression and is none.
fn value(input: &mut Reader<'_>) -> Option<ValueMatch> {
    let kind = input.below(8);
    let ignore_case = input.flag();
    Some(ValueMatch::String(match kind {
        0 => return Some(ValueMatch::Present(ignore_case)),
        1 => {
            let start = input.below(256) as i64 - 128;
            return Some(ValueMatch::Range { start, end: start + input.below(256) as i64 });
        }
        2 => StringMatch::Prefix { value: text(input).into(), ignore_case },
        3 => StringMatch::Suffix { value: text(input).into(), ignore_case },
        4 => StringMatch::Contains { value: text(input).into(), ignore_case },
        5 => StringMatch::Regex(Pattern::new(&text(input)).ok()?),
        _ => StringMatch::Exact { value: text(input).into(), ignore_case },
    }))
}

fn text(input: &mut Reader<'_>) -> String {
    String::from_utf8_lossy(bytes(input)).into_owned()
}

fn bytes<'a>(input: &mut Reader<'a>) -> &'a [u8] {
    let len = input.below(256).min(input.0.len());
    let (bytes, rest) = input.0.split_at(len);
    input.0 = rest;
    bytes
}

fn encode(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

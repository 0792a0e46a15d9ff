//! The index of a route table against its routes tested one after the other (RT-13).

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use mesh_core::matching::{RequestHead, RouteTable};
use mesh_core::model::{
    Forward, Fraction, HeaderMatch, PathMatch, Pattern, QueryMatch, Route, RouteMatch, StringMatch, ValueMatch,
};

use super::oracle;
use super::reader::Reader;

// All alphabets are tiny, so that patterns and requests meet often.
const PIECES: [&str; 8] = ["/", "a", "b", "A", "/a", "/b", "ab", "\u{e9}"];
const REGEXES: [&str; 6] = [".*", "/a.*", "/[ab]+", "(?i)/a/b", "/a|/ab", ""];
const METHODS: [Method; 2] = [Method::GET, Method::PUT];
const HEADERS: [&str; 4] = ["x", "y", "z", "x-bin"];
const VALUES: [&str; 8] = ["", "a", "A", "ab", "a,b", "1", "-1", "2"];
const BYTES: [&[u8]; 8] = [b"", b"a", b"b", b"aB", b"1", b"-1", b"\xff", b"2"];
const PARAMETERS: [&str; 3] = ["k", "", "k l"];
const QUERIES: [&str; 8] = ["", "k", "k=a", "k=1&k=a", "k+l=ab&=", "%6b=%61", "k%20l=A&k=", "a=k&k=%"];
const PARTS: [u32; 4] = [0, 1, 500_000, 1_000_000];
const DRAWS: [u32; 5] = [0, 1, 499_999, 500_000, 999_999];

/// The input: the number of routes, the routes, the number of requests beyond the first, the requests. Each decision
/// is one byte, taken modulo the number of its choices.
pub fn run(data: &[u8]) {
    let mut input = Reader(data);
    let routes: Vec<Route> = (0..input.below(16)).map(|_| route(&mut input)).collect();
    let table = RouteTable::new(&routes);
    for _ in 0..=input.below(8) {
        let path = path(&mut input);
        let method = METHODS[input.below(2)].clone();
        let headers = headers(&mut input);
        let query = input.flag().then(|| input.pick(&QUERIES));
        let draw = input.pick(&DRAWS);
        let head = RequestHead { method: &method, authority: "a", path: &path, query, headers: &headers };
        let expected = first(&routes, &head, draw);
        let mut draws = 0;
        let found = table.find(&head, || {
            draws += 1;
            draw
        });
        assert_eq!(found, expected, "{head:?} with {draw} in {routes:#?}");
        let fractions = routes.iter().flat_map(|route| &route.matches).filter(|m| m.fraction.is_some()).count();
        assert!(draws <= fractions, "{draws} draws for {fractions} fractions");
    }
}

/// The first route that matches, tested one after the other. Every fraction draws `draw`.
fn first(routes: &[Route], head: &RequestHead<'_>, draw: u32) -> Option<u32> {
    let holds = |alternative: &RouteMatch| {
        oracle::path(alternative, head.path)
            && alternative.method.iter().all(|method| method == head.method)
            && alternative.headers.iter().all(|condition| oracle::header(condition, head.headers))
            && alternative.query.iter().all(|condition| oracle::query(condition, head.query))
            && alternative.fraction.iter().all(|fraction| draw < fraction.parts())
    };
    let matching = |route: &Route| route.matches.is_empty() || route.matches.iter().any(holds);
    routes.iter().position(matching).map(|index| index as u32)
}

fn route(input: &mut Reader<'_>) -> Route {
    let route = Route::new(Forward::default());
    let alternatives = input.pick(&[1, 1, 1, 2, 2, 3, 1, 0]);
    (0..alternatives).fold(route, |route, _| route.with_match(alternative(input)))
}

fn alternative(input: &mut Reader<'_>) -> RouteMatch {
    let mut alternative = RouteMatch::default();
    alternative.path = match input.below(16) {
        0..=4 => Some(PathMatch::Exact(path(input).into())),
        5..=9 => Some(PathMatch::PathPrefix(path(input).into())),
        10..=13 => Some(PathMatch::Prefix(path(input).into())),
        14 => Some(PathMatch::Regex(pattern(input))),
        _ => None,
    };
    let conditions = if input.flag() { input.below(32) } else { input.below(2) };
    alternative.ignore_path_case = conditions & 1 != 0;
    alternative.method = (conditions & 2 != 0).then(|| METHODS[input.below(2)].clone());
    if conditions & 4 != 0 {
        let condition = HeaderMatch::new(HeaderName::from_static(input.pick(&HEADERS)), value(input));
        alternative.headers.push(if input.flag() { condition.inverted() } else { condition });
    }
    if conditions & 8 != 0 {
        alternative.query.push(QueryMatch::new(input.pick(&PARAMETERS), value(input)));
    }
    alternative.fraction = (conditions & 16 != 0).then(|| Fraction::per_million(input.pick(&PARTS)));
    alternative
}

fn path(input: &mut Reader<'_>) -> String {
    match input.below(8) {
        0 => String::new(),
        1 => "*".to_owned(),
        pieces => (3..pieces).fold("/".to_owned(), |path, _| path + input.pick(&PIECES)),
    }
}

fn pattern(input: &mut Reader<'_>) -> Pattern {
    Pattern::new(input.pick(&REGEXES)).expect("each of the list is a regular expression")
}

fn value(input: &mut Reader<'_>) -> ValueMatch {
    let kind = input.below(8);
    let mut text = || (input.pick(&VALUES).into(), input.flag());
    ValueMatch::String(match kind {
        0 => return ValueMatch::Present(input.flag()),
        1 => {
            let start = input.below(5) as i64 - 2;
            return ValueMatch::Range { start, end: start + input.below(3) as i64 };
        }
        2 => {
            let (value, ignore_case) = text();
            StringMatch::Prefix { value, ignore_case }
        }
        3 => {
            let (value, ignore_case) = text();
            StringMatch::Suffix { value, ignore_case }
        }
        4 => {
            let (value, ignore_case) = text();
            StringMatch::Contains { value, ignore_case }
        }
        5 => StringMatch::Regex(pattern(input)),
        _ => {
            let (value, ignore_case) = text();
            StringMatch::Exact { value, ignore_case }
        }
    })
}

fn headers(input: &mut Reader<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for _ in 0..input.below(4) {
        let name = HeaderName::from_static(input.pick(&HEADERS));
        let value = HeaderValue::from_bytes(input.pick(&BYTES)).expect("each of the list is a header value");
        headers.append(name, value);
    }
    headers
}

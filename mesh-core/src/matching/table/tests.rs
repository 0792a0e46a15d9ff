use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::model::{Forward, RouteAction, StringMatch, ValueMatch};

fn route(alternatives: impl IntoIterator<Item = RouteMatch>) -> Route {
    let route = Route::new(RouteAction::Forward(Forward::default()));
    alternatives.into_iter().fold(route, Route::with_match)
}

fn path(path: PathMatch) -> RouteMatch {
    RouteMatch { path: Some(path), ..RouteMatch::default() }
}

fn exact(text: &str) -> RouteMatch {
    path(PathMatch::Exact(text.into()))
}

fn elements(text: &str) -> RouteMatch {
    path(PathMatch::PathPrefix(text.into()))
}

fn prefix(text: &str) -> RouteMatch {
    path(PathMatch::Prefix(text.into()))
}

fn regex(source: &str) -> RouteMatch {
    path(PathMatch::Regex(Pattern::new(source).unwrap()))
}

fn any_case(alternative: RouteMatch) -> RouteMatch {
    RouteMatch { ignore_path_case: true, ..alternative }
}

fn with_method(alternative: RouteMatch, method: Method) -> RouteMatch {
    RouteMatch { method: Some(method), ..alternative }
}

fn with_fraction(alternative: RouteMatch, parts: u32) -> RouteMatch {
    RouteMatch { fraction: Some(Fraction::per_million(parts)), ..alternative }
}

fn with_header(mut alternative: RouteMatch, name: &'static str) -> RouteMatch {
    alternative.headers.push(HeaderMatch::new(HeaderName::from_static(name), ValueMatch::Present(true)));
    alternative
}

fn with_query(mut alternative: RouteMatch, name: &str, value: &str) -> RouteMatch {
    let value: Arc<str> = value.into();
    alternative.query.push(QueryMatch::new(name, ValueMatch::String(StringMatch::Exact { value, ignore_case: false })));
    alternative
}

/// One route for each alternative.
fn table(alternatives: impl IntoIterator<Item = RouteMatch>) -> RouteTable {
    RouteTable::new(&alternatives.into_iter().map(|alternative| route([alternative])).collect::<Vec<_>>())
}

/// `GET` of a path without headers; no draw is expected.
fn find(table: &RouteTable, path: &str) -> Option<u32> {
    let headers = HeaderMap::new();
    let head = RequestHead { method: &Method::GET, authority: "a", path, query: None, headers: &headers };
    table.find(&head, || panic!("nothing to draw for"))
}

fn matches(alternative: &RouteMatch, path: &str) -> bool {
    find(&table([alternative.clone()]), path).is_some()
}

/// RT-02: whatever kind of path the routes have, the first in the list wins.
#[test]
fn rt_02_the_first_route_in_the_list_wins() {
    let kinds = [
        exact("/a/b"),
        any_case(exact("/A/b")),
        elements("/a"),
        any_case(elements("/A")),
        prefix("/a/"),
        any_case(prefix("/A/")),
        regex("/a/."),
        RouteMatch::default(),
        with_method(exact("/a/b"), Method::GET),
        with_method(RouteMatch::default(), Method::GET),
    ];
    for first in 0..kinds.len() {
        let mut rotated = kinds.to_vec();
        rotated.rotate_left(first);
        let table = table([vec![exact("/other"), with_method(exact("/a/b"), Method::PUT)], rotated].concat());
        assert_eq!(find(&table, "/a/b"), Some(2), "{:?}", kinds[first]);
    }
}

#[test]
fn a_route_matches_if_one_alternative_holds_whole() {
    let routes = [
        route([with_method(exact("/a"), Method::PUT), with_query(exact("/a"), "k", "v"), exact("/b")]),
        route([with_method(exact("/a"), Method::GET)]),
        route([]),
    ];
    let table = RouteTable::new(&routes);
    let headers = HeaderMap::new();
    for (method, uri, expected) in [
        (Method::PUT, "/a", 0),
        (Method::GET, "/a?k=v", 0),
        (Method::GET, "/a?k=w", 1),
        (Method::GET, "/a", 1),
        (Method::PATCH, "/a", 2),
        (Method::PATCH, "/b", 0),
        (Method::GET, "/c", 2),
    ] {
        let uri: Uri = uri.parse().unwrap();
        let head = RequestHead::new(&method, &uri, "a", &headers);
        assert_eq!(table.find(&head, || 0), Some(expected), "{method} {uri}");
    }
}

#[test]
fn all_conditions_of_an_alternative_must_hold() {
    let both = with_query(with_header(with_method(elements("/a"), Method::POST), "x-canary"), "k", "v");
    let table = table([with_fraction(both, 500_000)]);
    let mut canary = HeaderMap::new();
    canary.insert("x-canary", HeaderValue::from_static(""));
    let none = HeaderMap::new();
    for (method, path, query, headers, draw, expected) in [
        (Method::POST, "/a/b", Some("k=v"), &canary, 499_999, true),
        (Method::POST, "/a/b", Some("k=v"), &canary, 500_000, false),
        (Method::GET, "/a/b", Some("k=v"), &canary, 0, false),
        (Method::POST, "/ab", Some("k=v"), &canary, 0, false),
        (Method::POST, "/a/b", Some("k=w"), &canary, 0, false),
        (Method::POST, "/a/b", None, &canary, 0, false),
        (Method::POST, "/a/b", Some("k=v"), &none, 0, false),
    ] {
        let head = RequestHead { method: &method, authority: "a", path, query, headers };
        assert_eq!(table.find(&head, || draw).is_some(), expected, "{head:?} {draw}");
    }
}

/// RT-03
#[test]
fn rt_03_a_path_prefix_counts_elements_and_a_prefix_bytes() {
    for (alternative, holds, fails) in [
        (elements("/v2"), &["/v2", "/v2/", "/v2/x", "/v2//"][..], &["/v2example", "/v", "/", "", "/V2", "/x/v2"][..]),
        (elements("/v2/"), &["/v2", "/v2/", "/v2/x"], &["/v2example", "/v", "/"]),
        (elements("/"), &["/", "", "/v2", "//"], &["*"]),
        (elements(""), &["/", "", "/v2"], &["*"]),
        (prefix("/v2"), &["/v2", "/v2/", "/v2example"], &["/v", "/", "/V2"]),
        (prefix("/v2/"), &["/v2/", "/v2/x"], &["/v2", "/v2example"]),
        (prefix("/"), &["/", "", "/v2"], &["*"]),
        (prefix(""), &["/", "", "/v2"], &["*"]),
        (exact("/v2"), &["/v2"], &["/v2/", "/v", "/V2", ""]),
        (exact("/"), &["/", ""], &["//", "*"]),
    ] {
        for path in holds {
            assert!(matches(&alternative, path), "{alternative:?} on {path}");
        }
        for path in fails {
            assert!(!matches(&alternative, path), "{alternative:?} on {path}");
        }
    }
}

/// RT-04
#[test]
fn rt_04_case_is_ascii_case_and_no_matter_of_regular_expressions() {
    for (alternative, path, expected) in [
        (exact("/Pkg.Svc/Get"), "/pkg.svc/get", false),
        (any_case(exact("/Pkg.Svc/Get")), "/pkg.svc/get", true),
        (any_case(exact("/pkg.svc/get")), "/PKG.SVC/GET", true),
        (any_case(exact("/pkg.svc/get")), "/PKG.SVC/GETS", false),
        (any_case(elements("/Pkg/")), "/pKG/x", true),
        (any_case(elements("/Pkg/")), "/pKGx", false),
        (any_case(prefix("/Pkg")), "/pKGx", true),
        // Neither are `é` and `É` equal, nor `@` and a backtick, though one bit parts each pair.
        (any_case(exact("/\u{e9}")), "/\u{c9}", false),
        (any_case(exact("/@")), "/`", false),
        (any_case(regex("/abc")), "/ABC", false),
        (regex("(?i)/abc"), "/ABC", true),
        // A regular expression must match the whole path, without the query.
        (regex("/a"), "/ab", false),
        (regex("a"), "/a", false),
        (regex("/a|/ab"), "/ab", true),
        (regex("/a.*"), "/ab/c", true),
    ] {
        assert_eq!(matches(&alternative, path), expected, "{alternative:?} on {path}");
    }
}

/// `OPTIONS *` asks about the server and has no path.
#[test]
fn an_asterisk_is_no_path() {
    for (alternative, expected) in [
        (exact("*"), true),
        (any_case(exact("*")), true),
        (RouteMatch::default(), true),
        (with_method(RouteMatch::default(), Method::GET), true),
        (prefix(""), false),
        (prefix("*"), false),
        (elements("*"), false),
        (any_case(elements("*")), false),
        (regex(".*"), false),
    ] {
        assert_eq!(matches(&alternative, "*"), expected, "{alternative:?}");
    }
    assert!(!matches(&exact("*"), "/"));
    assert!(matches(&prefix("*"), "*a"));
}

/// RT-06
#[test]
fn rt_06_a_fraction_holds_for_its_share_of_the_requests() {
    let table = table([with_fraction(elements("/"), 250_000), RouteMatch::default()]);
    let mut random = StdRng::seed_from_u64(6);
    let headers = HeaderMap::new();
    let head = RequestHead { method: &Method::GET, authority: "a", path: "/", query: None, headers: &headers };
    let requests = 1875;
    let mut draws = 0;
    let hits = (0..requests)
        .filter(|_| {
            let found = table.find(&head, || {
                draws += 1;
                random.random_range(0..Fraction::DENOMINATOR)
            });
            found == Some(0)
        })
        .count();
    assert_eq!(draws, requests);
    let expected = f64::from(requests) * 0.25;
    let sigma = (expected * 0.75).sqrt();
    assert!((hits as f64 - expected).abs() <= 5.0 * sigma, "{hits} of {requests}");
}

/// RT-06
#[test]
fn rt_06_a_fraction_of_nothing_never_holds_and_one_of_all_always() {
    let headers = HeaderMap::new();
    let head = RequestHead { method: &Method::GET, authority: "a", path: "/", query: None, headers: &headers };
    for (parts, draw, expected) in
        [(0, 0, false), (1, 0, true), (1, 1, false), (999_999, 999_999, false), (1_000_000, 999_999, true)]
    {
        let table = table([with_fraction(RouteMatch::default(), parts)]);
        assert_eq!(table.find(&head, || draw).is_some(), expected, "{draw} of {parts}");
    }
}

#[test]
fn nothing_is_drawn_for_routes_behind_one_that_holds() {
    let table = table([exact("/a"), with_fraction(exact("/a"), 1), with_fraction(RouteMatch::default(), 1)]);
    assert_eq!(find(&table, "/a"), Some(0));
}

#[test]
fn an_empty_table_has_no_match() {
    assert_eq!(find(&RouteTable::new(&[]), "/"), None);
}

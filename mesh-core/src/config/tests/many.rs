//! All problems of a file at once.

use super::{bad, read};

/// CF-02: one file, every problem of it, each with its place, path, value and way out.
#[test]
fn reports_all_problems_at_once() {
    let text = r#"xds: {}
services:
  greeter:
    hosts: [GREETER.example, "a b"]
    rate_limit: {}
    routes:
      - name: first
        matches:
          - path: { prefix: v1 }
            headers: [{ name: x-canary, exact: true }, { name: ":path", exact: /x }]
          - path: { exact: /x, regex: "(" }
        backends: [{ name: gren }]
        timeout: 2 sec
      - name: first
        backends: [{ name: blue, weight: 0 }]
        timeuot: 1s
        retry: { num_retries: 11, on: [5xx, unavailble, retriable-headers], backoff: { base: 1s, max: 25ms } }
    backends:
      blue:
        endpoints: [10.0.0.1:80, localhost:80, 10.0.0.1:80]
        load_balancer: magellan
        conect_timeout: 5s
      green:
        protocol: http3
        tls: { mode: mutual }
  other:
    hosts: [greeter.EXAMPLE]
    backends: {}
"#;
    let places = [
        (1, 1, "xds", Some("xds"), "not supported in this version"),
        (4, 30, "services.greeter.hosts[1]", Some("a b"), "letters, digits"),
        (5, 5, "services.greeter.rate_limit", Some("rate_limit"), "not supported in this version"),
        (9, 29, "services.greeter.routes[0].matches[0].path.prefix", Some("v1"), "write `/v1`"),
        (10, 48, "services.greeter.routes[0].matches[0].headers[0].exact", Some("true"), "quote it: \"true\""),
        (10, 64, "services.greeter.routes[0].matches[0].headers[1].name", Some(":path"), "use `path`"),
        (11, 19, "services.greeter.routes[0].matches[1].path", None, "`exact`, `regex` exclude each other"),
        (11, 39, "services.greeter.routes[0].matches[1].path.regex", Some("("), "unclosed group"),
        (12, 28, "services.greeter.routes[0].backends[0].name", Some("gren"), "did you mean `green`?"),
        (13, 18, "services.greeter.routes[0].timeout", Some("2 sec"), "did you mean `2s`?"),
        (14, 15, "services.greeter.routes[1].name", Some("first"), "already the name of the route `#0`"),
        (15, 19, "services.greeter.routes[1].backends", None, "add up to 0"),
        (16, 9, "services.greeter.routes[1].timeuot", Some("timeuot"), "did you mean `timeout`?"),
        (17, 31, "services.greeter.routes[1].retry.num_retries", Some("11"), "from 1 to 10"),
        (17, 45, "services.greeter.routes[1].retry.on[1]", Some("unavailble"), "did you mean `unavailable`?"),
        (
            17,
            57,
            "services.greeter.routes[1].retry.on[2]",
            Some("retriable-headers"),
            "needs the field `retriable_headers`",
        ),
        (17, 103, "services.greeter.routes[1].retry.backoff.max", Some("25ms"), "at least 1s"),
        (20, 34, "services.greeter.backends.blue.endpoints[1]", Some("localhost:80"), "write `dns: localhost:80`"),
        (20, 48, "services.greeter.backends.blue.endpoints[2]", Some("10.0.0.1:80"), "already in this list"),
        (21, 24, "services.greeter.backends.blue.load_balancer", Some("magellan"), "write one of `round_robin`"),
        (
            22,
            9,
            "services.greeter.backends.blue.conect_timeout",
            Some("conect_timeout"),
            "did you mean `connect_timeout`?",
        ),
        (24, 9, "services.greeter.backends.green", None, "one of `endpoints`, `localities`, `dns`, `discovery`"),
        (24, 19, "services.greeter.backends.green.protocol", Some("http3"), "`auto`, `http1`, `http2`"),
        (25, 22, "services.greeter.backends.green.tls.mode", Some("mutual"), "needs an identity"),
        (27, 13, "services.other.hosts[0]", Some("greeter.example"), "already a host of the service `greeter`"),
        (28, 15, "services.other.backends", None, "at least one name"),
    ];
    let problems = bad(text);
    let found: Vec<_> = problems
        .iter()
        .map(|problem| (problem.line(), problem.column(), problem.path.as_str(), problem.value.as_deref()))
        .collect();
    let expected: Vec<_> =
        places.iter().map(|(line, column, path, value, _)| (*line, *column, *path, *value)).collect();
    assert_eq!(found, expected);
    for (problem, (.., words)) in problems.iter().zip(places) {
        assert!(problem.to_string().contains(words), "{problem} does not say {words:?}");
    }
}

/// The error is a line a problem, in the order of the file, and no more than a person reads.
#[test]
fn displays_a_line_a_problem() {
    let error = read("services: { a: { backends: { b: { endpoints: [x, y], protocol: 5 } } } }").unwrap_err();
    let lines: Vec<_> = error.to_string().lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(lines, ["mesh.yaml:1:47:", "mesh.yaml:1:50:", "mesh.yaml:1:64:"]);
    assert_eq!(error.omitted(), 0);

    let endpoints = vec!["x"; 1500].join(", ");
    let error =
        read(&format!("services: {{ a: {{ backends: {{ b: {{ endpoints: [{endpoints}] }} }} }} }}")).unwrap_err();
    assert_eq!((error.problems().len(), error.omitted()), (1000, 500));
    assert_eq!(error.to_string().lines().last().unwrap(), ".. and 500 more problems");
}

/// What follows from a problem is not said again.
#[test]
fn says_nothing_about_what_follows_from_a_problem() {
    let cases = [
        // The names of broken backends are known, and unreadable backends make no name wrong.
        ("services: { a: { routes: [{ backends: [{ name: b }] }], backends: { b: 5 } } }", 1),
        ("services: { a: { routes: [{ backends: [{ name: b }] }], backends: 5 } }", 1),
        // Routes that cannot be read are not missing.
        ("services: { a: { routes: 5, backends: { b: { endpoints: [] }, c: { endpoints: [] } } } }", 1),
        // A misspelt field is not missing, nor is one that may have been in a refused entry.
        ("services: { a: { backend: { b: { endpoints: [] } } } }", 1),
        ("services: { a: { <<: {}, hosts: [] } }", 1),
        // A refused condition may have been the one that the list belongs to.
        (
            "services: { a: { routes: [{ backends: [{ name: b }], retry: { on: [retriable_status_code], \
             retriable_status_codes: [500] } }], backends: { b: { endpoints: [] } } } }",
            1,
        ),
        // Weights cannot be added up if one of them is not known.
        (
            "services: { a: { routes: [{ backends: [{ name: b, weight: x }] }], backends: { b: { endpoints: [] } } } }",
            1,
        ),
    ];
    for (text, count) in cases {
        let problems = bad(text);
        assert_eq!(problems.len(), count, "{problems:#?} in {text}");
    }
}

/// Texts of a file are shortened in messages, in characters.
#[test]
fn shortens_what_was_written() {
    let long = "ä".repeat(1000);
    for text in [
        format!("services: {{ a: {{ backends: {{ b: {{ endpoints: [{long}] }} }} }} }}"),
        format!("{long}: 1\nservices: {{ a: {{ backends: {{ b: {{ endpoints: [] }} }} }} }}"),
        format!("services: {{ {long}: {{ backends: {{ {long}: {{ endpoints: [] }} }} }} }}"),
    ] {
        for problem in bad(&text) {
            assert!(problem.to_string().len() < 600, "{problem}");
            assert!(problem.value.is_some_and(|value| value.starts_with('ä') && value.chars().count() == 62));
        }
    }
}

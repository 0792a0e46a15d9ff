//! What stands before the schema: encoding, syntax, one document.

use std::path::Path;

use super::super::{MAX_BYTES, parse};
use super::{bad, good, only_problem};

const SMALL: &str = "services: { a: { backends: { b: { endpoints: [] } } } }\n";

/// CF-01: the place and what was expected; never a default.
#[test]
fn reports_syntax_errors_with_their_place() {
    let cases = [
        ("services:\n  a: { backends: { b: 1 } c: d }\n", (2, 27), "did not find expected ',' or '}'", None),
        ("services:\n  a:\n    backends: 1\n   hosts: 1\n", (4, 4), "did not find expected key", Some("indentation")),
        ("services:\n  a:\n    b: { c: { d: [] }\n  e: f\n", (4, 3), "invalid indentation", Some("indentation")),
        ("services:\n\ta: b\n", (2, 2), "tab", Some("spaces")),
        ("services: 'a\n", (1, 11), "unexpected end of stream", None),
        ("services:\n  a:\n    hosts: [*.example.com]\n", (3, 13), "unknown anchor", Some("quoted")),
    ];
    for (text, place, message, help) in cases {
        let problem = only_problem(text);
        assert_eq!(problem.origin.to_string(), format!("mesh.yaml:{}:{}", place.0, place.1), "{problem}");
        assert!(problem.message.starts_with("not valid YAML: ") && problem.message.contains(message), "{problem}");
        let words = problem.help.as_deref().unwrap_or_default();
        assert_eq!(help.is_some(), problem.help.is_some(), "{problem}");
        assert!(words.contains(help.unwrap_or_default()), "{problem}");
    }
}

/// CF-01: what was found before a syntax error is reported with it.
#[test]
fn keeps_problems_in_front_of_a_syntax_error() {
    let lines: Vec<_> = bad("services: 1\nservices: 2\na: b: c\n").iter().map(|problem| problem.line()).collect();
    assert_eq!(lines, [2, 3]);
}

/// CF-06: an empty file is no configuration, and never one without services.
#[test]
fn refuses_a_file_without_configuration() {
    for text in
        ["", "\n\n", "# nothing\n# here\n", "---\n", "---\n...\n", "null\n", "~", "\u{feff}", "%YAML 1.2\n---\n"]
    {
        let problem = only_problem(text);
        assert_eq!((problem.line(), problem.column()), (0, 0), "{text:?}");
        assert!(problem.to_string().starts_with("mesh.yaml: there is no configuration"), "{problem}");
    }
}

/// CF-06: beyond the 1 MiB of a ConfigMap, up to our own limit.
#[test]
fn reads_large_files() {
    let mut text = String::from("services:\n");
    for index in 0..10_000 {
        text.push_str(&format!(
            "  service-{index}:  # {}\n    backends:\n      v1: {{ endpoints: [10.0.{}.{}:80] }}\n",
            "x".repeat(100),
            index / 250,
            index % 250
        ));
    }
    assert!(text.len() > 1 << 20);
    assert_eq!(good(&text).backends.len(), 10_000);
}

#[test]
fn limits_the_size_of_a_file() {
    let text = format!("{SMALL}{}", "#".repeat(100).as_str());
    let filled = |size: usize| {
        let lines = "#234567\n".repeat((size - SMALL.len()) / 8 - 1);
        format!("{SMALL}{lines}{}", "#".repeat(size - SMALL.len() - lines.len()))
    };
    good(&text);
    // Comments in one piece have a limit of their own, which is why blank services make up most of a large file.
    let problem = only_problem(&filled(MAX_BYTES + 1));
    assert_eq!(problem.message, "8388609 bytes are too many: a configuration has at most 8388608");
    assert!(only_problem(&filled(MAX_BYTES)).message.contains("in one piece"));
}

/// Byte for byte: the place of what is not UTF-8, or not allowed in YAML.
#[test]
fn refuses_what_is_not_text() {
    let cases: [(&[u8], (usize, usize), &str); 6] = [
        (b"services:\n  \xffa: b", (2, 3), "the byte 0xff here is not UTF-8"),
        ("services: \u{e4}".as_bytes().split_last().unwrap().1, (1, 11), "the byte 0xc3 here is not UTF-8"),
        (b"\xff\xfes\0e\0", (1, 1), "the byte 0xff here is not UTF-8"),
        (b"services: {}\n\0services: 5", (2, 1), "the control character 0x00 is not allowed in YAML"),
        (b"a: b\x07", (1, 5), "the control character 0x07 is not allowed in YAML"),
        (b"a: \x7f\xff", (1, 4), "the control character 0x7f is not allowed in YAML"),
    ];
    for (text, place, message) in cases {
        let error = parse(text, "mesh.yaml", Path::new("")).unwrap_err();
        let [problem] = error.problems() else { panic!("{error}") };
        assert_eq!((problem.line(), problem.column()), place, "{problem}");
        assert_eq!(problem.message, message);
    }
}

/// Columns count characters; a byte order mark and the line ends of other systems change no place.
#[test]
fn counts_places_as_people_do() {
    for text in ["services:\n  äöü: 5\n", "services:\r\n  äöü: 5\r\n", "\u{feff}services:\n  äöü: 5\n"] {
        let places: Vec<_> = bad(text).iter().map(|problem| (problem.line(), problem.column())).collect();
        assert_eq!(places, [(2, 3), (2, 8)], "{text:?}");
    }
}

#[test]
fn reads_aliases_and_core_tags() {
    let config = good(
        r#"
services:
  a:
    backends: &backends
      b: { endpoints: &endpoints [10.0.0.1:80] }
  c:
    routes: [{ name: !!str 5, backends: [{ name: b, weight: !!int "7" }] }]
    backends: *backends
  d: { backends: { "b": { endpoints: *endpoints } } }
"#,
    );
    let counts: Vec<_> = config.backends.values().map(|backend| backend.endpoints.len()).collect();
    assert_eq!(counts, [1, 1, 1]);
    assert_eq!(config.virtual_hosts[1].routes[0].name.as_deref(), Some("5"));
}

/// What an alias stands for has the place of its anchor, and the path of the alias.
#[test]
fn problems_behind_aliases_point_at_the_text() {
    let problems = bad(
        "services:\n  a: { backends: { b: { endpoints: &e [x] } } }\n  c: { backends: { b: { endpoints: *e } } }\n",
    );
    let places: Vec<_> =
        problems.iter().map(|problem| (problem.line(), problem.column(), problem.path.as_str())).collect();
    assert_eq!(places, [(2, 40, "services.a.backends.b.endpoints[0]"), (2, 40, "services.c.backends.b.endpoints[0]")]);
}

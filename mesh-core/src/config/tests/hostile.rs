//! CF-13: files that are meant to hurt. Each ends in an error, in bounded memory and time, without a panic.

use std::path::Path;

use proptest::prelude::*;

use super::super::{File, Parsed, Reader, parse};
use super::{only_problem, read};
use crate::model::PathMatch;

#[test]
fn depth_is_bounded() {
    let flow = |open: &str, close: &str, depth: usize| format!("{}{}", open.repeat(depth), close.repeat(depth));
    let cases = [
        ("brackets", flow("[", "]", 10_000)),
        ("braces", flow("{a: ", "}", 10_000)),
        ("dashes", "- ".repeat(10_000)),
        ("keys", "? ".repeat(10_000)),
        ("open brackets", "[".repeat(10_000)),
        ("indentation", (0..200).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect()),
        (
            "aliases",
            (1..100).map(|depth| format!("- &a{depth} [*a{}]\n", depth - 1)).fold("- &a0 []\n".into(), |a, b| a + &b),
        ),
    ];
    for (name, text) in cases {
        let problem = only_problem(&text);
        let known = ["nested deeper than 64 levels", "not valid YAML: recursion limit exceeded"];
        assert!(known.contains(&&*problem.message), "{name}: {problem}");
    }
}

/// The billion laughs: every line multiplies the one above by ten.
#[test]
fn aliases_cannot_multiply() {
    let mut text = String::from("a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
    for line in 1..30 {
        let aliases = vec![format!("*a{}", line - 1); 10].join(", ");
        text.push_str(&format!("a{line}: &a{line} [{aliases}]\n"));
    }
    let problem = only_problem(&text);
    assert!(problem.message.starts_with("more than 500000 values"), "{problem}");
    assert_eq!(problem.line(), 6);
}

/// Few nodes, much text.
#[test]
fn aliases_cannot_multiply_text() {
    let text = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 19), "*a,".repeat(1000));
    assert!(only_problem(&text).message.contains("aliases stand for more than"), "{text:.80}");
}

#[test]
fn nodes_are_bounded() {
    let text = format!("a:\n{}", "- b\n".repeat(500_001));
    assert!(only_problem(&text).message.starts_with("more than 500000 values"));
}

#[test]
fn scalars_are_bounded() {
    let large = format!("a: {}", "x".repeat(9 << 20));
    assert!(only_problem(&large).message.ends_with("a configuration has at most 8388608"));
    for (open, fill) in
        [("a: ", "x"), ("a: \"", "x"), ("a: |\n  ", "x"), ("[", "a,"), ("[", "[],"), ("#", "x"), ("{", "a: b,")]
    {
        let text = format!("{open}{}", fill.repeat((1 << 20) / fill.len() + 100));
        assert!(only_problem(&text).message.contains("in one piece"), "{open}{fill}");
    }
}

/// Very many problems cost the thousand that are kept, and no comparison of each with each.
#[test]
fn problems_are_bounded() {
    let unknown: String = (0..50_000).map(|index| format!("serv{index}: 1\n")).collect();
    let error = read(&unknown).unwrap_err();
    assert_eq!(error.problems().len() + error.omitted(), 50_001);

    let mut text = String::from("services:\n  a:\n    backends:\n");
    (0..5000).for_each(|index| text.push_str(&format!("      backend{index}: {{ endpoints: [] }}\n")));
    text.push_str("    routes:\n");
    (0..5000).for_each(|index| text.push_str(&format!("    - backends: [{{ name: backedn{index} }}]\n")));
    let error = read(&text).unwrap_err();
    assert_eq!(error.problems().len() + error.omitted(), 5000);
}

/// Very many subsets that no one of very many endpoints is in: a warning each, and no comparison of each with each.
#[test]
fn subsets_are_compared_within_bounds() {
    let mut text = String::from("services:\n  a:\n    backends:\n      b:\n        endpoints:\n");
    (0..20_000).for_each(|index| {
        let address = format!("10.{}.{}.{}:80", index >> 16, index >> 8 & 255, index & 255);
        text.push_str(&format!("        - {{ address: '{address}', metadata: {{ a: b }} }}\n"));
    });
    text.push_str("    routes:\n");
    (0..20_000).for_each(|_| text.push_str("    - backends: [{ name: b, subset: { a: c } }]\n      timeout: 1s\n"));
    let file = File { text: text.as_bytes(), name: "any", directory: Path::new("/") };
    let warnings = Reader::new().read(Some(file)).unwrap().warnings;
    assert!(warnings.iter().any(|warning| warning.code == "unmatched-subset"));
}

/// Regular expressions that are small to write and large to compile.
#[test]
fn patterns_are_bounded() {
    let route = |regex: String| {
        format!("    - {{ backends: [{{ name: b }}], matches: [{{ path: {{ regex: '{regex}' }} }}] }}\n")
    };
    let head = "services:\n  a:\n    backends: { b: { endpoints: [] } }\n    routes:\n";
    let problem = only_problem(&format!("{head}{}", route("((a{1000}){1000}){1000}".into())));
    assert!(problem.message.contains("the compiled expression exceeds 1048576 bytes"), "{problem}");
    let many: String = (0..1001).map(|index| route(format!("/{index}"))).collect();
    assert!(only_problem(&format!("{head}{many}")).message.contains("1000 different ones"));
    let same: String = (0..5000).map(|_| route("/same".into())).collect();
    read(&format!("{head}{same}")).unwrap();
}

/// RL-07: an expression that others take exponential time for takes time in proportion to the text.
#[test]
fn rl_07_expressions_take_linear_time() {
    let config = read(
        "services: { a: { backends: { b: { dns: b:80 } }, \
         routes: [{ backends: [{ name: b }], matches: [{ path: { regex: (a*)*b } }] }] } }",
    )
    .unwrap();
    let Some(PathMatch::Regex(pattern)) = &config.virtual_hosts[0].routes[0].matches[0].path else { panic!() };
    assert!(!pattern.is_full_match("a".repeat(1 << 20).as_bytes()));
    assert!(pattern.is_full_match(b"aaab"));
}

/// RL-07: a large expression is refused before it is compiled, and a large file is read.
#[test]
fn rl_07_large_expressions_are_refused_and_many_routes_are_not() {
    let file = |routes: &str| format!("services:\n  a:\n    backends: {{ b: {{ dns: b:80 }} }}\n    routes:\n{routes}");
    let route = |path: &str| format!("    - {{ backends: [{{ name: b }}], matches: [{{ path: {{ {path} }} }}] }}\n");
    let problem = only_problem(&file(&route(&format!("regex: /{}", "a".repeat(1 << 20)))));
    assert!(problem.message.contains("more than 1048576 characters in one piece"), "{problem}");
    let problem = only_problem(&file(&route(&format!("regex: '/{}'", "[ab]".repeat(200_000)))));
    assert!(problem.message.contains("the compiled expression exceeds 1048576 bytes"), "{problem}");
    let routes: String = (0..10_000).map(|index| route(&format!("prefix: /{index}"))).collect();
    assert_eq!(read(&file(&routes)).unwrap().virtual_hosts[0].routes.len(), 10_000);
}

pub(super) const VALID: &str = include_str!("../../../fuzz/corpus/config/everything.yaml");

#[test]
fn seed_is_valid() {
    read(VALID).unwrap();
}

/// A beginning of a file is an error or a configuration, as a half-written file would be.
#[test]
fn beginnings_of_a_file_do_not_panic() {
    for end in (0..VALID.len()).step_by(3) {
        let _ = parse(&VALID.as_bytes()[..end], "half", Path::new(""));
    }
}

fn check(text: &[u8]) {
    let directory = Path::new("/");
    match Reader::new().read(Some(File { text, name: "any", directory })) {
        Err(error) => {
            assert!(!error.problems().is_empty());
            assert!(error.problems().is_sorted_by_key(|problem| (problem.line(), problem.column())));
            assert!(error.to_string().lines().count() >= error.problems().len());
        }
        // CF-07: what is shown as effective is the same configuration.
        Ok(Parsed { config, effective, .. }) => {
            let again = parse(effective.to_string().as_bytes(), "effective", directory);
            assert_eq!(again.as_ref(), Ok(&config), "{effective}");
            // CF-16: and what can be read is valid by the schema.
            super::json_schema::check(std::str::from_utf8(text).unwrap());
        }
    }
}

/// Pieces of the language, so that chance gets further than the first character.
pub(super) fn piece() -> impl Strategy<Value = String> {
    let words: Vec<_> = VALID.split_inclusive([' ', '\n', ',', '[', '{']).map(str::to_owned).collect();
    let signs = [
        "&a ", "*a", "!!str ", "!x ", "<<: ", "? ", "- ", "---\n", "...\n", "|\n", ">-\n", "'", "\"", "\t", "#", "\r\n",
    ];
    prop_oneof![
        4 => prop::sample::select(words),
        1 => prop::sample::select(signs.to_vec()).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ]
}

proptest! {
    #[test]
    fn bytes_do_not_panic(text in prop::collection::vec(any::<u8>(), 0..400)) {
        check(&text);
    }

    #[test]
    fn pieces_do_not_panic(pieces in prop::collection::vec(piece(), 0..60)) {
        check(pieces.concat().as_bytes());
    }

    #[test]
    fn mutations_do_not_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..12, piece()), 1..6),
    ) {
        let mut text: Vec<char> = VALID.chars().collect();
        for (index, removed, piece) in edits {
            let start = index.index(text.len());
            let end = (start + removed).min(text.len());
            text.splice(start..end, piece.chars());
        }
        check(text.into_iter().collect::<String>().as_bytes());
    }
}

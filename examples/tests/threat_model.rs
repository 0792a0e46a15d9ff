//! The page of the threat model names tests that exist, and no case is missing from it.
#![allow(clippy::unwrap_used, reason = "a panic is the failure of the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const PAGE: &str = "mesh-tower/src/guide/16_threat_model.md";

/// Families of cases that are on the page whole, and how many each has.
const WHOLE: [(&str, u32); 2] = [("MT", 20), ("RL", 16)];
/// Cases of other families that are about the same.
const BESIDE: [&str; 14] = [
    "AZ-05", "AZ-19", "CL-02", "CL-08", "CL-09", "CL-13", "AD-02", "AD-03", "AD-04", "AD-05", "AD-06", "AD-07",
    "AD-08", "TL-08",
];
/// What stands in the place of tests, before the reason.
const NONE: &str = "no test yet: ";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The cells behind each id of the table, which it has once.
fn rows(page: &str) -> BTreeMap<String, Vec<String>> {
    let mut rows = BTreeMap::new();
    for line in page.lines().filter_map(|line| line.strip_prefix("| ")) {
        let mut cells = line.trim_end_matches(" |").split(" | ").map(str::to_owned);
        let Some(id) = cells.next().filter(|id| is_id(id)) else { continue };
        assert!(rows.insert(id.clone(), cells.collect()).is_none(), "{id} is there twice");
    }
    rows
}

/// Two letters and two digits.
fn is_id(text: &str) -> bool {
    let letters = |text: &str| text.chars().all(|letter| letter.is_ascii_uppercase());
    let digits = |text: &str| text.chars().all(|digit| digit.is_ascii_digit());
    text.split_once('-')
        .is_some_and(|(family, number)| family.len() == 2 && letters(family) && number.len() == 2 && digits(number))
}

/// What is between backticks and names a function of a file of Rust.
fn named(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|name| name.split_once("::"))
        .filter(|(file, _)| file.ends_with(".rs"))
}

/// Whether `source` has a test `name`: a function with the attribute of one before it, and no blank line in between.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<_> = source.lines().map(str::trim).collect();
    let begins = |line: &&str| {
        let line = line.strip_prefix("async ").unwrap_or(line);
        line.strip_prefix("fn ").and_then(|line| line.strip_prefix(name)).is_some_and(|rest| rest.starts_with('('))
    };
    let Some(at) = lines.iter().position(begins) else { return false };
    let before = lines[..at].iter().rev().take_while(|line| !line.is_empty());
    before.into_iter().any(|line| line.starts_with("#[test") || line.starts_with("#[tokio::test"))
}

#[test]
fn every_test_that_the_threat_model_names_is_there() {
    let page = std::fs::read_to_string(root().join(PAGE)).unwrap();
    let mut sources = BTreeMap::new();
    let missing: Vec<_> = named(&page)
        .filter(|(file, name)| {
            let source = sources
                .entry((*file).to_owned())
                .or_insert_with(|| std::fs::read_to_string(root().join(file)).unwrap_or_default());
            !has_test(source, name)
        })
        .collect();
    assert!(missing.is_empty(), "no such tests: {missing:#?}");
    assert!(sources.len() > 10, "the page names tests of {} files", sources.len());
}

#[test]
fn every_case_is_in_the_threat_model() {
    let page = std::fs::read_to_string(root().join(PAGE)).unwrap();
    let rows = rows(&page);
    let whole =
        WHOLE.iter().flat_map(|(family, count)| (1..=*count).map(move |number| format!("{family}-{number:02}")));
    let expected: BTreeSet<_> = whole.chain(BESIDE.map(str::to_owned)).collect();
    let missing: Vec<_> = expected.iter().filter(|id| !rows.contains_key(*id)).collect();
    assert!(missing.is_empty(), "not on the page: {missing:?}");
    for (id, cells) in &rows {
        let [claim, tests] = &cells[..] else { panic!("{id} has a claim and its tests: {cells:?}") };
        assert!(!claim.is_empty(), "{id} says nothing");
        let reason = tests.strip_prefix(NONE).is_some_and(|reason| !reason.is_empty());
        assert!(named(tests).next().is_some() != reason, "{id} has tests, or else a reason for having none: {tests}");
    }
}

/// The checks above can fail.
#[test]
fn what_is_no_test_is_told_from_a_test() {
    let source = "#[cfg(test)]\nmod tests {\n    fn helper() {}\n\n    /// MT-01\n    #[tokio::test(start_paused = true)]\n    \
                  #[ignore]\n    async fn mt_01_one() {}\n\n    #[test]\n    fn two() {}\n}\n";
    for (name, expected) in [("mt_01_one", true), ("two", true), ("helper", false), ("mt_01", false), ("three", false)]
    {
        assert_eq!(has_test(source, name), expected, "{name}");
    }
    let table = "| id | what | by |\n| --- | --- | --- |\n| MT-01 | a | `a.rs::b`, `c.md::d` |\n| MT-1 | b | c |\n";
    let rows = rows(table);
    assert_eq!(rows.len(), 1);
    assert_eq!(named(&rows["MT-01"][1]).collect::<Vec<_>>(), [("a.rs", "b")]);
}

//! Did you mean?

/// Names longer than this are not compared: the distance costs the product of the lengths.
const MAX_LEN: usize = 64;

/// More candidates than this are not compared: every wrong name of a large file would cost that much.
const MAX_CANDIDATES: usize = 200;

/// The candidate that `written` is most likely a slip of, if there is one.
pub(super) fn nearest<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if written.is_empty() || written.len() > MAX_LEN {
        return None;
    }
    let written = fold(written);
    // A third of the letters may be wrong, and one in the shortest of words.
    let tolerance = |candidate: &str| (written.len().max(candidate.len()) / 3).max(1);
    candidates
        .into_iter()
        .take(MAX_CANDIDATES)
        .filter(|candidate| candidate.len() <= MAX_LEN)
        .map(|candidate| (strsim::damerau_levenshtein(&written, &fold(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= tolerance(candidate) && *distance < candidate.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// ``did you mean `x`?``
pub(super) fn did_you_mean<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(written, candidates).map(|candidate| format!("did you mean `{candidate}`?"))
}

/// Case and the choice between camel, snake and kebab are no difference worth counting.
fn fold(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, '_' | '-')).map(|c| c.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn finds_slips_and_nothing_else() {
        let words = ["timeout", "retry", "max_body_bytes", "connect-failure", "v1"];
        let cases = [
            ("timeuot", Some("timeout")),
            ("Timeout", Some("timeout")),
            ("maxBodyBytes", Some("max_body_bytes")),
            ("connect_failure", Some("connect-failure")),
            ("retyr", Some("retry")),
            ("retires", None),
            ("time", None),
            ("timeo", Some("timeout")),
            ("v2", Some("v1")),
            ("x", None),
            ("", None),
            ("entirely different", None),
        ];
        for (written, expected) in cases {
            assert_eq!(nearest(written, words), expected, "{written}");
        }
        assert_eq!(nearest(&"t".repeat(100_000), words), None);
    }
}

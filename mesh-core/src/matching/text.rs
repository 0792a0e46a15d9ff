use crate::model::StringMatch;

/// Whether `value` satisfies `condition`, byte by byte. An empty prefix, suffix or part is in every value.
pub fn string_matches(condition: &StringMatch, value: &[u8]) -> bool {
    match condition {
        StringMatch::Exact { value: want, ignore_case } => equal(value, want.as_bytes(), *ignore_case),
        StringMatch::Prefix { value: want, ignore_case } => {
            value.get(..want.len()).is_some_and(|head| equal(head, want.as_bytes(), *ignore_case))
        }
        StringMatch::Suffix { value: want, ignore_case } => {
            let start = value.len().checked_sub(want.len());
            start.is_some_and(|start| equal(&value[start..], want.as_bytes(), *ignore_case))
        }
        StringMatch::Contains { value: want, ignore_case } => {
            want.is_empty() || value.windows(want.len()).any(|part| equal(part, want.as_bytes(), *ignore_case))
        }
        StringMatch::Regex(pattern) => pattern.is_full_match(value),
    }
}

fn equal(a: &[u8], b: &[u8], ignore_case: bool) -> bool {
    if ignore_case { a.eq_ignore_ascii_case(b) } else { a == b }
}

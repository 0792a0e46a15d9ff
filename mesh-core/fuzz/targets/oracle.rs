//! The rules of matching, written down once more: for the eye, without an index and without thrift.

use http::HeaderMap;
use mesh_core::model::{HeaderMatch, PathMatch, QueryMatch, RouteMatch, StringMatch, ValueMatch};

/// Whether the condition on the path holds, whatever else the alternative asks for.
pub fn path(alternative: &RouteMatch, path: &str) -> bool {
    let path = if path.is_empty() { "/" } else { path };
    let case = |text: &str| if alternative.ignore_path_case { text.to_ascii_lowercase() } else { text.to_owned() };
    match &alternative.path {
        None => true,
        Some(PathMatch::Exact(text)) => case(path) == case(text),
        Some(_) if path == "*" => false,
        Some(PathMatch::Prefix(text)) => case(path).starts_with(&case(text)),
        Some(PathMatch::PathPrefix(text)) => {
            let (path, text) = (case(path), case(text));
            let path: Vec<_> = path.split('/').collect();
            let mut elements: Vec<_> = text.split('/').collect();
            if elements.len() > 1 && elements.last() == Some(&"") {
                elements.pop();
            }
            path.starts_with(&elements)
        }
        Some(PathMatch::Regex(pattern)) => pattern.is_full_match(path.as_bytes()),
        Some(other) => panic!("the oracle does not know {other:?}"),
    }
}

/// Whether a header satisfies the condition.
pub fn header(condition: &HeaderMatch, headers: &HeaderMap) -> bool {
    let name = condition.name.as_str();
    let values: Vec<&[u8]> =
        headers.iter().filter(|(key, _)| *key == name).map(|(_, value)| value.as_bytes()).collect();
    let joined = values.join(&b","[..]);
    let plain = match &condition.value {
        _ if name.ends_with("-bin") => return false,
        ValueMatch::Present(present) => *present != values.is_empty(),
        _ if values.is_empty() => return false,
        ValueMatch::String(text) => string(text, &joined),
        ValueMatch::Range { start, end } => {
            let digits = joined.strip_prefix(b"-").or(joined.strip_prefix(b"+")).unwrap_or(&joined);
            let number = || std::str::from_utf8(&joined).ok()?.parse::<i64>().ok();
            !digits.is_empty()
                && digits.iter().all(u8::is_ascii_digit)
                && number().is_some_and(|number| *start <= number && number < *end)
        }
        other => panic!("the oracle does not know {other:?}"),
    };
    plain != condition.invert
}

/// Whether a query parameter satisfies the condition.
pub fn query(condition: &QueryMatch, query: Option<&str>) -> bool {
    let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let mut decoded = pairs.map(|pair| match pair.find('=') {
        Some(at) => (form_decode(&pair[..at]), form_decode(&pair[at + 1..])),
        None => (form_decode(pair), Vec::new()),
    });
    let value = decoded.find(|(name, _)| name == condition.name.as_bytes()).map(|(_, value)| value);
    match &condition.value {
        ValueMatch::Present(present) => *present == value.is_some(),
        ValueMatch::String(text) => value.is_some_and(|value| string(text, &value)),
        ValueMatch::Range { .. } => false,
        other => panic!("the oracle does not know {other:?}"),
    }
}

fn string(condition: &StringMatch, value: &[u8]) -> bool {
    let both = |text: &str, ignore_case: bool| {
        let text = text.as_bytes();
        if ignore_case { (text.to_ascii_lowercase(), value.to_ascii_lowercase()) } else { (text.into(), value.into()) }
    };
    match condition {
        StringMatch::Exact { value: text, ignore_case } => {
            let (text, value) = both(text, *ignore_case);
            text == value
        }
        StringMatch::Prefix { value: text, ignore_case } => {
            let (text, value) = both(text, *ignore_case);
            value.starts_with(&text)
        }
        StringMatch::Suffix { value: text, ignore_case } => {
            let (text, value) = both(text, *ignore_case);
            value.ends_with(&text)
        }
        StringMatch::Contains { value: text, ignore_case } => {
            let (text, value) = both(text, *ignore_case);
            (0..=value.len()).any(|start| value[start..].starts_with(&text))
        }
        StringMatch::Regex(pattern) => pattern.is_full_match(value),
        other => panic!("the oracle does not know {other:?}"),
    }
}

fn form_decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 3).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let escaped = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match (bytes[at], escaped) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                at += 3;
                continue;
            }
            (b'+', _) => decoded.push(b' '),
            (byte, _) => decoded.push(byte),
        }
        at += 1;
    }
    decoded
}

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};

use super::string_matches;
use crate::model::{HeaderMatch, ValueMatch};

/// Whether `headers` satisfy `condition` (gRFC A28, A63).
///
/// - Several values of the name are joined with `,`, without a space, before they are compared.
/// - Values are bytes: those that are no text are compared as well as any other. An empty value is a value.
/// - A header that is absent satisfies nothing but a question for its absence, inverted conditions included: `invert`
///   turns the result of a comparison round, and here there is nothing to compare.
/// - A range reads the whole value as a decimal `i64` with an optional sign. What is not one is outside of every range,
///   so an inverted range holds for it.
/// - Names that end in `-bin` satisfy nothing at all: what they carry is an encoding and not the value.
pub fn header_matches(condition: &HeaderMatch, headers: &HeaderMap) -> bool {
    if is_binary(&condition.name) {
        return false;
    }
    let value = joined(headers, &condition.name);
    match (&condition.value, &value) {
        (ValueMatch::Present(present), _) => value.is_some() == (*present != condition.invert),
        (_, None) => false,
        (ValueMatch::String(text), Some(value)) => string_matches(text, value) != condition.invert,
        (ValueMatch::Range { start, end }, Some(value)) => {
            integer(value).is_some_and(|number| (*start..*end).contains(&number)) != condition.invert
        }
    }
}

/// Whether gRPC sends the header's value in base64.
pub(super) fn is_binary(name: &HeaderName) -> bool {
    name.as_str().ends_with("-bin")
}

/// The values of `name` as one.
pub(super) fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut values = headers.get_all(name).iter();
    let mut whole = Cow::Borrowed(values.next()?.as_bytes());
    for value in values {
        let whole = whole.to_mut();
        whole.push(b',');
        whole.extend_from_slice(value.as_bytes());
    }
    Some(whole)
}

fn integer(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;

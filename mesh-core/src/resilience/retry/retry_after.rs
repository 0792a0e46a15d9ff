use std::time::Duration;

use http::header::{DATE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue};

/// The pause a response asks for (RFC 9110 10.2.3), in seconds or as a date. A date is taken relative to the response's
/// own `Date`, so that no two clocks are compared; without that it is ignored, and so is whatever is neither.
pub(super) fn parse(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?;
    let bytes = value.as_bytes();
    if !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit) {
        // More seconds than 64 bits hold is longer than anyone waits.
        return Some(Duration::from_secs(crate::grpc::decimal(bytes).unwrap_or(u64::MAX)));
    }
    let until = date(value)?;
    let now = date(headers.get(DATE)?)?;
    Some(until.duration_since(now).unwrap_or_default())
}

fn date(value: &HeaderValue) -> Option<std::time::SystemTime> {
    httpdate::parse_http_date(value.to_str().ok()?).ok()
}

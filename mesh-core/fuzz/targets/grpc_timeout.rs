//! `grpc-timeout`: reading any bytes, and writing any duration.

use std::time::Duration;

use mesh_core::grpc::{encode_timeout, parse_timeout};

/// The input is read as a header value, and its first 12 bytes as the seconds and nanoseconds of a duration.
pub fn run(data: &[u8]) {
    assert_eq!(parse_timeout(data).ok(), plainly(data), "{data:?}");
    if let Ok(timeout) = parse_timeout(data) {
        write(timeout);
    }
    if let Some((secs, rest)) = data.split_first_chunk()
        && let Some(nanos) = rest.first_chunk()
    {
        write(Duration::new(u64::from_le_bytes(*secs), u32::from_le_bytes(*nanos) % 1_000_000_000));
    }
}

/// The grammar again, written for the eye.
fn plainly(data: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(data).ok()?;
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    if digits.is_empty() || digits.len() > 8 || !digits.chars().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let nanos_in_unit: u64 = match &text[digits.len()..] {
        "H" => 3_600_000_000_000,
        "M" => 60_000_000_000,
        "S" => 1_000_000_000,
        "m" => 1_000_000,
        "u" => 1_000,
        "n" => 1,
        _ => return None,
    };
    let nanos = digits.parse::<u128>().ok()? * u128::from(nanos_in_unit);
    Some(Duration::new((nanos / 1_000_000_000) as u64, (nanos % 1_000_000_000) as u32))
}

fn write(timeout: Duration) {
    const LONGEST: Duration = Duration::from_secs(99_999_999 * 3_600);
    let text = encode_timeout(timeout);
    let (unit, _) = text.as_bytes().split_last().expect("a unit is always written");
    let unit = parse_timeout(&[b'1', *unit]).expect("the unit is one of gRPC's");
    let read = parse_timeout(text.as_bytes()).expect("what is written can be read");
    let wanted = timeout.clamp(Duration::from_nanos(1), LONGEST);
    assert!(read <= wanted && wanted - read < unit, "{timeout:?} was written as {text:?}");
}

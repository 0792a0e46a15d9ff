use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;

/// A `grpc-timeout` that is none: not 1 to 8 digits followed by one of `H M S m u n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("grpc-timeout must be 1 to 8 digits and one of H, M, S, m, u, n")]
#[non_exhaustive]
pub struct InvalidTimeout;

const MAX_DIGITS: usize = 8;
const MAX_VALUE: u128 = 99_999_999;

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// The units with their length in nanoseconds, the finest first.
const UNITS: [(u8, u128); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', NANOS_PER_SECOND),
    (b'M', 60 * NANOS_PER_SECOND),
    (b'H', 3_600 * NANOS_PER_SECOND),
];

/// Reads a `grpc-timeout`: 1 to 8 digits and a unit, hours `H`, minutes `M`, seconds `S`, milliseconds `m`, microseconds
/// `u` or nanoseconds `n` (gRPC PROTOCOL-HTTP2). Zero is read as a deadline that has passed already.
///
/// # Errors
/// [`InvalidTimeout`] for everything else: signs, spaces, fractions, nine digits, no unit.
pub fn parse_timeout(value: &[u8]) -> Result<Duration, InvalidTimeout> {
    let (unit, digits) = value.split_last().ok_or(InvalidTimeout)?;
    if digits.len() > MAX_DIGITS {
        return Err(InvalidTimeout);
    }
    let count = super::decimal(digits).ok_or(InvalidTimeout)?;
    match unit {
        b'H' => Ok(Duration::from_secs(count * 3_600)),
        b'M' => Ok(Duration::from_secs(count * 60)),
        b'S' => Ok(Duration::from_secs(count)),
        b'm' => Ok(Duration::from_millis(count)),
        b'u' => Ok(Duration::from_micros(count)),
        b'n' => Ok(Duration::from_nanos(count)),
        _ => Err(InvalidTimeout),
    }
}

/// Writes a `grpc-timeout` in the finest unit whose count fits 8 digits, rounded **down**: the server then never works
/// for a caller that has already given up, and no hop hands on more than it was given. The price is less than one unit:
/// nothing below 100 ms, less than a hundred-thousandth of the time above.
///
/// The value must be positive, so a duration of zero becomes `1n`. What exceeds 99,999,999 hours becomes that.
pub fn encode_timeout(timeout: Duration) -> HeaderValue {
    let nanos = timeout.as_nanos().max(1);
    let (unit, count) = UNITS
        .iter()
        .map(|(unit, length)| (*unit, nanos / length))
        .find(|(_, count)| *count <= MAX_VALUE)
        .unwrap_or((b'H', MAX_VALUE));

    let mut text = [0; MAX_DIGITS + 1];
    let mut start = MAX_DIGITS;
    text[start] = unit;
    let mut rest = count as u32;
    while rest > 0 {
        start -= 1;
        text[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    HeaderValue::from_maybe_shared(Bytes::copy_from_slice(&text[start..])).expect("digits and a letter are valid")
}

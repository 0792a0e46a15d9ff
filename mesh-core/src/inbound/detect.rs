//! Which protocol a connection begins with.

/// What HTTP/2 clients send first (RFC 9113 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// With so many bytes there always is a verdict.
pub const MAX_DETECT: usize = PREFACE.len();

/// What a connection begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Detected {
    /// A TLS handshake record (RFC 8446 5.1).
    Tls,
    /// The preface of HTTP/2.
    Http2,
    /// Something else: HTTP/1.1, or what its parser will refuse.
    Http1,
}

/// Which protocol `first`, the first bytes of a connection, begin; `None` until there are enough of them.
///
/// Bytes may come one by one. No HTTP request begins with the byte of a TLS handshake, and no HTTP method with the
/// whole preface.
///
/// ```
/// use mesh_core::inbound::{Detected, detect};
///
/// assert_eq!(detect(b"\x16\x03\x01\x02\x00\x01"), Some(Detected::Tls));
/// assert_eq!(detect(b"GET / HTTP/1.1\r\n"), Some(Detected::Http1));
/// assert_eq!(detect(b"PRI * HTTP"), None);
/// ```
pub fn detect(first: &[u8]) -> Option<Detected> {
    const HANDSHAKE: u8 = 22;
    // Every version of the protocol since SSL 3.0 writes 3 here.
    const MAJOR: u8 = 3;
    match first {
        [] | [HANDSHAKE] => None,
        [HANDSHAKE, MAJOR, ..] => Some(Detected::Tls),
        _ => detect_http(first),
    }
}

/// As [`detect`], where TLS is out of the question.
pub fn detect_http(first: &[u8]) -> Option<Detected> {
    let compared = first.len().min(PREFACE.len());
    if first[..compared] != PREFACE[..compared] {
        Some(Detected::Http1)
    } else if compared == PREFACE.len() {
        Some(Detected::Http2)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn mt_14_the_first_bytes_tell_tls_from_both_versions_of_http() {
        for (first, expected) in [
            (&b""[..], None),
            (b"\x16", None),
            (b"\x16\x03", Some(Detected::Tls)),
            (b"\x16\x03\x01\x00\x05hello", Some(Detected::Tls)),
            // TLS 1.2 records that are no handshake, and an SSL 2.0 hello.
            (b"\x17\x03\x03", Some(Detected::Http1)),
            (b"\x16\x02\x00", Some(Detected::Http1)),
            (b"\x80\x2e\x01\x03\x01", Some(Detected::Http1)),
            (b"P", None),
            (b"PR", None),
            (b"PRI", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", None),
            (PREFACE, Some(Detected::Http2)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04", Some(Detected::Http2)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX", Some(Detected::Http1)),
            (b"PUT / HTTP/1.1\r\n", Some(Detected::Http1)),
            (b"G", Some(Detected::Http1)),
            (b"\0\0\0", Some(Detected::Http1)),
        ] {
            assert_eq!(detect(first), expected, "{}", first.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn a_verdict_comes_in_time_and_stays(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(bytes.len() < MAX_DETECT || detect(&bytes).is_some());
            let mut verdict = None;
            for length in 0..=bytes.len() {
                let now = detect(&bytes[..length]);
                prop_assert!(verdict.is_none() || verdict == now);
                verdict = now;
            }
        }
    }
}

//! What gRPC means on the wire: codes, messages, `grpc-timeout`, pushback, trailers-only answers; and the little that
//! the mesh asks on its own account, in [`health`] and [`messages`].
//!
//! Everything here reads or writes headers and bytes; converting to a user's status type is the business of the crate that knows
//! that type.

mod code;
pub mod health;
pub mod messages;
mod timeout;
pub(crate) mod wire;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use std::time::Duration;

pub use code::{Code, code_of_h2_reason, code_of_http_status};
pub use timeout::{InvalidTimeout, encode_timeout, parse_timeout};

/// How long the caller is willing to wait; see [`parse_timeout`].
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// On a retry: how many attempts came before it (gRFC A6). Absent on the first attempt.
pub const GRPC_PREVIOUS_RPC_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");
/// The call's status code, in the trailers or in a trailers-only head.
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// The call's percent-encoded message; see [`percent_encode_message`].
pub const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// The server's wish for the next retry; see [`pushback`].
pub const GRPC_RETRY_PUSHBACK_MS: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// Whether the headers are those of a gRPC call: `content-type` is `application/grpc`, alone or followed by `+` or `;`
/// (gRPC PROTOCOL-HTTP2). Media types are compared without regard to case (RFC 9110 8.3.1). gRPC-Web is not gRPC.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    const TYPE: &[u8] = b"application/grpc";
    let Some(value) = headers.get(CONTENT_TYPE) else { return false };
    match value.as_bytes().split_at_checked(TYPE.len()) {
        Some((start, rest)) => start.eq_ignore_ascii_case(TYPE) && matches!(rest.first(), None | Some(b'+' | b';')),
        None => false,
    }
}

/// The `grpc-status` of trailers or of a trailers-only head; `None` if there is none. A value that is no code counts as
/// [`Code::Unknown`].
pub fn status(headers: &HeaderMap) -> Option<Code> {
    headers.get(GRPC_STATUS).map(|value| Code::from_header_value(value.as_bytes()))
}

/// The code that a response head settles, or `None` if the call goes on and its trailers will tell.
///
/// A `grpc-status` counts only if the stream ends with the head. Without one the HTTP status is mapped by
/// [`code_of_http_status`], and a stream that ends with 200 and no status is [`Code::Unknown`] (gRPC PROTOCOL-HTTP2).
pub fn code_of_head(http_status: StatusCode, headers: &HeaderMap, end_of_stream: bool) -> Option<Code> {
    let settled = if end_of_stream { status(headers) } else { None };
    match settled {
        Some(code) => Some(code),
        None if http_status != StatusCode::OK => Some(code_of_http_status(http_status)),
        None => end_of_stream.then_some(Code::Unknown),
    }
}

/// What the server says about the next retry (gRFC A6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushback {
    /// Nothing.
    Absent,
    /// Retry after exactly this pause.
    After(Duration),
    /// Do not retry.
    Stop,
}

/// Reads `grpc-retry-pushback-ms`: a number of milliseconds, 0 or more. Anything else - negative, not a number, too
/// large for 64 bits, or more than one value - means that no retry is wanted.
pub fn pushback(headers: &HeaderMap) -> Pushback {
    let mut values = headers.get_all(GRPC_RETRY_PUSHBACK_MS).iter();
    match (values.next(), values.next()) {
        (None, _) => Pushback::Absent,
        (Some(value), None) => match decimal(value.as_bytes()) {
            Some(millis) => Pushback::After(Duration::from_millis(millis)),
            None => Pushback::Stop,
        },
        (Some(_), Some(_)) => Pushback::Stop,
    }
}

/// Encodes a message for `grpc-message`: printable ASCII stays, `%` and every other byte of the UTF-8 text become `%XX`
/// (gRPC PROTOCOL-HTTP2).
pub fn percent_encode_message(message: &str) -> HeaderValue {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'%';
    let bytes = message.as_bytes();
    let escaped = bytes.iter().filter(|byte| !plain(**byte)).count();
    let mut out = Vec::with_capacity(bytes.len() + 2 * escaped);
    for &byte in bytes {
        if plain(byte) {
            out.push(byte);
        } else {
            out.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xf)]]);
        }
    }
    HeaderValue::from_maybe_shared(Bytes::from(out)).expect("printable ASCII is a valid header value")
}

/// A number written in ASCII digits and nothing else.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests;

//! The messages of `grpc.health.v1.Health`, as far as a client that asks once needs them (gRPC health checking
//! protocol). They have one field each: written by hand, they cost no code generator.

use super::Code;
use super::wire::{self, Fields, Value};

/// The call that asks for the health of a service.
pub const CHECK: &str = "/grpc.health.v1.Health/Check";

/// A serialized `HealthCheckRequest` for `service`; empty asks for the server as a whole.
pub fn request(service: &str) -> Vec<u8> {
    let mut request = Vec::new();
    if !service.is_empty() {
        wire::put_bytes(&mut request, 1, service.as_bytes());
    }
    request
}

/// Whether a server that answers a check so is healthy: with a `HealthCheckResponse` that says `SERVING`, or with the
/// word that it does not know health checks (gRFC A17).
pub fn is_good(answer: Result<&[u8], Code>) -> bool {
    match answer {
        Ok(message) => is_serving(message),
        Err(code) => code == Code::Unimplemented,
    }
}

/// Whether a serialized `HealthCheckResponse` says `SERVING`. A malformed one says nothing.
fn is_serving(message: &[u8]) -> bool {
    const STATUS: u32 = 1;
    const SERVING: u64 = 1;
    let mut status = 0;
    for field in Fields::of(message) {
        match field {
            Some((STATUS, Value::Varint(value))) => status = value,
            Some(_) => {}
            None => return false,
        }
    }
    status == SERVING
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_the_service() {
        assert_eq!(request(""), b"");
        assert_eq!(request("a.B"), b"\x0a\x03a.B");
    }

    #[test]
    fn serving_and_unimplemented_are_good() {
        let cases: [(&[u8], bool); 9] = [
            (b"\x08\x01", true),
            (b"", false),
            (b"\x08\x00", false),
            (b"\x08\x02", false),
            (b"\x08\x03", false),
            // The last one counts, and unknown fields do not.
            (b"\x08\x02\x08\x01", true),
            (b"\x08\x01\x12\x01x", true),
            (b"\x08\x01\x12", false),
            (b"\x08\x81\x80\x80\x80\x10", false),
        ];
        for (message, good) in cases {
            assert_eq!(is_good(Ok(message)), good, "{message:x?}");
        }
        for code in Code::ALL {
            assert_eq!(is_good(Err(code)), code == Code::Unimplemented, "{code:?}");
        }
    }
}

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
///
/// # Errors
///
/// What is wrong with the answer, for people to read.
pub fn judge(answer: Result<&[u8], Code>) -> Result<(), String> {
    const SERVING: u64 = 1;
    match answer.map(status_of) {
        Ok(Some(SERVING)) | Err(Code::Unimplemented) => Ok(()),
        Ok(status) => {
            let said = match status {
                Some(0) => "UNKNOWN".to_owned(),
                Some(2) => "NOT_SERVING".to_owned(),
                Some(3) => "SERVICE_UNKNOWN".to_owned(),
                Some(other) => format!("status {other}"),
                None => "a malformed message".to_owned(),
            };
            Err(format!("answered {said}, expected SERVING"))
        }
        Err(code) => Err(format!("gRPC status {}, expected an answer", code.name())),
    }
}

/// The status of a serialized `HealthCheckResponse`. A malformed one says nothing.
fn status_of(message: &[u8]) -> Option<u64> {
    const STATUS: u32 = 1;
    let mut status = 0;
    for field in Fields::of(message) {
        if let (STATUS, Value::Varint(value)) = field? {
            status = value;
        }
    }
    Some(status)
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
        let cases: [(&[u8], Option<&str>); 9] = [
            (b"\x08\x01", None),
            (b"", Some("UNKNOWN")),
            (b"\x08\x00", Some("UNKNOWN")),
            (b"\x08\x02", Some("NOT_SERVING")),
            (b"\x08\x03", Some("SERVICE_UNKNOWN")),
            // The last one counts, and unknown fields do not.
            (b"\x08\x02\x08\x01", None),
            (b"\x08\x01\x12\x01x", None),
            (b"\x08\x01\x12", Some("a malformed message")),
            (b"\x08\x81\x80\x80\x80\x10", Some("status 4294967297")),
        ];
        for (message, said) in cases {
            let wanted = said.map_or(Ok(()), |said| Err(format!("answered {said}, expected SERVING")));
            assert_eq!(judge(Ok(message)), wanted, "{message:x?}");
        }
        for code in Code::ALL {
            assert_eq!(judge(Err(code)).is_ok(), code == Code::Unimplemented, "{code:?}");
        }
        assert_eq!(judge(Err(Code::NotFound)), Err("gRPC status NOT_FOUND, expected an answer".to_owned()));
    }
}

//! What a caller is told that is not served.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use mesh_core::grpc::{self, Code};
use mesh_core::inbound::BadTarget;

use crate::telemetry::server::Refusal;

/// What a caller is told in place of the handler's answer, in HTTP or in gRPC. Nothing of ours is in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    pub(super) why: Refusal,
    status: StatusCode,
    /// Of the head of a gRPC answer.
    grpc_status: StatusCode,
    code: Code,
    text: &'static str,
}

impl Answer {
    /// A gRPC call whose `grpc-timeout` is none.
    pub(super) fn to_bad_timeout() -> Self {
        Self { text: "malformed grpc-timeout", ..BadTarget::Authority.into() }
    }

    pub(super) fn response(&self, is_grpc: bool) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        if is_grpc {
            *response.status_mut() = self.grpc_status;
            self.write(response.headers_mut());
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        } else {
            *response.status_mut() = self.status;
            let text = HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, text);
            *response.body_mut() = Bytes::from_static(self.text.as_bytes());
        }
        response
    }

    /// The end of a gRPC answer whose head is out.
    pub(super) fn trailers(&self) -> HeaderMap {
        let mut trailers = HeaderMap::with_capacity(2);
        self.write(&mut trailers);
        trailers
    }

    fn write(&self, headers: &mut HeaderMap) {
        headers.insert(grpc::GRPC_STATUS, self.code.header_value());
        // All of them are printable ASCII without `%`, which nothing has to be done to.
        headers.insert(grpc::GRPC_MESSAGE, HeaderValue::from_static(self.text));
    }
}

impl From<Refusal> for Answer {
    fn from(why: Refusal) -> Self {
        let (status, code, text) = match why {
            Refusal::NoPeer | Refusal::NotMutual | Refusal::Identity => {
                (StatusCode::FORBIDDEN, Code::PermissionDenied, "the caller is not let in")
            }
            Refusal::Headers => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Code::ResourceExhausted, "too many headers")
            }
            Refusal::Malformed => (StatusCode::BAD_REQUEST, Code::Internal, "malformed request"),
            Refusal::Deadline | Refusal::RequestTimeout => {
                (StatusCode::GATEWAY_TIMEOUT, Code::DeadlineExceeded, "the time is up")
            }
            Refusal::BodyTimeout => {
                (StatusCode::REQUEST_TIMEOUT, Code::DeadlineExceeded, "the request did not come in time")
            }
            Refusal::BodySize => (StatusCode::PAYLOAD_TOO_LARGE, Code::ResourceExhausted, "the request is too large"),
            Refusal::MessageSize => (StatusCode::PAYLOAD_TOO_LARGE, Code::ResourceExhausted, "a message is too large"),
            Refusal::Draining => (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, "the server is shutting down"),
            Refusal::Panic => (StatusCode::INTERNAL_SERVER_ERROR, Code::Internal, "internal error"),
        };
        Self { why, status, grpc_status: StatusCode::OK, code, text }
    }
}

impl From<BadTarget> for Answer {
    fn from(bad: BadTarget) -> Self {
        let malformed = Self::from(Refusal::Malformed);
        match bad {
            BadTarget::Path => Self { code: Code::Unimplemented, text: "malformed path", ..malformed },
            // gRFC A41: by the status of HTTP, too.
            _ => Self { grpc_status: StatusCode::BAD_REQUEST, text: "malformed authority", ..malformed },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_say_the_same_in_http_and_grpc() {
        for (why, status, code) in [
            (Refusal::NoPeer, 403, 7),
            (Refusal::NotMutual, 403, 7),
            (Refusal::Identity, 403, 7),
            (Refusal::Headers, 431, 8),
            (Refusal::Malformed, 400, 13),
            (Refusal::Deadline, 504, 4),
            (Refusal::RequestTimeout, 504, 4),
            (Refusal::BodyTimeout, 408, 4),
            (Refusal::BodySize, 413, 8),
            (Refusal::MessageSize, 413, 8),
            (Refusal::Draining, 503, 14),
            (Refusal::Panic, 500, 13),
        ] {
            let answer = Answer::from(why);
            let (http, grpc) = (answer.response(false), answer.response(true));
            assert_eq!((http.status().as_u16(), grpc.status().as_u16()), (status, 200), "{why:?}");
            assert_eq!(http.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
            assert_eq!(grpc.headers()[CONTENT_TYPE], "application/grpc");
            assert_eq!(grpc.headers()["grpc-status"], code.to_string(), "{why:?}");
            assert_eq!(grpc.headers()["grpc-message"].as_bytes(), http.body(), "{why:?}");
            assert_eq!(answer.trailers()["grpc-message"], grpc::percent_encode_message(answer.text));
            assert_eq!(answer.trailers()["grpc-status"], code.to_string());
            assert!(grpc.body().is_empty() && http.headers().len() == 1 && grpc.headers().len() == 3);
        }
    }

    /// AZ-10, AZ-16
    #[test]
    fn az_10_az_16_malformed_targets() {
        let told = |answer: Answer| {
            let grpc = answer.response(true);
            (answer.response(false).status().as_u16(), grpc.status().as_u16(), grpc.headers()["grpc-status"].clone())
        };
        assert_eq!(told(BadTarget::Path.into()), (400, 200, "12".parse().unwrap()));
        assert_eq!(told(BadTarget::Authority.into()), (400, 400, "13".parse().unwrap()));
        assert_eq!(told(Answer::to_bad_timeout()), (400, 400, "13".parse().unwrap()));
    }
}

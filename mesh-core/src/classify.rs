//! What the end of an attempt means.
//!
//! The request path describes every attempt by an [`Attempt`]; whether it is worth another one is decided by
//! [`Retry`](crate::resilience::retry::Retry), what it says about the endpoint by [`classify`].

use http::{HeaderMap, StatusCode};

use crate::grpc::{self, Code};

/// How an attempt ended without a response head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// No connection could be made; nothing was sent.
    Connect,
    /// The connection was gone before the request was put on it; nothing left the client.
    NotSent,
    /// The peer refused it unprocessed: `REFUSED_STREAM`, or a `GOAWAY` whose last stream id is below (RFC 9113 8.7).
    Refused,
    /// The stream or the connection broke after the request may have been processed. If the peer reset the stream:
    /// gRPC's code for its reason; a broken connection has none and counts as UNAVAILABLE.
    Reset(Option<Code>),
    /// No response head came within the policy's per-try timeout.
    PerTryTimeout,
    /// Our own fault or our own refusal: an overflow, the deadline, a bad request body. Never retried (gRFC A32).
    Local,
}

/// How one attempt went, as far as the request path can see when its head has come or cannot come any more.
#[derive(Debug, Clone, Copy)]
pub enum Attempt<'a> {
    /// A response head.
    Response {
        /// Its HTTP status.
        status: StatusCode,
        /// Its headers.
        headers: &'a HeaderMap,
        /// Whether the stream ended with it: for gRPC, a trailers-only answer.
        end_of_stream: bool,
    },
    /// No response head.
    Failed(Failure),
}

/// What an attempt says about the endpoint that served it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// It does its work.
    Success,
    /// It does not.
    Failure,
    /// Nothing.
    Ignored,
}

/// What `attempt` says about its endpoint.
///
/// gRPC: OK is a success and every other code a failure (gRFC A50); a head that is followed by a body says nothing yet,
/// so that the caller passes its trailers here once they are there, as a head of the same status that ends the stream.
/// HTTP: 500 and above is a failure, every other status a success.
///
/// Without a head it is a failure, except for [`Failure::Local`], which is not the endpoint's, and
/// [`Failure::NotSent`], which never reached it.
pub fn classify(grpc: bool, attempt: &Attempt<'_>) -> Class {
    match *attempt {
        Attempt::Response { status, headers, end_of_stream } if grpc => {
            match grpc::code_of_head(status, headers, end_of_stream) {
                None => Class::Ignored,
                Some(Code::Ok) => Class::Success,
                Some(_) => Class::Failure,
            }
        }
        Attempt::Response { status, .. } if status.as_u16() >= 500 => Class::Failure,
        Attempt::Response { .. } => Class::Success,
        Attempt::Failed(Failure::Local | Failure::NotSent) => Class::Ignored,
        Attempt::Failed(Failure::Connect | Failure::Refused | Failure::Reset(_) | Failure::PerTryTimeout) => {
            Class::Failure
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn head(status: u16, headers: &HeaderMap, end_of_stream: bool) -> Attempt<'_> {
        Attempt::Response { status: StatusCode::from_u16(status).unwrap(), headers, end_of_stream }
    }

    #[test]
    fn http_answers_are_judged_by_their_status() {
        let none = HeaderMap::new();
        for (status, expected) in [
            (200, Class::Success),
            (301, Class::Success),
            (404, Class::Success),
            (429, Class::Success),
            (499, Class::Success),
            (500, Class::Failure),
            (503, Class::Failure),
            (599, Class::Failure),
        ] {
            assert_eq!(classify(false, &head(status, &none, true)), expected, "{status}");
            assert_eq!(classify(false, &head(status, &none, false)), expected, "{status}");
        }
    }

    /// gRFC A50: OK is the only success.
    #[test]
    fn grpc_answers_are_judged_by_their_code() {
        let none = HeaderMap::new();
        for code in Code::ALL {
            let trailers = HeaderMap::from_iter([(grpc::GRPC_STATUS, code.header_value())]);
            let expected = if code == Code::Ok { Class::Success } else { Class::Failure };
            assert_eq!(classify(true, &head(200, &trailers, true)), expected, "{code}");
            assert_eq!(classify(true, &head(200, &trailers, false)), Class::Ignored, "{code}");
        }
        assert_eq!(classify(true, &head(200, &none, false)), Class::Ignored);
        assert_eq!(classify(true, &head(200, &none, true)), Class::Failure);
        assert_eq!(classify(true, &head(404, &none, false)), Class::Failure);
        let ok = HeaderMap::from_iter([(grpc::GRPC_STATUS, HeaderValue::from_static("0"))]);
        assert_eq!(classify(false, &head(500, &ok, true)), Class::Failure);
    }

    #[test]
    fn what_never_reached_the_endpoint_says_nothing_about_it() {
        for (failure, expected) in [
            (Failure::Connect, Class::Failure),
            (Failure::NotSent, Class::Ignored),
            (Failure::Refused, Class::Failure),
            (Failure::Reset(None), Class::Failure),
            (Failure::Reset(Some(Code::Cancelled)), Class::Failure),
            (Failure::PerTryTimeout, Class::Failure),
            (Failure::Local, Class::Ignored),
        ] {
            for grpc in [false, true] {
                assert_eq!(classify(grpc, &Attempt::Failed(failure)), expected, "{failure:?}");
            }
        }
    }
}

use http::StatusCode;

use crate::classify::{Attempt, Failure};
use crate::grpc::{self, Code};
use crate::model::GrpcFailures;

/// What an attempt says about the endpoint that served it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// It does its work.
    Success,
    /// It answers that it cannot.
    ServerError {
        /// Whether it says so as a gateway does: 502, 503, 504, UNAVAILABLE, DEADLINE_EXCEEDED.
        gateway: bool,
    },
    /// It does not answer: no connection, a reset, a timeout.
    NoAnswer,
    /// Nothing.
    Ignored,
}

impl Outcome {
    /// What a gRPC code says.
    ///
    /// A code stands for the HTTP status that Envoy gives it: UNKNOWN, INTERNAL and DATA_LOSS for 500, UNIMPLEMENTED for
    /// 501, UNAVAILABLE for 503, DEADLINE_EXCEEDED for 504. The others are no server errors, so that they are successes
    /// unless [`GrpcFailures::AllButOk`] (gRFC A50) makes them failures.
    pub fn of_code(failures: GrpcFailures, code: Code) -> Self {
        match code {
            Code::Ok => Self::Success,
            Code::Unavailable | Code::DeadlineExceeded => Self::ServerError { gateway: true },
            Code::Unknown | Code::Internal | Code::DataLoss | Code::Unimplemented => {
                Self::ServerError { gateway: false }
            }
            _ => match failures {
                GrpcFailures::ServerErrors => Self::Success,
                GrpcFailures::AllButOk => Self::ServerError { gateway: false },
            },
        }
    }

    fn of_status(status: StatusCode) -> Self {
        match status.as_u16() {
            502..=504 => Self::ServerError { gateway: true },
            500.. => Self::ServerError { gateway: false },
            _ => Self::Success,
        }
    }
}

/// What `attempt` says about its endpoint.
///
/// HTTP: 500 and above is a server error, every other status a success. gRPC: by its code
/// ([`of_code`](Outcome::of_code)). A head of gRPC that is followed by a body says nothing yet, so that the caller passes
/// its trailers here once they are there, as a head of the same status that ends the stream.
///
/// Without a head nobody answered, except for [`Failure::Local`], which is not the endpoint's fault, and
/// [`Failure::NotSent`], which never reached it. Whoever gives up waiting for an endpoint, because the deadline has
/// passed say, counts it as [`Outcome::NoAnswer`].
pub fn outcome(failures: GrpcFailures, grpc: bool, attempt: &Attempt<'_>) -> Outcome {
    match *attempt {
        Attempt::Response { status, headers, end_of_stream } if grpc => {
            match grpc::code_of_head(status, headers, end_of_stream) {
                None => Outcome::Ignored,
                Some(code) => Outcome::of_code(failures, code),
            }
        }
        Attempt::Response { status, .. } => Outcome::of_status(status),
        Attempt::Failed(Failure::Local | Failure::NotSent) => Outcome::Ignored,
        Attempt::Failed(Failure::Connect | Failure::Refused | Failure::Reset(_) | Failure::PerTryTimeout) => {
            Outcome::NoAnswer
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;

    const ERROR: Outcome = Outcome::ServerError { gateway: false };
    const GATEWAY: Outcome = Outcome::ServerError { gateway: true };
    const BOTH: [GrpcFailures; 2] = [GrpcFailures::ServerErrors, GrpcFailures::AllButOk];

    fn head(status: u16, headers: &HeaderMap, end_of_stream: bool) -> Attempt<'_> {
        Attempt::Response { status: StatusCode::from_u16(status).unwrap(), headers, end_of_stream }
    }

    #[test]
    fn http_answers_are_judged_by_their_status() {
        let none = HeaderMap::new();
        for (status, expected) in [
            (200, Outcome::Success),
            (301, Outcome::Success),
            (404, Outcome::Success),
            (429, Outcome::Success),
            (499, Outcome::Success),
            (500, ERROR),
            (501, ERROR),
            (502, GATEWAY),
            (503, GATEWAY),
            (504, GATEWAY),
            (505, ERROR),
            (599, ERROR),
        ] {
            for failures in BOTH {
                assert_eq!(outcome(failures, false, &head(status, &none, true)), expected, "{status}");
                assert_eq!(outcome(failures, false, &head(status, &none, false)), expected, "{status}");
            }
        }
    }

    /// gRFC A50: OK is the only success; Envoy: only what stands for 500 and above is a failure.
    #[test]
    fn grpc_answers_are_judged_by_their_code() {
        for code in Code::ALL {
            let envoys = match code {
                Code::Unavailable | Code::DeadlineExceeded => GATEWAY,
                Code::Unknown | Code::Unimplemented | Code::Internal | Code::DataLoss => ERROR,
                _ => Outcome::Success,
            };
            let a50 = if code != Code::Ok && envoys == Outcome::Success { ERROR } else { envoys };
            let trailers = HeaderMap::from_iter([(grpc::GRPC_STATUS, code.header_value())]);
            for (failures, expected) in BOTH.into_iter().zip([envoys, a50]) {
                assert_eq!(outcome(failures, true, &head(200, &trailers, true)), expected, "{code}");
                let unsettled = outcome(failures, true, &head(200, &trailers, false));
                assert_eq!(unsettled, Outcome::Ignored, "{code}");
            }
        }
    }

    #[test]
    fn grpc_answers_without_a_code_are_judged_by_what_they_stand_for() {
        let none = HeaderMap::new();
        for (status, end_of_stream, expected) in [
            (200, false, Outcome::Ignored),
            (200, true, ERROR),
            (404, false, ERROR),
            (503, false, GATEWAY),
            (403, true, Outcome::Success),
        ] {
            let attempt = head(status, &none, end_of_stream);
            assert_eq!(outcome(GrpcFailures::ServerErrors, true, &attempt), expected, "{status}");
        }
        let ok = HeaderMap::from_iter([(grpc::GRPC_STATUS, HeaderValue::from_static("0"))]);
        assert_eq!(outcome(GrpcFailures::ServerErrors, false, &head(500, &ok, true)), ERROR, "it is no gRPC");
    }

    #[test]
    fn what_never_reached_the_endpoint_says_nothing_about_it() {
        for (failure, expected) in [
            (Failure::Connect, Outcome::NoAnswer),
            (Failure::NotSent, Outcome::Ignored),
            (Failure::Refused, Outcome::NoAnswer),
            (Failure::Reset(None), Outcome::NoAnswer),
            (Failure::Reset(Some(Code::Cancelled)), Outcome::NoAnswer),
            (Failure::PerTryTimeout, Outcome::NoAnswer),
            (Failure::Local, Outcome::Ignored),
        ] {
            for (grpc, failures) in [(false, BOTH[0]), (true, BOTH[0]), (true, BOTH[1])] {
                assert_eq!(outcome(failures, grpc, &Attempt::Failed(failure)), expected, "{failure:?}");
            }
        }
    }
}

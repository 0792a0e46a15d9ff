//! How requests and attempts end, as small numbers: what is counted is an array.

use http::StatusCode;
use mesh_core::error::ErrorKind;
use mesh_core::grpc::{self, Code};
use mesh_core::observe::Outcome;
use opentelemetry::KeyValue;

/// The final status codes that are registered. Any other counts as the first one of its class, which it must be taken
/// for (RFC 9110 15), so that a peer cannot make series.
pub(super) const STATUS_CODES: [u16; 58] = [
    200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 307, 308, 400, 401, 402, 403, 404,
    405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 421, 422, 423, 424, 425, 426, 428, 429, 431,
    451, 500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511,
];
/// Every [`ErrorKind`], and a caller that lost interest.
const FAILURES: usize = ErrorKind::ALL.len() + 1;
/// What stands for a caller that lost interest.
const CANCELLED: &str = "cancelled";

/// gRPC or plain HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Grpc,
    Http,
}

impl Protocol {
    fn answers(self) -> usize {
        match self {
            Self::Grpc => Code::ALL.len(),
            Self::Http => STATUS_CODES.len(),
        }
    }

    /// How many outcomes are told apart.
    pub(super) fn outcomes(self) -> usize {
        self.answers() + FAILURES
    }

    /// The number of an outcome.
    pub(super) fn number(self, outcome: Outcome) -> usize {
        match (self, outcome) {
            (Self::Grpc, Outcome::Response { status, grpc }) => {
                grpc.unwrap_or_else(|| grpc::code_of_http_status(status)) as usize
            }
            (Self::Http, Outcome::Response { status, .. }) => status_number(status),
            (_, Outcome::Failed(kind)) => {
                let kinds = ErrorKind::ALL.iter();
                self.answers() + kinds.take_while(|other| **other != kind).count()
            }
            // A caller that lost interest, and whatever else comes to be an end without an answer.
            _ => self.outcomes() - 1,
        }
    }

    /// How many outcomes durations tell apart: gRPC knows codes only (gRFC A66).
    pub(super) fn statuses(self) -> usize {
        match self {
            Self::Grpc => Code::ALL.len(),
            Self::Http => self.outcomes(),
        }
    }

    /// The number of what durations tell of an outcome.
    pub(super) fn status(self, outcome: Outcome) -> usize {
        match self {
            Self::Grpc => code(self.number(outcome)) as usize,
            Self::Http => self.number(outcome),
        }
    }

    /// What OpenTelemetry's conventions call an outcome.
    pub(super) fn attributes(self, number: usize) -> Vec<KeyValue> {
        let failure = (number.checked_sub(self.answers())).map(failure);
        match self {
            Self::Grpc => {
                let code = code(number);
                let error = failure.or((code != Code::Ok).then_some(code.name()));
                let status = KeyValue::new("rpc.response.status_code", code.name());
                std::iter::once(status).chain(error.map(|error| KeyValue::new("error.type", error))).collect()
            }
            Self::Http => match (failure, STATUS_CODES.get(number)) {
                (None, Some(status)) => {
                    let error = (*status >= 400).then(|| KeyValue::new("error.type", status.to_string()));
                    let status = KeyValue::new("http.response.status_code", i64::from(*status));
                    std::iter::once(status).chain(error).collect()
                }
                (failure, _) => vec![KeyValue::new("error.type", failure.unwrap_or(CANCELLED))],
            },
        }
    }
}

pub(super) fn status_number(status: StatusCode) -> usize {
    let code = status.as_u16();
    let of = |code| STATUS_CODES.binary_search(&code).ok();
    // What is no final status code at all is a server's error (RFC 9110 15).
    of(code).or_else(|| of(code / 100 * 100)).or_else(|| of(500)).unwrap_or_default()
}

fn failure(number: usize) -> &'static str {
    ErrorKind::ALL.get(number).map_or(CANCELLED, |kind| kind.as_str())
}

/// The gRPC code of an outcome's number.
pub(super) fn code(number: usize) -> Code {
    let failed = |number: usize| ErrorKind::ALL.get(number).map_or(Code::Cancelled, |kind| kind.grpc_code());
    Code::ALL.get(number).copied().unwrap_or_else(|| failed(number - Code::ALL.len()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn response(status: u16, grpc: Option<Code>) -> Outcome {
        Outcome::Response { status: StatusCode::from_u16(status).unwrap(), grpc }
    }

    fn text(protocol: Protocol, outcome: Outcome) -> String {
        let attributes = protocol.attributes(protocol.number(outcome));
        let pairs: Vec<_> = attributes.iter().map(|pair| format!("{}={}", pair.key, pair.value)).collect();
        pairs.join(" ")
    }

    #[test]
    fn outcomes_are_called_as_the_conventions_say() {
        let failed = Outcome::Failed(ErrorKind::NoHealthyEndpoint);
        for (protocol, outcome, expected) in [
            (Protocol::Http, response(204, None), "http.response.status_code=204"),
            (Protocol::Http, response(404, None), "http.response.status_code=404 error.type=404"),
            (Protocol::Http, response(503, None), "http.response.status_code=503 error.type=503"),
            (Protocol::Http, failed, "error.type=no_healthy_endpoint"),
            (Protocol::Http, Outcome::Cancelled, "error.type=cancelled"),
            (Protocol::Grpc, response(200, Some(Code::Ok)), "rpc.response.status_code=OK"),
            (Protocol::Grpc, response(200, None), "rpc.response.status_code=UNKNOWN error.type=UNKNOWN"),
            (Protocol::Grpc, response(503, None), "rpc.response.status_code=UNAVAILABLE error.type=UNAVAILABLE"),
            (
                Protocol::Grpc,
                response(200, Some(Code::NotFound)),
                "rpc.response.status_code=NOT_FOUND error.type=NOT_FOUND",
            ),
            (Protocol::Grpc, failed, "rpc.response.status_code=UNAVAILABLE error.type=no_healthy_endpoint"),
            (Protocol::Grpc, Outcome::Cancelled, "rpc.response.status_code=CANCELLED error.type=cancelled"),
        ] {
            assert_eq!(text(protocol, outcome), expected);
        }
    }

    /// TL-05: a peer that invents status codes makes no series.
    #[test]
    fn tl_05_unknown_status_codes_count_as_their_class() {
        let mut seen = HashSet::new();
        for code in 100..=999 {
            let number = Protocol::Http.number(response(code, None));
            assert!(number < STATUS_CODES.len());
            seen.insert(number);
        }
        assert_eq!(seen.len(), STATUS_CODES.len());
        let of = |code| STATUS_CODES[Protocol::Http.number(response(code, None))];
        assert_eq!([of(299), of(399), of(499), of(599), of(999), of(150)], [200, 300, 400, 500, 500, 500]);
    }

    #[test]
    fn every_failure_has_a_number_of_its_own() {
        for protocol in [Protocol::Grpc, Protocol::Http] {
            let failures = ErrorKind::ALL.iter().map(|kind| Outcome::Failed(*kind)).chain([Outcome::Cancelled]);
            let numbers: HashSet<_> = failures.clone().map(|outcome| protocol.number(outcome)).collect();
            assert_eq!(numbers.len(), FAILURES);
            assert!(numbers.iter().all(|number| (protocol.answers()..protocol.outcomes()).contains(number)));
            for outcome in failures {
                assert!(protocol.status(outcome) < protocol.statuses());
            }
        }
        for kind in ErrorKind::ALL {
            let status = Protocol::Grpc.status(Outcome::Failed(kind));
            assert_eq!(Code::ALL[status], kind.grpc_code());
        }
        assert!(STATUS_CODES.is_sorted());
    }
}

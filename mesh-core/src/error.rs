//! What can go wrong with a request, and what that means in HTTP and in gRPC.

use http::StatusCode;

use crate::grpc::Code;

/// Why a request ended without a response from a peer.
///
/// The HTTP status is the one Envoy gives in the same case. The gRPC code is the one gRPC prescribes for a library
/// (gRFC A54: a failure of the mesh never looks like an answer of the application, so `NOT_FOUND`, `INVALID_ARGUMENT`
/// and their like do not appear here).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No service claims the request's authority.
    UnknownService,
    /// No route of the service matches the request.
    NoRoute,
    /// The route asks for something this version cannot do.
    UnsupportedRoute,
    /// The route names a backend that the configuration does not hold.
    BackendNotFound,
    /// The backend has no endpoint at all.
    NoEndpoint,
    /// Every endpoint of the backend is failing: no connection can be made, or none whose peer is trusted.
    NoHealthyEndpoint,
    /// A limit of our own is reached; nothing was sent, and nothing is retried.
    Overflow,
    /// Admission control refused it, because too many requests before it failed; nothing was sent, and nothing is
    /// retried.
    AdmissionRejected,
    /// The request's time is up: the caller's deadline or the route's timeout, whichever is earlier.
    DeadlineExceeded,
    /// The last attempt exceeded the per-try timeout.
    PerTryTimeout,
    /// The peer refused the request unprocessed.
    Refused,
    /// The connection or the stream broke.
    Reset,
    /// The peer broke the protocol, or speaks another one than the request needs.
    Protocol,
    /// The caller's own request body failed.
    RequestBody,
    /// The request cannot be sent as it is.
    InvalidRequest,
    /// The request asks to leave HTTP (`CONNECT`, `Upgrade`).
    UpgradeRefused,
    /// The mesh is shut down.
    Shutdown,
}

impl ErrorKind {
    /// Every kind, for tables.
    pub const ALL: [Self; 17] = [
        Self::UnknownService,
        Self::NoRoute,
        Self::UnsupportedRoute,
        Self::BackendNotFound,
        Self::NoEndpoint,
        Self::NoHealthyEndpoint,
        Self::Overflow,
        Self::AdmissionRejected,
        Self::DeadlineExceeded,
        Self::PerTryTimeout,
        Self::Refused,
        Self::Reset,
        Self::Protocol,
        Self::RequestBody,
        Self::InvalidRequest,
        Self::UpgradeRefused,
        Self::Shutdown,
    ];

    /// The status of the response that stands for this failure.
    pub fn http_status(self) -> StatusCode {
        match self {
            Self::UnknownService | Self::NoRoute | Self::UnsupportedRoute => StatusCode::NOT_FOUND,
            Self::BackendNotFound | Self::RequestBody => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NoEndpoint
            | Self::NoHealthyEndpoint
            | Self::Overflow
            | Self::AdmissionRejected
            | Self::Refused
            | Self::Reset
            | Self::Shutdown => StatusCode::SERVICE_UNAVAILABLE,
            Self::DeadlineExceeded | Self::PerTryTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Protocol => StatusCode::BAD_GATEWAY,
            Self::InvalidRequest => StatusCode::BAD_REQUEST,
            Self::UpgradeRefused => StatusCode::NOT_IMPLEMENTED,
        }
    }

    /// The gRPC code of this failure. A [`Reset`](Self::Reset) by an HTTP/2 error code may be told more precisely by
    /// [`code_of_h2_reason`](crate::grpc::code_of_h2_reason).
    pub fn grpc_code(self) -> Code {
        match self {
            Self::DeadlineExceeded => Code::DeadlineExceeded,
            Self::Protocol | Self::RequestBody | Self::InvalidRequest => Code::Internal,
            Self::UpgradeRefused => Code::Unimplemented,
            Self::UnknownService
            | Self::NoRoute
            | Self::UnsupportedRoute
            | Self::BackendNotFound
            | Self::NoEndpoint
            | Self::NoHealthyEndpoint
            | Self::Overflow
            | Self::AdmissionRejected
            | Self::PerTryTimeout
            | Self::Refused
            | Self::Reset
            | Self::Shutdown => Code::Unavailable,
        }
    }

    /// A stable word for logs and metrics, such as `no_route`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownService => "unknown_service",
            Self::NoRoute => "no_route",
            Self::UnsupportedRoute => "unsupported_route",
            Self::BackendNotFound => "backend_not_found",
            Self::NoEndpoint => "no_endpoint",
            Self::NoHealthyEndpoint => "no_healthy_endpoint",
            Self::Overflow => "overflow",
            Self::AdmissionRejected => "admission_rejected",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::PerTryTimeout => "per_try_timeout",
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Protocol => "protocol",
            Self::RequestBody => "request_body",
            Self::InvalidRequest => "invalid_request",
            Self::UpgradeRefused => "upgrade_refused",
            Self::Shutdown => "shutdown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a54_no_kind_looks_like_an_answer_of_the_application() {
        let forbidden = [
            Code::InvalidArgument,
            Code::NotFound,
            Code::AlreadyExists,
            Code::FailedPrecondition,
            Code::Aborted,
            Code::OutOfRange,
            Code::DataLoss,
            Code::Ok,
            Code::Unknown,
        ];
        for kind in ErrorKind::ALL {
            assert!(!forbidden.contains(&kind.grpc_code()), "{kind:?}");
            assert!(kind.http_status().is_client_error() || kind.http_status().is_server_error(), "{kind:?}");
        }
    }

    #[test]
    fn every_kind_has_a_word_of_its_own() {
        let words: std::collections::HashSet<_> = ErrorKind::ALL.iter().map(|kind| kind.as_str()).collect();
        assert_eq!(words.len(), ErrorKind::ALL.len());
    }
}

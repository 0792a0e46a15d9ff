//! How an attempt ends.
//!
//! The request path describes every attempt by an [`Attempt`]; whether it is worth another one is decided by
//! [`Retry`](crate::resilience::retry::Retry), what it says about the endpoint by
//! [`outlier::outcome`](crate::resilience::outlier::outcome).

use http::{HeaderMap, StatusCode};

use crate::grpc::Code;

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

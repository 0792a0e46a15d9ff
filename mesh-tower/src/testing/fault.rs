//! What a backend can be told to do wrong.

use http::StatusCode;
use mesh_core::grpc::Code;

/// A reason to reset an HTTP/2 stream (RFC 9113 7).
pub use h2::Reason;

/// Something that a [`TestBackend`](super::TestBackend) does wrong, and what a mesh does about it.
///
/// The first two are faults of connections, all others of single requests. What is said about a mesh holds for one
/// whose backend has no other endpoint and whose route has no `retry` section, unless it is mentioned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The process is down: connections are refused, and those that were open are closed.
    ///
    /// A mesh may not have seen yet that its connections are closed: its next request finds out, like any that is under
    /// way when a process dies. [`TestBackend::deserted`](super::TestBackend::deserted) awaits their end.
    ///
    /// The endpoint fails and is connected to again and again, with backoff, until it is back. Requests go to other
    /// endpoints; if there is none they fail at once with
    /// [`NoHealthyEndpoint`](crate::ErrorKind::NoHealthyEndpoint) (503, `UNAVAILABLE`).
    Refused,
    /// A black hole: connections are accepted and never spoken on; what is sent is read and thrown away. Connections
    /// that were open are closed, so that nothing gets around it.
    ///
    /// An HTTP/2 endpoint that does not answer the preface within its `connect_timeout` fails like one that refuses.
    /// Over HTTP/1.1 nobody can tell before the request is sent: it ends with its `per_try_timeout` or its deadline.
    BlackHole,
    /// The connection is lost, with every stream on it; what was sent before has arrived.
    ///
    /// Before the head of the response: [`Reset`](crate::ErrorKind::Reset) (503, `UNAVAILABLE`), retried `on: [reset]`;
    /// a `GET` over an HTTP/1.1 connection that had served before is sent once more without any policy (RFC 9112
    /// 9.3.1). Later the response is the caller's: its body ends in an error and nothing is sent again.
    Disconnect(At),
    /// The stream is reset for a reason (RST_STREAM); the connection and its other streams go on. HTTP/1.1 has no
    /// streams: there the connection is lost.
    ///
    /// `REFUSED_STREAM` before the head says that nothing was processed: the request is sent once more, whatever its
    /// method, without any policy (RFC 9113 8.7). Any other reason is as [`Disconnect`](Self::Disconnect), with gRPC's
    /// code for that reason.
    Reset(At, Reason),
    /// The server leaves: GOAWAY over HTTP/2, `connection: close` over HTTP/1.1.
    ///
    /// With `processed` it leaves gracefully: it still answers this request and those that are on their way, and
    /// further ones go to a new connection. Nothing fails.
    ///
    /// Without, the last stream of the GOAWAY is the one before this request: it says that this one, and any later one
    /// on the connection, was not looked at. A mesh sends it once more, whatever its method, without any policy (RFC
    /// 9113 6.8). HTTP/1.1 cannot say so: there the connection is lost.
    GoAway {
        /// Whether the request is answered.
        processed: bool,
    },
    /// Each connection is left gracefully with its n-th request, counted from 1; see [`GoAway`](Self::GoAway).
    CloseAfter(usize),
    /// No answer until the test [releases](super::TestBackend::release) it.
    ///
    /// The request ends with its `per_try_timeout`, its deadline, or when the caller gives up.
    Stall,
    /// The head is sent at once and the body in chunks of this many bytes, each when the test
    /// [releases](super::TestBackend::release_chunk) it. The length of the body is not told.
    ///
    /// The caller's deadline holds for the body too; a per-try timeout ends with the head.
    SlowBody {
        /// The size of a chunk in bytes, 1 or more.
        chunk: usize,
    },
    /// The request is read to its end and answered with this status and no body. (For a request without an end let a
    /// handler return the status.)
    ///
    /// Retried `on: [5xx]`, `[gateway-error]` or the status itself; else the answer is the caller's.
    Status(StatusCode),
    /// The request is read to its end and answered trailers-only with this gRPC status. (For a call without an end let
    /// a handler return [`grpc::trailers_only`](super::grpc::trailers_only).)
    ///
    /// Retried on the codes that the policy names; else the status is the caller's.
    Grpc(Code),
}

/// How far a request comes before its [`Fault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum At {
    /// Its head was read; nothing is answered.
    BeforeHead,
    /// The head of the answer was sent.
    AfterHead,
    /// The head and this many bytes of the body were sent, or all bytes, but not the end, of a body that is shorter.
    InBody(usize),
}

impl Fault {
    /// Whether it concerns connections, and requests only through them.
    pub(super) fn is_of_connections(self) -> bool {
        matches!(self, Self::Refused | Self::BlackHole)
    }

    /// Whether the handler is asked all the same.
    pub(super) fn lets_the_handler_answer(self) -> bool {
        match self {
            Self::Stall | Self::SlowBody { .. } | Self::CloseAfter(_) | Self::GoAway { processed: true } => true,
            Self::Disconnect(at) | Self::Reset(at, _) => at != At::BeforeHead,
            Self::Refused | Self::BlackHole | Self::Status(_) | Self::Grpc(_) | Self::GoAway { processed: false } => {
                false
            }
        }
    }
}

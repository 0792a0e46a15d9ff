//! What a handler gives.

use std::fmt;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::BodyExt;

use super::body::{Payload, empty, full};
use super::fault::{At, Fault, Reason};
use crate::error::BoxError;

/// The answer of a handler, and what goes wrong with it.
///
/// Made from a [`Response`] with any body, from a text, from a status, or from a [`Fault`] of that one request:
///
/// ```
/// use mesh_tower::testing::{At, Fault, Reason, Reply};
///
/// let well = Reply::from("hello");
/// let badly = Reply::from("hello").with_fault(Fault::Disconnect(At::InBody(3)));
/// let not_at_all = Reply::from(Fault::Reset(At::BeforeHead, Reason::REFUSED_STREAM));
/// ```
///
/// An `Err` resets the stream for the reason of the [`h2::Error`] in it, or `INTERNAL_ERROR`; over HTTP/1.1 the
/// connection is lost. So a handler may end in `Ok::<_, BoxError>(response)` and use `?` on what it reads.
pub struct Reply {
    pub(super) response: Response<Payload>,
    pub(super) fault: Option<Fault>,
}

impl Reply {
    /// The same answer with a fault. One that the script of the backend has for this request goes before it; of the
    /// faults of connections, [`Fault::BlackHole`] never answers, and [`Fault::Refused`] is a lost connection.
    #[must_use]
    pub fn with_fault(mut self, fault: Fault) -> Self {
        self.fault = Some(fault);
        self
    }
}

impl<B> From<Response<B>> for Reply
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn from(response: Response<B>) -> Self {
        Self { response: response.map(|body| body.map_err(Into::into).boxed_unsync()), fault: None }
    }
}

impl From<Fault> for Reply {
    /// Where the fault leaves something to be answered, it is 200 and no body.
    fn from(fault: Fault) -> Self {
        Self { response: Response::new(empty()), fault: Some(fault) }
    }
}

impl From<StatusCode> for Reply {
    fn from(status: StatusCode) -> Self {
        let mut response = Response::new(empty());
        *response.status_mut() = status;
        Self { response, fault: None }
    }
}

impl From<&'static str> for Reply {
    fn from(text: &'static str) -> Self {
        Self { response: Response::new(full(text)), fault: None }
    }
}

impl From<String> for Reply {
    fn from(text: String) -> Self {
        Self { response: Response::new(full(text)), fault: None }
    }
}

impl<R: Into<Reply>> From<Result<R, BoxError>> for Reply {
    fn from(result: Result<R, BoxError>) -> Self {
        match result {
            Ok(reply) => reply.into(),
            Err(error) => Fault::Reset(At::BeforeHead, reason_of(&*error)).into(),
        }
    }
}

/// The reason of the first `h2::Error` in a chain of causes.
pub(super) fn reason_of(error: &(dyn std::error::Error + 'static)) -> Reason {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(reason) = error.downcast_ref::<h2::Error>().and_then(h2::Error::reason) {
            return reason;
        }
        cause = error.source();
    }
    Reason::INTERNAL_ERROR
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.response.status();
        f.debug_struct("Reply").field("status", &status).field("fault", &self.fault).finish_non_exhaustive()
    }
}

use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use mesh_core::grpc::{self, Code};
use mesh_core::resilience::throttle::Throttle;

use super::limits::InFlight;
use crate::error::BoxError;
use crate::layer::watch::{Watch, Watched, watched_body};
use crate::net::h1::Attempt;

/// The body of one attempt: the caller's, read from its first byte each time.
///
/// What an attempt reads is kept for the next one, up to the policy's cap. Once the next attempt has begun, the body of
/// the one before gives only an error, so that whoever still sends it gives up.
pub struct ReplayBody<B>(Option<Attempt<B>>);

impl<B> ReplayBody<B> {
    /// `None` if there is not a byte.
    pub(super) fn new(attempt: Option<Attempt<B>>) -> Self {
        Self(attempt)
    }
}

impl<B> Body for ReplayBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.get_mut().0 {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B> fmt::Debug for ReplayBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayBody").field("is_empty", &self.0.is_none()).finish_non_exhaustive()
    }
}

watched_body! {
    /// A response body that counts its request until it is read to its end or dropped.
    RetryBody, Guard
}

/// What a response holds on to.
pub(super) struct Guard {
    pub(super) in_flight: Option<InFlight>,
    pub(super) throttle: Option<Arc<Throttle>>,
    pub(super) status: StatusCode,
    pub(super) grpc: bool,
}

impl Watch for Guard {
    fn complete(self, trailers: Option<&HeaderMap>) {
        let code = trailers.and_then(grpc::status);
        let succeeded = if self.grpc { code == Some(Code::Ok) } else { !self.status.is_server_error() };
        if let Some(throttle) = self.throttle.filter(|_| succeeded) {
            throttle.succeeded();
        }
        drop(self.in_flight);
    }

    /// No success, and no longer under way.
    fn broken(self, _: &(dyn StdError + 'static)) {}
}

impl<B: Body> RetryBody<B> {
    /// `response`, which holds on to `guard`.
    pub(super) fn response(response: Response<B>, guard: Guard) -> Response<Self> {
        Watched::response(response, Some(guard)).map(Self)
    }
}

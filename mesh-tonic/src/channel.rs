use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{HeaderValue, USER_AGENT};
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use mesh_tower::{Error, ErrorKind, Mesh, ServiceClient};
use pin_project::pin_project;
use tonic::{GrpcMethod, Status};
use tower_service::Service;

use crate::status::to_status;

/// How this client calls itself (gRPC over HTTP/2, "User Agents").
const AGENT: &str = concat!("grpc-rust-mesh/", env!("CARGO_PKG_VERSION"));

/// gRPC's verbs for a [`Mesh`].
pub trait MeshExt {
    /// A channel to the service `name` for generated clients: `GreeterClient::new(mesh.channel("greeter")?)`.
    ///
    /// `name` is a service or a host of the configuration, with or without a port; it is also the `:authority` that
    /// servers see. Nothing is connected before the first call.
    ///
    /// # Errors
    /// If `name` is no authority, or no service has it; the message names the nearest one that exists.
    fn channel(&self, name: &str) -> Result<Channel, Error>;
}

impl MeshExt for Mesh {
    fn channel(&self, name: &str) -> Result<Channel, Error> {
        Ok(Channel { client: self.service(name)?, user_agent: HeaderValue::from_static(AGENT) })
    }
}

/// A gRPC channel to one service of a mesh.
///
/// It takes the place of tonic's `Channel`: a Tower service that is always ready and cheap to clone. Calls follow the
/// routes, retries and timeouts of the configuration as it stands; `grpc-timeout` (tonic's `Request::set_timeout`) is
/// enforced here and told to the server less the time that has passed.
///
/// # Errors
/// [`Status`] with the code gRPC prescribes: `DEADLINE_EXCEEDED` when the time is up, `UNAVAILABLE` for no endpoint, no
/// route or a broken connection. Its source is the [`Error`].
#[derive(Clone)]
pub struct Channel {
    client: ServiceClient,
    user_agent: HeaderValue,
}

impl Channel {
    /// Puts an application's name before this library's in `user-agent`.
    ///
    /// # Errors
    /// If `name` holds bytes that a header cannot.
    pub fn with_user_agent(mut self, name: &str) -> Result<Self, Error> {
        self.user_agent = HeaderValue::from_str(&format!("{name} {AGENT}")).map_err(|_| {
            Error::new(
                ErrorKind::InvalidRequest,
                format!("the user agent {name:?} holds a control character; use printable ASCII"),
            )
        })?;
        Ok(self)
    }
}

impl<B> Service<Request<B>> for Channel
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<mesh_tower::BoxError>,
{
    type Response = Response<ResponseBody>;
    type Error = Status;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> ResponseFuture {
        request.headers_mut().entry(USER_AGENT).or_insert_with(|| self.user_agent.clone());
        let generated = request.extensions().get::<GrpcMethod<'static>>().is_some();
        let call = if generated { self.client.call_generated(request) } else { self.client.call(request) };
        ResponseFuture(call)
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("authority", self.client.authority()).finish_non_exhaustive()
    }
}

/// A response on its way. Dropping it cancels the call and frees everything it holds.
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture(#[pin] mesh_tower::ResponseFuture);

impl Future for ResponseFuture {
    type Output = Result<Response<ResponseBody>, Status>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(self.project().0.poll(cx));
        Poll::Ready(result.map(|response| response.map(ResponseBody)).map_err(to_status))
    }
}

/// The body of a gRPC response; its errors are [`Status`] with the right code. The default has no byte: clients with an
/// interceptor ask for one.
#[pin_project]
#[derive(Debug, Default)]
pub struct ResponseBody(#[pin] mesh_tower::Body);

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.project().0.poll_frame(cx).map_err(to_status)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

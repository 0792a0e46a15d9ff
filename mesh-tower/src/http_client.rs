//! The clients of a mesh.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::uri::Authority;
use http::{Method, Request, Response, Uri};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full};
use pin_project::pin_project;
use tower_service::Service;

use crate::client::{self, Body, Named, Target};
use crate::error::{BoxError, Error, ErrorKind};
use crate::mesh::Handle;
use crate::net::h1::WireBody;
use crate::server::inherited_deadline;
use crate::telemetry::spans::Caller;

/// An HTTP client that finds services by their mesh names: `http://catalog/items`.
///
/// A Tower service for requests with any body. It is always ready, and cheap to clone: all clients of a mesh share its
/// connections. HTTP/1.1 or HTTP/2 is spoken as the backend's `protocol` says; `:authority` and `Host` are what the
/// caller wrote.
///
/// Trailers of a request go out over HTTP/2, and over HTTP/1.1 if a `trailer` header announces them (RFC 9110 6.6.2).
///
/// # Errors
/// Without a response from a peer the result is an [`Error`]; see [`errors_as_responses`](Self::errors_as_responses).
///
/// ```no_run
/// # async fn run(mesh: mesh_tower::Mesh) -> Result<(), Box<dyn std::error::Error>> {
/// use tower::ServiceExt;
///
/// let request = http::Request::put("http://catalog/items/7").body("apple".to_owned())?;
/// let response = mesh.http_client().oneshot(request).await?;
/// assert!(response.status().is_success());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct HttpClient {
    handle: Arc<Handle>,
    errors_as_responses: bool,
}

impl HttpClient {
    pub(crate) fn new(handle: Arc<Handle>) -> Self {
        Self { handle, errors_as_responses: false }
    }

    /// Answers with the response Envoy would give (404 for no route, 503 for no endpoint, 504 for a deadline ..) where
    /// the mesh itself fails a request, and never with an [`Error`]. The body is the error's text.
    #[must_use]
    pub fn errors_as_responses(mut self) -> Self {
        self.errors_as_responses = true;
        self
    }

    /// Sends a GET. The caller's trace context is taken at once, wherever the response is awaited.
    ///
    /// # Errors
    /// If `uri` is no URI, or without a response from a peer.
    pub fn get(&self, uri: impl TryInto<Uri, Error: Into<http::Error>>) -> ResponseFuture {
        self.send(request(Method::GET, uri, Empty::<Bytes>::new()))
    }

    /// Sends a POST. The caller's trace context is taken at once, wherever the response is awaited.
    ///
    /// # Errors
    /// If `uri` is no URI, or without a response from a peer.
    pub fn post(&self, uri: impl TryInto<Uri, Error: Into<http::Error>>, body: impl Into<Bytes>) -> ResponseFuture {
        self.send(request(Method::POST, uri, Full::new(body.into())))
    }

    fn send<B>(&self, request: Result<Request<B>, Error>) -> ResponseFuture
    where
        B: HttpBody + Send + 'static,
        B::Error: Into<BoxError>,
    {
        match request {
            Ok(request) => self.clone().call(request),
            Err(error) => ResponseFuture(Box::pin(std::future::ready(Err(error)))),
        }
    }
}

fn request<B>(method: Method, uri: impl TryInto<Uri, Error: Into<http::Error>>, body: B) -> Result<Request<B>, Error> {
    Request::builder().method(method).uri(uri).body(body).map_err(|error| {
        Error::new(ErrorKind::InvalidRequest, format!("the URI cannot be read: {error}")).with_source(error)
    })
}

impl<B> Service<Request<B>> for HttpClient
where
    B: HttpBody + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        let handle = Arc::clone(&self.handle);
        let caller = Caller::current(handle.core.shared.telemetry.spans.as_ref());
        let call = client::call(handle, Target::Uri, caller, inherited_deadline(), request.map(erase));
        if !self.errors_as_responses {
            return ResponseFuture(Box::pin(call));
        }
        ResponseFuture(Box::pin(async move { Ok(call.await.unwrap_or_else(into_response)) }))
    }
}

/// Makes one type of all bodies.
fn erase<B>(body: B) -> WireBody
where
    B: HttpBody + Send + 'static,
    B::Error: Into<BoxError>,
{
    InBytes(body).map_err(Into::into).boxed_unsync()
}

/// A body whose data is [`Bytes`]. It keeps the size hint, which `map_frame` does not: what is known of a body's length
/// is told to the server.
#[pin_project]
struct InBytes<B>(#[pin] B);

impl<B: HttpBody> HttpBody for InBytes<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let whole = |mut data: B::Data| data.copy_to_bytes(data.remaining());
        self.project().0.poll_frame(cx).map_ok(|frame| frame.map_data(whole))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

fn into_response(error: Error) -> Response<Body> {
    let mut response = Response::new(Body::text(error.report()));
    *response.status_mut() = error.http_status();
    let text = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, text);
    response
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").field("errors_as_responses", &self.errors_as_responses).finish_non_exhaustive()
    }
}

/// A client of one service: every request goes to its name, whatever authority the request's URI holds.
///
/// It is what `mesh-tonic`'s channel is made of. For requests with a body of [`Bytes`]; always ready, and cheap to
/// clone.
#[derive(Clone)]
pub struct ServiceClient {
    handle: Arc<Handle>,
    named: Named,
}

impl ServiceClient {
    pub(crate) fn new(handle: Arc<Handle>, named: Named) -> Self {
        Self { handle, named }
    }

    /// What peers are told they are called by.
    pub fn authority(&self) -> &Authority {
        &self.named.authority
    }

    /// Sends a gRPC call whose path is that of a method which generated code stands for. Metrics name its method; that of
    /// any other call may be anything, and is counted as `other` (gRFC A66).
    pub fn call_generated<B>(&self, request: Request<B>) -> ResponseFuture
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        self.send(true, request)
    }

    fn send<B>(&self, generated: bool, request: Request<B>) -> ResponseFuture
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let handle = Arc::clone(&self.handle);
        let caller = Caller::current(handle.core.shared.telemetry.spans.as_ref());
        let target = Target::Named(Named { generated, ..self.named.clone() });
        ResponseFuture(Box::pin(client::call(handle, target, caller, inherited_deadline(), request)))
    }
}

impl<B> Service<Request<B>> for ServiceClient
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        self.send(false, request)
    }
}

impl fmt::Debug for ServiceClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceClient").field("authority", &self.named.authority).finish_non_exhaustive()
    }
}

/// A response on its way. Dropping it cancels the request and frees everything it holds.
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture(Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>);

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}

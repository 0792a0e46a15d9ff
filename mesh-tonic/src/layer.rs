use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use mesh_tower::BoxError;
use mesh_tower::layer::find_error;
use pin_project::pin_project;
use tonic::{Code, Status, TimeoutExpired};
use tower_layer::Layer;
use tower_service::Service;

/// Turns the errors of the [layers](mesh_tower::layer) inside into [`Status`], with the code that gRPC prescribes.
///
/// A generated client over layers finds no status in their errors and reports UNKNOWN. With this layer outermost it
/// finds the one that [`Channel`](crate::Channel) would give: DEADLINE_EXCEEDED when the time is up, UNAVAILABLE for no
/// route or no endpoint; the errors of a tonic `Channel` itself become what tonic makes of them. It holds for response
/// bodies too. The source of a status is the error it was made from.
///
/// ```
/// use std::convert::Infallible;
/// use std::time::Duration;
///
/// use http::Request;
/// use mesh_tonic::StatusLayer;
/// use mesh_tonic::core::model::{RetryOn, RetryPolicy};
/// use mesh_tonic::mesh_tower::layer::{DeadlineLayer, RetryLayer};
/// use tonic::body::Body;
/// use tonic::transport::Endpoint;
/// use tower::ServiceBuilder;
/// # mod greeter { pub struct GreeterClient<T>(pub T); impl<T: tonic::client::GrpcService<tonic::body::Body>> GreeterClient<T> { pub fn new(inner: T) -> Self { Self(inner) } } }
/// # use greeter::GreeterClient;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let channel = Endpoint::from_static("http://127.0.0.1:50051").connect_lazy();
/// let layers = ServiceBuilder::new()
///     .layer(StatusLayer::new())
///     .layer(DeadlineLayer::new(Duration::from_secs(10)))
///     .layer(RetryLayer::new(RetryPolicy::new(RetryOn::UNAVAILABLE)))
///     .map_request(|request: Request<_>| request.map(Body::new)) // tonic's channel takes tonic's body alone
///     .service(channel);
/// let greeter = GreeterClient::new(layers);
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct StatusLayer;

impl StatusLayer {
    /// There is nothing to set.
    pub fn new() -> Self {
        Self
    }
}

impl<S> Layer<S> for StatusLayer {
    type Service = StatusService<S>;

    fn layer(&self, inner: S) -> StatusService<S> {
        StatusService(inner)
    }
}

/// The service of a [`StatusLayer`]. Ready when the inner one is.
#[derive(Debug, Clone)]
pub struct StatusService<S>(S);

impl<S, B, RB> Service<Request<B>> for StatusService<S>
where
    S: Service<Request<B>, Response = Response<RB>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<StatusBody<RB>>;
    type Error = Status;
    type Future = StatusFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.0.poll_ready(cx).map_err(status)
    }

    fn call(&mut self, request: Request<B>) -> StatusFuture<S::Future> {
        StatusFuture(self.0.call(request))
    }
}

/// The response of a [`StatusService`] on its way.
#[pin_project]
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct StatusFuture<F>(#[pin] F);

impl<F, RB, E> Future for StatusFuture<F>
where
    F: Future<Output = Result<Response<RB>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<StatusBody<RB>>, Status>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(self.project().0.poll(cx));
        Poll::Ready(result.map(|response| response.map(StatusBody)).map_err(status))
    }
}

/// A response body whose errors are [`Status`].
#[pin_project]
#[derive(Debug, Default)]
pub struct StatusBody<B>(#[pin] B);

impl<B> Body for StatusBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, Status>>> {
        self.project().0.poll_frame(cx).map_err(status)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

fn status(error: impl Into<BoxError>) -> Status {
    let error = error.into();
    let Some(found) = find_error(&*error) else {
        let late = is_tonics_timer(&*error);
        let status = Status::from_error(error);
        return if late { Status::new(Code::DeadlineExceeded, status.message()) } else { status };
    };
    let mut status = Status::new(Code::from_i32(found.grpc_code() as i32), found.report());
    status.set_source(std::sync::Arc::from(error));
    status
}

/// Whether a `Channel` gave up because the time was up. tonic calls that CANCELLED, as if the caller had gone.
fn is_tonics_timer(error: &(dyn StdError + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<TimeoutExpired>() {
            return true;
        }
        cause = error.source();
    }
    false
}

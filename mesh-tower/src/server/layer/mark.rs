//! The word of an application that a service speaks gRPC.

use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

use super::scope;

/// Says of a service inside of a [`ServerLayer`](super::ServerLayer) that it speaks gRPC: the gRPC calls that come to it
/// are bound by `max_message_bytes` from their first byte on, no longer by `max_body_bytes` and `body_timeout`.
///
/// For the gRPC part of a router that has HTTP, too. Where nobody says it a call is bound by both until the head of its
/// answer shows that its handler speaks gRPC: nothing to notice but for calls that send a stream before they are
/// answered. Where all is gRPC, [`Listener::grpc`](crate::server::Listener::grpc) says so at once.
///
/// It has to be called where the layer's own future is polled, as routers do; behind a queue to another task, such as
/// `tower::buffer`, it does nothing.
///
/// ```
/// use axum::Router;
/// use axum::routing::get;
/// use mesh_tower::server::GrpcLayer;
///
/// /// `calls`: such as tonic's `Routes::into_axum_router`.
/// fn app(calls: Router) -> Router {
///     Router::new().route("/", get(async || "hello")).merge(calls.layer(GrpcLayer::new()))
/// }
/// ```
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct GrpcLayer;

impl GrpcLayer {
    /// The layer. It has no settings.
    pub const fn new() -> Self {
        Self
    }
}

impl<S> Layer<S> for GrpcLayer {
    type Service = GrpcService<S>;

    fn layer(&self, inner: S) -> GrpcService<S> {
        GrpcService(inner)
    }
}

/// The service of a [`GrpcLayer`]. It is ready when the inner one is, and answers as that does.
#[derive(Debug, Clone)]
pub struct GrpcService<S>(S);

impl<S: Service<R>, R> Service<R> for GrpcService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        scope::confirm();
        self.0.call(request)
    }
}

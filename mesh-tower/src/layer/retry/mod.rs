//! Further attempts after one that failed.

mod body;
mod call;
mod future;
mod limits;

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use mesh_core::model::{RetryBudget, RetryPolicy, RetryThrottling};
use tower_layer::Layer;
use tower_service::Service;

pub use body::{ReplayBody, RetryBody};
pub use future::RetryFuture;

use self::call::Call;
use self::limits::Limits;
use super::{ClassifyFailure, KnownErrors};
use crate::error::BoxError;

/// Sends a request again, by a retry policy and within a budget.
///
/// It is the decision of a [`Mesh`](crate::Mesh)'s own clients
/// ([`Retry`](mesh_core::resilience::retry::Retry)), for HTTP and gRPC: conditions, methods, pauses with jitter,
/// `Retry-After`, gRPC's pushback, `grpc-previous-rpc-attempts`, the per-try timeout. The policy is the route's, if a
/// [`RouteLayer`](super::RouteLayer) around this layer found one, otherwise [the layer's own](Self::new). Without any,
/// only what no peer processed is sent again ([`NotSent`](mesh_core::classify::Failure::NotSent),
/// [`Refused`](mesh_core::classify::Failure::Refused)), and so it is for a request whose
/// [`RequestOptions`](crate::RequestOptions) say [`no_retry`](crate::RequestOptions::no_retry).
///
/// | setting | default |
/// | --- | --- |
/// | retries | 1, on the conditions that the policy names ([`RetryPolicy::new`]) |
/// | pauses | 25 ms, doubling up to 250 ms, ±20 % |
/// | request body kept for a resend | 64 KiB; a larger one goes out once |
/// | [budget](Self::with_budget) of retries under way | 20 % of the other requests, at least 3; with a route's policy, its backend's |
/// | [throttling](Self::with_throttling) | none; with a route's policy, its service's |
/// | [errors](Self::with_classifier) of the inner service | [`KnownErrors`] |
///
/// Budget and throttling belong to one service that the layer makes and to the clones of that: put a service of its own
/// around each backend.
///
/// # The inner service
/// takes requests with a [`ReplayBody`]; where it asks for a type of its own, map it, as with
/// `map_request(|request: Request<_>| request.map(tonic::body::Body::new))`. It is cloned once a request; the further
/// attempts of a request are made by the instance that made the first, which is asked for its readiness before each of
/// them. Whatever chooses among endpoints has to be inside, if an attempt is to go elsewhere than the one before.
///
/// # Under failure
/// When no further attempt is made, the result is that of the last: a response, or the error of the inner service,
/// unchanged. An attempt without a head within the policy's per-try timeout is cancelled and, as a result, an
/// [`Error`](crate::Error) of kind [`PerTryTimeout`](crate::ErrorKind::PerTryTimeout), or of kind
/// [`DeadlineExceeded`](crate::ErrorKind::DeadlineExceeded) where the deadline left no time for another one. A pause
/// that would reach the deadline is not begun: it is known from the `grpc-timeout` of gRPC calls, the
/// [`timeout`](crate::RequestOptions::timeout) of the caller's options, the route's timeout, or
/// [`DeadlineLayer::announced`](super::DeadlineLayer::announced). A response that a retry replaces
/// is read during the pause, up to 64 KiB, so that its connection can go on. A retry beyond the budget is put off once,
/// for as long as its pause, and is then given up. How long the inner service takes to become ready for a further
/// attempt is bounded by the deadline alone.
///
/// # Order
/// Inside of [`DeadlineLayer`](super::DeadlineLayer), which bounds all attempts together, and outside of
/// [`TimeoutLayer`](super::TimeoutLayer) and whatever makes a single attempt.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU32, Ordering};
///
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::{BodyExt, Full};
/// use mesh_tower::core::model::{RetryOn, RetryPolicy};
/// use mesh_tower::layer::{ReplayBody, RetryLayer};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let attempts = Arc::new(AtomicU32::new(0));
/// let seen = attempts.clone();
/// let server = service_fn(move |request: Request<ReplayBody<Full<Bytes>>>| {
///     let attempt = seen.fetch_add(1, Ordering::Relaxed);
///     async move {
///         let body = request.into_body().collect().await?.to_bytes();
///         let status = if attempt == 0 { 503 } else { 200 };
///         Response::builder().status(status).body(Full::new(body)).map_err(mesh_tower::BoxError::from)
///     }
/// });
/// let policy = RetryPolicy::new(RetryOn::SERVER_ERROR).with_num_retries(2);
/// let service = ServiceBuilder::new().layer(RetryLayer::new(policy)).service(server);
///
/// let response = service.oneshot(Request::put("http://catalog/items/7").body(Full::from("apple"))?).await?;
/// assert_eq!(response.status(), 200);
/// assert_eq!(response.into_body().collect().await?.to_bytes(), "apple", "it was sent again");
/// assert_eq!(attempts.load(Ordering::Relaxed), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct RetryLayer<C = KnownErrors> {
    settings: Settings<C>,
}

#[derive(Debug, Clone)]
struct Settings<C> {
    policy: Option<Arc<RetryPolicy>>,
    budget: RetryBudget,
    throttling: Option<RetryThrottling>,
    classifier: C,
}

impl RetryLayer {
    /// Retries by `policy` where the route has none of its own.
    pub fn new(policy: impl Into<Arc<RetryPolicy>>) -> Self {
        let mut layer = Self::from_route();
        layer.settings.policy = Some(policy.into());
        layer
    }

    /// Retries by the policies of the routes.
    pub fn from_route() -> Self {
        let settings =
            Settings { policy: None, budget: RetryBudget::default(), throttling: None, classifier: KnownErrors };
        Self { settings }
    }
}

impl<C> RetryLayer<C> {
    /// Sets how many retries by the layer's own policy may be under way at once.
    #[must_use]
    pub fn with_budget(mut self, budget: RetryBudget) -> Self {
        self.settings.budget = budget;
        self
    }

    /// Stops retries by the layer's own policy while most requests fail (gRFC A6). A request that succeeds counts when
    /// its response body was read to its end.
    #[must_use]
    pub fn with_throttling(mut self, throttling: RetryThrottling) -> Self {
        self.settings.throttling = Some(throttling);
        self
    }

    /// Sets how errors of the inner service are understood.
    #[must_use]
    pub fn with_classifier<D: ClassifyFailure>(self, classifier: D) -> RetryLayer<D> {
        let Settings { policy, budget, throttling, classifier: _ } = self.settings;
        RetryLayer { settings: Settings { policy, budget, throttling, classifier } }
    }
}

impl<S, C: Clone> Layer<S> for RetryLayer<C> {
    type Service = Retry<S, C>;

    fn layer(&self, inner: S) -> Retry<S, C> {
        let Settings { policy, budget, throttling, classifier } = self.settings.clone();
        let limits = Limits::new(budget, throttling.as_ref());
        Retry { inner, shared: Arc::new(Shared { policy, limits, classifier }) }
    }
}

/// What the clones of a service share.
struct Shared<C> {
    policy: Option<Arc<RetryPolicy>>,
    limits: Limits,
    classifier: C,
}

/// The service of a [`RetryLayer`]. Ready when the inner one is. Its clones share the budget.
pub struct Retry<S, C = KnownErrors> {
    inner: S,
    shared: Arc<Shared<C>>,
}

impl<S, C, B, RB> Service<Request<B>> for Retry<S, C>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<RB>> + Clone,
    S::Error: Into<BoxError>,
    C: ClassifyFailure,
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
    RB: HttpBody,
{
    type Response = Response<RetryBody<RB>>;
    type Error = BoxError;
    type Future = RetryFuture<S, B, RB, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The one that is ready makes this request's attempts; a clone of it is not ready.
        let clone = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, clone);
        RetryFuture::new(inner, Call::new(request, Arc::clone(&self.shared)))
    }
}

impl<S: Clone, C> Clone for Retry<S, C> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), shared: Arc::clone(&self.shared) }
    }
}

impl<S: fmt::Debug, C> fmt::Debug for Retry<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry").field("inner", &self.inner).field("policy", &self.shared.policy).finish_non_exhaustive()
    }
}

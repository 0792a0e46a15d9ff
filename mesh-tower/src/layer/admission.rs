//! Fewer requests for a backend that fails most of them.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use http_body::Body;
use mesh_core::grpc;
use mesh_core::model::{AdmissionControl, GrpcFailures};
use mesh_core::resilience::admission;
use mesh_core::resilience::outlier::Outcome;
use pin_project::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use super::judge::{Judge, Verdict};
use super::watch::watched_body;
use super::{ClassifyFailure, KnownErrors};
use crate::error::{BoxError, Error, ErrorKind};

/// Refuses a share of the requests while too many of those before have failed (Envoy's admission control).
///
/// With `n` requests and `s` successes within the window a request is refused with probability
/// `((n - s / threshold) / (n + 1)) ^ (1 / aggression)`; the numbers and their defaults are those of
/// [`AdmissionControl`]. An answer with a status of 500 and above is a failure, and so are gRPC's codes that stand for
/// one, a response that breaks, and an error of the inner service that is the peer's as the
/// [classifier](Self::with_classifier) has it, [`KnownErrors`] by default. A request whose end nobody saw counts as
/// nothing, and neither does one that was refused. One layer stands for one backend: the services that it makes, and their
/// clones, learn from each other.
///
/// # Readiness
/// The draw happens when a caller asks for readiness, before the inner service is asked. Where it says no the service is
/// ready all the same and the next call is refused, so that the inner service reserves nothing for a request that it
/// never gets.
///
/// # Under failure
/// A refused call ends at once in an [`Error`] of kind [`AdmissionRejected`](ErrorKind::AdmissionRejected) (503; gRPC:
/// UNAVAILABLE), which no [`RetryLayer`](super::RetryLayer) tries again. Errors of the inner service come through
/// unchanged.
///
/// # Order
/// Outside of [`RetryLayer`](super::RetryLayer) it judges what is left of the failures after the retries; inside of it,
/// each attempt.
///
/// ```
/// use http::{Request, Response, StatusCode};
/// use mesh_tower::core::model::AdmissionControl;
/// use mesh_tower::layer::AdmissionLayer;
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let failing = service_fn(|_: Request<String>| async {
///     let mut response = Response::new(String::new());
///     *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
///     Ok::<_, std::io::Error>(response)
/// });
/// let mut policy = AdmissionControl::default();
/// policy.min_requests_per_second = 0;
/// let admission = AdmissionLayer::new(policy);
/// let service = admission.layer(failing);
/// let (mut sent, mut refused) = (0, 0);
/// for _ in 0..1000 {
///     match service.clone().oneshot(Request::new(String::new())).await {
///         Ok(_) => sent += 1,
///         Err(_) => refused += 1,
///     }
/// }
/// assert!(refused > sent, "{refused} of 1000"); // 80 % at most
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct AdmissionLayer<C = KnownErrors> {
    shared: Arc<Shared>,
    classifier: C,
}

struct Shared {
    admission: admission::Admission,
    policy: AdmissionControl,
}

impl AdmissionLayer {
    /// Refuses as `policy` says.
    ///
    /// # Panics
    /// Outside of a runtime with time.
    pub fn new(policy: AdmissionControl) -> Self {
        let admission = admission::Admission::new(Instant::now().into_std());
        Self { shared: Arc::new(Shared { admission, policy }), classifier: KnownErrors }
    }
}

impl<C> AdmissionLayer<C> {
    /// What the errors of the inner service say of it. Default: [`KnownErrors`].
    #[must_use]
    pub fn with_classifier<D: ClassifyFailure>(self, classifier: D) -> AdmissionLayer<D> {
        AdmissionLayer { shared: self.shared, classifier }
    }

    /// The share of requests that is refused now: 0.0 to 1.0.
    pub fn rejection(&self) -> f64 {
        self.shared.admission.rejection(&self.shared.policy, Instant::now().into_std())
    }
}

impl<S, C: Clone> Layer<S> for AdmissionLayer<C> {
    type Service = Admission<S, C>;

    fn layer(&self, inner: S) -> Admission<S, C> {
        Admission { inner, shared: Arc::clone(&self.shared), classifier: self.classifier.clone(), admitted: None }
    }
}

impl<C> fmt::Debug for AdmissionLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdmissionLayer").field("policy", &self.shared.policy).finish_non_exhaustive()
    }
}

/// The service of an [`AdmissionLayer`]. Ready when the inner one is, and where a request is to be refused.
pub struct Admission<S, C = KnownErrors> {
    inner: S,
    shared: Arc<Shared>,
    classifier: C,
    /// What was drawn when readiness was asked for.
    admitted: Option<bool>,
}

impl<S, B, RB, C> Service<Request<B>> for Admission<S, C>
where
    S: Service<Request<B>, Response = Response<RB>>,
    S::Error: Into<BoxError>,
    RB: Body,
    C: ClassifyFailure + Clone,
{
    type Response = Response<AdmissionBody<RB>>;
    type Error = BoxError;
    type Future = AdmissionFuture<S::Future, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let Shared { admission, policy } = &*self.shared;
        let draw = || admission.admit(policy, Instant::now().into_std(), &mut rand::rng());
        match self.admitted.get_or_insert_with(draw) {
            true => self.inner.poll_ready(cx).map_err(Into::into),
            false => Poll::Ready(Ok(())),
        }
    }

    /// # Panics
    /// If `poll_ready` has not returned `Ready(Ok(()))` since the last call.
    fn call(&mut self, request: Request<B>) -> AdmissionFuture<S::Future, C> {
        AdmissionFuture(match self.admitted.take().expect("poll_ready comes before call, as Tower asks") {
            true => {
                let grpc = grpc::is_grpc(request.headers());
                let counted = Counted(Arc::clone(&self.shared));
                let judge = Some(Judge::new(counted, GrpcFailures::ServerErrors, grpc));
                State::Sent { inner: self.inner.call(request), judge, classifier: self.classifier.clone() }
            }
            false => State::Refused,
        })
    }
}

impl<S: Clone, C: Clone> Clone for Admission<S, C> {
    fn clone(&self) -> Self {
        let Self { inner, shared, classifier, admitted: _ } = self;
        Self { inner: inner.clone(), shared: Arc::clone(shared), classifier: classifier.clone(), admitted: None }
    }
}

impl<S: fmt::Debug, C> fmt::Debug for Admission<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission")
            .field("inner", &self.inner)
            .field("policy", &self.shared.policy)
            .field("admitted", &self.admitted)
            .finish_non_exhaustive()
    }
}

/// The response of an [`Admission`] on its way.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct AdmissionFuture<F, C = KnownErrors>(#[pin] State<F, C>);

#[pin_project(project = StateProj)]
enum State<F, C> {
    Refused,
    Sent {
        #[pin]
        inner: F,
        judge: Option<Judge<Counted>>,
        classifier: C,
    },
}

impl<F, RB, E, C> Future for AdmissionFuture<F, C>
where
    F: Future<Output = Result<Response<RB>, E>>,
    E: Into<BoxError>,
    RB: Body,
    C: ClassifyFailure,
{
    type Output = Result<Response<AdmissionBody<RB>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project().0.project() {
            StateProj::Refused => {
                let text = "admission control refused the request, as too many before it failed";
                Err(Error::new(ErrorKind::AdmissionRejected, text).into())
            }
            StateProj::Sent { inner, judge, classifier } => {
                let result = ready!(inner.poll(cx));
                let judge = judge.take().expect("a future is not polled after its end");
                judge.judge(result, classifier).map(|response| response.map(AdmissionBody))
            }
        })
    }
}

impl<F, C> fmt::Debug for AdmissionFuture<F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdmissionFuture").finish_non_exhaustive()
    }
}

/// A request that was sent.
struct Counted(Arc<Shared>);

impl Verdict for Counted {
    fn reach(self, outcome: Outcome) {
        let Shared { admission, policy } = &*self.0;
        if outcome != Outcome::Ignored {
            admission.record(policy, outcome == Outcome::Success, Instant::now().into_std());
        }
    }
}

watched_body! {
    /// A response body whose end says whether the request succeeded.
    AdmissionBody, Judge<Counted>
}

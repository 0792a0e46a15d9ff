//! Endpoints that are passed over while they fail.

use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use http_body::Body;
use mesh_core::classify::Attempt;
use mesh_core::grpc;
use mesh_core::model::OutlierDetection;
use mesh_core::resilience::outlier::{Detector, EjectionChange, Outcome, Record, Standing, outcome};
use pin_project::pin_project;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, Sleep};
use tower_layer::Layer;
use tower_service::Service;

use super::judge::{Judge, Verdict};
use super::watch::watched_body;
use super::{ClassifyFailure, KnownErrors};
use crate::error::BoxError;

/// Takes endpoints out of use for what they answer (Envoy's outlier detection, gRFC A50).
///
/// One layer stands for one backend, and each service that it makes for one of its endpoints, together with the clones
/// of that: put it around the client of every single endpoint, below a balancer. When and for how long an endpoint is
/// ejected says the policy, [`OutlierDetection`], as for a [`Mesh`](crate::Mesh)'s own clients. An endpoint belongs to
/// the backend until the last clone of its service and the last response of it are gone.
///
/// A head that is a failure counts at once, any other answer at its end: gRPC's by its trailers, HTTP's by its status. A
/// response that breaks is a missing answer, and so is an error of the inner service that is the peer's, as the
/// [classifier](Self::with_classifier) has it, or a deadline inside. A request that is given up says nothing: put a [`TimeoutLayer`](super::TimeoutLayer) inside, or an endpoint that never answers is
/// never ejected.
///
/// # Readiness
/// The service of an endpoint that is ejected is `Pending` until it is back, so that a balancer which asks for readiness
/// (tower's `p2c` say) passes it over. An instance that has said that it is ready takes its one request even if the
/// endpoint is ejected in between, as Tower demands. With [`Recovery::Probe`](mesh_core::model::Recovery::Probe) one of
/// those who wait becomes ready once the time is up; its request is the probe, and if it is dropped without a call, or
/// its request is given up, another one's is.
///
/// There is no task behind it: an interval ends when a caller of any endpoint next asks for readiness, and whoever waits
/// has a timer.
///
/// # Under failure
/// It makes no errors: those of the inner service come through unchanged, in `poll_ready` as well, where they count as
/// in `call`. If all endpoints are ejected, which `max_ejection_percent` prevents unless it is 100 or the endpoints are
/// few, the callers wait for the first to return, for as long as they like.
///
/// # Order
/// Inside of the balancer, and so of [`RetryLayer`](super::RetryLayer); outside of
/// [`TimeoutLayer`](super::TimeoutLayer).
///
/// ```
/// use http::{Request, Response, StatusCode};
/// use mesh_tower::core::model::{Consecutive, OutlierDetection};
/// use mesh_tower::core::resilience::outlier::Standing;
/// use mesh_tower::layer::OutlierLayer;
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let mut policy = OutlierDetection::default();
/// policy.consecutive_5xx = Some(Consecutive::new(3));
/// let backend = OutlierLayer::new(policy);
/// let endpoint = |status| {
///     service_fn(move |_: Request<String>| async move {
///         Response::builder().status(status).body(String::new())
///     })
/// };
/// let (good, bad) = (backend.layer(endpoint(StatusCode::OK)), backend.layer(endpoint(StatusCode::BAD_GATEWAY)));
/// for _ in 0..3 {
///     good.clone().oneshot(Request::new(String::new())).await?;
///     bad.clone().oneshot(Request::new(String::new())).await?;
/// }
/// assert_eq!((good.standing(), bad.standing()), (Standing::Active, Standing::Ejected));
/// assert_eq!(backend.ejected(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct OutlierLayer<C = KnownErrors> {
    backend: Arc<Backend>,
    classifier: C,
}

/// What the endpoints share.
struct Backend {
    policy: OutlierDetection,
    detector: Detector,
    /// How many endpoints there are.
    total: AtomicUsize,
    /// Taken when an endpoint comes or goes, and once an interval.
    endpoints: Mutex<Vec<Weak<Endpoint>>>,
}

struct Endpoint {
    backend: Arc<Backend>,
    record: Record,
    /// Wakes those who wait for the endpoint when there is something new to see.
    changed: Arc<Notify>,
}

impl OutlierLayer {
    /// A backend without endpoints, whose first interval begins now.
    ///
    /// # Panics
    /// Outside of a runtime with time.
    pub fn new(policy: OutlierDetection) -> Self {
        let detector = Detector::new(Instant::now().into_std());
        let backend = Backend { policy, detector, total: AtomicUsize::new(0), endpoints: Mutex::default() };
        Self { backend: Arc::new(backend), classifier: KnownErrors }
    }
}

impl<C> OutlierLayer<C> {
    /// What the errors of the inner services say of them. Default: [`KnownErrors`].
    #[must_use]
    pub fn with_classifier<D: ClassifyFailure>(self, classifier: D) -> OutlierLayer<D> {
        OutlierLayer { backend: self.backend, classifier }
    }

    /// How many endpoints are out, those counted that wait for a probe.
    pub fn ejected(&self) -> usize {
        self.backend.detector.ejected()
    }
}

impl<S, C: Clone> Layer<S> for OutlierLayer<C> {
    type Service = Outlier<S, C>;

    fn layer(&self, inner: S) -> Outlier<S, C> {
        let endpoint = Endpoint::join(&self.backend);
        Outlier { inner, endpoint, classifier: self.classifier.clone(), entry: None, waiting: None }
    }
}

impl<C> fmt::Debug for OutlierLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutlierLayer")
            .field("policy", &self.backend.policy)
            .field("ejected", &self.ejected())
            .finish_non_exhaustive()
    }
}

impl Backend {
    fn endpoints(&self) -> MutexGuard<'_, Vec<Weak<Endpoint>>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the interval if its time has come.
    fn sweep(&self, now: Instant) {
        let now = now.into_std();
        if now < self.detector.next_due(&self.policy) {
            return;
        }
        // Those that are the last to know of an endpoint let it go after the lock.
        let endpoints: Vec<_> = self.endpoints().iter().filter_map(Weak::upgrade).collect();
        let records = endpoints.iter().map(|endpoint| &endpoint.record);
        self.detector.sweep(&self.policy, records.len(), records, now, &mut rand::rng(), |index, change| {
            endpoints[index].tell(Some(change));
        });
    }
}

impl Endpoint {
    fn join(backend: &Arc<Backend>) -> Arc<Self> {
        let changed = Arc::default();
        let endpoint = Arc::new(Self { backend: Arc::clone(backend), record: Record::new(), changed });
        backend.endpoints().push(Arc::downgrade(&endpoint));
        backend.total.fetch_add(1, Ordering::Relaxed);
        endpoint
    }

    fn record(&self, outcome: Outcome) {
        let Backend { policy, detector, total, .. } = &*self.backend;
        let (total, now) = (total.load(Ordering::Relaxed), Instant::now().into_std());
        self.tell(detector.record(policy, &self.record, total, outcome, now, &mut rand::rng()));
    }

    fn conclude(&self, outcome: Outcome) {
        let Backend { policy, detector, .. } = &*self.backend;
        let now = Instant::now().into_std();
        self.tell(detector.conclude_probe(policy, &self.record, outcome, now, &mut rand::rng()));
    }

    fn tell(&self, change: Option<EjectionChange>) {
        if matches!(change, Some(EjectionChange::Returned | EjectionChange::Probing)) {
            self.changed.notify_waiters();
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.backend.detector.forget(&self.record);
        self.backend.total.fetch_sub(1, Ordering::Relaxed);
        self.backend.endpoints().retain(|endpoint| endpoint.strong_count() > 0);
    }
}

/// The service of an [`OutlierLayer`]: one endpoint. Ready when the inner one is and the endpoint is not ejected.
pub struct Outlier<S, C = KnownErrors> {
    inner: S,
    endpoint: Arc<Endpoint>,
    classifier: C,
    /// The next request, once it may be sent to the endpoint.
    entry: Option<Entry>,
    waiting: Option<Pin<Box<Waiting>>>,
}

impl<S, C> Outlier<S, C> {
    /// How the endpoint stands.
    pub fn standing(&self) -> Standing {
        self.endpoint.record.standing()
    }
}

/// The wait for an endpoint that is ejected.
#[pin_project]
struct Waiting {
    #[pin]
    changed: OwnedNotified,
    /// Until the interval is over.
    #[pin]
    sleep: Sleep,
}

impl Waiting {
    fn new(endpoint: &Endpoint) -> Self {
        let Backend { policy, detector, .. } = &*endpoint.backend;
        let sleep = tokio::time::sleep_until(detector.next_due(policy).into());
        Self { changed: Arc::clone(&endpoint.changed).notified_owned(), sleep }
    }
}

impl Future for Waiting {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        match this.changed.poll(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => this.sleep.poll(cx),
        }
    }
}

/// A request that may be sent to the endpoint.
struct Entry {
    endpoint: Arc<Endpoint>,
    /// Whether it decides that the endpoint is back, and has not done so yet.
    probe: bool,
}

impl Entry {
    fn of(endpoint: &Arc<Endpoint>) -> Option<Self> {
        let probe = match endpoint.record.standing() {
            Standing::Active => false,
            Standing::HalfOpen if endpoint.record.try_probe() => true,
            _ => return None,
        };
        Some(Self { endpoint: Arc::clone(endpoint), probe })
    }
}

impl Verdict for Entry {
    fn reach(mut self, outcome: Outcome) {
        match outcome {
            Outcome::Ignored => {}
            outcome if mem::take(&mut self.probe) => self.endpoint.conclude(outcome),
            outcome => self.endpoint.record(outcome),
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if self.probe {
            self.endpoint.record.release_probe();
            self.endpoint.changed.notify_waiters();
        }
    }
}

impl<S, C> Outlier<S, C> {
    /// Waits until a request may be sent to the endpoint.
    fn poll_entry(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.entry.is_none() {
            self.endpoint.backend.sweep(Instant::now());
            self.entry = Entry::of(&self.endpoint);
            match &mut self.waiting {
                _ if self.entry.is_some() => self.waiting = None,
                Some(waiting) => {
                    ready!(waiting.as_mut().poll(cx));
                    self.waiting = None;
                }
                // One more look: what changed before the wait began wakes nobody.
                None => self.waiting = Some(Box::pin(Waiting::new(&self.endpoint))),
            }
        }
        Poll::Ready(())
    }
}

impl<S, B, RB, C> Service<Request<B>> for Outlier<S, C>
where
    S: Service<Request<B>, Response = Response<RB>>,
    S::Error: Into<BoxError>,
    RB: Body,
    C: ClassifyFailure + Clone,
{
    type Response = Response<OutlierBody<RB>>;
    type Error = BoxError;
    type Future = OutlierFuture<S::Future, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        ready!(self.poll_entry(cx));
        Poll::Ready(ready!(self.inner.poll_ready(cx)).map_err(|error| {
            let error = error.into();
            if let Some(entry) = self.entry.take() {
                let failures = self.endpoint.backend.policy.grpc_failures;
                entry.reach(outcome(failures, false, &Attempt::Failed(self.classifier.classify(&*error))));
            }
            error
        }))
    }

    /// # Panics
    /// If `poll_ready` has not returned `Ready(Ok(()))` since the last call.
    fn call(&mut self, request: Request<B>) -> OutlierFuture<S::Future, C> {
        let entry = self.entry.take().expect("poll_ready comes before call, as Tower asks");
        let grpc = grpc::is_grpc(request.headers());
        let judge = Some(Judge::new(entry, self.endpoint.backend.policy.grpc_failures, grpc));
        OutlierFuture { inner: self.inner.call(request), judge, classifier: self.classifier.clone() }
    }
}

impl<S: Clone, C: Clone> Clone for Outlier<S, C> {
    fn clone(&self) -> Self {
        let Self { inner, endpoint, classifier, entry: _, waiting: _ } = self;
        let (inner, classifier) = (inner.clone(), classifier.clone());
        Self { inner, endpoint: Arc::clone(endpoint), classifier, entry: None, waiting: None }
    }
}

impl<S: fmt::Debug, C> fmt::Debug for Outlier<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outlier")
            .field("inner", &self.inner)
            .field("standing", &self.standing())
            .finish_non_exhaustive()
    }
}

/// The response of an [`Outlier`] on its way.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct OutlierFuture<F, C = KnownErrors> {
    #[pin]
    inner: F,
    judge: Option<Judge<Entry>>,
    classifier: C,
}

impl<F, RB, E, C> Future for OutlierFuture<F, C>
where
    F: Future<Output = Result<Response<RB>, E>>,
    E: Into<BoxError>,
    RB: Body,
    C: ClassifyFailure,
{
    type Output = Result<Response<OutlierBody<RB>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(cx));
        let judge = this.judge.take().expect("a future is not polled after its end");
        Poll::Ready(judge.judge(result, this.classifier).map(|response| response.map(OutlierBody)))
    }
}

impl<F, C> fmt::Debug for OutlierFuture<F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutlierFuture").finish_non_exhaustive()
    }
}

watched_body! {
    /// A response body whose end says how the endpoint did.
    OutlierBody, Judge<Entry>
}

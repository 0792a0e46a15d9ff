//! A span for what goes through, and its ids on the way.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};

use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::Body;
use mesh_core::grpc;
use mesh_core::model::{Propagator, TelemetrySettings};
use mesh_core::observe::Outcome;
use opentelemetry::trace::{Status, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Context, KeyValue};
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::find_error;
use super::watch::{Watch, Watched, watched_body};
use crate::error::BoxError;
use crate::telemetry::propagate;
use crate::telemetry::spans::{Facts, Level, Spans, conclude, rooted};

/// Records a span for each request, below the one that is current when it is called, and sends its ids on.
///
/// Two places make sense, and each has its constructor: around everything, a span for the request with all that is done
/// for it ([`requests`](Self::requests)); inside of the retries, a span for each attempt, which is the one that the
/// server's span hangs below ([`attempts`](Self::attempts)). With both, the outer span is the inner ones' parent. Names
/// and attributes are those of a [`Mesh`](crate::Mesh)'s own client: gRPC's (gRFC A72) on gRPC calls, and OpenTelemetry's
/// conventions for HTTP otherwise.
///
/// The trace context goes out as `traceparent`, `tracestate` and `baggage`, or as [told](Self::propagators). A span ends
/// with the response's body: read to its end, broken off, or dropped.
///
/// # Under failure
/// An error of the inner service comes through unchanged; the span has its kind as `error.type` where it is an
/// [`Error`](crate::Error), `_OTHER` where it is not. A future or body that is dropped ends its span as `cancelled`.
/// What is not sampled is not recorded, and costs the generation of its ids.
///
/// ```
/// use http::{Request, Response};
/// use mesh_tower::layer::TraceLayer;
/// use mesh_tower::opentelemetry::trace::noop::NoopTracerProvider;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let provider = NoopTracerProvider::new(); // yours, of the OpenTelemetry SDK
/// let client = service_fn(|_: Request<String>| async { Ok::<_, std::io::Error>(Response::new(String::new())) });
/// let service = ServiceBuilder::new().layer(TraceLayer::attempts(&provider)).service(client);
/// service.oneshot(Request::get("http://greeter/").body(String::new())?).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TraceLayer {
    tracing: Option<Tracing>,
}

#[derive(Clone)]
struct Tracing {
    spans: Arc<Spans>,
    level: Level,
    propagators: Arc<[Propagator]>,
}

impl TraceLayer {
    /// Spans of requests, by `provider`: `Sent.package.Service.Method` for gRPC, of kind internal.
    pub fn requests<P>(provider: &P) -> Self
    where
        P: TracerProvider,
        P::Tracer: Tracer<Span: Send + Sync + 'static> + Send + Sync + 'static,
    {
        Self::of(Some(Spans::new(provider)), Level::Request)
    }

    /// Spans of attempts, by `provider`: `Attempt.package.Service.Method` for gRPC, of kind client.
    pub fn attempts<P>(provider: &P) -> Self
    where
        P: TracerProvider,
        P::Tracer: Tracer<Span: Send + Sync + 'static> + Send + Sync + 'static,
    {
        Self::of(Some(Spans::new(provider)), Level::Attempt)
    }

    /// [`requests`](Self::requests) by the global provider, if one is installed now; nothing without.
    pub fn global_requests() -> Self {
        Self::of(Spans::global(), Level::Request)
    }

    /// [`attempts`](Self::attempts) by the global provider, if one is installed now; nothing without.
    pub fn global_attempts() -> Self {
        Self::of(Spans::global(), Level::Attempt)
    }

    fn of(spans: Option<Spans>, level: Level) -> Self {
        let TelemetrySettings { propagators, .. } = TelemetrySettings::default();
        let tracing = |spans| Tracing { spans: Arc::new(spans), level, propagators: propagators.into() };
        Self { tracing: spans.map(tracing) }
    }

    /// How the trace context goes out. Default: W3C trace context and baggage.
    #[must_use]
    pub fn propagators(mut self, propagators: impl IntoIterator<Item = Propagator>) -> Self {
        if let Some(tracing) = &mut self.tracing {
            tracing.propagators = propagators.into_iter().collect();
        }
        self
    }
}

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;

    fn layer(&self, inner: S) -> Trace<S> {
        Trace { inner, tracing: self.tracing.clone() }
    }
}

impl fmt::Debug for TraceLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraceLayer").field("installed", &self.tracing.is_some()).finish_non_exhaustive()
    }
}

/// The service of a [`TraceLayer`]. Ready when the inner one is.
#[derive(Clone)]
pub struct Trace<S> {
    inner: S,
    tracing: Option<Tracing>,
}

impl<S, B, RB> Service<Request<B>> for Trace<S>
where
    S: Service<Request<B>, Response = Response<RB>>,
    S::Error: Into<BoxError>,
    RB: Body,
{
    type Response = Response<TraceBody<RB>>;
    type Error = BoxError;
    type Future = TraceFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> TraceFuture<S::Future> {
        let Some(tracing) = &self.tracing else {
            return TraceFuture { inner: self.inner.call(request), context: None, span: Recording(None) };
        };
        let parent = rooted(Context::current());
        let grpc = grpc::is_grpc(request.headers());
        let (ids, recorded) = tracing.spans.start(tracing.level, &parent, &Asked::of(&request).facts(&request, grpc));
        propagate::inject(&tracing.propagators, &ids, &parent, grpc, request.headers_mut());
        let span = Recording(recorded.clone().map(|context| Recorded { context, grpc }));
        // Whatever is inside belongs to this span, and to its trace even if nobody records it.
        let context = recorded.unwrap_or_else(|| parent.with_remote_span_context(ids));
        let inner = {
            let _current = context.clone().attach();
            self.inner.call(request)
        };
        TraceFuture { inner, context: Some(context), span }
    }
}

impl<S: fmt::Debug> fmt::Debug for Trace<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace").field("inner", &self.inner).finish_non_exhaustive()
    }
}

/// Where a request goes, put together from its URI and its `Host`.
struct Asked {
    authority: Option<Authority>,
    path: PathAndQuery,
}

impl Asked {
    fn of<B>(request: &Request<B>) -> Self {
        let host = || Authority::try_from(request.headers().get(header::HOST)?.as_bytes()).ok();
        let path = request.uri().path_and_query().cloned();
        Self {
            authority: request.uri().authority().cloned().or_else(host),
            path: path.unwrap_or_else(|| PathAndQuery::from_static("/")),
        }
    }

    fn facts<'a, B>(&'a self, request: &'a Request<B>, grpc: bool) -> Facts<'a> {
        Facts {
            method: request.method(),
            authority: self.authority.as_ref(),
            secure: request.uri().scheme_str() == Some("https"),
            path: &self.path,
            grpc,
        }
    }
}

/// A span that is recorded and has not ended.
struct Recorded {
    context: Context,
    grpc: bool,
}

/// A span, if it is recorded. One that is dropped was given up.
struct Recording(Option<Recorded>);

impl Recording {
    fn end(&mut self, outcome: Outcome, headers: Option<&HeaderMap>) {
        if let Some(Recorded { context, grpc }) = self.0.take() {
            conclude(&context, grpc, outcome, headers);
        }
    }

    fn fail_otherwise(&mut self, error: &(dyn StdError + 'static)) {
        if let Some(Recorded { context, .. }) = self.0.take() {
            let span = context.span();
            span.set_attribute(KeyValue::new("error.type", "_OTHER"));
            span.set_status(Status::error(error.to_string()));
            span.end();
        }
    }

    fn fail(&mut self, error: &(dyn StdError + 'static)) {
        if self.0.is_some() {
            match find_error(error) {
                Some(error) => self.end(Outcome::Failed(error.kind()), None),
                None => self.fail_otherwise(error),
            }
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.end(Outcome::Cancelled, None);
    }
}

/// The response of a [`Trace`] on its way.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct TraceFuture<F> {
    #[pin]
    inner: F,
    /// What is current for the inner service.
    context: Option<Context>,
    span: Recording,
}

impl<F, RB, E> Future for TraceFuture<F>
where
    F: Future<Output = Result<Response<RB>, E>>,
    E: Into<BoxError>,
    RB: Body,
{
    type Output = Result<Response<TraceBody<RB>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = {
            let _current = this.context.clone().map(Context::attach);
            ready!(this.inner.poll(cx))
        };
        let mut span = Recording(this.span.0.take());
        match result {
            Err(error) => {
                let error = error.into();
                span.fail(&*error);
                Poll::Ready(Err(error))
            }
            Ok(response) => {
                let status = response.status();
                Poll::Ready(Ok(Watched::response(response, Some(Answered { status, span })).map(TraceBody)))
            }
        }
    }
}

impl<F> fmt::Debug for TraceFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TraceFuture")
    }
}

watched_body! {
    /// A response body that ends its request's span.
    TraceBody, Answered
}

/// A span whose response is on its way.
struct Answered {
    status: StatusCode,
    span: Recording,
}

impl Watch for Answered {
    fn complete(mut self, trailers: Option<&HeaderMap>) {
        let code = trailers.and_then(grpc::status);
        self.span.end(Outcome::Response { status: self.status, grpc: code }, trailers);
    }

    fn broken(mut self, error: &(dyn StdError + 'static)) {
        self.span.fail(error);
    }
}

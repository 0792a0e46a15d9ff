//! A span for each request, and one for each of its attempts.
//!
//! The sampler is asked with nothing but the parent: names and attributes are made only for a span that is recorded.
//! Of a request that is not sampled there is no attempt's span either; its ids travel on, with the flag that says so.

use std::borrow::Cow;

use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, Method};
use mesh_core::grpc::{self, Code};
use mesh_core::model::{Address, Settings};
use mesh_core::observe::{self, Outcome};
use opentelemetry::baggage::{BaggageExt, KeyValueMetadata};
use opentelemetry::trace::{
    Span, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, TraceFlags, TraceState, Tracer, TracerProvider,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue, global};
use percent_encoding::percent_decode;

use super::propagate;
use crate::client::Head;

/// The name of this crate's tracer and meter.
pub(crate) const SCOPE: &str = "mesh";

/// Makes spans.
pub(crate) struct Spans(Box<dyn Start>);

/// A tracer, without the type of its spans.
trait Start: Send + Sync {
    /// A span below `parent`. A recorded one is put into the context that is returned.
    fn start(&self, name: &'static str, kind: SpanKind, parent: &Context) -> (SpanContext, Option<Context>);
}

impl<T> Start for T
where
    T: Tracer + Send + Sync,
    T::Span: Send + Sync + 'static,
{
    fn start(&self, name: &'static str, kind: SpanKind, parent: &Context) -> (SpanContext, Option<Context>) {
        let builder = SpanBuilder { span_kind: Some(kind), ..SpanBuilder::from_name(name) };
        let span = self.build_with_context(builder, parent);
        let ids = span.span_context().clone();
        let recorded = span.is_recording().then(|| parent.with_span(span));
        (ids, recorded)
    }
}

/// The scope of this crate's tracer and meter.
pub(crate) fn scope() -> InstrumentationScope {
    InstrumentationScope::builder(SCOPE).with_version(env!("CARGO_PKG_VERSION")).build()
}

impl Spans {
    /// Spans of `provider`.
    pub(crate) fn new<P>(provider: &P) -> Self
    where
        P: TracerProvider,
        P::Tracer: Tracer<Span: Send + Sync + 'static> + Send + Sync + 'static,
    {
        Self(Box::new(provider.tracer_with_scope(scope())))
    }

    /// A span below `parent`: its ids, and the context that holds it if it is recorded.
    pub(crate) fn start(&self, level: Level, parent: &Context, facts: &Facts<'_>) -> (SpanContext, Option<Context>) {
        let (word, kind) = match level {
            Level::Request => ("Sent", SpanKind::Internal),
            Level::Attempt => ("Attempt", SpanKind::Client),
        };
        let name = if facts.grpc { word } else { http_name(facts.method) };
        let (ids, recorded) = self.0.start(name, kind, parent);
        if let Some(context) = &recorded {
            if facts.grpc {
                let path = facts.path.path().trim_start_matches('/').replace('/', ".");
                context.span().update_name(format!("{word}.{path}"));
            }
            describe(context, facts);
        }
        (ids, recorded)
    }

    /// A server's span below `parent`, the context of its caller: its ids, and the context that holds it if it is
    /// recorded. It is called by the word or the method alone, until somebody says more of it.
    pub(crate) fn receive(&self, grpc: bool, method: &Method, parent: &Context) -> (SpanContext, Option<Context>) {
        let name = if grpc { "Recv" } else { http_name(method) };
        self.0.start(name, SpanKind::Server, parent)
    }

    /// Spans of the global provider, if one is installed.
    pub(crate) fn global() -> Option<Self> {
        let tracer = global::tracer_provider().tracer_with_scope(scope());
        // The API does not say whether the provider is the one that does nothing. That one hands on what it is given,
        // where any other says that nothing may be recorded.
        let ids = SpanContext::new(
            0x6d65_7368_u128.into(),
            0x6d65_7368_u64.into(),
            TraceFlags::default(),
            true,
            TraceState::NONE,
        );
        let parent = Context::new().with_remote_span_context(ids.clone()).with_telemetry_suppressed();
        let span = tracer.build_with_context(SpanBuilder::from_name("mesh"), &parent);
        let installed = *span.span_context() != ids;
        installed.then(|| Self(Box::new(tracer)))
    }
}

/// What a span is for. Names are gRPC's (gRFC A72) and those of OpenTelemetry's conventions for HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// A request with all its attempts.
    Request,
    /// What goes out on the wire.
    Attempt,
}

/// What a span says of the request.
pub(crate) struct Facts<'a> {
    pub(crate) method: &'a Method,
    pub(crate) authority: Option<&'a Authority>,
    pub(crate) secure: bool,
    pub(crate) path: &'a PathAndQuery,
    pub(crate) grpc: bool,
}

/// Who sends a request: the context at the moment of the call.
#[derive(Default)]
pub(crate) struct Caller(Option<Context>);

impl Caller {
    /// The caller's context, if anybody asks for it.
    pub(crate) fn current(spans: Option<&Spans>) -> Self {
        Self(spans.map(|_| Context::current()))
    }
}

/// The span of a request.
#[derive(Default)]
pub(crate) struct RequestSpan(Option<Active>);

struct Active {
    /// The caller's context, or the one with our span where that is recorded.
    context: Context,
    recorded: bool,
    grpc: bool,
}

impl RequestSpan {
    /// Begins the span of the request with this head, and writes its ids there.
    pub(crate) fn start(spans: Option<&Spans>, caller: Caller, head: &mut Head, settings: &Settings) -> Self {
        let (Some(spans), Some(parent)) = (spans, caller.0) else { return Self(None) };
        let parent = rooted(parent);
        let facts = head.facts();
        let grpc = facts.grpc;
        let (ids, recorded) = spans.start(Level::Request, &parent, &facts);
        if !ids.is_valid() && recorded.is_none() {
            return Self(None);
        }
        propagate::inject(&settings.telemetry.propagators, &ids, &parent, grpc, head.headers_mut());
        let is_recorded = recorded.is_some();
        Self(Some(Active { context: recorded.unwrap_or(parent), recorded: is_recorded, grpc }))
    }

    fn recorded(&self) -> Option<&Active> {
        self.0.as_ref().filter(|active| active.recorded)
    }

    /// Whether anybody will see it.
    pub(crate) fn is_recorded(&self) -> bool {
        self.recorded().is_some()
    }

    /// The wait for the resolver is over (gRFC A72).
    pub(crate) fn resolved(&self) {
        if let Some(active) = self.recorded() {
            active.context.span().add_event("Delayed name resolution complete", Vec::new());
        }
    }

    /// Begins the span of an attempt.
    pub(crate) fn attempt(&self, spans: Option<&Spans>, head: &Head, sent: &Sent) -> AttemptSpan {
        let (Some(spans), Some(active)) = (spans, self.recorded()) else { return AttemptSpan(None) };
        let (ids, recorded) = spans.start(Level::Attempt, &active.context, &head.facts());
        let Some(context) = recorded else { return AttemptSpan(None) };
        let span = context.span();
        if active.grpc {
            span.set_attribute(KeyValue::new("previous-rpc-attempts", i64::from(sent.previous)));
            span.set_attribute(KeyValue::new("transparent-retry", sent.transparent));
        } else if sent.number > 1 {
            span.set_attribute(KeyValue::new("http.request.resend_count", i64::from(sent.number) - 1));
        }
        AttemptSpan(Some(Box::new(ActiveAttempt { context, ids, grpc: active.grpc })))
    }

    /// Ends the span. `headers` are those that hold gRPC's status, where they came.
    pub(crate) fn end(&mut self, event: &observe::Request<'_>, headers: Option<&HeaderMap>) {
        let Some(Active { context, recorded: true, grpc }) = self.0.take() else { return };
        let span = context.span();
        let text = |name, value: &str| KeyValue::new(name, value.to_owned());
        span.set_attributes(event.service.map(|service| text("mesh.service", service)));
        span.set_attributes(event.route.map(|route| text("mesh.route", route)));
        span.set_attributes(event.backend.map(|backend| text("mesh.backend", &backend.name)));
        span.set_attribute(KeyValue::new("mesh.attempts", i64::from(event.attempts)));
        conclude(&context, grpc, event.outcome, headers);
    }
}

/// `context`, where its span can be a parent. One without ids would be taken for one that is not sampled.
pub(crate) fn rooted(context: Context) -> Context {
    if !context.has_active_span() || context.span().span_context().is_valid() {
        return context;
    }
    let members = context.baggage().iter();
    let members =
        members.map(|(key, (value, metadata))| KeyValueMetadata::new(key.clone(), value.clone(), metadata.clone()));
    Context::new().with_baggage(members)
}

/// What is known of an attempt when it begins.
pub(crate) struct Sent {
    /// 1 for the first.
    pub(crate) number: u32,
    /// How many attempts the retry policy made before it.
    pub(crate) previous: u32,
    /// Whether it repeats one that no peer processed.
    pub(crate) transparent: bool,
}

/// The span of an attempt, if the request's is recorded.
pub(crate) struct AttemptSpan(Option<Box<ActiveAttempt>>);

impl AttemptSpan {
    /// No span.
    pub(crate) const NONE: &'static Self = &Self(None);
}

struct ActiveAttempt {
    context: Context,
    ids: SpanContext,
    grpc: bool,
}

impl AttemptSpan {
    /// An endpoint was found; `waited`: it was not there at once (gRFC A72).
    pub(crate) fn picked(&self, address: &Address, waited: bool) {
        let Some(active) = &self.0 else { return };
        let span = active.context.span();
        if waited {
            span.add_event("Delayed LB pick complete", Vec::new());
        }
        match address {
            Address::Socket(address) => {
                span.set_attribute(KeyValue::new("network.peer.address", address.ip().to_string()));
                span.set_attribute(KeyValue::new("network.peer.port", i64::from(address.port())));
            }
            other => span.set_attribute(KeyValue::new("network.peer.address", other.to_string())),
        }
    }

    /// Puts the attempt's ids where the request's are.
    pub(crate) fn inject(&self, settings: &Settings, headers: &mut HeaderMap) {
        if let Some(active) = &self.0 {
            let formats = &settings.telemetry.propagators;
            propagate::inject(formats, &active.ids, &active.context, active.grpc, headers);
        }
    }

    /// Ends the span. `headers` are those that hold gRPC's status, where they came.
    pub(crate) fn end(&self, outcome: Outcome, headers: Option<&HeaderMap>) {
        if let Some(active) = &self.0 {
            conclude(&active.context, active.grpc, outcome, headers);
        }
    }
}

/// The name of an HTTP span: its method, which is of a known set (OpenTelemetry semantic conventions, HTTP spans).
pub(crate) fn http_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        Method::TRACE => "TRACE",
        _ => "HTTP",
    }
}

fn describe(context: &Context, facts: &Facts<'_>) {
    let span = context.span();
    if let Some(authority) = facts.authority {
        let default = if facts.secure { 443 } else { 80 };
        let port = authority.port_u16().or((!facts.grpc).then_some(default));
        span.set_attribute(KeyValue::new("server.address", authority.host().to_owned()));
        span.set_attributes(port.map(|port| KeyValue::new("server.port", i64::from(port))));
    }
    if facts.grpc {
        span.set_attribute(KeyValue::new("rpc.system.name", "grpc"));
        span.set_attribute(KeyValue::new("rpc.method", facts.path.path().trim_start_matches('/').to_owned()));
        return;
    }
    let method = http_name(facts.method);
    if method == "HTTP" {
        span.set_attribute(KeyValue::new("http.request.method", "_OTHER"));
        span.set_attribute(KeyValue::new("http.request.method_original", facts.method.to_string()));
    } else {
        span.set_attribute(KeyValue::new("http.request.method", method));
    }
    let scheme = if facts.secure { "https" } else { "http" };
    let authority = facts.authority.map_or("", |authority| authority.as_str());
    let url = format!("{scheme}://{authority}{}", redacted(facts.path));
    span.set_attribute(KeyValue::new("url.full", url));
}

/// Path and query, without credentials.
fn redacted(path: &PathAndQuery) -> Cow<'_, str> {
    match path.query().map(redacted_query) {
        Some(Cow::Owned(query)) => format!("{}?{query}", path.path()).into(),
        _ => path.as_str().into(),
    }
}

/// A query without what is a credential wherever it is sent: what the conventions of OpenTelemetry name.
pub(crate) fn redacted_query(query: &str) -> Cow<'_, str> {
    const SECRET: [&str; 4] = ["AWSAccessKeyId", "Signature", "sig", "X-Goog-Signature"];
    let secret = |pair: &str| pair.split_once('=').is_some_and(|(name, _)| SECRET.contains(&name));
    if !query.split('&').any(secret) {
        return query.into();
    }
    let pair = |pair: &str| match pair.split_once('=') {
        Some((name, _)) if SECRET.contains(&name) => format!("{name}=REDACTED"),
        _ => pair.to_owned(),
    };
    query.split('&').map(pair).collect::<Vec<_>>().join("&").into()
}

/// Ends the span of `context`. `headers` are those that hold gRPC's status, where they came.
pub(crate) fn conclude(context: &Context, grpc: bool, outcome: Outcome, headers: Option<&HeaderMap>) {
    let span = context.span();
    let failed = |error: &'static str, description: Cow<'static, str>| {
        span.set_attribute(KeyValue::new("error.type", error));
        span.set_status(Status::error(description));
    };
    match outcome {
        Outcome::Response { grpc: code, .. } if grpc => {
            let code = code.unwrap_or(Code::Unknown);
            span.set_attribute(KeyValue::new("rpc.response.status_code", code.name()));
            if code == Code::Ok {
                span.set_status(Status::Ok);
            } else {
                let message = headers.and_then(|headers| headers.get(grpc::GRPC_MESSAGE));
                let message = message.map(|value| percent_decode(value.as_bytes()).decode_utf8_lossy());
                failed(code.name(), format!("{}, {}", code.name(), message.unwrap_or_default()).into());
            }
        }
        Outcome::Response { status, .. } => {
            span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
            if status.is_client_error() || status.is_server_error() {
                span.set_attribute(KeyValue::new("error.type", status.as_str().to_owned()));
                span.set_status(Status::error(""));
            }
        }
        Outcome::Failed(kind) => {
            if grpc {
                span.set_attribute(KeyValue::new("rpc.response.status_code", kind.grpc_code().name()));
            }
            failed(kind.as_str(), kind.as_str().into());
        }
        Outcome::Cancelled => {
            if grpc {
                span.set_attribute(KeyValue::new("rpc.response.status_code", Code::Cancelled.name()));
            }
            failed("cancelled", "the caller lost interest".into());
        }
        _ => {}
    }
    span.end();
}

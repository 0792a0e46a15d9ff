//! The span of a request that is served.

use http::header::USER_AGENT;
use mesh_core::model::Propagator;
use mesh_core::observe::Outcome;
use opentelemetry::trace::{SpanContext, Status, TraceContextExt, TraceId};
use opentelemetry::{Context, KeyValue};

use super::End;
use crate::server::Peer;
use crate::telemetry::propagate;
use crate::telemetry::spans::{Spans, conclude, http_name, redacted_query};

/// The most bytes of what a caller chose that are written into a name or an attribute.
const MAX_TEXT: usize = 1024;

/// The span of a request, of kind server.
pub(super) struct ServerSpan {
    context: Context,
    trace: TraceId,
    recorded: bool,
}

impl ServerSpan {
    /// Begins the span of a request, below its caller's. `None` if the provider makes none that has ids.
    pub(super) fn begin(
        spans: &Spans,
        formats: &[Propagator],
        request: &http::request::Parts,
        grpc: bool,
        secure: bool,
        peer: Option<&Peer>,
    ) -> Option<Self> {
        let parent = propagate::extract(formats, grpc, &request.headers);
        let (ids, recorded) = spans.receive(grpc, &request.method, &parent);
        let trace = ids.trace_id();
        if let Some(context) = recorded {
            describe(&context, request, grpc, secure, peer);
            return Some(Self { context, trace, recorded: true });
        }
        if !ids.is_valid() {
            return None;
        }
        // The sampler has said no; of a caller that says so, too, the context is that word already.
        let context = if parent.has_active_span() && !parent.span().span_context().is_sampled() {
            parent
        } else {
            parent.with_remote_span_context(as_remote(ids))
        };
        Some(Self { context, trace, recorded: false })
    }

    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    pub(super) fn trace_id(&self) -> TraceId {
        self.trace
    }

    pub(super) fn end(&self, grpc: bool, end: &End<'_>) {
        if !self.recorded {
            return;
        }
        let span = self.context.span();
        if let Some(refusal) = end.refusal {
            span.set_attribute(KeyValue::new("mesh.refusal", refusal.as_str()));
        }
        match end.outcome {
            // A server is not to blame for what it was asked (OpenTelemetry semantic conventions, HTTP spans).
            Outcome::Response { status, .. } if !grpc => {
                span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
                if status.is_server_error() {
                    let error = end.refusal.map_or_else(|| status.as_str().to_owned(), |why| why.as_str().to_owned());
                    span.set_attribute(KeyValue::new("error.type", error));
                    span.set_status(Status::error(""));
                }
                span.end();
            }
            outcome => conclude(&self.context, grpc, outcome, end.trailers),
        }
    }
}

fn as_remote(ids: SpanContext) -> SpanContext {
    SpanContext::new(ids.trace_id(), ids.span_id(), ids.trace_flags(), true, ids.trace_state().clone())
}

/// What is known when a request comes in: gRPC's names (gRFC A72), and those of OpenTelemetry's conventions for HTTP.
fn describe(context: &Context, request: &http::request::Parts, grpc: bool, secure: bool, peer: Option<&Peer>) {
    let span = context.span();
    let text = |name: &'static str, value: &str| KeyValue::new(name, bounded(value).to_owned());
    let host = || request.headers.get(http::header::HOST)?.to_str().ok()?.parse().ok();
    if let Some(authority) = request.uri.authority().cloned().or_else(host) {
        span.set_attribute(text("server.address", authority.host()));
        span.set_attributes(authority.port_u16().map(|port| KeyValue::new("server.port", i64::from(port))));
    }
    if let Some(address) = peer.and_then(Peer::remote_address) {
        span.set_attribute(KeyValue::new("network.peer.address", address.ip().to_string()));
        span.set_attribute(KeyValue::new("network.peer.port", i64::from(address.port())));
    }
    if let Some(identity) = peer.and_then(Peer::identity) {
        span.set_attribute(text("mesh.peer", identity.as_str()));
    }
    if let Some(agent) = request.headers.get(USER_AGENT).and_then(|value| value.to_str().ok()) {
        span.set_attribute(text("user_agent.original", agent));
    }
    let path = request.uri.path();
    if grpc {
        let method = bounded(path.trim_start_matches('/'));
        span.update_name(format!("Recv.{}", method.replace('/', ".")));
        span.set_attribute(KeyValue::new("rpc.system.name", "grpc"));
        span.set_attribute(KeyValue::new("rpc.method", method.to_owned()));
        return;
    }
    let method = http_name(&request.method);
    if method == "HTTP" {
        span.set_attribute(KeyValue::new("http.request.method", "_OTHER"));
        span.set_attribute(text("http.request.method_original", request.method.as_str()));
    } else {
        span.set_attribute(KeyValue::new("http.request.method", method));
    }
    span.set_attribute(KeyValue::new("url.scheme", if secure { "https" } else { "http" }));
    span.set_attribute(text("url.path", path));
    span.set_attributes(request.uri.query().map(|query| text("url.query", &redacted_query(query))));
    let version = match request.version {
        http::Version::HTTP_2 => "2",
        http::Version::HTTP_10 => "1.0",
        _ => "1.1",
    };
    span.set_attribute(KeyValue::new("network.protocol.version", version));
}

/// The beginning of what a caller chose.
fn bounded(text: &str) -> &str {
    let end = (0..=text.len().min(MAX_TEXT)).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

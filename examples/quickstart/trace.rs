use std::error::Error;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use examples::greeter::HelloRequest;
use examples::greeter::greeter_client::GreeterClient;
use mesh_tonic::mesh_tower::opentelemetry::trace::{
    FutureExt, SpanId, Status, TraceContextExt, Tracer, TracerProvider,
};
use mesh_tonic::mesh_tower::opentelemetry::{Context, Value};
use mesh_tonic::prelude::*;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter};

/// An exporter that keeps what it is given; an application has one that sends it to a collector.
#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Kept {
    async fn export(&self, mut batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).append(&mut batch);
        Ok(())
    }
}

/// Spans of the mesh, recorded where somebody begins a trace: not for each of 320 requests a second.
pub(crate) struct Traces {
    provider: SdkTracerProvider,
    kept: Kept,
}

impl Traces {
    pub(crate) fn new() -> Self {
        let kept = Kept::default();
        let sampler = Sampler::ParentBased(Box::new(Sampler::AlwaysOff));
        let provider = SdkTracerProvider::builder().with_simple_exporter(kept.clone()).with_sampler(sampler).build();
        Self { provider, kept }
    }

    pub(crate) fn provider(&self) -> &SdkTracerProvider {
        &self.provider
    }

    /// Makes one call as part of a trace, and draws that.
    pub(crate) async fn of_one_call(&self, mesh: &Mesh) -> Result<String, Box<dyn Error>> {
        let always = SdkTracerProvider::builder().with_simple_exporter(self.kept.clone()).build();
        let root = always.tracer("quickstart").start("handle a request of ours");
        let current = Context::current_with_span(root);
        let mut greeter = GreeterClient::new(mesh.channel("greeter")?);
        let request = HelloRequest { name: "trace".into(), count: 0 };
        greeter.say_hello(request).with_context(current.clone()).await?;
        current.span().end();
        let spans = std::mem::take(&mut *self.kept.0.lock().unwrap_or_else(PoisonError::into_inner));
        let root = spans.iter().find(|span| span.parent_span_id == SpanId::INVALID).ok_or("no root in the trace")?;
        let mut text = format!("  trace {}\n", root.span_context.trace_id());
        draw(&spans, root, 1, &mut text);
        Ok(text)
    }
}

fn draw(spans: &[SpanData], span: &SpanData, depth: usize, text: &mut String) {
    let took = span.end_time.duration_since(span.start_time).unwrap_or(Duration::ZERO);
    let indent = "  ".repeat(depth + 1);
    let said = |name: &str| {
        let attribute = span.attributes.iter().find(|attribute| attribute.key.as_str() == name)?;
        Some(match &attribute.value {
            Value::String(text) => text.to_string(),
            other => other.to_string(),
        })
    };
    let mut notes = Vec::new();
    if let (Some(address), Some(port)) = (said("network.peer.address"), said("network.peer.port")) {
        notes.push(format!("at {address}:{port}"));
    }
    notes.extend(said("mesh.backend").map(|backend| format!("backend {backend}")));
    notes.extend(said("rpc.response.status_code"));
    if let Status::Error { description } = &span.status {
        notes.push(description.to_string());
    }
    // Writing to a `String` does not fail.
    let _ = writeln!(text, "{indent}{:<60} {:>7.2} ms  {}", span.name, took.as_secs_f64() * 1e3, notes.join(", "));
    let mut children: Vec<_> =
        spans.iter().filter(|child| child.parent_span_id == span.span_context.span_id()).collect();
    children.sort_by_key(|child| child.start_time);
    for child in children {
        draw(spans, child, depth + 1, text);
    }
}

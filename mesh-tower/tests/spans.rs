//! Spans as an exporter gets them, and trace context as a server sees it.

#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]

mod http_support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response};
use http_support::{Answer, greeter, grpc, serve, text};
use mesh_tower::core::model::{Propagator, RetryOn, RetryPolicy};
use mesh_tower::layer::{ReplayBody, RetryLayer, TraceLayer};
use mesh_tower::opentelemetry::baggage::BaggageExt;
use mesh_tower::opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider,
};
use mesh_tower::opentelemetry::{Context, KeyValue, Value};
use mesh_tower::testing::{At, Fault, Reason, Reply, TestBackend, TestMesh, empty, full};
use mesh_tower::{Mesh, RequestOptions};
use opentelemetry_sdk::trace::{InMemorySpanExporter, Sampler, SdkTracerProvider, SpanData};
use tower::{Layer, Service, ServiceExt};
use tracing_subscriber::layer::SubscriberExt;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// A provider and what it exported.
struct Traces {
    provider: SdkTracerProvider,
    exporter: InMemorySpanExporter,
}

impl Traces {
    fn sampled_by(sampler: Sampler) -> Self {
        let exporter = InMemorySpanExporter::default();
        let provider =
            SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).with_sampler(sampler).build();
        Self { provider, exporter }
    }

    fn new() -> Self {
        Self::sampled_by(Sampler::ParentBased(Box::new(Sampler::AlwaysOn)))
    }

    async fn mesh(&self, yaml: String) -> TestMesh {
        Mesh::builder().text(yaml).tracer_provider(&self.provider).build().await.unwrap().into()
    }

    /// In the order in which they ended.
    fn spans(&self) -> Vec<SpanData> {
        self.exporter.get_finished_spans().unwrap()
    }
}

fn attribute(span: &SpanData, name: &str) -> Option<Value> {
    span.attributes.iter().find(|pair| pair.key.as_str() == name).map(|pair| pair.value.clone())
}

/// A caller in another process.
fn remote(sampled: bool) -> Context {
    let flags = TraceFlags::default().with_sampled(sampled);
    let state = "rojo=00f067aa0ba902b7".parse::<TraceState>().unwrap();
    let (trace, span) = (TraceId::from_hex(TRACE).unwrap(), SpanId::from_hex("b7ad6b7169203331").unwrap());
    Context::new().with_remote_span_context(SpanContext::new(trace, span, flags, true, state))
}

type Heads = Arc<Mutex<Vec<HeaderMap>>>;

/// Keeps the heads it is sent; answers as told by the number of the request.
fn server<R: Into<Reply> + 'static>(answer: impl Fn(usize) -> R + Send + Sync + 'static) -> (TestBackend, Heads) {
    let heads = Heads::default();
    let (kept, count) = (Arc::clone(&heads), Arc::new(AtomicUsize::new(0)));
    let server = TestBackend::handling(move |request| {
        kept.lock().unwrap().push(request.headers().clone());
        let reply = answer(count.fetch_add(1, Ordering::SeqCst)).into();
        async move { reply }
    });
    (server.start(), heads)
}

/// Trace id, span id and flags of a `traceparent`.
fn parent(headers: &HeaderMap) -> (String, String, String) {
    let value = headers["traceparent"].to_str().unwrap();
    let parts: Vec<_> = value.split('-').collect();
    assert_eq!((parts.len(), parts[0]), (4, "00"), "{value}");
    (parts[1].to_owned(), parts[2].to_owned(), parts[3].to_owned())
}

fn grpc_status(code: u32) -> Answer {
    let mut response = Response::new(empty());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response.headers_mut().insert("grpc-status", HeaderValue::from(code));
    response.headers_mut().insert("grpc-message", HeaderValue::from_static("not%20now"));
    Ok(response)
}

#[tokio::test]
async fn tl_01_the_request_is_a_child_of_the_current_span_and_the_trace_goes_on() {
    let traces = Traces::new();
    let (server, heads) = server(|_| Ok(Response::new(full("hello"))));
    let mesh = traces.mesh(greeter(&[server.address()]).yaml()).await;
    let request = {
        let _current = remote(true).with_baggage([KeyValue::new("user", "42")]).attach();
        mesh.http_client().get("http://greeter/items?id=1&sig=secret")
    };
    // The context is the one of the call, wherever the response is awaited.
    assert_eq!(text(request.await.unwrap()).await, "hello");
    mesh.end().await;

    let spans = traces.spans();
    let [attempt, call] = &*spans else { panic!("two spans: {spans:#?}") };
    assert_eq!((&*call.name, &call.span_kind), ("GET", &SpanKind::Internal));
    assert_eq!((&*attempt.name, &attempt.span_kind), ("GET", &SpanKind::Client));
    assert_eq!(call.span_context.trace_id().to_string(), TRACE);
    assert_eq!(call.parent_span_id.to_string(), "b7ad6b7169203331");
    assert_eq!(attempt.parent_span_id, call.span_context.span_id());

    let heads = heads.lock().unwrap();
    let (trace, span, flags) = parent(&heads[0]);
    assert_eq!((&*trace, &*flags), (TRACE, "01"));
    assert_eq!(span, attempt.span_context.span_id().to_string());
    assert_eq!(heads[0]["tracestate"], "rojo=00f067aa0ba902b7");
    assert_eq!(heads[0]["baggage"], "user=42");

    let of = |name| attribute(attempt, name);
    assert_eq!(of("http.request.method"), Some("GET".into()));
    assert_eq!(of("url.full"), Some("http://greeter/items?id=1&sig=REDACTED".into()));
    assert_eq!(of("server.address"), Some("greeter".into()));
    assert_eq!(of("server.port"), Some(80.into()));
    assert_eq!(of("http.response.status_code"), Some(200.into()));
    assert_eq!(of("network.peer.port"), Some(i64::from(server.address().port()).into()));
    assert_eq!(attribute(call, "mesh.service"), Some("greeter".into()));
    assert_eq!(attribute(call, "mesh.backend"), Some("v1".into()));
    assert_eq!(call.status, Status::Unset);
}

#[tokio::test]
async fn tl_01_without_a_valid_parent_a_new_trace_begins() {
    let traces = Traces::new();
    let (server, heads) = server(|_| Ok(Response::new(empty())));
    let mesh = traces.mesh(greeter(&[server.address()]).yaml()).await;
    let _current = Context::new().with_remote_span_context(SpanContext::NONE).attach();
    mesh.http_client().get("http://greeter/").await.unwrap();
    let (trace, _, flags) = parent(&heads.lock().unwrap()[0]);
    assert_ne!(trace, "0".repeat(32));
    assert_eq!(flags, "01");
    mesh.end().await;
    assert_eq!(traces.spans().len(), 2);
}

#[tokio::test]
async fn tl_01_what_is_not_sampled_is_not_recorded_and_says_so_to_the_peer() {
    let traces = Traces::new();
    let (server, heads) = server(|number| {
        Ok(Response::builder().status(if number == 0 { 503 } else { 200 }).body(full("hello")).unwrap())
    });
    let mesh = traces.mesh(greeter(&[server.address()]).route("retry: { on: [5xx] }").yaml()).await;
    let response = {
        let _current = remote(false).attach();
        mesh.http_client().call(Request::get("http://greeter/").body(String::new()).unwrap())
    };
    assert_eq!(text(response.await.unwrap()).await, "hello");
    mesh.end().await;
    assert_eq!(traces.spans().len(), 0);
    let heads = heads.lock().unwrap();
    let [first, second] = &**heads else { panic!("two attempts: {heads:?}") };
    let (trace, _, flags) = parent(first);
    assert_eq!((&*trace, &*flags), (TRACE, "00"));
    assert_eq!(parent(first), parent(second), "attempts that nobody records have no ids of their own");
}

#[tokio::test]
async fn tl_03_a_retried_grpc_call_has_a_span_for_each_attempt() {
    let traces = Traces::new();
    let (server, heads) = server(|number| grpc_status(if number < 2 { 14 } else { 5 }));
    let yaml = greeter(&[server.address()]).route("retry: { num_retries: 3, on: [unavailable] }");
    let mesh = traces.mesh(yaml.yaml()).await;
    let request = grpc("http://greeter/greeter.v1.Greeter/SayHello").body(String::new()).unwrap();
    mesh.http_client().oneshot(request).await.unwrap();
    mesh.end().await;

    let spans = traces.spans();
    let [attempts @ .., call] = &*spans else { panic!("spans: {spans:#?}") };
    assert_eq!(call.name, "Sent.greeter.v1.Greeter.SayHello");
    assert_eq!(attempts.len(), 3);
    for (number, attempt) in attempts.iter().enumerate() {
        assert_eq!(attempt.name, "Attempt.greeter.v1.Greeter.SayHello");
        assert_eq!(attempt.parent_span_id, call.span_context.span_id());
        assert_eq!(attribute(attempt, "previous-rpc-attempts"), Some(i64::try_from(number).unwrap().into()));
        assert_eq!(attribute(attempt, "transparent-retry"), Some(false.into()));
        assert_eq!(parent(&heads.lock().unwrap()[number]).1, attempt.span_context.span_id().to_string());
    }
    assert_eq!(attempts[0].status, Status::error("UNAVAILABLE, not now"));
    assert_eq!(attribute(&attempts[0], "rpc.response.status_code"), Some("UNAVAILABLE".into()));
    assert_eq!(call.status, Status::error("NOT_FOUND, not now"));
    assert_eq!(attribute(call, "mesh.attempts"), Some(3.into()));
}

#[tokio::test]
async fn tl_03_a_resend_of_what_no_peer_processed_is_transparent() {
    let traces = Traces::new();
    let (server, _) = server(|number| match number {
        0 => Reply::from(Fault::Reset(At::BeforeHead, Reason::REFUSED_STREAM)),
        _ => grpc_status(0).into(),
    });
    let mesh = traces.mesh(greeter(&[server.address()]).yaml()).await;
    let request = grpc("http://greeter/a.B/C").body(String::new()).unwrap();
    mesh.http_client().oneshot(request).await.unwrap();
    mesh.end().await;
    let spans = traces.spans();
    let [refused, resent, call] = &*spans else { panic!("spans: {spans:#?}") };
    let of = |span, name| attribute(span, name).unwrap();
    assert_eq!(of(refused, "transparent-retry"), false.into());
    assert_eq!(of(refused, "error.type"), "refused".into());
    assert_eq!(of(resent, "transparent-retry"), true.into());
    assert_eq!(of(resent, "previous-rpc-attempts"), 0.into());
    assert_eq!((&resent.status, &call.status), (&Status::Ok, &Status::Ok));
}

#[tokio::test]
async fn what_is_cut_off_by_the_deadline_has_ended_spans_too() {
    let traces = Traces::new();
    let server = serve(|_| std::future::pending::<Answer>());
    let mesh = traces.mesh(greeter(&[server.address()]).yaml()).await;
    let mut request = Request::get("http://greeter/").body(String::new()).unwrap();
    request.extensions_mut().insert(RequestOptions::new().timeout(Duration::from_millis(50)));
    mesh.http_client().oneshot(request).await.unwrap_err();
    // And what the caller gave up itself.
    let request = mesh.http_client().oneshot(Request::get("http://greeter/").body(String::new()).unwrap());
    tokio::time::timeout(Duration::from_millis(50), request).await.unwrap_err();
    mesh.end().await;
    let spans = traces.spans();
    let errors: Vec<_> = spans.iter().map(|span| attribute(span, "error.type").unwrap().to_string()).collect();
    assert_eq!(errors, ["deadline_exceeded", "deadline_exceeded", "cancelled", "cancelled"]);
}

#[tokio::test]
async fn a_request_that_cannot_be_routed_has_a_span() {
    let traces = Traces::new();
    let mesh = traces.mesh(greeter(&[http_support::nowhere()]).yaml()).await;
    mesh.http_client().get("http://greter/").await.unwrap_err();
    mesh.end().await;
    let spans = traces.spans();
    let [call] = &*spans else { panic!("spans: {spans:#?}") };
    assert_eq!(attribute(call, "error.type"), Some("unknown_service".into()));
}

#[tokio::test]
async fn a_span_of_tracing_is_a_parent_as_good_as_any() {
    let traces = Traces::new();
    let (server, heads) = server(|_| Ok(Response::new(empty())));
    let mesh = traces.mesh(greeter(&[server.address()]).yaml()).await;
    let layer = tracing_opentelemetry::layer().with_tracer(traces.provider.tracer("application"));
    let subscriber = tracing_subscriber::registry().with(layer);
    let request = tracing::subscriber::with_default(subscriber, || {
        let span = tracing::info_span!("handle");
        let _entered = span.enter();
        mesh.http_client().call(Request::get("http://greeter/").body(String::new()).unwrap())
    });
    request.await.unwrap();
    mesh.end().await;
    let spans = traces.spans();
    let handle = spans.iter().find(|span| span.name == "handle").expect("the application's own span");
    let call = spans.iter().find(|span| span.span_kind == SpanKind::Internal && span.name == "GET").unwrap();
    assert_eq!(call.parent_span_id, handle.span_context.span_id());
    assert_eq!(parent(&heads.lock().unwrap()[0]).0, handle.span_context.trace_id().to_string());
}

/// Also TL-09's other half: nothing global is set by the library.
#[tokio::test]
async fn tl_09_without_a_provider_nothing_is_added() {
    let (server, heads) = server(|_| Ok(Response::new(empty())));
    let mesh = greeter(&[server.address()]).mesh().await;
    let _current = remote(true).attach();
    let request = Request::get("http://greeter/").header("traceparent", "the caller's own");
    mesh.http_client().oneshot(request.body(String::new()).unwrap()).await.unwrap();
    assert_eq!(heads.lock().unwrap()[0]["traceparent"], "the caller's own");
    assert!(!heads.lock().unwrap()[0].contains_key("baggage"));
    mesh.end().await;
}

/// Nothing of a mesh, only layers around somebody's client.
#[tokio::test]
async fn tl_03_layers_tell_requests_and_attempts_apart() {
    let traces = Traces::new();
    let heads = Heads::default();
    let kept = Arc::clone(&heads);
    let client = tower::service_fn(move |request: Request<ReplayBody<String>>| {
        let mut kept = kept.lock().unwrap();
        kept.push(request.headers().clone());
        let code = if kept.len() == 1 { "14" } else { "0" };
        let response = Response::builder().header("content-type", "application/grpc").header("grpc-status", code);
        std::future::ready(response.body(String::new()))
    });
    let mut service = tower::ServiceBuilder::new()
        .layer(TraceLayer::requests(&traces.provider))
        .layer(RetryLayer::new(RetryPolicy::new(RetryOn::UNAVAILABLE)))
        .layer(TraceLayer::attempts(&traces.provider).propagators([Propagator::B3]))
        .service(client);
    let call = {
        let _current = remote(true).attach();
        service.call(grpc("http://greeter/greeter.v1.Greeter/SayHello").body(String::new()).unwrap())
    };
    drop(call.await.unwrap());

    let spans = traces.spans();
    let [first, second, call] = &*spans else { panic!("spans: {spans:#?}") };
    assert_eq!(call.name, "Sent.greeter.v1.Greeter.SayHello");
    assert_eq!((call.span_context.trace_id().to_string(), &call.status), (TRACE.to_owned(), &Status::Ok));
    for (span, headers) in [first, second].into_iter().zip(&*heads.lock().unwrap()) {
        assert_eq!(span.name, "Attempt.greeter.v1.Greeter.SayHello");
        assert_eq!(span.parent_span_id, call.span_context.span_id());
        assert_eq!(headers["b3"], format!("{TRACE}-{}-1", span.span_context.span_id()));
    }
    assert_eq!(attribute(first, "error.type"), Some("UNAVAILABLE".into()));
}

#[tokio::test]
async fn tl_01_a_layer_sends_on_what_nobody_records_and_tells_what_broke() {
    let traces = Traces::new();
    let failing = |request: Request<String>| async move {
        assert!(request.headers()["traceparent"].to_str().unwrap().ends_with("-00"));
        Err::<Response<String>, _>(std::io::Error::other("no such luck"))
    };
    let mut service = tower::ServiceBuilder::new()
        .layer(TraceLayer::requests(&traces.provider))
        .layer(TraceLayer::attempts(&traces.provider))
        .service_fn(failing);
    let call = {
        let _current = remote(false).attach();
        service.call(Request::get("/").header("host", "greeter").body(String::new()).unwrap())
    };
    call.await.unwrap_err();
    assert_eq!(traces.spans().len(), 0);

    let failing = |_: Request<String>| async { Err::<Response<String>, _>(std::io::Error::other("no such luck")) };
    let service = tower::ServiceBuilder::new().layer(TraceLayer::attempts(&traces.provider)).service_fn(failing);
    service.clone().oneshot(Request::get("http://greeter/").body(String::new()).unwrap()).await.unwrap_err();
    let mut service = TraceLayer::attempts(&traces.provider).layer(tower::service_fn(|_: Request<String>| async {
        std::future::pending::<Result<Response<String>, std::io::Error>>().await
    }));
    drop(service.call(Request::get("http://greeter/").body(String::new()).unwrap()));
    let spans = traces.spans();
    let errors: Vec<_> = spans.iter().map(|span| (attribute(span, "error.type").unwrap(), &span.status)).collect();
    let given_up = ("cancelled".into(), &Status::error("the caller lost interest"));
    assert_eq!(errors, [("_OTHER".into(), &Status::error("no such luck")), given_up]);
}

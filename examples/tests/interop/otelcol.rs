//! The OpenTelemetry collector. `.ci/interop otelcol` runs these tests.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "otelcol/proto.rs"]
mod proto;

use std::time::Duration;

use examples::backend::Backend;
use examples::greeter::HelloRequest;
use examples::greeter::greeter_client::GreeterClient;
use examples::peers::{Collector, post};
use http::StatusCode;
use http::uri::PathAndQuery;
use mesh_tonic::mesh_tower::telemetry::otlp::Otlp;
use mesh_tonic::prelude::*;
use prost::Message;
use tonic::client::Grpc;
use tonic_prost::ProstCodec;

/// Other tests rely on it: every field of a span comes back as it was sent.
#[tokio::test]
async fn spans_over_http_come_back() {
    let collector = Collector::start().await;
    let request = proto::request("shop").encode_to_vec();
    let answer = post(collector.http(), "/v1/traces", "application/x-protobuf", request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK, "{answer:?}");

    let spans = collector.spans("shop", 2).await;
    let [root, child] = &spans[..] else { panic!("two spans were sent: {spans:#?}") };
    assert_eq!((&*root.name, root.kind, &root.parent_span_id, root.status), ("GET /items", "server", &None, "unset"));
    assert_eq!((&*child.name, child.kind, child.status, &*child.status_message), ("GET", "client", "error", "reset"));
    assert_eq!((&*child.trace_id, &*child.span_id), ("0102030405060708090a0b0c0d0e0f10", "00000000000000b2"));
    assert_eq!(child.parent_span_id.as_ref(), Some(&root.span_id));
    assert_eq!(child.trace_id, root.trace_id);
    assert_eq!(child.trace_state, "vendor=1");
    assert_eq!(child.nanoseconds, [1_700_000_000_000_000_001, 1_700_000_000_000_000_002]);
    assert_eq!((&*child.scope, &child.resource["service.name"]), ("hand", &"shop".into()));
    assert_eq!(child.attributes["http.request.method"], "GET");
    assert_eq!(child.attributes["http.response.status_code"], 503);
    assert_eq!(child.attributes["ok"], false);
    assert_eq!(child.events[0].name, "retry");
    assert_eq!(child.events[0].attributes["attempt"], 1);
    assert_eq!(child.links, [(root.trace_id.clone(), root.span_id.clone())]);
}

/// A gRPC server that is neither tonic nor ours (grpc-go), called through a mesh.
#[tokio::test]
async fn spans_over_grpc_through_a_mesh_come_back() {
    let collector = Collector::start().await;
    let config = format!("services: {{ otlp: {{ backends: {{ v1: {{ endpoints: ['{}'] }} }} }} }}", collector.grpc());
    let mesh = Mesh::builder().text(config).build().await.unwrap();
    let mut client = Grpc::new(mesh.channel("otlp").unwrap());
    client.ready().await.unwrap();
    let path = PathAndQuery::from_static("/opentelemetry.proto.collector.trace.v1.TraceService/Export");
    let codec = ProstCodec::<proto::Request, proto::Response>::default();
    client.unary(tonic::Request::new(proto::request("grpc")), path, codec).await.unwrap();

    let spans = collector.spans("grpc", 2).await;
    assert_eq!(spans.iter().map(|span| &*span.name).collect::<Vec<_>>(), ["GET /items", "GET"]);
    mesh.shutdown().await;
}

#[tokio::test]
async fn metrics_over_http_come_back_as_they_were_exported_last() {
    let collector = Collector::start().await;
    for calls in [7, 9] {
        let request = METRICS.replace("CALLS", &calls.to_string());
        let answer = post(collector.http(), "/v1/metrics", "application/json", request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{answer:?}");
    }
    let metrics =
        collector.metrics("shop", |metrics| metrics.get("calls").is_some_and(|m| m.points[0].value == 9.0)).await;
    assert_eq!(metrics.keys().collect::<Vec<_>>(), ["calls", "duration", "open"]);

    let calls = &metrics["calls"];
    assert_eq!((calls.kind, calls.monotonic, calls.temporality, &*calls.unit), ("sum", true, "cumulative", "{call}"));
    assert_eq!((&*calls.scope, &*calls.description), ("hand", "Calls made."));
    assert_eq!(calls.points[0].attributes["backend"], "v1");

    let open = &metrics["open"];
    assert_eq!((open.kind, open.monotonic, open.points[0].value), ("gauge", false, 2.5));

    let duration = &metrics["duration"];
    let point = &duration.points[0];
    assert_eq!((duration.kind, duration.temporality, point.count, point.value), ("histogram", "delta", 3, 0.75));
    assert_eq!((&*point.bounds, &*point.buckets), (&[0.1, 1.0][..], &[1, 2, 0][..]));
}

#[tokio::test]
async fn what_it_refuses_is_an_answer_and_no_export() {
    let collector = Collector::start().await;
    let answer = post(collector.http(), "/v1/traces", "application/x-protobuf", "no protobuf").await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{answer:?}");
    assert_eq!(collector.exports(), Vec::<serde_json::Value>::new());
}

/// What a mesh tells by itself arrives: one call from the environment's variables to the collector.
#[tokio::test]
async fn a_mesh_exports_its_spans_and_metrics() {
    let collector = Collector::start().await;
    let backend = Backend::start("v1", Duration::ZERO).unwrap();
    let endpoint = format!("http://{}", collector.http());
    let otlp = Otlp::from_variables(|name| match name {
        "OTEL_EXPORTER_OTLP_ENDPOINT" => Some(endpoint.clone()),
        "OTEL_SERVICE_NAME" => Some("shop".to_owned()),
        _ => None,
    });
    let otlp = otlp.await.unwrap();
    let config =
        format!("services: {{ greeter: {{ backends: {{ v1: {{ endpoints: ['{}'] }} }} }} }}", backend.address());
    let mesh = Mesh::builder().text(config).telemetry(&otlp).build().await.unwrap();
    let mut greeter = GreeterClient::new(mesh.channel("greeter").unwrap());
    greeter.say_hello(HelloRequest { name: "mesh".to_owned(), count: 0 }).await.unwrap();
    mesh.http_client().get("http://greeter/").await.unwrap().into_body().bytes().await.unwrap();
    mesh.shutdown().await;
    otlp.shutdown().await.unwrap();
    drop(mesh);

    let spans = collector.spans("shop", 4).await;
    let span = |name: &str, kind: &str| spans.iter().find(|span| span.name == name && span.kind == kind).unwrap();
    let call = span("Sent.greeter.v1.Greeter.SayHello", "internal");
    let attempt = span("Attempt.greeter.v1.Greeter.SayHello", "client");
    assert_eq!((attempt.parent_span_id.as_ref(), call.status, attempt.status), (Some(&call.span_id), "ok", "ok"));
    assert_eq!(attempt.attributes["rpc.response.status_code"], "OK");
    assert_eq!(span("GET", "client").attributes["http.response.status_code"], 200);

    let metrics = collector.metrics("shop", |metrics| metrics.contains_key("grpc.client.call.duration")).await;
    let duration = &metrics["grpc.client.call.duration"];
    assert_eq!((&*duration.unit, duration.kind, &*duration.scope), ("s", "histogram", "mesh"));
    let point = &duration.points[0];
    assert_eq!((point.count, point.bounds.len()), (1, 41));
    assert_eq!(point.attributes["grpc.method"], "greeter.v1.Greeter/SayHello");
    assert_eq!((&point.attributes["grpc.status"], &point.attributes["grpc.target"]), (&"OK".into(), &"greeter".into()));
    assert_eq!(metrics["http.client.request.duration"].points[0].attributes["http.request.method"], "GET");
    assert_eq!(metrics["mesh.config.version"].points[0].value, 1.0);
}

const METRICS: &str = r#"{ "resourceMetrics": [{
  "resource": { "attributes": [{ "key": "service.name", "value": { "stringValue": "shop" } }] },
  "scopeMetrics": [{ "scope": { "name": "hand" }, "metrics": [
    { "name": "calls", "description": "Calls made.", "unit": "{call}",
      "sum": { "isMonotonic": true, "aggregationTemporality": 2, "dataPoints": [
        { "timeUnixNano": "1", "asInt": "CALLS", "attributes": [{ "key": "backend", "value": { "stringValue": "v1" } }] }] } },
    { "name": "open", "gauge": { "dataPoints": [{ "timeUnixNano": "1", "asDouble": 2.5 }] } },
    { "name": "duration", "unit": "s", "histogram": { "aggregationTemporality": 1, "dataPoints": [
        { "timeUnixNano": "1", "count": "3", "sum": 0.75, "explicitBounds": [0.1, 1], "bucketCounts": ["1", "2", "0"] }] } }
  ] }] }] }"#;

//! As much of `opentelemetry/proto/collector/trace/v1/trace_service.proto` as the tests send, by hand: what they show
//! must not hang on the library that they will test.

/// `ExportTraceServiceRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

/// `ExportTraceServiceResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Response {}

#[derive(Clone, PartialEq, prost::Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    trace_state: String,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start: u64,
    #[prost(fixed64, tag = "8")]
    end: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, repeated, tag = "11")]
    events: Vec<Event>,
    #[prost(message, repeated, tag = "13")]
    links: Vec<Link>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Event {
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, repeated, tag = "3")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Link {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AnyValue {
    #[prost(oneof = "Kind", tags = "1, 2, 3")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(string, tag = "1")]
    String(String),
    #[prost(bool, tag = "2")]
    Bool(bool),
    #[prost(int64, tag = "3")]
    Int(i64),
}

/// A root and its child, of `service`.
pub(crate) fn request(service: &str) -> Request {
    let trace_id: Vec<u8> = (1..=16).collect();
    let [root_id, child_id] = [0xa1_u64, 0xb2].map(|id| id.to_be_bytes().to_vec());
    let root = Span {
        trace_id: trace_id.clone(),
        span_id: root_id.clone(),
        name: "GET /items".into(),
        kind: 2,
        start: 1_700_000_000_000_000_000,
        end: 1_700_000_000_000_000_003,
        ..Span::default()
    };
    let child = Span {
        trace_id: trace_id.clone(),
        span_id: child_id,
        trace_state: "vendor=1".into(),
        parent_span_id: root_id.clone(),
        name: "GET".into(),
        kind: 3,
        start: 1_700_000_000_000_000_001,
        end: 1_700_000_000_000_000_002,
        attributes: vec![
            pair("http.request.method", Kind::String("GET".into())),
            pair("http.response.status_code", Kind::Int(503)),
            pair("ok", Kind::Bool(false)),
        ],
        events: vec![Event { name: "retry".into(), attributes: vec![pair("attempt", Kind::Int(1))] }],
        links: vec![Link { trace_id, span_id: root_id }],
        status: Some(Status { message: "reset".into(), code: 2 }),
    };
    Request {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { attributes: vec![pair("service.name", Kind::String(service.into()))] }),
            scope_spans: vec![ScopeSpans { scope: Some(Scope { name: "hand".into() }), spans: vec![root, child] }],
        }],
    }
}

fn pair(key: &str, value: Kind) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { kind: Some(value) }) }
}

#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]

use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use http::{HeaderName, HeaderValue, Request, Response};
use mesh_core::identity::SpiffeId;
#[cfg(feature = "prometheus")]
use mesh_core::model::Settings;
use mesh_core::model::{Config, IdentityFrom, Server};
use opentelemetry::baggage::BaggageExt;
use opentelemetry::trace::{SpanKind, Status, TraceContextExt};
use opentelemetry_sdk::trace::{InMemorySpanExporter, Sampler, SdkTracerProvider, SpanData};
use proptest::prelude::*;
use rustls_pki_types::UnixTime;

use super::*;
#[cfg(feature = "prometheus")]
use crate::identity::MemoryIdentity;
use crate::identity::{Certified, Identity, Usage};
use crate::testing::Authority;
use crate::{Builder, Mesh};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A mesh with the server `web`.
async fn web(log: AccessLog, with: impl FnOnce(Builder) -> Builder) -> (Mesh, Arc<ServerState>) {
    let mut server = Server::new("web");
    server.access_log = log;
    let mesh = with(Mesh::builder().config(Config::new().with_server(server))).build().await.unwrap();
    let core = &mesh.handle.core;
    let state = core.servers.get("web", &core.snapshot.load()).unwrap();
    (mesh, state)
}

/// A caller with a certificate for `id`.
fn caller(id: &str) -> Arc<Peer> {
    static CERTIFIED: OnceLock<Arc<Certified>> = OnceLock::new();
    let certified = CERTIFIED.get_or_init(|| {
        let authority = Authority::new("cluster.local");
        let material = authority.issue("spiffe://cluster.local/somebody").material(authority.bundles());
        let (settings, now) = (mesh_core::model::Identity::new(IdentityFrom::Custom), UnixTime::now());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let identity = Identity::new(material, &settings, &provider, 1, now).unwrap();
        identity.trust().verify(identity.chain(), Usage::Client, &[], now).unwrap()
    });
    let mut peer = Peer::plaintext(Some("10.0.0.7:51234".parse().unwrap()));
    peer.certified = Some(Arc::new(Certified { id: Some(SpiffeId::new(id).unwrap()), ..Certified::clone(certified) }));
    Arc::new(peer)
}

fn get(path: &str) -> http::request::Parts {
    Request::get(path).body(()).unwrap().into_parts().0
}

fn call(path: &str) -> http::request::Parts {
    Request::post(path).header("content-type", "application/grpc").body(()).unwrap().into_parts().0
}

fn head(status: u16) -> http::response::Parts {
    Response::builder().status(status).body(()).unwrap().into_parts().0
}

fn grpc_head(code: Option<Code>) -> http::response::Parts {
    let mut head = Response::builder().header("content-type", "application/grpc").body(()).unwrap().into_parts().0;
    head.headers.extend(code.map(|code| (grpc::GRPC_STATUS, code.header_value())));
    head
}

fn trailers(code: Code) -> HeaderMap {
    [(grpc::GRPC_STATUS, code.header_value())].into_iter().collect()
}

/// Serves a call whose handler answers with `code` behind a head of its own.
#[cfg(feature = "prometheus")]
fn serve(state: &Arc<ServerState>, path: &str, code: Code) {
    let mut received = Received::begin(state, &call(path), None);
    received.answered(&grpc_head(None));
    received.ended(Some(&trailers(code)));
}

/// TL-09: where nobody wants to know, nothing is kept.
#[tokio::test]
async fn tl_09_nothing_is_kept_for_nobody() {
    let (mesh, state) = web(AccessLog::Text, |builder| builder).await;
    let received = Received::begin(&state, &get("/"), None);
    assert!(received.0.is_none() && received.context().is_none());
    // Connections are counted all the same: others than metrics ask.
    let open = state.series.opened();
    assert_eq!(state.series.open(), 1);
    drop(open);
    assert_eq!(state.series.open(), 0);
    mesh.shutdown().await;
}

/// Lines, and the sink that keeps them.
fn lines() -> (Arc<Mutex<Vec<String>>>, impl AccessSink) {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&lines);
    (lines, move |line: &str| kept.lock().unwrap().push(line.to_owned()))
}

#[tokio::test(start_paused = true)]
async fn tl_08_a_line_says_what_happened() {
    let (kept, sink) = lines();
    let (mesh, state) = web(AccessLog::Text, |builder| builder.access_log(sink)).await;
    let mut request = get("http://user:secret@shop.example:8080/items?token=secret");
    for (name, value) in [
        ("user-agent", "cur\"l/8"),
        ("x-request-id", "abc"),
        ("traceparent", PARENT),
        ("authorization", "Bearer secret"),
        ("cookie", "session=secret"),
    ] {
        request.headers.insert(name, HeaderValue::from_static(value));
    }
    let peer = caller("spiffe://cluster.local/ns/shop/sa/cart");
    let mut received = Received::begin(&state, &request, Some(&peer));
    received.received(3);
    received.answered(&head(503));
    received.sent(512);
    tokio::time::advance(Duration::from_micros(12_345)).await;
    received.refused(Refusal::BodyTimeout);
    received.refused(Refusal::BodySize);
    received.ended(None);
    let mut received = Received::begin(&state, &call("/a.B/C"), None);
    received.answered(&grpc_head(None));
    received.ended(Some(&trailers(Code::NotFound)));
    drop(Received::begin(&state, &get("/gone"), None));

    let told = kept.lock().unwrap().clone();
    let told: Vec<_> = told.iter().map(|line| line.split_once(' ').unwrap().1).collect();
    let expected = [
        format!(
            r#""GET /items HTTP/1.1" 503 - refused body_timeout 3 512 12.345 spiffe://cluster.local/ns/shop/sa/cart 10.0.0.7:51234 "shop.example:8080" "cur\"l/8" "abc" {TRACE} "web""#
        ),
        r#""POST /a.B/C HTTP/1.1" 200 NOT_FOUND client_error - 0 0 0.000 - - "-" "-" "-" - "web""#.to_owned(),
        r#""GET /gone HTTP/1.1" - - cancelled - 0 0 0.000 - - "-" "-" "-" - "web""#.to_owned(),
    ];
    assert_eq!(told, expected);
    mesh.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn tl_08_json_says_the_same() {
    let (kept, sink) = lines();
    let (mesh, state) = web(AccessLog::Json, |builder| builder.access_log(sink)).await;
    let mut request = call("/a.B/C");
    request.headers.insert("user-agent", HeaderValue::from_bytes("J\u{f6}rg\t\"\u{9b}\u{1f600}".as_bytes()).unwrap());
    let peer = caller("spiffe://cluster.local/a");
    let mut received = Received::begin(&state, &request, Some(&peer));
    received.answered(&grpc_head(Some(Code::Unimplemented)));
    received.ended(None);
    let told = kept.lock().unwrap().clone();
    let [line] = &*told else { panic!("one line: {told:?}") };
    let (time, rest) = line.strip_prefix(r#"{"time":""#).unwrap().split_once('"').unwrap();
    assert!(time.ends_with('Z') && time.len() == 24, "{time}");
    let expected = concat!(
        r#","server":"web","method":"POST","path":"/a.B/C","protocol":"HTTP/1.1","status":200,"#,
        r#""grpc_status":"UNIMPLEMENTED","outcome":"server_error","bytes_in":0,"bytes_out":0,"duration_ms":0.000,"#,
        r#""peer":"spiffe://cluster.local/a","remote":"10.0.0.7:51234","#,
        r#""user_agent":"J\u00f6rg\u0009\"\u009b\ud83d\ude00"}"#,
    );
    assert_eq!(rest, expected);
    mesh.shutdown().await;
}

/// A sink that panics costs its line and nothing else.
#[tokio::test]
async fn rl_14_a_panic_of_the_sink_is_contained() {
    let (mesh, state) = web(AccessLog::Text, |builder| builder.access_log(|_: &str| panic!("full"))).await;
    let mut received = Received::begin(&state, &get("/"), None);
    received.answered(&head(200));
    received.ended(None);
    drop(Received::begin(&state, &get("/"), None));
    mesh.shutdown().await;
}

/// Reads one JSON text of objects, strings and numbers as strictly as RFC 8259 says; the values of its strings.
fn parse_json(line: &str) -> Vec<String> {
    let mut rest = line.strip_prefix('{').unwrap();
    let mut strings = Vec::new();
    loop {
        for part in 0..2 {
            if let Some(inner) = rest.strip_prefix('"') {
                let mut units = Vec::new();
                let mut characters = inner.char_indices();
                let end = loop {
                    match characters.next().unwrap() {
                        (end, '"') => break end,
                        (_, '\\') => match characters.next().unwrap().1 {
                            'u' => {
                                let digits: String = characters.by_ref().take(4).map(|(_, digit)| digit).collect();
                                units.push(u16::from_str_radix(&digits, 16).unwrap());
                            }
                            other @ ('"' | '\\') => units.push(other as u16),
                            other => panic!("\\{other} in {line}"),
                        },
                        (_, other) => units.push(u16::try_from(u32::from(other)).unwrap()),
                    }
                };
                rest = &inner[end + 1..];
                strings.push(String::from_utf16(&units).unwrap());
            } else {
                assert_eq!(part, 1, "a name: {line}");
                let end = rest.find([',', '}']).unwrap();
                rest[..end].parse::<f64>().unwrap();
                rest = &rest[end..];
            }
            if part == 0 {
                rest = rest.strip_prefix(':').unwrap();
            }
        }
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => break,
        }
    }
    assert_eq!(rest, "}", "{line}");
    strings
}

proptest! {
    /// TL-08: whatever bytes a header or a method holds, there is one line of printable ASCII, and valid JSON.
    #[test]
    fn tl_08_any_bytes_in_any_header_are_one_line(
        values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 3),
        path in "/[ -~&&[^#? \"<>`{}\\\\^|]]{0,1500}",
        method in "[A-Z!#$%&'*+^_`|~-]{1,80}",
    ) {
        let mut request = Request::builder().method(&*method).uri(&*path).body(()).unwrap().into_parts().0;
        for (name, value) in ["user-agent", "x-request-id", "host"].into_iter().zip(&values) {
            // What the parsers of HTTP let through, and more.
            let value: Vec<u8> = value.iter().map(|byte| if matches!(byte, 10 | 13 | 0) { 27 } else { *byte }).collect();
            let value = HeaderValue::from_maybe_shared(bytes::Bytes::from(value));
            request.headers.extend(value.ok().map(|value| (HeaderName::from_static(name), value)));
        }
        for form in [AccessLog::Text, AccessLog::Json] {
            let entry = access::Entry::new(form, &request, None, || None);
            let end = End { outcome: Outcome::Cancelled, served: Served::Cancelled, refusal: None, trailers: None };
            let facts = access::Facts {
                server: "web\n\"x",
                peer: None,
                status: None,
                code: None,
                end,
                took: Duration::ZERO,
                received: 0,
                sent: 0,
            };
            let line = entry.line(&facts);
            prop_assert!(line.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{}", line);
            prop_assert!(line.len() < 6 * (1024 + 5 * 256), "{}", line.len());
            if form == AccessLog::Json {
                let strings = parse_json(&line);
                prop_assert!(strings.contains(&"web\n\"x".to_owned()));
            }
        }
    }

    /// TL-08: nor do bytes that no parser lets through.
    #[test]
    fn tl_08_any_bytes_are_escaped(bytes in prop::collection::vec(any::<u8>(), 0..300), max in 0..300_usize) {
        let text = escape::Text { bytes: &bytes, max };
        let (plain, json) = (text.to_string(), escape::Json(text).to_string());
        prop_assert!(plain.bytes().chain(json.bytes()).all(|byte| matches!(byte, b' '..=b'~')));
        let unescaped = plain.replace("\\\\", "").replace("\\\"", "");
        prop_assert!(!unescaped.contains('"'), "{}", plain);
        let cut = if bytes.len() > max { "..." } else { "" };
        let expected = String::from_utf8_lossy(&bytes[..bytes.len().min(max)]).into_owned() + cut;
        prop_assert_eq!(parse_json(&format!("{{\"a\":{json}}}"))[1].clone(), expected);
    }
}

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

    fn one(&self) -> SpanData {
        let spans = self.exporter.get_finished_spans().unwrap();
        let [span] = &*spans else { panic!("one span: {spans:?}") };
        self.exporter.reset();
        span.clone()
    }
}

fn attributes(span: &SpanData) -> Vec<String> {
    let mut pairs: Vec<_> = span.attributes.iter().map(|pair| format!("{}={}", pair.key, pair.value)).collect();
    pairs.sort_unstable();
    pairs
}

/// TL-01, TL-03: the caller's trace goes on, and what a handler sends goes below the server's span.
#[tokio::test]
async fn tl_01_tl_03_a_span_continues_its_callers_trace() {
    let traces = Traces::sampled_by(Sampler::ParentBased(Box::new(Sampler::AlwaysOn)));
    let (mesh, state) = web(AccessLog::Off, |builder| builder.tracer_provider(&traces.provider)).await;
    let mut request = call("/greeter.v1.Greeter/Hello");
    request.headers.insert("traceparent", HeaderValue::from_static(PARENT));
    request.headers.insert("tracestate", HeaderValue::from_static("rojo=1"));
    request.headers.insert("baggage", HeaderValue::from_static("user=me"));
    let mut received = Received::begin(&state, &request, Some(&caller("spiffe://cluster.local/a")));
    let context = received.context().unwrap().clone();
    received.answered(&grpc_head(None));
    received.ended(Some(&trailers(Code::Ok)));
    let span = traces.one();
    assert_eq!(span.name, "Recv.greeter.v1.Greeter.Hello");
    assert_eq!(span.span_kind, SpanKind::Server);
    assert_eq!(span.status, Status::Ok);
    assert_eq!(span.span_context.trace_id().to_string(), TRACE);
    assert_eq!(span.parent_span_id.to_string(), "b7ad6b7169203331");
    assert_eq!(context.span().span_context().span_id(), span.span_context.span_id());
    assert_eq!(context.span().span_context().trace_state().header(), "rojo=1");
    assert_eq!(context.baggage().get("user").unwrap().as_str(), "me");
    assert_eq!(
        attributes(&span),
        [
            "mesh.peer=spiffe://cluster.local/a",
            "network.peer.address=10.0.0.7",
            "network.peer.port=51234",
            "rpc.method=greeter.v1.Greeter/Hello",
            "rpc.response.status_code=OK",
            "rpc.system.name=grpc",
        ]
    );
    mesh.shutdown().await;
}

#[tokio::test]
async fn a_span_says_how_a_request_ended() {
    let traces = Traces::sampled_by(Sampler::AlwaysOn);
    let (mesh, state) = web(AccessLog::Off, |builder| builder.tracer_provider(&traces.provider)).await;
    let begin = |request: &http::request::Parts| Received::begin(&state, request, None);

    let mut received = begin(&get("http://shop.example/items?sig=secret&page=2"));
    received.answered(&head(404));
    received.ended(None);
    let span = traces.one();
    assert_eq!((&*span.name, &span.status), ("GET", &Status::Unset), "a server is not to blame for a 404");
    assert_eq!(
        attributes(&span),
        [
            "http.request.method=GET",
            "http.response.status_code=404",
            "network.protocol.version=1.1",
            "server.address=shop.example",
            "url.path=/items",
            "url.query=sig=REDACTED&page=2",
            "url.scheme=http",
        ]
    );

    let mut received = begin(&get("/"));
    received.refused(Refusal::RequestTimeout);
    received.answered(&head(503));
    received.ended(None);
    let span = traces.one();
    assert_eq!(span.status, Status::error(""));
    let said = attributes(&span);
    assert!(
        ["error.type=request_timeout", "mesh.refusal=request_timeout"]
            .iter()
            .all(|one| said.contains(&(*one).to_owned())),
        "{said:?}"
    );

    drop(begin(&get("/")));
    let span = traces.one();
    assert!(attributes(&span).contains(&"error.type=cancelled".to_owned()));
    assert!(matches!(span.status, Status::Error { .. }));

    let mut received = begin(&call("/a.B/C"));
    received.answered(&grpc_head(Some(Code::Internal)));
    received.ended(None);
    assert_eq!(traces.one().status, Status::error("INTERNAL, "));

    let long = format!("/{}", "x".repeat(10_000));
    let mut received = begin(&call(&long));
    received.answered(&head(404));
    received.ended(None);
    let span = traces.one();
    assert!(span.name.len() < 1100, "{}", span.name.len());
    assert!(
        attributes(&span).contains(&"rpc.response.status_code=UNIMPLEMENTED".to_owned()),
        "{:?}",
        attributes(&span)
    );
    mesh.shutdown().await;
}

/// TL-01: what the sampler left out stays left out in what the handler sends.
#[tokio::test]
async fn tl_01_an_unsampled_request_hands_its_word_on() {
    for parent in [None, Some(PARENT), Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")] {
        let traces = Traces::sampled_by(Sampler::AlwaysOff);
        let (mesh, state) = web(AccessLog::Off, |builder| builder.tracer_provider(&traces.provider)).await;
        let mut request = get("/");
        request
            .headers
            .extend(parent.map(|value| (HeaderName::from_static("traceparent"), HeaderValue::from_static(value))));
        let mut received = Received::begin(&state, &request, None);
        let context = received.context().unwrap();
        let ids = context.span().span_context().clone();
        assert!(ids.is_valid() && ids.is_remote() && !ids.is_sampled(), "{parent:?}");
        assert_eq!(ids.trace_id().to_string() == TRACE, parent.is_some());
        received.answered(&head(200));
        received.ended(None);
        assert!(traces.exporter.get_finished_spans().unwrap().is_empty());
        mesh.shutdown().await;
    }
}

#[cfg(feature = "prometheus")]
mod pages {
    use super::*;

    /// The lines of the page that begin with `name`.
    fn of(mesh: &Mesh, name: &str) -> Vec<String> {
        let page = mesh.prometheus_text();
        let is = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        page.lines().filter(is).map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn tl_07_requests_of_a_server_are_counted() {
        let (mesh, state) = web(AccessLog::Off, Builder::prometheus).await;
        let peer = caller("spiffe://cluster.local/a");
        for status in [200, 200, 404, 500] {
            let mut received = Received::begin(&state, &get("/any"), Some(&peer));
            assert!(received.context().is_none());
            received.answered(&head(status));
            received.ended(None);
        }
        let under_way = Received::begin(&state, &get("/any"), None);
        let labels = r#"mesh_server="web",http_request_method="GET",url_scheme="http""#;
        let active = of(&mesh, "http_server_active_requests");
        assert!(active.contains(&format!("http_server_active_requests{{{labels}}} 1")), "{active:?}");
        assert_eq!(of(&mesh, "mesh_server_active_requests"), [r#"mesh_server_active_requests{mesh_server="web"} 1"#]);
        drop(under_way);
        let mut refused = Received::begin(&state, &get("/any"), None);
        refused.refused(Refusal::NotMutual);
        refused.answered(&head(403));
        refused.ended(None);
        serve(&state, "/a.B/C", Code::Ok);
        serve(&state, "/a.B/C", Code::Aborted);

        assert_eq!(
            of(&mesh, "mesh_server_requests_total"),
            [
                r#"mesh_server_requests_total{mesh_server="web",mesh_peer="spiffe://cluster.local/a",mesh_outcome="ok"} 2"#,
                r#"mesh_server_requests_total{mesh_server="web",mesh_peer="spiffe://cluster.local/a",mesh_outcome="client_error"} 1"#,
                r#"mesh_server_requests_total{mesh_server="web",mesh_peer="spiffe://cluster.local/a",mesh_outcome="server_error"} 1"#,
                r#"mesh_server_requests_total{mesh_server="web",mesh_peer="none",mesh_outcome="ok"} 1"#,
                r#"mesh_server_requests_total{mesh_server="web",mesh_peer="none",mesh_outcome="client_error"} 1"#,
                r#"mesh_server_requests_total{mesh_server="web",mesh_peer="none",mesh_outcome="refused"} 1"#,
                r#"mesh_server_requests_total{mesh_server="web",mesh_peer="none",mesh_outcome="cancelled"} 1"#,
            ]
        );
        assert_eq!(
            of(&mesh, "mesh_server_requests_refused_total"),
            [r#"mesh_server_requests_refused_total{mesh_server="web",mesh_refusal="not_mutual"} 1"#]
        );
        let mut durations = of(&mesh, "http_server_request_duration_seconds_count");
        durations.sort_unstable();
        let expected = [
            r#"{error_type="500",http_request_method="GET",http_response_status_code="500",mesh_server="web",url_scheme="https"} 1"#,
            r#"{error_type="cancelled",http_request_method="GET",mesh_server="web",url_scheme="http"} 1"#,
            r#"{http_request_method="GET",http_response_status_code="200",mesh_server="web",url_scheme="https"} 2"#,
            r#"{http_request_method="GET",http_response_status_code="403",mesh_server="web",url_scheme="http"} 1"#,
            r#"{http_request_method="GET",http_response_status_code="404",mesh_server="web",url_scheme="https"} 1"#,
        ];
        assert_eq!(durations, expected.map(|labels| format!("http_server_request_duration_seconds_count{labels}")));
        mesh.shutdown().await;
    }

    /// TL-05: a path is a method once a handler has answered to it; whoever invents paths makes no series.
    #[tokio::test]
    async fn tl_05_paths_that_nobody_serves_are_no_methods() {
        let (mesh, state) = web(AccessLog::Off, Builder::prometheus).await;
        let of_started = |mesh: &Mesh| of(mesh, "grpc_server_call_started_total");
        for number in 0..5000 {
            let path = format!("/invented/Path{number}");
            let mut received = Received::begin(&state, &call(&path), None);
            match number % 5 {
                0 => received.answered(&grpc_head(Some(Code::Unimplemented))),
                1 => received.answered(&head(404)),
                2 => received.answered(&grpc_head(Some(Code::Unauthenticated))),
                3 => {
                    received.refused(Refusal::NotMutual);
                    received.answered(&grpc_head(None));
                }
                _ => continue,
            }
            received.ended(None);
        }
        let other = r#"grpc_server_call_started_total{mesh_server="web",grpc_method="other"}"#;
        assert_eq!(of_started(&mesh), [format!("{other} 5000")]);
        for number in 0..1500 {
            serve(&state, &format!("/a.B/Method{number}"), Code::Ok);
        }
        let started = of_started(&mesh);
        assert_eq!(started.len(), 1001);
        assert!(started.contains(&format!("{other} 5500")), "{:?}", started.last());
        // One that is known is counted as soon as it begins.
        let received = Received::begin(&state, &call("/a.B/Method7"), None);
        let seven = r#"grpc_server_call_started_total{mesh_server="web",grpc_method="a.B/Method7"} 2"#;
        assert!(of_started(&mesh).contains(&seven.to_owned()));
        drop(received);
        let ended = of(&mesh, "grpc_server_call_duration_seconds_count");
        let cancelled = r#"{grpc_method="a.B/Method7",grpc_status="CANCELLED",mesh_server="web"} 1"#;
        assert!(ended.iter().any(|line| line.ends_with(cancelled)), "{:?}", ended.first());
        mesh.shutdown().await;
    }

    #[tokio::test]
    async fn tl_05_callers_are_bounded() {
        let (mesh, state) = web(AccessLog::Off, Builder::prometheus).await;
        for number in 0..1000 {
            let peer = caller(&format!("spiffe://cluster.local/caller-{number}"));
            let mut received = Received::begin(&state, &get("/"), Some(&peer));
            received.answered(&head(200));
            received.ended(None);
        }
        let counts = of(&mesh, "mesh_server_requests_total");
        assert_eq!(counts.len(), 201);
        let other = r#"mesh_server_requests_total{mesh_server="web",mesh_peer="other",mesh_outcome="ok"} 800"#;
        assert!(counts.contains(&other.to_owned()), "{:?}", counts.last());
        mesh.shutdown().await;
    }

    #[tokio::test]
    async fn tl_07_the_identity_is_shown() {
        let authority = Authority::new("cluster.local");
        let first = authority.issue("spiffe://cluster.local/a").material(authority.bundles());
        let source = MemoryIdentity::new(first);
        let mut settings = Settings::default();
        settings.identity = Some(Arc::new(mesh_core::model::Identity::new(IdentityFrom::Custom)));
        let config = Config::new().with_settings(settings);
        let mesh = Mesh::builder().config(config).identity_source(source).prometheus().build().await.unwrap();
        let of = |name: &str| of(&mesh, name).join("\n");
        let not_after = mesh.identity().unwrap().not_after();
        let seconds = not_after.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let expiry = format!("mesh_certificate_expiry_timestamp_seconds {seconds}");
        assert_eq!(of("mesh_certificate_expiry_timestamp_seconds"), expiry);
        assert_eq!(of("mesh_identity_generation"), "mesh_identity_generation 1");
        assert_eq!(of("mesh_identity_last_reload_successful"), "mesh_identity_last_reload_successful 1");
        assert_eq!(of("mesh_identity_failures_total"), "mesh_identity_failures_total 0");
        assert!(!of("mesh_identity_last_reload_timestamp_seconds").is_empty());
        mesh.shutdown().await;
    }

    #[tokio::test]
    async fn connections_and_handshakes_are_counted() {
        let (mesh, state) = web(AccessLog::Off, Builder::prometheus).await;
        let series = &state.series;
        for _ in 0..3 {
            series.accepted();
        }
        let open = [series.opened(), series.opened()];
        series.refused(ConnectionRefusal::MaxConnections);
        series.handshake(Ok(Duration::from_millis(2)));
        series.handshake(Err("expired"));
        series.handshake(Err("expired"));
        let of = |name: &str| of(&mesh, name).join("\n");
        assert_eq!(of("mesh_server_connections"), r#"mesh_server_connections{mesh_server="web"} 2"#);
        assert!(of("mesh_server_connections_accepted_total").ends_with(" 3"));
        let refused = r#"mesh_server_connections_refused_total{mesh_server="web",mesh_refusal="max_connections"} 1"#;
        assert_eq!(of("mesh_server_connections_refused_total"), refused);
        let handshakes = "mesh_server_handshakes_total{mesh_server=\"web\"} 1\n\
                          mesh_server_handshakes_total{mesh_server=\"web\",error_type=\"expired\"} 2";
        assert_eq!(of("mesh_server_handshakes_total"), handshakes);
        assert!(of("mesh_server_handshake_duration_seconds_count").ends_with(" 1"));
        drop(open);
        assert!(of("mesh_server_connections").ends_with(" 0"));
        mesh.shutdown().await;
    }
}

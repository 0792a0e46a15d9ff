//! Retries as a server sees them.

#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]

mod http_support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::BodyExt;
use http_support::{Answer, gone, greeter, grpc, headers, in_memory, nowhere, serve, silent, text, whole};
use mesh_tower::ErrorKind;
use mesh_tower::core::grpc::Code;
use mesh_tower::testing::{
    self, At, Feed, MemoryNetwork, Payload, Pieces, Reason, Reply, RequestBody, TestBackend, empty, full,
};
use tokio::time::Instant;
use tower::ServiceExt;

/// A trailers-only answer of gRPC.
fn status(code: u32, extra: &[(&str, &str)]) -> Response<Payload> {
    let mut response = Response::new(empty());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response.headers_mut().insert("grpc-status", HeaderValue::from(code));
    for (name, value) in extra {
        response.headers_mut().insert(HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
    }
    response
}

fn not_now() -> Response<Payload> {
    Response::builder().status(503).body(full("not now")).unwrap()
}

/// How a server fails.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Http503,
    GrpcUnavailable,
    Reset,
}

impl Fault {
    fn answer(self) -> Reply {
        match self {
            Self::Http503 => not_now().into(),
            Self::GrpcUnavailable => status(14, &[]).into(),
            Self::Reset => testing::Fault::Reset(At::BeforeHead, Reason::INTERNAL_ERROR).into(),
        }
    }
}

/// A server whose first `failures` requests fail, once they are read.
fn failing(failures: usize, fault: Fault) -> TestBackend {
    let count = AtomicUsize::new(0);
    let handler = move |request: Request<RequestBody>| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        async move {
            let is_grpc = request.headers().get("content-type").is_some();
            request.into_body().collect().await.unwrap();
            match is_grpc {
                _ if number < failures => fault.answer(),
                true => status(0, &[]).into(),
                false => "ok".into(),
            }
        }
    };
    TestBackend::handling(handler).start()
}

#[tokio::test]
async fn re_01_http_attempts_stop_at_the_first_success_and_at_the_limit() {
    for (protocol, fault) in
        [("http1", Fault::Http503), ("http2", Fault::Http503), ("http2", Fault::Reset), ("http1", Fault::Reset)]
    {
        for (failures, attempts, succeeds) in [(0, 1, true), (2, 3, true), (3, 4, true), (4, 4, false), (9, 4, false)] {
            let server = failing(failures, fault);
            let mesh = greeter(&[server.address()])
                .route("retry: { on: [5xx], num_retries: 3, backoff: { base: 1ms } }")
                .backend(&format!("protocol: {protocol}, retry_budget: {{ min_concurrent: 9 }}"))
                .mesh()
                .await;
            let result = mesh.http_client().get("http://greeter/").await;
            match (succeeds, fault, result) {
                (true, _, Ok(response)) => assert_eq!(text(response).await, "ok"),
                (false, Fault::Http503, Ok(response)) => {
                    assert_eq!(response.status(), 503);
                    assert_eq!(text(response).await, "not now", "the last answer is the caller's");
                }
                (false, Fault::Reset, Err(error)) => {
                    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Reset, attempts));
                }
                (_, _, result) => panic!("{protocol} {fault:?} {failures}: {result:?}"),
            }
            assert_eq!(server.request_count(), attempts as usize, "{protocol} {fault:?} {failures}");
            mesh.end().await;
        }
    }
}

#[tokio::test]
async fn re_01_grpc_retries_say_how_many_attempts_came_before() {
    for fault in [Fault::GrpcUnavailable, Fault::Http503] {
        for (failures, retries, code) in [(3, 3, 0), (4, 3, 14), (9, 10, 14)] {
            let server = failing(failures, fault);
            let mesh = greeter(&[server.address()])
                .route(&format!("retry: {{ on: [unavailable], num_retries: {retries}, backoff: {{ base: 1ms }} }}"))
                .mesh()
                .await;
            // What a caller claims about earlier attempts is not theirs to say.
            let request = grpc("http://greeter/s/m").header("grpc-previous-rpc-attempts", "7").body(full("m")).unwrap();
            let response = mesh.http_client().oneshot(request).await.unwrap();
            if let Fault::GrpcUnavailable = fault {
                assert_eq!(response.headers()["grpc-status"], code.to_string().as_str());
            }
            // gRFC A44: never more than 5.
            let attempts = (failures + 1).min(retries + 1).min(5);
            let told: Vec<_> = (0..attempts).map(|n| (n > 0).then(|| n.to_string())).collect();
            assert_eq!(headers(&server, "grpc-previous-rpc-attempts"), told, "{fault:?}");
            assert!(server.requests().iter().all(|request| request.body == "m"));
            mesh.end().await;
        }
    }
}

#[tokio::test]
async fn a_retry_goes_to_another_endpoint() {
    let broken = failing(usize::MAX, Fault::Http503);
    let sound = failing(0, Fault::Http503);
    let mesh = greeter(&[broken.address(), sound.address()])
        .route("retry: { on: [5xx], num_retries: 1, backoff: { base: 1ms } }")
        .mesh()
        .await;
    for _ in 0..10 {
        assert_eq!(mesh.http_client().get("http://greeter/").await.unwrap().status(), 200);
    }
    assert_eq!(sound.request_count(), 10);
    assert!(broken.request_count() > 0, "round robin");
    mesh.end().await;
}

fn trailers() -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static("x-sum"), HeaderValue::from_static("42"))])
}

#[tokio::test]
async fn re_06_a_body_is_replayed_to_the_byte_with_its_trailers() {
    let pieces = || Pieces::new(["", "one", "", "two", "\u{0}\u{ff}"]).with_trailers(trailers()).boxed_unsync();
    for protocol in ["http1", "http2"] {
        let server = failing(3, Fault::Http503);
        let mesh = greeter(&[server.address()])
            .route("retry: { on: [5xx], num_retries: 3, backoff: { base: 1ms } }")
            .backend(&format!("protocol: {protocol}"))
            .mesh()
            .await;
        let request = Request::put("http://greeter/a?b").header("trailer", "x-sum").header("x-mine", "1");
        let response = mesh.http_client().oneshot(request.body(pieces()).unwrap()).await.unwrap();
        assert_eq!(text(response).await, "ok");
        let all = server.requests();
        assert_eq!(all.len(), 4);
        for request in &all {
            let parts = &request.head;
            assert_eq!((&parts.method, parts.uri.path_and_query().unwrap().as_str()), (&Method::PUT, "/a?b"));
            assert_eq!(parts.headers["x-mine"], "1");
            assert_eq!(request.body, "onetwo\u{0}\u{ff}", "{protocol}");
            assert_eq!(request.trailers, Some(trailers()), "{protocol}");
        }
        mesh.end().await;
    }
}

#[tokio::test]
async fn re_06_the_length_is_told_again() {
    for protocol in ["http1", "http2"] {
        let server = failing(1, Fault::Http503);
        let mesh = greeter(&[server.address()])
            .route("retry: { on: [5xx], backoff: { base: 1ms } }")
            .backend(&format!("protocol: {protocol}"))
            .mesh()
            .await;
        let request = Request::put("http://greeter/").body(full(vec![7; 64 * 1024])).unwrap();
        mesh.http_client().oneshot(request).await.unwrap();
        let length = Some("65536".to_owned());
        assert_eq!(headers(&server, "content-length"), [length.clone(), length], "{protocol}: the cap itself is kept");
        assert!(server.requests().iter().all(|request| request.body == vec![7; 64 * 1024]));
        mesh.end().await;
    }
}

#[tokio::test]
async fn re_06_a_body_beyond_the_cap_is_sent_once() {
    let piece = || Bytes::from(vec![1; 1024]);
    for protocol in ["http1", "http2"] {
        for (route, size) in [("", 64 * 1024 + 1), (", max_body_bytes: 10", 11)] {
            let streamed = (0..64).map(|_| piece()).chain([Bytes::from_static(b"x")]);
            let bodies = if route.is_empty() {
                [full(vec![1; size]), Pieces::new(streamed).boxed_unsync()]
            } else {
                [full(vec![1; size]), Pieces::new(["12345", "67890", "1"]).boxed_unsync()]
            };
            for body in bodies {
                let server = failing(1, Fault::Http503);
                let mesh = greeter(&[server.address()])
                    .route(&format!("retry: {{ on: [5xx], num_retries: 3, backoff: {{ base: 1ms }}{route} }}"))
                    .backend(&format!("protocol: {protocol}"))
                    .mesh()
                    .await;
                let request = Request::put("http://greeter/").body(body).unwrap();
                let response = mesh.http_client().oneshot(request).await.unwrap();
                assert_eq!(response.status(), 503, "{protocol}");
                assert_eq!(text(response).await, "not now", "the original answer");
                assert_eq!(server.only_request().body.len(), size);
                mesh.end().await;
            }
        }
    }
}

/// The server says no before it has the whole body: what follows is appended to what is replayed.
#[tokio::test]
async fn re_06_a_body_still_being_written_is_replayed_and_goes_on() {
    for protocol in ["http1", "http2"] {
        let (told, mut attempts) = tokio::sync::mpsc::channel(1024);
        let count = AtomicUsize::new(0);
        let server = serve(move |request| {
            let (number, told) = (count.fetch_add(1, Ordering::SeqCst), told.clone());
            async move {
                let mut body = request.into_body();
                let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
                told.try_send(first.clone()).unwrap();
                if number == 0 {
                    return Ok(not_now());
                }
                let rest = body.collect().await?.to_bytes();
                Ok(Response::new(full([first, rest].concat())))
            }
        });
        let mesh = greeter(&[server.address()])
            .route("retry: { on: [5xx], methods: all, backoff: { base: 1ms } }")
            .backend(&format!("protocol: {protocol}"))
            .mesh()
            .await;
        let (sender, body): (Feed, Payload) = Feed::new();
        let call = tokio::spawn(mesh.http_client().oneshot(Request::post("http://greeter/").body(body).unwrap()));
        sender.data("first ");
        assert_eq!(attempts.recv().await.unwrap(), "first ");
        assert_eq!(attempts.recv().await.unwrap(), "first ", "{protocol}: replayed");
        sender.data("second");
        drop(sender);
        assert_eq!(text(call.await.unwrap().unwrap()).await, "first second", "{protocol}");
        mesh.end().await;
    }
}

/// RE-07: a head is a promise.
#[tokio::test]
async fn re_07_after_response_headers_nothing_is_sent_again() {
    let (feeds, mut answers) = tokio::sync::mpsc::channel(1024);
    let server = serve(move |request| {
        let feeds = feeds.clone();
        async move {
            request.into_body().collect().await?;
            let (sender, body) = Feed::new();
            sender.data("some");
            feeds.try_send(sender).unwrap();
            let mut response = Response::new(body);
            response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
            Ok(response)
        }
    });
    let mesh = greeter(&[server.address()])
        .route("retry: { on: [unavailable, internal, cancelled, 5xx, reset], num_retries: 3 }")
        .mesh()
        .await;
    let response = mesh.http_client().oneshot(grpc("http://greeter/s/m").body(empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    answers.recv().await.unwrap().fail("power");
    let error = response.into_body().bytes().await.unwrap_err();
    assert_eq!((error.kind(), error.grpc_code()), (ErrorKind::Reset, Code::Internal), "{error:?}");
    assert!(error.to_string().contains("backend v1 of service greeter"));
    assert_eq!(server.request_count(), 1);
    mesh.end().await;
}

/// gRFC A6: a call whose initial metadata came is committed, whatever its status.
#[tokio::test]
async fn re_07_a_status_in_trailers_behind_a_head_is_not_retried() {
    let server = serve(move |request| async move {
        request.into_body().collect().await?;
        let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static("14"))]);
        let body = Pieces::new([""; 0]).with_trailers(trailers).boxed_unsync();
        Ok(Response::builder().header("content-type", "application/grpc").body(body).unwrap())
    });
    let mesh = greeter(&[server.address()]).route("retry: { on: [unavailable], num_retries: 3 }").mesh().await;
    let response = mesh.http_client().oneshot(grpc("http://greeter/s/m").body(empty()).unwrap()).await.unwrap();
    let (_, body) = whole(response).await;
    assert_eq!(body.trailers.unwrap()["grpc-status"], "14");
    assert_eq!(server.request_count(), 1);
    mesh.end().await;
}

/// A server that notes when it is asked; the answers are for the requests in turn, the last for all that follow.
fn timed(answers: Vec<fn() -> Answer>) -> (MemoryNetwork, TestBackend, Arc<Mutex<Vec<Instant>>>) {
    let times = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&times);
    let (network, server) = in_memory(move |_| {
        let mut noted = noted.lock().unwrap();
        noted.push(Instant::now());
        let answer = answers[(noted.len() - 1).min(answers.len() - 1)]();
        async move { answer }
    });
    (network, server, times)
}

/// The pauses between the requests, in milliseconds.
fn pauses(times: &Mutex<Vec<Instant>>) -> Vec<u128> {
    times.lock().unwrap().windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect()
}

#[tokio::test(start_paused = true)]
async fn re_08_pushback_says_when_and_whether() {
    type Case = (fn() -> Answer, Option<u128>);
    let cases: [Case; 5] = [
        (|| Ok(status(14, &[("grpc-retry-pushback-ms", "0")])), Some(0)),
        (|| Ok(status(14, &[("grpc-retry-pushback-ms", "500")])), Some(500)),
        (|| Ok(status(14, &[("grpc-retry-pushback-ms", "-1")])), None),
        (|| Ok(status(14, &[("grpc-retry-pushback-ms", "abc")])), None),
        (|| Ok(status(14, &[("grpc-retry-pushback-ms", "")])), None),
    ];
    for (answer, pause) in cases {
        let (network, _server, times) = timed(vec![answer, || Ok(status(0, &[]))]);
        let greeter = greeter(&[nowhere()]).route("retry: { on: [unavailable], backoff: { base: 10s } }");
        let mesh = greeter.mesh_over(&network).await;
        let response = mesh.http_client().oneshot(grpc("http://greeter/s/m").body(empty()).unwrap()).await.unwrap();
        let expected = if pause.is_some() { "0" } else { "14" };
        assert_eq!(response.headers()["grpc-status"], expected);
        let pauses = pauses(&times);
        match pause {
            // The timer of tokio rounds up to its next millisecond.
            Some(pause) => assert!(matches!(pauses[..], [p] if (pause..=pause + 1).contains(&p)), "{pauses:?}"),
            None => assert!(pauses.is_empty(), "{pauses:?}"),
        }
        mesh.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_honoured_up_to_half_a_minute() {
    fn later(seconds: &str) -> Answer {
        Ok(Response::builder().status(503).header("retry-after", seconds).body(full("later")).unwrap())
    }
    type Case = (fn() -> Answer, Option<u128>);
    let cases: [Case; 4] = [
        (|| later("0"), Some(0)),
        (|| later("2"), Some(2_000)),
        (|| later("30"), Some(30_000)),
        (|| later("31"), None),
    ];
    for (answer, pause) in cases {
        let (network, _server, times) = timed(vec![answer, || Ok(Response::new(full("ok")))]);
        let greeter = greeter(&[nowhere()]).route("retry: { on: [gateway-error] }");
        let mesh = greeter.mesh_over(&network).await;
        let response = mesh.http_client().get("http://greeter/").await.unwrap();
        let told = pauses(&times);
        match pause {
            Some(pause) => {
                assert_eq!(text(response).await, "ok");
                assert!(matches!(told[..], [p] if (pause..=pause + 1).contains(&p)), "{pause}: {told:?}");
            }
            None => {
                assert_eq!((response.status().as_u16(), text(response).await.as_str()), (503, "later"));
                assert!(told.is_empty(), "{told:?}");
            }
        }
        mesh.end().await;
    }
}

/// RE-03 in outline: each pause lies within 20 % of its step; the statistics are a matter of mesh-core's tests.
#[tokio::test(start_paused = true)]
async fn re_03_pauses_grow_to_their_bound() {
    let (network, _server, times) = timed(vec![|| Ok(not_now())]);
    let greeter =
        greeter(&[nowhere()]).route("retry: { on: [5xx], num_retries: 5, backoff: { base: 100ms, max: 400ms } }");
    let mesh = greeter.mesh_over(&network).await;
    assert_eq!(mesh.http_client().get("http://greeter/").await.unwrap().status(), 503);
    let pauses = pauses(&times);
    assert_eq!(pauses.len(), 5);
    for (pause, step) in pauses.iter().zip([100, 200, 400, 400, 400]) {
        assert!((step * 8 / 10..=step * 12 / 10 + 1).contains(pause), "{pauses:?}");
    }
    mesh.end().await;
}

/// Over HTTP/2, a peer that refuses a stream has not looked at it: once more at once, whatever the method.
#[tokio::test]
async fn re_09_a_refused_stream_is_sent_again_once_without_a_policy() {
    for (refusals, succeeds) in [(1, true), (2, false)] {
        let server = serve(|request| async move { Ok(Response::new(full(request.into_body().bytes().await?))) });
        server.fail_next(refusals, testing::Fault::Reset(At::BeforeHead, Reason::REFUSED_STREAM));
        let mesh = greeter(&[server.address()]).backend("protocol: http2").mesh().await;
        let result = mesh.http_client().post("http://greeter/", "body").await;
        if succeeds {
            assert_eq!(text(result.unwrap()).await, "body");
        } else {
            let error = result.unwrap_err();
            assert_eq!((error.kind(), error.attempts()), (ErrorKind::Refused, 2));
        }
        assert_eq!(server.request_count(), 2);
        assert!(headers(&server, "grpc-previous-rpc-attempts").iter().all(Option::is_none), "not a retry");
        mesh.end().await;
    }
}

/// RFC 9113 6.8: streams above the last one of a GOAWAY were not looked at either; those below may have been.
#[tokio::test]
async fn re_09_a_goaway_says_which_requests_were_not_processed() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        // On the first connection: hello, settings, then at the first request a GOAWAY with last stream id 0.
        let (mut stream, _) = listener.accept().await.unwrap();
        raw_goaway(&mut stream, 0).await;
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            tokio::spawn(async move {
                let mut body = request.into_body();
                let mut all = Vec::new();
                while let Some(data) = body.data().await {
                    all.extend(data.unwrap());
                }
                let mut send = respond.send_response(Response::new(()), false).unwrap();
                send.send_data(all.into(), true).unwrap();
            });
        }
    });
    let mesh = greeter(&[address]).backend("protocol: http2").mesh().await;
    let response = mesh.http_client().post("http://greeter/", "once more").await.unwrap();
    assert_eq!(text(response).await, "once more");
    mesh.end().await;
    server.await.unwrap();

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        raw_goaway(&mut stream, 1).await;
    });
    let mesh = greeter(&[address]).backend("protocol: http2").mesh().await;
    let error = mesh.http_client().post("http://greeter/", "only once").await.unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Reset, 1), "{error:?}");
    server.await.unwrap();
    mesh.end().await;
}

/// Speaks HTTP/2 up to the first HEADERS frame, answers with GOAWAY of `last` and closes.
async fn raw_goaway(stream: &mut tokio::net::TcpStream, last: u32) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.unwrap();
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        stream.read_exact(&mut vec![0; length]).await.unwrap();
        match head[3] {
            1 => break,
            4 if head[4] & 1 == 0 => stream.write_all(&[0, 0, 0, 4, 1, 0, 0, 0, 0]).await.unwrap(),
            _ => {}
        }
    }
    let mut goaway = vec![0, 0, 8, 7, 0, 0, 0, 0, 0];
    goaway.extend(last.to_be_bytes());
    goaway.extend([0; 4]);
    stream.write_all(&goaway).await.unwrap();
    stream.shutdown().await.unwrap();
    // Read what is left, so that the close is no reset that overtakes the GOAWAY.
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

/// RE-11 in HTTP: the time of the route bounds all tries together.
#[tokio::test(start_paused = true)]
async fn re_11_tries_end_with_the_deadline() {
    let times = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&times);
    let (network, _server) = in_memory(move |_| {
        noted.lock().unwrap().push(Instant::now());
        std::future::pending()
    });
    for protocol in ["http1", "http2"] {
        times.lock().unwrap().clear();
        let greeter = greeter(&[nowhere()])
            .route(
                "timeout: 1s, retry: { on: [gateway-error], num_retries: 10, per_try_timeout: 300ms, \
                 backoff: { base: 1ms, max: 1ms } }",
            )
            .backend(&format!("protocol: {protocol}"));
        let mesh = greeter.mesh_over(&network).await;
        let began = Instant::now();
        let error = mesh.http_client().get("http://greeter/").await.unwrap_err();
        let elapsed = began.elapsed().as_millis();
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error:?}");
        assert!((980..=1020).contains(&elapsed), "{elapsed}");
        assert_eq!(error.attempts(), 4);
        let pauses = pauses(&times);
        assert_eq!(pauses.len(), 3);
        assert!(pauses.iter().all(|pause| (300..=305).contains(pause)), "{pauses:?}");
        mesh.end().await;
    }
}

fn millis(grpc_timeout: &str) -> u128 {
    let (number, unit) = grpc_timeout.split_at(grpc_timeout.len() - 1);
    let number: u128 = number.parse().unwrap();
    match unit {
        "H" => number * 3_600_000,
        "M" => number * 60_000,
        "S" => number * 1000,
        "m" => number,
        "u" => number / 1000,
        "n" => number / 1_000_000,
        other => panic!("{other}"),
    }
}

/// RE-11, RE-12 in gRPC: each attempt is told what is left.
#[tokio::test(start_paused = true)]
async fn re_12_the_callers_deadline_is_enforced_and_told_to_each_attempt() {
    for (header, route, told_first, elapsed) in [
        ("1S", "", 1000, 1000),
        ("1S", "timeout: 10s, ", 1000, 1000),
        ("10S", "timeout: 1s, ", 1000, 1000),
        ("1000000u", "timeout: 1s, ", 1000, 1000),
    ] {
        let (network, server) = in_memory(|_| async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            Ok(status(14, &[]))
        });
        let greeter = greeter(&[nowhere()]).route(&format!(
            "{route}retry: {{ on: [unavailable], num_retries: 10, backoff: {{ base: 1ms, max: 1ms }} }}"
        ));
        let mesh = greeter.mesh_over(&network).await;
        let began = Instant::now();
        let request = grpc("http://greeter/s/m").header("grpc-timeout", header).body(empty()).unwrap();
        let error = mesh.http_client().oneshot(request).await.unwrap_err();
        assert_eq!((error.kind(), error.grpc_code()), (ErrorKind::DeadlineExceeded, Code::DeadlineExceeded));
        let waited = began.elapsed().as_millis();
        assert!((elapsed..=elapsed + 20).contains(&waited), "{waited}");
        let told: Vec<_> = headers(&server, "grpc-timeout").into_iter().map(|value| millis(&value.unwrap())).collect();
        assert_eq!(told.len(), 4, "{told:?}");
        assert!(told[0] <= told_first && told[0] > told_first - 20, "{told:?}");
        assert!(told.windows(2).all(|pair| pair[1] <= pair[0] - 300), "{told:?}");
        mesh.end().await;
    }
}

#[tokio::test]
async fn a_grpc_timeout_that_is_none_is_refused() {
    let mesh = greeter(&[nowhere()]).mesh().await;
    for value in ["", "1", "S", "1X", "-1S", "123456789S", "1 S", "1s"] {
        let request = grpc("http://greeter/s/m").header("grpc-timeout", value).body(empty()).unwrap();
        let error = mesh.http_client().oneshot(request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{value:?}");
        assert!(error.to_string().contains("grpc-timeout"), "{error}");
    }
    mesh.end().await;
}

/// RE-15: a POST that a peer may have acted on is sent again only where the route says so.
#[tokio::test]
async fn re_15_a_post_is_retried_only_if_the_route_says_so() {
    for protocol in ["http1", "http2"] {
        for fault in [Fault::Http503, Fault::Reset] {
            for (methods, method, attempts) in [
                ("", Method::POST, 1),
                ("", Method::PATCH, 1),
                ("", Method::GET, 2),
                ("", Method::PUT, 2),
                ("", Method::DELETE, 2),
                (", methods: all", Method::POST, 2),
                (", methods: [POST]", Method::POST, 2),
                (", methods: [PATCH]", Method::POST, 1),
            ] {
                let server = failing(1, fault);
                let mesh = greeter(&[server.address()])
                    .route(&format!("retry: {{ on: [5xx, reset], backoff: {{ base: 1ms }}{methods} }}"))
                    .backend(&format!("protocol: {protocol}"))
                    .mesh()
                    .await;
                let request = Request::builder().method(&method).uri("http://greeter/").body(full("x")).unwrap();
                let result = mesh.http_client().oneshot(request).await;
                let succeeded = result.is_ok_and(|response| response.status() == 200);
                assert_eq!(succeeded, attempts == 2, "{protocol} {fault:?} {method}{methods}");
                assert_eq!(server.request_count(), attempts, "{protocol} {fault:?} {method}{methods}");
                mesh.end().await;
            }
        }
    }
}

#[tokio::test]
async fn re_05_without_a_place_in_the_budget_the_original_answer_is_returned() {
    let server = failing(usize::MAX, Fault::Http503);
    let mesh = greeter(&[server.address()])
        .route("retry: { on: [5xx], num_retries: 3, backoff: { base: 1ms } }")
        .backend("retry_budget: { percent: 0, min_concurrent: 0 }")
        .mesh()
        .await;
    let response = mesh.http_client().get("http://greeter/").await.unwrap();
    assert_eq!((response.status().as_u16(), text(response).await.as_str()), (503, "not now"));
    assert_eq!(server.request_count(), 1);
    mesh.end().await;
}

/// gRFC A6: with 4 tokens, retries stop when 2 are gone and begin again when successes have brought them back.
#[tokio::test]
async fn re_04_throttling_stops_retries_and_lets_them_begin_again() {
    let failing = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let fails = Arc::clone(&failing);
    let server = serve(move |request| {
        let fails = fails.load(Ordering::SeqCst);
        async move {
            request.into_body().collect().await?;
            Ok(status(if fails { 14 } else { 0 }, &[]))
        }
    });
    let mesh = greeter(&[server.address()])
        .service("retry_throttling: { max_tokens: 4, token_ratio: 0.5 }")
        .route("retry: { on: [unavailable], num_retries: 1, backoff: { base: 1ms } }")
        .mesh()
        .await;
    let mut attempts = 0;
    let mut call = async || {
        let before = server.request_count();
        let response = mesh.http_client().oneshot(grpc("http://greeter/s/m").body(empty()).unwrap()).await.unwrap();
        drop(response);
        attempts = server.request_count() - before;
        attempts
    };
    assert_eq!(call().await, 2, "4 tokens: one goes, 3 are more than half, the retry's failure takes one more");
    for _ in 0..3 {
        assert_eq!(call().await, 1, "half or less");
    }
    failing.store(false, Ordering::SeqCst);
    for _ in 0..8 {
        assert_eq!(call().await, 1);
    }
    failing.store(true, Ordering::SeqCst);
    assert_eq!(call().await, 2, "the bucket is full again");
    mesh.end().await;
}

/// RE-14: what the mesh itself refuses is nothing that another attempt could change.
#[tokio::test]
async fn re_14_a_local_refusal_is_not_retried() {
    let mesh =
        greeter(&[]).route("retry: { on: [5xx, connect-failure, unavailable, reset], num_retries: 10 }").mesh().await;
    let error = mesh.http_client().get("http://greeter/").await.unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::NoEndpoint, 0));
    mesh.end().await;
}

/// A request body that fails is not the endpoint's fault.
#[tokio::test]
async fn a_failed_request_body_is_not_retried() {
    for protocol in ["http1", "http2"] {
        let server = silent();
        let mesh = greeter(&[server.address()])
            .route("retry: { on: [5xx, reset], methods: all, num_retries: 3, backoff: { base: 1ms } }")
            .backend(&format!("protocol: {protocol}"))
            .mesh()
            .await;
        let (sender, body) = Feed::new();
        sender.data("x");
        sender.fail("no more");
        let error = mesh.http_client().oneshot(Request::post("http://greeter/").body(body).unwrap()).await.unwrap_err();
        assert_eq!((error.kind(), error.attempts()), (ErrorKind::RequestBody, 1), "{protocol}");
        mesh.end().await;
    }
}

/// Connections that cannot be made are retried like anything else; the request itself was never sent.
#[tokio::test]
async fn a_connect_failure_is_retried_until_the_server_is_there() {
    let gone = gone();
    let server = failing(0, Fault::Reset);
    let mesh = greeter(&[gone, server.address()])
        .route("retry: { on: [connect-failure], num_retries: 2, backoff: { base: 1ms } }")
        .mesh()
        .await;
    for _ in 0..4 {
        assert_eq!(text(mesh.http_client().post("http://greeter/", "x").await.unwrap()).await, "ok");
    }
    assert_eq!(server.request_count(), 4);
    mesh.end().await;
}

use ::http::{HeaderMap, Method, Request, StatusCode, Version};
use axum::body::Body;
use http_body_util::BodyExt as _;
use hyper::body::Bytes;
use serde_json::{Value, json};
use tonic::codegen::tokio_stream::{self, Stream, StreamExt as _};
use tonic::{Code, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::health_check_response::ServingStatus as Healthy;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_health::server::{HealthReporter, HealthService};
use tower::ServiceExt as _;

use super::*;
use crate::grpc_testing::test_service_client::TestServiceClient;
use crate::grpc_testing::unimplemented_service_client::UnimplementedServiceClient;
use crate::grpc_testing::{
    BoolValue, EchoStatus, Empty, Payload, ResponseParameters, SimpleRequest, StreamingInputCallRequest,
    StreamingOutputCallRequest, StreamingOutputCallResponse,
};

/// What a server leaves in the extensions of a request.
#[derive(Clone)]
struct Caller(PeerInfo);

fn caller() -> PeerInfo {
    PeerInfo {
        identity: Some("spiffe://cluster.local/ns/default/sa/shop".to_owned()),
        mutual: true,
        address: Some("127.0.0.1:4711".to_owned()),
    }
}

async fn service() -> Router {
    let peer = |extensions: &Extensions| extensions.get::<Caller>().map(|caller| caller.0.clone()).unwrap_or_default();
    app(Options { peer, ..Options::new("one") }, health().await.1)
}

/// The health service of `TEST_SERVICE`, and what changes what it tells.
async fn health() -> (HealthReporter, HealthServer<HealthService>) {
    let reporter = HealthReporter::new();
    reporter.set_service_status(TEST_SERVICE, ServingStatus::Serving).await;
    let server = HealthServer::new(HealthService::from_health_reporter(reporter.clone()));
    (reporter, server)
}

async fn ask(request: Request<Body>) -> (StatusCode, HeaderMap, Bytes) {
    let (head, body) = service().await.oneshot(request).await.unwrap().into_parts();
    (head.status, head.headers, body.collect().await.unwrap().to_bytes())
}

async fn get(path: &str) -> (StatusCode, String) {
    let (status, _, body) = ask(Request::get(path).body(Body::empty()).unwrap()).await;
    (status, String::from_utf8(body.to_vec()).unwrap())
}

fn bad(answer: (StatusCode, String), reason: &str) {
    assert_eq!(answer.0, StatusCode::BAD_REQUEST, "{}", answer.1);
    assert!(answer.1.contains(reason), "{}", answer.1);
}

#[tokio::test]
async fn any_path_tells_what_came() {
    let request = Request::builder()
        .method(Method::PATCH)
        .uri("http://shop/a/b%20c?d=e")
        .version(Version::HTTP_2)
        .header("x-two", "1")
        .header("x-two", &b"\xff2"[..])
        .extension(Caller(caller()))
        .body(Body::from("what is sent is read, and not kept"));
    let (status, headers, body) = ask(request.unwrap()).await;
    assert_eq!(
        (status, &headers[::http::header::CONTENT_TYPE]),
        (StatusCode::OK, &"application/json".parse().unwrap())
    );
    let expected = json!({
        "method": "PATCH",
        "path": "/a/b%20c",
        "headers": { "x-two": ["1", "\u{fffd}2"] },
        "peer": {
            "identity": "spiffe://cluster.local/ns/default/sa/shop", "mutual": true, "address": "127.0.0.1:4711",
        },
        "protocol": "HTTP/2",
        "server_id": "one",
    });
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), expected);

    let (status, text) = get("/").await;
    let nobody = json!({ "identity": null, "mutual": false, "address": null });
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &told["peer"], &told["protocol"]), (StatusCode::OK, &nobody, &json!("HTTP/1.1")));
}

#[tokio::test]
async fn a_request_that_breaks_off_is_a_bad_one() {
    let broken = tokio_stream::iter([Ok("x"), Err(std::io::Error::other("gone"))]);
    let (status, _, body) = ask(Request::post("/").body(Body::from_stream(broken)).unwrap()).await;
    assert_eq!((status, &body[..]), (StatusCode::BAD_REQUEST, &b"the request broke off: gone\n"[..]));
}

#[tokio::test]
async fn status_answers_with_that_code() {
    for code in [200, 201, 301, 404, 429, 500, 503, 599] {
        let (status, text) = get(&format!("/status/{code}")).await;
        assert_eq!(status, code);
        assert!(text.contains("\"path\":\"/status/"), "{text}");
    }
    for code in [204, 205, 304] {
        assert_eq!(get(&format!("/status/{code}")).await, (StatusCode::from_u16(code).unwrap(), String::new()));
    }
    for code in ["100", "199", "600", "-1", "ok", "99999999999"] {
        bad(get(&format!("/status/{code}")).await, "is not a status: write /status/CODE, from 200 to 599");
    }
}

#[tokio::test(start_paused = true)]
async fn delay_answers_after_that_time() {
    for (path, millis) in [("/delay/0s", 0), ("/delay/250ms", 250), ("/delay/1h", 3_600_000)] {
        let began = tokio::time::Instant::now();
        assert_eq!(get(path).await.0, StatusCode::OK);
        assert_eq!(began.elapsed().as_millis(), millis, "{path}");
    }
    for pause in ["1", "1h1s", "soon", "1.5s"] {
        bad(get(&format!("/delay/{pause}")).await, "is not a pause: write /delay/DURATION, at most 1h");
    }
}

#[tokio::test]
async fn bytes_sends_so_many() {
    for count in [0_usize, 1, 65_536, 200_000] {
        let (status, headers, body) = ask(Request::get(format!("/bytes/{count}")).body(Body::empty()).unwrap()).await;
        assert_eq!((status, body.len()), (StatusCode::OK, count));
        assert_eq!(headers[::http::header::CONTENT_LENGTH], *count.to_string());
    }
    // The most, a piece at a time.
    let mut response =
        service().await.oneshot(Request::get("/bytes/1073741824").body(Body::empty()).unwrap()).await.unwrap();
    let piece = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(piece.len(), 65_536);
    for count in ["1073741825", "-1", "many", "1e3"] {
        bad(get(&format!("/bytes/{count}")).await, "is not a number of bytes: write /bytes/N, at most 1073741824");
    }
}

#[tokio::test]
async fn fail_fails_as_often_as_asked_for() {
    let service = service().await;
    let failures = async |path: &str, count: usize| {
        let mut failed = 0;
        for _ in 0..count {
            let response = service.clone().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
            match response.status() {
                StatusCode::SERVICE_UNAVAILABLE => failed += 1,
                status => assert_eq!(status, StatusCode::OK),
            }
        }
        failed
    };
    assert_eq!(failures("/fail", 20).await, 20);
    assert_eq!(failures("/fail?percent=100", 20).await, 20);
    assert_eq!(failures("/fail?percent=0", 20).await, 0);
    // Five sigma of 2000 with a chance of 30 percent.
    let some = failures("/fail?a=b&percent=30", 2000).await;
    assert!((498..=702).contains(&some), "{some}");
    for share in ["101", "-1", "NaN", "some", ""] {
        bad(get(&format!("/fail?percent={share}")).await, "is not a share: write /fail?percent=P, from 0 to 100");
    }
}

fn zeros(size: usize) -> Option<Payload> {
    Some(Payload { r#type: 0, body: vec![0; size] })
}

fn sized(size: i32) -> ResponseParameters {
    ResponseParameters { size, ..ResponseParameters::default() }
}

fn asking(sizes: &[i32]) -> StreamingOutputCallRequest {
    let response_parameters = sizes.iter().copied().map(sized).collect();
    StreamingOutputCallRequest { response_parameters, ..StreamingOutputCallRequest::default() }
}

fn wanted(code: Code, message: &str) -> Option<EchoStatus> {
    Some(EchoStatus { code: code.into(), message: message.to_owned() })
}

async fn sizes(mut answers: impl Stream<Item = Result<StreamingOutputCallResponse, Status>> + Unpin) -> Vec<usize> {
    let mut sizes = Vec::new();
    while let Some(answer) = answers.next().await {
        sizes.push(answer.unwrap().payload.unwrap().body.len());
    }
    sizes
}

#[tokio::test]
async fn unary_calls() {
    let mut client = TestServiceClient::new(service().await);
    client.empty_call(Empty {}).await.unwrap();
    let request = SimpleRequest { response_size: 314_159, payload: zeros(271_828), ..SimpleRequest::default() };
    let answer = client.unary_call(request).await.unwrap().into_inner();
    assert_eq!(answer.payload, zeros(314_159));
    assert_eq!((&*answer.username, &*answer.server_id, &*answer.hostname), ("", "", "one"));

    let asked = SimpleRequest { fill_username: true, fill_server_id: true, ..SimpleRequest::default() };
    let answer = client.unary_call(asked.clone()).await.unwrap().into_inner();
    assert_eq!((&*answer.username, &*answer.server_id), ("", "one"));
    let mut request = tonic::Request::new(asked);
    request.extensions_mut().insert(Caller(caller()));
    let answer = client.unary_call(request).await.unwrap().into_inner();
    assert_eq!(answer.username, caller().identity.unwrap());

    let one = client.cacheable_unary_call(SimpleRequest::default()).await.unwrap();
    assert_eq!(one.metadata().get("cache-control").unwrap(), "max-age=60, public");
    let two = client.cacheable_unary_call(SimpleRequest::default()).await.unwrap();
    assert_ne!(one.into_inner().payload, two.into_inner().payload);
}

#[tokio::test]
async fn a_unary_call_ends_as_was_asked_for_or_is_refused() {
    let mut client = TestServiceClient::new(service().await);
    let message = "\t\ntest with whitespace\r\nand Unicode BMP \u{263a} and non-BMP \u{1f608}\t\n";
    let ends = SimpleRequest { response_status: wanted(Code::Aborted, message), ..SimpleRequest::default() };
    let status = client.unary_call(ends).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Aborted, message));

    let well = SimpleRequest { response_status: wanted(Code::Ok, ""), ..SimpleRequest::default() };
    client.unary_call(well).await.unwrap();
    let unknown = SimpleRequest { response_type: 3, ..SimpleRequest::default() };
    let negative = SimpleRequest { response_size: -1, ..SimpleRequest::default() };
    let large = SimpleRequest { response_size: i32::MAX, ..SimpleRequest::default() };
    let compressed = Some(BoolValue { value: true });
    let compressed = SimpleRequest { expect_compressed: compressed, ..SimpleRequest::default() };
    for (request, reason) in [
        (unknown, "no type 3"),
        (negative, "not -1"),
        (large, "0 to 67108864 bytes"),
        (compressed, "was not compressed"),
    ] {
        let status = client.unary_call(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(reason), "{status}");
    }
    let plain = SimpleRequest { expect_compressed: Some(BoolValue { value: false }), ..SimpleRequest::default() };
    client.unary_call(plain).await.unwrap();
}

#[tokio::test]
async fn streaming_calls() {
    let mut client = TestServiceClient::new(service().await);
    let request = |size| StreamingInputCallRequest { payload: zeros(size), expect_compressed: None };
    let requests = tokio_stream::iter([27_182, 8, 1828, 45_904].map(request));
    let answer = client.streaming_input_call(requests).await.unwrap().into_inner();
    assert_eq!(answer.aggregated_payload_size, 74_922);
    let compressed = StreamingInputCallRequest { expect_compressed: Some(BoolValue { value: true }), ..request(1) };
    let status = client.streaming_input_call(tokio_stream::iter([compressed])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);

    let answers = client.streaming_output_call(asking(&[31_415, 9, 2653, 58_979])).await.unwrap();
    assert_eq!(sizes(answers.into_inner()).await, [31_415, 9, 2653, 58_979]);
    let mut answers = client.streaming_output_call(asking(&[1, -1, 1])).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().payload, zeros(1));
    assert_eq!(answers.message().await.unwrap_err().code(), Code::InvalidArgument);

    let requests = [asking(&[1, 2]), asking(&[]), asking(&[3])];
    let answers = client.half_duplex_call(tokio_stream::iter(requests)).await.unwrap();
    assert_eq!(sizes(answers.into_inner()).await, [1, 2, 3]);
    let many = asking(&[0; 10_001]);
    let mut answers = client.half_duplex_call(tokio_stream::iter([many])).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap_err().code(), Code::ResourceExhausted);
    let answers = client.full_duplex_call(tokio_stream::empty()).await.unwrap();
    assert_eq!(sizes(answers.into_inner()).await, [0; 0]);
}

#[tokio::test]
async fn full_duplex_answers_each_request_before_the_next_comes() {
    let mut client = TestServiceClient::new(service().await);
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut answers = client.full_duplex_call(requests).await.unwrap().into_inner();
    for size in [31_415, 9, 2653, 58_979] {
        sender.send(asking(&[size])).await.unwrap();
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!(answer.payload.unwrap().body.len(), size as usize);
    }
    let status = StreamingOutputCallRequest { response_status: wanted(Code::Unknown, "enough"), ..asking(&[1]) };
    sender.send(status).await.unwrap();
    let status = answers.message().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unknown, "enough"));
}

#[tokio::test]
async fn what_a_call_does_ends_when_the_caller_goes() {
    let mut client = TestServiceClient::new(service().await);
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut answers = client.full_duplex_call(requests).await.unwrap().into_inner();
    sender.send(asking(&[1])).await.unwrap();
    answers.message().await.unwrap().unwrap();
    drop(answers);
    sender.closed().await;
}

#[tokio::test(start_paused = true)]
async fn answers_wait_as_long_as_was_asked_for() {
    let mut client = TestServiceClient::new(service().await);
    let waits = [(1, 250_000), (2, 0), (3, -1), (4, 500_000)];
    let waits = waits.map(|(size, interval_us)| ResponseParameters { interval_us, ..sized(size) });
    let request = StreamingOutputCallRequest { response_parameters: waits.into(), ..asking(&[]) };
    let began = tokio::time::Instant::now();
    let mut answers = client.streaming_output_call(request).await.unwrap().into_inner();
    for millis in [250, 250, 250, 750] {
        answers.message().await.unwrap().unwrap();
        assert_eq!(began.elapsed().as_millis(), millis);
    }
}

fn with_metadata<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("x-grpc-test-echo-initial", "initial".parse().unwrap());
    let value = tonic::metadata::MetadataValue::from_bytes(b"\xab\xab\xab");
    request.metadata_mut().insert_bin("x-grpc-test-echo-trailing-bin", value);
    request
}

#[tokio::test]
async fn metadata_comes_back_in_headers_and_trailers() {
    let mut client = TestServiceClient::new(service().await);
    let trailing = |metadata: &tonic::metadata::MetadataMap| {
        metadata.get_bin("x-grpc-test-echo-trailing-bin").map(|value| value.to_bytes().unwrap().to_vec())
    };
    // Of a unary call tonic gives headers and trailers as one.
    let request = SimpleRequest { response_size: 1, ..SimpleRequest::default() };
    let answer = client.unary_call(with_metadata(request)).await.unwrap();
    assert_eq!(answer.metadata().get("x-grpc-test-echo-initial").unwrap(), "initial");
    assert_eq!(trailing(answer.metadata()), Some(vec![0xab; 3]));

    let answers = client.full_duplex_call(with_metadata(tokio_stream::iter([asking(&[1])]))).await.unwrap();
    assert_eq!(answers.metadata().get("x-grpc-test-echo-initial").unwrap(), "initial");
    assert_eq!(trailing(answers.metadata()), None);
    let mut answers = answers.into_inner();
    answers.message().await.unwrap().unwrap();
    assert_eq!(trailing(&answers.trailers().await.unwrap().unwrap()), Some(vec![0xab; 3]));

    // An answer that is only trailers.
    let ends = SimpleRequest { response_status: wanted(Code::Aborted, ""), ..SimpleRequest::default() };
    let status = client.unary_call(with_metadata(ends)).await.unwrap_err();
    assert_eq!(status.metadata().get("x-grpc-test-echo-initial").unwrap(), "initial");
    assert_eq!(trailing(status.metadata()), Some(vec![0xab; 3]));
}

#[tokio::test]
async fn what_is_not_there_is_unimplemented() {
    let service = service().await;
    let status = TestServiceClient::new(service.clone()).unimplemented_call(Empty {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    let status = UnimplementedServiceClient::new(service.clone()).unimplemented_call(Empty {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    let request = Request::post("/grpc.testing.TestService/Nothing").header("content-type", "application/grpc");
    let response = service.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!((response.status(), &response.headers()["grpc-status"]), (StatusCode::OK, &"12".parse().unwrap()));
}

#[tokio::test]
async fn health_is_told_as_it_is() {
    let (health, server) = health().await;
    let mut client = HealthClient::new(app(Options::new("one"), server));
    let request = |service: &str| HealthCheckRequest { service: service.to_owned() };
    let told = |status: Healthy| HealthCheckResponse { status: status.into() };
    for service in ["", "grpc.testing.TestService"] {
        assert_eq!(client.check(request(service)).await.unwrap().into_inner(), told(Healthy::Serving));
    }
    assert_eq!(client.check(request("nobody")).await.unwrap_err().code(), Code::NotFound);
    let mut watched = client.watch(request("")).await.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap(), Some(told(Healthy::Serving)));
    health.set_service_status("", ServingStatus::NotServing).await;
    assert_eq!(watched.message().await.unwrap(), Some(told(Healthy::NotServing)));
}

#[tokio::test]
async fn reflection_tells_what_is_served_and_how_it_is_called() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let service = service().await;
    let mut client = ServerReflectionClient::new(service.clone());
    let ask = [
        MessageRequest::ListServices(String::new()),
        MessageRequest::FileContainingSymbol("grpc.testing.TestService".to_owned()),
        MessageRequest::FileContainingSymbol("greeter.v1.Greeter".to_owned()),
    ];
    let ask = ask.map(|message| ServerReflectionRequest { host: String::new(), message_request: Some(message) });
    let mut answers = client.server_reflection_info(tokio_stream::iter(ask)).await.unwrap().into_inner();
    let list = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = list else { panic!("{list:?}") };
    let names: Vec<_> = list.service.iter().map(|service| &*service.name).collect();
    assert_eq!(names, ["grpc.testing.TestService", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"]);
    let file = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::FileDescriptorResponse(file)) = file else { panic!("{file:?}") };
    assert!(file.file_descriptor_proto[0].windows(11).any(|name| name == b"TestService"));
    assert_eq!(answers.message().await.unwrap_err().code(), Code::NotFound);

    let alpha = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
    let request = Request::post(alpha).header("content-type", "application/grpc").body(Body::empty()).unwrap();
    let response = service.oneshot(request).await.unwrap();
    assert_eq!(response.headers().get("grpc-status"), None, "a stream began");
}

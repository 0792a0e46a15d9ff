//! `grpc.testing.TestService`, by the descriptions of gRPC's interop tests.
//!
//! It does without compression: a request for a compressed answer is answered as it is, and one that says that it was
//! compressed is refused, as it was not.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::Request as HttpRequest;
use axum::middleware::Next;
use axum::response::Response as HttpResponse;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Frame};
use tokio::sync::mpsc;
use tonic::codegen::BoxStream;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status, Streaming};

use super::Shared;
use crate::grpc_testing::test_service_server::TestService as Calls;
use crate::grpc_testing::{
    BoolValue, EchoStatus, Empty, Payload, PayloadType, ResponseParameters, SimpleRequest, SimpleResponse,
    StreamingInputCallRequest, StreamingInputCallResponse, StreamingOutputCallRequest, StreamingOutputCallResponse,
};

/// What a caller sends in these comes back in the headers and in the trailers.
const INITIAL: HeaderName = HeaderName::from_static("x-grpc-test-echo-initial");
const TRAILING: HeaderName = HeaderName::from_static("x-grpc-test-echo-trailing-bin");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// So many answers a call may ask for before it gets the first.
const MAX_KEPT: usize = 10_000;
/// The longest payload that can be asked for: the whole of it is in memory.
const MAX_PAYLOAD: i32 = 64 << 20;

#[derive(Debug)]
pub(super) struct TestService {
    shared: Arc<Shared>,
}

impl TestService {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

/// Tonic's handlers have no way to end a call well with trailers of their own, so this stands around them.
pub(super) async fn echo_metadata(request: HttpRequest, next: Next) -> HttpResponse {
    let initial = request.headers().get(INITIAL).cloned();
    let trailing = request.headers().get(TRAILING).cloned();
    let mut response = next.run(request).await;
    if let Some(value) = initial {
        response.headers_mut().insert(INITIAL, value);
    }
    let Some(value) = trailing else { return response };
    if response.headers().contains_key(GRPC_STATUS) {
        // The headers are the trailers.
        response.headers_mut().insert(TRAILING, value);
        return response;
    }
    response.map(|body| Body::new(body.map_frame(move |frame| with_trailer(frame, &value))))
}

fn with_trailer(frame: Frame<Bytes>, value: &HeaderValue) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            trailers.insert(TRAILING, value.clone());
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

fn payload(kind: i32, size: i32) -> Result<Payload, Status> {
    if PayloadType::try_from(kind).is_err() {
        return Err(Status::invalid_argument(format!("there is no type {kind} of payloads")));
    }
    match size {
        0..=MAX_PAYLOAD => Ok(Payload { r#type: kind, body: vec![0; size as usize] }),
        _ => Err(Status::invalid_argument(format!("a payload has 0 to {MAX_PAYLOAD} bytes, not {size}"))),
    }
}

/// The end that a request asked for.
fn echo_status(wanted: Option<EchoStatus>) -> Result<(), Status> {
    match wanted {
        Some(EchoStatus { code, message }) if code != 0 => Err(Status::new(Code::from_i32(code), message)),
        _ => Ok(()),
    }
}

fn expect_compressed(expected: Option<BoolValue>) -> Result<(), Status> {
    match expected {
        Some(BoolValue { value: true }) => Err(Status::invalid_argument("the message was not compressed")),
        _ => Ok(()),
    }
}

/// Waits as long as the answer shall, and makes it.
async fn output(kind: i32, asked: ResponseParameters) -> Result<StreamingOutputCallResponse, Status> {
    if let Ok(pause @ 1..) = u64::try_from(asked.interval_us) {
        tokio::time::sleep(Duration::from_micros(pause)).await;
    }
    Ok(StreamingOutputCallResponse { payload: Some(payload(kind, asked.size)?) })
}

type Sender = mpsc::Sender<Result<StreamingOutputCallResponse, Status>>;

/// Sends the answers that `request` asks for. What it returns is the end of the call; `None` in it, that the caller has
/// gone.
async fn outputs(answers: &Sender, request: StreamingOutputCallRequest) -> Result<(), Option<Status>> {
    echo_status(request.response_status).map_err(Some)?;
    for asked in request.response_parameters {
        let answer = output(request.response_type, asked).await.map_err(Some)?;
        answers.send(Ok(answer)).await.map_err(|_| None)?;
    }
    Ok(())
}

/// The answers that `run` sends until it ends, or until the caller goes, which ends it.
fn answers<F>(run: impl FnOnce(Sender) -> F) -> Response<BoxStream<StreamingOutputCallResponse>>
where
    F: Future<Output = Result<(), Option<Status>>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(1);
    let run = run(sender.clone());
    tokio::spawn(async move {
        let end = tokio::select! {
            end = run => end,
            () = sender.closed() => return,
        };
        if let Err(Some(status)) = end {
            // Nobody is left to be told, if it fails.
            let _ = sender.send(Err(status)).await;
        }
    });
    Response::new(Box::pin(ReceiverStream::new(receiver)))
}

#[tonic::async_trait]
impl Calls for TestService {
    async fn empty_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Ok(Response::new(Empty {}))
    }

    async fn unary_call(&self, request: Request<SimpleRequest>) -> Result<Response<SimpleResponse>, Status> {
        let (_, extensions, asked) = request.into_parts();
        expect_compressed(asked.expect_compressed)?;
        echo_status(asked.response_status)?;
        let username = if asked.fill_username { (self.shared.peer)(&extensions).identity } else { None };
        let server_id = &self.shared.server_id;
        Ok(Response::new(SimpleResponse {
            payload: Some(payload(asked.response_type, asked.response_size)?),
            username: username.unwrap_or_default(),
            server_id: if asked.fill_server_id { server_id.clone() } else { String::new() },
            hostname: server_id.clone(),
        }))
    }

    async fn cacheable_unary_call(&self, _: Request<SimpleRequest>) -> Result<Response<SimpleResponse>, Status> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let body = now.as_nanos().to_string().into_bytes();
        let payload = Payload { r#type: PayloadType::Compressable.into(), body };
        let answer = SimpleResponse { payload: Some(payload), ..SimpleResponse::default() };
        let mut headers = HeaderMap::new();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=60, public"));
        Ok(Response::from_parts(MetadataMap::from_headers(headers), answer, http::Extensions::new()))
    }

    type StreamingOutputCallStream = BoxStream<StreamingOutputCallResponse>;

    async fn streaming_output_call(
        &self,
        request: Request<StreamingOutputCallRequest>,
    ) -> Result<Response<Self::StreamingOutputCallStream>, Status> {
        let request = request.into_inner();
        Ok(answers(|sender| async move { outputs(&sender, request).await }))
    }

    async fn streaming_input_call(
        &self,
        request: Request<Streaming<StreamingInputCallRequest>>,
    ) -> Result<Response<StreamingInputCallResponse>, Status> {
        let mut requests = request.into_inner();
        let mut size = 0_usize;
        while let Some(request) = requests.message().await? {
            expect_compressed(request.expect_compressed)?;
            size += request.payload.map_or(0, |payload| payload.body.len());
        }
        let size = i32::try_from(size);
        let aggregated_payload_size =
            size.map_err(|_| Status::out_of_range("there are more bytes than can be told"))?;
        Ok(Response::new(StreamingInputCallResponse { aggregated_payload_size }))
    }

    type FullDuplexCallStream = BoxStream<StreamingOutputCallResponse>;

    async fn full_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<Self::FullDuplexCallStream>, Status> {
        let mut requests = request.into_inner();
        Ok(answers(|sender| async move {
            while let Some(request) = requests.message().await.map_err(Some)? {
                outputs(&sender, request).await?;
            }
            Ok(())
        }))
    }

    type HalfDuplexCallStream = BoxStream<StreamingOutputCallResponse>;

    async fn half_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<Self::HalfDuplexCallStream>, Status> {
        let mut requests = request.into_inner();
        Ok(answers(|sender| async move {
            let mut all = Vec::new();
            let mut kept = 0;
            while let Some(request) = requests.message().await.map_err(Some)? {
                kept += 1 + request.response_parameters.len();
                if kept > MAX_KEPT {
                    let reason = format!("a call asks for at most {MAX_KEPT} answers at once");
                    return Err(Some(Status::resource_exhausted(reason)));
                }
                // Its own payload is of no use any more.
                all.push(StreamingOutputCallRequest { payload: None, ..request });
            }
            for request in all {
                outputs(&sender, request).await?;
            }
            Ok(())
        }))
    }

    async fn unimplemented_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented("UnimplementedCall is implemented by nobody"))
    }
}

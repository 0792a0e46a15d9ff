//! The cases of gRPC's interop descriptions, as a client of ours calls them. A file of its own, as every test that has a
//! server of others to call includes it.

use std::time::Duration;

use examples::grpc_testing::test_service_client::TestServiceClient;
use examples::grpc_testing::unimplemented_service_client::UnimplementedServiceClient;
use examples::grpc_testing::{
    EchoStatus, Empty, Payload, ResponseParameters, SimpleRequest, StreamingInputCallRequest,
    StreamingOutputCallRequest,
};
use mesh_tonic::Channel;
use tokio::sync::mpsc;
use tonic::codegen::tokio_stream::{self, wrappers::ReceiverStream};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Request};

const INITIAL: &str = "x-grpc-test-echo-initial";
const TRAILING: &str = "x-grpc-test-echo-trailing-bin";

/// Calls all of them, one after the other.
///
/// # Panics
/// If one of them goes wrong, or all take longer than a minute.
pub(crate) async fn all(channel: Channel) {
    tokio::time::timeout(Duration::from_secs(60), one_after_the_other(channel)).await.expect("no call hangs");
}

async fn one_after_the_other(channel: Channel) {
    let mut client = TestServiceClient::new(channel.clone());
    unary(&mut client).await;
    streams(&mut client).await;
    metadata(&mut client).await;
    statuses(&mut client).await;
    ends(&mut client).await;
    unimplemented(&mut client, channel).await;
}

type Client = TestServiceClient<Channel>;

fn zeros(size: usize) -> Option<Payload> {
    Some(Payload { r#type: 0, body: vec![0; size] })
}

fn asking(answer: i32, payload: usize) -> StreamingOutputCallRequest {
    let response_parameters = vec![ResponseParameters { size: answer, ..ResponseParameters::default() }];
    StreamingOutputCallRequest { response_parameters, payload: zeros(payload), ..StreamingOutputCallRequest::default() }
}

/// `empty_unary`, `large_unary`.
async fn unary(client: &mut Client) {
    assert_eq!(client.empty_call(Empty {}).await.unwrap().into_inner(), Empty {});
    let request = SimpleRequest { response_size: 314_159, payload: zeros(271_828), ..SimpleRequest::default() };
    assert_eq!(client.unary_call(request).await.unwrap().into_inner().payload, zeros(314_159));
}

/// `client_streaming`, `server_streaming`, `ping_pong`, `empty_stream`.
async fn streams(client: &mut Client) {
    let request = |size| StreamingInputCallRequest { payload: zeros(size), expect_compressed: None };
    let requests = tokio_stream::iter([27_182, 8, 1828, 45_904].map(request));
    let answer = client.streaming_input_call(requests).await.unwrap().into_inner();
    assert_eq!(answer.aggregated_payload_size, 74_922);

    let sizes = [31_415, 9, 2653, 58_979];
    let sized = |size| ResponseParameters { size, ..ResponseParameters::default() };
    let request = StreamingOutputCallRequest { response_parameters: sizes.map(sized).into(), ..asking(0, 0) };
    let mut answers = client.streaming_output_call(request).await.unwrap().into_inner();
    for size in sizes {
        assert_eq!(answers.message().await.unwrap().unwrap().payload, zeros(size as usize));
    }
    assert_eq!(answers.message().await.unwrap(), None);

    let (sender, receiver) = mpsc::channel(1);
    let mut requests = sizes.into_iter().zip([27_182, 8, 1828, 45_904]).map(|(answer, size)| asking(answer, size));
    // A server may send its headers with the first message.
    sender.send(requests.next().unwrap()).await.unwrap();
    let mut answers = client.full_duplex_call(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    for size in sizes {
        assert_eq!(answers.message().await.unwrap().unwrap().payload, zeros(size as usize));
        if let Some(request) = requests.next() {
            sender.send(request).await.unwrap();
        }
    }
    drop(sender);
    assert_eq!(answers.message().await.unwrap(), None);

    let mut answers = client.full_duplex_call(tokio_stream::empty()).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap(), None);
}

fn with_metadata<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(INITIAL, "test_initial_metadata_value".parse().unwrap());
    request.metadata_mut().insert_bin(TRAILING, MetadataValue::from_bytes(b"\xab\xab\xab"));
    request
}

fn trailing(metadata: &MetadataMap) -> Option<Vec<u8>> {
    metadata.get_bin(TRAILING).map(|value| value.to_bytes().unwrap().to_vec())
}

/// `custom_metadata`.
async fn metadata(client: &mut Client) {
    let request = SimpleRequest { response_size: 314_159, payload: zeros(271_828), ..SimpleRequest::default() };
    // Of a unary call tonic gives headers and trailers as one.
    let answer = client.unary_call(with_metadata(request)).await.unwrap();
    assert_eq!(answer.metadata().get(INITIAL).unwrap(), "test_initial_metadata_value");
    assert_eq!(trailing(answer.metadata()), Some(vec![0xab; 3]));

    let requests = tokio_stream::iter([asking(314_159, 271_828)]);
    let answers = client.full_duplex_call(with_metadata(requests)).await.unwrap();
    assert_eq!(answers.metadata().get(INITIAL).unwrap(), "test_initial_metadata_value");
    let mut answers = answers.into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().payload, zeros(314_159));
    assert_eq!(trailing(&answers.trailers().await.unwrap().unwrap()), Some(vec![0xab; 3]));
}

/// `status_code_and_message`, `special_status_message`.
async fn statuses(client: &mut Client) {
    let special = "\t\ntest with whitespace\r\nand Unicode BMP \u{263a} and non-BMP \u{1f608}\t\n";
    for message in ["test status message", special] {
        let wanted = Some(EchoStatus { code: Code::Unknown.into(), message: message.to_owned() });
        let request = SimpleRequest { response_status: wanted.clone(), ..SimpleRequest::default() };
        let status = client.unary_call(request).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unknown, message));

        let request = StreamingOutputCallRequest { response_status: wanted, ..StreamingOutputCallRequest::default() };
        let status = match client.full_duplex_call(tokio_stream::iter([request])).await {
            Ok(answers) => answers.into_inner().message().await.unwrap_err(),
            Err(status) => status,
        };
        assert_eq!((status.code(), status.message()), (Code::Unknown, message));
    }
}

/// `timeout_on_sleeping_server`, `cancel_after_begin`, `cancel_after_first_response`: cancelling is dropping, and the call
/// after it shows that the connection has not suffered.
async fn ends(client: &mut Client) {
    let (sender, receiver) = mpsc::channel(1);
    sender.send(StreamingOutputCallRequest { payload: zeros(27_182), ..asking(0, 0) }).await.unwrap();
    let mut request = Request::new(ReceiverStream::new(receiver));
    request.set_timeout(Duration::from_millis(1));
    // The one answer it may get before.
    let status = match client.full_duplex_call(request).await {
        Ok(answers) => {
            let mut answers = answers.into_inner();
            loop {
                match answers.message().await {
                    Ok(answer) => assert!(answer.is_some(), "the server does not end the call"),
                    Err(status) => break status,
                }
            }
        }
        Err(status) => status,
    };
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    drop(sender);

    let (sender, receiver) = mpsc::channel::<StreamingInputCallRequest>(1);
    let mut begun = Box::pin(client.streaming_input_call(ReceiverStream::new(receiver)));
    tokio::select! {
        answer = &mut begun => panic!("nothing was asked: {answer:?}"),
        () = tokio::task::yield_now() => {}
    }
    drop(begun);
    sender.closed().await;

    let (sender, receiver) = mpsc::channel(1);
    sender.send(asking(31_415, 27_182)).await.unwrap();
    let mut answers = client.full_duplex_call(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().payload, zeros(31_415));
    drop(answers);
    sender.closed().await;
    client.empty_call(Empty {}).await.unwrap();
}

/// `unimplemented_method`, `unimplemented_service`.
async fn unimplemented(client: &mut Client, channel: Channel) {
    assert_eq!(client.unimplemented_call(Empty {}).await.unwrap_err().code(), Code::Unimplemented);
    let mut nobody = UnimplementedServiceClient::new(channel);
    assert_eq!(nobody.unimplemented_call(Empty {}).await.unwrap_err().code(), Code::Unimplemented);
}

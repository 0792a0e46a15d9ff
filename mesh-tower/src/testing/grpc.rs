//! Answers and requests of gRPC, without a gRPC library.

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderValue, Request, Response, Uri};
use http_body_util::BodyExt;
use mesh_core::grpc::{Code, GRPC_MESSAGE, GRPC_STATUS, percent_encode_message};

use super::body::{Payload, Pieces, empty, full};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// A trailers-only answer: the status is in the head and no body follows. It is how a server refuses a call; a mesh
/// may still retry it (gRFC A6). An empty `message` is left out.
pub fn trailers_only(code: Code, message: &str) -> Response<Payload> {
    let mut response = Response::new(empty());
    *response.headers_mut() = status(code, message);
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

/// An answer of `messages`, already encoded as protobuf, and the status in the trailers. Its head commits the call: a
/// mesh does not retry it, whatever the status (gRFC A6).
pub fn answer(messages: impl IntoIterator<Item = impl AsRef<[u8]>>, code: Code, message: &str) -> Response<Payload> {
    let pieces = messages.into_iter().map(|message| framed(message.as_ref()));
    let body = Pieces::new(pieces).with_trailers(status(code, message)).boxed_unsync();
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

/// A call of `uri` (`http://service/package.Service/Method`) with one `message`, already encoded as protobuf.
///
/// # Panics
/// If `uri` is none.
pub fn call(uri: &str, message: impl AsRef<[u8]>) -> Request<Payload> {
    let mut request = Request::new(full(framed(message.as_ref())));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = uri.parse::<Uri>().unwrap_or_else(|error| panic!("{uri:?} is no URI: {error}"));
    request.headers_mut().insert(CONTENT_TYPE, GRPC);
    request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
    request
}

/// `message` behind its prefix: not compressed, and its length in bytes.
///
/// # Panics
/// If it has 4 GiB or more.
pub fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(message.len().try_into().expect("a message of less than 4 GiB"));
    frame.put_slice(message);
    frame.freeze()
}

fn status(code: Code, message: &str) -> HeaderMap {
    let mut headers = HeaderMap::from_iter([(GRPC_STATUS, code.header_value())]);
    if !message.is_empty() {
        headers.insert(GRPC_MESSAGE, percent_encode_message(message));
    }
    headers
}

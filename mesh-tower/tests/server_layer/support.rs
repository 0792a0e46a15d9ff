//! A layer, requests for it, and handlers.

use std::convert::Infallible;
use std::future::Future;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Version};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use mesh_tower::core::model::{Config, Server};
use mesh_tower::server::{GrpcLayer, RequestBody, ServerBody, ServerLayer};
use mesh_tower::testing::Payload;
use mesh_tower::{BoxError, Mesh};
use tower::{Layer, ServiceExt, service_fn};

/// The layer of a server that serves in plaintext.
pub(crate) async fn layer(change: impl FnOnce(&mut Server)) -> (Mesh, ServerLayer) {
    let mut server = Server::new("public");
    change(&mut server);
    let mesh = Mesh::builder().config(Config::new().with_server(server)).build().await.unwrap();
    let layer = mesh.server_layer("public").unwrap();
    (mesh, layer)
}

/// Sends `request` through `layer` to `handler`.
pub(crate) async fn ask<B, H, F, RB>(layer: &ServerLayer, handler: H, request: Request<B>) -> Response<ServerBody<RB>>
where
    H: FnMut(Request<RequestBody<B>>) -> F,
    F: Future<Output = Response<RB>>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
    RB: Body<Data = Bytes>,
    RB::Error: Into<BoxError>,
{
    let mut handler = handler;
    let service = service_fn(move |request| {
        let response = handler(request);
        async { Ok::<_, Infallible>(response.await) }
    });
    layer.layer(service).oneshot(request).await.unwrap()
}

/// As [`ask`], of a handler that is said to speak gRPC.
pub(crate) async fn ask_grpc<B, H, F, RB>(
    layer: &ServerLayer,
    handler: H,
    request: Request<B>,
) -> Response<ServerBody<RB>>
where
    H: FnMut(Request<RequestBody<B>>) -> F,
    F: Future<Output = Response<RB>>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
    RB: Body<Data = Bytes>,
    RB::Error: Into<BoxError>,
{
    let mut handler = handler;
    let service = service_fn(move |request| {
        let response = handler(request);
        async { Ok::<_, Infallible>(response.await) }
    });
    layer.layer(GrpcLayer::new().layer(service)).oneshot(request).await.unwrap()
}

/// Reads the request, and answers with it.
pub(crate) async fn echo<B>(request: Request<RequestBody<B>>) -> Response<Full<Bytes>>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    // A handler that makes nothing of what went wrong.
    Response::new(Full::new(request.into_body().collect().await.map(|whole| whole.to_bytes()).unwrap_or_default()))
}

/// Never answers.
pub(crate) async fn stuck<B>(_: Request<RequestBody<B>>) -> Response<Full<Bytes>> {
    std::future::pending().await
}

pub(crate) fn get(path: &str) -> Request<Payload> {
    Request::get(path).header("host", "catalog").body(mesh_tower::testing::empty()).unwrap()
}

pub(crate) fn post(body: impl Into<Bytes>) -> Request<Payload> {
    Request::post("/items").header("host", "catalog").body(mesh_tower::testing::full(body)).unwrap()
}

/// A gRPC call with this body.
pub(crate) fn call(body: Payload) -> Request<Payload> {
    Request::post("http://catalog/catalog.v1.Catalog/List")
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc")
        .body(body)
        .unwrap()
}

/// One message of so many bytes.
pub(crate) fn message(length: u32) -> Bytes {
    [&[0][..], &length.to_be_bytes(), &vec![7; length as usize]].concat().into()
}

/// What a caller reads of an answer: its status, that of gRPC wherever it stands, and its body.
#[derive(Debug, PartialEq)]
pub(crate) struct Told {
    pub(crate) status: u16,
    pub(crate) grpc: Option<String>,
    pub(crate) body: Result<String, String>,
}

impl Told {
    pub(crate) fn http(status: u16, body: &str) -> Self {
        Self { status, grpc: None, body: Ok(body.to_owned()) }
    }

    /// A refusal, or the end of an answer, without a byte of a body.
    pub(crate) fn grpc(code: u16) -> Self {
        Self { status: 200, grpc: Some(code.to_string()), body: Ok(String::new()) }
    }

    pub(crate) async fn read<B>(response: Response<B>) -> Self
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let code = |headers: &HeaderMap| headers.get("grpc-status").map(|code| code.to_str().unwrap().to_owned());
        let (head, body) = response.into_parts();
        let (mut grpc, mut text) = (code(&head.headers), Vec::new());
        let mut body = std::pin::pin!(body);
        let body = loop {
            match body.frame().await {
                None => break Ok(String::from_utf8(text).unwrap()),
                Some(Err(error)) => break Err(error.into().to_string()),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => text.extend_from_slice(&data),
                    Err(trailers) => grpc = code(trailers.trailers_ref().unwrap()),
                },
            }
        };
        Self { status: head.status.as_u16(), grpc, body }
    }
}

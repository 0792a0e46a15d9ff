//! The paths of HTTP.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, RawQuery, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http::{HeaderMap, StatusCode, Version, header};
use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Frame, SizeHint};
use mesh_core::config::parse_duration;
use rand::RngExt as _;
use serde::Serialize;
use tonic::Status;

use super::{PeerInfo, Shared};

/// The longest answer of `/bytes`.
const MAX_BYTES: u64 = 1 << 30;
/// The longest pause of `/delay`.
const MAX_DELAY: Duration = Duration::from_secs(60 * 60);

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/status/{code}", any(status))
        .route("/delay/{duration}", any(delay))
        .route("/bytes/{count}", any(bytes))
        .route("/fail", any(fail))
        .fallback(echo)
        .with_state(shared)
}

/// What an answer tells.
#[derive(Debug, Serialize)]
struct Echo<'a> {
    method: &'a str,
    path: &'a str,
    headers: BTreeMap<&'a str, Vec<String>>,
    peer: PeerInfo,
    protocol: String,
    server_id: &'a str,
}

/// A request that asks for something that cannot be: 400, and the reason.
struct Bad(String);

impl IntoResponse for Bad {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, self.0 + "\n").into_response()
    }
}

async fn echo(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let kind = request.headers().get(header::CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        // It is of no service that is served (gRPC over HTTP/2).
        return Status::unimplemented(format!("there is no method {}", request.uri().path())).into_http();
    }
    answer(StatusCode::OK, &shared, request).await
}

async fn status(
    State(shared): State<Arc<Shared>>,
    Path(code): Path<String>,
    request: Request,
) -> Result<Response, Bad> {
    // One below 200 is no end of an exchange (RFC 9110 15.2), one above 599 of no class (RFC 9110 15).
    let status = code.parse().ok().filter(|code| (200..=599).contains(code));
    let status = status.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or_else(|| Bad(format!("{code:?} is not a status: write /status/CODE, from 200 to 599")))?;
    Ok(answer(status, &shared, request).await)
}

async fn delay(
    State(shared): State<Arc<Shared>>,
    Path(duration): Path<String>,
    request: Request,
) -> Result<Response, Bad> {
    let pause = parse_duration(&duration).filter(|pause| *pause <= MAX_DELAY).ok_or_else(|| {
        Bad(format!("{duration:?} is not a pause: write /delay/DURATION, at most 1h, as in 250ms, 2s or 1m30s"))
    })?;
    tokio::time::sleep(pause).await;
    Ok(answer(StatusCode::OK, &shared, request).await)
}

async fn bytes(Path(count): Path<String>, request: Request) -> Result<Response, Bad> {
    let left = count
        .parse()
        .ok()
        .filter(|count| *count <= MAX_BYTES)
        .ok_or_else(|| Bad(format!("{count:?} is not a number of bytes: write /bytes/N, at most {MAX_BYTES}")))?;
    if let Some(response) = drain(request.into_body()).await {
        return Ok(response);
    }
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    Ok((kind, Body::new(Zeros { left })).into_response())
}

async fn fail(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery, request: Request) -> Result<Response, Bad> {
    let query = query.unwrap_or_default();
    let percent = query.split('&').find_map(|pair| pair.strip_prefix("percent=")).unwrap_or("100");
    let chance = percent.parse().ok().filter(|percent| (0.0..=100.0).contains(percent));
    let chance: f64 =
        chance.ok_or_else(|| Bad(format!("{percent:?} is not a share: write /fail?percent=P, from 0 to 100")))?;
    let failed = rand::rng().random_bool(chance / 100.0);
    let status = if failed { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    Ok(answer(status, &shared, request).await)
}

/// Tells what came, once all of it has.
async fn answer(status: StatusCode, shared: &Shared, request: Request) -> Response {
    let (head, body) = request.into_parts();
    if let Some(response) = drain(body).await {
        return response;
    }
    // These have no content, by RFC 9110 15.3.5, 15.3.6 and 15.4.5.
    if matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED) {
        return status.into_response();
    }
    let echo = Echo {
        method: head.method.as_str(),
        path: head.uri.path(),
        headers: by_name(&head.headers),
        peer: (shared.peer)(&head.extensions),
        protocol: protocol(head.version),
        server_id: &shared.server_id,
    };
    let mut text = serde_json::to_string(&echo).expect("it has only strings, and maps of them");
    text.push('\n');
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// Reads a request to its end, however long it is, and keeps nothing of it. What to answer if it broke off.
async fn drain(mut body: Body) -> Option<Response> {
    while let Some(frame) = body.frame().await {
        if let Err(error) = frame {
            return Some(Bad(format!("the request broke off: {error}")).into_response());
        }
    }
    None
}

/// What is not UTF-8 in a value is replaced by U+FFFD.
fn by_name(headers: &HeaderMap) -> BTreeMap<&str, Vec<String>> {
    let mut names = BTreeMap::<_, Vec<_>>::new();
    for (name, value) in headers {
        names.entry(name.as_str()).or_default().push(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    names
}

fn protocol(version: Version) -> String {
    match version {
        Version::HTTP_2 => "HTTP/2".to_owned(),
        Version::HTTP_3 => "HTTP/3".to_owned(),
        other => format!("{other:?}"),
    }
}

/// So many zeros, a piece at a time.
#[derive(Debug)]
struct Zeros {
    left: u64,
}

static PIECE: [u8; 64 * 1024] = [0; 64 * 1024];

impl hyper::body::Body for Zeros {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let length = self.left.min(PIECE.len() as u64);
        self.left -= length;
        Poll::Ready((length > 0).then(|| Ok(Frame::data(Bytes::from_static(&PIECE[..length as usize])))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

//! What a server does with each request before and behind its handler.

mod answer;
mod body;
mod caller;
mod claim;
mod future;
mod mark;
mod request_body;
mod scope;
mod serving;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response, Version};
use http_body::Body;
use mesh_core::grpc;
use mesh_core::inbound::check_target;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use self::answer::Answer;
pub use self::body::ServerBody;
use self::claim::Claim;
pub use self::future::ServerFuture;
pub use self::mark::{GrpcLayer, GrpcService};
use self::request_body::{Bounds, Forwarded};
pub use self::request_body::{RequestBody, RequestBodyError};
use self::scope::Scope;
pub(crate) use self::scope::inherited_deadline;
use self::serving::{Call, Serving};
use super::peer::Peer;
use super::state::{ServerSettings, ServerState};
use crate::error::BoxError;
use crate::net::after;
use crate::telemetry::server::{Received, Refusal};

/// What a server of the mesh does with each request: who calls, within which limits, and what is told of it. Made by
/// [`Mesh::server_layer`](crate::Mesh::server_layer), for a framework that brings its own accept loop; [`Mesh::serve`]
/// puts it around every service itself.
///
/// It fits an axum `Router` (`router.layer(..)`), tonic's `Server::builder().layer(..)`, and any other service that takes
/// a [`RequestBody`]. It adds no error, boxes nothing, and refuses with an answer of its own, whose body is a
/// [`ServerBody`]. It goes by the configuration in force, request by request.
///
/// # In this order
/// 1. **The caller**, from the `Arc<Peer>` that [`Mesh::serve`] and the adapters leave with each request. A strict server
///    refuses whoever has not proved who they are, and everybody if nobody says who calls: it fails closed.
/// 2. **A well-formed head**: the number of headers, the path, the host ([`check_target`]).
/// 3. **Headers that say who the caller is** are [removed](mesh_core::inbound::is_identity_header), from the trailers too,
///    unless the caller is one of the `trusted_proxies`; `x-forwarded-client-cert` is written if that is asked for.
/// 4. **Limits** of time and of bodies.
/// 5. **The handler**, whose panic is an answer like any other.
///
/// | | HTTP | gRPC |
/// | --- | --- | --- |
/// | the caller is not let in | 403 | PERMISSION_DENIED |
/// | more than `max_headers` | 431 | RESOURCE_EXHAUSTED |
/// | a path without a leading slash, or without service and method | 400 | UNIMPLEMENTED |
/// | no host, two of them, or one that is none | 400 | 400, INTERNAL |
/// | `request_timeout` passes before the answer's head | 504 | DEADLINE_EXCEEDED |
/// | `grpc-timeout` passes, before or behind the answer's head | - | DEADLINE_EXCEEDED |
/// | more than `max_body_bytes` | 413 | RESOURCE_EXHAUSTED, unless the handler speaks gRPC |
/// | a message of more than `max_message_bytes` | - | RESOURCE_EXHAUSTED |
/// | `body_timeout` passes while the handler waits for the body | 408 | DEADLINE_EXCEEDED, unless the handler speaks gRPC |
/// | the handler panics | 500 | INTERNAL |
///
/// What happens behind the head of an HTTP answer cannot change it any more: a body that is refused then is an error for
/// the handler, which has to know what to do, and a panic breaks the answer.
///
/// A gRPC call is a `POST` of HTTP/2 with gRPC's content type. That is its caller's word, which is enough for an answer in
/// gRPC's manner, and not for gRPC's limits: `max_body_bytes` and `body_timeout` hold as for any other request until its
/// handler is known to speak gRPC, because the head of the answer has gRPC's content type, or because the application
/// [said so](GrpcLayer) beforehand.
///
/// # What a handler sends
/// Whatever the handler waits for is dropped with its future when the caller goes away or the time is up: requests to
/// other services too. With `propagate_deadline` what it sends by a client of a mesh, is bound by the time that is left;
/// and where traces are on it belongs to the caller's. Both hold for what is called while the handler or the body of its
/// answer is polled: a task of its own, by `tokio::spawn`, is cut off from its caller.
///
/// # Cost
/// No allocation of its own, unless somebody watches. axum boxes the bodies of requests and answers once more when
/// `Router::layer` is what puts it in place; around the whole router it does not.
///
/// [`Mesh::serve`]: crate::Mesh::serve
#[derive(Debug, Clone)]
pub struct ServerLayer {
    state: Arc<ServerState>,
}

impl ServerLayer {
    pub(crate) fn new(state: Arc<ServerState>) -> Self {
        Self { state }
    }
}

impl<S> Layer<S> for ServerLayer {
    type Service = ServerService<S>;

    fn layer(&self, inner: S) -> ServerService<S> {
        ServerService { inner, state: Arc::clone(&self.state) }
    }
}

/// The service of a [`ServerLayer`]. Ready when the inner one is.
#[derive(Debug, Clone)]
pub struct ServerService<S> {
    inner: S,
    state: Arc<ServerState>,
}

impl<S, B, RB> Service<Request<B>> for ServerService<S>
where
    S: Service<Request<RequestBody<B>>, Response = Response<RB>>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
    RB: Body<Data = Bytes>,
    RB::Error: Into<BoxError>,
{
    type Response = Response<ServerBody<RB>>;
    type Error = S::Error;
    type Future = ServerFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> ServerFuture<S::Future> {
        let (mut parts, body) = request.into_parts();
        let is_known = caller::find(&mut parts.extensions).is_some_and(|peer| peer.is_grpc);
        let received = Received::begin(&self.state, &parts, parts.extensions.get());
        let mut serving = Serving { received, scope: Scope::default(), claim: None };
        let is_grpc = parts.version >= Version::HTTP_2 && parts.method == Method::POST && grpc::is_grpc(&parts.headers);
        let mut call = Call { is_grpc, is_head: parts.method == Method::HEAD, deadline: None };
        let settings = self.state.settings();
        let admitted = match admit(&self.state, &settings, &mut parts, &body, is_grpc) {
            Ok(admitted) => admitted,
            Err(answer) => return ServerFuture::refused(answer, serving, call),
        };
        let Admitted { is_trusted, deadline, until } = admitted;
        call.deadline = deadline;
        let inherited = until.filter(|_| settings.server.propagate_deadline).map(|(at, _)| at);
        serving.scope = Scope::new(!body.is_end_stream(), inherited);
        let limits = &settings.server.limits;
        let bounds = match (is_grpc, is_known) {
            (false, _) => Bounds::Http,
            (true, true) => Bounds::Grpc,
            (true, false) => Bounds::Either(serving.claim.insert(Claim::new()).clone()),
        };
        let forwarded = Forwarded::new(&settings.server.forwarded_identity, is_trusted);
        let body = RequestBody::new(body, serving.scope.request(), bounds, forwarded, limits);
        drop(settings);
        let request = Request::from_parts(parts, body);
        match serving.poll(|| self.inner.call(request)) {
            Some(inner) => ServerFuture::handled(inner, until, serving, call),
            None => ServerFuture::refused(Refusal::Panic.into(), serving, call),
        }
    }
}

/// What was found out of a request that is served.
struct Admitted {
    is_trusted: bool,
    /// The caller's.
    deadline: Option<Instant>,
    /// Until when there must be an answer, and why.
    until: Option<(Instant, Refusal)>,
}

/// Decides whether a request goes to the handler, and puts its head right.
fn admit<B: Body>(
    state: &ServerState,
    settings: &ServerSettings,
    parts: &mut Parts,
    body: &B,
    is_grpc: bool,
) -> Result<Admitted, Answer> {
    let (server, limits) = (&settings.server, &settings.server.limits);
    let peer = parts.extensions.get::<Arc<Peer>>().map(|peer| &**peer);
    caller::let_in(settings, peer)?;
    if parts.headers.len() > limits.max_headers as usize {
        return Err(Refusal::Headers.into());
    }
    check_target(parts, is_grpc)?;
    let is_trusted = caller::is_trusted(&server.forwarded_identity, peer);
    caller::sanitize(&mut parts.headers, &server.forwarded_identity, peer, is_trusted, state);

    // Here is the place for what decides by who calls and what for: rules, tokens, rate limits. The caller is known, the
    // head is well-formed and says nothing that is not true, and nothing has been spent on the request yet.

    if !is_grpc && limits.max_body_bytes.is_some_and(|max| body.size_hint().lower() > max) {
        return Err(Refusal::BodySize.into());
    }
    let timeout = match parts.headers.get(grpc::GRPC_TIMEOUT).filter(|_| is_grpc) {
        Some(value) => Some(grpc::parse_timeout(value.as_bytes()).map_err(|_| Answer::to_bad_timeout())?),
        None => None,
    };
    if timeout == Some(Duration::ZERO) {
        return Err(Refusal::Deadline.into());
    }
    if timeout.is_none() && limits.request_timeout.is_none() {
        return Ok(Admitted { is_trusted, deadline: None, until: None });
    }
    let now = Instant::now();
    let deadline = timeout.map(|timeout| after(now, timeout));
    let ours = limits.request_timeout.map(|timeout| (after(now, timeout), Refusal::RequestTimeout));
    let callers = deadline.map(|at| (at, Refusal::Deadline));
    let until = [callers, ours].into_iter().flatten().min_by_key(|(at, _)| *at);
    Ok(Admitted { is_trusted, deadline, until })
}

#[cfg(test)]
mod tests;

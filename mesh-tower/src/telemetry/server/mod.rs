//! What a server tells of its requests: spans, metrics, the access log, observers.
//!
//! A [`Received`] is made once the head of a request is here, goes with it through the layer, and tells everybody when
//! the answer is whole or nobody waits for it any more. If nobody wants to know, it is empty.

mod access;
mod escape;
mod refusal;
mod span;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::{HeaderMap, StatusCode, Uri};
use mesh_core::grpc::{self, Code};
use mesh_core::model::AccessLog;
use mesh_core::observe::{self, Outcome};
use opentelemetry::Context;
use tokio::time::Instant;

pub use self::access::AccessSink;
pub(crate) use self::refusal::{ConnectionRefusal, Refusal};
use self::span::ServerSpan;
use crate::server::{Peer, ServerState};
use crate::telemetry::metrics::{HttpKind, MethodSeries, Served};

/// One request while it is served. Dropping it before it [ended](Self::ended) says that its caller went away.
pub(crate) struct Received(Option<Active>);

/// A request that somebody wants to know of.
struct Active {
    state: Arc<ServerState>,
    peer: Option<Arc<Peer>>,
    began: Instant,
    grpc: bool,
    counted: Counted,
    span: Option<ServerSpan>,
    entry: Option<Box<access::Entry>>,
    /// Of the answer's head.
    status: Option<StatusCode>,
    code: Option<Code>,
    refusal: Option<Refusal>,
    received: u64,
    sent: u64,
}

/// What a request is counted by.
enum Counted {
    Nothing,
    Http(HttpKind),
    Grpc(Arc<MethodSeries>),
    /// A gRPC call to a path that may be anything: nobody has answered to it so far.
    Unknown(Box<Uri>),
}

/// How a request ended, for whoever is told.
#[derive(Clone, Copy)]
struct End<'a> {
    outcome: Outcome,
    served: Served,
    refusal: Option<Refusal>,
    /// Those that hold gRPC's status, where they came.
    trailers: Option<&'a HeaderMap>,
}

impl Received {
    /// A request came in, from `peer` if that is known.
    pub(crate) fn begin(state: &Arc<ServerState>, request: &http::request::Parts, peer: Option<&Arc<Peer>>) -> Self {
        let shared = &state.shared;
        let (requests, spans) = (state.series.requests.as_ref(), shared.telemetry.spans.as_ref());
        let settings = state.settings();
        let form = settings.server.access_log;
        let logs = form != AccessLog::Off && access::is_heard(shared.access_log.as_deref());
        if requests.is_none() && spans.is_none() && !logs && !shared.observers.watches_requests() {
            return Self(None);
        }
        let grpc = grpc::is_grpc(&request.headers);
        let secure = peer.map_or(request.uri.scheme() == Some(&http::uri::Scheme::HTTPS), |peer| peer.is_mutual());
        let counted = match requests {
            None => Counted::Nothing,
            Some(requests) if !grpc => Counted::Http(requests.http(&request.method, secure)),
            Some(requests) => requests
                .grpc(request.uri.path())
                .map_or_else(|| Counted::Unknown(Box::new(request.uri.clone())), Counted::Grpc),
        };
        let formats = &settings.mesh.telemetry.propagators;
        let span = spans.and_then(|spans| ServerSpan::begin(spans, formats, request, grpc, secure, peer.map(|p| &**p)));
        let entry = logs.then(|| {
            let trace = span.as_ref().map(ServerSpan::trace_id);
            Box::new(access::Entry::new(form, request, trace, || {
                super::propagate::remote_span(formats, grpc, &request.headers)
            }))
        });
        Self(Some(Active {
            state: Arc::clone(state),
            peer: peer.cloned(),
            began: Instant::now(),
            grpc,
            counted,
            span,
            entry,
            status: None,
            code: None,
            refusal: None,
            received: 0,
            sent: 0,
        }))
    }

    /// What its handler is to be polled in, if anything: the context with its span and its caller's baggage. Where the
    /// span is not recorded the context has ids all the same, so that no client below decides anew about sampling.
    pub(crate) fn context(&self) -> Option<&Context> {
        self.0.as_ref()?.span.as_ref().map(ServerSpan::context)
    }

    /// It is not, or no longer, served. The answer that says so follows, if there is one. The first word counts.
    pub(crate) fn refused(&mut self, why: Refusal) {
        let Some(active) = &mut self.0 else { return };
        if active.refusal.is_none() {
            active.refusal = Some(why);
            if let Some(requests) = &active.state.series.requests {
                requests.refused(why);
            }
        }
    }

    /// The head of its answer goes out.
    pub(crate) fn answered(&mut self, head: &http::response::Parts) {
        let Some(active) = &mut self.0 else { return };
        active.status = Some(head.status);
        if !active.grpc {
            return;
        }
        active.code = grpc::status(&head.headers);
        let Counted::Unknown(uri) = &active.counted else { return };
        // An answer with a code other than OK and nothing else is also what interceptors, limits and routers give to
        // paths that nobody serves.
        let is_handlers = active.refusal.is_none()
            && head.status == StatusCode::OK
            && grpc::is_grpc(&head.headers)
            && active.code.is_none_or(|code| code == Code::Ok);
        let requests = active.state.series.requests.as_ref().filter(|_| is_handlers);
        if let Some(method) = requests.and_then(|requests| requests.learn(uri.path())) {
            active.counted = Counted::Grpc(method);
        }
    }

    /// So much of the answer's body went out.
    pub(crate) fn sent(&mut self, bytes: usize) {
        if let Some(active) = &mut self.0 {
            active.sent += bytes as u64;
        }
    }

    /// So much of the request's body came in.
    pub(crate) fn received(&mut self, bytes: usize) {
        if let Some(active) = &mut self.0 {
            active.received += bytes as u64;
        }
    }

    /// Its answer is whole.
    pub(crate) fn ended(&mut self, trailers: Option<&HeaderMap>) {
        if let Some(mut active) = self.0.take() {
            active.code = trailers.and_then(grpc::status).or(active.code);
            // An answer that ends has begun.
            let status = active.status.unwrap_or(StatusCode::OK);
            let code = active.grpc.then(|| match active.code {
                Some(code) => code,
                None if status == StatusCode::OK => Code::Unknown,
                None => grpc::code_of_http_status(status),
            });
            active.tell(Outcome::Response { status, grpc: code }, trailers);
        }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if let Some(active) = self.0.take() {
            active.tell(Outcome::Cancelled, None);
        }
    }
}

impl Active {
    fn tell(self, outcome: Outcome, trailers: Option<&HeaderMap>) {
        let took = self.began.elapsed();
        let (status, code) = match outcome {
            Outcome::Response { status, grpc } => (Some(status), grpc),
            _ => (None, self.grpc.then_some(Code::Cancelled)),
        };
        let served = match (self.refusal, status, code) {
            (Some(why), ..) if why != Refusal::Panic => Served::Refused,
            (_, None, _) => Served::Cancelled,
            (_, Some(_), Some(code)) => Served::of_code(code),
            (_, Some(status), None) => Served::of_status(status),
        };
        let end = End { outcome, served, refusal: self.refusal, trailers };
        let identity = self.peer.as_ref().and_then(|peer| peer.identity());
        if let Some(requests) = &self.state.series.requests {
            match &self.counted {
                Counted::Nothing => {}
                Counted::Http(kind) => requests.http_ended(*kind, status, took),
                Counted::Grpc(method) => requests.grpc_ended(Some(method), code.unwrap_or(Code::Unknown), took),
                Counted::Unknown(_) => requests.grpc_ended(None, code.unwrap_or(Code::Unknown), took),
            }
            requests.counted(identity.map(|id| id.as_str()), served);
        }
        if let Some(span) = &self.span {
            span.end(self.grpc, &end);
        }
        if let Some(entry) = &self.entry {
            let facts = access::Facts {
                server: &self.state.name,
                peer: self.peer.as_deref(),
                status: self.status,
                code,
                end,
                took,
                received: self.received,
                sent: self.sent,
            };
            access::tell(self.state.shared.access_log.as_deref(), entry, &facts);
        }
        let mut event = observe::Served::new(&self.state.name, outcome, took);
        event.peer = identity;
        event.refusal = self.refusal.map(Refusal::as_str);
        self.state.shared.observers.served(event);
    }
}

//! What a server tells of its requests: spans, metrics, the access log.

mod refusal;

use std::sync::Arc;

use http::HeaderMap;
use opentelemetry::Context;

pub(crate) use self::refusal::{ConnectionRefusal, Refusal};
use crate::server::{Peer, ServerState};

/// One request while it is served. Dropping it before it [ended](Self::ended) says that its caller went away.
pub(crate) struct Received;

impl Received {
    pub(crate) fn begin(_state: &Arc<ServerState>, _request: &http::request::Parts, _peer: Option<&Arc<Peer>>) -> Self {
        Self
    }

    /// What its handler is to be polled in, if anything.
    pub(crate) fn context(&self) -> Option<&Context> {
        None
    }

    /// It is not, or no longer, served. The answer that says so follows.
    pub(crate) fn refused(&mut self, _why: Refusal) {}

    /// The head of its answer goes out.
    pub(crate) fn answered(&mut self, _head: &http::response::Parts) {}

    /// So much of the answer's body went out.
    pub(crate) fn sent(&mut self, _bytes: usize) {}

    /// So much of the request's body came in.
    pub(crate) fn received(&mut self, _bytes: usize) {}

    /// Its answer is whole.
    pub(crate) fn ended(&mut self, _trailers: Option<&HeaderMap>) {}
}

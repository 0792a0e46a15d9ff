//! As much of a gRPC client as the mesh needs itself: one message to one endpoint, and one or many back.
//!
//! The messages are written by hand in `mesh-core`: there are three, of one field each, and Protobuf's runtime is no
//! dependency of this crate without its feature `otlp`.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, TE};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, Method};
use mesh_core::grpc::messages::{Messages, framed};
use mesh_core::grpc::{self, Code};
use tokio::time::{Instant, timeout_at};

use super::aside::{self, Answer, AnswerBody, Question, Unanswered};
use super::pool::Slot;
use super::{Endpoint, Wanted, after};

/// The longest message that is read, in bytes.
const MAX_MESSAGE: usize = 64 * 1024;

/// A call with one message.
pub(crate) struct Call {
    /// What stands for HTTP/2 at the backend.
    pub(crate) wanted: Wanted,
    pub(crate) authority: Authority,
    pub(crate) path: &'static str,
    /// Serialized.
    pub(crate) message: Vec<u8>,
}

/// Why a call brought no message, or no more of them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
    /// It ended with this status; a stream may do so with OK.
    #[error("{}", .0.name())]
    Status(Code),
    /// The connection takes no more requests, and is not to be kept by this one.
    #[error("the connection is to be closed")]
    Leaving,
}

impl Call {
    fn question(&self, timeout: Option<Duration>) -> Question {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        if let Some(timeout) = timeout {
            headers.insert(grpc::GRPC_TIMEOUT, grpc::encode_timeout(timeout));
        }
        Question {
            wanted: self.wanted,
            authority: self.authority.clone(),
            method: Method::POST,
            path: PathAndQuery::from_static(self.path),
            headers,
            body: framed(&self.message).unwrap_or_default(),
        }
    }

    /// Sends it and reads one message. A place for it, and then the answer, may each take `timeout`.
    pub(crate) async fn unary(&self, endpoint: &Arc<Endpoint>, timeout: Duration) -> Result<Bytes, CallError> {
        let place = self.place(endpoint, timeout).await?;
        let deadline = after(Instant::now(), timeout);
        let answer = aside::ask(endpoint, &self.question(Some(timeout)), place, deadline).await?;
        let read = async {
            let mut answer = Reading::new(answer)?;
            let message = answer.next().await?;
            // OK, or what became of it after the message.
            match answer.next().await {
                Err(CallError::Status(Code::Ok)) => Ok(message),
                Err(error) => Err(error),
                Ok(_) => Err(CallError::Status(Code::Internal)),
            }
        };
        timeout_at(deadline, read).await.unwrap_or(Err(Unanswered::Late.into()))
    }

    /// Sends it and shows each message to `each`, until the stream ends; says why it did. A place for it may take
    /// `timeout`.
    ///
    /// It does not hold a connection that is to be closed.
    pub(crate) async fn stream(
        &self,
        endpoint: &Arc<Endpoint>,
        timeout: Duration,
        mut each: impl FnMut(&[u8]),
    ) -> CallError {
        let place = match self.place(endpoint, timeout).await {
            Ok(place) => place,
            Err(error) => return error,
        };
        let Slot::H2(permit) = &place else { return Unanswered::NotAsked.into() };
        let conn = Arc::clone(permit.conn());
        let reading = async {
            // A server may send its head with the first message.
            let answer = aside::ask_once(endpoint, &self.question(None), place).await?;
            let mut answer = Reading::new(answer)?;
            loop {
                each(&answer.next().await?);
            }
        };
        tokio::select! {
            result = reading => match result {
                Ok(never) => never,
                Err(error) => error,
            },
            () = conn.drained() => CallError::Leaving,
        }
    }

    async fn place(&self, endpoint: &Arc<Endpoint>, timeout: Duration) -> Result<Slot, CallError> {
        match aside::find(endpoint, self.wanted, after(Instant::now(), timeout)).await? {
            // ALPN agreed on HTTP/1.1.
            Slot::H1(lease) => {
                lease.finish();
                Err(Unanswered::NotAsked.into())
            }
            place => Ok(place),
        }
    }
}

/// An answer whose messages are read.
struct Reading {
    body: AnswerBody,
    messages: Messages,
}

impl Reading {
    fn new(answer: Answer) -> Result<Self, CallError> {
        let Answer { head, body } = answer;
        let ended = matches!(&body, AnswerBody::H2(stream, _) if stream.is_end_stream());
        match grpc::code_of_head(head.status, &head.headers, ended) {
            Some(code) => Err(CallError::Status(code)),
            None if !grpc::is_grpc(&head.headers) => Err(CallError::Status(Code::Unknown)),
            None => Ok(Self { body, messages: Messages::new(MAX_MESSAGE) }),
        }
    }

    /// The next message; without one the status of the call is the error, be it OK.
    async fn next(&mut self) -> Result<Bytes, CallError> {
        let broken = |error| CallError::from(Unanswered::H2(error));
        let AnswerBody::H2(stream, _) = &mut self.body else { return Err(CallError::Status(Code::Internal)) };
        loop {
            if let Some(message) = self.messages.take().map_err(|_| CallError::Status(Code::Internal))? {
                return Ok(message);
            }
            let Some(piece) = poll_fn(|cx| stream.poll_data(cx)).await else { break };
            let piece = piece.map_err(broken)?;
            self.messages.push(&piece);
            // An error means that the stream has ended meanwhile, which the next piece tells.
            let _ = stream.flow_control().release_capacity(piece.len());
        }
        self.messages.end().map_err(|_| CallError::Status(Code::Internal))?;
        let trailers = poll_fn(|cx| stream.poll_trailers(cx)).await.map_err(broken)?;
        Err(CallError::Status(trailers.as_ref().and_then(grpc::status).unwrap_or(Code::Unknown)))
    }
}

//! Requests of our own, at one endpoint: whether it is well, how much it bears.
//!
//! They go over the connections that callers' requests use, and count for nothing that is meant for those: not as
//! requests in flight, nor against limits and budgets, nor as a use of a connection that would idle out without them.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{HOST, HeaderValue, USER_AGENT};
use http::response::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use mesh_core::balance::State;
use tokio::time::{Instant, timeout_at};

use super::h1::{self, Lease, WireBody};
use super::h2::{self, Permit};
use super::pool::{self, NoLease, Offer, Slot};
use super::{Endpoint, Wanted};

const AGENT: HeaderValue = HeaderValue::from_static(concat!("mesh-tower/", env!("CARGO_PKG_VERSION")));
/// How much of an answer is read so that its connection can go on.
const DRAIN_BYTES: usize = 64 * 1024;

/// A request to be sent.
pub(crate) struct Question {
    pub(crate) wanted: Wanted,
    pub(crate) authority: Authority,
    pub(crate) method: Method,
    pub(crate) path: PathAndQuery,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    /// Nothing was asked, because there was no room, or no connection in time.
    #[error("there was no connection to ask on")]
    NotAsked,
    /// The endpoint cannot be connected.
    #[error("the endpoint cannot be connected")]
    Failing,
    #[error("the time is up")]
    Late,
    #[error("the stream broke: {0}")]
    H2(::h2::Error),
    #[error("the connection broke: {0}")]
    H1(hyper::Error),
    /// It is of no use to ask in this way.
    #[error("the request cannot be sent: {0}")]
    Invalid(::h2::Error),
}

/// An answer, of which the head is here.
pub(crate) struct Answer {
    pub(crate) head: Parts,
    pub(crate) body: AnswerBody,
}

pub(crate) enum AnswerBody {
    /// The permit keeps the place of the stream.
    H2(::h2::RecvStream, #[expect(dead_code, reason = "it is held")] Permit),
    H1(Incoming, Lease),
}

/// Asks `endpoint` and waits for the head of its answer until `deadline`. `place` is what [`find`] found.
///
/// What no peer has processed is sent once more: a connection may leave as it is written to.
pub(crate) async fn ask(
    endpoint: &Arc<Endpoint>,
    question: &Question,
    place: Slot,
    deadline: Instant,
) -> Result<Answer, Unanswered> {
    let exchange = async {
        match exchange(endpoint, question, place).await {
            Ok(answer) => Ok(answer),
            Err(Broken { error, again: false }) => Err(error),
            Err(Broken { again: true, .. }) => {
                let place = find_anew(endpoint, question.wanted, true).await?;
                exchange(endpoint, question, place).await.map_err(|broken| broken.error)
            }
        }
    };
    timeout_at(deadline, exchange).await.unwrap_or(Err(Unanswered::Late))
}

/// As [`ask`], once and without a deadline.
pub(super) async fn ask_once(endpoint: &Arc<Endpoint>, question: &Question, place: Slot) -> Result<Answer, Unanswered> {
    exchange(endpoint, question, place).await.map_err(|broken| broken.error)
}

/// A place for a question at `endpoint`, which is connected if need be, until `deadline`.
pub(crate) async fn find(endpoint: &Arc<Endpoint>, wanted: Wanted, deadline: Instant) -> Result<Slot, Unanswered> {
    // A peer that has no room is busy, and not ill.
    timeout_at(deadline, find_anew(endpoint, wanted, false)).await.unwrap_or(Err(Unanswered::NotAsked))
}

async fn find_anew(endpoint: &Arc<Endpoint>, wanted: Wanted, fresh: bool) -> Result<Slot, Unanswered> {
    let cluster = &endpoint.transport().cluster;
    loop {
        let changed = cluster.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        match pool::offer_aside(endpoint, wanted) {
            Offer::H2(permit) => return Ok(Slot::H2(permit)),
            Offer::H1 => {
                return match pool::lease_aside(endpoint, fresh).await {
                    Ok(lease) => Ok(Slot::H1(lease)),
                    Err(NoLease::Lost(_)) if pool::has_left(endpoint) => Err(Unanswered::NotAsked),
                    Err(NoLease::Lost(_)) => Err(Unanswered::Failing),
                    Err(NoLease::Full(_) | NoLease::Stuck) => Err(Unanswered::NotAsked),
                };
            }
            Offer::Busy if endpoint.state() == State::Failing => return Err(Unanswered::Failing),
            Offer::Busy if pool::refuses_http2(endpoint) || pool::has_left(endpoint) => {
                return Err(Unanswered::NotAsked);
            }
            Offer::Busy => changed.await,
        }
    }
}

struct Broken {
    error: Unanswered,
    /// Whether it may be asked once more.
    again: bool,
}

async fn exchange(endpoint: &Arc<Endpoint>, question: &Question, place: Slot) -> Result<Answer, Broken> {
    match place {
        Slot::H2(permit) => {
            let mut body = Full::new(question.body.clone());
            let request = question.http2(endpoint.transport().is_secure());
            let result = permit.exchange(request, &mut body).await;
            let (error, again) = match result {
                // The body is here whole, so there is nothing left to be sent but what the window held back.
                Ok((response, _)) => {
                    let (head, stream) = response.into_parts();
                    return Ok(Answer { head, body: AnswerBody::H2(stream, permit) });
                }
                Err(h2::ExchangeError::NotSent(error)) => (error, true),
                Err(h2::ExchangeError::Invalid(error)) => {
                    return Err(Broken { error: Unanswered::Invalid(error), again: false });
                }
                Err(h2::ExchangeError::Failed(error)) => {
                    let refused = h2::is_refused(&error);
                    (error, refused)
                }
                Err(h2::ExchangeError::Body(never)) => match never {},
            };
            if again || error.is_go_away() || error.is_io() {
                pool::retire(endpoint, permit.conn());
            }
            Err(Broken { error: Unanswered::H2(error), again })
        }
        Slot::H1(mut lease) => {
            let again = lease.is_reused();
            match lease.exchange(question.http1()).await {
                Ok(response) => {
                    let (head, incoming) = response.into_parts();
                    Ok(Answer { head, body: AnswerBody::H1(incoming, lease) })
                }
                Err(h1::ExchangeError::NotSent(None)) => Err(Broken { error: Unanswered::NotAsked, again: true }),
                Err(h1::ExchangeError::NotSent(Some(error))) => {
                    Err(Broken { error: Unanswered::H1(error), again: true })
                }
                Err(h1::ExchangeError::Failed(error)) => {
                    let again = again && !error.is_parse();
                    Err(Broken { error: Unanswered::H1(error), again })
                }
            }
        }
    }
}

impl Question {
    fn http2(&self, secure: bool) -> Request<()> {
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(if secure { Scheme::HTTPS } else { Scheme::HTTP });
        uri.authority = Some(self.authority.clone());
        uri.path_and_query = Some(self.path.clone());
        let mut request = self.request(uri, ());
        *request.version_mut() = http::Version::HTTP_2;
        request
    }

    fn http1(&self) -> Request<WireBody> {
        let mut uri = http::uri::Parts::default();
        uri.path_and_query = Some(self.path.clone());
        let body = Full::new(self.body.clone()).map_err(|never| match never {});
        let mut request = self.request(uri, WireBody::new(body));
        if let Ok(host) = HeaderValue::from_str(self.authority.as_str()) {
            request.headers_mut().insert(HOST, host);
        }
        request
    }

    fn request<B>(&self, uri: http::uri::Parts, body: B) -> Request<B> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().insert(USER_AGENT, AGENT);
        request
    }
}

impl Answer {
    /// Reads what is left, if that is little and comes until `deadline`, so that a connection of HTTP/1.1 can be used
    /// again.
    pub(crate) async fn discard(self, deadline: Instant) {
        let AnswerBody::H1(mut incoming, lease) = self.body else { return };
        let drain = async {
            let mut left = DRAIN_BYTES;
            while let Some(frame) = incoming.frame().await {
                let read = frame.ok()?.data_ref().map_or(0, Bytes::len);
                left = left.checked_sub(read)?;
            }
            Some(())
        };
        if let Ok(Some(())) = timeout_at(deadline, drain).await {
            lease.finish();
        }
    }
}

//! From a request to its response: route, attempt, decide, again.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Body as HttpBody;
use mesh_core::classify::{Attempt, Failure};
use mesh_core::grpc::{self, Code};
use mesh_core::observe::{Next, Outcome};
use mesh_core::resilience::deadline;
use mesh_core::resilience::replay::Replay;
use mesh_core::resilience::retry::{Decision, Retry};
use tokio::time::Instant;

use super::attempt::{self, Failed, Received, RequestBody, Rest};
use super::body::{Body, Guard};
use super::context::Context;
use super::head::{Head, PerAttempt};
use super::hedge;
use super::permit::RetryPermit;
use super::pick::{self, NoPlace, Place, Search};
use super::target::Target;
use crate::error::{BoxError, Error, ErrorKind};
use crate::mesh::Handle;
use crate::net::{Endpoint, MAX_WAIT, Wanted, after};
use crate::telemetry::metrics::Picked;
use crate::telemetry::spans::{AttemptSpan, Caller, Sent};

/// How much of a request body is kept for a resend where no policy says: enough for what a peer refuses unprocessed.
const DEFAULT_REPLAY: usize = mesh_core::model::RetryPolicy::DEFAULT_MAX_BODY_BYTES;

/// Sends `request` by the configuration of `handle`. `inherited`: when whatever it is sent for has to be done.
pub(crate) async fn call<B>(
    handle: Arc<Handle>,
    target: Target,
    caller: Caller,
    inherited: Option<Instant>,
    request: Request<B>,
) -> Result<Response<Body>, Error>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let (parts, body) = request.into_parts();
    let mut head = Head::new(parts, &target)?;
    if let Some(inherited) = inherited {
        head.limit_to(inherited.saturating_duration_since(Instant::now()));
    }
    let mut context = Context::begin(handle, caller, &mut head).await?;
    let wanted = match context.admit().and_then(|()| context.wanted(&head)) {
        Ok(wanted) => wanted,
        Err(error) => return Err(context.fail(error)),
    };
    if let Err(error) = head.set_content_length(body.size_hint().exact()) {
        return Err(context.fail(error));
    }
    let limit = deadline::effective(head.caller_timeout(), context.policy.timeout);
    // The timer is looked at only after the first step of what it bounds, and that may send the request.
    if limit.is_some_and(|limit| limit.is_zero()) {
        let error = deadline_exceeded(&context, Duration::ZERO);
        return Err(context.fail(error));
    }
    if let Some(limit) = limit.filter(|_| context.wait_for_ready) {
        // The deadline comes first, and is the error.
        context.max_wait = limit.saturating_add(MAX_WAIT);
    }
    let deadline = limit.map(|limit| after(context.started, limit));
    context.deadline = deadline;
    let result = match hedge::policy(&context, &head, body.size_hint().lower()) {
        None => {
            let max_body = context.retry().map_or(DEFAULT_REPLAY, |policy| policy.max_body_bytes);
            let body = RequestBody::Own(Replay::new(body, max_body));
            // Pinned where it is made: it is large, and every move of it is a copy.
            let running = pin!(attempts(&mut context, &head, body, wanted));
            until(deadline, running).await
        }
        // In a box: few requests come here, and all would carry its state.
        Some(hedge) => {
            let mut running = Box::pin(hedge::attempts(&mut context, &head, body, hedge, wanted));
            until(deadline, running.as_mut()).await
        }
    };
    let result = result.unwrap_or_else(|| Err(deadline_exceeded(&context, limit.unwrap_or_default())));
    match result {
        Ok(answer) => Ok(answer.into_response(context, &head)),
        Err(error) => Err(context.fail(error)),
    }
}

/// The output of `future`, or `None` at `deadline`.
async fn until<F: Future>(deadline: Option<Instant>, future: Pin<&mut F>) -> Option<F::Output> {
    match deadline {
        None => Some(future.await),
        Some(deadline) => tokio::time::timeout_at(deadline, future).await.ok(),
    }
}

fn deadline_exceeded(context: &Context, limit: Duration) -> Error {
    let state = match context.attempts() {
        0 => match pick::census(context) {
            Some(census) => format!("while waiting for an endpoint: {census}"),
            None => "while waiting for an endpoint".to_owned(),
        },
        1 => "in the first attempt".to_owned(),
        n => format!("in attempt {n}"),
    };
    let text = format!("no response from {} within {limit:?}: the time was up {state}", context.place());
    Error::new(ErrorKind::DeadlineExceeded, text)
}

/// A result that goes to the caller unless it is tried again.
pub(super) struct Answer {
    received: Received,
    place: Place,
    upload: Option<Rest>,
}

impl Answer {
    fn into_response(self, mut context: Context, head: &Head) -> Response<Body> {
        let Received { mut parts, body, .. } = self.received;
        context.tell_affinity(self.place.serving.endpoint(), &mut parts.headers);
        let (ended, deadline) = (body.is_end_stream(), context.deadline);
        let guard = Guard {
            context,
            serving: self.place.serving,
            slot: self.place.slot,
            status: parts.status,
            grpc: head.is_grpc(),
            upload: self.upload,
        };
        if ended {
            guard.complete(Some(&parts.headers));
            return Response::from_parts(parts, Body::empty());
        }
        Response::from_parts(parts, Body::new(body, guard, deadline))
    }
}

/// The outcome of one attempt, before it is decided whose it is.
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is the common one, and boxing it would cost an allocation"
)]
pub(super) enum Attempted {
    Answer(Received, Place),
    Failed(Failed, Option<Arc<Endpoint>>),
}

impl Attempted {
    pub(super) fn endpoint(&self) -> Option<&Arc<Endpoint>> {
        match self {
            Self::Answer(_, place) => Some(place.serving.endpoint()),
            Self::Failed(_, endpoint) => endpoint.as_ref(),
        }
    }

    /// The headers of a response that ended with its head.
    pub(super) fn headers(&self) -> Option<&HeaderMap> {
        match self {
            Self::Answer(received, _) if received.body.is_end_stream() => Some(&received.parts.headers),
            _ => None,
        }
    }

    /// What there is to decide from.
    pub(super) fn attempt(&self) -> Attempt<'_> {
        match self {
            Self::Answer(received, _) => Attempt::Response {
                status: received.parts.status,
                headers: &received.parts.headers,
                end_of_stream: received.body.is_end_stream(),
            },
            Self::Failed(failed, _) => Attempt::Failed(failed.failure),
        }
    }

    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Answer(received, _) => {
                let ended = received.body.is_end_stream();
                let grpc = ended.then(|| grpc::status(&received.parts.headers)).flatten();
                Outcome::Response { status: received.parts.status, grpc }
            }
            Self::Failed(failed, _) => Outcome::Failed(failed.error.kind()),
        }
    }
}

async fn attempts<B>(
    context: &mut Context,
    head: &Head,
    mut body: RequestBody<B>,
    mut wanted: Wanted,
) -> Result<Answer, Error>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let policy = context.retry().filter(|_| !head.options().no_retry).cloned();
    let policy = policy.as_deref();
    let mut retry = Retry::new(head.is_grpc());
    let mut tried: Vec<Arc<Endpoint>> = Vec::new();
    let mut permit: Option<RetryPermit> = None;
    let mut fresh = false;
    let (mut number, mut transparent) = (1, false);
    loop {
        context.attempt_started(head, Sent { number, previous: retry.previous_attempts(), transparent });
        let attempted = match settle(context, head, &mut wanted, &tried, fresh).await {
            Ok(place) => {
                let (span, previous) = (context.attempt_span(), retry.previous_attempts());
                exchange(context, head, span, &mut body, place, previous).await
            }
            Err(failed) => Attempted::Failed(failed, None),
        };
        drop(permit.take());
        let decision = {
            let attempt = attempted.attempt();
            let remaining = context.remaining();
            let throttle = context.virtual_host.throttle().map(|throttle| &**throttle);
            let replayable = body.is_replayable();
            if let (Some(classifier), Some(_)) = (&context.handle.core.shared.classifier, policy) {
                retry.overrule(classifier.classify(&context.attempted(head, &attempt)));
            }
            retry.decide(policy, head.method(), &attempt, replayable, remaining, throttle, &mut rand::rng())
        };
        let mut next = match decision {
            Decision::Return => Next::Return,
            Decision::Resend => Next::Resend,
            Decision::RetryAfter(_) => Next::Retry,
        };
        if let Decision::RetryAfter(delay) = decision {
            permit = RetryPermit::claim(context, delay).await;
            if permit.is_none() {
                next = Next::BudgetExhausted;
            }
        }
        context.tell_attempt(attempted.endpoint(), attempted.outcome(), attempted.headers(), next);
        (number, transparent) = (number + 1, next == Next::Resend);
        // A body that cannot begin again was never offered for a retry; asking twice costs nothing.
        if matches!(next, Next::Return | Next::BudgetExhausted) || !body.rewind() {
            return match attempted {
                Attempted::Answer(received, place) => Ok(answer(context, received, place, body)),
                Attempted::Failed(failed, _) => Err(describe(failed, context)),
            };
        }
        match attempted {
            Attempted::Answer(received, place) => {
                tried.push(Arc::clone(place.serving.endpoint()));
                attempt::discard(&context.handle.core.shared.tasks, received.body, place.slot);
            }
            Attempted::Failed(failed, endpoint) => {
                // An idle connection that was closed by the peer says that the other idle ones may be, too. If none could
                // be made (no endpoint was reached), those that are there are better than nothing.
                fresh = endpoint.is_some() && matches!(failed.failure, Failure::NotSent | Failure::Refused);
                tried.extend(endpoint);
            }
        }
        // What was answered is out of the way by now: its connection may serve the retry.
        if let Decision::RetryAfter(delay) = decision {
            tokio::time::sleep(delay).await;
        }
    }
}

pub(super) fn answer<B>(context: &Context, mut received: Received, place: Place, mut body: RequestBody<B>) -> Answer
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    body.commit();
    let tasks = &context.handle.core.shared.tasks;
    let upload = received.upload.take();
    let upload = upload.and_then(|upload| attempt::spawn_upload(tasks, upload, &mut body, context.deadline));
    Answer { received, place, upload }
}

/// The error of the last attempt, as the caller should see it: as the deadline's where that left no time for a whole
/// further attempt (RE-11), or was when the peer cancelled, and as the shutdown's where that broke it.
pub(super) fn describe(failed: Failed, context: &Context) -> Error {
    let error = failed.error;
    let per_try = context.retry().and_then(|policy| policy.per_try_timeout);
    if let (Failure::PerTryTimeout, Some(remaining), Some(per_try)) = (failed.failure, context.remaining(), per_try)
        && remaining < per_try
    {
        let text = format!("{error}, and the deadline leaves no time for another attempt");
        return Error::new(ErrorKind::DeadlineExceeded, text);
    }
    // The peer's clock may be the first to say so.
    if failed.failure == Failure::Reset(Some(Code::Cancelled)) && context.remaining() == Some(Duration::ZERO) {
        let text = format!("no response from {}: the peer cancelled at the deadline", context.place());
        return Error::new(ErrorKind::DeadlineExceeded, text).with_source(error);
    }
    if matches!(failed.failure, Failure::Reset(_)) && context.handle.core.shared.tasks.is_stopping() {
        return Error::new(ErrorKind::Shutdown, "the mesh was shut down while the request was under way")
            .with_source(error);
    }
    error
}

/// A place for the attempt that is under way, on the backend as it is by then.
pub(super) async fn settle(
    context: &mut Context,
    head: &Head,
    wanted: &mut Wanted,
    tried: &[Arc<Endpoint>],
    fresh: bool,
) -> Result<Place, Failed> {
    loop {
        match find_place(context, head, context.attempt_span(), *wanted, tried, fresh).await {
            Ok(place) => return Ok(place),
            Err(Unplaced::Failed(failed)) => return Err(failed),
            Err(Unplaced::Left) => match context.redraw(head).await {
                Ok(now) => *wanted = now,
                Err(error) => return Err(Failed::new(Failure::Local, error)),
            },
        }
    }
}

/// Why there is no place.
pub(super) enum Unplaced {
    /// The backend is no longer part of the configuration; another one may be drawn.
    Left,
    /// That is the end of the attempt.
    Failed(Failed),
}

/// Finds a place for the attempt of `span`, and tells of it.
pub(super) async fn find_place(
    context: &Context,
    head: &Head,
    span: &AttemptSpan,
    wanted: Wanted,
    tried: &[Arc<Endpoint>],
    fresh: bool,
) -> Result<Place, Unplaced> {
    let failed = match pick::find(context, Search { wanted, tried, fresh }).await {
        Ok((place, waited)) => {
            context.picked(head, if waited { Picked::Waited } else { Picked::AtOnce });
            span.picked(place.serving.endpoint().address(), waited);
            if !head.is_grpc() || !matches!(place.slot, crate::net::pool::Slot::H1(_)) {
                return Ok(place);
            }
            let text = format!("gRPC needs HTTP/2, and {} agreed on HTTP/1.1 by ALPN", context.place());
            return Err(Unplaced::Failed(Failed::new(Failure::Local, Error::new(ErrorKind::Protocol, text))));
        }
        Err(NoPlace::Left) => return Err(Unplaced::Left),
        Err(NoPlace::Failing(error)) => Failed::new(Failure::Connect, error),
        Err(NoPlace::Refused(error)) => Failed::new(Failure::Local, error),
        Err(NoPlace::Lost(error)) => {
            let text = format!("{}: {error}", context.place());
            let lost = Error::new(ErrorKind::NoHealthyEndpoint, text).with_source(error);
            Failed::new(Failure::NotSent, lost)
        }
    };
    context.picked(head, Picked::Failed);
    Err(Unplaced::Failed(failed))
}

/// Sends one attempt from its place, under the per-try timeout; `previous`: how many the policy made before it.
pub(super) async fn exchange<B>(
    context: &Context,
    head: &Head,
    span: &AttemptSpan,
    body: &mut RequestBody<B>,
    mut place: Place,
    previous: u32,
) -> Attempted
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    context.attempt_sent();
    let per_try = context.retry().and_then(|policy| policy.per_try_timeout);
    let per_attempt = PerAttempt {
        previous,
        timeout: match (context.remaining(), per_try) {
            (Some(remaining), Some(per_try)) => Some(remaining.min(per_try)),
            (remaining, per_try) => remaining.or(per_try),
        },
        span,
        settings: &context.settings,
    };
    let tls = place.serving.endpoint().transport().is_secure();
    place.serving.sent();
    let result = {
        let sending = pin!(attempt::send(head, &per_attempt, body, &mut place, tls));
        until(per_try.map(|per_try| after(Instant::now(), per_try)), sending).await
    };
    let result = result.unwrap_or_else(|| {
        let text = format!("no response within the per-try timeout of {:?}", per_try.unwrap_or_default());
        Err(Failed::new(Failure::PerTryTimeout, Error::new(ErrorKind::PerTryTimeout, text)))
    });
    match result {
        Ok(received) => {
            place.serving.judge(&Attempt::Response {
                status: received.parts.status,
                headers: &received.parts.headers,
                end_of_stream: received.body.is_end_stream(),
            });
            Attempted::Answer(received, place)
        }
        Err(mut failed) => {
            // A server that goes away is not to blame for what it leaves to others.
            let graceful = failed.failure == Failure::Refused && failed.is_going_away();
            let failure = if graceful { Failure::NotSent } else { failed.failure };
            place.serving.judge(&Attempt::Failed(failure));
            let endpoint = Arc::clone(place.serving.endpoint());
            failed.error = failed.error.in_place(&format!("{} at {}", context.place(), endpoint.address()));
            Attempted::Failed(failed, Some(endpoint))
        }
    }
}

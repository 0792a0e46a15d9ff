//! Several attempts of one request at once, and the first good answer (gRFC A6, hedging).
//!
//! All of them run in the request's own future; whoever drops that cancels them. While nothing is under way the next
//! attempt is begun like one of the straight path, which may draw another backend if this one left the configuration;
//! from then on attempts race.

mod flight;
mod race;

use std::sync::Arc;

use bytes::Bytes;
use http_body::Body as HttpBody;
use http_body_util::combinators::MapErr;
use mesh_core::classify::Failure;
use mesh_core::model::HedgePolicy;
use mesh_core::resilience::hedge::Hedge;
use mesh_core::resilience::tee::{Reader, Tee, TeeError};
use tokio::time::Instant;

use self::race::{Over, Race};
use super::attempt::RequestBody;
use super::call::{Answer, Attempted, answer, describe, settle};
use super::context::Context;
use super::head::Head;
use super::permit::RetryPermit;
use crate::error::{BoxError, Error};
use crate::net::{Endpoint, Wanted};
use crate::telemetry::spans::Sent;

/// How the request is hedged, if it is: its method may be sent twice, its body is not known to be too large to be kept,
/// and no session leads it to an endpoint. The answer of another one would move the session there only because its own
/// endpoint was slow once.
pub(super) fn policy(context: &Context, head: &Head, least: u64) -> Option<(Arc<HedgePolicy>, Hedge)> {
    let policy = context.policy.hedge.as_ref().filter(|_| !head.options().no_retry && context.bound_to().is_none())?;
    let kept = usize::try_from(least).is_ok_and(|least| least <= policy.max_body_bytes);
    let hedge = Hedge::new(policy, head.is_grpc(), head.method()).filter(|_| kept)?;
    Some((Arc::clone(policy), hedge))
}

/// What one attempt reads of the request's body.
type Copy<B> = MapErr<Reader<B>, fn(TeeError<<B as HttpBody>::Error>) -> BoxError>;

/// Sends the request as often as `policy` says, until one attempt has the answer.
pub(super) async fn attempts<B>(
    context: &mut Context,
    head: &Head,
    body: B,
    (policy, hedge): (Arc<HedgePolicy>, Hedge),
    mut wanted: Wanted,
) -> Result<Answer, Error>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let tee = Tee::new(body, policy.max_body_bytes);
    let mut story = Story { hedge, number: 0, tried: Vec::new(), best: None };
    let mut launch = Launch::default();
    loop {
        if let Some(at) = launch.at {
            tokio::time::sleep_until(at).await;
        }
        let sent = story.next(&launch);
        context.attempt_started(head, sent);
        let placed = settle(context, head, &mut wanted, &story.tried, launch.fresh).await;
        let underway = context.take_underway().expect("it has begun, and nothing has ended it");
        let over = {
            let mut race = Race::new(context, head, &tee, &policy, wanted, &mut story);
            race.begin(underway, Some(placed), launch);
            race.run().await
        };
        let (ended, told) = match over {
            Over::Alone(next) => {
                launch = next;
                continue;
            }
            Over::Return(ended, told) => (ended, told),
        };
        tee.commit(ended.reader);
        if let Some((underway, next)) = told {
            context.put_underway(underway);
            let attempted = &ended.attempted;
            context.tell_attempt(attempted.endpoint(), attempted.outcome(), attempted.headers(), next);
        }
        return match ended.attempted {
            Attempted::Answer(received, place) => Ok(answer(context, received, place, ended.body)),
            Attempted::Failed(failed, _) => Err(describe(failed, context)),
        };
    }
}

/// What is known of the request's attempts so far.
struct Story<B: HttpBody> {
    hedge: Hedge,
    number: u32,
    /// The endpoints of attempts that ended.
    tried: Vec<Arc<Endpoint>>,
    /// The best of the failures, in case that nothing better comes.
    best: Option<Ended<B>>,
}

impl<B: HttpBody> Story<B> {
    fn next(&mut self, launch: &Launch) -> Sent {
        self.number += 1;
        Sent { number: self.number, previous: launch.previous, transparent: launch.transparent }
    }
}

/// How an attempt is begun.
#[derive(Default)]
struct Launch {
    previous: u32,
    transparent: bool,
    /// Not on a connection that has idled.
    fresh: bool,
    /// A hedge's.
    permit: Option<RetryPermit>,
    at: Option<Instant>,
}

/// An attempt that ended.
struct Ended<B: HttpBody> {
    attempted: Attempted,
    body: RequestBody<Copy<B>>,
    reader: u32,
}

impl<B: HttpBody> Ended<B> {
    /// An answer goes before a failure, and a failure of a peer before one of ours.
    fn rank(&self) -> u8 {
        match &self.attempted {
            Attempted::Answer(..) => 2,
            Attempted::Failed(failed, _) if matches!(failed.failure, Failure::Reset(_) | Failure::Refused) => 1,
            Attempted::Failed(..) => 0,
        }
    }
}

#[cfg(test)]
mod tests;

//! What is told of attempts: to spans, metrics and observers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::HeaderMap;
use mesh_core::observe::{self, Next, Outcome};
use tokio::time::Instant;

use super::Context;
use crate::client::head::Head;
use crate::net::Endpoint;
use crate::telemetry::metrics::Picked;
use crate::telemetry::spans::{AttemptSpan, Sent};

impl Context {
    /// An attempt begins.
    pub(in crate::client) fn attempt_started(&mut self, head: &Head, sent: Sent) {
        let since = Instant::now();
        if let Some(series) = &self.series {
            series.attempt_started();
            if let Some(ended) = self.tally.ended.take() {
                self.tally.idle += since.saturating_duration_since(ended);
            }
        }
        self.underway = Some(self.begin_attempt(head, &sent, since));
    }

    pub(in crate::client) fn begin_attempt(&self, head: &Head, sent: &Sent, since: Instant) -> Underway {
        let spans = self.handle.core.shared.telemetry.spans.as_ref();
        let span = self.span.attempt(spans, head, sent);
        Underway { number: sent.number, span, since, answered: false }
    }

    /// An attempt begins that belongs to whoever asked for it, and not to the context.
    pub(in crate::client) fn attempt_started_beside(&self, head: &Head, sent: &Sent) -> Underway {
        if let Some(series) = &self.series {
            series.attempt_started();
        }
        self.begin_attempt(head, sent, Instant::now())
    }

    /// A hedge is sent.
    pub(in crate::client) fn hedged(&self) {
        self.tally.hedges.fetch_add(1, Ordering::Relaxed);
        if let Some(series) = &self.series {
            series.hedged();
        }
    }

    /// The budget had no place for a hedge, which no attempt's end tells.
    pub(in crate::client) fn hedge_denied(&self) {
        if let Some(series) = &self.series {
            series.denied();
        }
    }

    /// The attempt that is under way, to go on beside others.
    pub(in crate::client) fn take_underway(&mut self) -> Option<Underway> {
        self.underway.take()
    }

    /// `underway` is the one whose answer goes to the caller.
    pub(in crate::client) fn put_underway(&mut self, underway: Underway) {
        self.underway = Some(underway);
    }

    /// An endpoint was asked for.
    pub(in crate::client) fn picked(&self, head: &Head, result: Picked) {
        if let Some(series) = &self.backend.transport().series {
            series.picked(result, head.is_grpc());
        }
    }

    /// The span of the attempt that is under way.
    pub(in crate::client) fn attempt_span(&self) -> &AttemptSpan {
        self.underway.as_ref().map_or(AttemptSpan::NONE, |underway| &underway.span)
    }

    /// The attempt ended, or has an answer whose status is still to come. `headers` are those of a response that ended
    /// with its head.
    pub(in crate::client) fn tell_attempt(
        &mut self,
        endpoint: Option<&Arc<Endpoint>>,
        outcome: Outcome,
        headers: Option<&HeaderMap>,
        next: Next,
    ) {
        let open = matches!(outcome, Outcome::Response { grpc: None, .. }) && headers.is_none();
        if self.grpc && open && next == Next::Return {
            // gRPC's status follows the messages: this attempt ends with the call.
            if let Some(Underway { number, since, answered, .. }) = &mut self.underway {
                *answered = true;
                let (number, since) = (*number, *since);
                self.observe_attempt(number, endpoint, outcome, since, next);
            }
            return;
        }
        self.end_attempt(endpoint, outcome, headers, next);
    }

    pub(in crate::client) fn end_attempt(
        &mut self,
        endpoint: Option<&Arc<Endpoint>>,
        outcome: Outcome,
        headers: Option<&HeaderMap>,
        next: Next,
    ) {
        let Some(underway) = self.underway.take() else { return };
        self.tell_end(&underway, endpoint, outcome, headers, next);
        if matches!(next, Next::Retry | Next::Resend) && self.series.is_some() {
            self.tally.ended = Some(Instant::now());
        }
    }

    /// `underway` ended.
    pub(in crate::client) fn tell_end(
        &self,
        underway: &Underway,
        endpoint: Option<&Arc<Endpoint>>,
        outcome: Outcome,
        headers: Option<&HeaderMap>,
        next: Next,
    ) {
        underway.span.end(outcome, headers);
        if let Some(series) = &self.series {
            series.attempt_ended(outcome, underway.since.elapsed(), next);
            self.tally.count(next);
        }
        if !underway.answered {
            self.observe_attempt(underway.number, endpoint, outcome, underway.since, next);
        }
    }

    pub(in crate::client) fn observe_attempt(
        &self,
        number: u32,
        endpoint: Option<&Arc<Endpoint>>,
        outcome: Outcome,
        since: Instant,
        next: Next,
    ) {
        let observers = &self.handle.core.shared.observers;
        if observers.watches_requests() {
            let mut event = observe::Attempt::new(self.virtual_host.name(), self.backend.id(), number, outcome);
            event.endpoint = endpoint.map(|endpoint| endpoint.address());
            event.duration = since.elapsed();
            event.next = next;
            event.config_version = self.version;
            observers.attempt(event);
        }
    }
}

/// What metrics tell of a request when it ends.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) retries: AtomicU32,
    pub(super) resends: AtomicU32,
    pub(super) hedges: AtomicU32,
    /// When the last attempt ended that another one follows.
    pub(super) ended: Option<Instant>,
    /// How long no attempt was under way.
    pub(super) idle: Duration,
}

impl Tally {
    pub(in crate::client) fn count(&self, next: Next) {
        match next {
            Next::Retry => &self.retries,
            Next::Resend => &self.resends,
            _ => return,
        }
        .fetch_add(1, Ordering::Relaxed);
    }
}

/// An attempt that is under way.
pub(in crate::client) struct Underway {
    /// 1 for the first.
    number: u32,
    pub(in crate::client) span: AttemptSpan,
    since: Instant,
    /// Whether its head went to the caller, and the observers were told.
    answered: bool,
}

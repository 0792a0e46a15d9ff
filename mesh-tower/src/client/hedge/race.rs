//! Attempts that are under way at once.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::Body as HttpBody;
use http_body_util::BodyExt;
use mesh_core::classify::Failure;
use mesh_core::model::HedgePolicy;
use mesh_core::observe::{Next, Outcome};
use mesh_core::resilience::hedge::Decision;
use mesh_core::resilience::replay::Replay;
use mesh_core::resilience::tee::{Tee, TeeError};
use tokio::time::{Instant, Sleep};

use super::flight::{Flight, Fly};
use super::{Copy, Ended, Launch, Story};
use crate::client::attempt::{self, Failed, RequestBody};
use crate::client::call::Attempted;
use crate::client::context::{Context, Underway};
use crate::client::head::Head;
use crate::client::permit::RetryPermit;
use crate::client::pick::Place;
use crate::error::{BoxError, ErrorKind};
use crate::net::{Endpoint, Wanted};

/// How a race ends.
#[expect(clippy::large_enum_variant, reason = "there is one of it, and it goes no further")]
pub(super) enum Over<B: HttpBody> {
    /// This is the caller's. It is still to be told with what is beside it, if anything is.
    Return(Ended<B>, Option<(Underway, Next)>),
    /// Nothing is under way, and this is next.
    Alone(Launch),
}

type Flying<'a, B> = Pin<Box<dyn Future<Output = (Attempted, RequestBody<Copy<B>>)> + Send + 'a>>;

/// An attempt that is under way.
struct Running<'a, B: HttpBody> {
    flight: Arc<Flight>,
    reader: u32,
    previous: u32,
    permit: Option<RetryPermit>,
    future: Flying<'a, B>,
}

/// How long a request whose attempts all failed waits for a place in the budget: the first pause of a retry.
const PAUSE: Duration = Duration::from_millis(25);

/// Attempts that are under way at once.
///
/// Whatever of them is left when it is dropped was cut off, by the deadline or by the caller.
pub(super) struct Race<'a, B>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    context: &'a Context,
    head: &'a Head,
    tee: &'a Tee<B>,
    policy: &'a HedgePolicy,
    wanted: Wanted,
    story: &'a mut Story<B>,
    /// Whether the body has outgrown its cap, and one attempt goes on alone.
    alone: bool,
    running: Vec<Running<'a, B>>,
}

#[expect(clippy::large_enum_variant, reason = "there is one of it, and it goes no further")]
enum Event<B: HttpBody> {
    Ended(usize, Attempted, RequestBody<Copy<B>>),
    Outgrown(u32),
    Due,
}

/// Why a hedge is not sent.
enum Denied {
    Throttle,
    Budget,
}

impl<'a, B> Race<'a, B>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Nothing is under way yet.
    pub(super) fn new(
        context: &'a Context,
        head: &'a Head,
        tee: &'a Tee<B>,
        policy: &'a HedgePolicy,
        wanted: Wanted,
        story: &'a mut Story<B>,
    ) -> Self {
        let running = Vec::with_capacity(policy.max_attempts.min(5) as usize);
        Self { context, head, tee, policy, wanted, story, alone: false, running }
    }

    /// Runs until the request is over, or nothing is under way.
    pub(super) async fn run(&mut self) -> Over<B> {
        let mut timer = pin!(tokio::time::sleep(Duration::ZERO));
        loop {
            self.begin_due();
            if self.running.is_empty()
                && self.story.hedge.next_at().is_none()
                && let Some(best) = self.story.best.take()
            {
                return Over::Return(best, None);
            }
            let due = self.story.hedge.next_at().map(Instant::from_std);
            if let Some(due) = due.filter(|due| *due != timer.deadline()) {
                timer.as_mut().reset(due);
            }
            match poll_fn(|cx| self.poll_event(cx, due.map(|_| timer.as_mut()))).await {
                Event::Due => {}
                Event::Outgrown(reader) => self.go_on_alone(reader),
                Event::Ended(index, attempted, body) => {
                    if let Some(over) = self.ended(index, attempted, body) {
                        return over;
                    }
                }
            }
        }
    }

    fn poll_event(&mut self, cx: &mut TaskContext<'_>, timer: Option<Pin<&mut Sleep>>) -> Poll<Event<B>> {
        for (index, running) in self.running.iter_mut().enumerate() {
            if let Poll::Ready((attempted, body)) = running.future.as_mut().poll(cx) {
                return Poll::Ready(Event::Ended(index, attempted, body));
            }
        }
        // Behind the attempts, since it is they who read.
        if !self.alone
            && let Poll::Ready(reader) = self.tee.poll_outgrown(cx)
        {
            return Poll::Ready(Event::Outgrown(reader));
        }
        match timer {
            Some(timer) => timer.poll(cx).map(|()| Event::Due),
            None => Poll::Pending,
        }
    }

    /// Begins the hedges that are due.
    fn begin_due(&mut self) {
        while let Some(due) = self.story.hedge.next_at()
            && due <= Instant::now().into_std()
        {
            match self.claim() {
                Ok(permit) => {
                    let previous = self.story.hedge.previous_attempts();
                    self.begin_beside(Launch { previous, permit: Some(permit), ..Launch::default() });
                }
                Err(denied) => {
                    if let Denied::Budget = denied {
                        self.context.hedge_denied();
                    }
                    self.story.hedge.stop();
                }
            }
        }
    }

    /// Whether the budget is asked once more after a pause, which the deadline must leave time for.
    fn puts_off(&mut self) -> bool {
        let later = Instant::now() + PAUSE;
        self.context.deadline.is_none_or(|deadline| later < deadline) && self.story.hedge.put_off(later.into_std())
    }

    /// Whether a hedge may be sent (RE-04, RE-05): the target is not failing, and the budget has a place.
    fn claim(&self) -> Result<RetryPermit, Denied> {
        if self.context.virtual_host.throttle().is_some_and(|throttle| !throttle.allows()) {
            return Err(Denied::Throttle);
        }
        RetryPermit::try_claim(self.context).ok_or(Denied::Budget)
    }

    /// Begins an attempt beside those that are under way.
    fn begin_beside(&mut self, launch: Launch) {
        let sent = self.story.next(&launch);
        let underway = self.context.attempt_started_beside(self.head, &sent);
        self.begin(underway, None, launch);
    }

    /// Begins an attempt, which looks for a place if it has none.
    pub(super) fn begin(&mut self, underway: Underway, placed: Option<Result<Place, Failed>>, launch: Launch) {
        let Launch { previous, transparent, fresh, permit, .. } = launch;
        if !transparent {
            self.story.hedge.started(self.policy, Instant::now().into_std());
            if previous > 0 {
                self.context.hedged();
            }
        }
        let reader = self.tee.reader();
        let id = reader.id();
        let flight = Arc::new(Flight { underway, endpoint: OnceLock::new() });
        let tried = if placed.is_some() { Vec::new() } else { self.tried() };
        let fly = Fly {
            context: self.context,
            head: self.head,
            flight: Arc::clone(&flight),
            wanted: self.wanted,
            tried,
            fresh,
            previous,
        };
        let copy: Copy<B> = reader.map_err(from_tee);
        let future = Box::pin(fly.run(placed, RequestBody::Own(Replay::new(copy, 0))));
        self.running.push(Running { flight, reader: id, previous, permit, future });
    }

    /// Where attempts went, those that are under way included.
    fn tried(&self) -> Vec<Arc<Endpoint>> {
        let running = self.running.iter().filter_map(|running| running.flight.endpoint.get());
        self.story.tried.iter().chain(running).map(Arc::clone).collect()
    }

    fn ended(&mut self, index: usize, attempted: Attempted, body: RequestBody<Copy<B>>) -> Option<Over<B>> {
        let running = self.running.swap_remove(index);
        if !self.alone
            && let Some(reader) = self.tee.outgrown()
        {
            self.go_on_alone(reader);
            if reader != running.reader {
                self.cancel(running, Outcome::Cancelled, Next::Hedge);
                self.discard(attempted);
                return None;
            }
        }
        let Running { flight, reader, previous, permit, future } = running;
        drop(future);
        self.story.tried.extend(attempted.endpoint().cloned());
        let decision = match &attempted {
            Attempted::Failed(failed, _) if is_of_the_caller(failed) => Decision::Return,
            attempted => self.decide(attempted),
        };
        let ended = Ended { attempted, body, reader };
        match decision {
            Decision::Return => {
                self.cancel_all();
                Some(Over::Return(ended, flight.landed().map(|underway| (underway, Next::Return))))
            }
            Decision::Resend => {
                self.tell(&flight, &ended, Next::Resend);
                self.tee.give_up(reader);
                let fresh = ended.attempted.endpoint().is_some();
                let launch = Launch { previous, transparent: true, fresh, permit, at: None };
                if self.running.is_empty() {
                    return Some(Over::Alone(launch));
                }
                self.begin_beside(launch);
                None
            }
            Decision::GoOn if !self.running.is_empty() => {
                self.tell(&flight, &ended, Next::Hedge);
                self.keep(ended);
                None
            }
            Decision::GoOn => {
                drop(permit);
                match self.claim() {
                    Ok(permit) => {
                        self.tell(&flight, &ended, Next::Hedge);
                        self.keep(ended);
                        let previous = self.story.hedge.previous_attempts();
                        let at = self.story.hedge.next_at().map(Instant::from_std);
                        Some(Over::Alone(Launch { previous, permit: Some(permit), at, ..Launch::default() }))
                    }
                    Err(Denied::Throttle) => Some(self.give_up(flight, ended, Next::Return)),
                    // As with retries: when an endpoint dies under load, its requests fail all at once.
                    Err(Denied::Budget) if self.puts_off() => {
                        self.tell(&flight, &ended, Next::Hedge);
                        self.keep(ended);
                        None
                    }
                    Err(Denied::Budget) => Some(self.give_up(flight, ended, Next::BudgetExhausted)),
                }
            }
            Decision::GiveUp => Some(self.give_up(flight, ended, Next::Return)),
        }
    }

    fn decide(&mut self, attempted: &Attempted) -> Decision {
        let now = Instant::now();
        let remaining = self.context.remaining();
        let throttle = self.context.virtual_host.throttle().map(|throttle| &**throttle);
        let whole = self.tee.is_whole();
        self.story.hedge.ended(self.policy, &attempted.attempt(), now.into_std(), whole, remaining, throttle)
    }

    /// Keeps what is better, in case that nothing better comes.
    fn keep(&mut self, ended: Ended<B>) {
        if let RequestBody::Shared(_) = ended.body {
            // A connection reads it that nobody waits for; it must not outgrow the cap for the others.
            self.tee.give_up(ended.reader);
        }
        let worse = match self.story.best.take() {
            Some(best) if best.rank() > ended.rank() => {
                self.story.best = Some(best);
                Some(ended)
            }
            best => {
                self.story.best = Some(ended);
                best
            }
        };
        if let Some(worse) = worse {
            self.discard(worse.attempted);
        }
    }

    /// Nothing goes on: the best failure is the caller's.
    fn give_up(&mut self, flight: Arc<Flight>, ended: Ended<B>, next: Next) -> Over<B> {
        match self.story.best.take() {
            Some(best) if best.rank() > ended.rank() => {
                self.tell(&flight, &ended, if next == Next::Return { Next::Hedge } else { next });
                Over::Return(best, None)
            }
            worse => {
                if let Some(worse) = worse {
                    self.discard(worse.attempted);
                }
                Over::Return(ended, flight.landed().map(|underway| (underway, next)))
            }
        }
    }

    fn tell(&self, flight: &Flight, ended: &Ended<B>, next: Next) {
        let attempted = &ended.attempted;
        let (outcome, headers) = (attempted.outcome(), attempted.headers());
        self.context.tell_end(&flight.underway, attempted.endpoint(), outcome, headers, next);
    }

    /// The body has outgrown its cap in the hands of `reader`: that attempt is the only one that can have the whole of
    /// it.
    fn go_on_alone(&mut self, reader: u32) {
        self.alone = true;
        self.story.hedge.stop();
        let (alone, others) = std::mem::take(&mut self.running).into_iter().partition(|other| other.reader == reader);
        self.running = alone;
        let others: Vec<_> = others;
        others.into_iter().for_each(|other| self.cancel(other, Outcome::Cancelled, Next::Hedge));
    }

    fn discard(&self, attempted: Attempted) {
        if let Attempted::Answer(received, place) = attempted {
            attempt::discard(&self.context.handle.core.shared.tasks, received.body, place.slot);
        }
    }

    fn cancel_all(&mut self) {
        for other in std::mem::take(&mut self.running) {
            self.cancel(other, Outcome::Cancelled, Next::Hedge);
        }
        if let Some(best) = self.story.best.take() {
            self.discard(best.attempted);
        }
    }
}

impl<B> Race<'_, B>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    /// Cuts an attempt off: its stream is reset, or its connection closed, as its future is dropped.
    fn cancel(&self, running: Running<'_, B>, outcome: Outcome, next: Next) {
        let Running { flight, reader, future, .. } = running;
        drop(future);
        self.tee.give_up(reader);
        self.context.tell_end(&flight.underway, flight.endpoint.get(), outcome, None, next);
    }
}

impl<B> Drop for Race<'_, B>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    fn drop(&mut self) {
        let late = self.context.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        let outcome = if late { Outcome::Failed(ErrorKind::DeadlineExceeded) } else { Outcome::Cancelled };
        for running in std::mem::take(&mut self.running) {
            self.cancel(running, outcome, Next::Return);
        }
    }
}

/// The caller's error as it is, and ours.
fn from_tee<E: Into<BoxError>>(error: TeeError<E>) -> BoxError {
    match error {
        TeeError::Body(error) => error.into(),
        TeeError::Failed => "the request body failed in another attempt".into(),
        _ => "the attempt was given up".into(),
    }
}

/// Whether no other attempt can fare better: the request itself is at fault.
fn is_of_the_caller(failed: &Failed) -> bool {
    failed.failure == Failure::Local
        && matches!(failed.error.kind(), ErrorKind::RequestBody | ErrorKind::InvalidRequest)
}

//! How long an HTTP/2 connection lives: whether its peer still answers (gRFC A8), whether anybody uses it, its age.
//!
//! Each connection has one timer, which its driver looks at. Nothing here reads the clock for a request or a frame: what
//! was used and heard since is marked by flags, and the timer asks for them.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use ::h2::{Ping, PingPong};
use mesh_core::model::{ConnectionPolicy, Keepalive};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Status;
use crate::net::account::jittered;
use crate::net::after;
use crate::net::pulse::Pulse;

/// Into how many parts an idle timeout is divided: a connection closes after one such part more at the latest.
const IDLE_LOOKS: u32 = 4;
/// How often keepalive is slowed down: a thousandfold is enough for any peer.
const MAX_CALMED: u32 = 10;

/// See the [module](self).
pub(super) struct Life {
    /// None where there is nothing to wait for.
    timer: Option<Pin<Box<Sleep>>>,
    pings: Option<Pings>,
    idle: Option<Idle>,
    expires: Option<Instant>,
    /// After how long whoever was told of its age is told again.
    remind: Duration,
}

/// What is to be done with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Its peer does not answer.
    Dead,
    /// Nobody uses it.
    Idle,
    /// It is old.
    Aged,
}

struct Pings {
    settings: Keepalive,
    ping: PingPong,
    pulse: Arc<Pulse>,
    /// When the peer was heard of last, or the connection was without a request.
    heard: Instant,
    /// Until when something must be heard.
    answer_by: Option<Instant>,
    /// A ping that was not acknowledged: there can be only one.
    open: bool,
}

struct Idle {
    timeout: Duration,
    since: Instant,
}

/// The keepalive of a connection to a peer that complained so many times of too many pings.
pub(super) fn calmed(mut keepalive: Keepalive, complaints: u32) -> Keepalive {
    keepalive.time = keepalive.time.saturating_mul(1 << complaints.min(MAX_CALMED));
    keepalive
}

impl Life {
    pub(super) fn new(
        policy: &ConnectionPolicy,
        replace_at: Option<Instant>,
        pings: Option<(Keepalive, PingPong, Arc<Pulse>)>,
        remind: Duration,
    ) -> Self {
        let now = Instant::now();
        let pings = pings.map(|(settings, ping, pulse)| Pings {
            settings,
            ping,
            pulse,
            heard: now,
            answer_by: None,
            open: false,
        });
        let idle = policy.idle_timeout.map(|timeout| Idle { timeout, since: now });
        let aged = policy.max_age.map(|age| after(now, jittered(age, &mut rand::rng())));
        let expires = aged.into_iter().chain(replace_at).min();
        let mut life = Self { timer: None, pings, idle, expires, remind };
        life.timer = life.next(now).map(|next| Box::pin(sleep_until(next)));
        life
    }

    /// Looks whether the time for something has come. Called each time the connection was polled.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, status: &Status) -> Option<Verdict> {
        let timer = self.timer.as_mut()?;
        if self.pings.as_mut().is_some_and(|pings| pings.listen(cx)) {
            // It stands at the end of the wait for the answer; the next ping may be due before.
            let next = self.next(Instant::now());
            self.rearm(next);
            return self.poll_timer(cx, status);
        }
        if timer.as_mut().poll(cx).is_pending() { None } else { self.look(cx, status) }
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>, status: &Status) -> Option<Verdict> {
        match self.timer.as_mut()?.as_mut().poll(cx) {
            Poll::Pending => None,
            Poll::Ready(()) => self.look(cx, status),
        }
    }

    fn look(&mut self, cx: &mut Context<'_>, status: &Status) -> Option<Verdict> {
        let now = Instant::now();
        let aside = status.aside.load(Ordering::Acquire);
        let in_flight = status.in_flight.load(Ordering::Acquire);
        let used = status.used.swap(false, Ordering::AcqRel) || in_flight > aside;
        let verdict = self.judge(now, in_flight > 0, used);
        let next = self.next(now);
        self.rearm(next);
        verdict.or_else(|| self.poll_timer(cx, status))
    }

    fn judge(&mut self, now: Instant, busy: bool, used: bool) -> Option<Verdict> {
        if self.pings.as_mut().is_some_and(|pings| pings.is_dead(now, busy)) {
            return Some(Verdict::Dead);
        }
        if let Some(idle) = &mut self.idle {
            if used {
                idle.since = now;
            } else if now >= after(idle.since, idle.timeout) {
                idle.since = now;
                return Some(Verdict::Idle);
            }
        }
        if self.expires.is_some_and(|expires| now >= expires) {
            self.expires = Some(after(now, self.remind));
            return Some(Verdict::Aged);
        }
        None
    }

    /// When to look again.
    fn next(&self, now: Instant) -> Option<Instant> {
        let idle =
            self.idle.as_ref().map(|idle| after(now, idle.timeout / IDLE_LOOKS).min(after(idle.since, idle.timeout)));
        let next = [self.pings.as_ref().map(Pings::next), idle, self.expires].into_iter().flatten().min();
        // Whoever sets a time of nothing gets one that the timer can tell from now.
        next.map(|next| next.max(now + Duration::from_millis(1)))
    }

    fn rearm(&mut self, next: Option<Instant>) {
        if let (Some(timer), Some(next)) = (&mut self.timer, next) {
            timer.as_mut().reset(next);
        }
    }
}

impl Pings {
    /// Takes note of what was heard; returns whether that is the answer that was waited for.
    fn listen(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.pulse.take_heard() {
            return false;
        }
        self.heard = Instant::now();
        if self.open && self.ping.poll_pong(cx).is_ready() {
            self.open = false;
        }
        self.answer_by.take().is_some()
    }

    /// Asks the peer if it is time to; returns whether it let the time for its answer pass.
    fn is_dead(&mut self, now: Instant, busy: bool) -> bool {
        if let Some(answer_by) = self.answer_by {
            if now >= answer_by {
                self.pulse.stop(self.settings.timeout);
                return true;
            }
            return false;
        }
        if now < after(self.heard, self.settings.time) {
            return false;
        }
        if !busy && !self.settings.without_calls {
            self.heard = now;
            return false;
        }
        // One that is not answered yet asks as well as another.
        self.open = self.open || self.ping.send_ping(Ping::opaque()).is_ok();
        self.answer_by = Some(after(now, self.settings.timeout));
        false
    }

    fn next(&self) -> Instant {
        self.answer_by.unwrap_or_else(|| after(self.heard, self.settings.time))
    }
}

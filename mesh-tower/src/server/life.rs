//! How long a connection may go on.
//!
//! Requests only leave marks here; the task of the connection looks at them when a timer of its own fires, or when it
//! runs anyway.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mesh_core::model::ServerLimits;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::peer::Peer;
use crate::net::account::jittered;
use crate::net::{FAR, after};

/// How long a caller may take to notice that a connection is to end: to close it, and to ask for nothing more on it.
const PARTING: Duration = Duration::from_secs(5);
/// How many periods are told apart. What was handed over in the one before is older than a whole period when that ends
/// which is now.
const PERIODS: usize = 2;

/// What is known of a connection that is served.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) peer: Arc<Peer>,
    /// HTTP/1.1 has one head at a time: with the request it is over.
    http1: bool,
    began: Instant,
    /// Requests under way.
    in_flight: AtomicU32,
    /// Whether the head of a request came.
    asked: AtomicBool,
    /// Pieces of answers that HTTP/2's windows, or those of the network, have not let through: by the period in which they
    /// were handed over, the one that is now and the one before.
    unsent: [AtomicU32; PERIODS],
    /// Which of them is now.
    period: AtomicU8,
    /// Since when what is to be written waits for the network, in ms since `began`, and 1 more; 0: it does not.
    blocked_since: AtomicU64,
    /// When the last request ended, or something of its answer left after that, in ms since `began`.
    quiet_since: AtomicU64,
    /// When a head began that has not ended, in ms since `began`, and 1 more; 0: there is none.
    within_since: AtomicU64,
    /// Whether it is to take no more requests.
    leaving: AtomicBool,
    /// When the last request came that came nevertheless, in ms since `began`.
    asked_late: AtomicU64,
    /// Whether its caller sent too much for nothing.
    flooded: AtomicBool,
    upgrade: OnceLock<Upgrade>,
}

/// A request under way.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Life>);

/// A piece of an answer that has not left.
#[derive(Debug)]
pub(super) struct Unsent {
    life: Arc<Life>,
    period: u8,
}

/// A connection that speaks another protocol from now on: it is no longer hyper's, but that of a handler.
#[derive(Debug, Default)]
pub(super) struct Upgrade {
    /// It is to end.
    pub(super) cut: CancellationToken,
    /// It has ended.
    pub(super) gone: CancellationToken,
}

/// Why a connection is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    /// It takes no more requests; those under way end.
    Gracefully,
    /// At once.
    Now(Cut),
}

/// Why a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Cut {
    #[error("the head of a request took too long")]
    SlowHead,
    #[error("there was no request in time")]
    NoRequest,
    #[error("it did not end by itself")]
    Lingering,
    #[error("its caller does not take its answers")]
    Stalled,
    #[error("its caller is no longer let in")]
    Distrusted,
    #[error("the server ends")]
    Ending,
}

/// The bounds of a connection.
#[derive(Debug)]
pub(super) struct Bounds {
    first_request: Instant,
    header: Duration,
    idle: Duration,
    age: Instant,
    age_grace: Option<Duration>,
    /// How long an answer may wait for its caller.
    send: Option<Duration>,
    /// When the period ends in which answers are handed over now.
    period_ends: Instant,
    /// When it was told to end.
    leaving: Option<Parting>,
}

/// A connection that was told to end.
#[derive(Debug, Clone, Copy)]
struct Parting {
    since: Instant,
    /// When it is cut, whatever is under way.
    until: Instant,
    /// Whether it was told so because nothing happened: then it need not take what was sent before.
    idle: bool,
}

impl Life {
    pub(super) fn new(peer: Arc<Peer>, http1: bool, began: Instant) -> Self {
        Self {
            peer,
            http1,
            began,
            in_flight: AtomicU32::new(0),
            asked: AtomicBool::new(false),
            unsent: Default::default(),
            period: AtomicU8::new(0),
            blocked_since: AtomicU64::new(0),
            quiet_since: AtomicU64::new(0),
            within_since: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
            asked_late: AtomicU64::new(0),
            flooded: AtomicBool::new(false),
            upgrade: OnceLock::new(),
        }
    }

    pub(super) fn remote(&self) -> Option<SocketAddr> {
        self.peer.remote_address()
    }

    /// The head of a request has come.
    pub(super) fn asked(&self) {
        if !self.asked.load(Ordering::Relaxed) {
            self.asked.store(true, Ordering::Release);
        }
        if self.http1 {
            self.within_head(false);
        }
        if self.leaving.load(Ordering::Relaxed) {
            self.asked_late.store(self.now(), Ordering::Relaxed);
        }
    }

    /// A request begins, or what it becomes.
    pub(super) fn enter(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        InFlight(Arc::clone(self))
    }

    pub(super) fn is_http1(&self) -> bool {
        self.http1
    }

    /// Requests under way.
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Acquire)
    }

    /// A piece of an answer is handed over to be sent.
    pub(super) fn unsent(self: &Arc<Self>) -> Unsent {
        let period = self.period.load(Ordering::Relaxed);
        self.unsent[usize::from(period)].fetch_add(1, Ordering::AcqRel);
        Unsent { life: Arc::clone(self), period }
    }

    /// Begins the next period. Tells whether something is unsent that was handed over before this one began; then this
    /// one goes on. HTTP/1.1 hands over pieces of any length, one at a time: there it tells nothing.
    fn next_period(&self) -> bool {
        let next = (self.period.load(Ordering::Relaxed) + 1) % PERIODS as u8;
        let is_stale = !self.http1 && self.unsent[usize::from(next)].load(Ordering::Acquire) > 0;
        if !is_stale {
            self.period.store(next, Ordering::Relaxed);
        }
        is_stale
    }

    /// The network takes what is written, or does not.
    pub(super) fn blocked(&self, blocked: bool) {
        match (blocked, self.blocked_since.load(Ordering::Relaxed)) {
            (true, 0) => self.blocked_since.store(self.now() + 1, Ordering::Relaxed),
            (false, 1..) => {
                self.blocked_since.store(0, Ordering::Relaxed);
                self.sent();
            }
            _ => {}
        }
    }

    /// Something of an answer has left: its last may take its time, too.
    fn sent(&self) {
        if self.in_flight() == 0 {
            self.quiet_since.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Whether all answers have left.
    fn is_sent(&self) -> bool {
        self.blocked_since.load(Ordering::Relaxed) == 0
            && self.unsent.iter().all(|unsent| unsent.load(Ordering::Acquire) == 0)
    }

    /// Its caller sent too much for nothing.
    pub(super) fn flood(&self) {
        self.flooded.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_flooded(&self) -> bool {
        self.flooded.load(Ordering::Relaxed)
    }

    /// It is to take no more requests.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    /// Whether its next answer is the last one, and has to say so. HTTP/2 has frames for that.
    pub(super) fn is_last_answer(&self) -> bool {
        self.http1 && self.leaving.load(Ordering::Acquire)
    }

    /// Whether hyper can be told now that it is to leave. Of HTTP/1.1 it would close at once what has no request, also if
    /// there is half a head, or if the first one is on its way.
    pub(super) fn can_leave(&self) -> bool {
        !self.http1 || (self.asked.load(Ordering::Acquire) && !self.is_within_head())
    }

    /// It is another protocol's from now on.
    pub(super) fn upgrade(&self) {
        if self.http1 {
            let _ = self.upgrade.set(Upgrade::default());
        }
    }

    pub(super) fn upgraded(&self) -> Option<&Upgrade> {
        self.upgrade.get()
    }

    /// Whether the head of a request has begun to come, and not ended.
    pub(super) fn within_head(&self, within: bool) {
        match (within, self.within_since.load(Ordering::Relaxed)) {
            (false, 0) => {}
            (false, _) => self.within_since.store(0, Ordering::Relaxed),
            (true, 0) => self.within_since.store(self.now() + 1, Ordering::Relaxed),
            (true, _) => {}
        }
    }

    pub(super) fn is_within_head(&self) -> bool {
        self.within_since.load(Ordering::Relaxed) > 0
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    fn at(&self, millis: u64) -> Instant {
        self.began + Duration::from_millis(millis)
    }
}

impl InFlight {
    /// Of its connection.
    pub(super) fn life(&self) -> &Arc<Life> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.quiet_since.store(self.0.now(), Ordering::Relaxed);
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.life.unsent[usize::from(self.period)].fetch_sub(1, Ordering::AcqRel);
        self.life.sent();
    }
}

impl Bounds {
    /// Of a connection that was accepted at `began`.
    pub(super) fn new(limits: &ServerLimits, began: Instant, rng: &mut impl rand::Rng) -> Self {
        Self {
            first_request: after(began, limits.first_request_timeout),
            header: limits.header_timeout.min(FAR),
            idle: limits.idle_timeout.unwrap_or(FAR).min(FAR),
            age: after(began, limits.max_connection_age.map_or(FAR, |age| jittered(age, rng))),
            age_grace: limits.max_connection_age_grace,
            send: limits.send_timeout,
            period_ends: limits.send_timeout.map_or(began + FAR, |send| after(began, send)),
            leaving: None,
        }
    }

    /// Its caller's certificate is valid until `at`: a connection does not outlive what it was let in by.
    pub(super) fn expire(&mut self, at: Instant) {
        self.age = self.age.min(at);
    }

    /// It was told to end, and is cut at `until`.
    pub(super) fn leave(&mut self, now: Instant, until: Option<Instant>) {
        let leaving = self.part(now, false);
        leaving.until = until.map_or(leaving.until, |until| until.min(leaving.until));
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    fn part(&mut self, now: Instant, idle: bool) -> &mut Parting {
        let until = self.last();
        self.leaving.get_or_insert(Parting { since: now, until, idle })
    }

    /// Whether it is to end, at `now`.
    pub(super) fn judge(&mut self, life: &Life, now: Instant) -> Option<Leave> {
        let within = life.within_since.load(Ordering::Relaxed);
        if within > 0 && now >= life.at(within - 1) + self.header {
            return Some(Leave::Now(Cut::SlowHead));
        }
        if !life.asked.load(Ordering::Acquire) && now >= self.first_request {
            return Some(Leave::Now(Cut::NoRequest));
        }
        if self.blocked_until(life).is_some_and(|until| now >= until) {
            return Some(Leave::Now(Cut::Stalled));
        }
        let mut is_stale = false;
        if let Some(send) = self.send.filter(|_| now >= self.period_ends) {
            self.period_ends = after(now, send);
            is_stale = life.next_period();
        }
        let idle = life.in_flight() == 0 && within == 0;
        let Some(leaving) = self.leaving else {
            // A head that has begun to come is a request already.
            let is_idle = idle && now >= self.quiet(life) + self.idle;
            if now < self.age && !is_idle && !is_stale {
                return None;
            }
            self.part(now, is_idle);
            return Some(Leave::Gracefully);
        };
        // A caller may be slow to take its answer, but not for longer than the idle timeout.
        let over = idle && (life.is_sent() || leaving.idle);
        let parted = over && now >= self.quiet(life).max(leaving.since) + PARTING;
        // It goes on asking.
        let asked_late = life.at(life.asked_late.load(Ordering::Relaxed));
        let deaf = asked_late >= leaving.since + PARTING;
        match is_stale {
            true => Some(Leave::Now(Cut::Stalled)),
            false => (now >= leaving.until || parted || deaf).then_some(Leave::Now(Cut::Lingering)),
        }
    }

    /// When to look again, if nothing happens.
    pub(super) fn next(&self, life: &Life, now: Instant) -> Instant {
        let mut next = self.period_ends;
        let within = life.within_since.load(Ordering::Relaxed);
        if within > 0 {
            next = next.min(life.at(within - 1) + self.header);
        }
        if !life.asked.load(Ordering::Acquire) {
            next = next.min(self.first_request);
        }
        if let Some(until) = self.blocked_until(life) {
            next = next.min(until);
        }
        let quiet = self.quiet(life);
        match self.leaving {
            // With requests under way it is looked at again a while after.
            Some(leaving) => next = next.min(leaving.until).min(quiet.max(leaving.since).max(now) + PARTING),
            None => {
                let idle = if life.in_flight() == 0 && within == 0 { quiet } else { now };
                next = next.min(self.age).min(idle + self.idle);
            }
        }
        // Never again and again at one moment.
        next.max(now + Duration::from_millis(1))
    }

    /// Until when the network may take nothing of what is to be written.
    fn blocked_until(&self, life: &Life) -> Option<Instant> {
        let since = life.blocked_since.load(Ordering::Relaxed).checked_sub(1)?;
        self.send.map(|send| after(life.at(since), send))
    }

    /// Until when a connection may go on that no more requests come on.
    pub(super) fn last(&self) -> Instant {
        self.age_grace.map_or(self.age + FAR, |grace| after(self.age, grace))
    }

    fn quiet(&self, life: &Life) -> Instant {
        life.at(life.quiet_since.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn cl_09_connections_of_one_age_do_not_end_together() {
        let mut limits = ServerLimits::default();
        limits.max_connection_age = Some(30 * MINUTE);
        let (began, mut rng) = (Instant::now(), StdRng::seed_from_u64(9));
        let age = |_| Bounds::new(&limits, began, &mut rng).age.duration_since(began).as_secs_f64();
        let ages: Vec<f64> = (0..1000).map(age).collect();
        let (least, most) = (1620.0, 1980.0);
        assert!(ages.iter().all(|age| (least..=most).contains(age)));
        // Evenly: of 1000 each third has 333, give or take five times 14.9.
        for third in 0..3 {
            let from = least + 120.0 * f64::from(third);
            let count = ages.iter().filter(|age| (from..from + 120.0).contains(*age)).count();
            assert!((259..=408).contains(&count), "{third}: {count}");
        }
    }

    #[test]
    fn nothing_is_looked_at_again_and_again() {
        let limits = ServerLimits::default();
        let peer = Arc::new(Peer::default());
        let began = Instant::now();
        let life = Arc::new(Life::new(peer, true, began));
        life.asked();
        drop(life.enter());
        life.within_head(true);
        // The idle timeout is over, but half a head is there.
        let now = began + limits.idle_timeout.unwrap() + Duration::from_millis(1);
        life.within_since.store(limits.idle_timeout.unwrap().as_millis() as u64, Ordering::Relaxed);
        let mut bounds = Bounds::new(&limits, began, &mut StdRng::seed_from_u64(1));
        assert_eq!(bounds.judge(&life, now), None);
        assert!(bounds.next(&life, now) >= now + Duration::from_secs(9));
    }
}

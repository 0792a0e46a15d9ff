//! How long a connection may go on.
//!
//! Requests only leave marks here; the task of the connection looks at them when a timer of its own fires, or when it
//! runs anyway.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mesh_core::model::ServerLimits;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::peer::Peer;
use crate::net::account::jittered;
use crate::net::{FAR, after};

/// How long a connection that is to end, and has no request, may take to notice that.
const PARTING: Duration = Duration::from_secs(5);

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
    /// Pieces of answers that HTTP/2's windows, or those of the network, have not let through.
    unsent: AtomicU32,
    /// Whether what was to be written last waits for the network.
    blocked: AtomicBool,
    /// When the last request ended, or something of its answer left after that, in ms since `began`.
    quiet_since: AtomicU64,
    /// When a head began that has not ended, in ms since `began`, and 1 more; 0: there is none.
    within_since: AtomicU64,
    /// Whether it is to take no more requests.
    leaving: AtomicBool,
    upgrade: OnceLock<Upgrade>,
}

/// A request under way.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Life>);

/// A piece of an answer that has not left.
#[derive(Debug)]
pub(super) struct Unsent(Arc<Life>);

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
    #[error("its caller is no longer trusted")]
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
    /// When it was told to end.
    leaving: Option<Leaving>,
}

#[derive(Debug, Clone, Copy)]
struct Leaving {
    since: Instant,
    why: Why,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Told,
    Age,
    Idle,
}

impl Life {
    pub(super) fn new(peer: Arc<Peer>, http1: bool, began: Instant) -> Self {
        Self {
            peer,
            http1,
            began,
            in_flight: AtomicU32::new(0),
            asked: AtomicBool::new(false),
            unsent: AtomicU32::new(0),
            blocked: AtomicBool::new(false),
            quiet_since: AtomicU64::new(0),
            within_since: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
            upgrade: OnceLock::new(),
        }
    }

    pub(super) fn remote(&self) -> Option<SocketAddr> {
        self.peer.remote_address()
    }

    /// A request begins.
    pub(super) fn enter(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        if !self.asked.load(Ordering::Relaxed) {
            self.asked.store(true, Ordering::Release);
        }
        if self.http1 {
            self.within_head(false);
        }
        InFlight(Arc::clone(self))
    }

    /// Requests under way.
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Acquire)
    }

    /// A piece of an answer is handed over to be sent.
    pub(super) fn unsent(self: &Arc<Self>) -> Unsent {
        self.unsent.fetch_add(1, Ordering::AcqRel);
        Unsent(Arc::clone(self))
    }

    /// Something was written, or could not be.
    pub(super) fn written(&self, blocked: bool) {
        if self.blocked.load(Ordering::Relaxed) != blocked {
            self.blocked.store(blocked, Ordering::Relaxed);
        }
        // The last of an answer may take its time, too.
        if !blocked && self.in_flight() == 0 {
            self.quiet_since.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Whether all answers have left.
    fn is_sent(&self) -> bool {
        self.unsent.load(Ordering::Acquire) == 0 && !self.blocked.load(Ordering::Relaxed)
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
        self.0.unsent.fetch_sub(1, Ordering::AcqRel);
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
            leaving: None,
        }
    }

    /// Its caller's certificate is valid until `at`: a connection does not outlive what it was let in by.
    pub(super) fn expire(&mut self, at: Instant) {
        self.age = self.age.min(at);
    }

    /// It was told to end.
    pub(super) fn leave(&mut self, now: Instant) {
        self.leaving.get_or_insert(Leaving { since: now, why: Why::Told });
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.is_some()
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
        let idle = life.in_flight() == 0 && within == 0;
        match self.leaving {
            Some(leaving) => {
                let out_of_grace =
                    self.age_grace.is_some_and(|grace| leaving.why == Why::Age && now >= after(leaving.since, grace));
                // A caller may be slow to take its answer, but not for longer than the idle timeout.
                let over = idle && (life.is_sent() || leaving.why == Why::Idle);
                let parted = over && now >= self.quiet(life).max(leaving.since) + PARTING;
                (out_of_grace || parted).then_some(Leave::Now(Cut::Lingering))
            }
            None if now >= self.age => {
                self.leaving = Some(Leaving { since: now, why: Why::Age });
                Some(Leave::Gracefully)
            }
            // A head that has begun to come is a request already.
            None if idle && now >= self.quiet(life) + self.idle => {
                self.leaving = Some(Leaving { since: now, why: Why::Idle });
                Some(Leave::Gracefully)
            }
            None => None,
        }
    }

    /// When to look again, if nothing happens.
    pub(super) fn next(&self, life: &Life, now: Instant) -> Instant {
        let mut next = after(now, FAR);
        let within = life.within_since.load(Ordering::Relaxed);
        if within > 0 {
            next = life.at(within - 1) + self.header;
        }
        if !life.asked.load(Ordering::Acquire) {
            next = next.min(self.first_request);
        }
        let quiet = self.quiet(life);
        match self.leaving {
            Some(leaving) => {
                if let Some(grace) = self.age_grace.filter(|_| leaving.why == Why::Age) {
                    next = next.min(after(leaving.since, grace));
                }
                // With requests under way it is looked at again a while after.
                next = next.min(quiet.max(leaving.since).max(now) + PARTING);
            }
            None => {
                let idle = if life.in_flight() == 0 && within == 0 { quiet } else { now };
                next = next.min(self.age).min(idle + self.idle);
            }
        }
        // Never again and again at one moment.
        next.max(now + Duration::from_millis(1))
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

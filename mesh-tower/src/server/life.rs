//! How long a connection may go on.
//!
//! Requests only leave marks here; the task of the connection looks at them when a timer of its own fires, or when it
//! runs anyway.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use mesh_core::model::ServerLimits;
use tokio::time::Instant;

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
    /// When the last request ended, in ms since `began`.
    quiet_since: AtomicU64,
    /// When a head began that has not ended, in ms since `began`, and 1 more; 0: there is none.
    within_since: AtomicU64,
}

/// A request under way.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Life>);

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
    for_age: bool,
}

impl Life {
    pub(super) fn new(peer: Arc<Peer>, http1: bool, began: Instant) -> Self {
        Self {
            peer,
            http1,
            began,
            in_flight: AtomicU32::new(0),
            asked: AtomicBool::new(false),
            quiet_since: AtomicU64::new(0),
            within_since: AtomicU64::new(0),
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

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.quiet_since.store(self.0.now(), Ordering::Relaxed);
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
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

    /// It was told to end.
    pub(super) fn leave(&mut self, now: Instant) {
        self.leaving.get_or_insert(Leaving { since: now, for_age: false });
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
        let idle = life.in_flight() == 0;
        match self.leaving {
            Some(leaving) => {
                let out_of_grace =
                    self.age_grace.is_some_and(|grace| leaving.for_age && now >= after(leaving.since, grace));
                let parted = idle && now >= self.quiet(life).max(leaving.since) + PARTING;
                (out_of_grace || parted).then_some(Leave::Now(Cut::Lingering))
            }
            None if now >= self.age => {
                self.leaving = Some(Leaving { since: now, for_age: true });
                Some(Leave::Gracefully)
            }
            None if idle && now >= self.quiet(life) + self.idle => {
                self.leave(now);
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
                if let Some(grace) = self.age_grace.filter(|_| leaving.for_age) {
                    next = next.min(after(leaving.since, grace));
                }
                // With requests under way it is looked at again a while after.
                next = next.min(quiet.max(leaving.since).max(now) + PARTING);
            }
            None => {
                let idle = if life.in_flight() == 0 { quiet } else { now };
                next = next.min(self.age).min(idle + self.idle);
            }
        }
        // Never again and again at one moment.
        next.max(now + Duration::from_millis(1))
    }

    fn quiet(&self, life: &Life) -> Instant {
        life.at(life.quiet_since.load(Ordering::Relaxed))
    }
}

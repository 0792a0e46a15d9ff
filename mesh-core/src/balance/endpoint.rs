use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rand::Rng;

use super::Fleet;
use super::ewma::Ewma;
use super::reported::Reported;
use crate::model::{Address, OutlierDetection, PeakEwma};
use crate::resilience::limits::Resource;
use crate::resilience::outlier::{EjectionChange, Outcome, Record, Standing};

/// Whether an endpoint can take requests: gRPC's connectivity states.
///
/// ```text
///          connect              connected
///   Idle ───────────> Connecting ───────────> Ready
///                      │     ^                 │ ^
///                      │     └─────────────────┘ │
///               failed │   last connection lost  │ connected
///                      └───────> Failing ────────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// Not connected, and nobody tries.
    Idle = 0,
    /// The first attempt is under way.
    Connecting = 1,
    /// Connected; an HTTP/1.1 endpoint stays ready between connections.
    Ready = 2,
    /// The last attempt failed; the next one waits out its backoff or is under way.
    Failing = 3,
}

impl State {
    /// A stable word, such as `ready`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Connecting => "connecting",
            Self::Ready => "ready",
            Self::Failing => "failing",
        }
    }

    fn from_u8(value: u8) -> Self {
        match value {
            1 => Self::Connecting,
            2 => Self::Ready,
            3 => Self::Failing,
            _ => Self::Idle,
        }
    }
}

/// One instance of a backend, with what balancing needs to know and a slot for the transport.
///
/// One that was never used is small: what is learnt from requests is kept apart, and made by the first.
#[derive(Debug)]
pub struct Endpoint<T> {
    address: Address,
    fleet: Arc<Fleet>,
    learnt: OnceLock<Box<Learnt>>,
    in_flight: AtomicU32,
    /// Its state, in the lowest 8 bits, and when it came into it, in milliseconds of the fleet: a look never sees the
    /// one without the other.
    state: AtomicU64,
    /// By what it answers to health checks.
    unhealthy: AtomicBool,
    transport: T,
}

/// What requests, and reports, tell of an endpoint.
#[derive(Debug, Default)]
struct Learnt {
    record: Record,
    latency: Ewma,
    reported: Reported,
}

impl<T> Endpoint<T> {
    /// An idle endpoint. `fleet` is that of its backend; `transport` belongs to the layer that moves bytes and is
    /// never looked at here.
    pub fn new(address: Address, fleet: &Arc<Fleet>, transport: T) -> Self {
        Self {
            address,
            fleet: Arc::clone(fleet),
            learnt: OnceLock::new(),
            in_flight: AtomicU32::new(0),
            state: AtomicU64::new(pack(State::Idle, 0)),
            unhealthy: AtomicBool::new(false),
            transport,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The transport's slot.
    pub fn transport(&self) -> &T {
        &self.transport
    }

    /// Its state.
    pub fn state(&self) -> State {
        unpack(self.state.load(Ordering::Acquire)).0
    }

    /// Sets the state and returns the one before. For the transport only.
    pub fn set_state(&self, state: State, now: Instant) -> State {
        let next = pack(state, self.fleet.millis(now));
        let change = |word| (unpack(word).0 != state).then_some(next);
        let Ok(before) = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, change) else { return state };
        if state == State::Ready
            && let Some(learnt) = self.learnt.get()
        {
            learnt.reported.restart();
        }
        self.fleet.bump();
        unpack(before).0
    }

    /// When it came into its state.
    pub fn since(&self) -> Instant {
        self.state_since().1
    }

    /// Its state, and when it came into it.
    pub(super) fn state_since(&self) -> (State, Instant) {
        let (state, millis) = unpack(self.state.load(Ordering::Acquire));
        (state, self.fleet.at(millis))
    }

    /// Whether it answers health checks well, or is not asked.
    pub fn is_healthy(&self) -> bool {
        !self.unhealthy.load(Ordering::Acquire)
    }

    /// Says whether it answers health checks well; returns whether that is news.
    pub fn set_healthy(&self, healthy: bool) -> bool {
        let changed = self.unhealthy.swap(!healthy, Ordering::AcqRel) == healthy;
        if changed {
            self.fleet.bump();
        }
        changed
    }

    /// Whether outlier detection keeps it out.
    pub fn standing(&self) -> Standing {
        self.learnt.get().map_or(Standing::Active, |learnt| learnt.record.standing())
    }

    /// Neither failing, nor ejected, nor unhealthy. It may still have to be connected.
    pub fn is_available(&self) -> bool {
        self.state() != State::Failing && self.is_healthy() && self.standing() == Standing::Active
    }

    /// What outlier detection knows of it.
    pub fn record(&self) -> &Record {
        &self.learnt().record
    }

    /// What outlier detection knows of it, if it ever served.
    pub fn known_record(&self) -> Option<&Record> {
        self.learnt.get().map(|learnt| &learnt.record)
    }

    /// A request took `latency` to succeed.
    pub fn observe_latency(&self, latency: Duration, now: Instant, policy: &PeakEwma) {
        self.learnt().latency.observe(latency, self.fleet.nanos(now), policy);
    }

    /// A request waited for `time` and got no answer: it would have taken longer.
    pub fn observe_wait(&self, time: Duration, now: Instant, policy: &PeakEwma) {
        let latency = &self.learnt().latency;
        let nanos = self.fleet.nanos(now);
        if latency.load(0.0, nanos, policy) < time.as_nanos() as f64 {
            latency.observe(time, nanos, policy);
        }
    }

    /// What one more request would cost here. `share` is by how much its weight exceeds the mean: it carries so many times
    /// the requests of others.
    pub(super) fn cost(&self, now: Instant, policy: &PeakEwma, share: f64) -> f64 {
        // Whoever is compared is remembered, so that the latency that is assumed of it is forgotten in time.
        self.learnt().latency.load(f64::from(self.in_flight()) / share, self.fleet.nanos(now), policy)
    }

    /// The endpoint reported a load that makes it worth `weight`.
    pub fn report_weight(&self, weight: f64, now: Instant) {
        self.learnt().reported.report(weight, self.fleet.nanos(now));
    }

    pub(super) fn reported(&self) -> Option<&Reported> {
        self.learnt.get().map(|learnt| &learnt.reported)
    }

    fn learnt(&self) -> &Learnt {
        self.learnt.get_or_init(Box::default)
    }

    /// How many requests it is serving for this mesh.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts one more request here and for its backend until the guard is dropped; `None` if the backend serves
    /// `max_requests` already.
    pub fn enter(self: &Arc<Self>, max_requests: Option<u32>) -> Option<InFlight<T>> {
        if !self.fleet.limits().take(Resource::Requests, max_requests) {
            return None;
        }
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(InFlight(Arc::clone(self)))
    }

    /// Tells outlier detection how an attempt went. `total` is how many endpoints the backend has; `probe`: the attempt
    /// was to show whether the endpoint is back.
    pub fn judge<R: Rng + ?Sized>(
        &self,
        policy: &OutlierDetection,
        outcome: Outcome,
        total: usize,
        probe: bool,
        now: Instant,
        rng: &mut R,
    ) -> Option<EjectionChange> {
        let (detector, record) = (self.fleet.detector(), self.record());
        let change = if probe {
            detector.conclude_probe(policy, record, outcome, now, rng)
        } else {
            detector.record(policy, record, total, outcome, now, rng)
        };
        if matches!(change, Some(EjectionChange::Ejected { .. } | EjectionChange::Returned)) || probe {
            self.fleet.bump();
        }
        change
    }

    /// A probe ended and nobody can say how.
    pub fn release_probe(&self) {
        self.record().release_probe();
        self.fleet.bump();
    }

    /// It is no longer part of its backend. Said even of one that never served: what is still under way there may end
    /// badly, and an ejection that nobody brings back would take a place for ever.
    pub fn leave(&self) {
        self.fleet.detector().forget(self.record());
    }
}

fn pack(state: State, millis: u64) -> u64 {
    millis << 8 | state as u64
}

fn unpack(word: u64) -> (State, u64) {
    (State::from_u8(word as u8), word >> 8)
}

/// One request on an endpoint; dropping it ends the count.
#[derive(Debug)]
pub struct InFlight<T>(Arc<Endpoint<T>>);

impl<T> InFlight<T> {
    /// The endpoint.
    pub fn endpoint(&self) -> &Arc<Endpoint<T>> {
        &self.0
    }
}

impl<T> Drop for InFlight<T> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.0.fleet.limits().give(Resource::Requests);
    }
}

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use crate::model::Address;

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
#[derive(Debug)]
pub struct Endpoint<T> {
    address: Address,
    state: AtomicU8,
    in_flight: AtomicU32,
    transport: T,
}

impl<T> Endpoint<T> {
    /// An idle endpoint. `transport` belongs to the layer that moves bytes and is never looked at here.
    pub fn new(address: Address, transport: T) -> Self {
        Self { address, state: AtomicU8::new(State::Idle as u8), in_flight: AtomicU32::new(0), transport }
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
        State::from_u8(self.state.load(Ordering::Acquire))
    }

    /// Sets the state and returns the one before. For the transport only.
    pub fn set_state(&self, state: State) -> State {
        State::from_u8(self.state.swap(state as u8, Ordering::AcqRel))
    }

    /// How many requests it is serving for this mesh.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts one more request until the guard is dropped.
    pub fn enter(self: &Arc<Self>) -> InFlight<T> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }
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
    }
}

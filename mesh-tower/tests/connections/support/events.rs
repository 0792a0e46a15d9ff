use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mesh_tower::core::balance::State;
use mesh_tower::core::model::Address;
use mesh_tower::observe::{Event, Next, Observer, Outcome};
use tokio::sync::watch;

/// An event that outlives its telling.
#[derive(Debug, Clone)]
pub(crate) enum Seen {
    Request { outcome: Outcome, attempts: u32 },
    Attempt { backend: String, outcome: Outcome, next: Next, version: u64 },
    Connect { backend: String, error: Option<String>, duration: Duration },
    Endpoint { endpoint: SocketAddr, state: State },
    Config { version: u64, error: Option<String> },
}

/// Keeps all events; what a test waits for it awaits here.
pub(crate) struct Events {
    seen: Mutex<Vec<Seen>>,
    count: watch::Sender<usize>,
}

fn socket(address: &Address) -> SocketAddr {
    match address {
        Address::Socket(address) => *address,
        other => panic!("{other} is not a socket's address"),
    }
}

impl Observer for Events {
    fn event(&self, event: &Event<'_>) {
        let seen = match event {
            Event::Request(request) => Seen::Request { outcome: request.outcome, attempts: request.attempts },
            Event::Attempt(attempt) => Seen::Attempt {
                backend: attempt.backend.name.to_string(),
                outcome: attempt.outcome,
                next: attempt.next,
                version: attempt.config_version,
            },
            Event::Connect(connect) => Seen::Connect {
                backend: connect.backend.name.to_string(),
                error: connect.error.map(ToString::to_string),
                duration: connect.duration,
            },
            Event::Endpoint(endpoint) => Seen::Endpoint { endpoint: socket(endpoint.endpoint), state: endpoint.state },
            Event::Config(config) => {
                Seen::Config { version: config.version, error: config.error.map(ToString::to_string) }
            }
            _ => return,
        };
        let mut all = self.seen.lock().unwrap();
        all.push(seen);
        self.count.send_replace(all.len());
    }
}

impl Events {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { seen: Mutex::default(), count: watch::Sender::new(0) })
    }

    /// All events so far.
    pub(crate) fn all(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// How many events there are so far: a place to look from later.
    pub(crate) fn mark(&self) -> usize {
        *self.count.borrow()
    }

    pub(crate) fn count(&self, wanted: impl Fn(&Seen) -> bool) -> usize {
        self.seen.lock().unwrap().iter().filter(|seen| wanted(seen)).count()
    }

    /// Resolves when `count` events that are `wanted` have come since `mark`.
    pub(crate) async fn since(&self, mark: usize, count: usize, wanted: impl Fn(&Seen) -> bool) {
        let mut changes = self.count.subscribe();
        loop {
            changes.borrow_and_update();
            if self.seen.lock().unwrap()[mark..].iter().filter(|seen| wanted(seen)).count() >= count {
                return;
            }
            changes.changed().await.unwrap();
        }
    }

    /// Resolves when an event that is `wanted` has come.
    pub(crate) async fn until(&self, wanted: impl Fn(&Seen) -> bool) {
        self.since(0, 1, wanted).await;
    }

    /// Resolves when `endpoint` has become `state` since `mark`.
    pub(crate) async fn state(&self, mark: usize, endpoint: SocketAddr, state: State) {
        self.since(
            mark,
            1,
            |seen| matches!(seen, Seen::Endpoint { endpoint: at, state: now } if *at == endpoint && *now == state),
        )
        .await;
    }
}

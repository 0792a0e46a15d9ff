//! What a mesh tells, kept for assertions.

use std::future::Future;
use std::panic::Location;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use mesh_core::balance::State;
use mesh_core::identity::SpiffeId;
use mesh_core::model::{Address, BackendId};
use mesh_core::observe::{Event, IdentityChange, Next, Observer, Outcome};
use mesh_core::resilience::limits::Limit;
use mesh_core::resilience::outlier::EjectionChange;
use tokio::sync::watch;

use super::{lock, watched_for};

/// An [`Event`] that outlives its telling. The fields are those of the event.
#[derive(Debug, Clone)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields are documented at the events of mesh_core::observe")]
pub enum Seen {
    /// [`observe::Request`](mesh_core::observe::Request): a request ended.
    #[non_exhaustive]
    Request {
        service: Option<String>,
        route: Option<String>,
        backend: Option<BackendId>,
        outcome: Outcome,
        attempts: u32,
        duration: Duration,
        config_version: u64,
    },
    /// [`observe::Attempt`](mesh_core::observe::Attempt): an attempt ended.
    #[non_exhaustive]
    Attempt {
        service: String,
        backend: BackendId,
        endpoint: Option<Address>,
        number: u32,
        outcome: Outcome,
        duration: Duration,
        next: Next,
        config_version: u64,
    },
    /// [`observe::Pick`](mesh_core::observe::Pick): a balancer was asked.
    #[non_exhaustive]
    Pick { backend: BackendId, endpoint: Option<Address> },
    /// [`observe::Connect`](mesh_core::observe::Connect): a connection attempt ended. The error as a text.
    #[non_exhaustive]
    Connect { backend: BackendId, endpoint: Address, error: Option<String>, duration: Duration },
    /// [`observe::Endpoint`](mesh_core::observe::Endpoint): an endpoint changed its state.
    #[non_exhaustive]
    Endpoint { backend: BackendId, endpoint: Address, state: State },
    /// [`observe::Ejection`](mesh_core::observe::Ejection): an endpoint was taken out, or came back.
    #[non_exhaustive]
    Ejection { backend: BackendId, endpoint: Address, change: EjectionChange },
    /// [`observe::Overflow`](mesh_core::observe::Overflow): a limit refused a request.
    #[non_exhaustive]
    Overflow { backend: BackendId, limit: Limit },
    /// [`observe::Priority`](mesh_core::observe::Priority): requests go to another priority, or to all endpoints.
    #[non_exhaustive]
    Priority { backend: BackendId, priority: Option<u32>, panic: bool },
    /// [`observe::Config`](mesh_core::observe::Config): a configuration was applied or refused. The error as a text.
    #[non_exhaustive]
    Config { version: u64, source: String, error: Option<String> },
    /// [`observe::Health`](mesh_core::observe::Health): an endpoint became unhealthy, or healthy again, and
    /// what was wrong with its answer.
    #[non_exhaustive]
    Health { backend: BackendId, endpoint: Address, healthy: bool, reason: Option<String> },
    /// [`observe::Identity`](mesh_core::observe::Identity): the identity changed (`generation` and `id` are told), was
    /// not renewed (`error` is), or comes to its end. `what` is [`IdentityChange::as_str`].
    #[non_exhaustive]
    Identity {
        source: String,
        what: &'static str,
        generation: Option<u64>,
        id: Option<SpiffeId>,
        not_after: Option<SystemTime>,
        error: Option<String>,
    },
    /// Another event, as its `Debug` text.
    Other(String),
}

impl From<&Event<'_>> for Seen {
    fn from(event: &Event<'_>) -> Self {
        match event {
            Event::Request(request) => Self::Request {
                service: request.service.map(str::to_owned),
                route: request.route.map(str::to_owned),
                backend: request.backend.cloned(),
                outcome: request.outcome,
                attempts: request.attempts,
                duration: request.duration,
                config_version: request.config_version,
            },
            Event::Attempt(attempt) => Self::Attempt {
                service: attempt.service.to_owned(),
                backend: attempt.backend.clone(),
                endpoint: attempt.endpoint.cloned(),
                number: attempt.number,
                outcome: attempt.outcome,
                duration: attempt.duration,
                next: attempt.next,
                config_version: attempt.config_version,
            },
            Event::Pick(pick) => Self::Pick { backend: pick.backend.clone(), endpoint: pick.endpoint.cloned() },
            Event::Connect(connect) => Self::Connect {
                backend: connect.backend.clone(),
                endpoint: connect.endpoint.clone(),
                error: connect.error.map(ToString::to_string),
                duration: connect.duration,
            },
            Event::Endpoint(endpoint) => Self::Endpoint {
                backend: endpoint.backend.clone(),
                endpoint: endpoint.endpoint.clone(),
                state: endpoint.state,
            },
            Event::Ejection(ejection) => Self::Ejection {
                backend: ejection.backend.clone(),
                endpoint: ejection.endpoint.clone(),
                change: ejection.change,
            },
            Event::Overflow(overflow) => Self::Overflow { backend: overflow.backend.clone(), limit: overflow.limit },
            Event::Priority(priority) => {
                Self::Priority { backend: priority.backend.clone(), priority: priority.priority, panic: priority.panic }
            }
            Event::Health(health) => Self::Health {
                backend: health.backend.clone(),
                endpoint: health.endpoint.clone(),
                healthy: health.healthy,
                reason: health.reason.map(str::to_owned),
            },
            Event::Config(config) => Self::Config {
                version: config.version,
                source: config.source.to_owned(),
                error: config.error.map(ToString::to_string),
            },
            Event::Identity(identity) => {
                let (generation, id, not_after, error) = match identity.change {
                    IdentityChange::Changed { generation, id, not_after } => {
                        (Some(generation), id.cloned(), Some(not_after), None)
                    }
                    IdentityChange::Failed { error } => (None, None, None, Some(error.to_owned())),
                    IdentityChange::Expiring { not_after } | IdentityChange::Expired { not_after } => {
                        (None, None, Some(not_after), None)
                    }
                    _ => (None, None, None, None),
                };
                let (source, what) = (identity.source.to_owned(), identity.change.as_str());
                Self::Identity { source, what, generation, id, not_after, error }
            }
            other => Self::Other(format!("{other:?}")),
        }
    }
}

/// An [`Observer`] that keeps every event, so that a test can await and count them.
///
/// A clone, or [`from_now`](Self::from_now), is another view of the same events.
///
/// ```
/// use mesh_tower::testing::{Events, Seen, ServiceConfig, TestBackend, TestMesh};
/// use mesh_tower::Mesh;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), mesh_tower::Error> {
/// let backend = TestBackend::named("v1").start();
/// let events = Events::new();
/// let config = ServiceConfig::new("catalog", [backend.address()]);
/// let mesh = TestMesh::start(Mesh::builder().text(config.yaml()).observer(events.clone())).await;
///
/// mesh.http_client().get("http://catalog/").await?.into_body().bytes().await?;
/// events.wait_for(|seen| matches!(seen, Seen::Request { attempts: 1, .. })).await;
/// events.assert_none("failed connects", |seen| matches!(seen, Seen::Connect { error: Some(_), .. }));
/// mesh.end().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Events {
    kept: Arc<Kept>,
    /// Which come before this view.
    from: usize,
}

#[derive(Debug, Default)]
struct Kept {
    events: Mutex<Vec<Seen>>,
    count: watch::Sender<usize>,
}

impl Observer for Events {
    fn event(&self, event: &Event<'_>) {
        let mut events = lock(&self.kept.events);
        events.push(event.into());
        self.kept.count.send_replace(events.len());
    }
}

impl Events {
    /// No events so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// A view of those that come after this call.
    #[must_use]
    pub fn from_now(&self) -> Self {
        Self { kept: Arc::clone(&self.kept), from: *self.kept.count.borrow() }
    }

    /// All events so far.
    pub fn all(&self) -> Vec<Seen> {
        lock(&self.kept.events)[self.from..].to_vec()
    }

    /// How many of the events so far are `wanted`.
    pub fn count(&self, wanted: impl Fn(&Seen) -> bool) -> usize {
        lock(&self.kept.events)[self.from..].iter().filter(|seen| wanted(seen)).count()
    }

    /// Resolves to the first event that is `wanted`, as soon as there is one.
    ///
    /// # Panics
    /// If there is none for ever (see [`watched`](super::watched)); the text says what was seen instead.
    #[track_caller]
    pub fn wait_for(&self, wanted: impl Fn(&Seen) -> bool) -> impl Future<Output = Seen> {
        self.wait_for_nth(1, wanted)
    }

    /// Resolves to the `n`-th event that is `wanted`, counted from 1, as soon as there are so many.
    ///
    /// # Panics
    /// If there never are so many (see [`watched`](super::watched)); the text says what was seen instead.
    #[track_caller]
    pub fn wait_for_nth(&self, n: usize, wanted: impl Fn(&Seen) -> bool) -> impl Future<Output = Seen> {
        let caller = Location::caller();
        let text = move || {
            let seen = self.all();
            format!("event {n} of those awaited at {caller} has not come; seen were{}", listed(&seen))
        };
        watched_for(self.nth(n, wanted), text)
    }

    async fn nth(&self, n: usize, wanted: impl Fn(&Seen) -> bool) -> Seen {
        let mut changes = self.kept.count.subscribe();
        let (mut looked_at, mut found) = (self.from, 0);
        loop {
            changes.borrow_and_update();
            {
                let events = lock(&self.kept.events);
                for seen in &events[looked_at..] {
                    found += usize::from(wanted(seen));
                    if found >= n.max(1) {
                        return seen.clone();
                    }
                }
                looked_at = events.len();
            }
            changes.changed().await.expect("this view holds the sender");
        }
    }

    /// Resolves when `endpoint` has become `state`.
    ///
    /// # Panics
    /// As [`wait_for`](Self::wait_for).
    #[track_caller]
    pub fn wait_for_state(&self, endpoint: impl Into<Address>, state: State) -> impl Future<Output = Seen> {
        let wanted = endpoint.into();
        self.wait_for(
            move |seen| matches!(seen, Seen::Endpoint { endpoint, state: now, .. } if *endpoint == wanted && *now == state),
        )
    }

    /// Asserts that `count` of the events so far are `wanted`; `what` names them in the text of a failure.
    ///
    /// # Panics
    /// If there are more or fewer; the text says what was seen.
    #[track_caller]
    pub fn assert_count(&self, count: usize, what: &str, wanted: impl Fn(&Seen) -> bool) {
        let seen = self.all();
        let found = seen.iter().filter(|seen| wanted(seen)).count();
        assert_eq!(found, count, "{what}: {found} where {count} should be; seen were{}", listed(&seen));
    }

    /// Asserts that none of the events so far is `unwanted`; `what` names them in the text of a failure.
    ///
    /// # Panics
    /// If there is one; the text says what was seen.
    #[track_caller]
    pub fn assert_none(&self, what: &str, unwanted: impl Fn(&Seen) -> bool) {
        self.assert_count(0, what, unwanted);
    }
}

/// The last events, one a line.
fn listed(seen: &[Seen]) -> String {
    const SHOWN: usize = 50;
    let left_out = seen.len().saturating_sub(SHOWN);
    let mut text = match (seen.len(), left_out) {
        (0, _) => " no events".to_owned(),
        (_, 0) => String::new(),
        (_, left_out) => format!("\n  ({left_out} earlier ones)"),
    };
    for seen in &seen[left_out..] {
        text.push_str(&format!("\n  {seen:?}"));
    }
    text
}

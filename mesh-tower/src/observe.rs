//! Watching a mesh: the [`Observer`] and its [`Event`]s.
//!
//! An observer is installed by [`Builder::observer`](crate::Builder::observer). Independently of it every event is a
//! `tracing` event at level `DEBUG` under the target `mesh` (`INFO` for ejections, health, priorities and identities,
//! `WARN` for a refused configuration or caller and an identity that was not renewed, soon ends or will be refused by peers, `ERROR` for one that expired). With neither installed an event costs a branch and an atomic load.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_core::balance::{News, State};
use mesh_core::model::{Address, BackendId, Finder};
use mesh_core::resilience::limits::Limit;
use mesh_core::resilience::outlier::EjectionChange;

pub use mesh_core::observe::{
    Attempt, Config, Connect, Ejection, Endpoint, Event, Health, Identity, IdentityChange, Lookup, Next, Observer,
    Outcome, Overflow, Pick, Priority, Request, Served,
};

use crate::contain::contained;
use crate::identity::Utc;
use crate::telemetry::metrics::Metrics;

pub(crate) type DynError<'a> = &'a (dyn std::error::Error + Send + Sync + 'static);

/// The target of every `tracing` event of a mesh.
pub(crate) const TARGET: &str = "mesh";

/// The installed observer, if any, and `tracing`; and the metrics of what nobody else tells them.
#[derive(Clone, Default)]
pub(crate) struct Observers {
    observer: Option<Arc<dyn Observer>>,
    metrics: Option<Arc<Metrics>>,
}

impl Observers {
    pub(crate) fn new(observer: Option<Arc<dyn Observer>>) -> Self {
        Self { observer, metrics: None }
    }

    pub(crate) fn with_metrics(mut self, metrics: Option<Arc<Metrics>>) -> Self {
        self.metrics = metrics;
        self
    }

    /// Whether anybody wants to know about single requests.
    pub(crate) fn watches_requests(&self) -> bool {
        self.observer.is_some() || tracing::enabled!(target: TARGET, tracing::Level::DEBUG)
    }

    fn tell(&self, event: &Event<'_>) {
        if let Some(observer) = &self.observer {
            // It is in the log; nothing here depends on an observer.
            let _ = contained("the observer", || observer.event(event));
        }
    }

    pub(crate) fn request(&self, event: Request<'_>) {
        tracing::debug!(
            target: TARGET,
            service = event.service,
            route = event.route,
            backend = event.backend.map(tracing::field::display),
            outcome = ?event.outcome,
            attempts = event.attempts,
            duration = ?event.duration,
            "request"
        );
        self.tell(&Event::Request(event));
    }

    pub(crate) fn attempt(&self, event: Attempt<'_>) {
        tracing::debug!(
            target: TARGET,
            service = event.service,
            backend = %event.backend,
            endpoint = event.endpoint.map(tracing::field::display),
            number = event.number,
            outcome = ?event.outcome,
            duration = ?event.duration,
            next = ?event.next,
            "attempt"
        );
        self.tell(&Event::Attempt(event));
    }

    pub(crate) fn served(&self, event: Served<'_>) {
        tracing::debug!(
            target: TARGET,
            server = event.server,
            peer = event.peer.map(tracing::field::display),
            outcome = ?event.outcome,
            refusal = event.refusal,
            duration = ?event.duration,
            "served"
        );
        self.tell(&Event::Served(event));
    }

    pub(crate) fn pick(&self, backend: &BackendId, endpoint: Option<&Address>) {
        self.tell(&Event::Pick(Pick::new(backend, endpoint)));
    }

    pub(crate) fn connect(
        &self,
        backend: &BackendId,
        endpoint: &Address,
        error: Option<DynError<'_>>,
        duration: Duration,
    ) {
        tracing::debug!(
            target: TARGET,
            %backend,
            %endpoint,
            error = error.map(tracing::field::display),
            ?duration,
            "connect"
        );
        let mut event = Connect::new(backend, endpoint, duration);
        event.error = error;
        self.tell(&Event::Connect(event));
    }

    pub(crate) fn endpoint(&self, backend: &BackendId, endpoint: &Address, state: State) {
        tracing::debug!(target: TARGET, %backend, %endpoint, state = state.as_str(), "endpoint");
        self.tell(&Event::Endpoint(Endpoint::new(backend, endpoint, state)));
    }

    pub(crate) fn ejection(&self, backend: &BackendId, endpoint: &Address, change: EjectionChange) {
        match change {
            EjectionChange::Ejected { cause, duration } => {
                tracing::info!(target: TARGET, %backend, %endpoint, cause = cause.as_str(), ?duration, "endpoint ejected");
            }
            EjectionChange::Spared { cause, reason } => {
                let (cause, reason) = (cause.as_str(), reason.as_str());
                tracing::debug!(target: TARGET, %backend, %endpoint, cause, reason, "endpoint not ejected");
            }
            EjectionChange::Returned => tracing::info!(target: TARGET, %backend, %endpoint, "endpoint returned"),
            change => tracing::debug!(target: TARGET, %backend, %endpoint, ?change, "ejection"),
        }
        self.tell(&Event::Ejection(Ejection::new(backend, endpoint, change)));
    }

    pub(crate) fn health(&self, backend: &BackendId, endpoint: &Address, healthy: bool, reason: Option<&str>) {
        tracing::info!(target: TARGET, %backend, %endpoint, healthy, reason, "endpoint health changed");
        self.tell(&Event::Health(Health::new(backend, endpoint, healthy).with_reason(reason)));
    }

    /// A limit of ours was reached.
    pub(crate) fn overflow(&self, backend: &BackendId, limit: Limit) {
        tracing::debug!(target: TARGET, %backend, limit = limit.as_str(), "overflow");
        self.tell(&Event::Overflow(Overflow::new(backend, limit)));
    }

    pub(crate) fn priority(&self, backend: &BackendId, news: &News) {
        let News { priority, distance, panics, .. } = *news;
        tracing::info!(target: TARGET, %backend, priority, distance, panics, "priority in use changed");
        let mut event = Priority::new(backend, priority, panics);
        event.distance = distance;
        self.tell(&Event::Priority(event));
    }

    pub(crate) fn config(&self, version: u64, source: &str, error: Option<&(dyn std::error::Error + 'static)>) {
        match error {
            None => tracing::debug!(target: TARGET, version, source, "configuration applied"),
            Some(error) => tracing::warn!(
                target: TARGET,
                version,
                source,
                %error,
                "configuration refused; the last good one stays in force"
            ),
        }
        let mut event = Config::new(version, source);
        event.error = error;
        self.tell(&Event::Config(event));
    }

    /// A look-up ended with so many endpoints, or failed.
    pub(crate) fn lookup(&self, finder: &Finder, result: Result<usize, DynError<'_>>, duration: Duration) {
        tracing::debug!(
            target: TARGET,
            name = %finder,
            endpoints = result.as_ref().ok(),
            error = result.as_ref().err().map(tracing::field::display),
            ?duration,
            "lookup"
        );
        if let Some(metrics) = &self.metrics {
            metrics.lookup(result.is_ok());
        }
        if let Some(observer) = &self.observer {
            let error = result.err().map(ToString::to_string);
            let mut event = Lookup::new(finder, result.unwrap_or(0), duration);
            event.error = error.as_deref();
            observer.event(&Event::Lookup(event));
        }
    }

    /// What happened to what `source` brings; of a certificate that is good at `now`.
    pub(crate) fn identity(&self, source: &str, change: IdentityChange<'_>, now: SystemTime) {
        let days = |not_after: SystemTime| {
            let left = not_after.duration_since(now).unwrap_or_default();
            (left.as_secs_f64() / 86_400.0 * 100.0).round() / 100.0
        };
        match change {
            IdentityChange::Changed { generation, id, not_after } => tracing::info!(
                target: TARGET,
                source,
                generation,
                id = id.map(tracing::field::display),
                not_after = %Utc(not_after),
                days_left = days(not_after),
                "identity changed"
            ),
            IdentityChange::Failed { error } => {
                tracing::warn!(target: TARGET, source, error, "identity not renewed; the last good one stays");
            }
            IdentityChange::Expiring { not_after } => tracing::warn!(
                target: TARGET,
                source,
                not_after = %Utc(not_after),
                days_left = days(not_after),
                "less than a fifth of the certificate's life is left, and no new one has come"
            ),
            IdentityChange::Expired { not_after } => tracing::error!(
                target: TARGET,
                source,
                not_after = %Utc(not_after),
                "the certificate has expired; peers refuse it"
            ),
            change => tracing::debug!(target: TARGET, source, ?change, "identity"),
        }
        self.tell(&Event::Identity(Identity::new(source, change)));
    }
}

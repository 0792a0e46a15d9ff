//! What is due whether or not a request is there to do it: outlier detection's sweeps and a look at the peers of mutual
//! TLS when the identity changes, which one task does for all backends, health checks and load reports, which have a task for each backend with endpoints to be asked.

mod health;
mod load;
mod rounds;

use std::sync::Arc;
use std::time::Duration;

use http::uri::Authority;
use tokio::time::Instant;

use self::health::HealthChecks;
use self::load::LoadReports;
use self::rounds::Rounds;
use crate::mesh::Core;
use crate::net::{Backend, Endpoint, tls};

/// Without anything due, somebody looks all the same.
const SELDOM: Duration = Duration::from_secs(3600);
/// However short the intervals of a configuration, there is a pause between two sweeps.
const AT_MOST: Duration = Duration::from_millis(5);

pub(crate) async fn run(core: Arc<Core>) {
    let mut published = core.subscribe();
    let (mut checks, mut reports) = (Rounds::<HealthChecks>::default(), Rounds::<LoadReports>::default());
    let mut identities = core.shared.identities.subscribe();
    // Also for what changed while this task was on its way.
    identities.mark_changed();
    let mut version = None;
    loop {
        let snapshot = core.snapshot.load_full();
        if version.replace(snapshot.version()) != Some(snapshot.version()) {
            checks.follow(&snapshot, &core.shared.tasks);
            reports.follow(&snapshot, &core.shared.tasks);
        }
        drop(snapshot);
        let due = sweep(&core, Instant::now());
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            changed = published.changed() => if changed.is_err() { return },
            Ok(()) = identities.changed() => {
                let identity = identities.borrow_and_update().clone();
                if let Some(identity) = identity {
                    tls::review(&core.shared.sessions, &identity).await;
                }
            }
        }
    }
}

/// Sweeps the backends whose time has come, and says when the next one is due.
fn sweep(core: &Core, now: Instant) -> Instant {
    let snapshot = core.snapshot.load_full();
    let next = snapshot.backends().filter_map(|backend| sweep_backend(backend, now)).min();
    next.unwrap_or(now + SELDOM).max(now + AT_MOST)
}

fn sweep_backend(backend: &Backend, now: Instant) -> Option<Instant> {
    let policy = backend.config().outlier_detection.as_ref()?;
    let detector = backend.fleet().detector();
    detector.start(now.into_std());
    if detector.next_due(policy) <= now.into_std() {
        let endpoints = backend.picker().endpoints();
        // Of the others there is nothing to say.
        let known: Vec<_> = endpoints.iter().filter(|endpoint| endpoint.known_record().is_some()).collect();
        let records = known.iter().filter_map(|endpoint| endpoint.known_record());
        detector.sweep(policy, endpoints.len(), records, now.into_std(), &mut rand::rng(), |index, change| {
            backend.fleet().bump();
            backend.transport().ejection(known[index].address(), change);
        });
    }
    Some(Instant::from_std(detector.next_due(policy)))
}

/// Gives every endpoint of a backend back that has no outlier detection, or no health check, any more.
pub(crate) fn forgive(backend: &Backend) {
    health::forgive(backend);
    if backend.config().outlier_detection.is_some() {
        return;
    }
    let known: Vec<_> =
        backend.picker().endpoints().iter().filter(|endpoint| endpoint.known_record().is_some()).collect();
    let records = known.iter().filter_map(|endpoint| endpoint.known_record());
    backend.fleet().detector().reset(records, |index, change| {
        backend.fleet().bump();
        backend.transport().ejection(known[index].address(), change);
    });
}

/// What an endpoint is called when it is asked on our own account: the service's name, as in requests, or where it is.
fn authority_of(backend: &Backend, endpoint: &Endpoint) -> Authority {
    let service = &*backend.id().service;
    // Services made on demand are named by a URI.
    let name = service.split_once("://").map_or(service, |(_, authority)| authority);
    let name = Authority::try_from(name).ok().filter(|authority| !authority.as_str().contains('@'));
    let address = || Authority::try_from(endpoint.address().to_string()).ok();
    name.or_else(address).unwrap_or_else(|| Authority::from_static("localhost"))
}

//! The one task that does what is due whether or not a request is there to do it: outlier detection's sweeps.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::mesh::Core;
use crate::net::Backend;

/// Without anything due, somebody looks all the same.
const SELDOM: Duration = Duration::from_secs(3600);
/// However short the intervals of a configuration, there is a pause between two sweeps.
const AT_MOST: Duration = Duration::from_millis(5);

pub(crate) async fn run(core: Arc<Core>) {
    let mut published = core.subscribe();
    loop {
        let due = sweep(&core, Instant::now());
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            changed = published.changed() => if changed.is_err() { return },
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

/// Gives every endpoint of a backend back that has no outlier detection any more.
pub(crate) fn forgive(backend: &Backend) {
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

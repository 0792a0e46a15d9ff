//! Connecting endpoints one after the other, for pick first: happy eyeballs (RFC 8305 section 5, gRFC A61).
//!
//! ```text
//!  first idle one ── start ──> 250 ms, or it failed ──> next idle one ── .. ──> none left: each goes on with its backoff
//!        any of them ready: the others stand by, and the pass ends. A lost connection begins the next one.
//! ```
//!
//! A pass only looks at the states of endpoints. Each is connected by a loop of its own, as with any other balancer; what
//! a pass adds is when that loop begins, and that it ends once another endpoint was quicker.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use mesh_core::balance::{Picker, State};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Pool, has_left, stand_by, start};
use crate::net::{Cluster, Endpoint, Wanted};

/// How long an attempt is alone before the next endpoint is tried too (gRFC A61, RFC 8305 section 8).
const SPACING: Duration = Duration::from_millis(250);

/// In which order a backend connects its endpoints, and whether it does just now.
#[derive(Default)]
pub(crate) struct Order(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// None where they are connected all at once.
    endpoints: Vec<Weak<Endpoint>>,
    /// Ends the pass under way.
    pass: Option<CancellationToken>,
}

impl Order {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn is_of(&self, endpoints: &[Arc<Endpoint>]) -> bool {
        self.endpoints.len() == endpoints.len()
            && self.endpoints.iter().zip(endpoints).all(|(weak, endpoint)| weak.as_ptr() == Arc::as_ptr(endpoint))
    }

    fn stop(&mut self) {
        if let Some(pass) = self.pass.take() {
            pass.cancel();
        }
    }
}

/// Connects what is idle: the endpoints that `picker` has in use, or one after the other if it uses only one of them.
pub(crate) fn connect(picker: &Picker<Pool>, wanted: Wanted) {
    let endpoints = picker.endpoints();
    let Some(first) = endpoints.first() else { return };
    let cluster = &first.transport().cluster;
    let mut order = cluster.order.lock();
    if !picker.connects_in_order() {
        order.endpoints.clear();
        order.stop();
        drop(order);
        let idle = picker.to_connect(Instant::now().into_std(), &mut rand::rng());
        return idle.into_iter().for_each(|endpoint| start(endpoint, wanted));
    }
    if !order.is_of(endpoints) {
        order.endpoints = endpoints.iter().map(Arc::downgrade).collect();
        order.stop();
    }
    // Each request that waits comes by here.
    if order.pass.is_none() {
        begin(cluster, order, endpoints.to_vec(), wanted);
    }
}

/// A connection was lost, or could not be made where there was one: begins a pass if endpoints are connected in order.
pub(super) fn resume(cluster: &Arc<Cluster>, wanted: Wanted) {
    let order = cluster.order.lock();
    let endpoints = order.endpoints.iter().filter_map(Weak::upgrade).collect();
    begin(cluster, order, endpoints, wanted);
}

fn begin(cluster: &Arc<Cluster>, mut order: MutexGuard<'_, Inner>, endpoints: Vec<Arc<Endpoint>>, wanted: Wanted) {
    if order.pass.is_some() || endpoints.is_empty() {
        return;
    }
    let token = CancellationToken::new();
    order.pass = Some(token.clone());
    drop(order);
    let pass = pass(Arc::clone(cluster), endpoints, wanted, token.clone());
    cluster.shared.tasks.spawn_until_stop(async move { token.run_until_cancelled(pass).await.unwrap_or_default() });
}

async fn pass(cluster: Arc<Cluster>, endpoints: Vec<Arc<Endpoint>>, wanted: Wanted, token: CancellationToken) {
    // One that reconnects has its time before the next one is tried.
    if let Some(endpoint) = first(&endpoints, State::Connecting) {
        attempt(&cluster, &endpoints, endpoint).await;
    }
    loop {
        let changed = cluster.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        if token.is_cancelled() {
            return;
        }
        if let Some(ready) = first(&endpoints, State::Ready) {
            let others = endpoints.iter().filter(|endpoint| !Arc::ptr_eq(endpoint, ready));
            others.filter(|endpoint| endpoint.state() != State::Idle).for_each(|endpoint| stand_by(endpoint));
            // Whoever loses a connection asks under the same lock whether a pass is under way.
            let mut order = cluster.order.lock();
            if ready.state() == State::Ready || token.is_cancelled() {
                if !token.is_cancelled() {
                    order.pass = None;
                }
                return;
            }
            continue;
        }
        // Those that left the configuration stay idle.
        let is_open = |endpoint: &&Arc<Endpoint>| !has_left(endpoint);
        match endpoints.iter().filter(is_open).find(|endpoint| endpoint.state() == State::Idle) {
            Some(next) => {
                start(next, wanted);
                attempt(&cluster, &endpoints, next).await;
            }
            None if endpoints.iter().any(|endpoint| is_open(&endpoint)) => changed.await,
            None => return,
        }
    }
}

fn first(endpoints: &[Arc<Endpoint>], state: State) -> Option<&Arc<Endpoint>> {
    endpoints.iter().find(|endpoint| endpoint.state() == state)
}

/// Resolves when `endpoint` has failed or any of `all` is connected, and at the latest when the next one may be tried.
async fn attempt(cluster: &Cluster, all: &[Arc<Endpoint>], endpoint: &Endpoint) {
    let decided = async {
        loop {
            let changed = cluster.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if endpoint.state() != State::Connecting || first(all, State::Ready).is_some() {
                return;
            }
            changed.await;
        }
    };
    // That the time is up is an answer, too.
    let _ = tokio::time::timeout(SPACING, decided).await;
}

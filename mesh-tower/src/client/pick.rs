//! From a backend to a place on a connection.

use std::sync::Arc;

use mesh_core::balance::{InFlight, Pick, PickRequest, State};
use mesh_core::model::{Discovered, Discovery};

use super::context::Context;
use crate::apply::is_pending;
use crate::error::{Error, ErrorKind};
use crate::net::pool::{self, NoLease, Offer, Slot};
use crate::net::{Backend, ConnectError, Endpoint, Pool, Snapshot, Wanted};

/// A place for one request.
pub(crate) struct Place {
    pub(crate) in_flight: InFlight<Pool>,
    pub(crate) slot: Slot,
}

/// Why there is none.
pub(crate) enum NoPlace {
    /// Every endpoint is failing: an attempt that failed to connect.
    Failing(Error),
    /// The connection was gone when it was asked for; another endpoint may serve.
    Lost(ConnectError),
    /// The backend is no longer part of the configuration.
    Left,
    /// The mesh itself refuses.
    Refused(Error),
}

enum Look {
    Found(Place),
    /// An HTTP/1.1 connection of this endpoint is to be awaited.
    Lease(Arc<Endpoint>),
    /// Something must change first.
    Wait,
}

/// Finds a place on an endpoint that is not in `tried` if there is another one, and says whether it had to wait. `fresh`: not on an HTTP/1.1 connection
/// that has idled.
pub(crate) async fn find(
    context: &Context,
    wanted: Wanted,
    tried: &[Arc<Endpoint>],
    fresh: bool,
) -> Result<(Place, bool), NoPlace> {
    let cluster = context.backend.transport();
    let mut look = if cluster.queue.is_empty() { look_patiently(context, wanted, tried)? } else { Look::Wait };
    let waits = matches!(look, Look::Wait);
    if waits {
        let bounded = tokio::time::timeout(context.max_wait, wait(context, wanted, tried));
        look = match bounded.await {
            Ok(look) => look?,
            // Whoever did not mind that all are failing is told so now.
            Err(_) => match look_now(context, wanted, tried)? {
                Look::Wait => return Err(unanswered(context).unwrap_or_else(|| NoPlace::Refused(stuck(context)))),
                found => found,
            },
        };
    }
    match look {
        Look::Found(place) => Ok((place, waits)),
        Look::Lease(endpoint) => {
            let in_flight = endpoint.enter();
            let lease = pool::lease(&endpoint, fresh).await.map_err(|error| match error {
                NoLease::Lost(error) => NoPlace::Lost(error),
                NoLease::Full => NoPlace::Refused(overflow(context)),
                NoLease::Stuck => NoPlace::Refused(stuck(context)),
            })?;
            Ok((Place { in_flight, slot: Slot::H1(lease) }, waits))
        }
        Look::Wait => Err(NoPlace::Refused(stuck(context))),
    }
}

/// Queues up and looks each time something changed.
async fn wait(context: &Context, wanted: Wanted, tried: &[Arc<Endpoint>]) -> Result<Look, NoPlace> {
    let cluster = context.backend.transport();
    let mut waiting = cluster.queue.join().map_err(|_| NoPlace::Refused(overflow(context)))?;
    loop {
        waiting.turn().await;
        match look_patiently(context, wanted, tried)? {
            Look::Wait => {}
            found => return Ok(found),
        }
    }
}

fn overflow(context: &Context) -> Error {
    let text = format!("{} requests already wait for {}", crate::net::Queue::CAPACITY, context.place());
    Error::new(ErrorKind::Overflow, text)
}

/// What there is to say if the backend's endpoints are still looked for.
fn unanswered(context: &Context) -> Option<NoPlace> {
    let snapshot = context.handle.core.snapshot.load();
    let backend = newest(&snapshot, &context.backend).filter(|backend| is_pending(backend))?;
    let of = &backend.config().discovery.as_ref()?.of;
    let text = format!("no endpoint of {} is known: {of} has not answered for {:?}", context.place(), context.max_wait);
    Some(NoPlace::Failing(Error::new(ErrorKind::NoHealthyEndpoint, text)))
}

fn stuck(context: &Context) -> Error {
    Error::new(
        ErrorKind::Overflow,
        format!(
            "no endpoint of {} had room within {:?}; its streams or connections are used up by requests that do not end",
            context.place(),
            context.max_wait
        ),
    )
}

/// Looks; a request that waits for ready goes on to wait where there is no endpoint, or none that can be connected.
fn look_patiently(context: &Context, wanted: Wanted, tried: &[Arc<Endpoint>]) -> Result<Look, NoPlace> {
    match look_now(context, wanted, tried) {
        Err(NoPlace::Failing(_)) if context.wait_for_ready => Ok(Look::Wait),
        Err(NoPlace::Refused(error)) if context.wait_for_ready && error.kind() == ErrorKind::NoEndpoint => {
            Ok(Look::Wait)
        }
        look => look,
    }
}

fn look_now(context: &Context, wanted: Wanted, tried: &[Arc<Endpoint>]) -> Result<Look, NoPlace> {
    let core = &context.handle.core;
    if core.shared.tasks.is_stopping() {
        return Err(NoPlace::Refused(Error::new(ErrorKind::Shutdown, "the mesh is shut down")));
    }
    let snapshot = core.snapshot.load();
    let backend = newest(&snapshot, &context.backend).ok_or(NoPlace::Left)?;
    let mut rng = rand::rng();
    let pick = match backend.picker().pick(&context.pick_request, tried, &mut rng) {
        Pick::Failing if wanted == Wanted::Http1 && pool::allow_http1(backend.picker().endpoints()) => {
            backend.picker().pick(&context.pick_request, tried, &mut rng)
        }
        pick => pick,
    };
    match pick {
        Pick::Ready(endpoint) => {
            core.shared.observers.pick(backend.id(), Some(endpoint.address()));
            match take(endpoint, wanted) {
                Some(look) => Ok(look),
                None => match look_further(backend, &context.pick_request, endpoint, wanted, tried) {
                    Look::Wait if wanted == Wanted::Http2 && nobody_speaks_http2(backend) => {
                        Err(NoPlace::Failing(failing(context, backend)))
                    }
                    look => Ok(look),
                },
            }
        }
        Pick::Failing => Err(NoPlace::Failing(failing(context, backend))),
        Pick::Empty if is_pending(backend) => Ok(Look::Wait),
        Pick::Empty => Err(empty(context, backend)),
        // Wait, and whatever a later balancer says that means as much.
        _ => {
            pool::connect(backend.picker(), wanted);
            Ok(Look::Wait)
        }
    }
}

fn take(endpoint: &Arc<Endpoint>, wanted: Wanted) -> Option<Look> {
    match pool::offer(endpoint, wanted) {
        Offer::H2(permit) => Some(Look::Found(Place { in_flight: endpoint.enter(), slot: Slot::H2(permit) })),
        Offer::H1 => Some(Look::Lease(Arc::clone(endpoint))),
        Offer::Busy => None,
    }
}

/// The endpoint that was picked has no room: looks at the others, each once.
fn look_further(
    backend: &Backend,
    request: &PickRequest,
    first: &Arc<Endpoint>,
    wanted: Wanted,
    tried: &[Arc<Endpoint>],
) -> Look {
    let mut seen: Vec<_> = tried.to_vec();
    seen.push(Arc::clone(first));
    let mut rng = rand::rng();
    while let Pick::Ready(endpoint) = backend.picker().pick(request, &seen, &mut rng) {
        if seen.iter().any(|other| Arc::ptr_eq(other, endpoint)) {
            break;
        }
        if let Some(look) = take(endpoint, wanted) {
            return look;
        }
        seen.push(Arc::clone(endpoint));
    }
    Look::Wait
}

fn nobody_speaks_http2(backend: &Backend) -> bool {
    // Pick first asks nobody else while one endpoint is there.
    let stands_by = |endpoint: &Endpoint| backend.picker().connects_in_order() && endpoint.state() == State::Idle;
    let endpoints = backend.picker().endpoints();
    // Where none refuses, the one that was picked has become idle since. One that has left says nothing of those that
    // came in its place.
    endpoints.iter().any(|endpoint| pool::refuses_http2(endpoint))
        && endpoints
            .iter()
            .all(|endpoint| !pool::has_left(endpoint) && (pool::refuses_http2(endpoint) || stands_by(endpoint)))
}

/// The backend as it is now.
fn newest<'a>(snapshot: &'a Snapshot, drawn: &Backend) -> Option<&'a Arc<Backend>> {
    snapshot.backend(drawn.index()).filter(|backend| backend.id() == drawn.id())
}

fn empty(context: &Context, backend: &Backend) -> NoPlace {
    let place = context.place();
    let none = |text| NoPlace::Refused(Error::new(ErrorKind::NoEndpoint, text));
    match &backend.config().discovery {
        None => none(format!("{place} has no endpoints; add one to its `endpoints`")),
        Some(Discovery { of, found: Discovered::Failed(why), .. }) => {
            let text = format!("no endpoint of {place} is known: {of}: {why}");
            NoPlace::Failing(Error::new(ErrorKind::NoHealthyEndpoint, text))
        }
        Some(Discovery { of, .. }) => none(format!("{place} has no endpoints: {of} names none")),
    }
}

fn failing(context: &Context, backend: &Backend) -> Error {
    let endpoints = backend.picker().endpoints();
    let last = endpoints.iter().rev().find_map(|endpoint| endpoint.transport().last_error());
    let text = format!("no healthy endpoint in {}: {} failing", context.place(), endpoints.len());
    let error = Error::new(
        ErrorKind::NoHealthyEndpoint,
        match &last {
            Some(last) => format!("{text}; last error: {last}"),
            None => text,
        },
    );
    match last {
        Some(last) => error.with_source(last),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Mesh;

    /// Between the pick and the look at the endpoint another one was found, or the configuration changed.
    #[tokio::test]
    async fn endpoints_that_became_idle_or_left_do_not_refuse_http2() {
        let yaml = "services: { s: { backends: { b: { endpoints: ['192.0.2.1:80', '192.0.2.2:80'], \
                    load_balancer: pick_first } } } }";
        let mesh = Mesh::builder().environment([]).text(yaml).build().await.unwrap();
        let snapshot = mesh.handle.core.snapshot.load_full();
        let backend = snapshot.backend_by_id(&mesh_core::model::BackendId::new("s", "b")).unwrap();
        let endpoints = backend.picker().endpoints();
        assert!(endpoints.iter().all(|endpoint| endpoint.state() == State::Idle));
        assert!(!nobody_speaks_http2(backend));
        endpoints[0].set_state(State::Failing);
        assert!(nobody_speaks_http2(backend), "the other one stands by");
        pool::close(&endpoints[1]);
        assert!(!nobody_speaks_http2(backend));
    }
}

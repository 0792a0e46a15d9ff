//! From a backend to a place on a connection.

use std::sync::Arc;
use std::time::Duration;

use mesh_core::balance::{Census, Chosen, Pick, PickRequest, Picker, State};
use mesh_core::model::{Discovered, Discovery};
use mesh_core::resilience::limits::Limit;
use tokio::time::Instant;

use super::context::Context;
use super::serving::Serving;
use crate::apply::is_pending;
use crate::error::{Error, ErrorKind};
use crate::net::pool::{self, NoLease, Offer, Slot};
use crate::net::{Aside, Backend, ConnectError, Endpoint, Pool, Room, Snapshot, Wanted};

/// A place for one request.
pub(crate) struct Place {
    pub(crate) serving: Serving,
    pub(crate) slot: Slot,
}

/// Why there is none.
pub(crate) enum NoPlace {
    /// No endpoint is available: an attempt that failed to connect.
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
    Lease(Serving),
    /// The request is for one endpoint alone, which must be connected first.
    Await,
    /// The request is for one endpoint alone, whose streams are used up.
    Crowded(Arc<Room>),
    /// Something must change first.
    Wait,
}

/// What a request looks for.
#[derive(Clone, Copy)]
pub(crate) struct Search<'a> {
    pub(crate) wanted: Wanted,
    /// Endpoints that are only taken if there is no other one.
    pub(crate) tried: &'a [Arc<Endpoint>],
    /// Not an HTTP/1.1 connection that has idled.
    pub(crate) fresh: bool,
}

/// How long a request waits for the endpoint of its session to have room: a server that holds its streams must not keep
/// its sessions for good.
const FAITHFUL: Duration = Duration::from_secs(5);

/// Finds a place, and says whether it had to wait.
pub(crate) async fn find(context: &Context, search: Search<'_>) -> Result<(Place, bool), NoPlace> {
    if context.bound_to().is_some() {
        // In a box: few requests have a session, and all would carry its state.
        let bound = Box::pin(find_any(context, search));
        match tokio::time::timeout(FAITHFUL.min(context.max_wait), bound).await {
            Ok(found) => return found,
            Err(_) => context.unbind(),
        }
    }
    find_any(context, search).await
}

async fn find_any(context: &Context, search: Search<'_>) -> Result<(Place, bool), NoPlace> {
    let cluster = context.backend.transport();
    // A session's endpoint may be free while others wait for theirs.
    let at_once = cluster.queue.is_empty() || context.bound_to().is_some();
    let mut look = if at_once { look_patiently(context, search, Instant::now())? } else { Look::Wait };
    let waits = matches!(look, Look::Wait | Look::Await | Look::Crowded(_));
    if waits {
        let waiting = async {
            match look {
                Look::Await | Look::Crowded(_) => wait_aside(context, search).await,
                _ => wait(context, search).await,
            }
        };
        look = match tokio::time::timeout(context.max_wait, waiting).await {
            Ok(look) => look?,
            // Whoever did not mind that all are failing is told so now.
            Err(_) => match look_now(context, search, Instant::now())? {
                Look::Wait | Look::Await | Look::Crowded(_) => {
                    return Err(unanswered(context).unwrap_or_else(|| NoPlace::Refused(stuck(context))));
                }
                found => found,
            },
        };
    }
    match look {
        Look::Found(place) => Ok((place, waits)),
        Look::Lease(serving) => {
            let max_pending = context.backend.config().circuit_breaker.max_pending_requests;
            let lease =
                pool::lease(serving.endpoint(), search.fresh, max_pending).await.map_err(|error| match error {
                    NoLease::Lost(error) => NoPlace::Lost(error),
                    NoLease::Full(limit) => NoPlace::Refused(context.overflow(limit)),
                    NoLease::Stuck => NoPlace::Refused(stuck(context)),
                })?;
            Ok((Place { serving, slot: Slot::H1(lease) }, waits))
        }
        Look::Await | Look::Crowded(_) | Look::Wait => Err(NoPlace::Refused(stuck(context))),
    }
}

/// Queues up and looks each time something changed.
async fn wait(context: &Context, search: Search<'_>) -> Result<Look, NoPlace> {
    let cluster = context.backend.transport();
    let max_pending = context.backend.config().circuit_breaker.max_pending_requests;
    let mut waiting = cluster.queue.join(max_pending).map_err(|limit| NoPlace::Refused(context.overflow(limit)))?;
    loop {
        if waiting.is_first() {
            // Time itself may change something.
            let patrol = Instant::now() + PATROL;
            let at = ask_again(context).map_or(patrol, |at| at.min(patrol));
            let _ = tokio::time::timeout_at(at, waiting.turn()).await;
        } else {
            waiting.turn().await;
        }
        match look_patiently(context, search, Instant::now())? {
            Look::Wait => {}
            Look::Await | Look::Crowded(_) => {
                drop(waiting);
                return wait_aside(context, search).await;
            }
            found => return Ok(found),
        }
    }
}

/// Waits for one endpoint, while others go to theirs.
async fn wait_aside(context: &Context, search: Search<'_>) -> Result<Look, NoPlace> {
    let cluster = context.backend.transport();
    let max_pending = context.backend.config().circuit_breaker.max_pending_requests;
    let aside = cluster.queue.step_aside(max_pending).map_err(|limit| NoPlace::Refused(context.overflow(limit)))?;
    loop {
        let changed = aside.changed();
        tokio::pin!(changed);
        changed.as_mut().enable();
        match look_patiently(context, search, Instant::now())? {
            Look::Await | Look::Wait => {}
            Look::Crowded(room) => match wait_in(room, &aside, context, search).await? {
                Some(found) => return Ok(found),
                None => continue,
            },
            found => return Ok(found),
        }
        match ask_again(context) {
            Some(at) => {
                let _ = tokio::time::timeout_at(at, changed).await;
            }
            None => changed.await,
        }
    }
}

/// Waits for a stream of the endpoint of `room`; `None` once that is not what the request needs.
async fn wait_in(
    room: Arc<Room>,
    aside: &Aside<'_>,
    context: &Context,
    search: Search<'_>,
) -> Result<Option<Look>, NoPlace> {
    let entered = room.enter();
    loop {
        let (changed, freed) = (aside.changed(), entered.freed());
        tokio::pin!(changed, freed);
        changed.as_mut().enable();
        freed.as_mut().enable();
        match look_patiently(context, search, Instant::now())? {
            Look::Crowded(crowded) if Arc::ptr_eq(&crowded, &room) => {}
            Look::Crowded(_) | Look::Await | Look::Wait => return Ok(None),
            found => return Ok(Some(found)),
        }
        tokio::select! {
            () = changed => {}
            () = freed => {}
        }
    }
}

/// When another look may find something although no endpoint changed.
fn ask_again(context: &Context) -> Option<Instant> {
    const SOON: Duration = Duration::from_millis(1);
    let snapshot = context.handle.core.snapshot.load();
    let picker = newest(&snapshot, &context.backend)?.picker_of(context.subset.as_ref())?;
    picker.ask_again().map(|at| Instant::from_std(at).max(Instant::now() + SOON))
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
fn look_patiently(context: &Context, search: Search<'_>, now: Instant) -> Result<Look, NoPlace> {
    match look_now(context, search, now) {
        Err(NoPlace::Failing(_)) if context.wait_for_ready => Ok(Look::Wait),
        Err(NoPlace::Refused(error)) if context.wait_for_ready && error.kind() == ErrorKind::NoEndpoint => {
            Ok(Look::Wait)
        }
        look => look,
    }
}

fn look_now(context: &Context, search: Search<'_>, now: Instant) -> Result<Look, NoPlace> {
    let core = &context.handle.core;
    if core.shared.tasks.is_stopping() {
        return Err(NoPlace::Refused(Error::new(ErrorKind::Shutdown, "the mesh is shut down")));
    }
    let snapshot = core.snapshot.load();
    let backend = newest(&snapshot, &context.backend).ok_or(NoPlace::Left)?;
    let picker = backend.picker_of(context.subset.as_ref()).ok_or(NoPlace::Left)?;
    let Search { wanted, tried, .. } = search;
    let mut rng = rand::rng();
    let request = PickRequest::new(context.hash, now.into_std());
    let bound = context.bound_to().and_then(|address| picker.pick_bound(address, tried));
    let is_bound = bound.is_some();
    let pick = match bound.unwrap_or_else(|| picker.pick(&request, tried, &mut rng)) {
        Pick::Failing if wanted == Wanted::Http1 && pool::allow_http1(picker.endpoints()) => {
            picker.pick(&request, tried, &mut rng)
        }
        pick => pick,
    };
    if let Some(news) = picker.take_news() {
        core.shared.observers.priority(backend.id(), &news);
    }
    let looker = Looker { context, backend, picker, wanted };
    match pick {
        Pick::Ready(chosen) => {
            core.shared.observers.pick(backend.id(), Some(chosen.endpoint.address()));
            if let Some(sleeper) = chosen.sleeper {
                pool::wake(sleeper, wanted);
            }
            match looker.take(&chosen)? {
                Some(look) => Ok(look),
                // A session stays where it is, unless its endpoint never has a stream.
                None if is_bound && !(wanted == Wanted::Http2 && pool::refuses_http2(chosen.endpoint)) => {
                    Ok(Look::Crowded(Arc::clone(pool::room(chosen.endpoint))))
                }
                None => match looker.look_further(&request, chosen.endpoint, tried)? {
                    Look::Wait if wanted == Wanted::Http2 && nobody_speaks_http2(picker) => {
                        Err(NoPlace::Failing(without_http2(context, picker)))
                    }
                    look => Ok(look),
                },
            }
        }
        Pick::Await(endpoint) => {
            pool::wake(endpoint, wanted);
            Ok(Look::Await)
        }
        Pick::Failing => Err(NoPlace::Failing(failing(context, picker))),
        Pick::Empty if is_pending(backend) => Ok(Look::Wait),
        Pick::Empty => Err(empty(context, backend)),
        // Wait, and whatever a later balancer says that means as much.
        _ => {
            pool::connect(picker, wanted);
            Ok(Look::Wait)
        }
    }
}

/// How many endpoints are asked for room in one look: each further one is compared with all before it. Of those that were
/// not asked, the next look asks others.
const FURTHER: usize = 32;
/// How often the first of those who wait looks although nothing woke it: somewhere else there may have been room.
const PATROL: Duration = Duration::from_millis(50);

/// One look at the endpoints of a backend.
struct Looker<'a> {
    context: &'a Context,
    backend: &'a Arc<Backend>,
    picker: &'a Picker<Pool>,
    wanted: Wanted,
}

impl Looker<'_> {
    /// A place at the endpoint that was chosen, if it has room.
    fn take(&self, chosen: &Chosen<'_, Pool>) -> Result<Option<Look>, NoPlace> {
        // Counted once there is room: whoever finds none must not take the place of one who does.
        let offer = pool::offer(chosen.endpoint, self.wanted);
        if let Offer::Busy = offer {
            if chosen.probes {
                chosen.endpoint.release_probe();
            }
            return Ok(None);
        }
        let serving = Serving::begin(self.backend, chosen, self.context)
            .ok_or_else(|| NoPlace::Refused(self.context.overflow(Limit::Requests)))?;
        Ok(Some(match offer {
            Offer::H2(permit) => Look::Found(Place { serving, slot: Slot::H2(permit) }),
            _ => Look::Lease(serving),
        }))
    }

    /// The endpoint that was picked has no room: looks at some of the others, each once.
    fn look_further(
        &self,
        request: &PickRequest,
        first: &Arc<Endpoint>,
        tried: &[Arc<Endpoint>],
    ) -> Result<Look, NoPlace> {
        let mut seen: Vec<_> = tried.to_vec();
        seen.push(Arc::clone(first));
        let mut rng = rand::rng();
        while seen.len() < tried.len() + FURTHER
            && let Pick::Ready(chosen) = self.picker.pick(request, &seen, &mut rng)
        {
            if seen.iter().any(|other| Arc::ptr_eq(other, chosen.endpoint)) {
                if chosen.probes {
                    chosen.endpoint.release_probe();
                }
                break;
            }
            if let Some(look) = self.take(&chosen)? {
                return Ok(look);
            }
            seen.push(Arc::clone(chosen.endpoint));
        }
        Ok(Look::Wait)
    }
}

fn nobody_speaks_http2(picker: &Picker<Pool>) -> bool {
    // Pick first asks nobody else while one endpoint is there.
    let stands_by = |endpoint: &Endpoint| picker.connects_in_order() && endpoint.state() == State::Idle;
    let endpoints = picker.endpoints();
    // Where none refuses, the one that was picked has become idle since. One that has left says nothing of those that
    // came in its place.
    endpoints.iter().any(|endpoint| pool::refuses_http2(endpoint))
        && endpoints
            .iter()
            .all(|endpoint| !pool::has_left(endpoint) && (pool::refuses_http2(endpoint) || stands_by(endpoint)))
}

/// What the endpoints are at that the request may go to.
pub(super) fn census(context: &Context) -> Option<Census> {
    let snapshot = context.handle.core.snapshot.load();
    let picker = newest(&snapshot, &context.backend)?.picker_of(context.subset.as_ref())?;
    Some(picker.census())
}

/// The backend as it is now.
fn newest<'a>(snapshot: &'a Snapshot, drawn: &Backend) -> Option<&'a Arc<Backend>> {
    snapshot.backend(drawn.index()).filter(|backend| backend.id() == drawn.id())
}

fn empty(context: &Context, backend: &Backend) -> NoPlace {
    let place = context.place();
    let none = |text| NoPlace::Refused(Error::new(ErrorKind::NoEndpoint, text));
    match &backend.config().discovery {
        _ if context.subset.is_some() && !backend.config().endpoints.is_empty() => {
            let subset = context.subset.as_deref().into_iter().flatten();
            let subset: Vec<_> = subset.map(|(name, value)| format!("{name}: {value}")).collect();
            none(format!("no endpoint of {place} that may be picked has the metadata {{{}}}", subset.join(", ")))
        }
        _ if !backend.config().endpoints.is_empty() => {
            let text =
                format!("no endpoint of {place} may be picked: each drains, or has a weight of 0, or its locality has");
            none(text)
        }
        None => none(format!("{place} has no endpoints; add one to its `endpoints`")),
        Some(Discovery { of, found: Discovered::Failed(why), .. }) => {
            let text = format!("no endpoint of {place} is known: {of}: {why}");
            NoPlace::Failing(Error::new(ErrorKind::NoHealthyEndpoint, text))
        }
        Some(Discovery { of, .. }) => none(format!("{place} has no endpoints: {of} names none")),
    }
}

/// Endpoints are there, and none of them speaks HTTP/2.
fn without_http2(context: &Context, picker: &Picker<Pool>) -> Error {
    let error = failing(context, picker);
    if picker.census().ready > 0 { error.in_place("HTTP/2 is needed") } else { error }
}

fn failing(context: &Context, picker: &Picker<Pool>) -> Error {
    let last = picker.endpoints().iter().rev().find_map(|endpoint| endpoint.transport().last_error());
    let mut text = format!("no healthy endpoint in {}: {}", context.place(), picker.census());
    if let Some(reason) = picker.endpoints().iter().rev().find_map(|endpoint| endpoint.transport().illness()) {
        text = format!("{text}; last health check: {reason}");
    }
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
        assert!(!nobody_speaks_http2(backend.picker()));
        endpoints[0].set_state(State::Failing, std::time::Instant::now());
        assert!(nobody_speaks_http2(backend.picker()), "the other one stands by");
        pool::close(&endpoints[1]);
        assert!(!nobody_speaks_http2(backend.picker()));
    }
}

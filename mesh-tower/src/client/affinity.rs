//! What leads a request to its endpoint, and what its response tells of it: hash, made-up cookies, session.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{HeaderMap, HeaderValue, header};
use mesh_core::matching::{Origin, RequestHash, Session, request_hash};
use mesh_core::model::{Address, RoutePolicy, SessionAffinity};

use super::head::Head;
use crate::net::{Backend, Shared};

/// What a request keeps so that its caller finds back. Most have none.
pub(super) struct Affinity {
    /// Cookies that were made up.
    cookies: Vec<HeaderValue>,
    session: Option<(Arc<SessionAffinity>, Session)>,
    /// Whether the session's endpoint had no room for too long.
    given_up: AtomicBool,
}

/// The hash of a request to `backend`, and its affinity.
pub(super) fn of(
    head: &Head,
    policy: &RoutePolicy,
    backend: &Backend,
    shared: &Shared,
) -> (Option<u64>, Option<Box<Affinity>>) {
    let options = head.options();
    let hash = match options.hash {
        None if !policy.hash.is_empty() && backend.picker().uses_hash() => {
            let origin = Origin { source: options.source, channel_id: shared.channel_id };
            request_hash(&policy.hash, &head.request_head(), &origin, &mut rand::rng())
        }
        value => {
            let mut hash = RequestHash::default();
            hash.value = value;
            hash
        }
    };
    let session = policy.session.as_ref().and_then(|affinity| {
        let session = Session::of(affinity, &head.request_head())?;
        Some((Arc::clone(affinity), session))
    });
    let cookies = hash.cookies;
    let any = session.is_some() || !cookies.is_empty();
    (hash.value, any.then(|| Box::new(Affinity { cookies, session, given_up: AtomicBool::new(false) })))
}

impl Affinity {
    /// The endpoint that the request's session is bound to.
    pub(super) fn endpoint(&self) -> Option<&Address> {
        if self.given_up.load(Ordering::Relaxed) {
            return None;
        }
        self.session.as_ref()?.1.endpoint.as_ref()
    }

    /// The request goes wherever it is taken.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// Tells the caller, in the head of the response that `served` gave.
    pub(super) fn tell(self, served: &Address, headers: &mut HeaderMap) {
        let Self { cookies, session, .. } = self;
        // A head that is full of headers takes no more, which is no reason to fail.
        for cookie in cookies {
            let _ = headers.try_append(header::SET_COOKIE, cookie);
        }
        let told = session.and_then(|(affinity, session)| session.told(&affinity, served));
        let _ = match told {
            Some((header::SET_COOKIE, cookie)) => headers.try_append(header::SET_COOKIE, cookie),
            Some((name, value)) => headers.try_insert(name, value).map(|_| true),
            None => Ok(true),
        };
    }
}

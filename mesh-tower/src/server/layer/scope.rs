//! What is known of the request that a handler is polled for, wherever its code runs in that poll.
//!
//! A handler holds the request's body, and calls clients, in code of its own; what those have to say to the layer, and
//! the layer to them, goes by the thread. It holds for one poll, so nothing of it is shared or allocated. Code that a
//! handler spawns runs outside of it.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

use crate::telemetry::server::Refusal;

/// One request while it is polled.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Scope {
    /// Which one; 0 is none.
    request: u64,
    /// When what its handler sends has to be done.
    pub(super) deadline: Option<Instant>,
    /// What was read of its body since this was looked at.
    pub(super) received: usize,
    /// What its body says against it.
    pub(super) verdict: Option<Refusal>,
    /// Whether its handler is known to speak gRPC.
    pub(super) is_grpc: bool,
}

thread_local! {
    static HERE: Cell<Scope> =
        const { Cell::new(Scope { request: 0, deadline: None, received: 0, verdict: None, is_grpc: false }) };
}

static NEXT: AtomicU64 = AtomicU64::new(1);

impl Scope {
    /// The scope of a request; without a body it needs no number.
    pub(super) fn new(has_body: bool, deadline: Option<Instant>) -> Self {
        let request = if has_body { NEXT.fetch_add(1, Ordering::Relaxed) } else { 0 };
        Self { request, deadline, ..Self::default() }
    }

    pub(super) fn request(&self) -> u64 {
        self.request
    }

    /// Runs `poll` in this scope, which then holds what was left in it.
    pub(super) fn enter<R>(&mut self, poll: impl FnOnce() -> R) -> R {
        /// Puts back what was there before, also if `poll` panics.
        struct Entered<'a> {
            scope: &'a mut Scope,
            outer: Scope,
        }

        impl Drop for Entered<'_> {
            fn drop(&mut self) {
                *self.scope = HERE.replace(self.outer);
            }
        }

        let outer = HERE.replace(*self);
        let _entered = Entered { scope: self, outer };
        poll()
    }
}

/// When what is sent from here has to be done, because the request that is handled here has to be.
pub(crate) fn inherited_deadline() -> Option<Instant> {
    HERE.get().deadline
}

/// So much of the body of `request` was read.
pub(super) fn received(request: u64, bytes: usize) {
    tell(request, |scope| scope.received += bytes);
}

/// The body of `request` is not taken.
pub(super) fn refuse(request: u64, why: Refusal) {
    tell(request, |scope| scope.verdict = Some(why));
}

/// The handler that is called here speaks gRPC.
pub(super) fn confirm() {
    let here = HERE.get();
    HERE.set(Scope { is_grpc: true, ..here });
}

/// Whether the handler of `request` is known here to speak gRPC.
pub(super) fn is_confirmed(request: u64) -> bool {
    let here = HERE.get();
    here.is_grpc && here.request == request
}

fn tell(request: u64, change: impl FnOnce(&mut Scope)) {
    let mut scope = HERE.get();
    if scope.request == request && request != 0 {
        change(&mut scope);
        HERE.set(scope);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn scopes_nest_and_are_left_by_panics_too() {
        let at = Instant::now();
        let mut outer = Scope::new(true, Some(at));
        let mut inner = Scope::new(true, None);
        let (one, two) = (outer.request(), inner.request());
        assert_ne!(one, two);
        outer.enter(|| {
            assert_eq!(inherited_deadline(), Some(at));
            inner.enter(|| {
                assert_eq!(inherited_deadline(), None);
                received(two, 2);
                // Of another request.
                received(one, 1);
            });
            received(one, 3);
            assert_eq!(inherited_deadline(), Some(at));
        });
        assert_eq!((outer.received, inner.received), (3, 2));
        assert_eq!((inherited_deadline(), HERE.get().request), (None, 0));
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            outer.enter(|| {
                refuse(one, Refusal::BodySize);
                panic!("no luck")
            })
        }));
        assert!(panicked.is_err());
        assert_eq!((outer.verdict, inherited_deadline()), (Some(Refusal::BodySize), None));
    }
}

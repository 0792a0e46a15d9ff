//! Whether the handler of a request that says it is a gRPC call speaks gRPC: its caller's word is not enough.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a caller says its request is, until it is known of the handler too. The body of the request, which may be read by
/// any task, and its answer have one each.
#[derive(Debug, Clone)]
pub(super) struct Claim(Arc<AtomicBool>);

/// How many are kept for the requests to come: with them a call costs no allocation.
const SPARE: usize = 64;

thread_local! {
    static SPARES: RefCell<Vec<Arc<AtomicBool>>> = const { RefCell::new(Vec::new()) };
}

impl Claim {
    pub(super) fn new() -> Self {
        let spare = SPARES.try_with(|spares| spares.borrow_mut().pop());
        Self(spare.ok().flatten().unwrap_or_default())
    }

    /// The handler speaks gRPC.
    pub(super) fn confirm(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(super) fn is_confirmed(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Of two that are dropped at one moment neither is the last one, and nothing is kept.
        let Some(confirmed) = Arc::get_mut(&mut self.0) else { return };
        *confirmed.get_mut() = false;
        // While the thread ends there is nobody to keep it for.
        let _ = SPARES.try_with(|spares| {
            let mut spares = spares.borrow_mut();
            if spares.len() < SPARE {
                spares.push(Arc::clone(&self.0));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_used_again_says_nothing() {
        let spares = || SPARES.with_borrow(Vec::len);
        let (body, answer) = {
            let claim = Claim::new();
            (claim.clone(), claim)
        };
        let kept = Arc::as_ptr(&body.0);
        assert!(!body.is_confirmed());
        answer.confirm();
        drop(answer);
        assert_eq!((body.is_confirmed(), spares()), (true, 0));
        drop(body);
        assert_eq!(spares(), 1);
        let next = Claim::new();
        assert_eq!((Arc::as_ptr(&next.0), next.is_confirmed(), spares()), (kept, false, 0));
        let many: Vec<_> = (0..2 * SPARE).map(|_| Claim::new()).collect();
        drop(many);
        assert_eq!(spares(), SPARE);
    }
}

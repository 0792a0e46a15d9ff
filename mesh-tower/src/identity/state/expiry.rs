//! Says in time that a certificate comes to its end.

use std::time::{Duration, SystemTime};

use mesh_core::observe::IdentityChange;

use super::Identities;
use crate::identity::Identity;

/// The longest sleep: the clock by which certificates are valid may be set, and stands still in a suspended machine.
const LOOK: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Stage {
    Fresh,
    /// Less than a fifth of its life is left.
    Expiring,
    Expired,
}

/// Tells each identity's transitions, each once.
pub(super) async fn watch(identities: Identities) {
    let mut changes = identities.subscribe();
    let mut told = (0, Stage::Fresh);
    loop {
        let current = changes.borrow_and_update().clone();
        let mut pause = LOOK;
        if let Some(identity) = current {
            let now = identities.now();
            let (stage, next) = stage(&identity, now);
            let before = if told.0 == identity.generation() { told.1 } else { Stage::Fresh };
            if stage > before {
                let not_after = identity.not_after();
                let source = identities.active().unwrap_or_default();
                let change = match stage {
                    Stage::Expired => IdentityChange::Expired { not_after },
                    _ => IdentityChange::Expiring { not_after },
                };
                identities.0.observers.identity(&source, change, now);
            }
            told = (identity.generation(), stage.max_of(before));
            // A little later than the moment, so that it has passed; and the other clock may be slower.
            let until = next.map(|next| next.duration_since(now).unwrap_or_default() + Duration::from_millis(1));
            pause = until.unwrap_or(LOOK).min(LOOK);
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
        }
    }
}

impl Stage {
    fn max_of(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
}

/// The stage of `identity` at `now`, and when it reaches the next.
fn stage(identity: &Identity, now: SystemTime) -> (Stage, Option<SystemTime>) {
    let (not_before, not_after) = (identity.not_before(), identity.not_after());
    let life = not_after.duration_since(not_before).unwrap_or_default();
    let late = not_after.checked_sub(life / 5).unwrap_or(not_after);
    if now > not_after {
        (Stage::Expired, None)
    } else if now >= late {
        (Stage::Expiring, Some(not_after))
    } else {
        (Stage::Fresh, Some(late))
    }
}

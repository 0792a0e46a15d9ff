//! Telling the log of callers that are not let in, without letting them fill it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How seldom one reason is told.
const PAUSE: Duration = Duration::from_secs(1);

/// When each reason was last told, and how often it was not since. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Told(Arc<Mutex<BTreeMap<&'static str, Last>>>);

#[derive(Debug)]
struct Last {
    at: Instant,
    untold: u64,
}

impl Told {
    /// Whether `reason` is to be told now, and then how often it was not since the last time.
    pub(super) fn is_due(&self, reason: &'static str) -> Option<u64> {
        let now = Instant::now();
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(last) = told.get_mut(reason) else {
            told.insert(reason, Last { at: now, untold: 0 });
            return Some(0);
        };
        if now.duration_since(last.at) < PAUSE {
            last.untold += 1;
            return None;
        }
        last.at = now;
        Some(std::mem::take(&mut last.untold))
    }
}

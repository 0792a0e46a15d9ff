//! Bounds for what a test waits for.

use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

/// By the wall clock.
const PATIENCE: Duration = Duration::from_secs(60);
/// By a paused clock, which jumps ahead when nothing is left to do.
const PAUSED_PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// Awaits `future`, and panics if it hangs: after about a minute by the wall clock or a day by a paused one.
///
/// It says nothing about how long anything may take; it turns a test that would hang into one that fails.
///
/// # Panics
/// If `future` hangs.
pub async fn watched<T>(future: impl Future<Output = T>) -> T {
    watched_for(future, || "the test hangs".to_owned()).await
}

/// The same, with a text of one's own.
pub(super) async fn watched_for<T>(future: impl Future<Output = T>, text: impl FnOnce() -> String) -> T {
    let mut future = pin!(future);
    let began = Instant::now();
    let mut slice = Duration::from_secs(1);
    let mut waited = Duration::ZERO;
    loop {
        if let Ok(output) = tokio::time::timeout(slice, future.as_mut()).await {
            return output;
        }
        waited += slice;
        slice *= 2;
        // Nobody tells whether the clock is paused; if it is, then hours of it pass in no time.
        if began.elapsed() >= PATIENCE || waited >= PAUSED_PATIENCE {
            panic!("{}", text());
        }
    }
}

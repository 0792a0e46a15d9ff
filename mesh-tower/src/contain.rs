//! A panic in code of the application must not take a task of the mesh with it: what it left undone would never be done.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project::pin_project;

use crate::observe::TARGET;

/// What a panic said.
#[derive(Debug, thiserror::Error)]
#[error("{what} panicked: {message}")]
pub(crate) struct Panicked {
    what: &'static str,
    message: String,
}

impl Panicked {
    /// Tells the log: whoever runs the program should know, whatever becomes of it.
    fn new(what: &'static str, payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let message = text.or_else(|| payload.downcast_ref::<String>().cloned());
        let panicked = Self { what, message: message.unwrap_or_else(|| "no message".to_owned()) };
        tracing::error!(target: TARGET, "{panicked}");
        panicked
    }
}

/// Calls code of the application; `what` it is, for the error. Nothing of ours may be left half done by a panic of
/// `call`.
pub(crate) fn contained<T>(what: &'static str, call: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|payload| Panicked::new(what, &*payload))
}

/// Awaits code of the application: the making of its future, and each poll.
pub(crate) async fn contained_future<F: Future>(
    what: &'static str,
    make: impl FnOnce() -> F,
) -> Result<F::Output, Panicked> {
    Contained { what, future: contained(what, make)? }.await
}

#[pin_project]
struct Contained<F> {
    what: &'static str,
    #[pin]
    future: F,
}

impl<F: Future> Future for Contained<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match contained(this.what, || this.future.poll(cx)) {
            Ok(poll) => poll.map(Ok),
            // It is not polled again.
            Err(panicked) => Poll::Ready(Err(panicked)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn rl_14_panics_of_calls_and_futures_are_errors() {
        assert_eq!(contained("it", || 1).unwrap(), 1);
        let error = contained("the observer", || panic!("no {}", "luck")).unwrap_err();
        assert_eq!(error.to_string(), "the observer panicked: no luck");
        let made = contained_future("it", || -> std::future::Ready<()> { panic!("at once") }).await;
        assert_eq!(made.unwrap_err().to_string(), "it panicked: at once");
        let late = contained_future("it", || async {
            tokio::task::yield_now().await;
            if true {
                std::panic::panic_any(5);
            }
        });
        assert_eq!(late.await.unwrap_err().to_string(), "it panicked: no message");
        assert_eq!(contained_future("it", || async { 2 }).await.unwrap(), 2);
    }
}

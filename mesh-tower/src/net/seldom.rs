//! Waiting for what seldom happens, beside what happens all the time.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use atomic_waker::AtomicWaker;
use pin_project::pin_project;

/// Whether a future is to be polled, and who polls it.
///
/// A connection runs for every piece that it reads. What could end it (the drain of the server, another identity, ..)
/// waits on state that all connections share, and to poll it takes locks of that state: here each run looks at a flag of
/// its own instead.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    due: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.due.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl Signal {
    /// Whether what it stands for is to be polled, by the waker of this; otherwise the task of `cx` is woken when it is.
    pub(crate) fn is_due(&self, cx: &Context<'_>) -> bool {
        // First the task, then the flag: whoever raises it in between finds the task.
        self.task.register(cx.waker());
        self.take()
    }

    /// As [`is_due`](Self::is_due), for whoever need not be woken.
    pub(crate) fn take(&self) -> bool {
        self.due.load(Ordering::Relaxed) && self.due.swap(false, Ordering::AcqRel)
    }

    /// Nothing of what it stands for has been polled.
    pub(crate) fn raise(&self) {
        self.due.store(true, Ordering::Release);
    }
}

/// A future that is polled only when it was woken itself.
#[pin_project]
pub(crate) struct Seldom<'a, F> {
    #[pin]
    future: F,
    signal: &'a Signal,
    waker: &'a Waker,
}

impl<'a, F: Future> Seldom<'a, F> {
    /// `waker` is that of `signal`, which serves one future at a time.
    pub(crate) fn new(signal: &'a Signal, waker: &'a Waker, future: F) -> Self {
        signal.raise();
        Self { future, signal, waker }
    }
}

impl<F: Future> Future for Seldom<'_, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        if !this.signal.is_due(cx) {
            return Poll::Pending;
        }
        this.future.poll(&mut Context::from_waker(this.waker))
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::ready;

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn it_is_polled_when_it_was_woken_and_else_not() {
        let (signal, notify) = (Arc::new(Signal::default()), Notify::new());
        let waker = Waker::from(Arc::clone(&signal));
        let mut polls = 0;
        let mut notified = pin!(notify.notified());
        let counted = std::future::poll_fn(|cx| {
            polls += 1;
            ready!(notified.as_mut().poll(cx));
            Poll::Ready(polls)
        });
        let mut seldom = pin!(Seldom::new(&signal, &waker, counted));
        let mut runs = 0;
        let polls = std::future::poll_fn(|cx| {
            runs += 1;
            if runs == 100 {
                notify.notify_one();
            }
            if runs < 200 {
                cx.waker().wake_by_ref();
            }
            seldom.as_mut().poll(cx)
        });
        assert_eq!(polls.await, 2);
    }
}

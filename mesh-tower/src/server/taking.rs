//! Whether a caller takes its answer.
//!
//! With the window of a stream at 0 hyper waits for as long as the caller likes, and with it the handler's body and what
//! it holds. To bound that one has to know whose turn it is: an answer whose handler has nothing to send may wait for
//! hours (a subscription, say), one whose caller takes nothing may not.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::net::after;

/// Whose turn it is in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// The next piece is asked of the handler.
    Handler,
    /// There is a piece, or there may be one once the caller takes it.
    Caller,
}

thread_local! {
    /// What the answer said last whose task runs. The task is hyper's, which hides the body from it.
    static SAID: Cell<Option<Turn>> = const { Cell::new(None) };
}

/// Says whose turn it is in the answer that is polled now.
pub(super) fn say(turn: Turn) {
    SAID.set(Some(turn));
}

/// Hyper's task for a stream of HTTP/2, which ends when its caller takes nothing of the answer for too long: hyper then
/// resets the stream.
#[pin_project]
pub(super) struct Taking<F, T> {
    #[pin]
    task: F,
    timeout: Option<Duration>,
    /// Since when it is the caller's turn.
    since: Option<Instant>,
    /// Few answers need it.
    timer: Option<Pin<Box<Sleep>>>,
    _in_flight: T,
}

impl<F, T> Taking<F, T> {
    /// `timeout`: `None` is for ever. It holds `in_flight` until it ends.
    pub(super) fn new(task: F, timeout: Option<Duration>, in_flight: T) -> Self {
        Self { task, timeout, since: None, timer: None, _in_flight: in_flight }
    }
}

impl<F: Future<Output = ()>, T> Future for Taking<F, T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let outer = SAID.take();
        let polled = this.task.poll(cx);
        let said = SAID.replace(outer);
        if polled.is_ready() {
            return polled;
        }
        match said {
            Some(Turn::Caller) => *this.since = Some(Instant::now()),
            Some(Turn::Handler) => *this.since = None,
            // It was not asked: the caller has taken nothing.
            None => {}
        }
        let (Some(since), Some(timeout)) = (*this.since, *this.timeout) else { return Poll::Pending };
        let until = after(since, timeout);
        let timer = this.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= until {
                return Poll::Ready(());
            }
            timer.as_mut().reset(until);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Waker;

    use tokio::time::{advance, sleep, timeout};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(300);
    const SECOND: Duration = Duration::from_secs(1);

    /// A task that says each time what `turns` says next, and nothing when there is no more.
    fn saying(turns: impl IntoIterator<Item = Option<Turn>>) -> impl Future<Output = ()> {
        let mut turns = turns.into_iter();
        std::future::poll_fn(move |_| {
            if let Some(turn) = turns.next().flatten() {
                say(turn);
            }
            Poll::Pending
        })
    }

    fn poll(task: Pin<&mut impl Future<Output = ()>>) -> Poll<()> {
        task.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_taken_ends_and_one_that_has_nothing_to_send_does_not() {
        let stalled = Taking::new(saying([Some(Turn::Caller)]), Some(TIMEOUT), ());
        let began = Instant::now();
        stalled.await;
        assert_eq!(began.elapsed(), TIMEOUT);

        let subscription = Taking::new(saying([Some(Turn::Caller), Some(Turn::Handler)]), Some(TIMEOUT), ());
        let mut subscription = pin!(subscription);
        assert_eq!(poll(subscription.as_mut()), Poll::Pending);
        assert_eq!(poll(subscription.as_mut()), Poll::Pending);
        advance(100 * TIMEOUT).await;
        assert_eq!(poll(subscription.as_mut()), Poll::Pending);

        let boundless = Taking::new(saying([Some(Turn::Caller)]), None, ());
        assert!(timeout(100 * TIMEOUT, boundless).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_takes_a_little_now_and_then_has_its_time_anew() {
        let mut answer =
            pin!(Taking::new(saying([Some(Turn::Caller), None, Some(Turn::Caller), None]), Some(TIMEOUT), ()));
        assert_eq!(poll(answer.as_mut()), Poll::Pending);
        advance(TIMEOUT - SECOND).await;
        // Not asked: the clock runs on.
        assert_eq!(poll(answer.as_mut()), Poll::Pending);
        // Asked.
        assert_eq!(poll(answer.as_mut()), Poll::Pending);
        advance(2 * SECOND).await;
        assert_eq!(poll(answer.as_mut()), Poll::Pending);
        advance(TIMEOUT - 2 * SECOND).await;
        assert_eq!(poll(answer.as_mut()), Poll::Ready(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_within_a_task_speaks_for_itself() {
        let ended = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ended);
        let outer = async move {
            say(Turn::Handler);
            Taking::new(saying([Some(Turn::Caller)]), Some(TIMEOUT), ()).await;
            told.store(true, Ordering::Relaxed);
            sleep(10 * TIMEOUT).await;
        };
        let began = Instant::now();
        Taking::new(outer, Some(TIMEOUT), ()).await;
        assert!(ended.load(Ordering::Relaxed));
        assert_eq!(began.elapsed(), 11 * TIMEOUT);
    }
}

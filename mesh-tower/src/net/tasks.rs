//! The tasks of a mesh and how they end.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use pin_project::pin_project;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;

use super::seldom::Signal;

/// Spawns tasks, knows when all have ended, and ends them in two steps: first [stop](Tasks::stop), at which whatever
/// only serves the future ends (connection attempts, file watching), then [abort](Tasks::abort), at which connections
/// end too. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Tasks(Arc<Inner>);

struct Inner {
    tracker: TaskTracker,
    stopping: AtomicBool,
    stop: CancellationToken,
    abort: CancellationToken,
    runtime: tokio::runtime::Handle,
}

impl Tasks {
    /// For the runtime this is called on.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner {
            tracker: TaskTracker::new(),
            stopping: AtomicBool::new(false),
            stop: CancellationToken::new(),
            abort: CancellationToken::new(),
            runtime: tokio::runtime::Handle::current(),
        }))
    }

    /// Runs `task` until it ends, or [`abort`](Self::abort).
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> tokio::task::AbortHandle {
        let signal = Arc::new(Signal::default());
        signal.raise();
        let waker = Waker::from(Arc::clone(&signal));
        let aborted = self.0.abort.clone().cancelled_owned();
        self.0.tracker.spawn_on(Abortable { task, aborted, signal, waker }, &self.0.runtime).abort_handle()
    }

    /// Runs `task` until it ends, which something else sees to: for what is made with every request.
    pub(crate) fn spawn_tracked(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.tracker.spawn_on(task, &self.0.runtime);
    }

    /// Runs `task` until it ends, or [`stop`](Self::stop).
    pub(crate) fn spawn_until_stop(&self, task: impl Future<Output = ()> + Send + 'static) -> tokio::task::AbortHandle {
        let stop = self.0.stop.clone();
        let task = async move { stop.run_until_cancelled(task).await.unwrap_or_default() };
        self.0.tracker.spawn_on(task, &self.0.runtime).abort_handle()
    }

    /// Whether [`stop`](Self::stop) was called.
    pub(crate) fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::Acquire)
    }

    /// Resolves once [`stop`](Self::stop) was called.
    pub(crate) async fn stopped(&self) {
        self.0.stop.cancelled().await;
    }

    /// The first step.
    pub(crate) fn stop(&self) {
        self.0.stopping.store(true, Ordering::Release);
        self.0.stop.cancel();
        self.0.tracker.close();
    }

    /// The second step.
    pub(crate) fn abort(&self) {
        self.0.abort.cancel();
    }

    /// How many tasks are alive.
    pub(crate) fn len(&self) -> usize {
        self.0.tracker.len()
    }

    /// Both steps, in the background.
    pub(crate) fn end_within(&self, grace: Duration) {
        let tasks = self.clone();
        self.0.runtime.spawn(async move { tasks.shutdown(grace).await });
    }

    /// Both steps: connections get `grace` to end by themselves.
    pub(crate) async fn shutdown(&self, grace: Duration) {
        self.stop();
        if tokio::time::timeout(grace, self.0.tracker.wait()).await.is_err() {
            self.abort();
            self.0.tracker.wait().await;
        }
    }
}

/// A task that ends early if it has to. By hand: an `async` block has twice the size of a future that it is given.
#[pin_project]
struct Abortable<F> {
    #[pin]
    task: F,
    #[pin]
    aborted: WaitForCancellationFutureOwned,
    signal: Arc<Signal>,
    /// That of `signal`.
    waker: Waker,
}

impl<F: Future<Output = ()>> Future for Abortable<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.signal.is_due(cx) && this.aborted.poll(&mut Context::from_waker(this.waker)).is_ready() {
            return Poll::Ready(());
        }
        this.task.poll(cx)
    }
}

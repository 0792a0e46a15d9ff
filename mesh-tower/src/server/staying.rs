//! Until when a connection may stay that a framework serves, or a loop of an application: nobody else looks.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::time::sleep;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::entry::Changes;
use super::life::{Cut, Leave};
use super::peer::Peer;
use super::serve::{draining, forced};
use super::state::ServerState;
use crate::net::seldom::Signal;

/// Ends a connection when its caller would no longer be let in, and when the server's drain is over.
pub(super) struct Staying {
    over: Pin<Box<dyn Future<Output = Cut> + Send>>,
    /// Why it is.
    cut: Option<Cut>,
    signal: Arc<Signal>,
    /// The drain waits for it.
    _running: TaskTrackerToken,
}

impl Staying {
    pub(super) fn new(state: &Arc<ServerState>, peer: &Arc<Peer>, changes: &Changes) -> Self {
        let (state, peer, mut changes) = (Arc::clone(state), Arc::clone(peer), changes.clone());
        let running = state.running.token();
        let over = Box::pin(async move {
            let no_longer_let_in = async {
                match changes.end(&state, &peer).await {
                    Leave::Now(cut) => cut,
                    // The framework cannot be told; but it may finish what is under way.
                    Leave::Gracefully => {
                        sleep(state.settings().server.drain.grace).await;
                        Cut::Distrusted
                    }
                }
            };
            tokio::select! {
                cut = no_longer_let_in => cut,
                () = drained(&state) => Cut::Ending,
            }
        });
        let signal = Arc::new(Signal::default());
        signal.raise();
        Self { over, cut: None, signal, _running: running }
    }

    /// Whether it is over. Whoever asks hears of it.
    pub(super) fn poll(&mut self, cx: &Context<'_>) -> io::Result<()> {
        let is_due = self.signal.is_due(cx);
        self.look(is_due)
    }

    /// Whether it is over.
    pub(super) fn check(&mut self) -> io::Result<()> {
        let is_due = self.signal.take();
        self.look(is_due)
    }

    fn look(&mut self, is_due: bool) -> io::Result<()> {
        if is_due && self.cut.is_none() {
            let waker = Waker::from(Arc::clone(&self.signal));
            if let Poll::Ready(cut) = self.over.as_mut().poll(&mut Context::from_waker(&waker)) {
                self.cut = Some(cut);
            }
        }
        self.cut.map_or(Ok(()), |cut| Err(io::Error::new(io::ErrorKind::ConnectionAborted, cut)))
    }
}

/// Resolves once what is left is to be cut.
async fn drained(state: &ServerState) {
    draining(state).await;
    let grace = state.settings().server.drain.grace;
    tokio::select! {
        () = sleep(grace) => {}
        () = forced(state) => {}
    }
}

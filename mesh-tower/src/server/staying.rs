//! Until when a connection may stay that a framework serves, or a loop of an application: nobody else looks.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use mesh_core::model::ServerTls;
use tokio::time::sleep;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::life::Cut;
use super::peer::Peer;
use super::serve::{draining, forced};
use super::state::ServerState;
use super::stream::Leave;
use crate::observe::TARGET;

/// Ends a connection when its caller would no longer be let in, and when the server's drain is over.
pub(super) struct Staying {
    over: Pin<Box<dyn Future<Output = Cut> + Send>>,
    /// Why it is.
    cut: Option<Cut>,
    alarm: Arc<Alarm>,
    /// Whom the alarm wakes.
    reader: Option<Waker>,
    /// The drain waits for it.
    _running: TaskTrackerToken,
}

/// Remembers that it was woken, so that a stream has no more to look at than this.
struct Alarm {
    rung: AtomicBool,
    reader: Mutex<Option<Waker>>,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl Staying {
    pub(super) fn new(state: &Arc<ServerState>, peer: &Arc<Peer>, leave: &Leave) -> Self {
        let (state, peer, leave) = (Arc::clone(state), Arc::clone(peer), leave.clone());
        let running = state.running.token();
        let over = Box::pin(async move {
            tokio::select! {
                () = no_longer_let_in(&state, &peer, leave) => Cut::Distrusted,
                () = drained(&state) => Cut::Ending,
            }
        });
        let alarm = Alarm { rung: AtomicBool::new(true), reader: Mutex::default() };
        Self { over, cut: None, alarm: Arc::new(alarm), reader: None, _running: running }
    }

    /// Whether it is over. Whoever asks hears of it.
    pub(super) fn poll(&mut self, cx: &Context<'_>) -> io::Result<()> {
        if !self.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
            let reader = Some(cx.waker().clone());
            self.reader.clone_from(&reader);
            *self.alarm.reader.lock().unwrap_or_else(PoisonError::into_inner) = reader;
        }
        self.check()
    }

    /// Whether it is over.
    pub(super) fn check(&mut self) -> io::Result<()> {
        if self.alarm.rung.swap(false, Ordering::AcqRel) && self.cut.is_none() {
            let waker = Waker::from(Arc::clone(&self.alarm));
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

/// Resolves once the caller would not be let in any more: by what this process trusts (MT-10), or by the server.
async fn no_longer_let_in(state: &ServerState, peer: &Peer, mut leave: Leave) {
    loop {
        let changed = tokio::select! {
            changed = leave.entry.changed() => changed,
            changed = leave.identities.changed() => changed,
        };
        if changed.is_err() {
            return std::future::pending().await;
        }
        let settings = state.settings();
        if !peer.is_mutual() {
            if settings.tls() == ServerTls::Strict {
                tracing::info!(target: TARGET, server = &*state.name, peer = ?peer.remote_address(), "a caller in plaintext is no longer let in");
                return;
            }
            continue;
        }
        let Some(identity) = leave.identities.borrow_and_update().clone() else { continue };
        let expected = &settings.server.identities;
        if let Err(refused) = peer.check(&identity, expected) {
            tracing::info!(target: TARGET, server = &*state.name, peer = ?peer.remote_address(), %refused, "a caller is no longer let in");
            return;
        }
    }
}

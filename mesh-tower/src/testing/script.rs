//! Which fault comes next, and what waits for the test.

use std::collections::VecDeque;
use std::sync::Mutex;

use tokio::sync::watch;

use super::fault::Fault;
use super::lock;

#[derive(Default)]
pub(super) struct Script {
    faults: Mutex<Faults>,
    released: watch::Sender<Released>,
}

#[derive(Default)]
struct Faults {
    standing: Option<Fault>,
    /// For the next ones, before the standing one; first come, first served.
    connections: VecDeque<(usize, Fault)>,
    requests: VecDeque<(usize, Fault)>,
}

/// How often the test has let go what was held.
#[derive(Debug, Clone, Copy, Default)]
struct Released {
    all: u64,
    chunks: u64,
}

impl Script {
    pub(super) fn set(&self, fault: Option<Fault>) {
        lock(&self.faults).standing = fault;
    }

    pub(super) fn clear(&self) {
        *lock(&self.faults) = Faults::default();
    }

    pub(super) fn add(&self, count: usize, fault: Fault) {
        let mut faults = lock(&self.faults);
        let queue = if fault.is_of_connections() { &mut faults.connections } else { &mut faults.requests };
        queue.push_back((count, fault));
    }

    /// Whether the backend is down until it is told otherwise.
    pub(super) fn is_down(&self) -> bool {
        lock(&self.faults).standing == Some(Fault::Refused)
    }

    /// What happens to a new connection.
    pub(super) fn for_connection(&self) -> Option<Fault> {
        let mut faults = lock(&self.faults);
        next(&mut faults.connections).or(faults.standing).filter(|fault| fault.is_of_connections())
    }

    /// What happens to a new request.
    pub(super) fn for_request(&self) -> Option<Fault> {
        let mut faults = lock(&self.faults);
        next(&mut faults.requests).or(faults.standing).filter(|fault| !fault.is_of_connections())
    }

    /// Holds something until the next release from now on.
    pub(super) fn hold(&self) -> Hold {
        let mut released = self.released.subscribe();
        let from = *released.borrow_and_update();
        Hold { from, released }
    }

    pub(super) fn release(&self) {
        self.released.send_modify(|released| released.all += 1);
    }

    pub(super) fn release_chunk(&self) {
        self.released.send_modify(|released| released.chunks += 1);
    }
}

fn next(queue: &mut VecDeque<(usize, Fault)>) -> Option<Fault> {
    while let Some((left, fault)) = queue.front_mut() {
        if *left > 0 {
            *left -= 1;
            return Some(*fault);
        }
        queue.pop_front();
    }
    None
}

/// Something that is held.
#[derive(Debug, Clone)]
pub(super) struct Hold {
    from: Released,
    released: watch::Receiver<Released>,
}

impl Hold {
    /// Resolves when everything is released.
    pub(super) async fn released(&mut self) {
        let from = self.from.all;
        self.wait(|now| now.all > from).await;
    }

    /// Resolves when the chunk `number`, counted from 1, is released, or everything is.
    pub(super) async fn chunk(&mut self, number: u64) {
        let from = self.from;
        self.wait(|now| now.all > from.all || now.chunks >= from.chunks + number).await;
    }

    async fn wait(&mut self, enough: impl Fn(&Released) -> bool) {
        if self.released.wait_for(enough).await.is_err() {
            // The backend is gone; its connections end too.
            std::future::pending::<()>().await;
        }
    }
}

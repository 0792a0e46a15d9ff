//! How an endpoint answers, changed while it runs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tonic::Status;

use crate::Result;

/// How an endpoint answers gRPC calls. It begins as [`Manner::PROMPT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Manner {
    /// It is busy with a call for so long, and with at most [`WORKERS`] of them at a time; the others wait. Zero: at once,
    /// and with any number.
    Serves(Duration),
    /// It fails at once, with UNAVAILABLE.
    Fails,
    /// It never answers.
    Hangs,
}

/// How many calls an endpoint that takes time works on at once: one a core.
pub const WORKERS: usize = 2;

const FAILS: u64 = u64::MAX;
const HANGS: u64 = u64::MAX - 1;

impl Manner {
    /// At once.
    pub const PROMPT: Self = Self::Serves(Duration::ZERO);
}

/// What a benchmark tells the endpoint at `endpoint` of the server's list.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) endpoint: usize,
    pub(super) manner: Manner,
}

/// What the connections of an endpoint share.
#[derive(Debug)]
pub(super) struct Conduct {
    /// A time to serve in microseconds, [`FAILS`] or [`HANGS`].
    manner: AtomicU64,
    workers: Semaphore,
}

impl Default for Conduct {
    fn default() -> Self {
        Self { manner: AtomicU64::new(0), workers: Semaphore::new(WORKERS) }
    }
}

impl Conduct {
    pub(super) fn set(&self, manner: Manner) -> Result<()> {
        let word = match manner {
            Manner::Serves(time) => u64::try_from(time.as_micros())?.min(HANGS - 1),
            Manner::Fails => FAILS,
            Manner::Hangs => HANGS,
        };
        self.manner.store(word, Ordering::Relaxed);
        Ok(())
    }

    /// What a call comes to before it is answered.
    pub(super) async fn serve(&self) -> Result<(), Status> {
        match self.manner.load(Ordering::Relaxed) {
            0 => Ok(()),
            FAILS => Err(Status::unavailable("told to fail")),
            HANGS => std::future::pending().await,
            _ => {
                let _worker = self.workers.acquire().await.map_err(|_| Status::internal("never closed"))?;
                // What it is by now: a queue is not served at the pace of the time it grew in.
                match self.manner.load(Ordering::Relaxed) {
                    FAILS | HANGS => {}
                    micros => tokio::time::sleep(Duration::from_micros(micros)).await,
                }
                Ok(())
            }
        }
    }
}

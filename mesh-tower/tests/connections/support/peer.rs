use std::future::Future;
use std::net::SocketAddr;

use mesh_tower::testing::{MemoryNetwork, MemoryStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// A [`Server`](super::Server) in memory: its clients may pause the clock.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// How many connections were made, and how many of them are open.
    counts: watch::Receiver<(usize, usize)>,
    task: JoinHandle<()>,
}

impl Peer {
    /// `script` is given the number of the connection, from 0, and its stream.
    pub(crate) fn start<F, Fut>(network: &MemoryNetwork, script: F) -> Self
    where
        F: Fn(usize, MemoryStream) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let address = network.unused_address();
        let mut listener = network.listen(address);
        let (count, counts) = watch::channel((0, 0));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    stream = listener.accept() => {
                        connections.spawn(script(count.borrow().0, stream));
                        count.send_modify(|(made, open)| (*made, *open) = (*made + 1, *open + 1));
                    }
                    Some(ended) = connections.join_next() => {
                        count.send_modify(|(_, open)| *open -= 1);
                        if let Err(error) = ended && error.is_panic() {
                            std::panic::resume_unwind(error.into_panic());
                        }
                    }
                }
            }
        });
        Self { address, counts, task }
    }

    /// How many connections were made so far.
    pub(crate) fn accepted(&self) -> usize {
        self.counts.borrow().0
    }

    /// How many scripts run: those of this crate end when the client has left.
    pub(crate) fn open(&self) -> usize {
        self.counts.borrow().1
    }

    /// Resolves when the script of every connection has ended.
    pub(crate) async fn deserted(&self) {
        self.counts.clone().wait_for(|(_, open)| *open == 0).await.unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

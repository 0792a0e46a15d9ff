use std::future::Future;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// A TCP server that runs a script on each connection. Dropping it closes its port and every connection.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    accepted: watch::Receiver<usize>,
    open: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

impl Server {
    /// `script` is given the number of the connection, from 0, and its stream.
    pub(crate) async fn start<F, Fut>(script: F) -> Self
    where
        F: Fn(usize, TcpStream) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (count, accepted) = watch::channel(0);
        let (opened, open) = watch::channel(0);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (stream, _) = accepted.unwrap();
                        stream.set_nodelay(true).unwrap();
                        let number = *count.borrow();
                        connections.spawn(script(number, stream));
                        opened.send_modify(|open| *open += 1);
                        count.send_modify(|count| *count += 1);
                    }
                    Some(ended) = connections.join_next() => {
                        opened.send_modify(|open| *open -= 1);
                        if let Err(error) = ended && error.is_panic() {
                            std::panic::resume_unwind(error.into_panic());
                        }
                    }
                }
            }
        });
        Self { address, accepted, open, task }
    }

    /// An address at which nothing listens.
    pub(crate) async fn nowhere() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
    }

    /// How many connections were made so far.
    pub(crate) fn accepted(&self) -> usize {
        *self.accepted.borrow()
    }

    /// Resolves when `count` connections were made.
    pub(crate) async fn accepts(&self, count: usize) {
        self.accepted.clone().wait_for(|accepted| *accepted >= count).await.unwrap();
    }

    /// Resolves when the script of every connection has ended: those of this crate end when the client has left.
    pub(crate) async fn deserted(&self) {
        self.open.clone().wait_for(|open| *open == 0).await.unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

//! HTTP/1.1 servers that write what a test says, byte by byte.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// A server whose every connection follows a script. It ends when dropped.
pub struct Raw {
    address: SocketAddr,
    accepts: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Raw {
    /// `script` gets each connection with its number, counted from 1.
    pub async fn start<F, Fut>(script: F) -> Self
    where
        F: Fn(usize, Client) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepts = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepts);
        let accept = async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                connections.spawn(script(number, Client { stream, read: Vec::new() }));
            }
        };
        Self { address, accepts, task: tokio::spawn(accept).abort_handle() }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.accepts.load(Ordering::SeqCst)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A connection from the mesh.
pub struct Client {
    pub stream: TcpStream,
    /// Read and not yet taken.
    read: Vec<u8>,
}

impl Client {
    /// The next request's head, blank line included; `None` if the mesh closed.
    pub async fn head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                let rest = self.read.split_off(end + 4);
                let head = std::mem::replace(&mut self.read, rest);
                return Some(String::from_utf8(head).unwrap());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// Bytes of a body up to and including `end`.
    pub async fn body_to(&mut self, end: &str) -> Option<String> {
        loop {
            let found = self.read.windows(end.len()).position(|window| window == end.as_bytes());
            if let Some(start) = found {
                let rest = self.read.split_off(start + end.len());
                let body = std::mem::replace(&mut self.read, rest);
                return Some(String::from_utf8(body).unwrap());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    async fn more(&mut self) -> bool {
        self.stream.read_buf(&mut self.read).await.is_ok_and(|read| read > 0)
    }

    pub async fn write(&mut self, text: &str) {
        // A mesh that closed is what some tests are about.
        let _ = self.stream.write_all(text.as_bytes()).await;
    }

    /// Answers the request whose head was read with a body of `text`.
    pub async fn answer(&mut self, text: &str) {
        self.write(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len())).await;
    }

    /// Resolves when the mesh closed the connection; whatever comes before is thrown away.
    pub async fn closed(&mut self) {
        while self.more().await {
            self.read.clear();
        }
    }

    /// Closes with RST.
    pub fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }
}

//! A page for a peer to read.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http::{Response, header};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A text served by HTTP/1.1 on a loopback port, whatever the path. Accepts nobody any more when dropped.
#[derive(Debug)]
pub struct Page {
    address: SocketAddr,
    server: JoinHandle<()>,
}

impl Page {
    /// Answers each request with what `text` gives at that moment, as `content_type`.
    ///
    /// # Errors
    /// If no loopback port can be bound.
    pub async fn serve<F>(content_type: &'static str, text: F) -> io::Result<Self>
    where
        F: Fn() -> String + Send + Sync + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let text = Arc::new(text);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let text = text.clone();
                let answer = service_fn(move |_| {
                    let body = Full::new(Bytes::from(text()));
                    std::future::ready(Response::builder().header(header::CONTENT_TYPE, content_type).body(body))
                });
                // A connection that breaks is the peer's to report.
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
            }
        });
        Ok(Self { address, server })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.server.abort();
    }
}

//! hyper's server with nothing around it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use axum::Router;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::codegen::Service as _;

/// A router served in plaintext on a loopback port, by HTTP/1.1 and HTTP/2 with prior knowledge: what peers are tried
/// on, and what a server with more to it is compared with. Accepts nobody any more when dropped.
#[derive(Debug)]
pub struct Bare {
    address: SocketAddr,
    server: JoinHandle<()>,
}

impl Bare {
    /// Serves `app`.
    ///
    /// # Errors
    /// If no loopback port can be bound.
    pub async fn serve(app: Router) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let app = app.clone();
                tokio::spawn(async move {
                    // Without it small answers wait for the peer's delayed acknowledgements.
                    let _ = stream.set_nodelay(true);
                    let service = service_fn(move |request: http::Request<Incoming>| app.clone().call(request));
                    // A connection that breaks is the peer's to report.
                    let _ =
                        auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(Self { address, server })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.server.abort();
    }
}

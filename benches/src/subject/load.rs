use std::net::SocketAddr;
use std::time::Duration;

use crate::Result;
use crate::client::{hyper, mesh};
use crate::credentials::Credentials;
use crate::measure::{Candidate, metered};

/// How a server under test is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// gRPC by hand over bare HTTP/2.
    Grpc,
    /// `GET` over bare HTTP/1.1.
    Http1,
    /// `GET` over bare HTTP/2.
    Http2,
    /// gRPC by a client of the mesh, by mutual TLS.
    Mutual,
}

impl Load {
    /// What reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grpc | Self::Mutual => "gRPC",
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }

    /// A client for the server at `address`, with so many connections where it is a bare one of HTTP/2. A run costs what
    /// `meter` tells.
    ///
    /// # Errors
    /// If it cannot connect, or lacks the credentials for mutual TLS.
    pub async fn on(
        self,
        address: SocketAddr,
        connections: usize,
        credentials: Option<&Credentials>,
        meter: impl Fn() -> Result<Duration> + 'static,
    ) -> Result<Box<dyn Candidate>> {
        let (name, addresses) = (self.name(), vec![address; connections]);
        Ok(match self {
            Self::Grpc => metered(name, hyper::raw_grpc(&addresses).await?, meter),
            Self::Http1 => metered(name, hyper::http1(&[address])?, meter),
            Self::Http2 => metered(name, hyper::http2(&addresses).await?, meter),
            Self::Mutual => {
                let side = credentials.ok_or("mutual TLS needs certificates")?.client();
                metered(name, mesh::mutual_grpc(&[address], &side).await?, meter)
            }
        })
    }
}

//! tonic's own channel.

use std::net::SocketAddr;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use super::Greeter;
use crate::Result;

/// A bare `Channel` to one endpoint.
///
/// # Errors
/// If no connection can be made.
pub async fn channel(endpoint: SocketAddr) -> Result<Greeter<Channel>> {
    Ok(Greeter::new(to(endpoint)?.connect().await?))
}

/// A `Channel::balance_list`, which connects to all endpoints on its first call. It gives up each call after `timeout`,
/// if there is one.
///
/// # Errors
/// If an address is no address.
pub fn balance_list(endpoints: &[SocketAddr], timeout: Option<Duration>) -> Result<Greeter<Channel>> {
    let endpoint = |address: &SocketAddr| {
        let endpoint = to(*address)?;
        Ok(match timeout {
            Some(timeout) => endpoint.timeout(timeout),
            None => endpoint,
        })
    };
    let endpoints: Vec<Endpoint> = endpoints.iter().map(endpoint).collect::<Result<_>>()?;
    Ok(Greeter::new(Channel::balance_list(endpoints.into_iter())))
}

fn to(endpoint: SocketAddr) -> Result<Endpoint> {
    // The default, said aloud: the comparison hangs on it.
    Ok(Endpoint::from_shared(format!("http://{endpoint}"))?.tcp_nodelay(true))
}

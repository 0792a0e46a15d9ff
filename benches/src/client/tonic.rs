//! tonic's own channel.

use std::net::SocketAddr;

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

/// A `Channel::balance_list`, which connects to all endpoints on its first call.
///
/// # Errors
/// If an address is no address.
pub fn balance_list(endpoints: &[SocketAddr]) -> Result<Greeter<Channel>> {
    let endpoints: Vec<Endpoint> = endpoints.iter().map(|endpoint| to(*endpoint)).collect::<Result<_>>()?;
    Ok(Greeter::new(Channel::balance_list(endpoints.into_iter())))
}

fn to(endpoint: SocketAddr) -> Result<Endpoint> {
    // The default, said aloud: the comparison hangs on it.
    Ok(Endpoint::from_shared(format!("http://{endpoint}"))?.tcp_nodelay(true))
}

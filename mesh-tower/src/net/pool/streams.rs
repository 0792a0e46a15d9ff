//! Streams that others speak HTTP over.

use mesh_core::model::Protocol;
use tokio::time::Instant;

use crate::net::account::Claim;
use crate::net::connect::connect;
use crate::net::io::Stream;
use crate::net::{ConnectError, Endpoint, after, tls};
use crate::observe;

/// A stream to an endpoint, which counts as one of its connections while the claim is held.
pub(crate) struct OpenStream {
    pub(crate) stream: Stream,
    /// Whether HTTP/2 is to be spoken.
    pub(crate) h2: bool,
    pub(crate) claim: Claim,
}

/// Opens a stream to `endpoint`, on which `protocol` is to be spoken. `None`: the backend has as many connections as it
/// may.
pub(crate) async fn open_stream(endpoint: &Endpoint, protocol: Protocol) -> Result<Option<OpenStream>, ConnectError> {
    let pool = endpoint.transport();
    let (cluster, address) = (&pool.cluster, endpoint.address());
    let Some(claim) = pool.claim(0) else { return Ok(None) };
    let offer = match protocol {
        Protocol::Auto => tls::Offer::Both,
        Protocol::Http1 => tls::Offer::Http1,
        Protocol::Http2 => tls::Offer::Http2,
    };
    let began = Instant::now();
    let deadline = after(began, cluster.connect_timeout);
    let opening = async {
        let mut connected = connect(cluster, address, pool.tls().map(|tls| (tls, offer)), deadline).await?;
        connected.hear(address, deadline).await?;
        Ok(connected)
    };
    let result = opening.await;
    let error = result.as_ref().err().map(|error| error as observe::DynError<'_>);
    cluster.shared.observers.connect(&cluster.id, address, error, began.elapsed());
    if let Some(series) = &cluster.series {
        series.connect_ended(error.is_none());
    }
    let connected = result?;
    let h2 = match protocol {
        Protocol::Auto => connected.alpn_h2.unwrap_or(false),
        protocol => protocol == Protocol::Http2,
    };
    Ok(Some(OpenStream { stream: connected.stream, h2, claim }))
}

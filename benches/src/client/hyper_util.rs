//! hyper-util's pooled client, the one that users of hyper have.

use std::net::SocketAddr;

use bytes::Bytes;
use http::Uri;
use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::Get;
use crate::Result;

/// `GET` by hyper-util, over h1.
pub type HyperUtil = Get<Client<HttpConnector, Empty<Bytes>>>;

/// A client that keeps h1 connections to all endpoints.
///
/// # Errors
/// If an address is no address.
pub fn http1(endpoints: &[SocketAddr]) -> Result<HyperUtil> {
    client(endpoints, false)
}

/// A client with one h2 connection to each endpoint, by prior knowledge.
///
/// # Errors
/// If an address is no address.
pub fn http2(endpoints: &[SocketAddr]) -> Result<HyperUtil> {
    client(endpoints, true)
}

fn client(endpoints: &[SocketAddr], http2: bool) -> Result<HyperUtil> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new()).http2_only(http2).build(connector);
    let targets: Vec<Uri> =
        endpoints.iter().map(|endpoint| Ok(format!("http://{endpoint}/hello").parse()?)).collect::<Result<_>>()?;
    Ok(Get::new(client, targets))
}

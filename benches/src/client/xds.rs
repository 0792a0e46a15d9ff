//! `tonic-xds`, told by a control plane in the server process what our configuration file says.

use std::net::SocketAddr;

use tonic_xds::{BootstrapConfig, XdsChannelBuilder, XdsChannelConfig, XdsChannelGrpc, XdsUri};

use super::Greeter;
use crate::Result;

/// A channel to `service` that learns its route and endpoints from `control_plane` on its first call.
///
/// # Errors
/// If the channel refuses its bootstrap.
pub fn channel(control_plane: SocketAddr, service: &str) -> Result<Greeter<XdsChannelGrpc>> {
    let bootstrap = serde_json::json!({
        "xds_servers": [{ "server_uri": format!("http://{control_plane}"), "channel_creds": [{ "type": "insecure" }] }],
        "node": { "id": "benchmark" },
    });
    let bootstrap = BootstrapConfig::from_json(&bootstrap.to_string())?;
    let target = XdsUri::parse(&format!("xds:///{service}"))?;
    let config = XdsChannelConfig::new(target).with_bootstrap(bootstrap);
    Ok(Greeter::new(XdsChannelBuilder::new(config).build_grpc_channel()?))
}

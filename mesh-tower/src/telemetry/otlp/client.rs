//! How exports travel: through a mesh of their own, in which everything leads to the collector.

use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use mesh_core::model::{
    Backend, BackendId, Config, Discovery, DnsName, Endpoint, Finder, Forward, HostPattern, RootCertificates, Route,
    Tls, VirtualHost,
};
use opentelemetry_http::{HttpClient, HttpError};
use tokio::runtime::Handle;
use tower_service::Service;

use super::settings::Signal;
use crate::builder::Builder;
use crate::mesh::Mesh;
use crate::source::BuildError;

/// The most that is read of a collector's answer, in bytes.
const MAX_ANSWER: usize = 4 * 1024 * 1024;
/// The longest pause between attempts to connect: a collector that comes back is soon told.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// Sends the exports of one signal.
#[derive(Clone)]
pub(super) struct Client {
    mesh: Mesh,
    runtime: Handle,
    timeout: Duration,
}

impl Client {
    pub(super) async fn new(signal: &Signal) -> Result<Self, BuildError> {
        let mesh = Builder::default().config(config(signal)).quiet().build().await?;
        Ok(Self { mesh, runtime: Handle::current(), timeout: signal.timeout })
    }

    pub(super) fn mesh(&self) -> &Mesh {
        &self.mesh
    }
}

fn config(signal: &Signal) -> Config {
    let host = signal.endpoint.host().unwrap_or_default().trim_matches(['[', ']']);
    let secure = signal.endpoint.scheme_str() == Some("https");
    let port = signal.endpoint.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let id = BackendId::new("collector", "all");
    let mut backend = Backend::new(id.clone(), Vec::new());
    backend.connect_backoff.max = MAX_PAUSE;
    match host.parse::<IpAddr>() {
        Ok(address) => backend.endpoints.push(Endpoint::new(SocketAddr::new(address, port))),
        Err(_) => {
            let name = DnsName::Host { host: host.into(), port };
            backend.discovery = Some(Discovery::new(Finder::Dns(name)));
        }
    }
    if secure {
        let roots = signal.certificate.clone().map_or(RootCertificates::WebPki, RootCertificates::PemFile);
        let mut tls = Tls::simple(roots);
        tls.server_name = Some(host.into());
        backend.tls = Some(tls);
    }
    let mut forward = Forward::to(id);
    forward.policy.timeout = Some(signal.timeout);
    let host = VirtualHost::new("collector", vec![HostPattern::Any]).with_route(Route::new(forward));
    Config::new().with_virtual_host(host).with_backend(backend)
}

impl HttpClient for Client {
    /// The exporter waits for this on a thread of its own, outside of any runtime: the request runs on ours.
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        let mut client = self.mesh.http_client();
        let sending = async move {
            let (parts, body) = client.call(request.map(Full::new)).await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
            Ok(Response::from_parts(parts, body))
        };
        let timeout = self.timeout;
        let running = self.runtime.spawn(async move { tokio::time::timeout(timeout, sending).await });
        Box::pin(async move { running.await?? })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

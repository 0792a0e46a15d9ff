use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use axum::serve::ListenerExt;
use bytes::Bytes;
use examples::greeter::greeter_server::GreeterServer;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use mesh_tonic::Mesh;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tower::{Layer, Service, service_fn};

use super::{Around, Framework, Kind};
use crate::credentials::{CLIENT, Side};
use crate::server::Hello;
use crate::{Error, Result, telemetry};

/// What the server is called in the configuration.
const NAME: &str = "public";

/// Serves on `listener`, on tasks of the runtime.
pub(super) async fn start(kind: Kind, listener: TcpListener, credentials: Option<&Side>) -> Result<()> {
    let tls = match (kind.mutual, credentials) {
        (false, _) => None,
        (true, Some(side)) => Some(side),
        (true, None) => return Err("mutual TLS needs certificates".into()),
    };
    if kind.around == Around::Nothing {
        return bare(kind.framework, listener, tls);
    }
    let meters = (kind.around == Around::MeshMeasured).then(telemetry::meters);
    let mesh = mesh(tls, meters.as_ref()).await?;
    match (kind.framework, kind.mutual) {
        (Framework::Axum, _) => keep(mesh.serve(mesh.adopt(NAME, listener)?, router()), meters),
        (Framework::Tonic, _) => keep(mesh.serve(mesh.adopt(NAME, listener)?, routes()), meters),
        (Framework::Hyper, true) => keep(mesh.serve(mesh.adopt(NAME, listener)?, service_fn(hello)), meters),
        (Framework::Hyper, false) => {
            let layered = mesh.server_layer(NAME)?.layer(service_fn(hello));
            keep(accept(listener, None, layered), (mesh, meters));
        }
    }
    Ok(())
}

/// Runs `serving`, and keeps what it needs.
fn keep(serving: impl Future<Output: Send> + Send + 'static, needed: impl Send + 'static) {
    tokio::spawn(async move {
        serving.await;
        drop(needed);
    });
}

fn bare(framework: Framework, listener: TcpListener, tls: Option<&Side>) -> Result<()> {
    let tls = tls.map(Side::bare_server).transpose()?.map(|config| TlsAcceptor::from(Arc::new(config)));
    match (framework, tls) {
        (Framework::Axum, None) => {
            let listener = listener.tap_io(|stream| {
                // A connection that is gone already.
                let _ = stream.set_nodelay(true);
            });
            keep(axum::serve(listener, router()).into_future(), ());
        }
        (Framework::Tonic, None) => {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let server = tonic::transport::Server::builder().add_service(GreeterServer::new(Hello::default()));
            keep(server.serve_with_incoming(incoming), ());
        }
        (Framework::Hyper, tls) => keep(accept(listener, tls, service_fn(hello)), ()),
        (Framework::Axum, tls) => keep(accept(listener, tls, router()), ()),
        (Framework::Tonic, tls) => keep(accept(listener, tls, routes()), ()),
    }
    Ok(())
}

async fn mesh(tls: Option<&Side>, meters: Option<&SdkMeterProvider>) -> Result<Mesh> {
    let who = match tls {
        Some(side) => format!("tls: {{ mode: strict, identities: [{CLIENT:?}] }}\n{}", side.identity()),
        None => "tls: disabled\n".to_owned(),
    };
    let text = format!(
        "servers:
- name: {NAME}
  limits: {{ request_timeout: 60s, max_body_bytes: 1048576, max_connection_age: 24h }}
  {who}"
    );
    let builder = Mesh::builder().text(text);
    Ok(match meters {
        Some(meters) => builder.meter_provider(meters),
        None => builder,
    }
    .build()
    .await?)
}

fn router() -> Router {
    Router::new().route("/hello", get(async || "hello"))
}

fn routes() -> Routes {
    Routes::new(GreeterServer::new(Hello::default())).prepare()
}

async fn hello<B>(_: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::new(Bytes::from_static(b"hello"))))
}

/// The accept loop that people write.
async fn accept<S, B>(listener: TcpListener, tls: Option<TlsAcceptor>, service: S)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<Error>,
    S::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Error>,
{
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let (tls, service) = (tls.clone(), TowerToHyperService::new(service.clone()));
        tokio::spawn(async move {
            let builder = auto::Builder::new(TokioExecutor::new());
            // A connection that breaks is the client's to report.
            let _ = match tls {
                None => builder.serve_connection(TokioIo::new(stream), service).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => builder.serve_connection(TokioIo::new(stream), service).await,
                    Err(error) => Err(error.into()),
                },
            };
        });
    }
}

//! What a mesh has for tonic's servers.

#[cfg(feature = "server")]
use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use mesh_tower::Mesh;
#[cfg(feature = "server")]
use mesh_tower::server::{Incoming, Listener, Peer, ServerStream};
#[cfg(feature = "health")]
use {crate::health::MeshHealth, tonic_health::pb::health_server::HealthServer};
#[cfg(feature = "server")]
use {
    pin_project::pin_project,
    tokio::io::{AsyncRead, AsyncWrite, ReadBuf},
    tokio_stream::Stream,
    tonic::transport::server::Connected,
};

/// What a [`Mesh`] has for tonic's servers, beside [`Mesh::serve`], which takes tonic's `Routes` too.
pub trait MeshServerExt {
    /// The connections of `listener`, let in as its server does, for tonic's `serve_with_incoming_shutdown`. Each call
    /// carries the `Arc<Peer>` in its extensions. Add [`Mesh::server_layer`]: it enforces what concerns requests; a
    /// strict one lets nobody in of whom it is not told.
    ///
    /// It says of them that all they are served by [speaks gRPC](Listener::grpc): where tonic's server has routes for HTTP
    /// too, take [`Mesh::serve`] and put [`GrpcLayer`](mesh_tower::server::GrpcLayer) around those of gRPC.
    ///
    /// ```
    /// # #[cfg(feature = "health")]
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// use mesh_tonic::prelude::*;
    /// use tonic::transport::Server;
    ///
    /// let mesh = Mesh::from_env().await?;
    /// mesh.drain_on_signals();
    /// let incoming = mesh.tonic_incoming(mesh.listener("public").await?);
    /// let draining = incoming.draining();
    /// Server::builder()
    ///     .layer(mesh.server_layer("public")?)
    ///     .add_service(mesh.health_service(&["shop.Cart"]))
    ///     .serve_with_incoming_shutdown(incoming, draining)
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "server")]
    fn tonic_incoming(&self, listener: Listener) -> TonicIncoming;

    /// The standard health service (`grpc.health.v1.Health`), which tells whether this process is
    /// [ready](Mesh::readiness), of the process as a whole (the empty name) and of each of `services`, by their full
    /// names. Others are not known.
    ///
    /// Whoever watches hears of each change. When the mesh drains they hear that nothing is served any more, and their
    /// calls end with `UNAVAILABLE`, so that no drain waits for them.
    ///
    /// What an application wants to say of its services itself it says by tonic-health's own reporter.
    #[cfg(feature = "health")]
    fn health_service(&self, services: &[&str]) -> HealthServer<MeshHealth>;
}

impl MeshServerExt for Mesh {
    #[cfg(feature = "server")]
    fn tonic_incoming(&self, listener: Listener) -> TonicIncoming {
        TonicIncoming(self.incoming(listener.grpc()))
    }

    #[cfg(feature = "health")]
    fn health_service(&self, services: &[&str]) -> HealthServer<MeshHealth> {
        HealthServer::new(MeshHealth::new(self.clone(), services))
    }
}

/// Connections for tonic's `serve_with_incoming_shutdown`: [`MeshServerExt::tonic_incoming`]. It ends when the mesh drains
/// and the server's delay is over.
#[cfg(feature = "server")]
#[derive(Debug)]
pub struct TonicIncoming(Incoming);

#[cfg(feature = "server")]
impl TonicIncoming {
    /// Resolves once it ends, because the mesh drains: tonic's signal to shut down gracefully.
    pub fn draining(&self) -> impl Future<Output = ()> + Send + use<> {
        self.0.draining()
    }
}

#[cfg(feature = "server")]
impl Stream for TonicIncoming {
    type Item = io::Result<TonicStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_accept(cx).map(|stream| stream.map(|stream| Ok(TonicStream(stream))))
    }
}

/// A connection of a [`TonicIncoming`]. Its calls have the `Arc<Peer>` in their extensions.
#[cfg(feature = "server")]
#[pin_project]
pub struct TonicStream(#[pin] ServerStream);

#[cfg(feature = "server")]
impl Connected for TonicStream {
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Arc<Peer> {
        Arc::clone(self.0.peer())
    }
}

#[cfg(feature = "server")]
impl AsyncRead for TonicStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.project().0.poll_read(cx, buf)
    }
}

#[cfg(feature = "server")]
impl AsyncWrite for TonicStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.project().0.poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().0.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().0.poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.project().0.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}

#[cfg(feature = "server")]
impl fmt::Debug for TonicStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TonicStream").field(&self.0).finish()
    }
}

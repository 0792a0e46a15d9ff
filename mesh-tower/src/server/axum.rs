//! Under `axum::serve`.

use std::io;
use std::sync::Arc;

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;

use super::incoming::Incoming;
use super::peer::Peer;
use super::stream::ServerStream;

/// Who is at the other end of a connection, as axum's connect info:
/// `router.into_make_service_with_connect_info::<Caller>()`.
#[derive(Debug, Clone)]
pub struct Caller(pub Arc<Peer>);

impl axum::serve::Listener for Incoming {
    type Io = ServerStream;
    type Addr = Caller;

    /// Waits for good once the mesh has drained.
    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match Self::accept(self).await {
            Some(stream) => {
                let caller = Caller(Arc::clone(stream.peer()));
                (stream, caller)
            }
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(Caller(Arc::new(Peer { local: self.local_address(), ..Peer::default() })))
    }
}

impl Connected<IncomingStream<'_, Incoming>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Incoming>) -> Self {
        stream.remote_addr().clone()
    }
}

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Server;

/// A well-behaved HTTP/2 server that answers every request with its name and counts them.
pub(crate) struct Healthy {
    pub(crate) server: Server,
    served: Arc<AtomicUsize>,
}

impl Healthy {
    pub(crate) async fn start(name: &'static str) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), name).await
    }

    pub(crate) async fn start_at(address: SocketAddr, name: &'static str) -> Self {
        let served = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&served);
        let server = Server::start_at(address, move |_, stream| {
            let count = Arc::clone(&count);
            speak_h2(stream, move |request, respond| {
                count.fetch_add(1, Ordering::SeqCst);
                say(name, request, respond)
            })
        });
        Self { server: server.await, served }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address
    }

    pub(crate) fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }
}

async fn say(name: &'static str, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let mut body = request.into_body();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
    }
    if let Ok(mut stream) = respond.send_response(Response::new(()), false) {
        let _ = stream.send_data(Bytes::from_static(name.as_bytes()), true);
    }
}

/// Serves `stream` until the client leaves; `handler` runs on a task of its own for each request.
pub(crate) async fn speak_h2<I, F, Fut>(stream: I, handler: F)
where
    I: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let mut handlers = tokio::task::JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        handlers.spawn(handler(request, respond));
        while handlers.try_join_next().is_some() {}
    }
}

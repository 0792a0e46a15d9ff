use std::future::Future;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};

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

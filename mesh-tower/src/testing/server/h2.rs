//! HTTP/2, over `h2` itself.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Ping, Reason, RecvStream, SendStream};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderName, HeaderValue, Method, Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::faulty::Break;
use super::io::{Followed, Framed};
use super::{Answer, Connection};
use crate::error::BoxError;
use crate::net::Io;
use crate::testing::body::Payload;
use crate::testing::reply::reason_of;
use crate::testing::request::Wire;

/// Flow-control windows, in bytes: enough for a test not to notice them.
const WINDOW: u32 = 1024 * 1024;

/// What a request asks of its connection.
enum Command {
    /// To be left gracefully. Told when that has begun.
    Leave(oneshot::Sender<()>),
    /// To be left, with this last stream.
    Disown { last: u32 },
    /// To break.
    Disconnect,
}

pub(super) async fn serve(shared: Arc<Connection>, io: impl Io) {
    let (io, frames) = Framed::new(io);
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(shared.server.max_concurrent_streams);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(io).await else { return };
    let (commands, mut commanded) = mpsc::channel(16);
    let mut exchanges = JoinSet::new();
    // Requests that are not looked at: dropping them would answer them.
    let mut disowned = Vec::new();
    let mut takes_more = true;
    loop {
        tokio::select! {
            // What was asked for comes before whatever arrives.
            biased;
            Some(command) = commanded.recv() => match command {
                Command::Leave(begun) => {
                    connection.graceful_shutdown();
                    let _ = begun.send(());
                }
                Command::Disown { last } => {
                    takes_more = false;
                    frames.go_away(last);
                }
                Command::Disconnect => break,
            },
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) if takes_more => {
                    let followed = frames.follow(respond.stream_id().as_u32());
                    exchanges.spawn(exchange(Arc::clone(&shared), request, respond, followed, commands.clone()));
                }
                Some(Ok(unprocessed)) => disowned.push(unprocessed),
                Some(Err(_)) | None => return,
            },
            Some(_) = exchanges.join_next(), if !exchanges.is_empty() => {}
        }
    }
    // It breaks once the client has seen all that was written before.
    let mut pings = connection.ping_pong().expect("nobody else has taken it");
    if pings.send_ping(Ping::opaque()).is_err() {
        return;
    }
    poll_fn(|cx| {
        while let Poll::Ready(accepted) = connection.poll_accept(cx) {
            match accepted {
                Some(Ok(late)) => disowned.push(late),
                Some(Err(_)) | None => return Poll::Ready(()),
            }
        }
        pings.poll_pong(cx).map(|_| ())
    })
    .await;
    // Before the streams: their ends would be sent otherwise.
    drop(connection);
}

async fn exchange(
    connection: Arc<Connection>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    followed: Followed,
    commands: mpsc::Sender<Command>,
) {
    let is_head = request.method() == Method::HEAD;
    let stream = respond.stream_id().as_u32();
    let answer = tokio::select! {
        biased;
        answer = connection.answer(request.map(Wire::H2)) => answer,
        _ = poll_fn(|cx| respond.poll_reset(cx)) => return,
    };
    let broken = match answer {
        Ok(Answer { response, last }) => {
            if last {
                let (begin, begun) = oneshot::channel();
                let _ = commands.send(Command::Leave(begin)).await;
                let _ = begun.await;
            }
            send(&mut respond, response, is_head, &followed).await
        }
        Err(broken) => Err(broken),
    };
    let Err(broken) = broken else { return };
    let command = match broken {
        Break::Stream(reason) => return respond.send_reset(reason),
        // Stream ids of clients are odd.
        Break::Disowned => Command::Disown { last: stream.saturating_sub(2) },
        Break::Connection => Command::Disconnect,
    };
    let _ = commands.send(command).await;
    // The stream stays as it is until the connection ends.
    std::future::pending().await
}

/// Sends `response`. If it breaks, then after what came before is written: a reset would overtake it.
async fn send(
    respond: &mut SendResponse<Bytes>,
    response: Response<Payload>,
    is_head: bool,
    followed: &Followed,
) -> Result<(), Break> {
    let (mut head, mut body) = response.into_parts();
    // RFC 9113 8.2.2: a handler may not know which version it answers.
    const OF_THE_HOP: [HeaderName; 4] = [CONNECTION, HeaderName::from_static("keep-alive"), TRANSFER_ENCODING, UPGRADE];
    OF_THE_HOP.iter().for_each(|name| drop(head.headers.remove(name)));
    if let Some(length) = body.size_hint().exact().filter(|length| *length > 0) {
        head.headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    let ended = is_head || body.is_end_stream();
    // What h2 does not take is the handler's mistake, or the client's end.
    let Ok(mut stream) = respond.send_response(Response::from_parts(head, ()), ended) else {
        return Err(Break::Stream(Reason::INTERNAL_ERROR));
    };
    if ended {
        return Ok(());
    }
    // The head, and bytes of data.
    let mut given = 1;
    loop {
        let frame = tokio::select! {
            biased;
            frame = body.frame() => frame,
            _ = poll_fn(|cx| stream.poll_reset(cx)) => return Ok(()),
        };
        match frame.map(|frame| frame.map(Frame::into_data)) {
            Some(Ok(Ok(data))) => {
                given += data.len();
                let last = body.is_end_stream();
                if !send_data(&mut stream, data, last).await || last {
                    return Ok(());
                }
            }
            Some(Ok(Err(other))) => {
                let _ = stream.send_trailers(other.into_trailers().unwrap_or_default());
                return Ok(());
            }
            Some(Err(error)) => {
                return tokio::select! {
                    () = followed.written(given) => Err(how(error)),
                    _ = poll_fn(|cx| stream.poll_reset(cx)) => Ok(()),
                };
            }
            None => {
                let _ = stream.send_data(Bytes::new(), true);
                return Ok(());
            }
        }
    }
}

/// Sends `data` as the client's windows allow; `false` once it wants no more.
async fn send_data(stream: &mut SendStream<Bytes>, mut data: Bytes, last: bool) -> bool {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let capacity = poll_fn(|cx| stream.poll_capacity(cx)).await;
        let Some(Ok(capacity)) = capacity else { return false };
        let piece = data.split_to(capacity.min(data.len()));
        let ended = last && data.is_empty();
        if stream.send_data(piece, ended).is_err() {
            return false;
        }
        if ended {
            return true;
        }
    }
    !last || stream.send_data(data, true).is_ok()
}

/// How a body that fails ends its exchange.
fn how(error: BoxError) -> Break {
    error.downcast_ref::<Break>().copied().unwrap_or_else(|| Break::Stream(reason_of(&*error)))
}

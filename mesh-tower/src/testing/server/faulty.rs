//! Bodies that are slow, or break.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::Reason;
use http::Response;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::sync::{mpsc, watch};

use crate::error::BoxError;
use crate::testing::body::Payload;
use crate::testing::fault::At;
use crate::testing::script::Hold;

/// How an exchange ends early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Break {
    #[error("the test breaks the connection")]
    Connection,
    #[error("the test resets the stream: {0}")]
    Stream(Reason),
    #[error("the test disowns the request")]
    Disowned,
}

type Frames = mpsc::Sender<Result<Frame<Bytes>, BoxError>>;

/// `response` whose body breaks off as `how` says.
///
/// Over HTTP/1.1, where `flushes` counts how often all was written that there is, it breaks once what came before has
/// left; HTTP/2 sees to that itself.
pub(super) fn breaking(
    response: Response<Payload>,
    at: At,
    how: Break,
    flushes: Option<watch::Receiver<u64>>,
) -> Response<Payload> {
    let bytes = if let At::InBody(bytes) = at { bytes } else { 0 };
    response.map(|body| pumped(|frames| pump_until(body, bytes, how, flushes, frames)))
}

/// `response` whose body comes in pieces of `chunk` bytes, each when it is released.
pub(super) fn slow(response: Response<Payload>, chunk: usize, hold: Hold) -> Response<Payload> {
    response.map(|body| pumped(|frames| pump_slowly(body, chunk.max(1), hold, frames)))
}

async fn pump_until(
    mut body: Payload,
    mut left: usize,
    how: Break,
    flushes: Option<watch::Receiver<u64>>,
    frames: Frames,
) {
    while left > 0
        && let Some(Ok(frame)) = body.frame().await
    {
        let Ok(mut data) = frame.into_data() else { break };
        data.truncate(left);
        left -= data.len();
        if frames.send(Ok(Frame::data(data))).await.is_err() {
            return;
        }
    }
    if let Some(mut flushes) = flushes {
        // hyper takes the last frame as soon as this waits, and flushes when the body has nothing to give for now.
        flushes.mark_unchanged();
        let _ = flushes.changed().await;
    }
    let _ = frames.send(Err(how.into())).await;
}

async fn pump_slowly(mut body: Payload, chunk: usize, mut hold: Hold, frames: Frames) {
    let mut number = 0;
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(mut data)) => {
                while !data.is_empty() {
                    number += 1;
                    hold.chunk(number).await;
                    let piece = data.split_to(chunk.min(data.len()));
                    if frames.send(Ok(Frame::data(piece))).await.is_err() {
                        return;
                    }
                }
            }
            Ok(Err(other)) => drop(frames.send(Ok(other)).await),
            Err(error) => return drop(frames.send(Err(error)).await),
        }
    }
}

fn pumped<F, Fut>(pump: F) -> Payload
where
    F: FnOnce(Frames) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let (sender, frames) = mpsc::channel(1);
    Pumped { frames, pump: Some(Box::pin(pump(sender))) }.boxed_unsync()
}

/// A body that an asynchronous function makes, which runs while the body is read.
struct Pumped {
    frames: mpsc::Receiver<Result<Frame<Bytes>, BoxError>>,
    pump: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Body for Pumped {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(pump) = &mut self.pump
            && pump.as_mut().poll(cx).is_ready()
        {
            self.pump = None;
        }
        self.frames.poll_recv(cx)
    }
}

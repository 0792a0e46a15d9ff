//! Requests as a backend sees them.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http::request::Parts;
use http::{HeaderMap, Request};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::watch;

use super::lock;
use crate::error::BoxError;

/// A request that arrived at a [`TestBackend`](super::TestBackend), as far as it was read when it was asked for. The
/// default handler reads requests to their end, a handler of the test as far as it likes.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ReceivedRequest {
    /// Method, URI, version and headers.
    pub head: Parts,
    /// The bytes that were read of its body.
    pub body: Bytes,
    /// The trailers, if there are any and they were read.
    pub trailers: Option<HeaderMap>,
    /// Whether it was read to its end.
    pub is_complete: bool,
    /// The number of the connection it came on; the first is 1.
    pub connection: usize,
}

impl ReceivedRequest {
    /// The value of the header `name`, if there is one.
    ///
    /// # Panics
    /// If it is not ASCII.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name).map(|value| value.to_str().expect("a header value of ASCII"))
    }
}

/// What arrived at a backend.
#[derive(Default)]
pub(super) struct Log {
    records: Mutex<Vec<Arc<Mutex<Record>>>>,
    count: watch::Sender<usize>,
}

struct Record {
    head: Parts,
    body: BytesMut,
    trailers: Option<HeaderMap>,
    is_complete: bool,
    connection: usize,
}

impl Log {
    /// Keeps `request`, and tells that it has arrived.
    pub(super) fn add(&self, request: Request<Wire>, connection: usize) -> Request<RequestBody> {
        let (head, wire) = request.into_parts();
        let record = Arc::new(Mutex::new(Record {
            head: head.clone(),
            body: BytesMut::new(),
            trailers: None,
            is_complete: wire.is_end_stream(),
            connection,
        }));
        let mut records = lock(&self.records);
        records.push(Arc::clone(&record));
        self.count.send_replace(records.len());
        Request::from_parts(head, RequestBody { wire, record })
    }

    pub(super) fn all(&self) -> Vec<ReceivedRequest> {
        lock(&self.records).iter().map(|record| lock(record).snapshot()).collect()
    }

    pub(super) fn count(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }
}

impl Record {
    fn snapshot(&self) -> ReceivedRequest {
        ReceivedRequest {
            head: self.head.clone(),
            body: self.body.clone().freeze(),
            trailers: self.trailers.clone(),
            is_complete: self.is_complete,
            connection: self.connection,
        }
    }
}

/// Where the bytes of a request come from.
pub(super) enum Wire {
    H1(Incoming),
    H2(RecvStream),
}

impl Wire {
    fn is_end_stream(&self) -> bool {
        match self {
            Self::H1(incoming) => incoming.is_end_stream(),
            Self::H2(stream) => stream.is_end_stream(),
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let stream = match self {
            Self::H1(incoming) => return Pin::new(incoming).poll_frame(cx).map_err(Into::into),
            Self::H2(stream) => stream,
        };
        if let Some(data) = ready!(stream.poll_data(cx)) {
            let data = data?;
            stream.flow_control().release_capacity(data.len())?;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let trailers = ready!(stream.poll_trailers(cx))?;
        Poll::Ready(trailers.map(Frame::trailers).map(Ok))
    }
}

/// The body of a request, for a handler to read. What is read is [recorded](ReceivedRequest).
pub struct RequestBody {
    wire: Wire,
    record: Arc<Mutex<Record>>,
}

impl RequestBody {
    /// Reads all data; trailers are recorded and otherwise passed over.
    ///
    /// # Errors
    /// If the client broke off.
    pub async fn bytes(self) -> Result<Bytes, BoxError> {
        Ok(self.collect().await?.to_bytes())
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let frame = ready!(this.wire.poll_frame(cx));
        let mut record = lock(&this.record);
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    record.body.extend_from_slice(data);
                } else if let Some(trailers) = frame.trailers_ref() {
                    record.trailers = Some(trailers.clone());
                }
                record.is_complete |= this.wire.is_end_stream();
            }
            Some(Err(_)) => {}
            None => record.is_complete = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.wire.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.wire {
            Wire::H1(incoming) => incoming.size_hint(),
            Wire::H2(_) => SizeHint::default(),
        }
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RequestBody")
    }
}

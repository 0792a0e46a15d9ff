use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Frame types (RFC 9113 6).
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

/// Error codes (RFC 9113 7).
pub(crate) mod reason {
    pub(crate) const NO_ERROR: u32 = 0;
    pub(crate) const INTERNAL_ERROR: u32 = 2;
    pub(crate) const REFUSED_STREAM: u32 = 7;
    pub(crate) const CANCEL: u32 = 8;
}

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// `:status: 200` in HPACK's static table.
const STATUS_200: u8 = 0x88;
const MAX_CONCURRENT_STREAMS: u16 = 3;

pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn ends_stream(&self) -> bool {
        matches!(self.kind, kind::DATA | kind::HEADERS) && self.flags & END_STREAM != 0
    }

    pub(crate) fn is_ack(&self) -> bool {
        matches!(self.kind, kind::SETTINGS | kind::PING) && self.flags & ACK != 0
    }

    /// The error code of a RST_STREAM.
    pub(crate) fn reset_reason(&self) -> Option<u32> {
        (self.kind == kind::RST_STREAM).then(|| u32::from_be_bytes(self.payload[..4].try_into().unwrap()))
    }
}

/// The server's side of an HTTP/2 connection, frame by frame: it sends whatever it is told to, sound or not.
pub(crate) struct Wire<I> {
    pub(crate) io: I,
}

impl<I: AsyncRead + AsyncWrite + Unpin> Wire<I> {
    /// Reads the client's preface and sends SETTINGS that allow `max_streams` at once; `None` if the client left.
    pub(crate) async fn greet(io: I, max_streams: Option<u32>) -> Option<Self> {
        let mut wire = Self::silent(io).await?;
        wire.settings(max_streams).await;
        Some(wire)
    }

    /// Reads the client's preface and says nothing.
    pub(crate) async fn silent(mut io: I) -> Option<Self> {
        let mut preface = [0; PREFACE.len()];
        io.read_exact(&mut preface).await.ok()?;
        assert_eq!(preface, PREFACE);
        Some(Self { io })
    }

    /// The next frame, with SETTINGS and PING of the client acknowledged; `None` once the client has left.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.io.read_exact(&mut head).await.ok()?;
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; len];
        self.io.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        let frame = Frame { kind: head[3], flags: head[4], stream, payload };
        if matches!(frame.kind, kind::SETTINGS | kind::PING) && !frame.is_ack() {
            let echo = if frame.kind == kind::PING { &frame.payload[..] } else { &[] };
            self.send(frame.kind, ACK, 0, echo).await;
        }
        Some(frame)
    }

    /// Reads up to the end of the next request; `None` once the client has left.
    pub(crate) async fn request(&mut self) -> Option<(u32, Vec<u8>)> {
        let mut body = Vec::new();
        loop {
            let frame = self.next().await?;
            if frame.kind == kind::DATA {
                self.credit(&frame).await;
                body.extend_from_slice(&frame.payload);
            }
            if frame.ends_stream() {
                return Some((frame.stream, body));
            }
        }
    }

    /// Returns the flow-control windows that a DATA frame used.
    pub(crate) async fn credit(&mut self, data: &Frame) {
        let size = u32::try_from(data.payload.len()).unwrap().to_be_bytes();
        if !data.payload.is_empty() {
            self.send(kind::WINDOW_UPDATE, 0, 0, &size).await;
            self.send(kind::WINDOW_UPDATE, 0, data.stream, &size).await;
        }
    }

    /// Sends a frame; a client that has left is no concern of the script.
    pub(crate) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend_from_slice(payload);
        self.io.write_all(&frame).await.is_ok()
    }

    pub(crate) async fn settings(&mut self, max_streams: Option<u32>) {
        let mut payload = Vec::new();
        if let Some(limit) = max_streams {
            payload.extend(MAX_CONCURRENT_STREAMS.to_be_bytes());
            payload.extend(limit.to_be_bytes());
        }
        self.send(kind::SETTINGS, 0, 0, &payload).await;
    }

    /// Sends a 200 whose body follows.
    pub(crate) async fn head(&mut self, stream: u32) {
        self.send(kind::HEADERS, END_HEADERS, stream, &[STATUS_200]).await;
    }

    pub(crate) async fn data(&mut self, stream: u32, data: &[u8], end: bool) -> bool {
        self.send(kind::DATA, if end { END_STREAM } else { 0 }, stream, data).await
    }

    /// Sends a whole 200; `body` fits into one frame.
    pub(crate) async fn answer(&mut self, stream: u32, body: &[u8]) {
        self.head(stream).await;
        for piece in body.chunks(16_384) {
            self.data(stream, piece, false).await;
        }
        self.data(stream, &[], true).await;
    }

    pub(crate) async fn reset(&mut self, stream: u32, reason: u32) {
        self.send(kind::RST_STREAM, 0, stream, &reason.to_be_bytes()).await;
    }

    pub(crate) async fn go_away(&mut self, last: u32, reason: u32) {
        self.send(kind::GOAWAY, 0, 0, &[last.to_be_bytes(), reason.to_be_bytes()].concat()).await;
    }

    /// Asks for an acknowledgement, which [`next`](Self::next) brings once the client has seen all that was sent before.
    pub(crate) async fn ping(&mut self) {
        self.send(kind::PING, 0, 0, b"whereart").await;
    }

    /// Echoes every request until the client leaves.
    pub(crate) async fn echo(&mut self) {
        let mut bodies = std::collections::HashMap::<u32, Vec<u8>>::new();
        while let Some(frame) = self.next().await {
            if frame.kind == kind::DATA {
                self.credit(&frame).await;
                bodies.entry(frame.stream).or_default().extend_from_slice(&frame.payload);
            }
            if frame.ends_stream() {
                let body = bodies.remove(&frame.stream).unwrap_or_default();
                self.answer(frame.stream, &body).await;
            }
        }
    }

    /// Sends no more and reads until the client has left, so that nothing sent is lost to a reset.
    pub(crate) async fn close(mut self) {
        let _ = self.io.shutdown().await;
        while self.next().await.is_some() {}
    }
}

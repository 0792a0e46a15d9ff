use mesh_tower::testing::watched;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Frame types (RFC 9113 6).
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const PRIORITY: u8 = 2;
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
    pub(crate) const CANCEL: u32 = 8;
    pub(crate) const COMPRESSION_ERROR: u32 = 9;
    pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;
}

pub(crate) mod flag {
    pub(crate) const ACK: u8 = 1;
    pub(crate) const END_STREAM: u8 = 1;
    pub(crate) const END_HEADERS: u8 = 4;
    /// A request without a body.
    pub(crate) const WHOLE: u8 = END_STREAM | END_HEADERS;
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn ends_stream(&self) -> bool {
        matches!(self.kind, kind::DATA | kind::HEADERS) && self.flags & flag::END_STREAM != 0
    }

    /// The error code of a GOAWAY or an RST_STREAM.
    pub(crate) fn reason(&self) -> u32 {
        let at = if self.kind == kind::GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    /// The debug data of a GOAWAY.
    pub(crate) fn text(&self) -> String {
        self.payload[8..].escape_ascii().to_string()
    }

    /// Whether it is a response with the indexed `status`, 200 or one of those that HPACK has a number for.
    pub(crate) fn is_status(&self, status: u16) -> bool {
        let index = match status {
            200 => 0x88,
            400 => 0x8c,
            404 => 0x8d,
            500 => 0x8e,
            other => {
                let text = other.to_string();
                let plain = self.payload.windows(3).any(|three| three == text.as_bytes());
                // Digits are five or six bits each in Huffman's code: 431 is 11010, 0001, 00001, then ones.
                return self.kind == kind::HEADERS && (plain || self.payload.starts_with(&huffman_status(other)));
            }
        };
        self.kind == kind::HEADERS && self.payload.first() == Some(&index)
    }
}

/// `:status` as a literal with incremental indexing, its name by number 8, and its three digits in Huffman's code.
fn huffman_status(status: u16) -> Vec<u8> {
    const DIGITS: [(u32, u32); 10] =
        [(0, 5), (1, 5), (2, 5), (0x19, 6), (0x1a, 6), (0x1b, 6), (0x1c, 6), (0x1d, 6), (0x1e, 6), (0x1f, 6)];
    let (mut bits, mut length) = (0_u32, 0);
    for digit in status.to_string().bytes() {
        let (code, size) = DIGITS[usize::from(digit - b'0')];
        (bits, length) = (bits << size | code, length + size);
    }
    let bytes = length.div_ceil(8);
    let pad = bytes * 8 - length;
    let bits = bits << pad | ((1 << pad) - 1);
    let mut field = vec![0x48, 0x80 | bytes as u8];
    field.extend(&bits.to_be_bytes()[4 - bytes as usize..]);
    field
}

/// The client's side of an HTTP/2 connection, frame by frame: it sends whatever it is told to, sound or not.
pub(crate) struct Wire<I> {
    pub(crate) io: I,
    /// Whether SETTINGS and PING of the server are acknowledged.
    pub(crate) polite: bool,
}

impl<I: AsyncRead + AsyncWrite + Unpin> Wire<I> {
    /// Sends the preface and SETTINGS that say nothing.
    pub(crate) async fn open(mut io: I) -> Self {
        io.write_all(PREFACE).await.unwrap();
        let mut wire = Self { io, polite: true };
        wire.send(kind::SETTINGS, 0, 0, &[]).await;
        wire
    }

    /// The next frame; `None` once the server has left.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.io.read_exact(&mut head).await.ok()?;
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; len];
        self.io.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        let frame = Frame { kind: head[3], flags: head[4], stream, payload };
        let to_ack = matches!(frame.kind, kind::SETTINGS | kind::PING) && frame.flags & flag::ACK == 0;
        if to_ack && self.polite {
            let echo = if frame.kind == kind::PING { &frame.payload[..] } else { &[] };
            self.send(frame.kind, flag::ACK, 0, echo).await;
        }
        Some(frame)
    }

    /// The next frame that `is`; panics if the server leaves before.
    pub(crate) async fn wait(&mut self, is: impl Fn(&Frame) -> bool) -> Frame {
        watched(async {
            loop {
                let frame = self.next().await.expect("the server left");
                if is(&frame) {
                    return frame;
                }
            }
        })
        .await
    }

    /// Reads until the server has left; the last GOAWAY that it sent, if any.
    pub(crate) async fn until_closed(&mut self) -> Option<Frame> {
        watched(async {
            let mut last = None;
            while let Some(frame) = self.next().await {
                if frame.kind == kind::GOAWAY {
                    last = Some(frame);
                }
            }
            last
        })
        .await
    }

    /// Sends a frame; whether it got through.
    pub(crate) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        self.raw(&frame(kind, flags, stream, payload)).await
    }

    /// Sends `bytes`; whether they got through.
    pub(crate) async fn raw(&mut self, bytes: &[u8]) -> bool {
        watched(self.io.write_all(bytes)).await.is_ok()
    }

    /// Sends a request without a body.
    pub(crate) async fn get(&mut self, stream: u32, path: &str) -> bool {
        self.send(kind::HEADERS, flag::WHOLE, stream, &get(path)).await
    }

    /// Sends the head of a request whose body follows.
    pub(crate) async fn post(&mut self, stream: u32, path: &str) -> bool {
        self.send(kind::HEADERS, flag::END_HEADERS, stream, &post(path)).await
    }

    /// Waits for the end of the answer on `stream`; whether it is a 200.
    pub(crate) async fn answered(&mut self, stream: u32) -> bool {
        let head = self.wait(|frame| frame.stream == stream).await;
        if head.kind != kind::HEADERS || !head.is_status(200) {
            return false;
        }
        head.ends_stream() || {
            let end =
                self.wait(|frame| frame.stream == stream && (frame.ends_stream() || frame.kind == kind::RST_STREAM));
            end.await.kind != kind::RST_STREAM
        }
    }
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// The header fields of `GET path`.
pub(crate) fn get(path: &str) -> Vec<u8> {
    head(0x82, path)
}

/// The header fields of `POST path`.
pub(crate) fn post(path: &str) -> Vec<u8> {
    head(0x83, path)
}

fn head(method: u8, path: &str) -> Vec<u8> {
    // :scheme http, :authority a, and :path as a literal (RFC 7541 6.2.2, appendix A).
    let mut fields = vec![method, 0x86, 0x01, 1, b'a', 0x04];
    text(&mut fields, path.as_bytes());
    fields
}

/// A header field as a literal without indexing.
pub(crate) fn field(name: &str, value: &[u8]) -> Vec<u8> {
    let mut field = vec![0];
    text(&mut field, name.as_bytes());
    text(&mut field, value);
    field
}

/// A string as HPACK writes it, not in Huffman's code.
pub(crate) fn text(fields: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text.len();
    if rest < 127 {
        fields.push(rest as u8);
    } else {
        fields.push(127);
        rest -= 127;
        while rest >= 128 {
            fields.push((rest % 128) as u8 | 128);
            rest /= 128;
        }
        fields.push(rest as u8);
    }
    fields.extend_from_slice(text);
}

//! Messages behind their prefix of five bytes (gRPC PROTOCOL-HTTP2), uncompressed.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Whether a message is compressed, and its length in bytes.
const PREFIX: usize = 5;

/// `message` behind its prefix. One of 4 GiB and more is not written.
pub fn framed(message: &[u8]) -> Option<Bytes> {
    let length = u32::try_from(message.len()).ok()?;
    let mut frame = BytesMut::with_capacity(PREFIX + message.len());
    frame.put_u8(0);
    frame.put_u32(length);
    frame.put_slice(message);
    Some(frame.freeze())
}

/// Takes the messages out of a body that comes in pieces.
///
/// It holds what was pushed and not taken: whoever takes all messages after each push never has more than `limit` bytes
/// and one piece in it.
#[derive(Debug)]
pub struct Messages {
    buffer: BytesMut,
    limit: usize,
}

/// Why there is no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// It is longer than allowed.
    #[error("a message of {length} bytes, where {limit} are the most")]
    TooLong {
        /// What its prefix says, in bytes.
        length: usize,
        /// The most that was to be read.
        limit: usize,
    },
    /// It is compressed, which nobody offered.
    #[error("a compressed message, where none was offered")]
    Compressed,
    /// The body ended within it.
    #[error("the body ended within a message")]
    CutOff,
}

impl Messages {
    /// Of at most `limit` bytes each.
    pub fn new(limit: usize) -> Self {
        Self { buffer: BytesMut::new(), limit }
    }

    /// The next piece of the body.
    pub fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// The next message, if it is here.
    ///
    /// # Errors
    /// If it is too long or compressed; it is then of no use to go on.
    pub fn take(&mut self) -> Result<Option<Bytes>, MessageError> {
        let Some((flag, mut length)) = self.buffer.get(..PREFIX).and_then(<[u8]>::split_first) else { return Ok(None) };
        if *flag != 0 {
            return Err(MessageError::Compressed);
        }
        let length = usize::try_from(length.get_u32()).unwrap_or(usize::MAX);
        if length > self.limit {
            return Err(MessageError::TooLong { length, limit: self.limit });
        }
        if self.buffer.len() - PREFIX < length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// The body has ended.
    ///
    /// # Errors
    /// If that was within a message.
    pub fn end(&self) -> Result<(), MessageError> {
        if self.buffer.is_empty() { Ok(()) } else { Err(MessageError::CutOff) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn messages_come_out_however_they_are_cut(
            sent in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6),
            piece in 1..50_usize,
        ) {
            let body: Vec<u8> = sent.iter().flat_map(|message| framed(message).unwrap()).collect();
            let (mut messages, mut taken) = (Messages::new(40), Vec::new());
            for piece in body.chunks(piece) {
                messages.push(piece);
                while let Some(message) = messages.take().unwrap() {
                    taken.push(message.to_vec());
                }
            }
            prop_assert_eq!(messages.end(), Ok(()));
            prop_assert_eq!(taken, sent);
        }

        #[test]
        fn nothing_makes_it_panic_or_grow(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..20)) {
            let mut messages = Messages::new(30);
            for piece in pieces {
                messages.push(&piece);
                loop {
                    match messages.take() {
                        Ok(Some(message)) => prop_assert!(message.len() <= 30),
                        Ok(None) => break,
                        Err(_) => return Ok(()),
                    }
                }
                prop_assert!(messages.buffer.len() < PREFIX + 30);
            }
        }
    }

    #[test]
    fn bad_messages_are_told_apart() {
        let read = |body: &[u8]| {
            let mut messages = Messages::new(4);
            messages.push(body);
            messages.take().and_then(|message| messages.end().map(|()| message))
        };
        assert_eq!(read(&[0, 0, 0, 0, 1, 7]), Ok(Some(Bytes::from_static(&[7]))));
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[0, 0, 0]), Err(MessageError::CutOff));
        assert_eq!(read(&[0, 0, 0, 0, 2, 7]), Err(MessageError::CutOff));
        assert_eq!(read(&[1, 0, 0, 0, 1, 7]), Err(MessageError::Compressed));
        assert_eq!(read(&[0, 0, 0, 0, 5]), Err(MessageError::TooLong { length: 5, limit: 4 }));
    }
}

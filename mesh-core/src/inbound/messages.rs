//! The lengths of gRPC messages that pass by.

/// Reads the prefixes of messages in a body that comes in pieces, and keeps none of it (gRPC PROTOCOL-HTTP2).
#[derive(Debug, Clone)]
pub struct MessageMeter {
    limit: u32,
    /// How many bytes of the prefix are here: of the flag, and four of the length.
    prefix: u8,
    /// The length, as far as it is here.
    length: u32,
    /// What is still to come of the message.
    left: u32,
}

/// A message is longer than it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message of {length} bytes, where {limit} are the most")]
#[non_exhaustive]
pub struct MessageTooLong {
    /// What its prefix says, in bytes.
    pub length: u32,
    /// The most it may be.
    pub limit: u32,
}

impl MessageMeter {
    const PREFIX: u8 = 5;

    /// Of messages of at most `limit` bytes each, as they are sent: compressed, where they are.
    pub fn new(limit: u32) -> Self {
        Self { limit, prefix: 0, length: 0, left: 0 }
    }

    /// The next piece of the body. Takes time by the number of messages in it, not of bytes.
    ///
    /// # Errors
    /// If one that begins in it is too long; it is then of no use to go on.
    pub fn push(&mut self, mut piece: &[u8]) -> Result<(), MessageTooLong> {
        loop {
            let here = piece.len().min(self.left as usize);
            self.left -= here as u32;
            piece = &piece[here..];
            let Some((byte, rest)) = piece.split_first() else { return Ok(()) };
            piece = rest;
            if self.prefix > 0 {
                self.length = self.length << 8 | u32::from(*byte);
            }
            self.prefix += 1;
            if self.prefix < Self::PREFIX {
                continue;
            }
            let length = std::mem::take(&mut self.length);
            if length > self.limit {
                return Err(MessageTooLong { length, limit: self.limit });
            }
            (self.prefix, self.left) = (0, length);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body(lengths: &[u32]) -> Vec<u8> {
        let message = |length: &u32| {
            let prefix = [0].into_iter().chain(length.to_be_bytes());
            prefix.chain(std::iter::repeat_n(0xff, *length as usize)).collect::<Vec<u8>>()
        };
        lengths.iter().flat_map(message).collect()
    }

    proptest! {
        #[test]
        fn messages_are_measured_however_they_are_cut(
            lengths in prop::collection::vec(0..300_u32, 0..6),
            limit in 0..300_u32,
            pieces in prop::collection::vec(0..70_usize, 0..60),
        ) {
            let body = body(&lengths);
            let mut meter = MessageMeter::new(limit);
            let (mut rest, mut told) = (&body[..], Ok(()));
            for piece in pieces.into_iter().chain([usize::MAX]) {
                let (piece, after) = rest.split_at(piece.min(rest.len()));
                rest = after;
                told = told.and_then(|()| meter.push(piece));
            }
            let expected = lengths.iter().find(|length| **length > limit);
            prop_assert_eq!(told.err(), expected.map(|length| MessageTooLong { length: *length, limit }));
        }
    }

    #[test]
    fn the_longest_length_is_read() {
        let told = MessageMeter::new(u32::MAX - 1).push(&[1, 0xff, 0xff, 0xff, 0xff, 9]);
        assert_eq!(told, Err(MessageTooLong { length: u32::MAX, limit: u32::MAX - 1 }));
        assert_eq!(MessageMeter::new(u32::MAX).push(&[1, 0xff, 0xff, 0xff, 0xff, 9]), Ok(()));
    }

    /// What comes behind one that is too long is not looked at, nor does it have to be there.
    #[test]
    fn the_prefix_alone_refuses() {
        let mut meter = MessageMeter::new(4);
        assert_eq!(meter.push(&[0, 0, 0, 0]), Ok(()));
        assert_eq!(meter.push(&[5]), Err(MessageTooLong { length: 5, limit: 4 }));
    }
}

//! As much of Protobuf's wire format as load reports, health checks and issued identities take.

/// The fields of a message in their order. `None` is the place where it is malformed, and the end.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value<'a> {
    Double(f64),
    /// A text, or a message.
    Bytes(&'a [u8]),
    Varint(u64),
    /// Of a type that no field has which is read here.
    Other,
}

impl<'a> Fields<'a> {
    pub(crate) fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn field(&mut self) -> Option<(u32, Value<'a>)> {
        let tag = u32::try_from(self.varint()?).ok()?;
        let number = tag >> 3;
        let value = match tag & 0b111 {
            0 => Value::Varint(self.varint()?),
            1 => {
                let (bytes, rest) = self.rest.split_first_chunk()?;
                self.rest = rest;
                Value::Double(f64::from_le_bytes(*bytes))
            }
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                let (bytes, rest) = self.rest.split_at_checked(length)?;
                self.rest = rest;
                Value::Bytes(bytes)
            }
            5 => {
                self.rest = self.rest.get(4..)?;
                Value::Other
            }
            // Groups, which proto3 does not have, and types that there are not.
            _ => return None,
        };
        (number > 0).then_some((number, value))
    }

    /// A number of at most 64 bits, seven in a byte, the lowest first.
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u32, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// Appends a field that is a number; none where that is 0, as in proto3.
pub(crate) fn put_number(message: &mut Vec<u8>, field: u8, value: u64) {
    if value > 0 {
        message.push(field << 3);
        put_varint(message, value);
    }
}

/// Appends a field that is a text or a message.
pub(crate) fn put_bytes(message: &mut Vec<u8>, field: u8, value: &[u8]) {
    message.push(field << 3 | 0b10);
    put_varint(message, value.len() as u64);
    message.extend_from_slice(value);
}

fn put_varint(message: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_one_by_one() {
        let message = [
            &[0x08, 0x96, 0x01][..],
            &[0x11, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f],
            &[0x1a, 0x02, b'h', b'i'],
            &[0x25, 1, 2, 3, 4],
            &[0xfa, 0xff, 0xff, 0xff, 0x0f, 0x00],
        ]
        .concat();
        let wanted = [
            (1, Value::Varint(150)),
            (2, Value::Double(1.0)),
            (3, Value::Bytes(b"hi")),
            (4, Value::Other),
            ((1 << 29) - 1, Value::Bytes(b"")),
        ];
        assert_eq!(Fields::of(&message).collect::<Option<Vec<_>>>().unwrap(), wanted);
    }

    #[test]
    fn malformed_fields_end_a_message() {
        let cases: [&[u8]; 11] = [
            &[0x80],
            &[0x08],
            &[0x09, 0, 0, 0, 0, 0, 0, 0],
            &[0x0a, 0x02, b'h'],
            &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
            &[0x0d, 0, 0, 0],
            &[0x0b, 0x0c],
            &[0x0e],
            &[0x00, 0x00],
            &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
            &[0x88, 0x80, 0x80, 0x80, 0x10, 0x00],
        ];
        for message in cases {
            assert_eq!(Fields::of(message).collect::<Vec<_>>(), [None], "{message:x?}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut message = Vec::new();
        put_number(&mut message, 1, 0);
        for value in [1, 127, 128, 300, u64::MAX] {
            put_number(&mut message, 2, value);
        }
        let long = [7; 200];
        put_bytes(&mut message, 15, &long);
        put_bytes(&mut message, 3, b"");
        let numbers = [1, 127, 128, 300, u64::MAX].map(|value| (2, Value::Varint(value)));
        let wanted = [&numbers[..], &[(15, Value::Bytes(&long)), (3, Value::Bytes(b""))]].concat();
        assert_eq!(Fields::of(&message).collect::<Option<Vec<_>>>().unwrap(), wanted);
    }
}

//! Base64 with the alphabet of RFC 4648, 4: what gRPC's binary headers and cookies are written in.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// `bytes` as a text, with padding.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        let sextet = |place: usize| char::from(ALPHABET[(bits >> (18 - 6 * place)) as usize & 0x3f]);
        text.extend((0..=group.len()).map(sextet));
        text.extend((group.len()..3).map(|_| '='));
    }
    text
}

/// Writes what `text` encodes (RFC 4648, 4) to the front of `decoded`, which has at least three bytes for each four of
/// `text` and two more, and says how many bytes that are. `None` if it is not base64.
///
/// Padding may be left out, but must be right if it is there. Bits behind the last byte are not looked at.
pub(crate) fn decode(text: &[u8], decoded: &mut [u8]) -> Option<usize> {
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    if padding > 2 || (padding > 0 && !text.len().is_multiple_of(4)) {
        return None;
    }
    let text = &text[..text.len() - padding];
    let mut length = 0;
    for group in text.chunks(4) {
        // One character alone has too few bits for a byte.
        let size = group.len().checked_sub(2)? + 1;
        let mut bits = 0;
        for (place, byte) in (0..).zip(group) {
            bits |= sextet(*byte)? << (18 - 6 * place);
        }
        decoded.get_mut(length..length + size)?.copy_from_slice(&bits.to_be_bytes()[1..1 + size]);
        length += size;
    }
    Some(length)
}

fn sextet(byte: u8) -> Option<u32> {
    let sextet = match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(u32::from(sextet))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 4648, 10, and what is not base64.
    #[test]
    fn a_text_is_decoded_with_and_without_padding() {
        let cases: [(&str, Option<&[u8]>); 22] = [
            ("", Some(b"")),
            ("Zg==", Some(b"f")),
            ("Zg", Some(b"f")),
            ("Zm8=", Some(b"fo")),
            ("Zm8", Some(b"fo")),
            ("Zm9v", Some(b"foo")),
            ("Zm9vYg==", Some(b"foob")),
            ("Zm9vYmE", Some(b"fooba")),
            ("Zm9vYmFy", Some(b"foobar")),
            ("+/+/", Some(&[0xfb, 0xff, 0xbf])),
            ("Zh==", Some(b"f")),
            ("Z", None),
            ("Zm9vY", None),
            ("Zg=", None),
            ("Zg===", None),
            ("Z===", None),
            ("====", None),
            ("=", None),
            ("Zg==Zg==", None),
            ("Zm9v,Zm9v", None),
            ("Zm-_", None),
            (" Zm9v", None),
        ];
        for (text, wanted) in cases {
            let mut decoded = vec![0; text.len() / 4 * 3 + 2];
            let length = decode(text.as_bytes(), &mut decoded);
            assert_eq!(length.map(|length| &decoded[..length]), wanted, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let text = encode(&bytes);
            let mut decoded = vec![0; text.len() / 4 * 3 + 2];
            let length = decode(text.as_bytes(), &mut decoded);
            prop_assert_eq!(length.map(|length| &decoded[..length]), Some(&bytes[..]));
        }
    }
}

//! Base64 with the alphabet of RFC 4648, 4: what gRPC's binary headers and cookies are written in.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Written with padding; read with or without it, whatever the bits behind the last byte are.
const ENGINE: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// `bytes` as a text, with padding.
pub(crate) fn encode(bytes: &[u8]) -> String {
    ENGINE.encode(bytes)
}

/// Writes what `text` encodes to the front of `decoded`, which has at least three bytes for each four of `text` and two
/// more, and says how many bytes that are. `None` if it is not base64.
pub(crate) fn decode(text: &[u8], decoded: &mut [u8]) -> Option<usize> {
    ENGINE.decode_slice(text, decoded).ok()
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
            ("Zg=", Some(b"f")),
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

//! What the SPIFFE Workload API says (SPIFFE Workload API, 5; its `workload.proto`), read by hand.

use std::fmt;

use crate::grpc::wire::{Fields, Value};

/// The answer to [`METHOD`](Self::METHOD): the identities that are issued to this process. Each answer of the stream
/// replaces the one before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct X509SvidResponse<'a> {
    /// The identities; the first is the one to use unless one is asked for by name.
    pub svids: Vec<X509Svid<'a>>,
    /// Lists of revoked certificates, each in DER.
    pub revocation_lists: Vec<&'a [u8]>,
    /// The authorities of other trust domains, whose names are SPIFFE ids without a path: certificates in DER, one behind
    /// the other. A name may come twice; the last counts.
    pub federated_bundles: Vec<(&'a str, &'a [u8])>,
}

/// An identity that is issued to this process.
#[derive(Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct X509Svid<'a> {
    /// Whose it is.
    pub spiffe_id: &'a str,
    /// The certificate and those between it and the root, in DER, one behind the other.
    pub certificates: &'a [u8],
    /// The private key: PKCS#8 in DER.
    pub key: &'a [u8],
    /// The authorities of its trust domain: certificates in DER, one behind the other.
    pub bundle: &'a [u8],
    /// What it is meant for, in the operator's words.
    pub hint: &'a str,
}

impl<'a> X509SvidResponse<'a> {
    /// The path of the call. Its request is an empty message.
    pub const METHOD: &'static str = "/SpiffeWorkloadAPI/FetchX509SVID";

    /// The header that each call has, with the value `true`: it cannot be made by a browser or a proxy that was fooled.
    pub const HEADER: &'static str = "workload.spiffe.io";

    /// Reads a serialized message. `None` if it is malformed; no part of it counts then. Unknown fields are passed over,
    /// and of a field that comes twice the last one counts, as Protobuf says.
    pub fn parse(message: &'a [u8]) -> Option<Self> {
        let mut response = Self::default();
        for field in Fields::of(message) {
            match field? {
                (1, Value::Bytes(svid)) => response.svids.push(X509Svid::parse(svid)?),
                (2, Value::Bytes(list)) => response.revocation_lists.push(list),
                (3, Value::Bytes(entry)) => response.federated_bundles.push(bundle(entry)?),
                (1..=3, _) => return None,
                _ => {}
            }
        }
        Some(response)
    }
}

impl<'a> X509Svid<'a> {
    fn parse(message: &'a [u8]) -> Option<Self> {
        let mut svid = Self::default();
        for field in Fields::of(message) {
            match field? {
                (1, Value::Bytes(id)) => svid.spiffe_id = std::str::from_utf8(id).ok()?,
                (2, Value::Bytes(certificates)) => svid.certificates = certificates,
                (3, Value::Bytes(key)) => svid.key = key,
                (4, Value::Bytes(bundle)) => svid.bundle = bundle,
                (5, Value::Bytes(hint)) => svid.hint = std::str::from_utf8(hint).ok()?,
                (1..=5, _) => return None,
                _ => {}
            }
        }
        Some(svid)
    }
}

/// An entry of a map.
fn bundle(message: &[u8]) -> Option<(&str, &[u8])> {
    let (mut name, mut bundle) = ("", &[][..]);
    for field in Fields::of(message) {
        match field? {
            (1, Value::Bytes(key)) => name = std::str::from_utf8(key).ok()?,
            (2, Value::Bytes(value)) => bundle = value,
            (1..=2, _) => return None,
            _ => {}
        }
    }
    Some((name, bundle))
}

/// Without the key.
impl fmt::Debug for X509Svid<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Svid").field("spiffe_id", &self.spiffe_id).field("hint", &self.hint).finish_non_exhaustive()
    }
}

/// The certificates that stand one behind the other in `der`, by the length that each begins with. `None` if something
/// else is among them, or the last is cut off.
pub fn split_certificates(mut der: &[u8]) -> Option<Vec<&[u8]>> {
    const SEQUENCE: u8 = 0x30;
    let mut certificates = Vec::new();
    while let [tag, first, rest @ ..] = der {
        if *tag != SEQUENCE {
            return None;
        }
        // X.690 8.1.3: the length itself below 128, else how many bytes it has. DER writes it as short as can be.
        let (header, length) = match first {
            0..=0x7f => (2, usize::from(*first)),
            0x81..=0x84 => {
                let count = usize::from(first & 0x7f);
                let bytes = rest.get(..count)?;
                let length = bytes.iter().fold(0_u64, |length, byte| length << 8 | u64::from(*byte));
                if bytes[0] == 0 || length < 0x80 {
                    return None;
                }
                (2 + count, usize::try_from(length).ok()?)
            }
            _ => return None,
        };
        let (certificate, rest) = der.split_at_checked(header.checked_add(length)?)?;
        certificates.push(certificate);
        der = rest;
    }
    der.is_empty().then_some(certificates)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::grpc::wire::{put_bytes, put_number};

    /// Fields of bytes, each with its number.
    fn message(fields: &[(u8, &[u8])]) -> Vec<u8> {
        let mut message = Vec::new();
        fields.iter().for_each(|(number, value)| put_bytes(&mut message, *number, value));
        message
    }

    #[test]
    fn a_response_is_read() {
        let cart = message(&[(1, b"spiffe://a/cart"), (2, b"chain"), (3, b"key"), (4, b"bundle"), (5, b"internal")]);
        let api = message(&[(1, b"x"), (9, b"unknown"), (1, b"spiffe://a/api")]);
        let one = message(&[(1, b"spiffe://b"), (2, b"roots")]);
        let bytes = message(&[(1, &cart), (3, &one), (2, b"list"), (1, &api), (7, b"unknown"), (3, b"")]);
        let response = X509SvidResponse::parse(&bytes).unwrap();
        let wanted = X509Svid {
            spiffe_id: "spiffe://a/cart",
            certificates: b"chain",
            key: b"key",
            bundle: b"bundle",
            hint: "internal",
        };
        assert_eq!(response.svids, [wanted, X509Svid { spiffe_id: "spiffe://a/api", ..X509Svid::default() }]);
        assert_eq!(response.revocation_lists, [b"list"]);
        assert_eq!(response.federated_bundles, [("spiffe://b", &b"roots"[..]), ("", b"")]);
        assert_eq!(X509SvidResponse::parse(b""), Some(X509SvidResponse::default()));
        assert!(!format!("{response:?}").contains(&format!("{:?}", b"key")));
    }

    #[test]
    fn what_is_malformed_does_not_count() {
        let mut number = Vec::new();
        put_number(&mut number, 1, 7);
        let cases = [
            message(&[(1, b"\x0a\x05half")]),
            message(&[(1, &message(&[(1, b"\xff")]))]),
            message(&[(1, &message(&[(5, b"\xff")]))]),
            message(&[(3, &message(&[(1, b"\xff")]))]),
            message(&[(1, &number)]),
            message(&[(3, &number)]),
            number.clone(),
            b"\x0a".to_vec(),
        ];
        for message in cases {
            assert_eq!(X509SvidResponse::parse(&message), None, "{message:x?}");
        }
    }

    #[test]
    fn certificates_are_told_apart_by_their_lengths() {
        let long = [&[0x30, 0x82, 0x01, 0x00][..], &[7; 256]].concat();
        let middle = [&[0x30, 0x81, 0x80][..], &[7; 128]].concat();
        let all = [&[0x30, 0x01, 0x05][..], &long, &[0x30, 0x00], &middle].concat();
        assert_eq!(split_certificates(&all).unwrap(), [&[0x30, 0x01, 0x05][..], &long, &[0x30, 0x00], &middle]);
        assert_eq!(split_certificates(b""), Some(vec![]));
        let bad: [&[u8]; 9] = [
            &[0x30],
            &[0x31, 0x00],
            &[0x30, 0x01],
            &[0x30, 0x80, 0x00, 0x00],
            &[0x30, 0x81, 0x01, 0x00],
            &[0x30, 0x82, 0x00, 0x80],
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
            &[0x30, 0x85, 0x01, 0x00, 0x00, 0x00, 0x00],
            &[0x30, 0x00, 0x00],
        ];
        for der in bad {
            assert_eq!(split_certificates(der), None, "{der:x?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_it_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Some(response) = X509SvidResponse::parse(&bytes) {
                let read = response.svids.iter().map(|svid| svid.certificates.len() + svid.key.len() + svid.bundle.len());
                prop_assert!(read.sum::<usize>() <= bytes.len());
            }
            if let Some(certificates) = split_certificates(&bytes) {
                prop_assert_eq!(certificates.concat(), bytes);
            }
        }

        #[test]
        fn what_was_written_is_read(
            svids in prop::collection::vec(("[ -~]{0,8}", prop::collection::vec(any::<u8>(), 0..200), any::<[u8; 3]>()), 0..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = Vec::new();
            for (id, certificates, key) in &svids {
                put_bytes(&mut bytes, 1, &message(&[(3, key), (1, id.as_bytes()), (2, certificates)]));
            }
            let response = X509SvidResponse::parse(&bytes).unwrap();
            let wanted = svids.iter().map(|(id, certificates, key)| X509Svid { spiffe_id: id, certificates, key, ..X509Svid::default() });
            prop_assert_eq!(&response.svids, &wanted.collect::<Vec<_>>());
            // Cut off anywhere but between two fields it is malformed.
            if !bytes.is_empty() {
                let part = &bytes[..cut.index(bytes.len())];
                if let Some(cut) = X509SvidResponse::parse(part) {
                    prop_assert_eq!(&cut.svids[..], &response.svids[..cut.svids.len()]);
                }
            }
        }
    }
}

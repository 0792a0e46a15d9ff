//! The first bytes of a connection, and the frames that follow: they say the same wherever they are cut.

use std::time::Instant;

use mesh_core::inbound::{Detected, FrameMeter, MAX_DETECT, PREFACE, detect, detect_http};

/// The first byte says how long the pieces are into which the others are cut, the second how many frames are allowed.
pub fn run(data: &[u8]) {
    let [cut, most, bytes @ ..] = data else { return };
    detection(bytes);
    frames(bytes, usize::from(*cut).max(1), u32::from(*most));
}

/// A verdict comes in time, stays, and is what the plain rule says.
fn detection(bytes: &[u8]) {
    let plainly = |bytes: &[u8]| match bytes {
        _ if bytes.starts_with(PREFACE) => Some(Detected::Http2),
        [22, 3, ..] => Some(Detected::Tls),
        _ if PREFACE.starts_with(bytes) || bytes == [22] => None,
        _ => Some(Detected::Http1),
    };
    let mut before = None;
    for length in 0..=bytes.len().min(MAX_DETECT + 8) {
        let first = &bytes[..length];
        let detected = detect(first);
        assert_eq!(detected, plainly(first), "{}", first.escape_ascii());
        assert!(before.is_none() || detected == before, "{}", first.escape_ascii());
        assert!(length < MAX_DETECT || detected.is_some());
        let expected = if detected == Some(Detected::Tls) || first == [22] { Some(Detected::Http1) } else { detected };
        assert_eq!(detect_http(first), expected, "{}", first.escape_ascii());
        before = detected;
    }
}

/// What there is to say of `bytes` as frames, read one after the other with all of them there.
#[derive(Debug, Default, PartialEq)]
struct Plain {
    within: bool,
    /// Whether there ever were more frames without use than allowed.
    flood: bool,
}

fn plainly(bytes: &[u8], most: u64) -> Plain {
    let (mut rest, mut in_headers, mut flood) = (bytes, false, false);
    let (mut idle, mut useful) = (0_u64, 0_u64);
    let (mut streams, mut resets, mut last) = (0_u64, 0_u64, 0);
    while let [a, b, c, kind, flags, d, e, f, g, payload @ ..] = rest {
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        let (ends_stream, ends_headers) = (flags & 1 != 0, flags & 4 != 0);
        match kind {
            0 if length > 0 || ends_stream => useful += 1,
            1 => {
                useful += 1;
                let stream = u32::from_be_bytes([*d, *e, *f, *g]) & 0x7FFF_FFFF;
                streams += u64::from(stream > last);
                last = last.max(stream);
            }
            3 => {
                resets += 1;
                useful = useful.saturating_sub(1);
                idle += 1;
            }
            _ => idle += 1,
        }
        if matches!(kind, 1 | 9) {
            in_headers = !ends_headers;
        }
        flood |= idle > most + 2 * useful || resets > most + streams / 2;
        let Some(next) = payload.get(length..) else { return Plain { within: in_headers || *kind != 0, flood } };
        rest = next;
    }
    Plain { within: in_headers || !rest.is_empty(), flood }
}

fn frames(bytes: &[u8], cut: usize, most: u32) {
    let now = Instant::now();
    let expected = plainly(bytes, u64::from(most) * 10);
    let read = |cut: usize| {
        let mut meter = FrameMeter::new(most);
        // Someone who does not mind goes on after a flood.
        let floods = bytes.chunks(cut).filter(|piece| meter.read(piece, || now).is_err()).count();
        (meter.is_within(), meter.ended(), floods > 0)
    };
    let (one_by_one, in_pieces, whole) = (read(1), read(cut), read(bytes.len().max(1)));
    assert_eq!((one_by_one.0, one_by_one.1), (whole.0, whole.1));
    assert_eq!((in_pieces.0, in_pieces.1), (whole.0, whole.1));
    assert_eq!(whole.0, expected.within);
    // Whoever sees every byte sees every flood; whoever sees more at once may see that it was none in the end.
    assert_eq!(one_by_one.2, expected.flood);
    assert!(one_by_one.2 || !in_pieces.2);
    assert!(one_by_one.2 || !whole.2);
}

//! Floods of HTTP/2 frames that carry nothing of a request (CL-13, RL-05).
//!
//! HTTP/2 libraries bound what frames make them remember, not how often they are made to answer: a peer that sends
//! nothing but pings, settings or priorities keeps a core busy with nothing to show. A [`FrameMeter`] reads along,
//! without a copy, and counts them.

use std::time::{Duration, Instant};

/// The length of a frame's header (RFC 9113 4.1).
const HEADER: usize = 9;
/// Where in it the type is.
const KIND: usize = 3;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;
/// Over which time frames are counted.
const WINDOW: Duration = Duration::from_secs(10);

/// Reads along with what an HTTP/2 client sends, behind its preface.
#[derive(Debug)]
pub struct FrameMeter {
    /// How many frames a window may hold that carry nothing of a request, beyond twice those that do.
    most: u64,
    window: Option<Instant>,
    idle: u64,
    useful: u64,
    /// Streams that began, and resets.
    streams: u64,
    resets: u64,
    /// The last stream that began.
    last: u32,
    /// The header that is being read.
    header: [u8; HEADER],
    have: usize,
    /// What is left of the frame's payload.
    left: usize,
    /// Whether a block of headers has begun and not ended.
    in_headers: bool,
    /// How many times something has ended of which `is_within` tells.
    ended: u64,
}

/// More frames that carry nothing of a request than a peer may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer sent {frames} HTTP/2 frames without anything of a request within 10 s; {allowed} are allowed")]
#[non_exhaustive]
pub struct Flood {
    /// How many.
    pub frames: u64,
    /// How many would have been let through.
    pub allowed: u64,
}

impl FrameMeter {
    /// Lets through `most` such frames a second, counted over 10 s. Frames that belong to requests allow two more each:
    /// acknowledgements and window updates grow with what is asked for and answered. A reset takes back what the head of
    /// its stream has given: whoever resets all that it asks for, asks for nothing (CVE-2023-44487). HTTP/2 libraries
    /// see that where requests wait to be accepted, and not where they are accepted at once.
    pub fn new(most: u32) -> Self {
        Self {
            most: u64::from(most) * WINDOW.as_secs(),
            window: None,
            idle: 0,
            useful: 0,
            streams: 0,
            resets: 0,
            last: 0,
            header: [0; HEADER],
            have: 0,
            left: 0,
            in_headers: false,
            ended: 0,
        }
    }

    /// Reads the next `bytes`, which came at `now`.
    ///
    /// # Errors
    /// If there are too many frames without anything of a request: the connection is to be closed.
    pub fn read(&mut self, mut bytes: &[u8], now: impl FnOnce() -> Instant) -> Result<(), Flood> {
        let before = self.idle;
        while !bytes.is_empty() {
            if self.left > 0 {
                let taken = self.left.min(bytes.len());
                self.left -= taken;
                bytes = &bytes[taken..];
                if self.header[KIND] != DATA {
                    self.end();
                }
                continue;
            }
            let taken = (HEADER - self.have).min(bytes.len());
            self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEADER {
                self.frame();
            }
        }
        if self.idle == before {
            return Ok(());
        }
        self.judge(now())
    }

    /// Whether something other than a request's data has begun and not ended: the header of a frame, its payload, or a
    /// block of headers.
    pub fn is_within(&self) -> bool {
        self.have > 0 || self.in_headers || (self.left > 0 && self.header[KIND] != DATA)
    }

    /// How many times something other than a request's data has ended. While this stays the same,
    /// [`is_within`](Self::is_within) tells of one and the same thing.
    pub fn ended(&self) -> u64 {
        self.ended
    }

    /// Something may be over.
    fn end(&mut self) {
        if !self.is_within() {
            self.ended += 1;
        }
    }

    fn frame(&mut self) {
        let [a, b, c, kind, flags, ..] = self.header;
        self.have = 0;
        self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        match kind {
            // A block of headers counts once, however many frames it is cut into.
            HEADERS => {
                self.in_headers = flags & END_HEADERS == 0;
                self.useful += 1;
                let [.., d, e, f, g] = self.header;
                let stream = u32::from_be_bytes([d & 0x7F, e, f, g]);
                // Trailers begin nothing.
                if stream > self.last {
                    self.last = stream;
                    self.streams += 1;
                }
            }
            DATA if self.left > 0 || flags & END_STREAM != 0 => self.useful += 1,
            CONTINUATION => {
                self.in_headers = flags & END_HEADERS == 0;
                self.idle += 1;
            }
            RST_STREAM => {
                self.useful = self.useful.saturating_sub(1);
                self.resets += 1;
                self.idle += 1;
            }
            _ => self.idle += 1,
        }
        self.end();
    }

    fn judge(&mut self, now: Instant) -> Result<(), Flood> {
        let began = *self.window.get_or_insert(now);
        let allowed = self.most + 2 * self.useful;
        if self.idle > allowed {
            return Err(Flood { frames: self.idle, allowed });
        }
        // Whatever else its frames have earned: whoever resets most of what it begins wants nothing but work.
        let allowed = self.most + self.streams / 2;
        if self.resets > allowed {
            return Err(Flood { frames: self.resets, allowed });
        }
        if now.saturating_duration_since(began) >= WINDOW {
            self.window = Some(now);
            self.idle = 0;
            self.useful = 0;
            self.streams = 0;
            self.resets = 0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let mut frame = vec![0, (payload >> 8) as u8, payload as u8, kind, flags, 0, 0, 0, 1];
        frame.resize(HEADER + payload, 0xAA);
        frame
    }

    const PRIORITY: u8 = 2;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;

    #[test]
    fn cl_13_rl_03_rl_05_floods_end_and_requests_do_not() {
        for (name, flood, expected) in [
            ("pings", frame(PING, 0, 8), true),
            ("settings", frame(SETTINGS, 0, 6), true),
            ("priorities", frame(PRIORITY, 0, 5), true),
            ("window updates", frame(WINDOW_UPDATE, 0, 4), true),
            ("empty data", frame(DATA, 0, 0), true),
            ("continuations", frame(CONTINUATION, 0, 1), true),
            ("data", frame(DATA, 0, 1), false),
            ("resets", frame(RST_STREAM, 0, 4), true),
            ("rapid reset", [frame(HEADERS, END_HEADERS | END_STREAM, 10), frame(RST_STREAM, 0, 4)].concat(), true),
            ("requests", frame(HEADERS, END_HEADERS | END_STREAM, 10), false),
            ("uploads", [frame(DATA, 0, 100), frame(WINDOW_UPDATE, 0, 4), frame(PING, 0, 8)].concat(), false),
        ] {
            let mut meter = FrameMeter::new(100);
            let now = Instant::now();
            let result = (0..2000).try_for_each(|_| meter.read(&flood, || now));
            assert_eq!(result.is_err(), expected, "{name}");
            if let Err(error) = result {
                assert_eq!(error, Flood { frames: 1001, allowed: 1000 }, "{name}");
            }
        }
    }

    /// CL-08
    #[test]
    fn cl_08_of_each_thing_the_end_is_told_once() {
        for (bytes, ended) in [
            (frame(HEADERS, END_HEADERS, 10), 1),
            (frame(HEADERS, END_HEADERS, 0), 1),
            (frame(PING, 0, 8).repeat(3), 3),
            (frame(SETTINGS, 0, 0), 1),
            ([frame(HEADERS, 0, 10), frame(CONTINUATION, 0, 0), frame(CONTINUATION, END_HEADERS, 5)].concat(), 1),
            ([frame(HEADERS, 0, 10), frame(CONTINUATION, 0, 5)].concat(), 0),
            // Of data the header alone is told.
            (frame(DATA, 0, 0), 1),
            (frame(DATA, 0, 10), 1),
            (frame(DATA, 0, 10)[..HEADER].to_vec(), 1),
            (frame(PING, 0, 8)[..16].to_vec(), 0),
        ] {
            let mut meter = FrameMeter::new(100);
            meter.read(&bytes, Instant::now).unwrap();
            assert_eq!(meter.ended(), ended, "{bytes:?}");
            assert_eq!(meter.is_within(), ended == 0, "{bytes:?}");
        }
    }

    /// RL-03: what a request is made of earns nothing for one that is reset.
    #[test]
    fn rl_03_resets_are_counted_by_streams() {
        let begin = |stream: u32, flags: u8| {
            let mut head = frame(HEADERS, flags, 10);
            head[5..9].copy_from_slice(&stream.to_be_bytes());
            head
        };
        let reset = frame(RST_STREAM, 0, 4);
        type Cycle = fn(&dyn Fn(u32, u8) -> Vec<u8>, u32) -> Vec<u8>;
        let end: Cycle = |begin, stream| [begin(stream, END_HEADERS), frame(DATA, END_STREAM, 0)].concat();
        let trailers: Cycle =
            |begin, stream| [begin(stream, END_HEADERS), begin(stream, END_HEADERS | END_STREAM)].concat();
        let data: Cycle = |begin, stream| [begin(stream, END_HEADERS), frame(DATA, 0, 1).repeat(3)].concat();
        for (name, cycle) in [("an empty end", end), ("trailers", trailers), ("data", data)] {
            for (every, expected) in [(1, true), (2, false)] {
                let mut meter = FrameMeter::new(100);
                let now = Instant::now();
                let result = (0..4000_u32).try_for_each(|turn| {
                    let mut bytes = cycle(&begin, 2 * turn + 1);
                    if turn % every == 0 {
                        bytes.extend_from_slice(&reset);
                    }
                    meter.read(&bytes, || now)
                });
                assert_eq!(result.is_err(), expected, "{name}, every {every}");
            }
        }
    }

    #[test]
    fn what_is_spread_over_time_is_no_flood() {
        let mut meter = FrameMeter::new(10);
        let start = Instant::now();
        // Nine a second for five minutes.
        for tick in 0..2700_u64 {
            meter.read(&frame(PING, 0, 8), || start + Duration::from_millis(tick * 1000 / 9)).unwrap();
        }
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_frames_are_cut(
            frames in proptest::collection::vec((0..12_u8, any::<u8>(), 0..40_usize), 0..60),
            cuts in proptest::collection::vec(1..30_usize, 1..20),
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(|(kind, flags, length)| frame(*kind, *flags, *length)).collect();
            let now = Instant::now();
            let mut whole = FrameMeter::new(1);
            let expected = whole.read(&bytes, || now);
            let mut parts = FrameMeter::new(1);
            let mut rest = &bytes[..];
            let mut result = Ok(());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (part, after) = rest.split_at((*cut).min(rest.len()));
                result = result.and(parts.read(part, || now));
                rest = after;
            }
            // In parts it may be noticed sooner.
            prop_assert!(expected.is_ok() || result.is_err());
            let read = |meter: &FrameMeter| (meter.idle, meter.useful, meter.is_within(), meter.ended());
            prop_assert_eq!(read(&parts), read(&whole));
        }

        #[test]
        fn any_bytes_can_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            let _ = FrameMeter::new(0).read(&bytes, Instant::now);
        }
    }
}

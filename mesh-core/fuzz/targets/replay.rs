//! The replay body: any frames, any cap, attempts that break off anywhere.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use mesh_core::resilience::replay::Replay;

/// The input: the cap, flags, the number of frames, that many frames, and then the attempts.
///
/// - Flags: bit 0 says that the body announces its size; bits 1 and 2 how it ends: 1 with trailers, 2 with an error,
///   otherwise with its last frame.
/// - A frame: 0 is a pause, everything else data of one byte less.
/// - An attempt: the lower six bits say how many polls it makes, the upper two what follows: 0 and 1 a rewind, 2 a
///   commit, 3 nothing.
pub fn run(data: &[u8]) {
    let [cap, flags, count, rest @ ..] = data else { return };
    let (frames, attempts) = rest.split_at(rest.len().min(usize::from(*count)));
    let total = frames.iter().map(|frame| usize::from(frame.saturating_sub(1))).sum();
    let source = Source { frames, served: 0, total, exact: flags & 1 == 1, end: End::of(flags >> 1), over: false };
    let cap = usize::from(*cap) * 8;
    let mut check = Check {
        keeps: !source.exact || total <= cap,
        cap,
        total,
        exact: source.exact,
        body: Replay::new(source, cap),
        position: 0,
        furthest: 0,
        touched_end: false,
        at_end: false,
        over: false,
    };
    for attempt in attempts {
        for _ in 0..attempt & 0x3f {
            check.poll();
        }
        match attempt >> 6 {
            0 | 1 => check.rewind(),
            2 => check.commit(),
            _ => {}
        }
    }
    while !check.over {
        check.poll();
    }
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    Data,
    Trailers,
    Error,
}

impl End {
    fn of(bits: u8) -> Self {
        match bits & 3 {
            1 => Self::Trailers,
            2 => Self::Error,
            _ => Self::Data,
        }
    }
}

struct Source<'a> {
    frames: &'a [u8],
    served: usize,
    total: usize,
    exact: bool,
    end: End,
    over: bool,
}

impl Body for Source<'_> {
    type Data = Bytes;
    type Error = ();

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ()>>> {
        let this = self.get_mut();
        assert!(!this.over, "polled after its end");
        if let Some((frame, rest)) = this.frames.split_first() {
            this.frames = rest;
            let Some(len) = frame.checked_sub(1) else { return Poll::Pending };
            let start = this.served;
            this.served += usize::from(len);
            return Poll::Ready(Some(Ok(Frame::data(content(start, this.served)))));
        }
        this.over = true;
        Poll::Ready(match this.end {
            End::Data => None,
            End::Trailers => Some(Ok(Frame::trailers(trailers()))),
            End::Error => Some(Err(())),
        })
    }

    fn size_hint(&self) -> SizeHint {
        if self.exact { SizeHint::with_exact((self.total - self.served) as u64) } else { SizeHint::default() }
    }
}

fn content(start: usize, end: usize) -> Bytes {
    (start..end).map(|index| (index % 251) as u8).collect()
}

fn trailers() -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static("x-end"), HeaderValue::from_static("true"))])
}

/// The body and what must be true of it.
struct Check<'a> {
    body: Replay<Source<'a>>,
    cap: usize,
    total: usize,
    exact: bool,
    keeps: bool,
    /// Bytes read by this attempt, and by the attempt that came furthest.
    position: usize,
    furthest: usize,
    /// Some attempt read trailers or an error, this one did, this one is over.
    touched_end: bool,
    at_end: bool,
    over: bool,
}

impl Check<'_> {
    fn poll(&mut self) {
        let rest = (self.total - self.position) as u64;
        let hint = self.body.size_hint();
        assert!(hint.lower() <= rest && hint.upper().is_none_or(|upper| upper >= rest));
        assert!(!self.exact || hint.exact() == Some(rest));
        assert!(hint.lower() >= (self.furthest - self.position) as u64);

        let ends = self.body.is_end_stream();
        let polled = Pin::new(&mut self.body).poll_frame(&mut Context::from_waker(Waker::noop()));
        assert!(!ends || matches!(polled, Poll::Ready(None)));
        match polled {
            Poll::Pending => assert_eq!(self.position, self.furthest),
            Poll::Ready(None) => {
                assert_eq!(self.position, self.total);
                assert_eq!(self.at_end, self.touched_end, "the end was not replayed");
                self.over = true;
            }
            Poll::Ready(Some(Err(()))) => {
                assert!(!self.touched_end && self.position == self.total);
                assert!(!self.body.is_replayable());
                (self.touched_end, self.at_end) = (true, true);
            }
            Poll::Ready(Some(Ok(frame))) => {
                assert!(!self.over && !self.at_end);
                match frame.into_data() {
                    Ok(data) => {
                        assert_eq!(data, content(self.position, self.position + data.len()));
                        self.position += data.len();
                        self.furthest = self.furthest.max(self.position);
                    }
                    Err(frame) => {
                        assert_eq!(self.position, self.total);
                        assert_eq!(frame.into_trailers().ok(), Some(trailers()));
                        (self.touched_end, self.at_end) = (true, true);
                    }
                }
            }
        }
        let kept = self.keeps && self.furthest <= self.cap || self.furthest == 0 && !self.touched_end;
        assert!(kept || !self.body.is_replayable());
    }

    fn rewind(&mut self) {
        let replayable = self.body.is_replayable();
        assert_eq!(self.body.rewind(), replayable);
        if replayable {
            (self.position, self.at_end, self.over) = (0, false, false);
        }
    }

    fn commit(&mut self) {
        self.body.commit();
        assert!(!self.body.is_replayable());
    }
}

use std::collections::VecDeque;
use std::task::Waker;

use http::{HeaderName, HeaderValue};
use http_body_util::{Empty, Full};
use proptest::prelude::*;

use super::*;

/// What a body does when it is polled.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    Pending,
    Data(usize),
    Trailers,
    Error,
}

/// A body that follows its steps and, if it is `exact`, announces its size and its end.
#[derive(Debug)]
struct Scripted {
    steps: VecDeque<Step>,
    position: usize,
    exact: bool,
}

impl Scripted {
    fn new(steps: &[Step], exact: bool) -> Self {
        Self { steps: steps.iter().cloned().collect(), position: 0, exact }
    }

    fn rest(&self) -> usize {
        data_len(self.steps.iter())
    }
}

impl Body for Scripted {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(match self.steps.pop_front() {
            None => None,
            Some(Step::Pending) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(Step::Data(len)) => {
                let start = self.position;
                self.position += len;
                Some(Ok(Frame::data(content(start, self.position))))
            }
            Some(Step::Trailers) => Some(Ok(Frame::trailers(trailers()))),
            Some(Step::Error) => Some(Err("broken")),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.exact && self.steps.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if self.exact { SizeHint::with_exact(self.rest() as u64) } else { SizeHint::default() }
    }
}

fn data_len<'a>(steps: impl Iterator<Item = &'a Step>) -> usize {
    steps.map(|step| if let Step::Data(len) = step { *len } else { 0 }).sum()
}

/// Bytes that tell their place, so that a gap or a repetition shows.
fn content(start: usize, end: usize) -> Bytes {
    (start..end).map(|index| (index % 251) as u8).collect()
}

fn trailers() -> HeaderMap {
    let mut map = HeaderMap::new();
    map.append(HeaderName::from_static("x-checksum"), HeaderValue::from_static("1"));
    map.append(HeaderName::from_static("x-checksum"), HeaderValue::from_bytes(b"\xff").unwrap());
    map
}

fn poll<B: Body<Data = Bytes> + Unpin>(body: &mut Replay<B>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
    Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()))
}

/// Reads to the end: the bytes, the trailers, whether it failed.
fn read<B: Body<Data = Bytes> + Unpin>(body: &mut Replay<B>) -> (Vec<u8>, Option<HeaderMap>, bool) {
    let (mut bytes, mut trailers) = (Vec::new(), None);
    loop {
        match poll(body) {
            Poll::Pending => {}
            Poll::Ready(None) => return (bytes, trailers, false),
            Poll::Ready(Some(Err(_))) => return (bytes, trailers, true),
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => bytes.extend_from_slice(&data),
                Err(frame) => trailers = Some(frame.into_trailers().unwrap()),
            },
        }
    }
}

/// RE-06: with the cap of 64 KiB a body of that size is replayed, one byte more commits it.
#[test]
fn re_06_the_cap_is_exact() {
    const CAP: usize = 64 * 1024;
    for (steps, replayable) in [
        (vec![Step::Data(CAP)], true),
        (vec![Step::Data(CAP - 1), Step::Data(1)], true),
        (vec![Step::Data(CAP), Step::Data(0), Step::Trailers], true),
        (vec![Step::Data(CAP + 1)], false),
        (vec![Step::Data(CAP), Step::Data(1)], false),
        (vec![Step::Data(1); CAP], true),
        (vec![Step::Data(1); CAP + 1], false),
    ] {
        for exact in [true, false] {
            let total = data_len(steps.iter());
            let mut body = Replay::new(Scripted::new(&steps, exact), CAP);
            assert_eq!(read(&mut body).0, content(0, total), "{total} bytes");
            assert_eq!((body.is_replayable(), body.rewind()), (replayable, replayable), "{total} bytes");
            let again = if replayable { content(0, total) } else { Bytes::new() };
            assert_eq!(read(&mut body).0, again, "{total} bytes");
        }
    }
}

/// RE-06: the cap counts the body, not what is read of it in several replays.
#[test]
fn re_06_the_cap_holds_across_replays() {
    let mut body = Replay::new(Scripted::new(&[Step::Data(6), Step::Data(4)], false), 10);
    for _ in 0..5 {
        assert_eq!(read(&mut body).0, content(0, 10));
        assert!(body.rewind());
    }
    let mut body = Replay::new(Scripted::new(&[Step::Data(6), Step::Data(5)], false), 10);
    assert!(matches!(poll(&mut body), Poll::Ready(Some(Ok(_)))));
    assert!(body.rewind());
    assert_eq!(read(&mut body).0, content(0, 11));
    assert!(!body.rewind());
    assert!(matches!(body.kept, Frames::None), "what can no longer be replayed is freed");
}

/// RE-06: trailers come again after the data, however often.
#[test]
fn re_06_trailers_are_replayed() {
    for steps in [vec![Step::Data(3), Step::Pending, Step::Trailers], vec![Step::Trailers]] {
        let total = data_len(steps.iter());
        let mut body = Replay::new(Scripted::new(&steps, true), 10);
        for _ in 0..3 {
            assert!(!body.is_end_stream());
            assert_eq!(read(&mut body), (content(0, total).to_vec(), Some(trailers()), false));
            assert!(body.is_end_stream());
            assert!(body.rewind());
        }
    }
}

#[test]
fn a_body_that_announces_too_much_can_begin_late_but_not_again() {
    let mut body = Replay::new(Full::new(content(0, 11)), 10);
    assert!(body.is_replayable());
    assert!(body.rewind());
    assert_eq!(body.size_hint().exact(), Some(11));
    assert_eq!(read(&mut body).0, content(0, 11));
    assert!(!body.is_replayable());
    assert!(matches!(body.kept, Frames::None));
}

/// A body that announced too much and then had only trailers: they are not kept either, so it cannot be sent again.
#[test]
fn nothing_is_kept_of_a_body_that_announces_too_much() {
    struct Liar(Scripted);
    impl Body for Liar {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            Pin::new(&mut self.0).poll_frame(cx)
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(11)
        }
    }
    let mut body = Replay::new(Liar(Scripted::new(&[Step::Data(0), Step::Trailers], false)), 10);
    assert!(matches!(poll(&mut body), Poll::Ready(Some(Ok(_)))));
    assert!(body.is_replayable(), "nothing is lost yet");
    assert_eq!(read(&mut body), (Vec::new(), Some(trailers()), false));
    assert!(!body.is_replayable() && body.trailers.is_none());
}

#[test]
fn small_bodies_need_no_allocation() {
    let mut empty = Replay::new(Empty::<Bytes>::new(), 10);
    assert!(empty.is_end_stream());
    assert_eq!(empty.size_hint().exact(), Some(0));
    assert_eq!(read(&mut empty), (Vec::new(), None, false));
    assert!(empty.rewind() && empty.is_end_stream());
    assert!(matches!(empty.kept, Frames::None) && empty.trailers.is_none());

    let data = content(0, 10);
    let mut one = Replay::new(Full::new(data.clone()), 10);
    for _ in 0..2 {
        let Poll::Ready(Some(Ok(frame))) = poll(&mut one) else { panic!("no frame") };
        assert_eq!(frame.data_ref().unwrap().as_ptr(), data.as_ptr(), "shared, not copied");
        assert!(one.is_end_stream());
        assert!(one.rewind());
    }
    assert!(matches!(one.kept, Frames::One(_)));
}

#[test]
fn an_error_is_delivered_once_and_ends_the_replaying() {
    let mut body = Replay::new(Scripted::new(&[Step::Data(3), Step::Error, Step::Data(3)], false), 10);
    assert_eq!(read(&mut body), (content(0, 3).to_vec(), None, true));
    assert!(!body.is_replayable());
    assert!(!body.rewind());
    assert!(body.is_end_stream());
    assert_eq!(read(&mut body), (Vec::new(), None, false));
}

#[test]
fn a_commit_keeps_what_is_still_to_be_served_and_nothing_else() {
    let steps = [Step::Data(2), Step::Data(3), Step::Trailers];
    for served in 0..=3 {
        let mut body = Replay::new(Scripted::new(&steps, false), 10);
        assert_eq!(read(&mut body).0, content(0, 5));
        assert!(body.rewind());
        for _ in 0..served {
            assert!(matches!(poll(&mut body), Poll::Ready(Some(Ok(_)))));
        }
        body.commit();
        assert!(!body.rewind());
        assert_eq!(body.kept.len(), 2usize.saturating_sub(served));
        assert_eq!(body.trailers.is_some(), served < 3);
        let position = [0, 2, 5, 5][served];
        assert_eq!(body.size_hint().exact(), Some(5 - position as u64));
        let rest = (content(position, 5).to_vec(), (served < 3).then(trailers), false);
        assert_eq!(read(&mut body), rest, "{served} frames served");
        assert!(matches!(body.kept, Frames::None) && body.trailers.is_none());
    }
    let mut fresh = Replay::new(Full::new(content(0, 5)), 10);
    fresh.commit();
    assert!(!fresh.rewind());
    assert_eq!(read(&mut fresh).0, content(0, 5));
    assert!(matches!(fresh.kept, Frames::None));
}

#[test]
fn a_sum_beyond_64_bits_is_no_upper_bound() {
    struct Endless(bool);
    impl Body for Endless {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            self.get_mut().0 = true;
            Poll::Ready(Some(Ok(Frame::data(content(0, 1)))))
        }

        fn size_hint(&self) -> SizeHint {
            let mut hint = SizeHint::new();
            hint.set_upper(u64::MAX);
            hint.set_lower(if self.0 { u64::MAX } else { 0 });
            hint
        }
    }
    let mut body = Replay::new(Endless(false), 10);
    assert!(poll(&mut body).is_ready() && body.rewind());
    assert_eq!((body.size_hint().lower(), body.size_hint().upper()), (u64::MAX, None));
}

/// What is done to a body after `polls` polls.
#[derive(Debug, Clone)]
enum Act {
    Rewind,
    Commit,
    ReadOn,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Pending),
        1 => Just(Step::Data(0)),
        6 => (1usize..40).prop_map(Step::Data),
    ]
}

fn last_step() -> impl Strategy<Value = Option<Step>> {
    prop_oneof![4 => Just(None), 3 => Just(Some(Step::Trailers)), 1 => Just(Some(Step::Error))]
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![6 => Just(Act::Rewind), 1 => Just(Act::Commit), 2 => Just(Act::ReadOn)]
}

proptest! {
    /// RE-06: whatever the frames, the cap and the places where attempts break off, every attempt reads the same bytes
    /// and trailers, and the size hint counts them down exactly.
    #[test]
    fn re_06_every_attempt_reads_the_same(
        steps in prop::collection::vec(step(), 0..12),
        last in last_step(),
        exact in any::<bool>(),
        cap in 0usize..300,
        acts in prop::collection::vec((0usize..16, act()), 0..8),
    ) {
        let steps: Vec<Step> = steps.into_iter().chain(last.clone()).collect();
        let total = data_len(steps.iter());
        let mut body = Replay::new(Scripted::new(&steps, exact), cap);

        let kept_at_all = !exact || total <= cap;
        let (mut position, mut high_water) = (0, 0);
        let (mut trailers_read, mut failed, mut committed, mut ended) = (false, false, false, false);
        let (mut trailers_seen, mut done) = (false, false);

        for (polls, act) in acts.into_iter().chain([(100, Act::ReadOn)]) {
            for _ in 0..polls {
                let hint = body.size_hint();
                let rest = (total - position) as u64;
                if exact || ended {
                    prop_assert_eq!(hint.exact(), Some(if failed { 0 } else { rest }));
                } else {
                    prop_assert!(hint.lower() <= rest && hint.upper().is_none());
                    prop_assert!(hint.lower() >= (high_water - position) as u64);
                }
                let at_end = body.is_end_stream();
                let complete = position == total && (trailers_read || last != Some(Step::Trailers));
                prop_assert!(!at_end || complete || failed);

                let polled = poll(&mut body);
                prop_assert!(!at_end || matches!(polled, Poll::Ready(None)));
                match polled {
                    Poll::Pending => prop_assert_eq!(position, high_water),
                    Poll::Ready(None) => {
                        prop_assert!(complete || failed);
                        ended = true;
                        done = true;
                    }
                    Poll::Ready(Some(Err(error))) => {
                        prop_assert!(!failed, "delivered twice");
                        prop_assert_eq!((error, position), ("broken", total));
                        failed = true;
                        ended = true;
                    }
                    Poll::Ready(Some(Ok(frame))) => {
                        prop_assert!(!done && !trailers_read);
                        match frame.into_data() {
                            Ok(data) => {
                                prop_assert_eq!(&data, &content(position, position + data.len()));
                                position += data.len();
                                high_water = high_water.max(position);
                            }
                            Err(frame) => {
                                prop_assert_eq!(position, total);
                                prop_assert_eq!(frame.into_trailers().unwrap(), trailers());
                                (trailers_read, trailers_seen, ended) = (true, true, true);
                            }
                        }
                    }
                }
                let kept = kept_at_all && high_water <= cap || high_water == 0 && !trailers_seen;
                prop_assert_eq!(body.is_replayable(), kept && !failed && !committed);
            }
            match act {
                Act::Rewind => {
                    let before = body.is_replayable();
                    prop_assert_eq!(body.rewind(), before);
                    if before {
                        (position, trailers_read, done) = (0, false, false);
                    }
                }
                Act::Commit => {
                    body.commit();
                    committed = true;
                    prop_assert!(!body.is_replayable());
                }
                Act::ReadOn => {}
            }
        }
        prop_assert!(done && (failed || position == total));
    }
}

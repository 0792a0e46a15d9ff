use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;

/// A body whose frames a test makes one by one.
#[derive(Default, Clone)]
struct Source(Arc<Mutex<Script>>);

#[derive(Default)]
struct Script {
    steps: VecDeque<Step>,
    ended: bool,
    waker: Option<Waker>,
}

#[derive(Debug, Clone)]
enum Step {
    Data(Bytes),
    Trailers,
    Error,
}

impl Source {
    fn of<const N: usize>(data: [&'static str; N]) -> Self {
        let source = Self::default();
        data.iter().for_each(|data| source.give(Step::Data(Bytes::from_static(data.as_bytes()))));
        source
    }

    fn give(&self, step: Step) {
        let mut script = self.0.lock().unwrap();
        script.steps.push_back(step);
        let waker = script.waker.take();
        drop(script);
        waker.into_iter().for_each(Waker::wake);
    }

    fn end(self) -> Self {
        let mut script = self.0.lock().unwrap();
        script.ended = true;
        let waker = script.waker.take();
        drop(script);
        waker.into_iter().for_each(Waker::wake);
        self
    }
}

impl Body for Source {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let mut script = self.0.lock().unwrap();
        match script.steps.pop_front() {
            Some(Step::Data(data)) => Poll::Ready(Some(Ok(Frame::data(data)))),
            Some(Step::Trailers) => Poll::Ready(Some(Ok(Frame::trailers(trailers())))),
            Some(Step::Error) => Poll::Ready(Some(Err("broken"))),
            None if script.ended => Poll::Ready(None),
            None => {
                script.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let script = self.0.lock().unwrap();
        script.ended && script.steps.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let script = self.0.lock().unwrap();
        let rest =
            script.steps.iter().map(|step| if let Step::Data(data) = step { data.len() as u64 } else { 0 }).sum();
        let mut hint = SizeHint::new();
        hint.set_lower(rest);
        if script.ended {
            hint.set_upper(rest);
        }
        hint
    }
}

fn trailers() -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static("x-sum"), HeaderValue::from_static("1"))])
}

/// Counts how often it is woken.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Count {
    fn woken(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// What a poll gave, for comparison.
#[derive(Debug, PartialEq)]
enum Got {
    Pending,
    Data(Bytes),
    Trailers,
    End,
    Body,
    Failed,
    GivenUp,
}

fn poll_as(reader: &mut Reader<Source>, count: &Arc<Count>) -> Got {
    let waker = Waker::from(Arc::clone(count));
    match Pin::new(reader).poll_frame(&mut Context::from_waker(&waker)) {
        Poll::Pending => Got::Pending,
        Poll::Ready(None) => Got::End,
        Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
            Ok(data) => Got::Data(data),
            Err(_) => Got::Trailers,
        },
        Poll::Ready(Some(Err(TeeError::Body(_)))) => Got::Body,
        Poll::Ready(Some(Err(TeeError::Failed))) => Got::Failed,
        Poll::Ready(Some(Err(TeeError::GivenUp))) => Got::GivenUp,
    }
}

fn poll(reader: &mut Reader<Source>) -> Got {
    poll_as(reader, &Arc::default())
}

fn data(text: &'static str) -> Got {
    Got::Data(Bytes::from_static(text.as_bytes()))
}

#[test]
fn each_reader_reads_everything_at_its_own_pace() {
    let source = Source::of(["one", "", "two"]);
    source.give(Step::Trailers);
    let tee = Tee::new(source.end(), 100);
    let (mut first, mut second) = (tee.reader(), tee.reader());
    assert_eq!(first.size_hint().exact(), Some(6));
    assert_eq!([poll(&mut first), poll(&mut first), poll(&mut first)], [data("one"), data(""), data("two")]);
    assert_eq!((first.size_hint().exact(), second.size_hint().exact()), (Some(0), Some(6)));
    assert!(!first.is_end_stream() && !second.is_end_stream());
    assert_eq!([poll(&mut second), poll(&mut second), poll(&mut second)], [data("one"), data("two"), Got::Trailers]);
    assert!(second.is_end_stream() && !first.is_end_stream(), "the trailers are still to come");
    assert_eq!([poll(&mut first), poll(&mut first)], [Got::Trailers, Got::End]);
    assert!(first.is_end_stream());
    let mut late = tee.reader();
    assert_eq!([poll(&mut late), poll(&mut late), poll(&mut late)], [data("one"), data("two"), Got::Trailers]);
    assert!(tee.is_whole());
}

/// The body was last polled by a reader that is gone.
#[test]
fn whoever_waits_is_woken_whoever_asked_last() {
    let source = Source::default();
    let tee = Tee::new(source.clone(), 100);
    let (mut first, mut second, mut third) = (tee.reader(), tee.reader(), tee.reader());
    let counts: [Arc<Count>; 3] = Default::default();
    assert_eq!(poll_as(&mut second, &counts[1]), Got::Pending);
    assert_eq!(poll_as(&mut third, &counts[2]), Got::Pending);
    assert_eq!(poll_as(&mut first, &counts[0]), Got::Pending);
    drop(first);
    source.give(Step::Data("x".into()));
    assert_eq!(counts.each_ref().map(|count| count.woken()), [0, 1, 1]);

    // One that finds more tells those that wait.
    assert_eq!(poll_as(&mut second, &counts[1]), data("x"));
    assert_eq!(poll_as(&mut second, &counts[1]), Got::Pending);
    source.0.lock().unwrap().steps.push_back(Step::Data("y".into()));
    assert_eq!([poll(&mut third), poll(&mut third)], [data("x"), data("y")]);
    assert_eq!(counts[1].woken(), 2);
    assert_eq!(poll(&mut second), data("y"));
}

/// RE-10: the reader that outgrows the cap goes on alone, from where it is, and the owner hears of it.
#[test]
fn re_10_beyond_the_cap_the_furthest_goes_on_alone() {
    for (cap, alone) in [(6, false), (5, true), (0, true)] {
        let source = Source::of(["one", "two"]);
        let tee = Tee::new(source.clone(), cap);
        let (mut first, mut second) = (tee.reader(), tee.reader());
        let (owner, behind) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let waker = Waker::from(Arc::clone(&owner));
        assert!(tee.poll_outgrown(&mut Context::from_waker(&waker)).is_pending());
        if cap > 0 {
            assert_eq!(poll(&mut second), data("one"));
        }
        assert_eq!([poll(&mut first), poll(&mut first)], [data("one"), data("two")]);
        assert_eq!(tee.outgrown(), alone.then_some(first.id()), "{cap}");
        assert_eq!(owner.woken(), usize::from(alone), "{cap}");
        assert_eq!(tee.is_whole(), !alone, "{cap}");
        assert_eq!(poll_as(&mut second, &behind), if alone { Got::GivenUp } else { data("two") }, "{cap}");
        assert!(!second.is_end_stream());
        source.give(Step::Data("three".into()));
        drop(source.end());
        assert_eq!([poll(&mut first), poll(&mut first)], [data("three"), Got::End], "{cap}");
    }
}

#[test]
fn a_reader_that_waits_hears_that_it_is_given_up() {
    type End = fn(Tee<Source>, u32, u32);
    let by: [(&str, End); 3] = [
        ("commit", |tee, _, other| tee.commit(other)),
        ("give up", |tee, own, _| {
            tee.give_up(own);
            // The tee must outlive this, or it is its end that tells.
            mem::forget(tee);
        }),
        ("drop", |tee, _, _| drop(tee)),
    ];
    for (what, end) in by {
        let tee = Tee::new(Source::default(), 100);
        let (mut reader, mut other) = (tee.reader(), tee.reader());
        let count = Arc::new(Count::default());
        assert_eq!(poll_as(&mut reader, &count), Got::Pending);
        end(tee, reader.id(), other.id());
        assert_eq!(count.woken(), 1, "{what}");
        assert_eq!(poll(&mut reader), Got::GivenUp, "{what}");
        assert_eq!(poll(&mut other), if what == "drop" { Got::GivenUp } else { Got::Pending }, "{what}");
    }
}

#[test]
fn the_committed_reader_outlives_the_tee_and_frees_what_it_has_read() {
    let source = Source::of(["one", "two", "three"]);
    source.give(Step::Trailers);
    let tee = Tee::new(source.end(), 100);
    let (mut fast, mut slow) = (tee.reader(), tee.reader());
    while poll(&mut fast) != Got::End {}
    assert_eq!(poll(&mut slow), data("one"));
    tee.commit(slow.id());
    tee.commit(fast.id());
    assert_eq!(poll(&mut fast), Got::GivenUp, "the first word counts");
    assert_eq!(poll(&mut tee.reader()), Got::GivenUp);
    drop(tee);
    assert_eq!(slow.size_hint().exact(), Some(8));
    assert_eq!(poll(&mut slow), data("two"));
    assert_eq!(slow.shared.lock().frames.len(), 1);
    assert_eq!([poll(&mut slow), poll(&mut slow), poll(&mut slow)], [data("three"), Got::Trailers, Got::End]);
    assert!(slow.is_end_stream());
}

#[test]
fn an_error_of_the_body_is_told_to_all() {
    let source = Source::of(["one"]);
    source.give(Step::Error);
    let tee = Tee::new(source, 100);
    let (mut first, mut second) = (tee.reader(), tee.reader());
    assert_eq!([poll(&mut first), poll(&mut first)], [data("one"), Got::Body]);
    assert_eq!([poll(&mut second), poll(&mut second)], [data("one"), Got::Failed]);
    assert!(!tee.is_whole());
    assert!(!second.is_end_stream());
}

/// What happens next to a body and its readers.
#[derive(Debug, Clone)]
enum Act {
    /// More of the body comes.
    Give(usize),
    /// One of the readers asks.
    Poll(usize),
    /// One more reader.
    Begin,
    /// One of them is dropped, or given up by the owner.
    Leave(usize, bool),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0usize..8).prop_map(Act::Give),
        8 => (0usize..5).prop_map(Act::Poll),
        1 => Just(Act::Begin),
        1 => (0usize..5, any::<bool>()).prop_map(|(index, dropped)| Act::Leave(index, dropped)),
    ]
}

/// A reader, what it has read, and who is woken for it.
struct Kept {
    reader: Reader<Source>,
    read: Vec<u8>,
    trailers: bool,
    count: Arc<Count>,
    /// How often it had been woken when it was told to wait.
    waits: Option<usize>,
    over: bool,
}

impl Kept {
    fn new(tee: &Tee<Source>) -> Self {
        let reader = tee.reader();
        Self { reader, read: Vec::new(), trailers: false, count: Arc::default(), waits: None, over: false }
    }

    fn poll(&mut self) -> Got {
        let got = poll_as(&mut self.reader, &self.count);
        self.waits = (got == Got::Pending).then(|| self.count.woken());
        match &got {
            Got::Data(data) => self.read.extend(data),
            Got::Trailers => self.trailers = true,
            Got::End | Got::GivenUp => self.over = true,
            _ => {}
        }
        got
    }
}

proptest! {
    /// RE-10: whatever the order in which the body comes and readers come, ask and go, each that may read on reads the
    /// same bytes, and nobody waits for what is there.
    #[test]
    fn re_10_all_readers_see_the_same_bytes(acts in prop::collection::vec(act(), 1..80), cap in 0usize..120) {
        let source = Source::default();
        let tee = Tee::new(source.clone(), cap);
        let mut readers = vec![Kept::new(&tee)];
        let mut given = Vec::new();
        let mut alone: Option<u32> = None;
        for act in acts.into_iter().map(Some).chain([None]) {
            match act {
                Some(Act::Give(len)) => {
                    let bytes: Bytes = (given.len()..given.len() + len).map(|index| (index % 251) as u8).collect();
                    given.extend(&bytes);
                    source.give(Step::Data(bytes));
                }
                Some(Act::Poll(index)) => {
                    if let Some(kept) = readers.get_mut(index) {
                        kept.poll();
                    }
                }
                Some(Act::Begin) if tee.is_whole() => readers.push(Kept::new(&tee)),
                Some(Act::Begin) => {}
                Some(Act::Leave(index, dropped)) if index < readers.len() && alone.is_none() => {
                    if dropped {
                        readers.remove(index);
                    } else {
                        tee.give_up(readers[index].reader.id());
                        prop_assert_eq!(readers[index].poll(), Got::GivenUp);
                        readers.remove(index);
                    }
                }
                Some(Act::Leave(..)) => {}
                None => {
                    source.give(Step::Trailers);
                    drop(source.clone().end());
                    // Until nobody has anything left to do.
                    for _ in 0..200 {
                        for kept in readers.iter_mut().filter(|kept| !kept.over) {
                            kept.poll();
                        }
                    }
                }
            }
            alone = tee.outgrown();
            let furthest = readers.iter().map(|kept| kept.read.len()).max().unwrap_or_default();
            for kept in &readers {
                prop_assert!(given.starts_with(&kept.read));
                let given_up = alone.is_some_and(|alone| alone != kept.reader.id());
                if let Some(before) = kept.waits {
                    let behind = kept.read.len() < furthest || given_up;
                    prop_assert!(!behind || kept.count.woken() > before, "one waits for what is there");
                }
            }
        }
        let buffered: usize = tee.0.lock().frames.iter().map(Bytes::len).sum();
        prop_assert!(buffered <= cap);
        let whole: HashMap<u32, bool> =
            readers.iter().map(|kept| (kept.reader.id(), kept.read == given && kept.trailers && kept.over)).collect();
        match alone {
            Some(alone) => prop_assert!(whole.get(&alone).is_none_or(|whole| *whole)),
            None => prop_assert!(whole.values().all(|whole| *whole), "{:?}", whole),
        }
    }
}

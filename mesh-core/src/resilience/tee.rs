//! A request body that several attempts read at once.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::{fmt, mem};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// A request body with a buffer that any number of [`Reader`]s read, each from the first byte and at its own pace.
///
/// ```text
///   kept:  [frame][frame][frame]        inner:  ......
///           ^ reader 1    ^ reader 0            ^ whoever is at the end of `kept` reads on here, for all
/// ```
///
/// What is read is kept by reference count up to a cap, so that a slow reader holds up no other one. The reader that
/// takes the body beyond the cap is the furthest: the body is [committed](Self::commit) to it, the others are given up,
/// and nobody can begin any more. So nothing ever waits for a reader that waits for its peer.
///
/// The tee itself belongs to whoever runs the attempts. When it is dropped without having been committed, all readers
/// are given up: an attempt that nobody awaits sends no more.
pub struct Tee<B>(Arc<Shared<B>>);

struct Shared<B> {
    kept: Mutex<Kept<B>>,
    readers: Arc<Readers>,
}

struct Kept<B> {
    inner: B,
    /// Nothing is read from `inner` any more: it ended or failed.
    ended: bool,
    failed: bool,
    frames: VecDeque<Bytes>,
    /// How many frames were let go before those.
    gone: usize,
    trailers: Option<Box<HeaderMap>>,
    /// The bytes of all frames so far.
    bytes: usize,
    max_bytes: usize,
    committed: bool,
    /// The reader that outgrew the cap.
    outgrown: Option<u32>,
    next_id: u32,
}

/// The readers that may read, and who waits for what. Locked after `kept`, and never while anybody is woken.
#[derive(Default)]
struct Readers(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    open: Vec<(u32, Option<Waker>)>,
    /// Who runs the attempts.
    owner: Option<Waker>,
}

impl<B> Tee<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// Keeps up to `max_bytes` bytes of the data of `body`, and its trailers.
    pub fn new(body: B, max_bytes: usize) -> Self {
        let kept = Kept {
            inner: body,
            ended: false,
            failed: false,
            frames: VecDeque::new(),
            gone: 0,
            trailers: None,
            bytes: 0,
            max_bytes,
            committed: false,
            outgrown: None,
            next_id: 0,
        };
        Self(Arc::new(Shared { kept: Mutex::new(kept), readers: Arc::default() }))
    }

    /// One more reader. If the tee [is not whole](Self::is_whole), it reads nothing but [`TeeError::GivenUp`].
    pub fn reader(&self) -> Reader<B> {
        let mut kept = self.0.lock();
        let id = kept.next_id;
        kept.next_id += 1;
        if kept.is_whole() {
            self.0.readers.lock().open.push((id, None));
        }
        drop(kept);
        Reader { shared: Arc::clone(&self.0), id, next: 0, read: 0, trailers_served: false }
    }

    /// Whether a reader can begin from the first byte: the body has neither outgrown the cap nor failed nor been
    /// committed.
    pub fn is_whole(&self) -> bool {
        self.0.lock().is_whole()
    }

    /// Ends the sharing: the reader `id` goes on alone, and what was kept is freed as it is served. The others are given
    /// up. Without effect if the body is committed already.
    pub fn commit(&self, id: u32) {
        let mut kept = self.0.lock();
        if kept.committed {
            return;
        }
        kept.committed = true;
        let wakers = self.0.readers.keep(|open| open == id);
        drop(kept);
        wake(wakers);
    }

    /// Gives the reader `id` up: its attempt has ended. A connection that still reads it gets an error, and is woken
    /// for that.
    pub fn give_up(&self, id: u32) {
        wake(self.0.readers.keep(|open| open != id));
    }

    /// The reader that took the body beyond the cap, once there is one.
    pub fn outgrown(&self) -> Option<u32> {
        self.0.lock().outgrown
    }

    /// Resolves to the reader that took the body beyond the cap.
    pub fn poll_outgrown(&self, cx: &mut Context<'_>) -> Poll<u32> {
        let kept = self.0.lock();
        if let Some(id) = kept.outgrown {
            return Poll::Ready(id);
        }
        let mut waiting = self.0.readers.lock();
        if !waiting.owner.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            waiting.owner = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl<B> Drop for Tee<B> {
    fn drop(&mut self) {
        let kept = self.0.lock();
        let wakers = if kept.committed { Vec::new() } else { self.0.readers.keep(|_| false) };
        drop(kept);
        wake(wakers);
    }
}

impl<B> fmt::Debug for Tee<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.0.lock();
        f.debug_struct("Tee")
            .field("bytes", &kept.bytes)
            .field("max_bytes", &kept.max_bytes)
            .field("committed", &kept.committed)
            .field("ended", &kept.ended)
            .finish_non_exhaustive()
    }
}

impl<B> Shared<B> {
    fn lock(&self) -> MutexGuard<'_, Kept<B>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> Kept<B> {
    fn is_whole(&self) -> bool {
        !self.committed && !self.failed
    }
}

impl Readers {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_open(&self, id: u32) -> bool {
        self.lock().open.iter().any(|(open, _)| *open == id)
    }

    /// Who is to be woken when there is more.
    fn wait(&self, id: u32, waker: Option<&Waker>) {
        if let Some((_, slot)) = self.lock().open.iter_mut().find(|(open, _)| *open == id) {
            *slot = waker.cloned();
        }
    }

    /// Closes the readers that are not to stay, and returns who is to hear of it.
    fn keep(&self, stays: impl Fn(u32) -> bool) -> Vec<Waker> {
        let mut waiting = self.lock();
        let leaving = waiting.open.iter_mut().filter(|(id, _)| !stays(*id)).filter_map(|(_, waker)| waker.take());
        let wakers = leaving.collect();
        waiting.open.retain(|(id, _)| stays(*id));
        wakers
    }

    /// Everybody who waits for more.
    fn take(&self) -> Vec<Waker> {
        self.lock().open.iter_mut().filter_map(|(_, waker)| waker.take()).collect()
    }
}

/// The body itself wakes all readers: the one that polled it last may be given up by then.
impl Wake for Readers {
    fn wake(self: Arc<Self>) {
        wake(self.take());
    }
}

fn wake(wakers: Vec<Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

/// What one attempt reads of a [`Tee`]: the whole body, or [`TeeError::GivenUp`].
pub struct Reader<B> {
    shared: Arc<Shared<B>>,
    id: u32,
    /// The frame that is read next, counted from the first of the body.
    next: usize,
    /// The bytes of the frames before it.
    read: usize,
    trailers_served: bool,
}

/// Why a [`Reader`] reads no more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TeeError<E> {
    /// The body failed, in the hands of this reader.
    #[error(transparent)]
    Body(E),
    /// The body failed in the hands of another reader, which has the error.
    #[error("the request body failed in another attempt")]
    Failed,
    /// Another attempt was preferred to this one, or the request was given up.
    #[error("the attempt was given up")]
    GivenUp,
}

impl<B> Reader<B> {
    /// Its number, unique within its tee.
    pub fn id(&self) -> u32 {
        self.id
    }

    fn next_kept(&mut self, kept: &mut Kept<B>) -> Option<Frame<Bytes>> {
        let frame = if kept.committed {
            kept.let_go(self.next);
            let frame = kept.frames.pop_front();
            kept.gone += usize::from(frame.is_some());
            frame
        } else {
            kept.frames.get(self.next - kept.gone).cloned()
        };
        if let Some(data) = frame {
            self.next += 1;
            self.read += data.len();
            return Some(Frame::data(data));
        }
        if self.trailers_served {
            return None;
        }
        let trailers = if kept.committed { kept.trailers.take() } else { kept.trailers.clone() }?;
        self.trailers_served = true;
        Some(Frame::trailers(*trailers))
    }
}

impl<B> Kept<B> {
    /// Lets go of the frames before `next`.
    fn let_go(&mut self, next: usize) {
        let count = (next - self.gone).min(self.frames.len());
        self.frames.drain(..count);
        self.gone = next;
    }
}

impl<B> Reader<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// Reads on for all readers; returns who is to hear of it.
    fn poll_inner(&mut self, kept: &mut Kept<B>, cx: &mut Context<'_>, woken: &mut Vec<Waker>) -> Polled<B> {
        let readers = &self.shared.readers;
        // Before the body is asked: what happens from here on wakes this one too.
        readers.wait(self.id, Some(cx.waker()));
        let waker = Waker::from(Arc::clone(readers));
        let polled = Pin::new(&mut kept.inner).poll_frame(&mut Context::from_waker(&waker));
        let Poll::Ready(polled) = polled else { return Poll::Pending };
        readers.wait(self.id, None);
        match &polled {
            None => kept.ended = true,
            Some(Err(_)) => (kept.ended, kept.failed) = (true, true),
            Some(Ok(frame)) => match (frame.data_ref(), frame.trailers_ref()) {
                // Nothing of the body is in an empty frame, and there may be any number of them.
                (Some(data), _) if data.is_empty() => return Poll::Ready(Some(Ok(Frame::data(Bytes::new())))),
                (Some(data), _) => {
                    self.next += 1;
                    self.read += data.len();
                    let fits = data.len() <= kept.max_bytes.saturating_sub(kept.bytes);
                    kept.bytes += data.len();
                    if kept.committed || !fits {
                        *woken = self.outgrow(kept);
                        kept.gone = self.next;
                    } else {
                        kept.frames.push_back(data.clone());
                    }
                }
                (None, Some(trailers)) => {
                    kept.ended = true;
                    self.trailers_served = true;
                    if !kept.committed {
                        kept.trailers = Some(Box::new(trailers.clone()));
                    }
                }
                // A kind of frame that does not exist yet cannot be cloned.
                (None, None) => *woken = self.outgrow(kept),
            },
        }
        woken.append(&mut readers.take());
        Poll::Ready(polled.map(|frame| frame.map_err(TeeError::Body)))
    }

    /// Goes on alone, if it does not do so already.
    fn outgrow(&self, kept: &mut Kept<B>) -> Vec<Waker> {
        if mem::replace(&mut kept.committed, true) {
            return Vec::new();
        }
        kept.outgrown = Some(self.id);
        kept.frames.clear();
        let mut wakers = self.shared.readers.keep(|open| open == self.id);
        wakers.extend(self.shared.readers.lock().owner.take());
        wakers
    }
}

type Polled<B> = Poll<Option<Result<Frame<Bytes>, TeeError<<B as Body>::Error>>>>;

impl<B> Body for Reader<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = TeeError<B::Error>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled<B> {
        let this = self.get_mut();
        let shared = Arc::clone(&this.shared);
        let mut kept = shared.lock();
        if !shared.readers.is_open(this.id) {
            return Poll::Ready(Some(Err(TeeError::GivenUp)));
        }
        if let Some(frame) = this.next_kept(&mut kept) {
            return Poll::Ready(Some(Ok(frame)));
        }
        if kept.failed {
            return Poll::Ready(Some(Err(TeeError::Failed)));
        }
        if kept.ended {
            return Poll::Ready(None);
        }
        let mut woken = Vec::new();
        let polled = this.poll_inner(&mut kept, cx, &mut woken);
        drop(kept);
        wake(woken);
        polled
    }

    fn is_end_stream(&self) -> bool {
        let kept = self.shared.lock();
        let served = self.next >= kept.gone + kept.frames.len() && (kept.trailers.is_none() || self.trailers_served);
        // Who is given up is to hear of it.
        served && !kept.failed && (kept.ended || kept.inner.is_end_stream()) && self.shared.readers.is_open(self.id)
    }

    fn size_hint(&self) -> SizeHint {
        let kept = self.shared.lock();
        let rest = if kept.ended { SizeHint::with_exact(0) } else { kept.inner.size_hint() };
        let ahead = kept.bytes.saturating_sub(self.read) as u64;
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(ahead));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(ahead)) {
            hint.set_upper(upper);
        }
        hint
    }
}

impl<B> Drop for Reader<B> {
    fn drop(&mut self) {
        // Nobody is woken: who waited was the one that is dropped.
        drop(self.shared.readers.keep(|open| open != self.id));
    }
}

impl<B> fmt::Debug for Reader<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("id", &self.id).field("read", &self.read).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

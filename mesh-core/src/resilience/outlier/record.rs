use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// How an endpoint stands.
///
/// ```text
///             detection                 time is up
///   Active ──────────────> Ejected ──────────────────> Active        (recovery by time)
///     ^                      ^   └───────> HalfOpen                  (recovery by probe)
///     │                      │               │  ^
///     │                      │  one request  v  │ no verdict
///     └──────── success ─────┴─ failure ── Probing
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It gets requests.
    Active,
    /// It is taken out.
    Ejected,
    /// Its time is up; the one request that [`Record::try_probe`] lets through decides.
    HalfOpen,
    /// That request is under way.
    Probing,
}

impl Standing {
    /// A stable word, such as `ejected`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Ejected => "ejected",
            Self::HalfOpen => "half_open",
            Self::Probing => "probing",
        }
    }
}

/// What outlier detection knows of one endpoint: 32 bytes, atomics only. Survives updates of the configuration.
///
/// Its [`Detector`](super::Detector) changes it; a balancer reads [`standing`](Self::standing), one load, and claims a
/// probe by [`try_probe`](Self::try_probe).
#[derive(Debug, Default)]
pub struct Record {
    /// A [`Word`]. Whatever ejects or brings back changes it by one compare-and-swap, which settles who did it.
    word: AtomicU64,
    pub(super) consecutive: Consecutive,
    pub(super) counts: Counts,
}

/// Failures in a row.
#[derive(Debug, Default)]
pub(super) struct Consecutive {
    pub(super) server_errors: AtomicU32,
    pub(super) gateway_errors: AtomicU32,
    pub(super) no_answers: AtomicU32,
}

/// The outcomes of the interval under way.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) successes: AtomicU32,
    pub(super) server_errors: AtomicU32,
    pub(super) no_answers: AtomicU32,
}

impl Record {
    /// An endpoint of which nothing is known: active.
    pub fn new() -> Self {
        Self::default()
    }

    /// How it stands. An endpoint that left its backend counts as active.
    pub fn standing(&self) -> Standing {
        match Word::unpack(self.word.load(Ordering::Acquire)).state {
            State::In | State::Left => Standing::Active,
            State::Ejected => Standing::Ejected,
            State::HalfOpen => Standing::HalfOpen,
            State::Probing => Standing::Probing,
        }
    }

    /// Claims the one request that decides whether it is back. Whoever gets `true` owes it a verdict
    /// ([`Detector::conclude_probe`](super::Detector::conclude_probe)) or [`release_probe`](Self::release_probe).
    pub fn try_probe(&self) -> bool {
        self.change(|word| (word.state == State::HalfOpen).then_some(Word { state: State::Probing, until: 0, ..word }))
            .is_some()
    }

    /// The probe ended without a verdict: it was cancelled, or never left the client. Another one may be claimed.
    pub fn release_probe(&self) {
        self.change(|word| (word.state == State::Probing).then_some(Word { state: State::HalfOpen, ..word }));
    }

    /// Ejections that its next one is lengthened by.
    pub fn multiplier(&self) -> u32 {
        self.word().multiplier
    }

    pub(super) fn word(&self) -> Word {
        Word::unpack(self.word.load(Ordering::Acquire))
    }

    /// Replaces the word by what `change` makes of it, and returns the one before; `None` if `change` declines.
    pub(super) fn change(&self, mut change: impl FnMut(Word) -> Option<Word>) -> Option<Word> {
        let change = |bits| change(Word::unpack(bits)).map(Word::pack);
        self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, change).ok().map(Word::unpack)
    }

    /// Begins to count anew.
    pub(super) fn clear(&self) {
        self.consecutive.clear();
        self.counts.take();
    }
}

impl Consecutive {
    pub(super) fn clear(&self) {
        for count in [&self.server_errors, &self.gateway_errors, &self.no_answers] {
            interrupt(count);
        }
    }
}

/// Ends a row of failures. Nothing is written where there is none, so that the successes of many threads share the line.
pub(super) fn interrupt(count: &AtomicU32) {
    if count.load(Ordering::Relaxed) != 0 {
        count.store(0, Ordering::Relaxed);
    }
}

/// What was counted in one interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) successes: u32,
    pub(super) server_errors: u32,
    pub(super) no_answers: u32,
}

impl Counts {
    /// What was counted so far. Each outcome is in exactly one such tally, whenever it comes.
    pub(super) fn take(&self) -> Tally {
        let take = |count: &AtomicU32| match count.load(Ordering::Relaxed) {
            0 => 0,
            _ => count.swap(0, Ordering::Relaxed),
        };
        Tally {
            successes: take(&self.successes),
            server_errors: take(&self.server_errors),
            no_answers: take(&self.no_answers),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    In,
    Ejected,
    HalfOpen,
    Probing,
    /// The endpoint is no longer of the backend, and nothing ejects it any more.
    Left,
}

impl State {
    /// Whether it takes one of the places of ejected endpoints.
    pub(super) fn is_out(self) -> bool {
        matches!(self, Self::Ejected | Self::HalfOpen | Self::Probing)
    }
}

/// What changes as one: 3 bits of state, 13 of multiplier, 48 of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) state: State,
    pub(super) multiplier: u32,
    /// When the ejection is over, in milliseconds since the detector's epoch.
    pub(super) until: u64,
}

impl Word {
    pub(super) const MAX_MULTIPLIER: u32 = (1 << 13) - 1;
    const MAX_UNTIL: u64 = (1 << 48) - 1;

    pub(super) const IN: Self = Self { state: State::In, multiplier: 0, until: 0 };
    pub(super) const LEFT: Self = Self { state: State::Left, multiplier: 0, until: 0 };

    fn pack(self) -> u64 {
        let state = match self.state {
            State::In => 0,
            State::Ejected => 1,
            State::HalfOpen => 2,
            State::Probing => 3,
            State::Left => 4,
        };
        state | u64::from(self.multiplier.min(Self::MAX_MULTIPLIER)) << 3 | self.until.min(Self::MAX_UNTIL) << 16
    }

    fn unpack(bits: u64) -> Self {
        let state = match bits & 0b111 {
            0 => State::In,
            1 => State::Ejected,
            2 => State::HalfOpen,
            3 => State::Probing,
            _ => State::Left,
        };
        // 13 bits fit.
        Self { state, multiplier: (bits >> 3) as u32 & Self::MAX_MULTIPLIER, until: bits >> 16 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_holds_its_parts() {
        let states = [State::In, State::Ejected, State::HalfOpen, State::Probing, State::Left];
        for state in states {
            for (multiplier, until) in [(0, 0), (1, 1), (Word::MAX_MULTIPLIER, Word::MAX_UNTIL), (4, 120_000)] {
                let word = Word { state, multiplier, until };
                assert_eq!(Word::unpack(word.pack()), word);
            }
            let beyond = Word { state, multiplier: u32::MAX, until: u64::MAX };
            let most = Word { state, multiplier: Word::MAX_MULTIPLIER, until: Word::MAX_UNTIL };
            assert_eq!(Word::unpack(beyond.pack()), most);
        }
        assert_eq!(Word::IN.pack(), 0, "what a new record holds");
    }

    #[cfg(not(loom))]
    #[test]
    fn a_record_is_small() {
        assert_eq!(size_of::<Record>(), 32);
    }
}

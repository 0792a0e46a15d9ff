//! The atomics of what has a model: loom's in the tests that `.ci/run loom` runs, std's everywhere else.

#[cfg(all(loom, test))]
pub(crate) use loom::sync::atomic;
#[cfg(not(all(loom, test)))]
pub(crate) use std::sync::atomic;

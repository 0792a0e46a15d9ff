//! Connections under a hostile peer: how they are made, shared, lost, given up and replaced.
//!
//! Real sockets run on the wall clock and nothing here sleeps for what it can await; a paused clock is used over
//! in-memory streams only. Every test ends in [`support::finish`], which asserts that no task is left (RL-12).

#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]

mod backoff;
mod cancel;
mod file;
mod flood;
mod goaway;
mod keepalive;
mod life;
mod limits;
mod phases;
mod pick_first;
mod shutdown;
mod support;
mod update;
mod wan;
mod weights;

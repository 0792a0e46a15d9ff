//! Hedging as callers, servers and observers see it (RE-10, gRFC A6).
//!
//! Over connections in memory and with paused time: what is asserted about time is exact.

#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]

mod bodies;
mod bounds;
mod ends;
mod race;
mod support;
mod told;

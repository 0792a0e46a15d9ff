//! What a server does with each request before and behind its handler, by Tower alone: no connection, paused time.
#![allow(clippy::unwrap_used, reason = "tests")]

mod bodies;
mod claims;
mod deadlines;
mod frameworks;
mod heads;
mod panics;
mod propagation;
mod support;

//! Servers: who gets in, within which limits, and how they end.
#![allow(clippy::unwrap_used, reason = "tests")]

mod drain;
mod ends;
mod floods;
mod heads;
mod hosts;
mod leaving;
mod mutual;
#[cfg(unix)]
mod rotation;
mod slow;
mod stalled;
mod support;
mod tls;
mod trust;
mod vanished;

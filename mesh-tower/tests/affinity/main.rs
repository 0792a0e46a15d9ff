//! Requests that belong together find the same endpoint: by a hash, or by a session.

#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]

mod hash;
mod session;
mod support;

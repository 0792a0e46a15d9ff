//! Mutual TLS towards backends.

#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]
#![allow(unreachable_pub, reason = "modules of one test binary")]

#[path = "../http_support/mod.rs"]
mod http_support;

mod auto;
mod connector;
mod late;
mod offers;
mod peers;
mod refused;
mod rotation;
mod sniffed;
mod support;

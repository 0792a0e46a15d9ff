//! Servers of others on connections that the mesh let in.
#![allow(clippy::unwrap_used, reason = "tests")]

mod acceptor;
mod axum_serve;
mod support;

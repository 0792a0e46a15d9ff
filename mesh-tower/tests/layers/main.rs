//! The separate Tower layers: their laws (RL-13), and what each does.

#![allow(clippy::unwrap_used, reason = "a helper's panic is the failure of its test")]

mod admission;
mod circuit_breaker;
mod deadline;
mod errors;
mod laws;
mod outlier;
mod retry;
mod route;
mod split;
mod support;
mod timeout;

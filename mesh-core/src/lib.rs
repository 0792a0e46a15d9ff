//! The decisions of an embeddable service mesh.
//!
//! This crate knows what a request should do: which virtual host and route it matches, which backend and endpoint
//! serve it, whether a failure is worth another attempt and when. It opens no socket, spawns no task and reads no
//! clock: instants, randomness and hashes come in as arguments, so every decision can be tested by a table.
//! `mesh-tower` moves the bytes.
//!
//! The way of a configuration through the crate:
//!
//! ```text
//! file ─ config::parse ─┐
//! (xDS, DNS, your own)  ├─> model::Config ─ snapshot::Compiler ─> snapshot::Snapshot ─> read once per request
//! ```
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod balance;
mod base64;
pub mod classify;
pub mod config;
pub mod error;
pub mod grpc;
pub mod identity;
pub mod inbound;
mod json;
pub mod matching;
pub mod model;
pub mod observe;
pub mod resilience;
pub mod snapshot;
mod sync;

/// The version of `rand` whose [`Rng`](rand::Rng) a [`Balance`](balance::Balance) policy is given.
pub use rand;

/// Compiles the code of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;

//! What the benchmarks share: the clients under test, the server they all call, and how a run is measured.
//!
//! The client runs in the benchmark's own process and is alone there, so that what the process spends is what the
//! client costs. The server ([`server`]) is a process of its own, and so are the servers under test ([`subject`]).

pub mod args;
pub mod client;
pub mod contender;
pub mod credentials;
pub mod measure;
pub mod micro;
pub mod model;
pub mod open_loop;
pub mod plot;
pub mod process;
pub mod report;
pub mod server;
pub mod subject;
pub mod telemetry;
pub mod update;

/// Anything that ends a benchmark.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// What fallible functions here return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

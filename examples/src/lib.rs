//! What the examples and the benchmarks share.

/// The service that they call: `greeter.v1.Greeter`, client and server, generated from `proto/greeter.proto`.
pub mod greeter {
    tonic::include_proto!("greeter.v1");
}

/// Compiles the code of the README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct ReadmeDoctests;

//! Foreign software for the interop tests to talk to: started on loopback ports that the kernel chose, ended when
//! dropped.
//!
//! It lives here, behind the feature `interop`, because this package is never published and stands above all crates of
//! the workspace: users of those see neither the feature nor what it depends on, and one rig serves the tests of all.
//!
//! A peer is a program that an environment variable names; `.ci/interop` gets the programs and sets the variables. This
//! is support for tests: what goes wrong is a panic that says what it was, and never a test that passes without its
//! peer.

mod client;
mod collector;
mod envoy;
mod grpc_go;
mod h2spec;
mod load;
mod otlp;
mod page;
mod process;
mod prometheus;
mod run;
mod spire;
mod tools;

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{sleep, timeout};

pub use client::{get, post};
pub use collector::Collector;
pub use envoy::Envoy;
pub use grpc_go::{GRPC_CASES, GrpcGo, grpc_go_calls, grpc_go_case};
pub use h2spec::{Outcome, Outcomes, h2spec};
pub use load::{Load, h2load, wrk};
pub use otlp::{Attributes, Event, Metric, Point, Span};
pub use page::Page;
pub use process::Process;
pub use prometheus::{Prometheus, Sample, promtool_check};
pub use run::Ran;
use run::run;
pub use spire::{Spire, Svid};
pub use tools::{Fetched, Files, Handshake, curl, s_client};

/// How long a peer may take for what is expected of it. Generous: only a test that fails waits for so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// The path of the program that the environment variable `variable` names.
///
/// # Panics
/// If the variable is not set.
pub fn program(variable: &str) -> PathBuf {
    match std::env::var_os(variable) {
        Some(path) if !path.is_empty() => path.into(),
        _ => panic!("{variable} is not set: run `.ci/interop`, which gets the program, or set it to the path of one"),
    }
}

/// Asks a peer that tells nothing by itself, again and again, until it gives the answer.
///
/// # Panics
/// If it has not done so in time, with the reason that `ask` gave last.
async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, String>) -> T {
    let mut reason = "it has not answered".to_owned();
    let answer = timeout(PATIENCE, async {
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(not_yet) => reason = not_yet,
            }
            sleep(Duration::from_millis(20)).await;
        }
    });
    match answer.await {
        Ok(answer) => answer,
        Err(_) => panic!("no {what} within {PATIENCE:?}: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{program, until};

    #[test]
    #[should_panic(expected = "MESH_PEER_NOBODY is not set: run `.ci/interop`")]
    fn a_missing_variable_is_a_failure() {
        program("MESH_PEER_NOBODY");
    }
    #[tokio::test(start_paused = true)]
    async fn what_comes_late_is_waited_for() {
        let mut asked = 0;
        let answer = until("answer", async || {
            asked += 1;
            if asked == 3 { Ok("yes") } else { Err("not yet".to_owned()) }
        });
        assert_eq!(answer.await, "yes");
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "no answer within 60s: the third is missing")]
    async fn what_never_comes_is_given_up_with_the_reason() {
        until("answer", async || Err::<(), _>("the third is missing".to_owned())).await;
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "no answer within 60s: it has not answered")]
    async fn a_peer_that_hangs_is_given_up() {
        until("answer", std::future::pending::<Result<(), String>>).await;
    }
}

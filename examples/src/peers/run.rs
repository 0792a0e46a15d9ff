//! A foreign program that ends by itself.

use std::ffi::OsStr;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

use super::program;

/// How a program ended, and what it said.
#[derive(Debug, Clone)]
pub struct Ran {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Its standard output. What is not UTF-8 in it is replaced, here and below.
    pub output: String,
    /// Its standard error.
    pub errors: String,
}

impl Ran {
    /// All that it said, for messages.
    pub fn said(&self) -> String {
        format!("{}{}", self.output, self.errors)
    }
}

/// Runs the program that the environment variable `variable` names, with `input`, and waits until it ends.
///
/// # Panics
/// If the variable is not set, the program does not start, or it has not ended after `patience`.
pub(super) async fn run<I: AsRef<OsStr>>(
    variable: &str,
    arguments: impl IntoIterator<Item = I>,
    input: &[u8],
    patience: Duration,
) -> Ran {
    let path = program(variable);
    let mut command = Command::new(&path);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut stdin = child.stdin.take().expect("it was asked for");
    let ran = timeout(patience, async {
        let feed = async {
            // It may end, or close it, before it has read all: how it ended tells more.
            let _ = stdin.write_all(input).await;
            drop(stdin);
        };
        tokio::join!(feed, child.wait_with_output()).1
    });
    match ran.await {
        Ok(Ok(ran)) => Ran {
            code: ran.status.code(),
            output: String::from_utf8_lossy(&ran.stdout).into_owned(),
            errors: String::from_utf8_lossy(&ran.stderr).into_owned(),
        },
        Ok(Err(error)) => panic!("{}: {error}", path.display()),
        Err(_) => panic!("{} has not ended within {patience:?}", path.display()),
    }
}

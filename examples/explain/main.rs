//! What would the mesh do with a request? Asks a configuration file, and sends nothing.
//!
//! ```sh
//! echo '{"method": "GET", "authority": "greeter", "path": "/"}' |
//!     cargo run --example explain -- --config examples/quickstart/mesh.yaml
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is a program")]

mod answer;

use std::ffi::OsString;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use mesh_tonic::core::config::MAX_BYTES;
use mesh_tonic::core::snapshot::Snapshot;

const USAGE: &str = "\
usage: explain --config FILE < REQUESTS

Tells for each request what the mesh would do with it. Requests are lines of JSON:
  {\"method\": \"GET\", \"authority\": \"greeter\", \"path\": \"/\", \"headers\": [[\"x-canary\", \"true\"]], \"draw\": 0}
Only `authority` must be given. `headers` may be a map, too. `draw`, 0 to 999999, decides what is left to chance: a
fraction of P percent matches draws below P * 10000. Balancers that only the program knows are taken for granted.

Answers are lines of JSON too: the route and why it matches, its policies, and its backends, each with its balancer and
with what is in force for it: localities, limits, outlier detection and so on.

exit code: 0, 1 if the file or one of the lines was bad, 2 if the arguments were";

fn main() -> ExitCode {
    let path = match arguments(std::env::args_os().skip(1)) {
        Ok(Some(path)) => path,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprintln!("{problem}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let snapshot = match compile(&path) {
        Ok(snapshot) => snapshot,
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::FAILURE;
        }
    };
    match answer::all(&snapshot, BufReader::new(io::stdin()), io::stdout().lock()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        // Whoever read the answers has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The configuration's path, or `None` if help is wanted.
fn arguments(words: impl IntoIterator<Item = OsString>) -> Result<Option<PathBuf>, String> {
    let mut words = words.into_iter();
    let mut path = None;
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("--help" | "-h") => return Ok(None),
            Some("--config") => {
                let value = words.next().ok_or("--config needs a file")?;
                if path.replace(PathBuf::from(value)).is_some() {
                    return Err("--config is given twice".to_owned());
                }
            }
            _ => match word.to_str().and_then(|word| word.strip_prefix("--config=")) {
                Some(value) if !value.is_empty() && path.is_none() => path = Some(value.into()),
                _ => return Err(format!("unknown argument {word:?}")),
            },
        }
    }
    path.map(Some).ok_or_else(|| "--config is missing".to_owned())
}

/// The snapshot of the file, or all that is wrong with it.
fn compile(path: &Path) -> Result<Arc<Snapshot<()>>, String> {
    let name = path.display().to_string();
    let text = examples::read_at_most(path, MAX_BYTES).map_err(|error| format!("{name}: {error}"))?;
    answer::compile(&text, &name, path.parent().unwrap_or(Path::new("")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<PathBuf>, String> {
        arguments(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn reads_its_arguments() {
        assert_eq!(parse("--config mesh.yaml"), Ok(Some("mesh.yaml".into())));
        assert_eq!(parse("--config=mesh.yaml"), Ok(Some("mesh.yaml".into())));
        assert_eq!(parse("--help"), Ok(None));
    }

    #[test]
    fn refuses_what_it_does_not_understand() {
        for line in ["", "--config", "--config=", "mesh.yaml", "--config a --config b", "--config a --json"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}

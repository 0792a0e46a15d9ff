//! Is this configuration right, and what does it mean? Asks a file, by the rules that hold at run time.
//!
//! ```sh
//! cargo run --example check -- examples/quickstart/mesh.yaml
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is a program")]

mod report;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mesh_tonic::core::config::{File, MAX_BYTES, Reader};

use report::Report;

const USAGE: &str = "\
usage: check [--json] [--strict] [--env] FILE

Prints the configuration of FILE as it would be in force, with all defaults and with the origin of each value, and then
what is legal and probably wrong; or everything that is wrong. Files that it names, such as certificates, are not read. What a
match compares with a credential, such as the header `authorization`, is shown as <redacted>.

  --json    print one object of JSON instead:
              file      the name of the file
              valid     whether it can be in force
              problems  what is wrong: a list of { origin, path, value, message, help }
              omitted   how many problems were found beyond those
              warnings  what is probably wrong: a list of { code, origin, path, message, help }
              settings  what is in force: a list of { path, value, origin }
            origin is { kind: default | file | environment | builder, name, line, column } as far as there are such
  --strict  let a warning count as a problem
  --env     let the environment have a say, as Mesh::from_env() does

exit code: 0, 1 if there are problems, 2 if the arguments are wrong or the file cannot be read";

#[derive(Debug, Default, PartialEq)]
struct Args {
    json: bool,
    strict: bool,
    env: bool,
    file: PathBuf,
}

fn main() -> ExitCode {
    let args = match arguments(std::env::args_os().skip(1)) {
        Ok(Some(args)) => args,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprintln!("{problem}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let text = match examples::read_at_most(&args.file, MAX_BYTES) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("{}: {error}", args.file.display());
            return ExitCode::from(2);
        }
    };
    let mut reader = Reader::new();
    if args.env {
        reader = reader.with_environment(std::env::vars_os());
    }
    let report = check(&reader, &text, &args.file);
    let text = if args.json { format!("{:#}\n", report.json()) } else { report.to_string() };
    // Whoever reads only the beginning has seen enough.
    if let Err(error) = io::stdout().write_all(text.as_bytes())
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        eprintln!("{error}");
        return ExitCode::from(2);
    }
    if report.is_good(args.strict) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn check(reader: &Reader, text: &[u8], path: &Path) -> Report {
    let name = path.display().to_string();
    let directory = path.parent().unwrap_or(Path::new(""));
    let result = reader.read(Some(File { text, name: &name, directory }));
    Report { name, result }
}

/// `None` if help is wanted.
fn arguments(words: impl IntoIterator<Item = OsString>) -> Result<Option<Args>, String> {
    let mut args = Args::default();
    let mut file = None;
    for word in words {
        match word.to_str() {
            Some("--help" | "-h") => return Ok(None),
            Some("--json") => args.json = true,
            Some("--strict") => args.strict = true,
            Some("--env") => args.env = true,
            Some(word) if word.starts_with('-') => return Err(format!("unknown argument {word:?}")),
            _ if file.is_none() && !word.is_empty() => file = Some(PathBuf::from(word)),
            _ => return Err(format!("one file at a time: {word:?} is one more")),
        }
    }
    args.file = file.ok_or("FILE is missing")?;
    Ok(Some(args))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Args>, String> {
        arguments(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn reads_its_arguments() {
        let file = PathBuf::from("mesh.yaml");
        assert_eq!(parse("mesh.yaml"), Ok(Some(Args { file: file.clone(), ..Args::default() })));
        let all = Args { json: true, strict: true, env: true, file };
        assert_eq!(parse("--json --env mesh.yaml --strict"), Ok(Some(all)));
        assert_eq!(parse("--json -h"), Ok(None));
    }

    #[test]
    fn refuses_what_it_does_not_understand() {
        for line in ["", "--json", "a.yaml b.yaml", "--verbose a.yaml", "-"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
